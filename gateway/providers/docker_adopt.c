// SPDX-License-Identifier: Apache-2.0
#include "providers/docker_adopt.h"

#include <stdlib.h>
#include <string.h>

#include "providers/docker_host.h"

// Longer than that nobody is kept waiting for an Engine that does not answer.
#define LIST_TIMEOUT (5 * NSEC_PER_S)

// One Engine's part.
struct part {
  struct docker_finder finder;
  struct docker_waiter waiter;
  struct adoption *adoption;
  struct docker_host *host;
  bool listed;
};

struct adoption {
  struct reactor *reactor;
  struct adoption_events events;
  void *ctx;
  struct part *parts;
  size_t n;
  struct timer timer; // enough waited
  bool told;
};

static void tell(struct adoption *a)
{
  timer_unset(a->reactor, &a->timer);
  if (a->told)
    return;
  a->told = true;
  a->events.listed(a->ctx);
}

static void on_timer(struct timer *t)
{
  tell(CONTAINER_OF(t, struct adoption, timer));
}

static void part_listed(struct part *p)
{
  struct adoption *a = p->adoption;
  p->listed = true;
  for (size_t i = 0; i < a->n; i++)
    if (!a->parts[i].listed)
      return;
  tell(a);
}

static void on_listed(struct docker_finder *f)
{
  part_listed(CONTAINER_OF(f, struct part, finder));
}

static void on_reached(struct docker_waiter *w, const struct err *e)
{
  if (e) // it is looked for again, and then what is found is removed
    part_listed(CONTAINER_OF(w, struct part, waiter));
}

static bool fits(const struct env_config *env, const struct docker_host *h, const struct docker_listed *c)
{
  char hash[DOCKER_HASH_MAX];
  struct err e;
  struct secrets *vars = strcmp(env->image, c->image) != 0 || !c->config ? NULL : secrets_read("env_vars", &env->env_vars, &e);
  bool ok = vars && docker_config_hash(env, &vars->pairs, docker_host_key(h), hash) && !strcmp(hash, c->config);
  secrets_unref(vars);
  return ok;
}

static bool on_found(struct docker_finder *f, struct docker_host *h, const struct docker_listed *c)
{
  const struct part *p = CONTAINER_OF(f, struct part, finder);
  const struct adoption *a = p->adoption;
  if (p->listed || a->told || !c->environment || !c->worker)
    return false;
  const struct env_config *env = config_env(a->reactor->config, str_c(c->environment));
  return env && !strcmp(env->provider, "docker") && !strcmp(docker_socket_path(env->docker_host), docker_host_socket(h)) && fits(env, h, c) &&
         a->events.found(a->ctx, env, c->worker, c->id);
}

static bool add_part(struct adoption *a, const struct env_config *env, const char *instance, const char *key)
{
  const char *socket = docker_socket_path(env->docker_host);
  for (size_t i = 0; i < a->n; i++)
    if (!strcmp(docker_host_socket(a->parts[i].host), socket))
      return true;
  struct part *p = &a->parts[a->n];
  p->host = docker_host_get(a->reactor, socket, instance, key);
  if (!p->host)
    return false;
  a->n++;
  p->adoption = a;
  p->finder = (struct docker_finder){.found = on_found, .listed = on_listed};
  p->waiter.done = on_reached;
  list_init(&p->waiter.link);
  docker_host_find(p->host, &p->finder);
  docker_host_wait(p->host, &p->waiter);
  return true;
}

struct adoption *docker_adopt(struct reactor *r, const char *instance, const char *key, const struct adoption_events *events, void *ctx)
{
  const struct config *c = r->config;
  struct adoption *a = calloc(1, sizeof *a);
  if (!a)
    return NULL;
  *a = (struct adoption){.reactor = r, .events = *events, .ctx = ctx, .parts = calloc(c->n_envs + 1, sizeof *a->parts), .timer.fire = on_timer};
  bool ok = a->parts != NULL;
  for (size_t i = 0; ok && i < c->n_envs; i++)
    if (!strcmp(c->envs[i].provider, "docker") && docker_socket_path(c->envs[i].docker_host))
      ok = add_part(a, &c->envs[i], instance, key);
  if (ok && a->n && timer_set(r, &a->timer, nsec_add(clock_mono(), LIST_TIMEOUT)))
    return a;
  docker_adopt_end(a);
  return NULL;
}

void docker_adopt_end(struct adoption *a)
{
  timer_unset(a->reactor, &a->timer);
  for (size_t i = 0; i < a->n; i++) {
    docker_host_find(a->parts[i].host, NULL);
    docker_host_leave(a->parts[i].host, &a->parts[i].waiter.link);
    docker_host_put(a->parts[i].host);
  }
  free(a->parts);
  free(a);
}
