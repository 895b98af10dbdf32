// SPDX-License-Identifier: Apache-2.0
#include "pool/worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "providers/providers.h"
#include "runtime/log.h"
#include "runtime/metrics.h"

#define PROBE_TIMEOUT (5 * NSEC_PER_S)
// A worker that has just died refuses connections before its end is told; docker takes a while to tell. So the first failure is not yet believed, and
// callers learn the exit code.
#define PROBE_AGAIN (300 * NSEC_PER_MS)

static void log_worker(const struct worker *w, enum log_level level, const char *event, const struct err *e)
{
  if (!w->reactor->log)
    return;
  // Only the first line is the gateway's own words; the worker's output stays out of the log.
  struct str cause = e ? (struct str){e->msg, strcspn(e->msg, "\n")} : (struct str){"", 0};
  log_event(w->reactor->log, level, event, LF_C("environment", w->env->name), LF_C("provider", w->env->provider), LF_C("worker", w->id),
            LF_INT("ms", (clock_mono() - w->launched) / NSEC_PER_MS), LF_STR("cause", cause));
}

static void count(const struct worker *w, enum metric which)
{
  if (w->reactor->metrics)
    metric_add(w->reactor->metrics, which, 1);
}

static void set_state(struct worker *w, enum worker_state state)
{
  static const int metric[] = {[WORKER_STARTING] = METRIC_WORKER_starting,
                               [WORKER_READY] = METRIC_WORKER_ready,
                               [WORKER_STOPPING] = METRIC_WORKER_stopping,
                               [WORKER_GONE] = -1};
  if (w->reactor->metrics)
    metric_worker_state(w->reactor->metrics, metric[w->state], metric[state]);
  w->state = state;
}

// --- its end -------------------------------------------------------------------------------------------------------------------------------

static void on_stopped(void *ctx)
{
  struct worker *w = ctx;
  w->launch = NULL;
  set_state(w, WORKER_GONE);
  log_worker(w, LOG_INFO, "worker.stopped", NULL);
  worker_log_end(w->log);
  w->events->gone(w);
}

void worker_stop(struct worker *w)
{
  if (w->state >= WORKER_STOPPING)
    return;
  readiness_cancel(w->readiness);
  w->readiness = NULL;
  if (w->probe)
    http_cancel(w->probe);
  w->probe = NULL;
  timer_unset(w->reactor, &w->probe_again);
  timer_unset(w->reactor, &w->idle);
  timer_unset(w->reactor, &w->age);
  set_state(w, WORKER_STOPPING);
  w->launch->provider->stop(w->launch, on_stopped, w);
}

static void fail(struct worker *w, const struct err *e)
{
  bool was_ready = w->state == WORKER_READY;
  log_worker(w, LOG_WARN, was_ready ? "worker.exited" : "worker.failed", e);
  count(w, was_ready ? METRIC_workers_exited_total : METRIC_workers_failed_total);
  worker_stop(w);
  if (was_ready)
    w->events->died(w, e);
  else
    w->events->failed(w, e);
}

void worker_free(struct worker *w)
{
  timer_unset(w->reactor, &w->idle);
  timer_unset(w->reactor, &w->age);
  timer_unset(w->reactor, &w->probe_again);
  list_remove(&w->link);
  endpoint_free(&w->endpoint);
  secrets_unref(w->env_vars);
  worker_log_unref(w->log);
  free(w);
}

// --- is it still well? ---------------------------------------------------------------------------------------------------------------------

static void on_probed(void *ctx, const struct http_reply *reply);

static bool ask_health(struct worker *w)
{
  const struct http_options o = {.method = "GET", .path = "/health", .timeout = PROBE_TIMEOUT, .done = on_probed, .ctx = w};
  w->probe = http_start(w->reactor, &w->endpoint, &o);
  return w->probe != NULL;
}

static void trust(struct worker *w)
{
  w->suspect = false;
  w->events->ready(w);
}

static void on_probe_again(struct timer *t)
{
  struct worker *w = CONTAINER_OF(t, struct worker, probe_again);
  if (!ask_health(w))
    trust(w); // out of memory; the next session will tell
}

// Whether a probe without an answer says anything: a worker that takes its time may well be stepping (openenv-core 0.1 does so on its event loop), and must not be
// ended over the heads of its sessions.
static bool may_be_busy(const struct worker *w, const struct http_reply *reply)
{
  return w->used > 0 && reply->err && reply->err->code == CODE_DEADLINE_EXCEEDED;
}

static void on_probed(void *ctx, const struct http_reply *reply)
{
  struct worker *w = ctx;
  struct err e;
  w->probe = NULL;
  if (reply->status == 200) {
    trust(w);
    return;
  }
  if (reply->status) {
    err_set(&e, CODE_FAILED_PRECONDITION, REASON_WORKER_START_FAILED, "the worker's /health answered %d", reply->status);
  } else if (!w->probe_again.fire || may_be_busy(w, reply)) {
    w->probe_again.fire = on_probe_again;
    if (timer_set(w->reactor, &w->probe_again, clock_mono() + PROBE_AGAIN))
      return;
    err_nomem(&e);
  } else {
    err_set(&e, CODE_FAILED_PRECONDITION, REASON_WORKER_START_FAILED, "the worker does not answer /health any more: %s",
            reply->err ? reply->err->msg : "no reply");
  }
  fail(w, &e);
}

