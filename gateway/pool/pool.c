// SPDX-License-Identifier: Apache-2.0
// One environment's workers and who waits for them.
#include "pool/pool.h"

#include <stdio.h>
#include <string.h>

#include "pool/pools.h"
#include "providers/providers.h"
#include "runtime/metrics.h"

// After a failed launch the next one waits, twice as long each time.
#define FIRST_BACKOFF (100 * NSEC_PER_MS)
#define LONGEST_BACKOFF (10 * NSEC_PER_S)
// A worker that says it is full, while by our account it should not be, is left alone: first for as long as the slot of a closed session takes to become
// free, then twice as long each time.
#define FIRST_FULL_PAUSE (20 * NSEC_PER_MS)
#define LONGEST_FULL_PAUSE NSEC_PER_S

static struct worker *worker_of(struct list *node)
{
  return CONTAINER_OF(node, struct worker, link);
}

static bool is_static(const struct pool *p)
{
  return p->provider == &provider_static;
}

static int64_t worker_limit(const struct pool *p)
{
  return is_static(p) ? (int64_t)p->env->urls.n : p->env->max_workers;
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

struct pool_stats pool_stats(const struct pool *p)
{
  struct pool_stats s = {.waiting = p->waiting_count};
  LIST_EACH (node, &p->workers) {
    struct worker *w = worker_of(node);
    s.ready += w->state == WORKER_READY;
    s.starting += w->state == WORKER_STARTING;
    s.stopping += w->state == WORKER_STOPPING;
    s.sessions += (int)w->used;
  }
  return s;
}

// --- who waits -----------------------------------------------------------------------------------------------------------------------------

static void count_waiting(struct pool *p, int change)
{
  struct metrics *m = p->pools->reactor->metrics;
  p->waiting_count += change;
  if (m)
    metric_add(m, METRIC_worker_queue_length, change);
}

static struct slot_request *next_waiting(struct pool *p)
{
  struct list *node = list_pop(&p->waiting);
  if (!node)
    return NULL;
  count_waiting(p, -1);
  return CONTAINER_OF(node, struct slot_request, link);
}

// Answers at most `n` with an error, after the first `skip`. Whoever comes meanwhile, out of a callback, is not among them.
static void refuse(struct pool *p, int64_t skip, int64_t n, const struct err *e)
{
  struct list refused;
  list_init(&refused);
  struct list *node = p->waiting.next;
  for (int64_t i = 0; node != &p->waiting && i < skip + n; i++) {
    struct list *next = node->next;
    if (i >= skip) {
      list_remove(node);
      list_append(&refused, node);
    }
    node = next;
  }
  while ((node = list_pop(&refused))) {
    struct slot_request *q = CONTAINER_OF(node, struct slot_request, link);
    count_waiting(p, -1);
    q->granted(q, NULL, e);
  }
}

// --- serving -------------------------------------------------------------------------------------------------------------------------------

static bool may_serve(const struct worker *w, nsec now)
{
  return w->state == WORKER_READY && !w->suspect && w->used < w->capacity && w->full_until <= now;
}

// The one with the fewest sessions.
static struct worker *choose(const struct pool *p)
{
  nsec now = clock_mono();
  struct worker *best = NULL;
  LIST_EACH (node, &p->workers) {
    struct worker *w = worker_of(node);
    if (may_serve(w, now) && (!best || w->used < best->used))
      best = w;
  }
  return best;
}

static void grant(struct pool *p, struct worker *w)
{
  struct slot_request *q = next_waiting(p);
  struct slot slot = {.worker = w, .dialect = w->dialect};
  snprintf(slot.worker_id, sizeof slot.worker_id, "%s", w->id);
  if (!endpoint_copy(&slot.endpoint, &w->endpoint)) {
    struct err e;
    err_nomem(&e);
    q->granted(q, NULL, &e);
    return;
  }
  w->used++;
  timer_unset(w->reactor, &w->idle);
  q->granted(q, &slot, NULL);
}

static void on_idle(struct timer *t)
{
  worker_stop(CONTAINER_OF(t, struct worker, idle));
}

void pool_let_go(struct pool *p, struct worker *w)
{
  if (w->used || w->holds)
    return;
  if (w->state == WORKER_GONE)
    worker_free(w);
  else if (w->state == WORKER_READY && !is_static(p))
    timer_set(w->reactor, &w->idle, nsec_add(clock_mono(), nsec_from_s(p->env->worker_idle_s))); // out of memory: it just stays
}

// The worker refused a session: it takes fewer than thought, or others use it, too, or a session that has just been closed still holds its slot.
static void learn_full(struct pool *p, struct worker *w, int64_t max_sessions)
{
  // The number is that of one server process; where there are several, another one may have room, and which one answers is the kernel's choice.
  int64_t processes = p->env->uv_workers;
  if (max_sessions > 0 && max_sessions < w->capacity && processes > 1)
    max_sessions = max_sessions * processes < w->capacity ? max_sessions * processes : w->capacity;
  if (max_sessions > 0 && max_sessions < w->capacity)
    w->capacity = max_sessions;
  else if (max_sessions <= 0 && processes <= 1 && w->used > 0 && w->used < w->capacity)
    w->capacity = w->used;
  if (max_sessions > 0 && max_sessions < p->slots_each)
    p->slots_each = max_sessions;
  if (w->used >= w->capacity)
    return; // that explains it
  nsec pause = w->full_pause * 2 < LONGEST_FULL_PAUSE ? w->full_pause * 2 : LONGEST_FULL_PAUSE;
  w->full_pause = w->full_pause ? pause : FIRST_FULL_PAUSE;
  w->full_until = clock_mono() + w->full_pause;
}

void pool_release(struct pool *p, struct slot *slot, enum slot_return how, int64_t max_sessions)
{
  struct worker *w = slot->worker;
  w->used--;
  endpoint_free(&slot->endpoint);
  slot->worker = NULL;
  if (how == SLOT_FULL) {
    learn_full(p, w, max_sessions);
  } else {
    w->full_until = w->full_pause = 0;
    if (how == SLOT_LOST)
      worker_probe(w);
  }
  pool_let_go(p, w);
  pool_pump(p);
}

void pool_acquire(struct pool *p, struct slot_request *q)
{
  q->pool = p;
  if (p->pools->draining) {
    struct err e;
    err_set(&e, CODE_UNAVAILABLE, REASON_DRAINING, "the gateway is shutting down");
    q->granted(q, NULL, &e);
    return;
  }
  list_append(&p->waiting, &q->link);
  count_waiting(p, 1);
  pool_pump(p);
}

void pool_cancel(struct slot_request *q)
{
  if (list_empty(&q->link))
    return;
  list_remove(&q->link);
  count_waiting(q->pool, -1);
}

// --- launching -----------------------------------------------------------------------------------------------------------------------------

static void on_ready(struct worker *w)
{
  struct pool *p = w->pool;
  if (!w->capacity) { // the first time
    w->capacity = w->dialect == DIALECT_HTTP ? 1 : p->slots_each;
    p->failures = 0;
    p->not_before = 0;
  }
  pool_let_go(p, w);
  pool_pump(p);
}

// Slots that there will be soon: of workers who start, are being probed, or whose slot is just being freed.
static int64_t slots_coming(const struct pool *p)
{
  nsec now = clock_mono();
  int64_t n = 0;
  LIST_EACH (node, &p->workers) {
    struct worker *w = worker_of(node);
    bool pausing = w->full_until > now && w->full_pause < LONGEST_FULL_PAUSE;
    if (w->state == WORKER_STARTING)
      n += p->slots_each;
    else if (w->state == WORKER_READY && (w->suspect || pausing) && w->used < w->capacity)
      n += w->capacity - w->used;
  }
  return n;
}

static int count_state(const struct pool *p, enum worker_state state)
{
  int n = 0;
  LIST_EACH (node, &p->workers) {
    struct worker *w = worker_of(node);
    n += w->state == state;
  }
  return n;
}

// Answers those who waited for a launch that failed: all, if nothing else will serve them; else those who are behind the ones that other launches serve.
static void refuse_after_failure(struct pool *p, const struct err *e)
{
  bool others = count_state(p, WORKER_STARTING) || count_state(p, WORKER_READY);
  if (!others) {
    schema_fail(p, e);
    refuse(p, 0, INT32_MAX, e);
  } else if (!is_static(p)) {
    refuse(p, slots_coming(p), p->slots_each, e);
  }
}

// Workers launched together fail together, which counts once.
static void back_off(struct pool *p, nsec launched)
{
  if (p->failures && launched <= p->failed_at)
    return;
  nsec pause = LONGEST_BACKOFF;
  if (p->failures < 7)
    pause = FIRST_BACKOFF << p->failures;
  p->failures++;
  p->failed_at = clock_mono();
  p->not_before = p->failed_at + (pause < LONGEST_BACKOFF ? pause : LONGEST_BACKOFF);
}

static void on_failed(struct worker *w, const struct err *e)
{
  struct pool *p = w->pool;
  pools_bury(p->pools, w, e);
  back_off(p, w->launched);
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
  pool_let_go(p, w);
  pool_pump(p);
  pools_check_drained(p->pools);
}

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

static bool launch(struct pool *p)
{
  static const struct worker_events events = {.ready = on_ready, .failed = on_failed, .died = on_died, .gone = on_gone};
  struct pools *ps = p->pools;
  char id[40];
  snprintf(id, sizeof id, "w%llu", (unsigned long long)++ps->workers_named);
  const struct launch_spec spec = {
      .reactor = ps->reactor,
      .env = p->env,
      .worker_id = id,
      .instance = ps->instance,
      .state_dir = ps->state_dir.path,
      .ordinal = free_ordinal(p),
  };
  struct err e;
  nsec now = clock_mono();
  struct worker *w = worker_start(p->provider, &spec, p, &events, &e);
  if (!w) {
    back_off(p, now);
    refuse_after_failure(p, &e);
    return false;
  }
  w->idle.fire = on_idle;
  list_append(&p->workers, &w->link);
  return true;
}

static bool may_launch(const struct pool *p)
{
  return !p->pools->draining && pool_live(p) < worker_limit(p) && clock_mono() >= p->not_before;
}

static bool wants_launch(const struct pool *p)
{
  if (is_static(p)) // costs nothing, and any of them may be the one that is up
    return p->waiting_count || p->schema_waiters;
  bool for_schema = p->schema_waiters && !count_state(p, WORKER_READY);
  return p->waiting_count + for_schema > slots_coming(p);
}

// --- when nothing can be done now ----------------------------------------------------------------------------------------------------------

// When something may change by itself: a full worker is to be tried again, or the next launch is allowed. NSEC_NEVER: only by events.
static nsec next_chance(const struct pool *p)
{
  nsec now = clock_mono(), at = NSEC_NEVER;
  if (pool_live(p) < worker_limit(p) && p->not_before > now)
    at = p->not_before;
  LIST_EACH (node, &p->workers) {
    struct worker *w = worker_of(node);
    if (w->state == WORKER_READY && w->full_until > now && w->full_until < at)
      at = w->full_until;
  }
  return at;
}

// Nothing of ours uses a worker, and yet all of them have been full for a while: waiting would be for others, who may take for ever.
static bool all_taken_by_others(const struct pool *p)
{
  nsec now = clock_mono();
  int64_t taken = 0;
  LIST_EACH (node, &p->workers) {
    struct worker *w = worker_of(node);
    if (w->state == WORKER_GONE)
      continue;
    if (w->state != WORKER_READY || w->used || w->suspect || w->full_until <= now || w->full_pause < LONGEST_FULL_PAUSE)
      return false;
    taken++;
  }
  return taken > 0 && taken >= worker_limit(p);
}

static void on_again(struct timer *t)
{
  pool_pump(CONTAINER_OF(t, struct pool, again));
}

static void wait_or_refuse(struct pool *p)
{
  struct reactor *r = p->pools->reactor;
  if (!p->waiting_count && !p->schema_waiters) {
    timer_unset(r, &p->again);
    return;
  }
  nsec at = next_chance(p);
  if (all_taken_by_others(p)) {
    struct err e;
    err_set(&e, CODE_RESOURCE_EXHAUSTED, REASON_NO_CAPACITY, "every worker of %s is full with sessions that are not this gateway's", p->env->name);
    e.retry_after_ms = (uint32_t)((at - clock_mono()) / NSEC_PER_MS + 1);
    refuse(p, 0, INT32_MAX, &e);
    return;
  }
  timer_set(r, &p->again, at);
}

void pool_pump(struct pool *p)
{
  struct worker *w;
  LIST_EACH (node, &p->workers) {
    struct worker *ready = worker_of(node);
    if (ready->state == WORKER_READY)
      schema_pump(p, ready);
  }
  while (p->waiting_count && (w = choose(p)))
    grant(p, w);
  while (wants_launch(p) && may_launch(p) && launch(p))
    ;
  wait_or_refuse(p);
}

// --- begin and end -------------------------------------------------------------------------------------------------------------------------

void pool_init(struct pool *p, struct pools *pools, const struct env_config *env)
{
  *p = (struct pool){.pools = pools, .env = env, .provider = provider_find(env->provider), .slots_each = env->sessions_per_worker};
  p->again.fire = on_again;
  list_init(&p->workers);
  list_init(&p->waiting);
}

void pool_drain(struct pool *p)
{
  struct err e;
  err_set(&e, CODE_UNAVAILABLE, REASON_DRAINING, "the gateway is shutting down");
  schema_fail(p, &e);
  refuse(p, 0, INT32_MAX, &e);
  LIST_EACH (node, &p->workers) {
    struct worker *w = worker_of(node);
    worker_stop(w);
  }
}

void pool_free(struct pool *p)
{
  timer_unset(p->pools->reactor, &p->again);
  LIST_EACH (node, &p->workers) {
    struct worker *w = worker_of(node);
    worker_free(w);
  }
  buf_free(&p->schema);
}
