// SPDX-License-Identifier: Apache-2.0
// All pools of the gateway, and what they share.
#include "pool/pools.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "config/config.h"

// Whether any environment launches commands, which may want sockets.
static bool launches_here(const struct config *c)
{
  for (size_t i = 0; i < c->n_envs; i++)
    if (strcmp(c->envs[i].provider, "static") != 0 && strcmp(c->envs[i].provider, "docker") != 0)
      return true;
  return false;
}

// --- begin and end -------------------------------------------------------------------------------------------------------------------------

static bool name_instance(struct pools *ps, struct err *e)
{
  uint64_t id;
  if (getrandom(&id, sizeof id, 0) != sizeof id)
    return err_set(e, CODE_INTERNAL, REASON_INTERNAL, "getrandom: %s", strerror(errno));
  snprintf(ps->instance, sizeof ps->instance, "%016llx", (unsigned long long)id);
  return true;
}

static bool fill(struct pools *ps, const struct config *c, struct err *e)
{
  ps->at = calloc(c->n_envs ? c->n_envs : 1, sizeof *ps->at);
  if (!ps->at)
    return err_nomem(e);
  for (; ps->n < c->n_envs; ps->n++)
    pool_init(&ps->at[ps->n], ps, &c->envs[ps->n]);
  if (!name_instance(ps, e))
    return false;
  return !launches_here(c) || state_dir_open(&ps->state_dir, c->state_dir, e);
}

bool pools_init(struct reactor *r, struct err *e)
{
  struct pools *ps = calloc(1, sizeof *ps);
  if (!ps)
    return err_nomem(e);
  ps->reactor = r;
  r->pools = ps;
  if (fill(ps, r->config, e))
    return true;
  pools_free(r);
  return false;
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
  for (size_t i = 0; i < ps->n; i++)
    if (pool_live(&ps->at[i]))
      return;
  ps->tell_stopped.run = tell_stopped; // once, and not inside pools_stop
  reactor_post(ps->reactor, &ps->tell_stopped);
}

void pools_stop(struct reactor *r, void (*stopped)(void *ctx), void *ctx)
{
  struct pools *ps = r->pools;
  ps->draining = true;
  for (size_t i = 0; i < ps->n; i++)
    pool_drain(&ps->at[i]);
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
  for (size_t i = 0; i < ps->n; i++)
    pool_free(&ps->at[i]);
  state_dir_close(&ps->state_dir);
  free(ps->at);
  free(ps);
}

struct pool *pool_find(struct reactor *r, struct str env_name)
{
  struct pools *ps = r->pools;
  for (size_t i = 0; i < ps->n; i++)
    if (str_eq(env_name, str_c(ps->at[i].env->name)))
      return &ps->at[i];
  return NULL;
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
