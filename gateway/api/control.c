// SPDX-License-Identifier: Apache-2.0
// What the methods that look after workers share, and Preload.
#include "api/control.h"
#include "api/api.h"

#include <stdlib.h>

#include "api/episodes.h"
#include "api/payload.h"
#include "config/config.h"
#include "envgate/v1/environment_service.pb-c.h"
#include "pool/pool.h"

// --- streams that a shutdown ends ------------------------------------------------------------------------------------------------------------

struct control {
  struct list streams;
  bool draining;
};

bool control_init(struct reactor *r)
{
  r->control = malloc(sizeof *r->control);
  if (!r->control)
    return false;
  r->control->draining = false;
  list_init(&r->control->streams);
  return true;
}

void control_free(struct reactor *r)
{
  free(r->control);
  r->control = NULL;
}

static void draining(struct err *e)
{
  err_set(e, CODE_UNAVAILABLE, REASON_DRAINING, "the gateway is shutting down");
}

void control_drain(struct reactor *r)
{
  struct err e;
  draining(&e);
  r->control->draining = true;
  LIST_EACH (node, &r->control->streams) {
    struct control_stream *s = CONTAINER_OF(node, struct control_stream, link);
    s->end(s, &e);
  }
}

bool control_add(struct control_stream *s, struct call *c, void (*end)(struct control_stream *s, const struct err *e), struct err *e)
{
  struct control *control = c->owner->control;
  s->call = c;
  s->end = end;
  list_init(&s->link);
  if (control->draining) {
    draining(e);
    return false;
  }
  list_append(&control->streams, &s->link);
  return true;
}

int control_route(const struct call *c)
{
  (void)c;
  return 0;
}

void progress_fill(const struct launch_progress *p, Envgate__V1__LaunchProgress *m)
{
  static const Envgate__V1__LaunchProgress__Phase phases[] = {
      [LAUNCH_WAITING] = ENVGATE__V1__LAUNCH_PROGRESS__PHASE__PHASE_WAITING,
      [LAUNCH_PULLING] = ENVGATE__V1__LAUNCH_PROGRESS__PHASE__PHASE_PULLING,
      [LAUNCH_INSTALLING] = ENVGATE__V1__LAUNCH_PROGRESS__PHASE__PHASE_INSTALLING,
      [LAUNCH_STARTING] = ENVGATE__V1__LAUNCH_PROGRESS__PHASE__PHASE_STARTING,
      [LAUNCH_BOOTING] = ENVGATE__V1__LAUNCH_PROGRESS__PHASE__PHASE_BOOTING,
  };
  envgate__v1__launch_progress__init(m);
  m->phase = phases[p->phase];
  m->layers = (int32_t)p->layers;
  m->layers_done = (int32_t)p->layers_done;
  m->bytes = (int64_t)p->bytes;
  m->bytes_done = (int64_t)p->bytes_done;
}

// --- Preload -------------------------------------------------------------------------------------------------------------------------------

struct preload {
  struct control_stream stream;
  struct warm_request warm;
  struct pool *pool;
  bool warming; // `warm` is the pool's
  bool told;
  struct pool_stats told_stats;
  struct launch_progress told_progress;
};

static void preload_finish(struct preload *p, const struct err *e)
{
  list_remove(&p->stream.link);
  if (p->warming)
    pool_warm_cancel(&p->warm);
  rpc_finish(p->stream.call, NULL, e);
}

static bool same_progress(const struct launch_progress *a, const struct launch_progress *b)
{
  return a->phase == b->phase && a->layers == b->layers && a->layers_done == b->layers_done && a->bytes == b->bytes && a->bytes_done == b->bytes_done;
}

// Tells how far it is, if that is news. False: out of memory.
static bool preload_tell(struct preload *p)
{
  Envgate__V1__PreloadResponse m;
  Envgate__V1__LaunchProgress progress;
  struct launch_progress at = {0};
  struct pool_stats stats = pool_stats(p->pool);
  bool launching = pool_progress(p->pool, &at);
  if (p->told && stats.ready == p->told_stats.ready && stats.starting == p->told_stats.starting && same_progress(&at, &p->told_progress))
    return true;
  p->told = true;
  p->told_stats = stats;
  p->told_progress = at;
  envgate__v1__preload_response__init(&m);
  m.workers = (int32_t)p->warm.workers;
  m.ready_workers = stats.ready;
  m.starting_workers = stats.starting;
  if (launching) {
    progress_fill(&at, &progress);
    m.progress = &progress;
  }
  return call_send(p->stream.call, &m.base);
}

static void on_progress(struct warm_request *q)
{
  struct preload *p = CONTAINER_OF(q, struct preload, warm);
  struct err e;
  if (call_full(p->stream.call) || preload_tell(p)) // whoever does not read has the last word all the same
    return;
  err_nomem(&e);
  preload_finish(p, &e);
}

static void on_warm(struct warm_request *q, const struct err *e)
{
  struct preload *p = CONTAINER_OF(q, struct preload, warm);
  struct err nomem;
  p->warming = false;
  if (!e && !preload_tell(p)) {
    err_nomem(&nomem);
    e = &nomem;
  }
  preload_finish(p, e);
}

static void preload_end(struct control_stream *s, const struct err *e)
{
  preload_finish(CONTAINER_OF(s, struct preload, stream), e);
}

static bool preload_check(struct call *c, const struct env_config *env, const Envgate__V1__PreloadRequest *q, struct err *e)
{
  // A static pool has as many as there are urls, whatever max_workers says.
  int64_t most = env->urls.n ? (int64_t)env->urls.n : env->max_workers;
  if (q->workers < 0 || q->workers > most)
    return err_field(e, REASON_INVALID_REQUEST, "workers", "workers must be from 1 to %lld, the environment's max_workers, or 0 for 1",
                     (long long)most);
  return timeout_apply(c, q->timeout_s, e);
}

void preload_start(struct call *c)
{
  const Envgate__V1__PreloadRequest *q = (const void *)c->request;
  const struct env_config *env = call_environment(c, q->environment, "environment");
  if (!env)
    return;
  struct err e;
  if (!preload_check(c, env, q, &e)) {
    fail(c, &e);
    return;
  }
  struct preload *p = arena_alloc(&c->arena, sizeof *p);
  if (!p)
    err_nomem(&e);
  if (!p || !control_add(&p->stream, c, preload_end, &e)) {
    fail(c, &e);
    return;
  }
  c->state = p;
  p->pool = pool_find(c->owner, str_c(env->name));
  p->warm = (struct warm_request){.workers = q->workers ? q->workers : 1, .progress = on_progress, .done = on_warm};
  if (!preload_tell(p)) {
    err_nomem(&e);
    preload_finish(p, &e);
    return;
  }
  p->warming = true;
  pool_warm(p->pool, &p->warm);
}

void preload_cancel(struct call *c, struct err *e)
{
  struct preload *p = c->state;
  list_remove(&p->stream.link);
  if (p->warming)
    pool_warm_cancel(&p->warm);
  if (e->code == CODE_DEADLINE_EXCEEDED)
    err_set(e, CODE_DEADLINE_EXCEEDED, REASON_DEADLINE, "the workers were not ready before the deadline; what was launched goes on");
}
