// SPDX-License-Identifier: Apache-2.0
// base/arena, base/buf, base/err and base/utf8.
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/utf8.h"

static void arena_hands_out_zeroed_aligned_memory(void **state)
{
  (void)state;
  struct arena a;
  arena_init(&a, 1 << 20);
  for (size_t n = 0; n < 300; n++) {
    unsigned char *p = arena_alloc(&a, n);
    assert_non_null(p);
    assert_int_equal((uintptr_t)p % 16, 0);
    for (size_t i = 0; i < n; i++) {
      assert_int_equal(p[i], 0);
      p[i] = 0xEE;
    }
  }
  arena_free(&a);
}

static void arena_keeps_its_maximum(void **state)
{
  (void)state;
  struct arena a;
  arena_init(&a, 10000);
  assert_null(arena_alloc(&a, 10000)); // with its head it is more
  assert_null(arena_alloc(&a, SIZE_MAX));
  assert_null(arena_alloc(&a, SIZE_MAX - 20));
  assert_non_null(arena_alloc(&a, 4000));
  assert_non_null(arena_alloc(&a, 4000));
  assert_null(arena_alloc(&a, 4000));
  arena_free(&a);
  assert_int_equal(a.left, 10000);
  assert_non_null(arena_alloc(&a, 9000)); // it may be used again
  arena_free(&a);
}

static void arena_strings(void **state)
{
  (void)state;
  struct arena a;
  arena_init(&a, 1 << 20);
  assert_string_equal(arena_dup(&a, STR("abc")), "abc");
  assert_string_equal(arena_dup(&a, (struct str){NULL, 0}), "");
  assert_string_equal(arena_printf(&a, "%s-%d", "x", 5), "x-5");
  ProtobufCAllocator *allocator = arena_allocator(&a);
  void *p = allocator->alloc(allocator->allocator_data, 0);
  assert_non_null(p);
  allocator->free(allocator->allocator_data, p);
  arena_free(&a);
}

static void buf_grows_up_to_its_maximum(void **state)
{
  (void)state;
  struct buf b = {.max = 1000};
  for (int i = 0; i < 1000; i++)
    assert_true(buf_char(&b, (char)('a' + i % 26)));
  assert_false(buf_char(&b, '!'));
  assert_false(buf_str(&b, STR("!")));
  assert_null(buf_reserve(&b, 1));
  assert_null(buf_reserve(&b, SIZE_MAX));
  assert_true(buf_add(&b, NULL, 0));
  assert_int_equal(b.n, 1000);
  buf_consume(&b, 26);
  assert_int_equal(b.n, 974);
  assert_int_equal(b.p[0], 'a');
  buf_consume(&b, 974);
  assert_int_equal(b.n, 0);
  buf_free(&b);
  assert_null(b.p);
  assert_int_equal(b.max, 1000);
}

static void buf_prints(void **state)
{
  (void)state;
  struct buf b = {.max = 8};
  assert_true(buf_printf(&b, "%d", 1234));
  assert_false(buf_printf(&b, "%d", 123456));
  assert_true(buf_printf(&b, "%d", 567));
  assert_true(str_eq(buf_view(&b), STR("1234567")));
  buf_free(&b);
}

static void buf_writes_json_strings(void **state)
{
  (void)state;
  static const struct {
    struct str in;
    const char *out;
  } cases[] = {
      {{"", 0}, "\"\""},
      {{"plain", 5}, "\"plain\""},
      {{"\"\\/\b\n\r\t\x1f\x7f", 9}, "\"\\\"\\\\/\\u0008\\n\\r\\t\\u001f\\u007f\""},
      {{"a\0b", 3}, "\"a\\u0000b\""},
      {{"\xc3\xa9\xf0\x9f\x98\x80", 6}, "\"\xc3\xa9\xf0\x9f\x98\x80\""},
      {{"a\xff\xc3", 3}, "\"a\xEF\xBF\xBD\xEF\xBF\xBD\""},
      {{"\xed\xa0\x80", 3}, "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\""},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct buf b = {0};
    assert_true(buf_json_string(&b, cases[i].in));
    if (!str_eq(buf_view(&b), str_c(cases[i].out)))
      fail_msg("%zu: %.*s", i, (int)b.n, b.p);
    buf_free(&b);
  }
  struct buf b = {.max = 4};
  assert_true(buf_char(&b, 'x'));
  assert_false(buf_json_string(&b, STR("ab")));
  assert_int_equal(b.n, 1); // as it was
  assert_true(buf_json_string(&b, STR("a")));
  buf_free(&b);
}

