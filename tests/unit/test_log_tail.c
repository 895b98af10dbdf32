// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/utf8.h"
#include "providers/log_tail.h"

// The text of what is left of `input`, given in pieces of `piece` bytes (0: at once).
static const char *tail(struct str input, size_t piece, size_t max)
{
  static char text[LOG_TAIL_BYTES + 1];
  struct log_tail *t = calloc(1, sizeof *t);
  assert_non_null(t);
  if (!piece)
    piece = input.n ? input.n : 1;
  while (input.n) {
    size_t n = input.n < piece ? input.n : piece;
    log_tail_add(t, (struct str){input.p, n});
    input = str_skip(input, n);
  }
  memset(text, 'x', sizeof text);
  log_tail_text(t, text, max ? max : sizeof text);
  free(t);
  return text;
}

static void test_cleans(void **state)
{
  (void)state;
  const struct {
    struct str in;
    const char *out;
  } cases[] = {
      {STR(""), ""},
      {STR("\n \t\n"), ""},
      {STR("one\ntwo\n"), "one\ntwo"},
      {STR("  indented\n"), "  indented"},
      {STR("a\r\nb\tc\r\n"), "a\nb\tc"},
      {STR("a\0b\x01\x7f"
           "c"),
       "abc"},
      {STR("\033[31mred\033[0m \033[38;5;200mpink\033[m"), "red pink"},
      {STR("\033]0;title\atext\033]8;;http://x\033\\link"), "textlink"},
      {STR("\033(Bplain\033=\033Mmore"), "plainmore"},
      {STR("open \033[31"), "open"},
      {STR("open \033"), "open"},
      {STR("open \033]0;never ended\nnext line"), "open \nnext line"},
      {STR("bad \xff\xc3(\xed\xa0\x80 end"), "bad ?\?(\?\?\? end"},
      {STR("gr\xc3\xbc\xc3\x9f \xf0\x9f\x98\x80"), "gr\xc3\xbc\xc3\x9f \xf0\x9f\x98\x80"},
      {STR("c1 \xc2\x9b"
           "31m"),
       "c1 31m"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    for (size_t piece = 0; piece < 3; piece++)
      assert_string_equal(tail(cases[i].in, piece, 0), cases[i].out);
}

static void test_keeps_the_last_lines(void **state)
{
  (void)state;
  char lines[40000];
  size_t n = 0;
  for (int i = 0; i < 3000; i++)
    n += (size_t)snprintf(lines + n, sizeof lines - n, "line %d\n", i);
  const char *text = tail((struct str){lines, n}, 777, 0);
  assert_true(strlen(text) > LOG_TAIL_BYTES - 20);
  assert_memory_equal(text, "line ", 5); // begins with a whole line
  assert_string_equal(text + strlen(text) - 10, "\nline 2999");
  assert_string_equal(tail((struct str){lines, n}, 0, 25), "line 2998\nline 2999");
  assert_string_equal(tail((struct str){lines, n}, 0, 20), "line 2998\nline 2999");
  assert_string_equal(tail((struct str){lines, n}, 0, 19), "line 2999");
  assert_string_equal(tail((struct str){lines, n}, 0, 5), "2999");
  assert_string_equal(tail((struct str){lines, n}, 0, 1), "");
}

static void test_cuts_a_long_line_at_a_character(void **state)
{
  (void)state;
  char line[3 * LOG_TAIL_BYTES];
  for (size_t i = 0; i < sizeof line; i++)
    line[i] = "\xe2\x82\xac"[i % 3];
  for (size_t max = 2; max < 20; max++) {
    const char *text = tail((struct str){line, sizeof line}, 1000, max);
    assert_true(utf8_valid(text, strlen(text)));
    assert_int_equal(strlen(text), (max - 1) / 3 * 3);
  }
}

static void test_never_writes_past_max(void **state)
{
  (void)state;
  struct log_tail *t = calloc(1, sizeof *t);
  assert_non_null(t);
  log_tail_add(t, STR("hello world"));
  char text[8] = "1234567";
  log_tail_text(t, text, 0);
  assert_string_equal(text, "1234567");
  log_tail_text(t, text, 4);
  assert_memory_equal(text,
                      "rld\0"
                      "567",
                      8);
  free(t);
}

static void test_explains(void **state)
{
  (void)state;
  struct log_tail *t = calloc(1, sizeof *t);
  assert_non_null(t);
  struct err e;
  err_set(&e, CODE_FAILED_PRECONDITION, REASON_WORKER_START_FAILED, "it ended");
  log_tail_explain(t, &e);
  assert_string_equal(e.msg, "it ended");
  log_tail_add(t, STR("why\n"));
  log_tail_explain(t, &e);
  assert_string_equal(e.msg, "it ended\nIts last output:\nwhy");
  for (int i = 0; i < 1000; i++)
    log_tail_add(t, STR("many lines\n"));
  err_set(&e, CODE_FAILED_PRECONDITION, REASON_WORKER_START_FAILED, "it ended");
  log_tail_explain(t, &e);
  assert_true(strlen(e.msg) > sizeof e.msg - 40);
  assert_string_equal(e.msg + strlen(e.msg) - 11, "\nmany lines");
  free(t);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_cleans),
      cmocka_unit_test(test_keeps_the_last_lines),
      cmocka_unit_test(test_cuts_a_long_line_at_a_character),
      cmocka_unit_test(test_never_writes_past_max),
      cmocka_unit_test(test_explains),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
