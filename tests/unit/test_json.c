// SPDX-License-Identifier: Apache-2.0
#include "base/json.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/json_scan.h"

// The text in a block of exactly its size, so that a sanitizer sees a read behind it.
static struct str exact(struct str s)
{
  char *p = malloc(s.n ? s.n : 1);
  assert_non_null(p);
  if (s.n)
    memcpy(p, s.p, s.n);
  return (struct str){p, s.n};
}

static bool valid_at(struct str text, int max_depth)
{
  struct str copy = exact(text);
  struct err e;
  bool ok = json_check(copy, max_depth, "", NULL, &e);
  free((void *)(uintptr_t)copy.p);
  return ok;
}

static bool valid(const char *text)
{
  return valid_at(str_c(text), JSON_DEPTH);
}

static void takes_what_is_json(void **state)
{
  (void)state;
  static const char *const good[] = {
      "null",
      "true",
      "false",
      "0",
      "-0",
      "12.50",
      "1e5",
      "1E+5",
      "-1.5e-10",
      "\"\"",
      "\"a\\u00e9\"",
      "\"\\\"\\/\"",
      "[]",
      "{}",
      " [ ] ",
      "\t\r\n{ } ",
      "[1,2 , 3]",
      "[[],{}]",
      "{\"a\":1}",
      "{\"a\":{\"b\":[1,{}]},\"c\":\"\"}",
      "{\"a\":1,\"a\":2}",
      "\"\x7f\"",
      "\"\xc3\xa9\"",
      "\"\xf4\x8f\xbf\xbf\"",
      "\"\\ud800\"", // grammar has nothing against it; json_unescape does
      "123456789012345678901234567890",
      "1e999999999999999999999",
  };
  for (size_t i = 0; i < sizeof good / sizeof *good; i++)
    if (!valid(good[i]))
      fail_msg("refused: %s", good[i]);
}

