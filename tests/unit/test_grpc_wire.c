// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "front/grpc_wire.h"

static void sniffs_three_bytes(void **state)
{
  (void)state;
  assert_int_equal(grpc_sniff(STR("")), GRPC_SNIFF_MORE);
  assert_int_equal(grpc_sniff(STR("P")), GRPC_SNIFF_MORE);
  assert_int_equal(grpc_sniff(STR("PR")), GRPC_SNIFF_MORE);
  assert_int_equal(grpc_sniff(STR("PRI")), GRPC_SNIFF_HTTP2);
  assert_int_equal(grpc_sniff(STR("PRI * HTTP/2.0\r\n")), GRPC_SNIFF_HTTP2);
  assert_int_equal(grpc_sniff(STR("G")), GRPC_SNIFF_OTHER);
  assert_int_equal(grpc_sniff(STR("PO")), GRPC_SNIFF_OTHER);
  assert_int_equal(grpc_sniff(STR("PROPFIND")), GRPC_SNIFF_OTHER);
  assert_int_equal(grpc_sniff(STR("\x16\x03\x01")), GRPC_SNIFF_OTHER);
}

static void timeouts(void **state)
{
  (void)state;
  static const struct {
    const char *text;
    nsec ns;
  } good[] = {
      {"1H", 3600 * NSEC_PER_S},
      {"2M", 120 * NSEC_PER_S},
      {"3S", 3 * NSEC_PER_S},
      {"4m", 4 * NSEC_PER_MS},
      {"5u", 5 * NSEC_PER_US},
      {"6n", 6},
      {"0n", 0},
      {"99999999S", 99999999 * NSEC_PER_S},
      {"00000001S", NSEC_PER_S},
      {"99999999n", 99999999},
      {"99999999H", NSEC_NEVER},
  };
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    nsec ns = 0;
    assert_true(grpc_timeout(str_c(good[i].text), &ns));
    assert_int_equal(ns, good[i].ns);
  }
  static const char *const bad[] = {"", "S", "1", "1s", "1h", "-1S", "+1S", "1.5S", " 1S", "1S ", "1 S", "100000000S", "1SS", "0x1S"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    nsec ns;
    assert_false(grpc_timeout(str_c(bad[i]), &ns));
  }
}

