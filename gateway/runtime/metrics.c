// SPDX-License-Identifier: Apache-2.0
#include "runtime/metrics.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/err.h"

#define PREFIX "envgate_"

// The upper bound of the first bucket; each further one is twice the one before, and the last is +Inf.
#define FIRST_BOUND (50 * NSEC_PER_US)
// The same for times of workers.
#define FIRST_SLOW_BOUND NSEC_PER_MS

_Static_assert(METRIC_CODES == CODE_UNAUTHENTICATED + 1, "one counter for each status code");

// One row for each name that is written: what METRICS has, and what is more than a single number.
struct row {
  const char *name, *type, *labels, *help;
};

#define X(name, type, help) {PREFIX #name, #type, "", help},
static const struct row numbers[METRIC_COUNT] = {METRICS(X)};
#undef X

#define ROW(variable, ...) static const struct row variable = {__VA_ARGS__}
ROW(sessions_row, PREFIX "sessions", "gauge", "state", "Sessions, by state.");
ROW(workers_row, PREFIX "workers", "gauge", "state", "Workers, by state.");
ROW(calls_row, PREFIX "calls_total", "counter", "method, code", "Calls finished, by method and gRPC status code.");
ROW(duration_row, PREFIX "call_duration_seconds", "histogram", "method", "The time from a call's arrival to its end.");
ROW(env_workers_row, PREFIX "environment_workers", "gauge", "environment, state", "Workers of each environment, by state.");
ROW(env_sessions_row, PREFIX "environment_sessions", "gauge", "environment", "Slots of workers that sessions hold.");
ROW(env_waiting_row, PREFIX "environment_waiting", "gauge", "environment", "Sessions that wait for a worker.");
ROW(env_breaker_row, PREFIX "environment_breaker_open", "gauge", "environment",
    "1 while launches keep failing and sessions are not made to wait for them.");
ROW(build_row, PREFIX "build_info", "gauge", "version", "Always 1.");
ROW(cpu_row, "process_cpu_seconds_total", "counter", "", "User and system CPU time of the process, in seconds.");
ROW(resident_row, "process_resident_memory_bytes", "gauge", "", "Resident memory of the process, in bytes.");
ROW(open_fds_row, "process_open_fds", "gauge", "", "Open file descriptors of the process.");
ROW(max_fds_row, "process_max_fds", "gauge", "", "The most file descriptors that the process may open.");
ROW(start_row, "process_start_time_seconds", "gauge", "", "When the process began, in seconds since 1970.");

#define X(name, help) {PREFIX #name, "histogram", "", help},
static const struct row histograms[METRIC_HISTOGRAM_COUNT] = {METRIC_HISTOGRAMS(X)};
#undef X

static const struct row *const others[] = {&sessions_row,    &workers_row,  &env_workers_row, &env_sessions_row, &env_waiting_row,
                                           &env_breaker_row, &calls_row,    &duration_row,    &build_row,        &cpu_row,
                                           &resident_row,    &open_fds_row, &max_fds_row,     &start_row};

#define X(name) #name,
static const char *const session_states[] = {METRIC_SESSION_STATES(X)};
static const char *const worker_states[] = {METRIC_WORKER_STATES(X)};
#undef X

// --- counting ------------------------------------------------------------------------------------------------------------------------------

static void count(_Atomic int64_t *v, int64_t n)
{
  atomic_store_explicit(v, atomic_load_explicit(v, memory_order_relaxed) + n, memory_order_relaxed);
}

static void count_u(_Atomic uint64_t *v, uint64_t n)
{
  atomic_store_explicit(v, atomic_load_explicit(v, memory_order_relaxed) + n, memory_order_relaxed);
}

static void move(_Atomic int64_t *states, int from, int to)
{
  if (from >= 0)
    count(&states[from], -1);
  if (to >= 0)
    count(&states[to], 1);
}

void metric_session_state(struct metrics *m, int from, int to)
{
  move(m->sessions, from, to);
}

void metric_worker_state(struct metrics *m, int from, int to)
{
  move(m->workers, from, to);
}

static int bucket_of(nsec took, nsec first)
{
  int bucket = 0;
  while (bucket < METRIC_BUCKETS - 1 && took > first << bucket)
    bucket++;
  return bucket;
}

void metric_observe(struct metrics *m, enum metric_histogram which, nsec took)
{
  count_u(&m->histograms[which].bucket[bucket_of(took, FIRST_SLOW_BOUND)], 1);
  count_u(&m->histograms[which].sum_ns, took);
}

