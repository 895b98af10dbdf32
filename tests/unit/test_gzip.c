// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/gzip.h"

static struct buf zip(const char *p, size_t n)
{
  struct buf out = {0};
  assert_true(gzip_deflate((struct str){p, n}, &out));
  return out;
}

static void test_there_and_back(void **state)
{
  (void)state;
  const size_t sizes[] = {0, 1, 1000, 16384, 16385, 200000};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    char *bytes = malloc(sizes[i] + 1);
    for (size_t k = 0; k < sizes[i]; k++)
      bytes[k] = (char)(k * 2654435761U >> 13);
    struct buf zipped = zip(bytes, sizes[i]), out = {.max = sizes[i] ? sizes[i] : 1};
    assert_int_equal(gzip_inflate(buf_view(&zipped), &out), GZIP_OK);
    assert_int_equal(out.n, sizes[i]);
    assert_memory_equal(out.p ? out.p : "", bytes, sizes[i]);
    buf_free(&out);
    buf_free(&zipped);
    free(bytes);
  }
}

// A small message that is a thousand times as large when it is decompressed.
static void test_bomb(void **state)
{
  (void)state;
  enum { SIZE = 64 << 20, MAX = 100000 };
  char *zeros = calloc(1, SIZE);
  struct buf zipped = zip(zeros, SIZE), out = {.max = MAX};
  assert_true(zipped.n < SIZE / 100);
  assert_int_equal(gzip_inflate(buf_view(&zipped), &out), GZIP_TOO_LARGE);
  assert_true(out.cap <= 2 * MAX);
  buf_free(&out);
  buf_free(&zipped);
  struct buf fits = zip(zeros, MAX), over = zip(zeros, MAX + 1);
  out.max = MAX;
  assert_int_equal(gzip_inflate(buf_view(&fits), &out), GZIP_OK);
  assert_int_equal(out.n, MAX);
  buf_free(&out);
  assert_int_equal(gzip_inflate(buf_view(&over), &out), GZIP_TOO_LARGE);
  buf_free(&out);
  buf_free(&fits);
  buf_free(&over);
  free(zeros);
}

static void test_bad(void **state)
{
  (void)state;
  char text[] = "The quick brown fox jumps over the lazy dog, again and again and again.";
  struct buf zipped = zip(text, sizeof text), out = {.max = 4096};
  for (size_t n = 0; n < zipped.n; n++) { // cut off anywhere
    assert_int_equal(gzip_inflate((struct str){zipped.p, n}, &out), GZIP_BAD);
    buf_free(&out);
  }
  assert_int_equal(gzip_inflate((struct str){text, sizeof text}, &out), GZIP_BAD);
  zipped.p[zipped.n - 6] ^= 1; // its checksum
  assert_int_equal(gzip_inflate(buf_view(&zipped), &out), GZIP_BAD);
  buf_free(&out);
  zipped.p[zipped.n - 6] ^= 1;
  assert_true(buf_char(&zipped, 'x')); // something behind it
  assert_int_equal(gzip_inflate(buf_view(&zipped), &out), GZIP_BAD);
  buf_free(&out);
  buf_free(&zipped);
}

int main(void)
{
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_there_and_back), cmocka_unit_test(test_bomb), cmocka_unit_test(test_bad)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
