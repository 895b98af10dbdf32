// SPDX-License-Identifier: Apache-2.0
// How many workers an environment has, and which: launching, keeping some warm, replacing the old, and what is done when launches fail.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "config/config.h"
#include "pool/pools.h"
#include "providers/providers.h"
#include "runtime/log.h"
#include "runtime/metrics.h"

// After a failed launch the next one waits, twice as long each time.
#define FIRST_BACKOFF (100 * NSEC_PER_MS)
#define LONGEST_BACKOFF (30 * NSEC_PER_S)
// After so many in a row the breaker opens: nobody is made to wait for the next try, which comes after that time at the earliest.
enum { BREAKER_AFTER = 3 };
#define SHORTEST_OPEN NSEC_PER_S

int64_t pool_limit(const struct pool *p)
{
  return pool_is_static(p) ? (int64_t)p->env->urls.n : p->env->max_workers;
}

int pool_live(const struct pool *p)
{
  int n = 0;
  LIST_EACH (node, &p->workers) {
    struct worker *w = worker_of(node);
    n += w->state != WORKER_GONE;
  }
  return n;
}

int64_t pool_floor(const struct pool *p)
{
  int64_t floor = p->env->min_workers;
  LIST_EACH (node, &p->warm) {
    const struct warm_request *q = CONTAINER_OF(node, struct warm_request, link);
    if (q->workers > floor)
      floor = q->workers;
  }
  return floor < pool_limit(p) ? floor : pool_limit(p);
}

// Those that will be there for a while, ready or not.
static bool is_lasting(const struct worker *w)
{
  return w->state <= WORKER_READY && !w->retiring && !w->aged;
}

static int64_t lasting(const struct pool *p)
{
  int64_t n = 0;
  LIST_EACH (node, &p->workers)
    n += is_lasting(worker_of(node));
  return n;
}

// --- failed launches -----------------------------------------------------------------------------------------------------------------------

bool pool_breaker_open(const struct pool *p)
{
  return p->failures >= BREAKER_AFTER;
}

int64_t pool_launchable(const struct pool *p)
{
  int64_t n = pool_limit(p) - pool_live(p);
  return p->pools->draining || pool_breaker_open(p) || n < 0 ? 0 : n;
}

static void log_breaker(const struct pool *p, const char *event, enum log_level level)
{
  if (p->pools->reactor->log)
    log_event(p->pools->reactor->log, level, event, LF_C("environment", p->env->name), LF_INT("failures", p->failures),
              LF_INT("retry_ms", p->not_before > clock_mono() ? (p->not_before - clock_mono()) / NSEC_PER_MS : 0));
}

// Workers launched together fail together, which counts once.
static void back_off(struct pool *p, nsec launched, const struct err *e)
{
  if (!p->cause)
    p->cause = malloc(sizeof *p->cause);
  if (p->cause)
    *p->cause = *e;
  if (p->failures && launched <= p->failed_at)
    return;
  nsec pause = p->failures < 9 ? FIRST_BACKOFF << p->failures : LONGEST_BACKOFF;
  p->failures++;
  if (pool_breaker_open(p) && pause < SHORTEST_OPEN)
    pause = SHORTEST_OPEN;
  p->failed_at = clock_mono();
  p->not_before = p->failed_at + (pause < LONGEST_BACKOFF ? pause : LONGEST_BACKOFF);
  if (pool_breaker_open(p))
    log_breaker(p, "environment.breaker_open", LOG_WARN);
}

static void forgive(struct pool *p)
{
  bool was_open = pool_breaker_open(p);
  p->failures = 0;
  p->not_before = 0;
  free(p->cause);
  p->cause = NULL;
  if (was_open)
    log_breaker(p, "environment.breaker_closed", LOG_INFO);
}

// Answers those who waited for a launch that failed: all, if nothing else will serve them; else those who are behind the ones that other launches serve.
static void refuse_after_failure(struct pool *p, const struct err *e)
{
  bool others = pool_count(p, WORKER_STARTING) || pool_count(p, WORKER_READY);
  warm_fail(p, e);
  if (!others) {
    schema_fail(p, e);
    pool_refuse(p, 0, INT32_MAX, e);
  } else if (!pool_is_static(p)) {
    pool_refuse(p, pool_slots_coming(p), p->slots_each, e);
  }
}

