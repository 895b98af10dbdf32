// SPDX-License-Identifier: Apache-2.0
// All pools of the gateway, and what they share.
#include "pool/pools.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "config/inline.h"
#include "runtime/metrics.h"

// Whether any environment launches workers, which may want sockets there or outlive the gateway.
static bool launches(const struct config *c)
{
  if (c->inline_images.n || c->inline_spaces.n || c->inline_project_urls.n || c->inline_paths.n)
    return true;
  for (size_t i = 0; i < c->n_envs; i++)
    if (strcmp(c->envs[i].provider, "static") != 0)
      return true;
  return false;
}

// Whether any can't do without the folder: sockets lie in it.
static bool launches_here(const struct config *c)
{
  if (c->inline_spaces.n || c->inline_project_urls.n || c->inline_paths.n)
    return true;
  for (size_t i = 0; i < c->n_envs; i++)
    if (strcmp(c->envs[i].provider, "static") != 0 && strcmp(c->envs[i].provider, "docker") != 0)
      return true;
  return false;
}

// --- begin and end -------------------------------------------------------------------------------------------------------------------------

static bool fill(struct pools *ps, const struct config *c, struct err *e)
{
  ps->at = calloc(c->n_envs ? c->n_envs : 1, sizeof *ps->at);
  if (!ps->at)
    return err_nomem(e);
  struct metrics *m = ps->reactor->metrics;
  if (m && !metrics_init_envs(m, (int)c->n_envs + 1))
    return err_nomem(e);
  if (m)
    m->envs[c->n_envs].name = "inline";
  for (; ps->n < c->n_envs; ps->n++) {
    pool_init(&ps->at[ps->n], ps, &c->envs[ps->n]);
    if (m)
      m->envs[ps->n].name = c->envs[ps->n].name;
    ps->at[ps->n].metrics = m ? &m->envs[ps->n] : NULL;
  }
  return !launches(c) || state_dir_open(&ps->state, c->state_dir, launches_here(c), e);
}

bool pools_init(struct reactor *r, struct err *e)
{
  struct pools *ps = calloc(1, sizeof *ps);
  if (!ps)
    return err_nomem(e);
  ps->reactor = r;
  r->pools = ps;
  list_init(&ps->hungry);
  list_init(&ps->all);
  ended_init(ps);
  if (fill(ps, r->config, e)) {
    pools_adopt(ps);
    for (size_t i = 0; i < ps->n; i++)
      pool_pump(&ps->at[i]);
    return true;
  }
  pools_free(r);
  return false;
}

void pools_on_change(struct reactor *r, void (*changed)(struct reactor *r))
{
  r->pools->changed = changed;
}

static void free_inline(struct turn_end *t)
{
  struct pool *p = CONTAINER_OF(t, struct pool, freeing);
  const struct env_config *env = p->env;
  free(p);
  env_release(env);
}

static void tell_stopped(struct reactor *r, struct task *t)
{
  (void)r;
  struct pools *ps = CONTAINER_OF(t, struct pools, tell_stopped);
  ps->stopped(ps->stopped_ctx);
}

void pools_check_drained(struct pools *ps)
{
  if (!ps->stopped || ps->tell_stopped.run)
    return;
  LIST_EACH (node, &ps->all) {
    if (pool_live(pool_of(node)))
      return;
  }
  ps->tell_stopped.run = tell_stopped; // once, and not inside pools_stop
  reactor_post(ps->reactor, &ps->tell_stopped);
}

void pools_stop(struct reactor *r, void (*stopped)(void *ctx), void *ctx)
{
  struct pools *ps = r->pools;
  ps->draining = true;
  LIST_EACH (node, &ps->all) {
    pool_drain(pool_of(node));
  }
  ps->stopped = stopped;
  ps->stopped_ctx = ctx;
  pools_check_drained(ps);
}

