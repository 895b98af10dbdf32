// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// cmocka needs those above
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "runtime/metrics.h"

static const char *method_name(int i)
{
  static const char *const names[] = {"a.B/C", "quote\"back\\slash\nline", "never.Called/It"};
  return names[i];
}

// What is written, ending in NUL; freed by the caller.
static char *scrape(struct metrics *const *all, int n)
{
  struct buf out = {0};
  assert_true(metrics_write(all, n, method_name, "1.2\"3", &out));
  assert_true(buf_char(&out, '\0'));
  return out.p;
}

static void assert_line(const char *text, const char *line)
{
  char want[300];
  snprintf(want, sizeof want, "\n%s\n", line);
  if (!strstr(text, want))
    fail_msg("no line %s in\n%s", line, text);
}

// A sample's value; the sample must be there.
static double value_of(const char *text, const char *name)
{
  char want[300];
  snprintf(want, sizeof want, "\n%s ", name);
  const char *at = strstr(text, want);
  assert_non_null(at);
  return strtod(at + strlen(want), NULL);
}

static void test_sums(void **state)
{
  (void)state;
  struct metrics a, b, *all[] = {&a, &b};
  assert_true(metrics_init(&a, 3) && metrics_init(&b, 3));
  metric_add(&a, METRIC_connections, 5);
  metric_add(&a, METRIC_connections, -2);
  metric_add(&b, METRIC_connections, 4);
  metric_add(&b, METRIC_sent_bytes_total, INT64_C(1) << 40);
  metric_session_state(&a, -1, METRIC_SESSION_provisioning);
  metric_session_state(&a, METRIC_SESSION_provisioning, METRIC_SESSION_ready);
  metric_session_state(&b, -1, METRIC_SESSION_ready);
  metric_session_state(&b, METRIC_SESSION_ready, -1);
  metric_worker_state(&a, -1, METRIC_WORKER_stopping);
  char *text = scrape(all, 2);
  assert_line(text, "# TYPE envgate_connections gauge");
  assert_line(text, "envgate_connections 7");
  assert_line(text, "envgate_sent_bytes_total 1099511627776");
  assert_line(text, "envgate_calls_in_flight 0");
  assert_line(text, "envgate_sessions{state=\"provisioning\"} 0");
  assert_line(text, "envgate_sessions{state=\"ready\"} 1");
  assert_line(text, "envgate_workers{state=\"stopping\"} 1");
  assert_line(text, "envgate_build_info{version=\"1.2\\\"3\"} 1");
  free(text);
  metrics_free(&a);
  metrics_free(&b);
}

static void test_calls(void **state)
{
  (void)state;
  struct metrics a, b, *all[] = {&a, &b};
  assert_true(metrics_init(&a, 3) && metrics_init(&b, 3));
  metric_call(&a, 0, 0, 0);
  metric_call(&a, 0, 0, 50 * NSEC_PER_US); // bounds are inclusive
  metric_call(&b, 0, 14, 50 * NSEC_PER_US + 1);
  metric_call(&b, 0, 4, 3600 * NSEC_PER_S);
  metric_call(&b, 1, 99, 13107200 * NSEC_PER_US); // no such code
  metric_call(&b, 3, 0, 1);                       // no such method
  metric_call(&b, -1, 0, 1);
  char *text = scrape(all, 2);
  assert_line(text, "envgate_calls_total{method=\"a.B/C\",code=\"OK\"} 2");
  assert_line(text, "envgate_calls_total{method=\"a.B/C\",code=\"DEADLINE_EXCEEDED\"} 1");
  assert_line(text, "envgate_calls_total{method=\"a.B/C\",code=\"UNAVAILABLE\"} 1");
  assert_line(text, "envgate_calls_total{method=\"quote\\\"back\\\\slash\\nline\",code=\"UNKNOWN\"} 1");
  assert_null(strstr(text, "code=\"NOT_FOUND\""));
  assert_null(strstr(text, "never.Called"));
  assert_line(text, "envgate_call_duration_seconds_bucket{method=\"a.B/C\",le=\"5e-05\"} 2");
  assert_line(text, "envgate_call_duration_seconds_bucket{method=\"a.B/C\",le=\"0.0001\"} 3");
  assert_line(text, "envgate_call_duration_seconds_bucket{method=\"a.B/C\",le=\"13.1072\"} 3");
  assert_line(text, "envgate_call_duration_seconds_bucket{method=\"a.B/C\",le=\"+Inf\"} 4");
  assert_line(text, "envgate_call_duration_seconds_sum{method=\"a.B/C\"} 3600.0001");
  assert_line(text, "envgate_call_duration_seconds_count{method=\"a.B/C\"} 4");
  assert_line(text, "envgate_call_duration_seconds_bucket{method=\"quote\\\"back\\\\slash\\nline\",le=\"13.1072\"} 1");
  free(text);
  metrics_free(&a);
  metrics_free(&b);
}

