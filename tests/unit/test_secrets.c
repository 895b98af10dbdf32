// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// cmocka needs those above
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/secrets.h"

static char path[64];

static void write_file(const char *text, size_t n)
{
  strcpy(path, "/tmp/envgate-secret-XXXXXX");
  int fd = mkstemp(path);
  assert_true(fd >= 0);
  assert_int_equal(write(fd, text, n), n);
  close(fd);
}

static struct secrets *read_one(const char *setting, char *value, enum value_source source, struct err *e)
{
  struct pair pair = {(char[]){"TOKEN"}, value, source};
  struct pairs pairs = {&pair, 1};
  err_clear(e);
  return secrets_read(setting, &pairs, e);
}

static void assert_value(const char *setting, char *value, enum value_source source, const char *expected)
{
  struct err e;
  struct secrets *s = read_one(setting, value, source, &e);
  assert_non_null(s);
  assert_string_equal(s->pairs.at[0].name, "TOKEN");
  assert_string_equal(s->pairs.at[0].value, expected);
  assert_int_equal(s->pairs.at[0].source, source);
  assert_ptr_equal(secrets_ref(s), s);
  secrets_unref(s);
  assert_string_equal(s->pairs.at[0].value, expected); // one reference is left
  secrets_unref(s);
}

// Refused, with the reference in the message and without what it held.
static void assert_refused(const char *setting, char *value, enum value_source source, const char *word)
{
  struct err e;
  assert_null(read_one(setting, value, source, &e));
  assert_int_equal(e.code, CODE_FAILED_PRECONDITION);
  assert_ptr_equal(e.reason, REASON_WORKER_START_FAILED);
  assert_non_null(strstr(e.msg, setting));
  assert_non_null(strstr(e.msg, ".TOKEN: "));
  assert_non_null(strstr(e.msg, value));
  assert_null(strstr(e.msg, "hush"));
  if (!strstr(e.msg, word))
    fail_msg("\"%s\" has no \"%s\"", e.msg, word);
}

static void files(void **state)
{
  (void)state;
  static const struct {
    const char *text, *expected;
  } cases[] = {{"hush", "hush"},     {"hush\n", "hush"}, {"hush\r\n", "hush"},  {"hush\n\n", "hush\n"},
               {" hush ", " hush "}, {"", ""},           {"{port}\n", "{port}"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    write_file(cases[i].text, strlen(cases[i].text));
    assert_value("env_vars", path, VALUE_FILE, cases[i].expected);
    unlink(path);
  }
}

static void files_that_do_not_do(void **state)
{
  (void)state;
  assert_refused("env_vars", (char[]){"/no/such/file"}, VALUE_FILE, "No such file or directory");
  assert_refused("env_vars", (char[]){"/tmp"}, VALUE_FILE, "no regular file");
  write_file("hush\0", 5);
  assert_refused("env_vars", path, VALUE_FILE, "NUL");
  unlink(path);
  assert_int_equal(mkfifo(path, 0600), 0); // nobody writes to it, and nobody waits for that
  assert_refused("env_vars", path, VALUE_FILE, "no regular file");
  unlink(path);
  static char large[SECRET_MAX + 1];
  memset(large, 'x', sizeof large);
  write_file(large, sizeof large);
  assert_refused("env_vars", path, VALUE_FILE, "64 KiB");
  unlink(path);
  write_file(large, SECRET_MAX);
  struct err e;
  secrets_unref(read_one("env_vars", path, VALUE_FILE, &e));
  assert_int_equal(e.code, CODE_OK);
  unlink(path);
}

static void headers_keep_to_their_form(void **state)
{
  (void)state;
  write_file("hush\r\nX-Evil: 1", 15);
  assert_refused("headers", path, VALUE_FILE, "holds what the setting may not have");
  assert_value("env_vars", path, VALUE_FILE, "hush\r\nX-Evil: 1");
  unlink(path);
}

static void variables(void **state)
{
  (void)state;
  setenv("ENVGATE_TEST_SECRET", "hush", 1);
  assert_value("headers", (char[]){"ENVGATE_TEST_SECRET"}, VALUE_ENV, "hush");
  unsetenv("ENVGATE_TEST_SECRET");
  assert_refused("headers", (char[]){"ENVGATE_TEST_SECRET"}, VALUE_ENV, "not set");
  assert_value("headers", (char[]){"plain {port}"}, VALUE_PLAIN, "plain {port}");
  secrets_unref(NULL);
  assert_null(secrets_ref(NULL));
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(files),
      cmocka_unit_test(files_that_do_not_do),
      cmocka_unit_test(headers_keep_to_their_form),
      cmocka_unit_test(variables),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