void worker_probe(struct worker *w)
{
  if (w->state != WORKER_READY || w->suspect)
    return;
  w->probe_again.fire = NULL; // set once the first try has failed
  w->suspect = ask_health(w); // out of memory: it is taken to be well
}

// --- its start -----------------------------------------------------------------------------------------------------------------------------

// A worker that somebody else runs did not fail to start: it is out of reach.
static void explain_timeout(const struct worker *w, const struct err *cause, struct err *e)
{
  char output[1400];
  bool ours = w->launch->provider != &provider_static;
  w->launch->provider->log_tail(w->launch, output, sizeof output);
  err_set(e, ours ? CODE_FAILED_PRECONDITION : CODE_UNAVAILABLE, ours ? REASON_WORKER_START_FAILED : REASON_WORKER_UNREACHABLE,
          "%.400s; ready_timeout_s is %g%s%s", cause->msg, w->env->ready_timeout_s, *output ? "\nIts last output:\n" : "", output);
}

static void on_readiness(void *ctx, enum worker_dialect dialect, const struct err *cause)
{
  struct worker *w = ctx;
  w->readiness = NULL;
  if (cause) {
    struct err e;
    explain_timeout(w, cause, &e);
    fail(w, &e);
    return;
  }
  w->dialect = dialect;
  w->ready_wall = clock_wall();
  set_state(w, WORKER_READY);
  log_worker(w, LOG_INFO, "worker.ready", NULL);
  w->events->ready(w);
}

static void set_progress(struct worker *w, const struct launch_progress *p)
{
  w->progress = *p;
  w->events->progress(w);
}

static void on_progress(void *ctx, const struct launch_progress *p)
{
  struct worker *w = ctx;
  if (w->state == WORKER_STARTING)
    set_progress(w, p);
}

static void on_output(void *ctx, struct str bytes)
{
  struct worker *w = ctx;
  worker_log_add(w->log, bytes);
}

static void on_started(void *ctx, const struct endpoint *ep)
{
  struct worker *w = ctx;
  struct err e;
  if (w->state == WORKER_READY) {
    // Its sessions are gone all the same, so it counts as dead.
    err_set(&e, CODE_FAILED_PRECONDITION, REASON_WORKER_START_FAILED, "the worker ended, and its port was taken at once");
    fail(w, &e);
    return;
  }
  readiness_cancel(w->readiness);
  w->readiness = NULL;
  endpoint_free(&w->endpoint);
  // It boots from now on; that its image had to be pulled first is not its fault.
  set_progress(w, &(struct launch_progress){.phase = LAUNCH_BOOTING});
  if (endpoint_copy(&w->endpoint, ep)) {
    w->endpoint.ca_file = w->env->ca_file;
    w->endpoint.headers = secrets_read("headers", &w->env->headers, &e);
    if (!w->endpoint.headers) {
      fail(w, &e);
      return;
    }
    w->readiness = readiness_start(w->reactor, &w->endpoint, nsec_add(clock_mono(), nsec_from_s(w->env->ready_timeout_s)), on_readiness, w);
  }
  if (!w->readiness) {
    err_nomem(&e);
    fail(w, &e);
  }
}

static void on_ended(void *ctx, const struct err *e)
{
  fail(ctx, e);
}

struct worker *worker_start(const struct provider *provider, const struct launch_spec *spec, struct pool *pool, const struct worker_events *events,
                            struct err *e)
{
  static const struct launch_events launch_events = {.progress = on_progress, .output = on_output, .started = on_started, .ended = on_ended};
  struct worker *w = calloc(1, sizeof *w);
  if (!w) {
    err_nomem(e);
    return NULL;
  }
  *w = (struct worker){.pool = pool,
                       .ordinal = spec->ordinal,
                       .reactor = spec->reactor,
                       .env = spec->env,
                       .events = events,
                       .launched = clock_mono(),
                       .launched_wall = clock_wall(),
                       .progress.phase = LAUNCH_STARTING};
  list_init(&w->link);
  snprintf(w->id, sizeof w->id, "%s", spec->worker_id);
  w->log = worker_log_new(w->reactor, (size_t)w->env->log_bytes);
  if (!w->log)
    err_nomem(e);
  w->env_vars = w->log ? secrets_read("env_vars", &w->env->env_vars, e) : NULL;
  if (w->env_vars) {
    struct launch_spec with_vars = *spec;
    with_vars.env_vars = &w->env_vars->pairs;
    w->launch = provider->start(&with_vars, &launch_events, w, e);
  }
  if (!w->launch) {
    count(w, METRIC_workers_failed_total);
    log_worker(w, LOG_WARN, "worker.failed", e);
    secrets_unref(w->env_vars);
    worker_log_unref(w->log);
    free(w);
    return NULL;
  }
  count(w, METRIC_workers_started_total);
  if (w->reactor->metrics)
    metric_worker_state(w->reactor->metrics, -1, METRIC_WORKER_starting);
  log_worker(w, LOG_INFO, "worker.starting", NULL);
  return w;
}