static void test_process(void **state)
{
  (void)state;
  struct metrics a, *all[] = {&a};
  assert_true(metrics_init(&a, 0));
  char *text = scrape(all, 1);
  double fds = value_of(text, "process_open_fds"), started = value_of(text, "process_start_time_seconds");
  double now = (double)clock_wall() / 1e9;
  assert_true(value_of(text, "process_resident_memory_bytes") > 100000);
  assert_true(value_of(text, "process_cpu_seconds_total") > 0);
  assert_true(value_of(text, "process_max_fds") >= fds);
  assert_true(started <= now + 1 && started > now - 3600);
  free(text);
  int fd = dup(1);
  text = scrape(all, 1);
  assert_true(value_of(text, "process_open_fds") == fds + 1);
  free(text);
  close(fd);
  metrics_free(&a);
  metrics_free(&a);
}

static void test_environments_and_times(void **state)
{
  (void)state;
  struct metrics a, b, *all[] = {&a, &b};
  assert_true(metrics_init(&a, 1) && metrics_init(&b, 1) && metrics_init_envs(&a, 2));
  a.envs[0].name = "one";
  a.envs[1].name = "two";
  atomic_store(&a.envs[1].value[METRIC_POOL_ready], 3);
  atomic_store(&a.envs[1].value[METRIC_POOL_waiting], 2);
  atomic_store(&a.envs[0].value[METRIC_POOL_breaker_open], 1);
  metric_observe(&a, METRIC_HISTOGRAM_worker_launch_seconds, NSEC_PER_MS);
  metric_observe(&b, METRIC_HISTOGRAM_worker_launch_seconds, 3 * NSEC_PER_S);
  metric_observe(&b, METRIC_HISTOGRAM_worker_launch_seconds, 1000 * NSEC_PER_S);
  char *text = scrape(all, 2);
  assert_line(text, "envgate_environment_workers{environment=\"one\",state=\"ready\"} 0");
  assert_line(text, "envgate_environment_workers{environment=\"two\",state=\"ready\"} 3");
  assert_line(text, "envgate_environment_waiting{environment=\"two\"} 2");
  assert_line(text, "envgate_environment_breaker_open{environment=\"one\"} 1");
  assert_line(text, "envgate_worker_launch_seconds_bucket{le=\"0.001\"} 1");
  assert_line(text, "envgate_worker_launch_seconds_bucket{le=\"2.048\"} 1");
  assert_line(text, "envgate_worker_launch_seconds_bucket{le=\"4.096\"} 2");
  assert_line(text, "envgate_worker_launch_seconds_bucket{le=\"+Inf\"} 3");
  assert_line(text, "envgate_worker_launch_seconds_sum 1003.001");
  assert_line(text, "envgate_worker_launch_seconds_count 3");
  free(text);
  metrics_free(&a);
  metrics_free(&b);
}

// HELP and TYPE once for each name, its samples right behind them, counters and they alone end in _total.
static void test_form(void **state)
{
  (void)state;
  struct metrics a, *all[] = {&a};
  assert_true(metrics_init(&a, 2));
  metric_call(&a, 1, 3, 7);
  char *text = scrape(all, 1), name[100] = "", type[20] = "";
  struct buf markdown = {0};
  assert_true(metrics_markdown(&markdown) && buf_char(&markdown, '\0'));
  int names = 0;
  for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
    char other[100], quoted[120];
    *end = '\0';
    if (sscanf(line, "# HELP %99s", other) == 1) {
      char head[110];
      assert_true(strcmp(name, other) != 0);
      snprintf(name, sizeof name, "%s", other);
      snprintf(head, sizeof head, "# HELP %s ", name);
      assert_null(strstr(end + 1, head));
      snprintf(quoted, sizeof quoted, "| `%s` |", name);
      assert_non_null(strstr(markdown.p, quoted));
      type[0] = '\0';
      names++;
    } else if (sscanf(line, "# TYPE %99s %19s", other, type) == 2) {
      assert_string_equal(other, name);
      assert_true(str_ends(str_c(name), STR("_total")) == (strcmp(type, "counter") == 0));
    } else {
      assert_true(type[0] && strncmp(line, name, strlen(name)) == 0);
      assert_true(strcmp(type, "histogram") == 0 || line[strlen(name)] == ' ' || line[strlen(name)] == '{');
    }
  }
  assert_int_equal(names, METRIC_COUNT + METRIC_HISTOGRAM_COUNT + 14);
  buf_free(&markdown);
  free(text);
  metrics_free(&a);
}

static void test_no_memory(void **state)
{
  (void)state;
  struct metrics a, *all[] = {&a};
  assert_true(metrics_init(&a, 1));
  metric_call(&a, 0, 0, 1);
  char *text = scrape(all, 1);
  size_t n = strlen(text);
  for (size_t max = 1; max < n; max += 97) {
    struct buf out = {.max = max};
    assert_false(metrics_write(all, 1, method_name, "1", &out));
    buf_free(&out);
  }
  free(text);
  metrics_free(&a);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_sums), cmocka_unit_test(test_calls),     cmocka_unit_test(test_process), cmocka_unit_test(test_environments_and_times),
      cmocka_unit_test(test_form), cmocka_unit_test(test_no_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