void metric_call(struct metrics *m, int method, int code, nsec took)
{
  if (method < 0 || method >= m->method_count)
    return;
  if (code < 0 || code >= METRIC_CODES)
    code = CODE_UNKNOWN;
  struct method_metrics *mm = &m->methods[method];
  count_u(&mm->calls[code], 1);
  count_u(&mm->bucket[bucket_of(took, FIRST_BOUND)], 1);
  count_u(&mm->sum_ns, took);
}

bool metrics_init(struct metrics *m, int method_count)
{
  memset(m, 0, sizeof *m);
  m->methods = calloc(method_count > 0 ? (size_t)method_count : 1, sizeof *m->methods);
  m->method_count = m->methods ? method_count : 0;
  return m->methods != NULL;
}

bool metrics_init_envs(struct metrics *m, int n)
{
  m->envs = calloc((size_t)n, sizeof *m->envs);
  m->env_count = m->envs ? n : 0;
  return m->envs != NULL;
}

void metrics_free(struct metrics *m)
{
  free(m->envs);
  m->envs = NULL;
  m->env_count = 0;
  free(m->methods);
  m->methods = NULL;
  m->method_count = 0;
}

// --- a scrape ------------------------------------------------------------------------------------------------------------------------------

static int64_t load(const _Atomic int64_t *v)
{
  return atomic_load_explicit(v, memory_order_relaxed);
}

static uint64_t load_u(const _Atomic uint64_t *v)
{
  return atomic_load_explicit(v, memory_order_relaxed);
}

// HELP and TYPE. Help texts are literals without backslash or newline.
static bool put_head(struct buf *out, const struct row *row)
{
  return buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", row->name, row->help, row->name, row->type);
}

// A label's value with its escapes.
static bool put_label(struct buf *out, const char *name, const char *value)
{
  bool ok = buf_printf(out, "%s=\"", name);
  for (const char *p = value; ok && *p; p++) {
    if (*p == '\\' || *p == '"')
      ok = buf_char(out, '\\') && buf_char(out, *p);
    else
      ok = *p == '\n' ? buf_str(out, STR("\\n")) : buf_char(out, *p);
  }
  return ok && buf_char(out, '"');
}

static bool put_numbers(struct metrics *const *all, int n, struct buf *out)
{
  bool ok = true;
  for (int i = 0; ok && i < METRIC_COUNT; i++) {
    int64_t sum = 0;
    for (int k = 0; k < n; k++)
      sum += load(&all[k]->value[i]);
    ok = put_head(out, &numbers[i]) && buf_printf(out, "%s %lld\n", numbers[i].name, (long long)sum);
  }
  return ok;
}

static bool put_state(const struct row *row, const char *state, int64_t sum, struct buf *out)
{
  return buf_printf(out, "%s{", row->name) && put_label(out, "state", state) && buf_printf(out, "} %lld\n", (long long)sum);
}

static bool put_states(struct metrics *const *all, int n, struct buf *out)
{
  bool ok = put_head(out, &sessions_row);
  for (int i = 0; ok && i < METRIC_SESSION_STATE_COUNT; i++) {
    int64_t sum = 0;
    for (int k = 0; k < n; k++)
      sum += load(&all[k]->sessions[i]);
    ok = put_state(&sessions_row, session_states[i], sum, out);
  }
  ok = ok && put_head(out, &workers_row);
  for (int i = 0; ok && i < METRIC_WORKER_STATE_COUNT; i++) {
    int64_t sum = 0;
    for (int k = 0; k < n; k++)
      sum += load(&all[k]->workers[i]);
    ok = put_state(&workers_row, worker_states[i], sum, out);
  }
  return ok;
}

// The sum over the reactors, read once, so that a histogram's +Inf and count agree whatever is counted meanwhile.
struct method_sum {
  uint64_t calls[METRIC_CODES], bucket[METRIC_BUCKETS], count;
  double sum_s;
};

static struct method_sum sum_method(struct metrics *const *all, int n, int method)
{
  struct method_sum s = {0};
  for (int k = 0; k < n; k++) {
    if (method >= all[k]->method_count)
      continue;
    const struct method_metrics *m = &all[k]->methods[method];
    for (int i = 0; i < METRIC_CODES; i++)
      s.calls[i] += load_u(&m->calls[i]);
    for (int i = 0; i < METRIC_BUCKETS; i++)
      s.bucket[i] += load_u(&m->bucket[i]);
    s.sum_s += (double)load_u(&m->sum_ns) / (double)NSEC_PER_S;
  }
  for (int i = 0; i < METRIC_BUCKETS; i++)
    s.count += s.bucket[i];
  return s;
}

