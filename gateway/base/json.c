// SPDX-License-Identifier: Apache-2.0
#include "base/json.h"

#include <float.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json_scan.h"
#include "base/utf8.h"

// The functions named pass_… take the position where something begins and return the one behind it, or NULL after fail().

static bool fail(struct json *j, const char *at, const char *problem)
{
  j->failed = true;
  j->p = at;
  j->problem = problem;
  return false;
}

static const char *pass_fail(struct json *j, const char *at, const char *problem)
{
  fail(j, at, problem);
  return NULL;
}

// Mostly there is none.
static inline const char *pass_space(const char *p, const char *end)
{
  if (p < end && (unsigned char)*p > ' ')
    return p;
  while (p < end && (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r'))
    p++;
  return p;
}

static inline bool is_digit(char c)
{
  return c >= '0' && c <= '9';
}

static int hex_value(char c)
{
  if (is_digit(c))
    return c - '0';
  c = (char)(c | 0x20);
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

// --- tokens --------------------------------------------------------------------------------------------------------------------------------

static const char *pass_escape(struct json *j, const char *p)
{
  const char *end = j->end;
  if (end - p < 2)
    return pass_fail(j, p, "the string does not end");
  switch (p[1]) {
  case '"':
  case '\\':
  case '/':
  case 'b':
  case 'f':
  case 'n':
  case 'r':
  case 't':
    return p + 2;
  case 'u':
    for (int i = 2; i < 6; i++)
      if (end - p <= i || hex_value(p[i]) < 0)
        return pass_fail(j, p, "\\u needs four hexadecimal digits");
    return p + 6;
  default:
    return pass_fail(j, p, "there is no such escape");
  }
}

// The rest of a string from the first byte on that is not plain.
static __attribute__((noinline)) const char *pass_special(struct json *j, const char *p)
{
  const char *end = j->end;
  for (;; p = json_scan_plain(p, end)) {
    if (p == end)
      return pass_fail(j, p, "the string does not end");
    if (*p == '"')
      return p + 1;
    if (*p == '\\') {
      if (!(p = pass_escape(j, p)))
        return NULL;
    } else if ((unsigned char)*p < 0x20) {
      return pass_fail(j, p, "a control character in a string must be escaped");
    } else {
      do {
        size_t n = utf8_length(p, (size_t)(end - p));
        if (!n)
          return pass_fail(j, p, "the text is not UTF-8");
        p += n;
      } while (p < end && (unsigned char)*p >= 0x80);
    }
  }
}

// `p` is behind the opening quote; the result is behind the closing one.
static inline const char *pass_string(struct json *j, const char *p)
{
  p = json_scan_plain(p, j->end);
  return p < j->end && *p == '"' ? p + 1 : pass_special(j, p);
}

// `p` is at a minus sign or a digit.
static const char *pass_number(struct json *j, const char *p)
{
  const char *end = j->end;
  if (*p == '-')
    p++;
  if (p == end || !is_digit(*p))
    return pass_fail(j, p, "a digit is expected");
  if (*p == '0') {
    p++;
    if (p < end && is_digit(*p))
      return pass_fail(j, p, "a number must not begin with 0");
  } else {
    p = json_scan_digits(p, end);
  }
  if (p < end && *p == '.') {
    const char *digits = p + 1;
    if ((p = json_scan_digits(digits, end)) == digits)
      return pass_fail(j, p, "a digit is expected");
  }
  if (p < end && (*p | 0x20) == 'e') {
    p++;
    if (p < end && (*p == '+' || *p == '-'))
      p++;
    const char *digits = p;
    if ((p = json_scan_digits(digits, end)) == digits)
      return pass_fail(j, p, "a digit is expected");
  }
  return p;
}

static inline const char *pass_word(struct json *j, const char *p, struct str word)
{
  if ((size_t)(j->end - p) < word.n || memcmp(p, word.p, word.n) != 0)
    return pass_fail(j, p, "a value is expected");
  return p + word.n;
}

static const char *pass_scalar(struct json *j, const char *p)
{
  if (p == j->end)
    return pass_fail(j, p, "a value is expected");
  switch (*p) {
  case '"':
    return pass_string(j, p + 1);
  case 't':
    return pass_word(j, p, STR("true"));
  case 'f':
    return pass_word(j, p, STR("false"));
  case 'n':
    return pass_word(j, p, STR("null"));
  default:
    if (*p == '-' || is_digit(*p))
      return pass_number(j, p);
    return pass_fail(j, p, "a value is expected");
  }
}

// Passes `"key" : ` up to the value; `key` (may be NULL) gets what is between the quotes.
static inline const char *pass_key(struct json *j, const char *p, struct str *key)
{
  if (p == j->end || *p != '"')
    return pass_fail(j, p, "a key in quotes is expected");
  const char *behind = pass_string(j, p + 1);
  if (!behind)
    return NULL;
  if (key)
    *key = (struct str){p + 1, (size_t)(behind - p) - 2};
  p = pass_space(behind, j->end);
  if (p == j->end || *p != ':')
    return pass_fail(j, p, "':' is expected");
  return pass_space(p + 1, j->end);
}

static bool deeper(struct json *j, const char *at, int depth)
{
  if (depth <= j->max_depth)
    return true;
  j->too_deep = true;
  return fail(j, at, "the nesting is too deep");
}

// --- whole values --------------------------------------------------------------------------------------------------------------------------

// Passes the brackets that close behind a value, and the comma (with the next key, in an object) before the next one. `closers` has the `*open`
// brackets that are awaited; none is left when the outermost value ends here.
static inline const char *pass_separators(struct json *j, const char *p, const char *closers, int *open)
{
  const char *end = j->end;
  while (*open) {
    p = pass_space(p, end);
    char closer = closers[*open - 1];
    if (p < end && *p == ',') {
      p = pass_space(p + 1, end);
      return closer == '}' ? pass_key(j, p, NULL) : p;
    }
    if (p == end || *p != closer)
      return pass_fail(j, p, closer == '}' ? "',' or '}' is expected" : "',' or ']' is expected");
    p++;
    --*open;
  }
  return p;
}

// With so many numbers in a row, it is worth it to look for more of them together.
enum { MANY_NUMBERS = 6 };

// Apart, so that its registers cost nothing where there are no such arrays.
static __attribute__((noinline)) const char *pass_numbers(const char *p, const char *end, bool rows)
{
  return json_scan_numbers(p, end, rows);
}

// A scalar, with the numbers behind it in its array that can be passed together. `*numbers` counts those in a row.
static inline const char *pass_scalars(struct json *j, const char *p, const char *closers, int open, int *numbers)
{
  bool in_array = open && closers[open - 1] == ']';
  if (!in_array || p == j->end || (*p != '-' && !is_digit(*p))) {
    *numbers = 0;
    return pass_scalar(j, p);
  }
  if (++*numbers > MANY_NUMBERS) {
    const char *first = p;
    p = pass_numbers(p, j->end, open > 1 && closers[open - 2] == ']');
    *numbers = p > first ? MANY_NUMBERS : 0;
  }
  return pass_number(j, p);
}

static inline bool is_container(const char *p, const char *end)
{
  return p < end && (*p == '{' || *p == '[');
}

// `p` is at an opening bracket.
static __attribute__((noinline)) const char *pass_container(struct json *j, const char *p)
{
  char closers[JSON_DEPTH_MAX];
  int open = 0, numbers = 0;
  const char *end = j->end;
  do {
    if (is_container(p, end)) {
      if (!deeper(j, p, j->depth + open + 1))
        return NULL;
      char closer = *p == '{' ? '}' : ']';
      closers[open++] = closer;
      p = pass_space(p + 1, end);
      if (p == end || *p != closer) {
        if (closer == '}')
          p = pass_key(j, p, NULL);
        if (!p)
          return NULL;
        continue;
      }
    } else if (!(p = pass_scalars(j, p, closers, open, &numbers))) {
      return NULL;
    }
    if (!(p = pass_separators(j, p, closers, &open)))
      return NULL;
  } while (open);
  return p;
}

bool json_skip(struct json *j, struct str *span)
{
  if (j->failed)
    return false;
  const char *begin = pass_space(j->p, j->end), *p = is_container(begin, j->end) ? pass_container(j, begin) : pass_scalar(j, begin);
  if (!p)
    return false;
  j->p = p;
  if (span)
    *span = (struct str){begin, (size_t)(p - begin)};
  return true;
}

// --- one step at a time --------------------------------------------------------------------------------------------------------------------

void json_init(struct json *j, struct str text, int max_depth)
{
  const char *p = text.p ? text.p : "";
  *j = (struct json){.start = p, .p = p, .end = p + text.n, .max_depth = max_depth < JSON_DEPTH_MAX ? max_depth : JSON_DEPTH_MAX};
}

bool json_peek(struct json *j, enum json_type *type)
{
  if (j->failed)
    return false;
  const char *p = pass_space(j->p, j->end);
  if (p == j->end)
    return fail(j, p, "a value is expected");
  switch (*p) {
  case '{':
    *type = JSON_OBJECT;
    break;
  case '[':
    *type = JSON_ARRAY;
    break;
  case '"':
    *type = JSON_STRING;
    break;
  case 't':
  case 'f':
    *type = JSON_BOOL;
    break;
  case 'n':
    *type = JSON_NULL;
    break;
  default:
    if (*p != '-' && !is_digit(*p))
      return fail(j, p, "a value is expected");
    *type = JSON_NUMBER;
  }
  return true;
}

// Passes the bracket `opener` and stays right behind it: that is how next() knows a container's beginning.
static bool enter(struct json *j, char opener, const char *problem)
{
  if (j->failed)
    return false;
  const char *p = pass_space(j->p, j->end);
  if (p == j->end || *p != opener)
    return fail(j, p, problem);
  if (!deeper(j, p, j->depth + 1))
    return false;
  j->depth++;
  j->p = p + 1;
  return true;
}

// Goes to the next element of the container that `opener` and `closer` enclose; false behind the closer or on failure. No value ends in an opening
// bracket, so one right before j->p says that nothing has been passed yet.
static inline bool next(struct json *j, char opener, char closer, const char *problem)
{
  if (j->failed)
    return false;
  bool first = j->p > j->start && j->p[-1] == opener;
  const char *p = pass_space(j->p, j->end);
  if (p < j->end && *p == closer) {
    j->p = p + 1;
    j->depth--;
    return false;
  }
  if (!first) {
    if (p == j->end || *p != ',')
      return fail(j, p, problem);
    p = pass_space(p + 1, j->end);
  }
  j->p = p;
  return true;
}

bool json_enter_object(struct json *j)
{
  return enter(j, '{', "an object is expected");
}

bool json_next_key(struct json *j, struct str *key)
{
  if (!next(j, '{', '}', "',' or '}' is expected"))
    return false;
  const char *p = pass_key(j, j->p, key);
  if (!p)
    return false;
  j->p = p;
  return true;
}

bool json_enter_array(struct json *j)
{
  return enter(j, '[', "an array is expected");
}

bool json_next_item(struct json *j)
{
  return next(j, '[', ']', "',' or ']' is expected");
}

// Passes one scalar that begins with one of `first`.
static bool scalar(struct json *j, const char *first, const char *problem, struct str *span)
{
  if (j->failed)
    return false;
  const char *begin = pass_space(j->p, j->end);
  if (begin == j->end || !*begin || !strchr(first, *begin))
    return fail(j, begin, problem);
  const char *p = pass_scalar(j, begin);
  if (!p)
    return false;
  j->p = p;
  *span = (struct str){begin, (size_t)(p - begin)};
  return true;
}

bool json_string(struct json *j, struct str *raw)
{
  struct str span;
  if (!scalar(j, "\"", "a string is expected", &span))
    return false;
  *raw = (struct str){span.p + 1, span.n - 2};
  return true;
}

bool json_number(struct json *j, struct str *span)
{
  return scalar(j, "-0123456789", "a number is expected", span);
}

bool json_bool(struct json *j, bool *value)
{
  struct str span;
  if (!scalar(j, "tf", "true or false is expected", &span))
    return false;
  *value = *span.p == 't';
  return true;
}

bool json_null(struct json *j)
{
  struct str span;
  return scalar(j, "n", "null is expected", &span);
}

bool json_end(struct json *j)
{
  if (j->failed)
    return false;
  j->p = pass_space(j->p, j->end);
  return j->p == j->end || fail(j, j->p, "nothing may follow the value");
}

bool json_err(const struct json *j, const char *field, struct err *e)
{
  const char *colon = field && *field ? ": " : "";
  field = field ? field : "";
  size_t at = (size_t)(j->p - j->start);
  if (j->too_deep)
    return err_field(e, REASON_JSON_TOO_DEEP, field, "%s%sthe JSON nests deeper than %d levels, at byte %zu", field, colon, j->max_depth, at);
  return err_field(e, REASON_INVALID_REQUEST, field, "%s%snot valid JSON at byte %zu: %s", field, colon, at,
                   j->problem ? j->problem : "a value is expected");
}

bool json_check(struct str text, int max_depth, const char *field, enum json_type *type, struct err *e)
{
  struct json j;
  enum json_type t;
  json_init(&j, text, max_depth);
  if (!json_peek(&j, &t) || !json_skip(&j, NULL) || !json_end(&j))
    return json_err(&j, field, e);
  if (type)
    *type = t;
  return true;
}

// --- strings and numbers -------------------------------------------------------------------------------------------------------------------

// The four digits of the \uXXXX at `p`; -1 when that is not there.
static int hex4(const char *p, const char *end)
{
  if (end - p < 6 || p[0] != '\\' || p[1] != 'u')
    return -1;
  int value = 0;
  for (int i = 2; i < 6; i++) {
    int digit = hex_value(p[i]);
    if (digit < 0)
      return -1;
    value = value << 4 | digit;
  }
  return value;
}

static size_t utf8_encode(unsigned c, char out[4])
{
  if (c < 0x80) {
    out[0] = (char)c;
    return 1;
  }
  size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
  for (size_t i = n - 1; i > 0; i--, c >>= 6)
    out[i] = (char)(0x80 | (c & 0x3F));
  out[0] = (char)((n == 2 ? 0xC0 : n == 3 ? 0xE0 : 0xF0) | c);
  return n;
}

// Decodes the escape at `p` into out[0, *n) and returns what is behind it; NULL for an unpaired surrogate or what is no escape.
static const char *decode_escape(const char *p, const char *end, char out[4], size_t *n)
{
  static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
  if (end - p < 2)
    return NULL;
  const char *simple = memchr(from, p[1], sizeof from - 1);
  if (simple) {
    out[0] = to[simple - from];
    *n = 1;
    return p + 2;
  }
  int c = hex4(p, end);
  if (c < 0 || (c & 0xFC00) == 0xDC00)
    return NULL;
  p += 6;
  if ((c & 0xFC00) == 0xD800) {
    int low = hex4(p, end);
    if (low < 0 || (low & 0xFC00) != 0xDC00)
      return NULL;
    c = 0x10000 + ((c & 0x3FF) << 10) + (low & 0x3FF);
    p += 6;
  }
  *n = utf8_encode((unsigned)c, out);
  return p;
}

bool json_unescape(struct str raw, struct buf *out)
{
  // No escape is shorter than what it stands for.
  char *to = buf_reserve(out, raw.n);
  if (!to)
    return raw.n == 0;
  const char *p = raw.p, *end = raw.n ? p + raw.n : p;
  while (p < end) {
    const char *escape = memchr(p, '\\', (size_t)(end - p));
    size_t plain = (size_t)((escape ? escape : end) - p);
    memcpy(to, p, plain);
    to += plain;
    p += plain;
    if (escape) {
      char c[4];
      size_t n;
      if (!(p = decode_escape(p, end, c, &n)))
        return false;
      memcpy(to, c, n);
      to += n;
    }
  }
  out->n = out->p ? (size_t)(to - out->p) : 0;
  return true;
}

bool json_escaped_eq(struct str raw, struct str s)
{
  const char *end = raw.p + raw.n;
  for (const char *p = raw.p; p < end;) {
    char c[4] = {*p};
    size_t n = 1;
    if (*p != '\\')
      p++;
    else if (!(p = decode_escape(p, end, c, &n)))
      return false;
    if (s.n < n || memcmp(s.p, c, n) != 0)
      return false;
    s = str_skip(s, n);
  }
  return s.n == 0;
}

// 767 significant digits decide how any decimal is rounded to a double; of those behind them it only matters whether one is not 0.
enum { DOUBLE_DIGITS = 800 };

// A number too long for a buffer: its leading digits and its exponent, written anew.
static double long_double(struct str number)
{
  char text[DOUBLE_DIGITS + 64];
  const char *p = number.p, *end = p + number.n;
  size_t n = 0, digits = 0;
  long long scale = 0; // the power of ten that the digits kept lack
  bool fraction = false, dropped = false;
  if (*p == '-')
    text[n++] = *p++;
  for (; p < end && (is_digit(*p) || *p == '.'); p++) {
    if (*p == '.') {
      fraction = true;
      continue;
    }
    if (digits == 0 && *p == '0') {
      scale -= fraction;
      continue;
    }
    if (digits < DOUBLE_DIGITS) {
      text[n++] = *p;
      digits++;
      scale -= fraction;
    } else {
      dropped |= *p != '0';
      scale += !fraction;
    }
  }
  if (!digits)
    return *number.p == '-' ? -0.0 : 0.0;
  if (dropped) {
    text[n++] = '1';
    scale--;
  }
  if (p < end) {
    // Clamped far beyond what any text in memory could make up for.
    const long long limit = 1LL << 60;
    bool negative = *++p == '-';
    long long exponent = 0;
    for (p += *p == '-' || *p == '+'; p < end; p++)
      exponent = exponent > limit / 10 - 10 ? limit : exponent * 10 + (*p - '0');
    scale += negative ? -exponent : exponent;
  }
  snprintf(text + n, sizeof text - n, "e%lld", scale);
  return strtod(text, NULL);
}

// A decimal without exponent whose digits and power of ten are both exact as doubles: their quotient is rounded once, so correctly.
static bool short_double(struct str number, double *out)
{
  static const double powers[] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18};
  enum { MAX_DIGITS = sizeof powers / sizeof *powers - 1 };
  if (FLT_EVAL_METHOD != 0 || number.n > MAX_DIGITS)
    return false;
  bool negative = *number.p == '-';
  size_t point = 0;
  uint64_t digits = 0;
  for (size_t i = negative; i < number.n; i++) {
    if (is_digit(number.p[i]))
      digits = digits * 10 + (uint64_t)(number.p[i] - '0');
    else if (number.p[i] == '.' && !point)
      point = i + 1;
    else
      return false;
  }
  if (digits > UINT64_C(1) << DBL_MANT_DIG)
    return false;
  double v = (double)digits / powers[point ? number.n - point : 0];
  *out = negative ? -v : v;
  return true;
}

double json_double(struct str number)
{
  char text[DOUBLE_DIGITS];
  double v;
  if (!number.n)
    return 0;
  if (short_double(number, &v))
    return v;
  if (number.n >= sizeof text)
    return long_double(number);
  memcpy(text, number.p, number.n);
  text[number.n] = '\0';
  return strtod(text, NULL);
}