static void content_types(void **state)
{
  (void)state;
  enum codec codec = CODEC_REST;
  assert_true(grpc_content_type(STR("application/grpc"), &codec) && codec == CODEC_PROTO);
  assert_true(grpc_content_type(STR("application/grpc+json"), &codec) && codec == CODEC_JSON);
  assert_true(grpc_content_type(STR("application/grpc+proto"), &codec) && codec == CODEC_PROTO);
  assert_true(grpc_content_type(STR("Application/GRPC+Json ; charset=utf-8"), &codec) && codec == CODEC_JSON);
  assert_true(grpc_content_type(STR("application/grpc;x=y"), &codec) && codec == CODEC_PROTO);
  static const char *const bad[] = {"",
                                    "application/grp",
                                    "application/grpc-web",
                                    "application/grpc-web+proto",
                                    "application/grpc+thrift",
                                    "application/grpc+",
                                    "application/grpcx",
                                    "application/json",
                                    "text/plain"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    assert_false(grpc_content_type(str_c(bad[i]), &codec));
}

// The same messages come out however the bytes are cut.
static void frames_at_every_cut(void **state)
{
  (void)state;
  static const char bytes[] = "\0\0\0\0\3abc"
                              "\0\0\0\0\0"
                              "\0\0\0\0\5hello";
  static const char *const want[] = {"abc", "", "hello"};
  struct str all = {bytes, sizeof bytes - 1};
  for (size_t step = 1; step <= all.n; step++) {
    struct grpc_frames f = {.max = 5};
    int count = 0;
    for (size_t at = 0; at < all.n; at += step) {
      struct str in = {all.p + at, step < all.n - at ? step : all.n - at}, m;
      enum grpc_frame got;
      while ((got = grpc_frames_next(&f, &in, &m)) == GRPC_FRAME_MESSAGE)
        assert_true(str_eq(m, str_c(want[count++])));
      assert_int_equal(got, GRPC_FRAME_NONE);
      assert_int_equal(in.n, 0);
    }
    assert_int_equal(count, 3);
    assert_true(grpc_frames_whole(&f));
    grpc_frames_free(&f);
  }
}

static void frames_half_and_bad(void **state)
{
  (void)state;
  struct grpc_frames f = {.max = 4};
  struct str in = {"\0\0\0\0\4ab", 7}, m;
  assert_int_equal(grpc_frames_next(&f, &in, &m), GRPC_FRAME_NONE);
  assert_false(grpc_frames_whole(&f));
  grpc_frames_free(&f);
  assert_true(grpc_frames_whole(&f));

  f = (struct grpc_frames){.max = 4};
  in = (struct str){"\0\0\0\0\5", 5};
  assert_int_equal(grpc_frames_next(&f, &in, &m), GRPC_FRAME_TOO_LARGE);
  f = (struct grpc_frames){.max = 4};
  in = (struct str){"\0\xff\xff\xff\xff", 5};
  assert_int_equal(grpc_frames_next(&f, &in, &m), GRPC_FRAME_TOO_LARGE);
  f = (struct grpc_frames){.max = 4};
  in = (struct str){"\1\0\0\0\0", 5};
  assert_int_equal(grpc_frames_next(&f, &in, &m), GRPC_FRAME_FLAG);
  f = (struct grpc_frames){.max = 4};
  in = (struct str){"\x80\0\0\0\0", 5};
  assert_int_equal(grpc_frames_next(&f, &in, &m), GRPC_FRAME_FLAG);
}

static void prefixes(void **state)
{
  (void)state;
  uint8_t p[GRPC_PREFIX];
  assert_true(grpc_prefix(p, 0, 0x01020304));
  assert_memory_equal(p, "\0\1\2\3\4", GRPC_PREFIX);
  assert_true(grpc_prefix(p, 0, UINT32_MAX));
  assert_false(grpc_prefix(p, 0, (size_t)UINT32_MAX + 1));
}

static void percent(void **state)
{
  (void)state;
  struct buf b = {0};
  assert_true(grpc_percent_encode(STR("a b%~\n\x7f\xc3\xb6"), &b));
  assert_true(str_eq(buf_view(&b), STR("a b%25~%0A%7F%C3%B6")));
  buf_free(&b);
  assert_true(grpc_percent_encode(STR("x\xff"), &b)); // not UTF-8: byte by byte
  assert_true(str_eq(buf_view(&b), STR("x%FF")));
  buf_free(&b);
  struct buf small = {.max = 10}; // never half a character
  assert_true(grpc_percent_encode(STR("abc\xc3\xb6\xc3\xb6\xc3\xb6"), &small));
  assert_true(str_eq(buf_view(&small), STR("abc%C3%B6")));
  buf_free(&small);
}

static void base64(void **state)
{
  (void)state;
  static const struct {
    const char *in, *out;
  } rows[] = {{"", ""},           {"f", "Zg"},          {"fo", "Zm8"},          {"foo", "Zm9v"},
              {"foob", "Zm9vYg"}, {"fooba", "Zm9vYmE"}, {"foobar", "Zm9vYmFy"}, {"\xff\xfe\xfd", "//79"}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    struct buf b = {.max = 64};
    assert_true(grpc_base64(str_c(rows[i].in), &b) || !rows[i].in[0]);
    assert_true(str_eq(buf_view(&b), str_c(rows[i].out)));
    buf_free(&b);
  }
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(sniffs_three_bytes),  cmocka_unit_test(timeouts), cmocka_unit_test(content_types), cmocka_unit_test(frames_at_every_cut),
      cmocka_unit_test(frames_half_and_bad), cmocka_unit_test(prefixes), cmocka_unit_test(percent),       cmocka_unit_test(base64),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
