// SPDX-License-Identifier: Apache-2.0
// What others see of the pools and ask of them beside slots: workers one by one, warm pools, numbers.
#include "pool/pools.h"
#include "runtime/metrics.h"

// --- workers -------------------------------------------------------------------------------------------------------------------------------

static struct worker *find_worker(struct reactor *r, struct str id)
{
  struct pools *ps = r->pools;
  LIST_EACH (at, &ps->all) {
    LIST_EACH (node, &pool_of(at)->workers) {
      struct worker *w = worker_of(node);
      if (w->state != WORKER_GONE && str_eq(id, str_c(w->id)))
        return w;
    }
  }
  return NULL;
}

static struct worker *next_worker(struct reactor *r, uint64_t after)
{
  struct pools *ps = r->pools;
  struct worker *next = NULL;
  LIST_EACH (at, &ps->all) {
    LIST_EACH (node, &pool_of(at)->workers) {
      struct worker *w = worker_of(node);
      if (w->state != WORKER_GONE && w->sequence > after && (!next || w->sequence < next->sequence))
        next = w;
    }
  }
  return next;
}

static bool show(const struct worker *w, struct worker_view *v)
{
  if (!w)
    return false;
  *v = (struct worker_view){
      .sequence = w->sequence,
      .id = w->id,
      .env = w->env->name,
      .provider = w->env->provider,
      .state = w->state,
      .draining = w->retiring,
      .url = w->endpoint.url ? w->endpoint.url : "",
      .unix_path = w->endpoint.unix_path,
      .sessions = w->used,
      .capacity = w->capacity,
      .sessions_served = w->served,
      .dialect = w->dialect,
      .launched_wall = w->launched_wall,
      .ready_wall = w->ready_wall,
      .progress = w->progress,
      .log = w->log,
  };
  return true;
}

bool pool_next_worker(struct reactor *r, uint64_t after, bool ended, struct worker_view *v)
{
  struct worker_view gone;
  bool lives = show(next_worker(r, after), v);
  if (!ended || !ended_next(r->pools, after, &gone) || (lives && v->sequence < gone.sequence))
    return lives;
  *v = gone;
  return true;
}

bool pool_find_worker(struct reactor *r, struct str id, struct worker_view *v)
{
  return show(find_worker(r, id), v) || ended_find(r->pools, id, v);
}

bool pool_drain_worker(struct reactor *r, struct str id)
{
  struct worker *w = find_worker(r, id);
  if (!w)
    return false;
  fleet_retire(w);
  pool_pump(w->pool);
  return true;
}

bool pool_stop_worker(struct reactor *r, struct str id)
{
  struct worker *w = find_worker(r, id);
  if (!w)
    return false;
  struct err e;
  err_set(&e, CODE_ABORTED, REASON_SESSION_LOST, "the worker was stopped by an administrator");
  pools_bury(w->pool->pools, w, &e);
  worker_stop(w);
  pool_pump(w->pool);
  return true;
}

// --- warm pools ----------------------------------------------------------------------------------------------------------------------------

bool pool_progress(const struct pool *p, struct launch_progress *progress)
{
  bool any = false;
  LIST_EACH (node, &p->workers) {
    const struct worker *w = worker_of(node);
    if (w->state != WORKER_STARTING || (any && w->progress.phase < progress->phase))
      continue;
    if (!any || w->progress.phase > progress->phase || w->progress.bytes_done > progress->bytes_done)
      *progress = w->progress;
    any = true;
  }
  return any;
}

static int64_t ready_to_serve(const struct pool *p)
{
  int64_t n = 0;
  LIST_EACH (node, &p->workers) {
    const struct worker *w = worker_of(node);
    n += w->state == WORKER_READY && !w->retiring;
  }
  return n;
}

static void end_warm(struct warm_request *q, const struct err *e)
{
  list_remove(&q->link);
  q->done(q, e);
}

// One at a time, since a callback may end any other.
static struct warm_request *satisfied(const struct pool *p)
{
  int64_t ready = ready_to_serve(p), limit = pool_limit(p);
  LIST_EACH (node, &p->warm) {
    struct warm_request *q = CONTAINER_OF(node, struct warm_request, link);
    if (ready >= (q->workers < limit ? q->workers : limit))
      return q;
  }
  return NULL;
}

void warm_pump(struct pool *p)
{
  struct warm_request *q;
  while ((q = satisfied(p)))
    end_warm(q, NULL);
  // Whoever is told may leave, but nobody else.
  LIST_EACH (node, &p->warm) {
    q = CONTAINER_OF(node, struct warm_request, link);
    if (q->progress)
      q->progress(q);
  }
}

void warm_fail(struct pool *p, const struct err *e)
{
  while (!list_empty(&p->warm))
    end_warm(CONTAINER_OF(p->warm.next, struct warm_request, link), e);
}

void pool_warm(struct pool *p, struct warm_request *q)
{
  q->pool = p;
  list_init(&q->link);
  if (p->pools->draining) {
    struct err e;
    err_set(&e, CODE_UNAVAILABLE, REASON_DRAINING, "the gateway is shutting down");
    q->done(q, &e);
    return;
  }
  list_append(&p->warm, &q->link);
  pool_pump(p);
}

void pool_warm_cancel(struct warm_request *q)
{
  list_remove(&q->link);
}

// --- numbers -------------------------------------------------------------------------------------------------------------------------------

bool pool_broken(struct reactor *r, size_t env)
{
  const struct pools *ps = r->all[0]->pools;
  return atomic_load_explicit(&ps->at[env].broken, memory_order_relaxed);
}

void pool_publish(struct pool *p)
{
  struct pool_stats s = pool_stats(p);
  bool open = pool_breaker_open(p), trying = s.starting > 0 || clock_mono() < p->not_before;
  bool broken = open && trying && !s.ready;
  if (broken != atomic_exchange_explicit(&p->broken, broken, memory_order_relaxed) && p->pools->changed)
    p->pools->changed(p->pools->reactor);
  if (!p->metrics)
    return;
  const int64_t values[] = {
      [METRIC_POOL_starting] = s.starting, [METRIC_POOL_ready] = s.ready,     [METRIC_POOL_stopping] = s.stopping,
      [METRIC_POOL_sessions] = s.sessions, [METRIC_POOL_waiting] = s.waiting, [METRIC_POOL_breaker_open] = open,
  };
  for (int i = 0; i < METRIC_POOL_COUNT; i++) { // by what has changed, since pools of inline sources share them
    atomic_fetch_add_explicit(&p->metrics->value[i], values[i] - p->published[i], memory_order_relaxed);
    p->published[i] = values[i];
  }
}
