// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// cmocka needs those above
#include <cmocka.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/json.h"
#include "runtime/log.h"

static struct {
  int read_end;
  char text[1 << 16];
  size_t n;
} out;

static struct log open_log(enum log_format format)
{
  int fds[2];
  assert_int_equal(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
  out.read_end = fds[0];
  return (struct log){.fd = fds[1], .level = LOG_INFO, .format = format};
}

// Closes the log and takes what it wrote.
static struct str close_log(struct log *l)
{
  close(l->fd);
  out.n = 0;
  for (ssize_t n; (n = read(out.read_end, out.text + out.n, sizeof out.text - 1 - out.n)) > 0;)
    out.n += (size_t)n;
  close(out.read_end);
  out.text[out.n] = '\0';
  return (struct str){out.text, out.n};
}

// The line behind its timestamp, which is checked and taken off.
static const char *behind_time(const char *line, const char *head)
{
  int y, mo, d, h, mi, s, ms, used = 0;
  assert_true(strncmp(line, head, strlen(head)) == 0);
  line += strlen(head);
  assert_int_equal(sscanf(line, "%4d-%2d-%2dT%2d:%2d:%2d.%3dZ%n", &y, &mo, &d, &h, &mi, &s, &ms, &used), 7);
  assert_int_equal(used, 24);
  assert_true(y >= 2024 && mo >= 1 && mo <= 12 && d <= 31 && h <= 23 && mi <= 59 && s <= 60);
  return line + used;
}

static void expect(enum log_format format, struct str value, const char *want)
{
  struct log l = open_log(format);
  log_event(&l, LOG_INFO, "e", LF_STR("k", value));
  struct str got = close_log(&l);
  const char *head = format == LOG_JSON ? "{\"ts\":\"" : "ts=";
  assert_string_equal(behind_time(got.p, head), want);
}

static void test_lines(void **state)
{
  (void)state;
  struct log l = open_log(LOG_LOGFMT);
  log_event(&l, LOG_DEBUG, "hidden", LF_INT("i", 1));
  log_event(&l, LOG_WARN, "worker.exited", LF_C("worker", "w1"), LF_INT("code", -9), LF_NUM("s", 0.1), LF_C("empty", ""), LF_NUM("nan", NAN));
  assert_string_equal(behind_time(close_log(&l).p, "ts="), " level=warn event=worker.exited worker=w1 code=-9 s=0.1 nan=NaN\n");
  l = open_log(LOG_JSON);
  log_event(&l, LOG_ERROR, "x", LF_C("a", "b"), LF_INT("i", INT64_MIN), LF_NUM("n", 1e300), LF_NUM("inf", INFINITY));
  assert_string_equal(behind_time(close_log(&l).p, "{\"ts\":\""),
                      "\",\"level\":\"error\",\"event\":\"x\",\"a\":\"b\",\"i\":-9223372036854775808,\"n\":1e+300,\"inf\":null}\n");
}

static void test_escapes(void **state)
{
  (void)state;
  static const struct {
    struct str value;
    const char *logfmt, *json;
  } cases[] = {
      {{"a b", 3}, "\"a b\"", "\"a b\""},
      {{"a=b", 3}, "\"a=b\"", "\"a=b\""},
      {{"a\nts=0", 6}, "\"a\\nts=0\"", "\"a\\nts=0\""},
      {{"\"\\", 2}, "\"\\\"\\\\\"", "\"\\\"\\\\\""},
      {{"\0", 1}, "\"\\u0000\"", "\"\\u0000\""},
      {{"\x1b[2J", 4}, "\"\\u001b[2J\"", "\"\\u001b[2J\""},
      {{"\x7f", 1}, "\"\\u007f\"", "\"\\u007f\""},
      {{"\xC2\x85", 2}, "\"\\u0085\"", "\"\\u0085\""}, // NEL
      {{"\xC2\x9B", 2}, "\"\\u009b\"", "\"\\u009b\""}, // CSI
      {{"\xE2\x80\xA8\xE2\x80\xA9", 6}, "\"\\u2028\\u2029\"", "\"\\u2028\\u2029\""},
      {{"\xE2\x80\xA6", 3}, "\xE2\x80\xA6", "\"\xE2\x80\xA6\""},
      {{"\xC3\xA9\xF0\x9F\x98\x80", 6}, "\xC3\xA9\xF0\x9F\x98\x80", "\"\xC3\xA9\xF0\x9F\x98\x80\""},
      {{"a\xFF\xC3", 3}, "\"a\xEF\xBF\xBD\xEF\xBF\xBD\"", "\"a\xEF\xBF\xBD\xEF\xBF\xBD\""},
      {{"\xED\xA0\x80", 3}, "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\"", "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\""},
      {{"http://h:1/a?b", 14}, "http://h:1/a?b", "\"http://h:1/a?b\""},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char want[200];
    snprintf(want, sizeof want, " level=info event=e k=%s\n", cases[i].logfmt);
    expect(LOG_LOGFMT, cases[i].value, want);
    snprintf(want, sizeof want, "\",\"level\":\"info\",\"event\":\"e\",\"k\":%s}\n", cases[i].json);
    expect(LOG_JSON, cases[i].value, want);
  }
}

// Whatever the fields hold, a line is one line, is valid, and has at most 4 KiB.
static void test_bounded(void **state)
{
  (void)state;
  static const char *const units[] = {"a", "\n", "\xC3\xA9", "\xF0\x9F\x98\x80", "\xFF", "\x01", "\xE2\x80\xA8", " "};
  for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
    for (size_t length = 980; length < 1060; length++) {
      char value[8192];
      size_t n = 0, unit = strlen(units[u]);
      for (; n + unit <= length; n += unit)
        memcpy(value + n, units[u], unit);
      struct log_field fields[12];
      for (int i = 0; i < 12; i++)
        fields[i] = i == 7 ? LF_INT("number", INT64_MIN) : LF_STR("key", ((struct str){value, n}));
      for (int format = 0; format < 2; format++) {
        struct log l = open_log((enum log_format)format);
        log_write(&l, LOG_INFO, "big", fields, 12);
        struct str line = close_log(&l);
        struct err e;
        assert_true(line.n > 1000 && line.n <= 4096);
        assert_ptr_equal(memchr(line.p, '\n', line.n), line.p + line.n - 1);
        assert_non_null(strstr(line.p, "truncated"));
        if (format == LOG_JSON)
          assert_true(json_check(line, 2, "line", NULL, &e));
      }
    }
  }
}