static bool put_calls(const char *method, const struct method_sum *s, struct buf *out)
{
  bool ok = true;
  for (int i = 0; ok && i < METRIC_CODES; i++)
    if (s->calls[i])
      ok = buf_printf(out, "%s{", calls_row.name) && put_label(out, "method", method) && buf_char(out, ',') &&
           put_label(out, "code", code_name((enum code)i)) && buf_printf(out, "} %llu\n", (unsigned long long)s->calls[i]);
  return ok;
}

// The lines of one histogram. `label` is "" or a whole label, as `method="x"`.
static bool put_histogram(const char *name, struct str label, const uint64_t bucket[METRIC_BUCKETS], nsec first, double sum_s, struct buf *out)
{
  uint64_t below = 0;
  const char *comma = label.n ? "," : "";
  bool ok = true;
  for (int i = 0; ok && i < METRIC_BUCKETS; i++) {
    char bound[32] = "+Inf";
    if (i < METRIC_BUCKETS - 1)
      snprintf(bound, sizeof bound, "%.9g", (double)(first << i) / (double)NSEC_PER_S);
    below += bucket[i];
    ok = buf_printf(out, "%s_bucket{%.*s%sle=\"%s\"} %llu\n", name, STR_ARG(label), comma, bound, (unsigned long long)below);
  }
  const char *open = label.n ? "{" : "", *close = label.n ? "}" : "";
  return ok && buf_printf(out, "%s_sum%s%.*s%s %.9g\n%s_count%s%.*s%s %llu\n", name, open, STR_ARG(label), close, sum_s, name, open, STR_ARG(label),
                          close, (unsigned long long)below);
}

static bool put_duration(const char *method, const struct method_sum *s, struct buf *out)
{
  struct buf label = {0};
  bool ok =
      !s->count || (put_label(&label, "method", method) && put_histogram(duration_row.name, buf_view(&label), s->bucket, FIRST_BOUND, s->sum_s, out));
  buf_free(&label);
  return ok;
}

static bool put_histograms(struct metrics *const *all, int n, struct buf *out)
{
  bool ok = true;
  for (int i = 0; ok && i < METRIC_HISTOGRAM_COUNT; i++) {
    uint64_t bucket[METRIC_BUCKETS] = {0};
    double sum_s = 0;
    for (int k = 0; k < n; k++) {
      for (int b = 0; b < METRIC_BUCKETS; b++)
        bucket[b] += load_u(&all[k]->histograms[i].bucket[b]);
      sum_s += (double)load_u(&all[k]->histograms[i].sum_ns) / (double)NSEC_PER_S;
    }
    ok = put_head(out, &histograms[i]) && put_histogram(histograms[i].name, STR(""), bucket, FIRST_SLOW_BOUND, sum_s, out);
  }
  return ok;
}

static bool put_env_value(const struct row *row, const struct env_metrics *e, const char *state, enum metric_pool which, struct buf *out)
{
  return buf_printf(out, "%s{", row->name) && put_label(out, "environment", e->name) &&
         (!state || (buf_char(out, ',') && put_label(out, "state", state))) && buf_printf(out, "} %lld\n", (long long)load(&e->value[which]));
}

static bool put_env_row(struct metrics *const *all, int n, const struct row *row, const char *const *states, enum metric_pool first, struct buf *out)
{
  bool ok = put_head(out, row);
  for (int k = 0; k < n; k++)
    for (int i = 0; ok && i < all[k]->env_count; i++)
      for (int s = 0; ok && (s == 0 || (states && s < METRIC_WORKER_STATE_COUNT)); s++)
        ok = put_env_value(row, &all[k]->envs[i], states ? states[s] : NULL, first + (enum metric_pool)s, out);
  return ok;
}

// The first of METRIC_POOL are METRIC_WORKER_STATES in the same order.
_Static_assert((int)METRIC_POOL_stopping == (int)METRIC_WORKER_stopping && METRIC_WORKER_STATE_COUNT == 3, "states differ");

static bool put_envs(struct metrics *const *all, int n, struct buf *out)
{
  return put_env_row(all, n, &env_workers_row, worker_states, METRIC_POOL_starting, out) &&
         put_env_row(all, n, &env_sessions_row, NULL, METRIC_POOL_sessions, out) &&
         put_env_row(all, n, &env_waiting_row, NULL, METRIC_POOL_waiting, out) &&
         put_env_row(all, n, &env_breaker_row, NULL, METRIC_POOL_breaker_open, out);
}

