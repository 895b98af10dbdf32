// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "front/http_strict.h"

enum { FIELDS = 4 };
struct request {
  const char *verb, *target, *version;
  const char *field[FIELDS][2];
  bool good;
};

static const char *fault_of(const struct request *r, struct http_strict *s)
{
  for (int i = 0; i < FIELDS && r->field[i][0]; i++)
    http_strict_field(s, str_c(r->field[i][0]), str_c(r->field[i][1]));
  return http_strict_fault(s, str_c(r->verb), str_c(r->target), str_c(r->version));
}

#define H11 "HTTP/1.1"
#define HOST    \
  {             \
    "Host", "x" \
  }

static void test_requests(void **state)
{
  (void)state;
  static const struct request rows[] = {
      {"GET", "/", H11, {HOST}, true},
      {"POST", "/a?b=%20", H11, {HOST, {"Content-Length", "0"}}, true},
      {"POST", "/", H11, {HOST, {"transfer-encoding", "Chunked"}}, true},
      {"GET", "/", "HTTP/1.0", {{0}}, true},
      {"GET", "/", H11, {HOST, {"X-Empty", ""}, {"x-tab", "a\tb"}, {"x-high", "caf\xc3\xa9"}}, true},
      {"GET", "/", H11, {{0}}, false},
      {"GET", "/", H11, {HOST, HOST}, false},
      {"GET", "/", H11, {{"host", "x"}, {"HOST", "y"}}, false},
      {"POST", "/", H11, {HOST, {"Content-Length", "1"}, {"Content-Length", "1"}}, false},
      {"POST", "/", H11, {HOST, {"Content-Length", "1"}, {"content-length", "2"}}, false},
      {"POST", "/", H11, {HOST, {"Content-Length", "1, 1"}}, false},
      {"POST", "/", H11, {HOST, {"Content-Length", "+1"}}, false},
      {"POST", "/", H11, {HOST, {"Content-Length", "0x1"}}, false},
      {"POST", "/", H11, {HOST, {"Content-Length", ""}}, false},
      {"POST", "/", H11, {HOST, {"Content-Length", "1234567890123456789"}}, false},
      {"POST", "/", H11, {HOST, {"Content-Length", "1"}, {"Transfer-Encoding", "chunked"}}, false},
      {"POST", "/", H11, {HOST, {"Transfer-Encoding", "gzip, chunked"}}, false},
      {"POST", "/", H11, {HOST, {"Transfer-Encoding", "chunked"}, {"Transfer-Encoding", "chunked"}}, false},
      {"POST", "/", H11, {HOST, {"Transfer-Encoding", "identity"}}, false},
      {"POST", "/", "HTTP/1.0", {{"Transfer-Encoding", "chunked"}}, false},
      {"GET", "/", H11, {HOST, {"X y", "1"}}, false},
      {"GET", "/", H11, {HOST, {"X\t", "1"}}, false},
      {"GET", "/", H11, {HOST, {"", "1"}}, false},
      {"GET", "/", H11, {HOST, {"X(", "1"}}, false},
      {"GET", "/", H11, {HOST, {"X\xc3\xa9", "1"}}, false},
      {"GET", "/", H11, {HOST, {"X", "a\rb"}}, false},
      {"GET", "/", H11, {HOST, {"X", "a\nb"}}, false},
      {"GET", "/", H11, {HOST, {"X", "a\x7f"}}, false},
      {"GET", "/", H11, {HOST, {"X", "\x01"}}, false},
      {"G(T", "/", H11, {HOST}, false},
      {"", "/", H11, {HOST}, false},
      {"GET", "/ x", H11, {HOST}, false},
      {"GET", "/\x80", H11, {HOST}, false},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    struct http_strict s = {0};
    const char *fault = fault_of(&rows[i], &s);
    if (rows[i].good != !fault)
      fail_msg("row %zu: %s", i, fault ? fault : "no fault");
  }
}

static void test_nul(void **state)
{
  (void)state;
  struct http_strict s = {0};
  http_strict_field(&s, STR("host"), STR("x"));
  http_strict_field(&s, STR("x"), (struct str){"a\0b", 3});
  assert_non_null(http_strict_fault(&s, STR("GET"), STR("/"), STR(H11)));
}

static void test_seen(void **state)
{
  (void)state;
  struct http_strict s = {0};
  http_strict_field(&s, STR("Host"), STR("x"));
  http_strict_field(&s, STR("Content-Length"), STR("000000000000001234"));
  http_strict_field(&s, STR("Expect"), STR("100-continue"));
  assert_null(http_strict_fault(&s, STR("POST"), STR("/"), STR(H11)));
  assert_int_equal(s.length, 1234);
  assert_true(s.asks);
}

int main(void)
{
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_requests), cmocka_unit_test(test_nul), cmocka_unit_test(test_seen)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