// --- what workers tell ---------------------------------------------------------------------------------------------------------------------

// Whether it counts as one of the launches at a time. What waits for a download does not, since it would keep others waiting for nothing.
static void count_launch(struct worker *w, bool counts)
{
  struct pool *p = w->pool;
  if (w->launching == counts || pool_is_static(p))
    return;
  w->launching = counts;
  p->launching += counts ? 1 : -1;
  p->pools->launching += counts ? 1 : -1;
}

static void on_progress(struct worker *w)
{
  count_launch(w, w->progress.phase != LAUNCH_PULLING);
  pool_pump(w->pool);
}

static void on_ready(struct worker *w)
{
  struct pool *p = w->pool;
  if (!w->capacity) { // the first time
    count_launch(w, false);
    w->capacity = w->dialect == DIALECT_HTTP ? 1 : p->slots_each;
    forgive(p);
    if (p->env->max_worker_age_s > 0)
      timer_set(w->reactor, &w->age, nsec_add(clock_mono(), nsec_from_s(p->env->max_worker_age_s)));
    if (w->reactor->metrics)
      metric_observe(w->reactor->metrics, METRIC_HISTOGRAM_worker_launch_seconds, clock_mono() - w->launched);
  }
  pool_let_go(p, w);
  pool_pump(p);
}

static void on_failed(struct worker *w, const struct err *e)
{
  struct pool *p = w->pool;
  count_launch(w, false);
  pools_bury(p->pools, w, e);
  back_off(p, w->launched, e);
  refuse_after_failure(p, e);
  pool_pump(p);
}

static void on_died(struct worker *w, const struct err *e)
{
  struct pool *p = w->pool;
  pools_bury(p->pools, w, e);
  pool_pump(p);
}

static void on_gone(struct worker *w)
{
  struct pool *p = w->pool;
  count_launch(w, false);
  ended_add(p->pools, w);
  pool_let_go(p, w);
  pool_pump(p);
  pools_check_drained(p->pools);
}

static void on_idle(struct timer *t)
{
  struct worker *w = CONTAINER_OF(t, struct worker, idle);
  w->idled = true;
  pool_pump(w->pool);
}

static void on_age(struct timer *t)
{
  struct worker *w = CONTAINER_OF(t, struct worker, age);
  w->aged = true;
  pool_pump(w->pool);
}

// --- launching -----------------------------------------------------------------------------------------------------------------------------

// The lowest number that no worker has.
static int free_ordinal(const struct pool *p)
{
  for (int i = 0;; i++) {
    bool used = false;
    LIST_EACH (node, &p->workers) {
      struct worker *w = worker_of(node);
      used |= w->state != WORKER_GONE && w->ordinal == i;
    }
    if (!used)
      return i;
  }
}

static bool launch_as(struct pool *p, uint64_t number, const char *adopt)
{
  static const struct worker_events events = {.progress = on_progress, .ready = on_ready, .failed = on_failed, .died = on_died, .gone = on_gone};
  struct pools *ps = p->pools;
  char id[40];
  snprintf(id, sizeof id, "w%" PRIu64, number);
  const struct launch_spec spec = {
      .reactor = ps->reactor,
      .env = p->env,
      .worker_id = id,
      .instance = ps->state.instance,
      .key = ps->state.key,
      .adopt = adopt,
      .state_dir = ps->state.path,
      .ordinal = free_ordinal(p),
  };
  struct err e;
  nsec now = clock_mono();
  struct worker *w = worker_start(p->provider, &spec, p, &events, &e);
  if (!w) {
    back_off(p, now, &e);
    refuse_after_failure(p, &e);
    return false;
  }
  w->sequence = number;
  w->idle.fire = on_idle;
  w->age.fire = on_age;
  list_append(&p->workers, &w->link);
  count_launch(w, true);
  return true;
}