static bool put_methods(struct metrics *const *all, int n, const char *(*method_name)(int), struct buf *out)
{
  int methods = 0;
  for (int k = 0; k < n; k++)
    methods = all[k]->method_count > methods ? all[k]->method_count : methods;
  bool ok = put_head(out, &calls_row);
  for (int i = 0; ok && i < methods; i++) {
    struct method_sum s = sum_method(all, n, i);
    ok = put_calls(method_name(i), &s, out);
  }
  ok = ok && put_head(out, &duration_row);
  for (int i = 0; ok && i < methods; i++) {
    struct method_sum s = sum_method(all, n, i);
    ok = put_duration(method_name(i), &s, out);
  }
  return ok;
}

// --- the process ---------------------------------------------------------------------------------------------------------------------------

static bool put_double(const struct row *row, double v, struct buf *out)
{
  return put_head(out, row) && buf_printf(out, "%s %.15g\n", row->name, v);
}

// The descriptors that are open, without the one that this looks with. -1: unknown.
static int open_descriptors(void)
{
  DIR *dir = opendir("/proc/self/fd");
  if (!dir)
    return -1;
  int n = -1;
  for (const struct dirent *entry = readdir(dir); entry; entry = readdir(dir))
    n += entry->d_name[0] != '.';
  closedir(dir);
  return n;
}

// One small file of /proc as text.
static bool read_proc(const char *path, char *text, int size)
{
  FILE *f = fopen(path, "re");
  if (!f)
    return false;
  size_t n = fread(text, 1, (size_t)size - 1, f);
  text[n] = '\0';
  fclose(f);
  return n > 0;
}

// Resident pages: the second field of statm.
static double resident_bytes(void)
{
  char text[256];
  unsigned long pages = 0;
  if (!read_proc("/proc/self/statm", text, sizeof text) || sscanf(text, "%*u %lu", &pages) != 1)
    return -1;
  return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

// The age of the process, from proc(5)'s starttime (field 22, in ticks since boot, behind a name that may hold anything), taken from the wall clock.
static double start_time(void)
{
  char text[1024];
  unsigned long long ticks = 0;
  if (!read_proc("/proc/self/stat", text, sizeof text))
    return -1;
  const char *p = strrchr(text, ')');
  if (!p || sscanf(p + 1, " %*c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu", &ticks) != 1)
    return -1;
  struct timespec boot;
  clock_gettime(CLOCK_BOOTTIME, &boot);
  double up = (double)boot.tv_sec + (double)boot.tv_nsec / 1e9;
  double started = (double)ticks / (double)sysconf(_SC_CLK_TCK);
  return round(((double)clock_wall() / 1e9 - (up - started)) * 100) / 100; // a tick's precision, so that it stays the same from scrape to scrape
}

static bool put_process(struct buf *out)
{
  struct timespec cpu;
  struct rlimit files;
  double resident = resident_bytes(), started = start_time();
  int fds = open_descriptors();
  bool ok = true;
  if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu) == 0)
    ok = put_double(&cpu_row, (double)cpu.tv_sec + (double)cpu.tv_nsec / 1e9, out);
  if (ok && resident >= 0)
    ok = put_double(&resident_row, resident, out);
  if (ok && fds >= 0)
    ok = put_double(&open_fds_row, fds, out);
  if (ok && getrlimit(RLIMIT_NOFILE, &files) == 0)
    ok = put_double(&max_fds_row, (double)files.rlim_cur, out);
  if (ok && started >= 0)
    ok = put_double(&start_row, started, out);
  return ok;
}

bool metrics_write(struct metrics *const *all, int n, const char *(*method_name)(int), const char *version, struct buf *out)
{
  return put_numbers(all, n, out) && put_states(all, n, out) && put_envs(all, n, out) && put_histograms(all, n, out) &&
         put_methods(all, n, method_name, out) && put_head(out, &build_row) && buf_printf(out, "%s{", build_row.name) &&
         put_label(out, "version", version) && buf_str(out, STR("} 1\n")) && put_process(out);
}

// --- documentation -------------------------------------------------------------------------------------------------------------------------

static bool document(const struct row *row, struct buf *out)
{
  return buf_printf(out, "| `%s` | %s | %s | %s |\n", row->name, row->type, row->labels, row->help);
}

bool metrics_markdown(struct buf *out)
{
  bool ok = buf_str(out, STR("| Metric | Type | Labels | What it is |\n|---|---|---|---|\n"));
  for (int i = 0; ok && i < METRIC_COUNT; i++)
    ok = document(&numbers[i], out);
  for (int i = 0; ok && i < METRIC_HISTOGRAM_COUNT; i++)
    ok = document(&histograms[i], out);
  for (size_t i = 0; ok && i < sizeof others / sizeof *others; i++)
    ok = document(others[i], out);
  return ok;
}