static void shared_is_freed_by_the_last(void **state)
{
  (void)state;
  struct buf b = {0};
  assert_true(buf_str(&b, STR("bytes")));
  struct shared *s = shared_take(NULL, &b);
  assert_non_null(s);
  assert_null(b.p);
  assert_int_equal(b.n, 0);
  assert_ptr_equal(shared_ref(s), s);
  shared_unref(s);
  assert_true(str_eq(buf_view(&s->buf), STR("bytes")));
  shared_unref(s); // a sanitizer tells whether it is gone
  shared_unref(NULL);
}

static void utf8_is_checked(void **state)
{
  (void)state;
  static const char *const good[] = {
      "", "a", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80", "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"};
  static const char *const bad[] = {"\x80",     "\xc0\x80",         "\xc1\xbf",         "\xc2",
                                    "\xc2\x41", "\xe0\x9f\xbf",     "\xed\xa0\x80",     "\xed\xbf\xbf",
                                    "\xe2\x82", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80",
                                    "\xff",     "\xf0\x9f\x98",     "\xe2\x28\xa1"};
  for (size_t i = 0; i < sizeof good / sizeof *good; i++)
    assert_true(utf8_valid(good[i], strlen(good[i])));
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    assert_false(utf8_valid(bad[i], strlen(bad[i])));
  assert_true(utf8_valid("a\0b", 3));
}

static void errors_are_cut_at_a_character(void **state)
{
  (void)state;
  struct err e;
  char text[3 * 1000 + 1];
  for (int i = 0; i < 1000; i++)
    memcpy(text + 3 * i, "\xe6\xbc\xa2", 4);
  assert_false(err_set(&e, CODE_INTERNAL, REASON_INTERNAL, "%s", text));
  assert_int_equal(strlen(e.msg), (sizeof e.msg - 1) / 3 * 3);
  assert_true(utf8_valid(e.msg, strlen(e.msg)));
  assert_false(err_field(&e, REASON_INVALID_REQUEST, text, "%s", "short"));
  assert_int_equal(strlen(e.field), (sizeof e.field - 1) / 3 * 3);
  assert_string_equal(e.msg, "short");
  assert_false(err_set(NULL, CODE_INTERNAL, NULL, "x"));
  assert_false(err_nomem(NULL));
  err_clear(&e);
  assert_int_equal(e.code, CODE_OK);
  assert_string_equal(e.msg, "");
}

static void codes_have_names(void **state)
{
  (void)state;
  assert_string_equal(code_name(CODE_OK), "OK");
  assert_string_equal(code_name(CODE_UNAUTHENTICATED), "UNAUTHENTICATED");
  assert_string_equal(code_name((enum code)17), "UNKNOWN");
  assert_int_equal(code_http_status(CODE_INVALID_ARGUMENT), 400);
  assert_int_equal(code_http_status(CODE_CANCELLED), 499);
  assert_int_equal(code_http_status((enum code)99), 500);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(arena_hands_out_zeroed_aligned_memory),
      cmocka_unit_test(arena_keeps_its_maximum),
      cmocka_unit_test(arena_strings),
      cmocka_unit_test(buf_grows_up_to_its_maximum),
      cmocka_unit_test(buf_prints),
      cmocka_unit_test(buf_writes_json_strings),
      cmocka_unit_test(shared_is_freed_by_the_last),
      cmocka_unit_test(utf8_is_checked),
      cmocka_unit_test(errors_are_cut_at_a_character),
      cmocka_unit_test(codes_have_names),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
