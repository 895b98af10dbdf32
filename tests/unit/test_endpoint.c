// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "upstream/http_client.h"

static void accepts(const char *text, const char *url, const char *unix_path)
{
  struct endpoint ep, copy;
  struct err e;
  if (!endpoint_parse(&ep, text, &e))
    fail_msg("%s: %s", text, e.msg);
  assert_string_equal(ep.url, url);
  assert_true(endpoint_copy(&copy, &ep));
  endpoint_free(&ep);
  assert_string_equal(copy.url, url);
  if (unix_path)
    assert_string_equal(copy.unix_path, unix_path);
  else
    assert_null(copy.unix_path);
  endpoint_free(&copy);
}

static void refuses(const char *text)
{
  struct endpoint ep;
  struct err e;
  if (endpoint_parse(&ep, text, &e))
    fail_msg("%s is accepted as %s", text, ep.url);
  assert_int_equal(e.code, CODE_INVALID_ARGUMENT);
  assert_non_null(strstr(e.msg, "http://host:port"));
}

static void addresses(void **state)
{
  (void)state;
  accepts("http://h:1", "http://h:1", NULL);
  accepts("http://h:1/", "http://h:1", NULL);
  accepts("http://h:1/x/y//", "http://h:1/x/y", NULL);
  accepts("https://[::1]:8443/base", "https://[::1]:8443/base", NULL);
  accepts("HTTP://h", "http://h", NULL);
  accepts("ws://h:1/x/", "http://h:1/x", NULL);
  accepts("wss://h", "https://h", NULL);
  accepts("unix:/run/w.sock", "http://localhost", "/run/w.sock");
}

static void what_is_no_address(void **state)
{
  (void)state;
  char long_path[200] = "unix:/";
  memset(long_path + 6, 'x', sizeof long_path - 7);
  const char *bad[] = {"",           "h:1",           "ftp://h/",       "http://",     "http://u:p@h/",     "http://h/?q=1", "http://h/#f",
                       "unix:",      "unix:relative", "http://h:99999", "http://a b/", "http://h\r\nX: y/", "ws:/h",         long_path,
                       "file:///etc"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    refuses(bad[i]);
}

int main(void)
{
  const struct CMUnitTest tests[] = {cmocka_unit_test(addresses), cmocka_unit_test(what_is_no_address)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
