// SPDX-License-Identifier: Apache-2.0
// envgate.v1.WorkerService, but for StreamLogs (logs.c). It asks the pools, so all of it runs on reactor 0.
#include <stdlib.h>

#include "api/api.h"
#include "api/control.h"
#include "api/episodes.h"
#include "api/payload.h"
#include "envgate/v1/worker_service.pb-c.h"
#include "pool/pool.h"

static Envgate__V1__Worker__State state_of(const struct worker_view *v)
{
  switch (v->state) {
  case WORKER_STARTING:
    return ENVGATE__V1__WORKER__STATE__STATE_STARTING;
  case WORKER_READY:
    return v->draining ? ENVGATE__V1__WORKER__STATE__STATE_DRAINING : ENVGATE__V1__WORKER__STATE__STATE_READY;
  case WORKER_STOPPING:
    return ENVGATE__V1__WORKER__STATE__STATE_STOPPING;
  case WORKER_GONE:
    break;
  }
  return ENVGATE__V1__WORKER__STATE__STATE_ENDED;
}

static bool fill_times(const struct worker_view *v, Envgate__V1__Worker *m, struct arena *a)
{
  m->start_time = timestamp_message(a, v->launched_wall);
  m->ready_time = v->ready_wall ? timestamp_message(a, v->ready_wall) : NULL;
  m->end_time = v->ended_wall ? timestamp_message(a, v->ended_wall) : NULL;
  return m->start_time && (m->ready_time || !v->ready_wall) && (m->end_time || !v->ended_wall);
}

// A message that points into the view, the configuration and the arena. False: out of memory.
static bool worker_fill(struct call *c, const struct worker_view *v, Envgate__V1__Worker *m)
{
  struct arena *a = &c->arena;
  struct err why;
  envgate__v1__worker__init(m);
  m->name = arena_printf(a, "workers/%s", v->id);
  m->environment = arena_printf(a, "environments/%s", v->env);
  m->state = state_of(v);
  m->provider = arena_dup(a, str_c(v->provider));
  m->address = v->unix_path ? arena_printf(a, "unix:%s", v->unix_path) : arena_dup(a, str_c(v->url));
  m->sessions = (int32_t)v->sessions;
  m->capacity = (int32_t)v->capacity;
  if (v->ready_wall)
    m->dialect = v->dialect == DIALECT_HTTP ? ENVGATE__V1__WORKER__DIALECT__DIALECT_HTTP : ENVGATE__V1__WORKER__DIALECT__DIALECT_WEBSOCKET;
  m->log_bytes = (int64_t)worker_log_total(v->log);
  if (v->state == WORKER_STARTING) {
    m->progress = arena_alloc(a, sizeof *m->progress);
    if (!m->progress)
      return false;
    progress_fill(&v->progress, m->progress);
  }
  if (pool_worker_epitaph(c->owner, v->id, &why)) {
    m->error = rpc_status(&why, a);
    if (!m->error)
      return false;
  }
  return fill_times(v, m, a) && m->name && m->environment && m->provider && m->address;
}

bool worker_of_name(struct call *c, const char *name, const char *field, struct worker_view *v, struct err *e)
{
  struct str id;
  if (!resource_id(name, "workers", true, field, &id, e))
    return false;
  if (pool_find_worker(c->owner, id, v)) {
    c->worker = str_c(arena_dup(&c->arena, id));
    return true;
  }
  return err_set(e, CODE_NOT_FOUND, REASON_WORKER_NOT_FOUND,
                 "no worker \"%.*s\"; it never was, or ended too long ago. ListWorkers names those that are", (int)(id.n < 64 ? id.n : 64), id.p);
}

// Answers with the worker as it is now.
static void reply_worker(struct call *c, const char *name)
{
  struct worker_view v;
  struct err e;
  Envgate__V1__Worker reply;
  if (!worker_of_name(c, name, "name", &v, &e)) {
    fail(c, &e);
  } else if (!worker_fill(c, &v, &reply)) {
    err_nomem(&e);
    fail(c, &e);
  } else {
    rpc_finish(c, &reply.base, NULL);
  }
}