static void test_cut_value(void **state)
{
  (void)state;
  char value[3000];
  memset(value, 'x', sizeof value);
  struct log l = open_log(LOG_LOGFMT);
  log_event(&l, LOG_INFO, "e", LF_STR("k", ((struct str){value, sizeof value})), LF_C("next", "y"));
  struct str line = close_log(&l);
  assert_true(line.n < 1200);
  assert_non_null(strstr(line.p, "x\xE2\x80\xA6 next=y\n"));
}

static void *write_lines(void *arg)
{
  const struct log *l = arg;
  char value[600];
  memset(value, 'v', sizeof value);
  for (int i = 0; i < 20; i++)
    log_event(l, LOG_INFO, "thread", LF_STR("k", ((struct str){value, sizeof value})));
  return NULL;
}

static void test_threads(void **state)
{
  (void)state;
  struct log l = open_log(LOG_JSON);
  pthread_t threads[4];
  for (int i = 0; i < 4; i++)
    assert_int_equal(pthread_create(&threads[i], NULL, write_lines, &l), 0);
  for (int i = 0; i < 4; i++)
    pthread_join(threads[i], NULL);
  struct str all = close_log(&l);
  int lines = 0;
  for (const char *p = all.p, *end; (end = memchr(p, '\n', (size_t)(all.p + all.n - p))); p = end + 1, lines++) {
    struct err e;
    assert_true(json_check((struct str){p, (size_t)(end - p)}, 2, "line", NULL, &e));
  }
  assert_int_equal(lines, 80);
}

// Nobody reads it, and the pipe is full: the line is lost, the gateway is not.
static void test_full_pipe(void **state)
{
  (void)state;
  struct log l = open_log(LOG_LOGFMT);
  char value[1000];
  memset(value, 'v', sizeof value);
  for (int i = 0; i < 200; i++)
    log_event(&l, LOG_INFO, "full", LF_STR("k", ((struct str){value, sizeof value})));
  close_log(&l);
}

// A write that failed may have cut a line; the next one stands by itself.
static void test_after_a_cut_line(void **state)
{
  (void)state;
  FILE *file = tmpfile();
  assert_non_null(file);
  struct log_gather gather = {.second = -1};
  struct log l = {.fd = fileno(file), .format = LOG_LOGFMT, .gather = &gather};
  struct rlimit before;
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
  struct rlimit small = {.rlim_cur = 20, .rlim_max = before.rlim_max};
  signal(SIGXFSZ, SIG_IGN);
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
  log_event(&l, LOG_WARN, "cut", LF_INT("n", 1));
  log_event(&l, LOG_WARN, "gone", LF_INT("n", 2));
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
  log_event(&l, LOG_WARN, "whole", LF_INT("n", 3));
  log_event(&l, LOG_WARN, "next", LF_INT("n", 4));
  char text[1024] = "";
  ssize_t n = pread(l.fd, text, sizeof text - 1, 0);
  assert_in_range(n, 21, sizeof text - 1);
  assert_memory_equal(text + 20, "\nts=", 4);
  assert_null(strstr(text, "gone"));
  char *whole = strstr(text, " event=whole n=3\nts="), *next = strstr(text, " event=next n=4\n");
  assert_true(whole && next > whole && !strstr(text + 21, "\n\n"));
  buf_free(&gather.lines);
  fclose(file);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_lines),   cmocka_unit_test(test_escapes),   cmocka_unit_test(test_bounded),          cmocka_unit_test(test_cut_value),
      cmocka_unit_test(test_threads), cmocka_unit_test(test_full_pipe), cmocka_unit_test(test_after_a_cut_line),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
