// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/blocks.h"

static void small_blocks_come_back(void **state)
{
  (void)state;
  struct blocks b = {0};
  char *p = blocks_malloc(&b, 100);
  assert_non_null(p);
  memset(p, 'x', 100);
  blocks_free(&b, p);
  assert_ptr_equal(blocks_malloc(&b, 65), p); // of the same 64 bytes' step
  char *other = blocks_malloc(&b, 64);
  assert_ptr_not_equal(other, p); // one step below
  blocks_free(&b, other);
  blocks_free(&b, NULL);
  blocks_free(&b, p);
  char *zeroed = blocks_calloc(&b, 10, 10);
  assert_ptr_equal(zeroed, p);
  for (int i = 0; i < 100; i++)
    assert_int_equal(zeroed[i], 0);
  assert_null(blocks_calloc(&b, SIZE_MAX / 2, 3));
  assert_null(blocks_malloc(&b, SIZE_MAX));
  blocks_free(&b, zeroed);
  blocks_clear(&b);
  assert_null(b.spares[0].first);
}

static void realloc_keeps_the_bytes(void **state)
{
  (void)state;
  struct blocks b = {0};
  char *p = blocks_realloc(&b, NULL, 10);
  assert_non_null(p);
  memcpy(p, "0123456789", 10);
  assert_ptr_equal(blocks_realloc(&b, p, 64), p); // there is room
  for (size_t n = 65; n < 100000; n = n * 3 / 2) {
    p = blocks_realloc(&b, p, n);
    assert_non_null(p);
    assert_memory_equal(p, "0123456789", 10);
    memset(p + 10, 'y', n - 10);
  }
  assert_null(blocks_realloc(&b, p, SIZE_MAX));
  blocks_free(&b, p);
  blocks_clear(&b);
}

// No more than so many are kept, whatever goes back.
static void spares_are_few(void **state)
{
  (void)state;
  struct blocks b = {0};
  enum { MANY = BLOCK_SPARES + 50 };
  void *p[MANY];
  for (int i = 0; i < MANY; i++)
    assert_non_null(p[i] = blocks_malloc(&b, 1));
  for (int i = 0; i < MANY; i++)
    blocks_free(&b, p[i]);
  assert_int_equal(b.spares[0].n, BLOCK_SPARES);
  blocks_clear(&b);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(small_blocks_come_back),
      cmocka_unit_test(realloc_keeps_the_bytes),
      cmocka_unit_test(spares_are_few),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