static void get_start(struct call *c)
{
  reply_worker(c, ((const Envgate__V1__GetWorkerRequest *)(const void *)c->request)->name);
}

// One that is over is none of these functions' business; the reply says how it is.
static void act(struct call *c, const char *name, bool (*action)(struct reactor *r, struct str id))
{
  struct worker_view v;
  struct err e;
  if (worker_of_name(c, name, "name", &v, &e) && v.state < WORKER_STOPPING)
    action(c->owner, c->worker);
  reply_worker(c, name);
}

static void drain_start(struct call *c)
{
  act(c, ((const Envgate__V1__DrainWorkerRequest *)(const void *)c->request)->name, pool_drain_worker);
}

static void stop_start(struct call *c)
{
  act(c, ((const Envgate__V1__StopWorkerRequest *)(const void *)c->request)->name, pool_stop_worker);
}

// --- ListWorkers ---------------------------------------------------------------------------------------------------------------------------

// Pages go on behind a worker's sequence number, which is the token.
static bool token_read(const char *token, uint64_t *after, struct err *e)
{
  *after = 0;
  if (!token[0])
    return true;
  size_t n = strspn(token, "0123456789");
  if (!token[n] && n <= 19) {
    *after = strtoull(token, NULL, 10);
    return true;
  }
  return err_field(e, REASON_INVALID_REQUEST, "page_token", "page_token must be the next_page_token of the page before, unchanged");
}

static bool list_fill(struct call *c, const Envgate__V1__ListWorkersRequest *q, Envgate__V1__ListWorkersResponse *reply, struct err *e)
{
  size_t wanted;
  uint64_t after;
  const struct env_config *env = NULL;
  struct worker_view v;
  if (!page_size_check(q->page_size, &wanted, e) || !token_read(q->page_token, &after, e))
    return false;
  if (q->environment[0] && !(env = environment_of_name(c->owner->config, q->environment, true, "environment", e)))
    return false;
  reply->workers = arena_alloc(&c->arena, wanted * sizeof(Envgate__V1__Worker *));
  if (!reply->workers)
    return err_nomem(e);
  while (pool_next_worker(c->owner, after, q->show_ended, &v)) {
    if (env && strcmp(env->name, v.env) != 0) {
      after = v.sequence;
      continue;
    }
    if (reply->n_workers == wanted) {
      reply->next_page_token = arena_printf(&c->arena, "%llu", (unsigned long long)after);
      return reply->next_page_token || err_nomem(e);
    }
    Envgate__V1__Worker *m = arena_alloc(&c->arena, sizeof *m);
    if (!m || !worker_fill(c, &v, m))
      return err_nomem(e);
    reply->workers[reply->n_workers++] = m;
    after = v.sequence;
  }
  return true;
}

static void list_start(struct call *c)
{
  Envgate__V1__ListWorkersResponse reply;
  envgate__v1__list_workers_response__init(&reply);
  struct err e;
  if (list_fill(c, (const void *)c->request, &reply, &e))
    rpc_finish(c, &reply.base, NULL);
  else
    fail(c, &e);
}

#define PATH(method) "/envgate.v1.WorkerService/" method
const struct rpc_handler worker_handlers[] = {
    {.path = PATH("ListWorkers"), .route = control_route, .start = list_start},
    {.path = PATH("GetWorker"), .route = control_route, .start = get_start},
    {.path = PATH("DrainWorker"), .route = control_route, .start = drain_start},
    {.path = PATH("StopWorker"), .route = control_route, .start = stop_start},
    {.path = PATH("StreamLogs"), .route = control_route, .start = stream_logs_start, .drained = stream_logs_drained, .cancel = stream_logs_cancel},
    {.path = NULL},
};
