// SPDX-License-Identifier: Apache-2.0
// All pools of the gateway, and what they share.
#include "pool/pools.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/config.h"
#include "runtime/metrics.h"

// --- where sockets lie ---------------------------------------------------------------------------------------------------------------------

static bool refuse_dir(const char *path, const char *why, struct err *e)
{
  return err_set(e, CODE_FAILED_PRECONDITION, REASON_INTERNAL, "the state directory %s: %s; set state_dir to one that can be written", path, why);
}

static bool make_own_dir(struct pools *ps, struct err *e)
{
  const char *base = getenv("XDG_RUNTIME_DIR");
  if (!base || base[0] != '/' || access(base, W_OK | X_OK))
    base = "/tmp";
  if (asprintf(&ps->state_dir, "%s/envgate-XXXXXX", base) < 0) {
    ps->state_dir = NULL;
    return err_nomem(e);
  }
  ps->own_state_dir = mkdtemp(ps->state_dir) != NULL;
  return ps->own_state_dir || refuse_dir(base, strerror(errno), e);
}

static bool use_dir(struct pools *ps, const char *path, struct err *e)
{
  struct stat st;
  if (mkdir(path, 0700) && errno != EEXIST)
    return refuse_dir(path, strerror(errno), e);
  if (stat(path, &st))
    return refuse_dir(path, strerror(errno), e);
  if (!S_ISDIR(st.st_mode))
    return refuse_dir(path, "it is no directory", e);
  if (access(path, W_OK | X_OK))
    return refuse_dir(path, strerror(errno), e);
  ps->state_dir = realpath(path, NULL); // a worker may run in another folder
  return ps->state_dir || err_nomem(e);
}

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
  struct metrics *m = ps->reactor->metrics;
  if (m && !metrics_init_envs(m, (int)c->n_envs))
    return err_nomem(e);
  for (; ps->n < c->n_envs; ps->n++) {
    pool_init(&ps->at[ps->n], ps, &c->envs[ps->n]);
    if (m)
      m->envs[ps->n].name = c->envs[ps->n].name;
    ps->at[ps->n].metrics = m ? &m->envs[ps->n] : NULL;
  }
  if (!name_instance(ps, e))
    return false;
  if (!launches_here(c))
    return true;
  return c->state_dir ? use_dir(ps, c->state_dir, e) : make_own_dir(ps, e);
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
  if (fill(ps, r->config, e)) {
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
    pool_free(pool_of(node));
  }
  if (ps->own_state_dir)
    rmdir(ps->state_dir);
  free(ps->state_dir);
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
