// SPDX-License-Identifier: Apache-2.0
// Who waits for an environment's workers, and who is served. How many workers there are is fleet.c's.
#include "pool/pool.h"

#include <stdio.h>
#include <stdlib.h>

#include "pool/pools.h"
#include "providers/providers.h"
#include "runtime/metrics.h"

// A worker that says it is full, while by our account it should not be, is left alone: first for as long as the slot of a closed session takes to become
// free, then twice as long each time.
#define FIRST_FULL_PAUSE (20 * NSEC_PER_MS)
#define LONGEST_FULL_PAUSE NSEC_PER_S

bool pool_is_static(const struct pool *p)
{
  return p->provider == &provider_static;
}

int pool_count(const struct pool *p, enum worker_state state)
{
  int n = 0;
  LIST_EACH (node, &p->workers) {
    struct worker *w = worker_of(node);
    n += w->state == state;
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
  p->counted = NULL;
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

// Whoever comes meanwhile, out of a callback, is not among them.
void pool_refuse(struct pool *p, int64_t skip, int64_t n, const struct err *e)
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
  return w->state == WORKER_READY && !w->suspect && !w->retiring && w->used < w->capacity && w->full_until <= now;
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
  w->served++;
  w->idled = false;
  timer_unset(w->reactor, &w->idle);
  if (p->env->max_worker_sessions && w->served >= p->env->max_worker_sessions)
    fleet_retire(w);
  if (p->pools->reactor->metrics)
    metric_observe(p->pools->reactor->metrics, METRIC_HISTOGRAM_worker_wait_seconds, clock_mono() - q->asked);
  q->granted(q, &slot, NULL);
}

void pool_let_go(struct pool *p, struct worker *w)
{
  if (w->used || w->holds)
    return;
  if (w->state == WORKER_GONE)
    worker_free(w);
  else if (w->retiring)
    worker_stop(w);
  else if (w->state == WORKER_READY && !pool_is_static(p))
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
  struct list *behind = p->waiting.prev;
  while (behind != &p->waiting && CONTAINER_OF(behind, struct slot_request, link)->asked > q->asked)
    behind = behind->prev;
  list_prepend(behind, &q->link);
  count_waiting(p, 1);
  pool_pump(p);
}

void pool_cancel(struct slot_request *q)
{
  if (list_empty(&q->link))
    return;
  list_remove(&q->link);
  count_waiting(q->pool, -1);
  pool_publish(q->pool);
  pools_watch_inline(q->pool);
}

// How many wait before it. Those who ask at the same time do so in the order of the line, so each is looked for from the one before.
static int64_t place(struct pool *p, const struct slot_request *q)
{
  int64_t n = p->counted ? p->counted_before : 0;
  const struct list *node = p->counted ? p->counted : p->waiting.next;
  for (; node != &q->link && node != &p->waiting; node = node->next)
    n++;
  if (node != &q->link && p->counted) { // it is before that one
    p->counted = NULL;
    return place(p, q);
  }
  p->counted = node;
  p->counted_before = n;
  return n;
}

struct standing pool_standing(const struct slot_request *q)
{
  struct pool *p = q->pool;
  int64_t before = place(p, q), coming = pool_slots_coming(p);
  struct standing s = {.launching = before < coming && pool_progress(p, &s.progress)};
  if (before < coming)
    return s;
  s.launching = before < coming + pool_launchable(p) * p->slots_each;
  s.hopeless = !s.launching;
  s.progress = (struct launch_progress){.phase = LAUNCH_WAITING};
  return s;
}

int64_t pool_slots_coming(const struct pool *p)
{
  nsec now = clock_mono();
  int64_t n = 0;
  LIST_EACH (node, &p->workers) {
    struct worker *w = worker_of(node);
    bool pausing = w->full_until > now && w->full_pause < LONGEST_FULL_PAUSE, probed = w->suspect && !w->probe_again.fire;
    if (w->state == WORKER_STARTING && !w->retiring)
      n += p->slots_each;
    else if (w->state == WORKER_READY && !w->retiring && (probed || pausing) && w->used < w->capacity)
      n += w->capacity - w->used;
  }
  return n;
}

// --- when nothing can be done now ----------------------------------------------------------------------------------------------------------

// When something may change by itself: a full worker is to be tried again, or the next launch is allowed. NSEC_NEVER: only by events.
static nsec next_chance(const struct pool *p)
{
  nsec now = clock_mono(), at = NSEC_NEVER;
  if (pool_live(p) < pool_limit(p) && p->not_before > now)
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
  return taken > 0 && taken >= pool_limit(p);
}

static void on_again(struct timer *t)
{
  pool_pump(CONTAINER_OF(t, struct pool, again));
}

static bool anybody_wants(const struct pool *p)
{
  return p->waiting_count || p->schema_waiters || pool_floor(p) > 0 || pool_breaker_open(p);
}

// Nobody is made to wait for a launch that is known to fail; who has other workers to hope for, or a try under way, may wait for them.
static void refuse_while_open(struct pool *p)
{
  struct err e;
  nsec now = clock_mono();
  if (!pool_breaker_open(p) || now >= p->not_before || pool_count(p, WORKER_READY) || pool_count(p, WORKER_STARTING))
    return;
  enum code code = p->cause ? p->cause->code : CODE_UNAVAILABLE;
  const char *reason = p->cause ? p->cause->reason : REASON_WORKER_START_FAILED;
  err_set(&e, code, reason, "%d launches of %s failed in a row; the next is tried in %.1f s at the earliest. The last: %s", p->failures, p->env->name,
          (double)(p->not_before - now) / 1e9, p->cause ? p->cause->msg : "out of memory");
  e.retry_after_ms = (uint32_t)((p->not_before - now) / NSEC_PER_MS + 1);
  if (p->pools->reactor->metrics)
    metric_add(p->pools->reactor->metrics, METRIC_launches_refused_total, p->waiting_count);
  schema_fail(p, &e);
  warm_fail(p, &e);
  pool_refuse(p, 0, INT32_MAX, &e);
}

static void wait_or_refuse(struct pool *p)
{
  struct reactor *r = p->pools->reactor;
  refuse_while_open(p);
  if (!anybody_wants(p)) {
    timer_unset(r, &p->again);
    return;
  }
  nsec at = next_chance(p);
  if (p->waiting_count && all_taken_by_others(p)) {
    struct err e;
    err_set(&e, CODE_RESOURCE_EXHAUSTED, REASON_NO_CAPACITY, "every worker of %s is full with sessions that are not this gateway's", p->env->name);
    e.retry_after_ms = (uint32_t)((at - clock_mono()) / NSEC_PER_MS + 1);
    pool_refuse(p, 0, INT32_MAX, &e);
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
  fleet_tidy(p);
  while (p->waiting_count && (w = choose(p)))
    grant(p, w);
  fleet_launch(p);
  warm_pump(p);
  wait_or_refuse(p);
  pool_publish(p);
  pools_watch_inline(p);
}

// --- begin and end -------------------------------------------------------------------------------------------------------------------------

void pool_init(struct pool *p, struct pools *pools, const struct env_config *env)
{
  *p = (struct pool){.pools = pools, .env = env, .provider = provider_find(env->provider), .slots_each = env->sessions_per_worker};
  p->again.fire = on_again;
  list_init(&p->workers);
  list_init(&p->waiting);
  list_init(&p->warm);
  list_init(&p->hungry);
  list_init(&p->link);
  list_append(&pools->all, &p->link);
}

void pool_drain(struct pool *p)
{
  struct err e;
  err_set(&e, CODE_UNAVAILABLE, REASON_DRAINING, "the gateway is shutting down");
  schema_fail(p, &e);
  warm_fail(p, &e);
  pool_refuse(p, 0, INT32_MAX, &e);
  list_remove(&p->hungry);
  LIST_EACH (node, &p->workers) {
    struct worker *w = worker_of(node);
    worker_stop(w);
  }
}

void pool_free(struct pool *p)
{
  timer_unset(p->pools->reactor, &p->again);
  timer_unset(p->pools->reactor, &p->linger);
  LIST_EACH (node, &p->workers) {
    struct worker *w = worker_of(node);
    worker_free(w);
  }
  for (int i = 0; i < DOCUMENTS; i++)
    buf_free(&p->documents[i]);
  list_remove(&p->link);
  list_remove(&p->hungry);
  free(p->cause);
}