static void launch(struct pool *p)
{
  launch_as(p, ++p->pools->workers_named, NULL);
}

bool fleet_adopt(struct pool *p, uint64_t number, const char *handle)
{
  return !p->pools->draining && pool_live(p) < pool_limit(p) && launch_as(p, number, handle);
}

// While the breaker is open, one try at a time.
static bool may_launch(const struct pool *p)
{
  bool listing = p->pools->listing && p->provider == p->pools->adopter;
  return !p->pools->draining && !listing && pool_live(p) < pool_limit(p) && clock_mono() >= p->not_before &&
         !(pool_breaker_open(p) && pool_count(p, WORKER_STARTING));
}

static bool wants_launch(const struct pool *p)
{
  if (lasting(p) < pool_floor(p))
    return true;
  if (pool_is_static(p)) // costs nothing, and any of them may be the one that is up
    return p->waiting_count || p->schema_waiters;
  bool for_schema = p->schema_waiters && !pool_count(p, WORKER_READY);
  return p->waiting_count + for_schema > pool_slots_coming(p);
}

static void queue_up(struct pool *p)
{
  bool hungry = wants_launch(p) && may_launch(p);
  if (!hungry)
    list_remove(&p->hungry);
  else if (list_empty(&p->hungry))
    list_append(&p->pools->hungry, &p->hungry);
}

// The environment with the fewest launches under way; of several, the one that has waited longest.
static struct pool *hungriest(const struct pools *ps)
{
  struct pool *best = NULL;
  LIST_EACH (node, &ps->hungry) {
    struct pool *p = CONTAINER_OF(node, struct pool, hungry);
    if ((pool_is_static(p) || ps->launching < ps->reactor->config->max_launches) && (!best || p->launching < best->launching))
      best = p;
  }
  return best;
}

static void launch_in_turn(struct pools *ps)
{
  struct pool *p;
  while ((p = hungriest(ps))) {
    list_remove(&p->hungry);
    launch(p);
    queue_up(p);
  }
}

// --- which to keep -------------------------------------------------------------------------------------------------------------------------

void fleet_retire(struct worker *w)
{
  struct reactor *r = w->reactor;
  if (w->retiring || w->state > WORKER_READY)
    return;
  w->retiring = true;
  if (r->metrics)
    metric_add(r->metrics, METRIC_workers_retired_total, 1);
  if (!w->used && !w->holds)
    worker_stop(w);
}

static void stop_idle(struct pool *p)
{
  int64_t spare = lasting(p) - pool_floor(p);
  LIST_EACH (node, &p->workers) {
    struct worker *w = worker_of(node);
    if (!w->idled || w->state != WORKER_READY || w->retiring)
      continue;
    if (!w->aged && spare-- <= 0)
      continue;
    worker_stop(w);
  }
}

// Old workers go when others have taken their place; where there is no place for both, one after the other. One that nobody has need not wait for others' sessions.
static void replace_aged(struct pool *p)
{
  int64_t serving = 0;
  bool moving = false, ending = false;
  LIST_EACH (node, &p->workers) {
    struct worker *w = worker_of(node);
    serving += w->state == WORKER_READY && !w->retiring;
    moving |= w->state == WORKER_STARTING || w->state == WORKER_STOPPING;
    ending |= w->state == WORKER_READY && w->retiring;
  }
  int64_t spare = serving - pool_floor(p);
  bool no_room = pool_live(p) >= pool_limit(p) && !moving;
  LIST_EACH (node, &p->workers) {
    struct worker *w = worker_of(node);
    if (!w->aged || w->retiring || w->state != WORKER_READY)
      continue;
    bool in_turn = no_room && (!w->used || !ending);
    if (spare <= 0 && !in_turn)
      continue;
    spare--;
    if (in_turn)
      no_room = false;
    fleet_retire(w);
  }
}

void fleet_tidy(struct pool *p)
{
  stop_idle(p);
  replace_aged(p);
}

void fleet_launch(struct pool *p)
{
  queue_up(p);
  launch_in_turn(p->pools);
}
