// SPDX-License-Identifier: Apache-2.0
// A worker's log on a terminal: what may pass, however it is cut into pieces.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli/plain.h"

static void check(struct str in, struct str expected)
{
  for (size_t piece = 1; piece <= in.n; piece++) {
    struct plain p = {0};
    struct buf out = {0};
    for (size_t at = 0; at < in.n; at += piece)
      assert_true(plain_add(&p, (struct str){in.p + at, in.n - at < piece ? in.n - at : piece}, &out));
    assert_int_equal(out.n, expected.n);
    if (out.n)
      assert_memory_equal(out.p, expected.p, out.n);
    buf_free(&out);
  }
}

#define CHECK(in, out) check(STR(in), STR(out))

static void test_text_passes(void **state)
{
  (void)state;
  CHECK("plain\ttext\nand more\n", "plain\ttext\nand more\n");
  CHECK("gr\xc3\xbc\xc3\x9f, \xc2\xa7 \xf0\x9f\x98\x80\n", "gr\xc3\xbc\xc3\x9f, \xc2\xa7 \xf0\x9f\x98\x80\n");
  CHECK("\033[31mred\033[0;1;38;5;7m\033[m", "\033[31mred\033[0;1;38;5;7m\033[m");
}

static void test_the_rest_does_not(void **state)
{
  (void)state;
  CHECK("a\rb\bc\ad\033e\177f", "abcdf"); // ESC e is a sequence
  CHECK("\033[2J\033[1;1Hx\033[?25ly\033[6nz", "xyz");
  CHECK("\033]0;title\aa\033]8;;http://x\033\\b\033P1;2|q\033\\c", "abc");
  CHECK("\033]0;never ended\nnext", "\nnext");
  CHECK("\033(0x\033 Fy", "xy");
  CHECK("\xc2\x9b"
        "2J|\xc2\x85|",
        "2J||");
  CHECK("\033[31;?mx", "x");                                     // no colour
  CHECK("\033[1234567890123456789012345678901234567890mx", "x"); // nor this
  CHECK("\033[3\033[31mx", "[31mx");                             // cut off by another
}

int main(void)
{
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_text_passes), cmocka_unit_test(test_the_rest_does_not)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