void pools_free(struct reactor *r)
{
  struct pools *ps = r->pools;
  if (!ps)
    return;
  r->pools = NULL;
  LIST_EACH (node, &ps->all) {
    struct pool *p = pool_of(node);
    pool_free(p);
    if (env_is_inline(p->env))
      free_inline(&p->freeing);
  }
  ended_free(ps);
  pools_adopt_end(ps);
  state_dir_close(&ps->state);
  free(ps->at);
  free(ps);
}

struct pool *pool_find(struct reactor *r, struct str env_name)
{
  struct pools *ps = r->pools;
  LIST_EACH (node, &ps->all) {
    if (str_eq(env_name, str_c(pool_of(node)->env->name)))
      return pool_of(node);
  }
  return NULL;
}

// --- inline sources ------------------------------------------------------------------------------------------------------------------------

// Longer than the breaker keeps callers away, so that it is not forgotten with the pool.
#define INLINE_LINGER (60 * NSEC_PER_S)

static bool is_used(const struct pool *p)
{
  return !list_empty(&p->workers) || p->waiting_count || p->schema_waiters || p->schema_fetch || !list_empty(&p->warm);
}

static void remove_inline(struct pool *p)
{
  struct pools *ps = p->pools;
  ps->inlines--;
  pool_free(p);
  turn_end_add(ps->reactor, &p->freeing);
}

static void on_linger(struct timer *t)
{
  struct pool *p = CONTAINER_OF(t, struct pool, linger);
  if (!is_used(p))
    remove_inline(p);
}

void pools_watch_inline(struct pool *p)
{
  struct reactor *r = p->pools->reactor;
  if (!env_is_inline(p->env))
    return;
  if (is_used(p))
    timer_unset(r, &p->linger);
  else if (!timer_is_set(&p->linger))
    timer_set(r, &p->linger, clock_mono() + INLINE_LINGER);
}

// One that nobody uses makes room for another.
static bool make_room(struct pools *ps)
{
  if (ps->inlines < ps->reactor->config->inline_max_pools)
    return true;
  LIST_EACH (node, &ps->all) {
    struct pool *p = pool_of(node);
    if (!env_is_inline(p->env) || is_used(p))
      continue;
    remove_inline(p);
    return true;
  }
  return false;
}

struct pool *pool_for(struct reactor *r, const struct env_config *env, struct err *e)
{
  struct pools *ps = r->pools;
  struct pool *p = pool_find(r, str_c(env->name));
  if (p || !env_is_inline(env))
    return p;
  if (!make_room(ps)) {
    err_set(e, CODE_RESOURCE_EXHAUSTED, REASON_NO_CAPACITY, "%" PRId64 " other inline sources have workers; inline_sources.max_pools allows no more",
            ps->inlines);
    e->retry_after_ms = 1000;
    return NULL;
  }
  p = malloc(sizeof *p);
  if (!p) {
    err_nomem(e);
    return NULL;
  }
  pool_init(p, ps, env);
  env_hold(env);
  ps->inlines++;
  p->linger.fire = on_linger;
  p->freeing.run = free_inline;
  list_init(&p->freeing.link);
  p->metrics = r->metrics ? &r->metrics->envs[ps->n] : NULL;
  return p;
}

// --- why workers ended ---------------------------------------------------------------------------------------------------------------------

void pools_bury(struct pools *ps, const struct worker *w, const struct err *e)
{
  struct epitaph *at = &ps->epitaphs[ps->epitaph_next++ % EPITAPHS];
  snprintf(at->worker_id, sizeof at->worker_id, "%s", w->id);
  at->err = *e;
}

bool pool_worker_epitaph(struct reactor *r, const char *worker_id, struct err *e)
{
  const struct pools *ps = r->pools;
  for (size_t i = 0; i < EPITAPHS; i++)
    if (worker_id[0] && strcmp(ps->epitaphs[i].worker_id, worker_id) == 0) {
      *e = ps->epitaphs[i].err;
      return true;
    }
  return false;
}