static void refuses_what_is_not(void **state)
{
  (void)state;
  static const char *const bad[] = {
      "",
      " ",
      "nul",
      "nulL",
      "truefalse",
      "+1",
      "01",
      "-",
      "1.",
      ".5",
      "1e",
      "1e+",
      "0x1",
      "NaN",
      "Infinity",
      "-Infinity",
      "\"",
      "\"\\x\"",
      "\"\\u12\"",
      "\"\\u12g4\"",
      "\"\\",
      "\"a\nb\"",
      "\"\t\"",
      "[",
      "]",
      "[1",
      "[1,",
      "[1,]",
      "[,1]",
      "[1 2]",
      "{",
      "}",
      "{\"a\"}",
      "{\"a\":}",
      "{\"a\":1,}",
      "{a:1}",
      "{1:2}",
      "{\"a\" 1}",
      "{\"a\":1 \"b\":2}",
      "[1}",
      "{\"a\":1]",
      "1 2",
      "[] x",
      "'a'",
      "\"\xff\"",
      "\"\xc0\xaf\"",
      "\"\xed\xa0\x80\"",
      "\"\xf4\x90\x80\x80\"",
      "\"\xc3\"",
      "\xef\xbb\xbf{}",
      "// x\n1",
      "[1,,2]",
      "\"\xe2\x82",
      "{\"a\":1,,}",
      "\f1",
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    if (valid(bad[i]))
      fail_msg("taken: %s", bad[i]);
  assert_false(valid_at(STR("\"a\0b\""), JSON_DEPTH));
  assert_false(valid_at(STR("1\0"), JSON_DEPTH));
}

// Every part of a text that is cut off is refused, and read no further than its end.
static void refuses_cut_text(void **state)
{
  (void)state;
  struct str text = STR("{\"k\\u00e9y\":[1.5e+3,\"\xe6\xbc\xa2\",true,false,null,{\"deep\":[[]]}],\"z\":\"0123456789abcdef0123456789abcdef\"}");
  assert_true(valid_at(text, JSON_DEPTH));
  for (size_t n = 0; n < text.n; n++)
    assert_false(valid_at((struct str){text.p, n}, JSON_DEPTH));
}

static void depth_has_a_limit(void **state)
{
  (void)state;
  static char text[2 * 5000 + 1];
  for (int depth = 1; depth <= 5000; depth += depth < 1010 ? 1 : 997) {
    for (int i = 0; i < depth; i++) {
      text[i] = '[';
      text[2 * depth - 1 - i] = ']';
    }
    struct str s = {text, (size_t)depth * 2};
    assert_int_equal(valid_at(s, JSON_DEPTH), depth <= JSON_DEPTH);
    assert_int_equal(valid_at(s, 100000), depth <= JSON_DEPTH_MAX);
  }
  struct err e;
  assert_false(json_check(STR("[[[1]]]"), 2, "action", NULL, &e));
  assert_ptr_equal(e.reason, REASON_JSON_TOO_DEEP);
  assert_string_equal(e.msg, "action: the JSON nests deeper than 2 levels, at byte 2");
  assert_true(json_check(STR("[[1],[2],{\"a\":3}]"), 2, "", NULL, &e));
  assert_false(json_check(STR("[1]"), 0, "", NULL, &e));
  assert_true(json_check(STR("1"), 0, "", NULL, &e));
}

static void errors_name_field_and_place(void **state)
{
  (void)state;
  struct err e;
  assert_false(json_check(STR("{\"secret\": x}"), JSON_DEPTH, "action", NULL, &e));
  assert_int_equal(e.code, CODE_INVALID_ARGUMENT);
  assert_ptr_equal(e.reason, REASON_INVALID_REQUEST);
  assert_string_equal(e.field, "action");
  assert_string_equal(e.msg, "action: not valid JSON at byte 11: a value is expected");
  assert_null(strstr(e.msg, "secret"));
  assert_false(json_check(STR("[1] 2"), JSON_DEPTH, NULL, NULL, &e));
  assert_string_equal(e.msg, "not valid JSON at byte 4: nothing may follow the value");
  enum json_type type;
  assert_true(json_check(STR(" {}"), JSON_DEPTH, "", &type, &e));
  assert_int_equal(type, JSON_OBJECT);
}

static void walks_an_object(void **state)
{
  (void)state;
  struct json j;
  struct str key, s;
  bool flag;
  json_init(&j, STR(" { \"a\" : [ 1 , -2.5e3 , [ ] ] , \"b\\u0062\" : true, \"c\": null,\"d\":{\"e\": [{}]}, \"f\":\"x\\ny\" } "), 10);
  assert_true(json_enter_object(&j));
  assert_true(json_next_key(&j, &key));
  assert_true(str_eq(key, STR("a")));
  assert_true(json_enter_array(&j));
  assert_true(json_next_item(&j));
  assert_true(json_number(&j, &s));
  assert_true(str_eq(s, STR("1")));
  assert_true(json_next_item(&j));
  assert_true(json_number(&j, &s));
  assert_true(str_eq(s, STR("-2.5e3")));
  assert_true(json_next_item(&j));
  assert_true(json_enter_array(&j));
  assert_int_equal(j.depth, 3);
  assert_false(json_next_item(&j));
  assert_false(json_next_item(&j));
  assert_false(j.failed);
  assert_int_equal(j.depth, 1);
  assert_true(json_next_key(&j, &key));
  assert_true(json_raw_eq(key, STR("bb")));
  assert_false(json_raw_eq(key, STR("b")));
  assert_false(json_raw_eq(key, STR("bbb")));
  assert_true(json_bool(&j, &flag));
  assert_true(flag);
  assert_true(json_next_key(&j, &key));
  assert_true(json_null(&j));
  assert_true(json_next_key(&j, &key));
  assert_true(json_skip(&j, &s));
  assert_true(str_eq(s, STR("{\"e\": [{}]}")));
  assert_true(json_next_key(&j, &key));
  assert_true(json_string(&j, &s));
  assert_true(str_eq(s, STR("x\\ny")));
  assert_false(json_next_key(&j, &key));
  assert_false(j.failed);
  assert_true(json_end(&j));
}

// Walking and skipping accept the same texts.
static bool walk(struct json *j)
{
  enum json_type type;
  struct str s;
  bool flag;
  if (!json_peek(j, &type))
    return false;
  switch (type) {
  case JSON_NULL:
    return json_null(j);
  case JSON_BOOL:
    return json_bool(j, &flag);
  case JSON_NUMBER:
    return json_number(j, &s);
  case JSON_STRING:
    return json_string(j, &s);
  case JSON_ARRAY:
    if (!json_enter_array(j))
      return false;
    while (json_next_item(j))
      if (!walk(j))
        return false;
    return !j->failed;
  case JSON_OBJECT:
    break;
  }
  if (!json_enter_object(j))
    return false;
  while (json_next_key(j, &s))
    if (!walk(j))
      return false;
  return !j->failed;
}

static void walking_and_skipping_agree(void **state)
{
  (void)state;
  static const char alphabet[] = "[]{},:\"\"a1 -.e\\tnu";
  srand(7);
  int good = 0;
  for (int round = 0; round < 300000; round++) {
    char text[12];
    size_t n = (size_t)rand() % sizeof text;
    for (size_t i = 0; i < n; i++)
      text[i] = alphabet[(size_t)rand() % (sizeof alphabet - 1)];
    struct json j;
    json_init(&j, (struct str){text, n}, 4);
    bool walked = walk(&j) && json_end(&j), skipped = valid_at((struct str){text, n}, 4);
    if (walked != skipped)
      fail_msg("%.*s: walked %d, skipped %d", (int)n, text, walked, skipped);
    good += walked;
  }
  assert_true(good > 1000);
}

static void failure_stays(void **state)
{
  (void)state;
  struct json j;
  struct str s;
  enum json_type type;
  json_init(&j, STR("[1, \"x\"]"), 10);
  assert_true(json_enter_array(&j));
  assert_true(json_next_item(&j));
  assert_false(json_string(&j, &s));
  assert_true(j.failed);
  assert_false(json_number(&j, &s));
  assert_false(json_peek(&j, &type));
  assert_false(json_skip(&j, &s));
  assert_false(json_next_item(&j));
  assert_false(json_enter_array(&j));
  assert_false(json_end(&j));
  struct err e;
  assert_false(json_err(&j, "x", &e));
  assert_string_equal(e.msg, "x: not valid JSON at byte 1: a string is expected");
}

static void both_scans_agree(void **state)
{
  (void)state;
  char block[64];
  for (size_t n = 0; n <= sizeof block; n++) {
    for (size_t at = 0; at <= n; at++) {
      for (int byte = 0; byte < 256; byte++) {
        memset(block, 'a', sizeof block);
        if (at < n)
          block[at] = (char)byte;
        bool special = byte < 0x20 || byte >= 0x80 || byte == '"' || byte == '\\';
        const char *want = at < n && special ? block + at : block + n;
        assert_ptr_equal(json_scan_plain_portable(block, block + n), want);
        assert_ptr_equal(json_scan_plain(block, block + n), want);
#ifdef __SSE2__
        assert_ptr_equal(json_scan_plain_sse2(block, block + n), want);
#endif
        if (at == n)
          break;
      }
    }
  }
  srand(3);
  for (int round = 0; round < 100000; round++) {
    size_t n = (size_t)rand() % sizeof block;
    for (size_t i = 0; i < n; i++)
      block[i] = rand() % 40 ? (char)(0x20 + rand() % 0x60) : (char)rand();
    assert_ptr_equal(json_scan_plain(block, block + n), json_scan_plain_portable(block, block + n));
  }
}

static void digits_end_where_they_end(void **state)
{
  (void)state;
  char block[32];
  for (size_t n = 0; n <= sizeof block; n++) {
    for (size_t at = 0; at < n; at++) {
      for (int byte = 0; byte < 256; byte++) {
        for (size_t i = 0; i < sizeof block; i++)
          block[i] = (char)('0' + i % 10);
        block[at] = (char)byte;
        bool digit = byte >= '0' && byte <= '9';
        assert_ptr_equal(json_scan_digits(block, block + n), digit ? block + n : block + at);
      }
    }
  }
}

// --- numbers in arrays -----------------------------------------------------------------------------------------------------------------

// JSON's grammar of arrays and numbers once more, as plainly as it can be written: each returns what is behind, or NULL.
static const char *plain_value(const char *p, const char *end);

static const char *plain_space(const char *p, const char *end)
{
  while (p < end && *p == ' ')
    p++;
  return p;
}

static const char *plain_digits(const char *p, const char *end)
{
  const char *begin = p;
  while (p < end && *p >= '0' && *p <= '9')
    p++;
  return p > begin ? p : NULL;
}

static const char *plain_number(const char *p, const char *end)
{
  p += p < end && *p == '-';
  const char *begin = p;
  if (!(p = plain_digits(p, end)) || (*begin == '0' && p - begin > 1))
    return NULL;
  if (p < end && *p == '.' && !(p = plain_digits(p + 1, end)))
    return NULL;
  if (p == end || (*p != 'e' && *p != 'E'))
    return p;
  p++;
  p += p < end && (*p == '+' || *p == '-');
  return plain_digits(p, end);
}

static const char *plain_array(const char *p, const char *end)
{
  p = plain_space(p + 1, end);
  if (p < end && *p == ']')
    return p + 1;
  for (;;) {
    if (!(p = plain_value(p, end)))
      return NULL;
    p = plain_space(p, end);
    if (p < end && *p == ']')
      return p + 1;
    if (p == end || *p != ',')
      return NULL;
    p++;
  }
}

static const char *plain_value(const char *p, const char *end)
{
  p = plain_space(p, end);
  return p < end && *p == '[' ? plain_array(p, end) : plain_number(p, end);
}

static bool plain_valid(struct str text)
{
  const char *end = text.p + text.n, *p = plain_value(text.p, end);
  return p && plain_space(p, end) == end;
}

// An array of up to two levels in `out`: integers alone, or numbers of all kinds.
static size_t random_array(char *out, size_t cap)
{
  static const char *const kinds[] = {"0",   "-0",  "7",    "255", "0.5", "-0.0123", "1e5", "0.5e-3", "-1E+10", "10", "12345678901234567890",
                                      "100", "0e0", "2.0E0"};
  unsigned mixed = rand() % 3 ? 14 : 0, spaces = rand() % 3 == 0;
  int rows = rand() % 2, row = 1 + rand() % 40, count = rand() % 120;
  size_t n = (size_t)snprintf(out, cap, rows ? "[[" : "[");
  for (int i = 0; i < count && n + 40 < cap; i++) {
    if (i)
      n +=
          (size_t)snprintf(out + n, cap - n, "%s%s", rows && i % row == 0 ? (rand() % 30 ? "],[" : "],[],[") : ",", spaces && rand() % 20 ? " " : "");
    n += mixed ? (size_t)snprintf(out + n, cap - n, "%s", kinds[(unsigned)rand() % mixed]) : (size_t)snprintf(out + n, cap - n, "%d", rand() % 256);
  }
  return n + (size_t)snprintf(out + n, cap - n, rows ? "]]" : "]");
}

static void mutate(char *text, size_t *n)
{
  static const char bytes[] = "0123456789,,,[]--..eE++ ";
  size_t at = (size_t)rand() % *n;
  switch (rand() % 3) {
  case 0:
    text[at] = bytes[(size_t)rand() % (sizeof bytes - 1)];
    break;
  case 1: // out
    memmove(text + at, text + at + 1, *n - at - 1);
    --*n;
    break;
  default: // in
    memmove(text + at + 1, text + at, *n - at);
    text[at] = bytes[(size_t)rand() % (sizeof bytes - 1)];
    ++*n;
  }
}

static void numbers_are_as_the_grammar_has_them(void **state)
{
  (void)state;
  srand(11);
  int good = 0, rounds = 40000;
  for (int round = 0; round < rounds; round++) {
    char text[4096];
    size_t n = random_array(text, sizeof text - 8);
    for (int i = rand() % 3; i > 0 && n; i--)
      mutate(text, &n);
    bool want = plain_valid((struct str){text, n});
    if (valid_at((struct str){text, n}, JSON_DEPTH) != want)
      fail_msg("%.*s: should be %d", (int)n, text, want);
    good += want;
  }
  assert_in_range(good, rounds / 4, rounds * 3 / 4);
}

// Every short text of what numbers are made of, at every place of a block, within right numbers.
static void numbers_are_right_at_every_place(void **state)
{
  (void)state;
  static const char bytes[] = "01,[]-.e+ x";
  enum { KINDS = sizeof bytes - 1, SHORT = 4, TOTAL = KINDS * KINDS * KINDS * KINDS };
  for (int what = 0; what < TOTAL; what++) {
    for (int place = 2 * 74; place < 2 * 87; place++) {
      int rows = place % 2;
      char text[256];
      size_t n = 0;
      text[n++] = '[';
      if (rows)
        text[n++] = '[';
      // The first block begins at the seventh number, so the second one does about here.
      for (int i = 0; i < place / 2; i++)
        text[n++] = "12,"[i % 3];
      for (int i = 0, rest = what; i < SHORT; i++, rest /= KINDS)
        text[n++] = bytes[rest % KINDS];
      for (int i = 0; i < 70; i++)
        text[n++] = "3,4"[i % 3];
      text[n++] = ']';
      if (rows)
        text[n++] = ']';
      if (valid_at((struct str){text, n}, JSON_DEPTH) != plain_valid((struct str){text, n}))
        fail_msg("%.*s", (int)n, text);
    }
  }
}

static void both_scans_of_numbers_agree(void **state)
{
  (void)state;
  char block[JSON_BLOCK];
  for (int byte = 0; byte < 256; byte++) {
    for (size_t at = 0; at < JSON_BLOCK; at++) {
      memset(block, byte ^ (at % 2 ? 0x80 : 1), sizeof block);
      block[at] = (char)byte;
      assert_int_equal(json_find_portable(block, (char)byte), UINT64_C(1) << at);
    }
  }
  srand(5);
  for (int round = 0; round < 100000; round++) {
    for (size_t i = 0; i < sizeof block; i++)
      block[i] = rand() % 2 ? (char)rand() : (char)('/' + rand() % 12);
    uint64_t digits = 0;
    for (size_t i = 0; i < sizeof block; i++)
      digits |= (uint64_t)(block[i] >= '0' && block[i] <= '9') << i;
    assert_int_equal(json_find_digits_portable(block), digits);
#ifdef __SSE2__
    assert_int_equal(json_find_digits_sse2(block), digits);
    for (const char *c = "0,-.+eE[] "; *c; c++)
      assert_int_equal(json_find_sse2(block, *c), json_find_portable(block, *c));
#endif
  }
  for (int round = 0; round < 8000; round++) {
    char text[4096];
    size_t n = random_array(text, sizeof text - 8), at = 0;
    if (rand() % 2)
      mutate(text, &n);
    while (at < n && (text[at] == '[' || text[at] == ' '))
      at++;
    for (size_t end = n; end > at && end + 70 > n; end--)
      for (int rows = 0; rows < 2; rows++)
        assert_ptr_equal(json_scan_numbers(text + at, text + end, rows), json_scan_numbers_portable(text + at, text + end, rows));
  }
}

// --- strings and doubles ------------------------------------------------------------------------------------------------------------------

static void unescapes(void **state)
{
  (void)state;
  struct buf b = {.max = 100};
  assert_true(json_unescape(STR("a\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\\u00e9\\u6f22\\ud83d\\ude00z"), &b));
  assert_true(str_eq(buf_view(&b), STR("a\"\\/\b\f\n\r\tA\xc3\xa9\xe6\xbc\xa2\xf0\x9f\x98\x80z")));
  b.n = 0;
  assert_true(json_unescape(STR("\\u0000"), &b));
  assert_true(str_eq(buf_view(&b), STR("\0")));
  static const char *const bad[] = {"\\ud800", "\\ude00", "\\ud800x", "\\ud800\\n", "\\ud800\\ud800", "\\ud83d\\u0041", "\\q", "\\", "\\u12"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    b.n = 1;
    assert_false(json_unescape(str_c(bad[i]), &b));
    assert_int_equal(b.n, 1);
    assert_false(json_raw_eq(str_c(bad[i]), str_c(bad[i])));
  }
  char big[101];
  memset(big, 'x', sizeof big);
  b.n = 0;
  assert_false(json_unescape((struct str){big, sizeof big}, &b));
  buf_free(&b);
  assert_true(json_unescape((struct str){NULL, 0}, &b));
  assert_int_equal(b.n, 0);
  buf_free(&b);
  assert_true(json_raw_eq((struct str){NULL, 0}, STR("")));
}

static void doubles_are_rounded_correctly(void **state)
{
  (void)state;
  assert_true(json_double(STR("0.1")) == 0.1);
  assert_true(json_double(STR("-1e-5")) == -1e-5);
  assert_true(json_double(STR("1e400")) == (double)INFINITY);
  assert_true(json_double(STR("-1e400")) == -(double)INFINITY);
  assert_true(json_double(STR("9007199254740993")) == 9007199254740992.0);
  assert_true(signbit(json_double(STR("-0"))));

  // Longer than any buffer: 2^53 + 1 is a tie that goes to even, and one digit far behind decides it.
  static char text[5000];
  int n = snprintf(text, sizeof text, "9007199254740993.");
  memset(text + n, '0', 4000);
  assert_true(json_double((struct str){text, 4017}) == 9007199254740992.0);
  text[4016] = '1';
  assert_true(json_double((struct str){text, 4017}) == 9007199254740994.0);
  // Zeros in front and an exponent that takes them back.
  memset(text, '0', sizeof text);
  memcpy(text, "-0.", 3);
  memcpy(text + 3000, "25e2999", 7);
  assert_true(json_double((struct str){text, 3007}) == -25.0);
  memcpy(text + 3000, "25e99999999999999999999", 23);
  assert_true(json_double((struct str){text, 3023}) == -(double)INFINITY);
  memcpy(text + 3000, "25E-9999999999999999999", 23);
  assert_true(json_double((struct str){text, 3023}) == 0.0);
  memset(text, '0', sizeof text);
  text[0] = '1';
  memcpy(text + 2000, "e-1999", 6);
  assert_true(json_double((struct str){text, 2006}) == 1.0);
  memset(text, '0', sizeof text);
  text[1] = '.';
  assert_true(json_double((struct str){text, 2000}) == 0.0);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(takes_what_is_json),
      cmocka_unit_test(refuses_what_is_not),
      cmocka_unit_test(refuses_cut_text),
      cmocka_unit_test(depth_has_a_limit),
      cmocka_unit_test(errors_name_field_and_place),
      cmocka_unit_test(walks_an_object),
      cmocka_unit_test(walking_and_skipping_agree),
      cmocka_unit_test(failure_stays),
      cmocka_unit_test(both_scans_agree),
      cmocka_unit_test(digits_end_where_they_end),
      cmocka_unit_test(numbers_are_as_the_grammar_has_them),
      cmocka_unit_test(numbers_are_right_at_every_place),
      cmocka_unit_test(both_scans_of_numbers_agree),
      cmocka_unit_test(unescapes),
      cmocka_unit_test(doubles_are_rounded_correctly),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
