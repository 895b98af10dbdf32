// SPDX-License-Identifier: Apache-2.0
#include "api/health.h"

#include <stdlib.h>

#include "config/config.h"
#include "grpc/health/v1/health.pb-c.h"
#include "pool/pool.h"

typedef Grpc__Health__V1__HealthCheckRequest request;
typedef Grpc__Health__V1__HealthCheckResponse response;
typedef Grpc__Health__V1__HealthListResponse list_response;
typedef Grpc__Health__V1__HealthListResponse__StatusesEntry list_entry;
typedef Grpc__Health__V1__HealthCheckResponse__ServingStatus status;

#define STATUS(name) GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__##name

struct health {
  bool serving;
  struct list watchers;
};

// A Watch call's state.
struct watcher {
  struct list link;
  struct call *call;
  status told;
};

static const char *service_of(const struct call *c)
{
  return ((const request *)(const void *)c->request)->service;
}

static bool known(const struct rpc_api *api, const char *service)
{
  if (!service[0])
    return true;
  for (int i = 0; i < api->method_count; i++)
    if (strcmp(api->methods[i].service, service) == 0)
      return true;
  return false;
}

static const char ENVIRONMENTS[] = "environments/";

// The place of an environment named as a service in the configuration; -1: it names none.
static int environment_of(const struct config *c, const char *service)
{
  if (strncmp(service, ENVIRONMENTS, sizeof ENVIRONMENTS - 1) != 0)
    return -1;
  for (size_t i = 0; i < c->n_envs; i++)
    if (strcmp(c->envs[i].name, service + sizeof ENVIRONMENTS - 1) == 0)
      return (int)i;
  return -1;
}

static status environment_status(struct reactor *r, int env)
{
  return r->health->serving && !pool_broken(r, (size_t)env) ? STATUS(SERVING) : STATUS(NOT_SERVING);
}

// SERVICE_UNKNOWN: there is no service or environment of that name.
static status status_of(struct reactor *r, const char *service)
{
  int env = environment_of(r->config, service);
  if (env >= 0)
    return environment_status(r, env);
  if (!known(rpc_api(r), service))
    return STATUS(SERVICE_UNKNOWN);
  return r->health->serving ? STATUS(SERVING) : STATUS(NOT_SERVING);
}

static void check(struct call *c)
{
  response reply = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
  reply.status = status_of(c->owner, service_of(c));
  if (reply.status == STATUS(SERVICE_UNKNOWN)) {
    struct err e;
    err_set(&e, CODE_NOT_FOUND, REASON_METHOD_NOT_FOUND,
            "there is no service or environments/NAME of that name here; grpc.health.v1.Health/List has them all");
    rpc_finish(c, NULL, &e);
    return;
  }
  rpc_finish(c, &reply.base, NULL);
}

// --- List ----------------------------------------------------------------------------------------------------------------------------------

static bool first_of_service(const struct rpc_api *api, int i)
{
  return i == 0 || strcmp(api->methods[i].service, api->methods[i - 1].service) != 0;
}

static bool add_entry(list_response *reply, const char *service, status value, struct arena *a)
{
  list_entry *entry = arena_alloc(a, sizeof *entry);
  response *r = arena_alloc(a, sizeof *r);
  if (!entry || !r)
    return false;
  grpc__health__v1__health_list_response__statuses_entry__init(entry);
  grpc__health__v1__health_check_response__init(r);
  r->status = value;
  entry->key = arena_dup(a, str_c(service));
  entry->value = r;
  reply->statuses[reply->n_statuses++] = entry;
  return entry->key != NULL;
}

static bool add_environments(struct call *c, list_response *reply)
{
  const struct config *config = c->owner->config;
  bool ok = true;
  for (size_t i = 0; ok && i < config->n_envs; i++) {
    const char *name = arena_printf(&c->arena, "%s%s", ENVIRONMENTS, config->envs[i].name);
    ok = name && add_entry(reply, name, environment_status(c->owner, (int)i), &c->arena);
  }
  return ok;
}

static void list(struct call *c)
{
  const struct rpc_api *api = rpc_api(c->owner);
  list_response reply = GRPC__HEALTH__V1__HEALTH_LIST_RESPONSE__INIT;
  status gateway = status_of(c->owner, "");
  reply.statuses = arena_alloc(&c->arena, ((size_t)api->method_count + c->owner->config->n_envs + 1) * sizeof(list_entry *));
  bool ok = reply.statuses && add_entry(&reply, "", gateway, &c->arena);
  for (int i = 0; ok && i < api->method_count; i++)
    if (first_of_service(api, i))
      ok = add_entry(&reply, api->methods[i].service, gateway, &c->arena);
  ok = ok && add_environments(c, &reply);
  struct err e;
  if (!ok)
    err_nomem(&e);
  rpc_finish(c, ok ? &reply.base : NULL, ok ? NULL : &e);
}

// --- Watch ---------------------------------------------------------------------------------------------------------------------------------

static void end_watch(struct call *c, bool draining)
{
  struct watcher *w = c->state;
  list_remove(&w->link);
  struct err e;
  if (draining)
    err_set(&e, CODE_UNAVAILABLE, REASON_DRAINING, "the gateway is shutting down");
  else
    err_nomem(&e);
  rpc_finish(c, NULL, &e);
}

static void tell(struct call *c)
{
  response reply = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
  reply.status = ((struct watcher *)c->state)->told = status_of(c->owner, service_of(c));
  bool sent = call_send(c, &reply.base), draining = !c->owner->health->serving;
  if (!sent || draining)
    end_watch(c, sent && draining);
}

static void watch(struct call *c)
{
  struct watcher *w = arena_alloc(&c->arena, sizeof *w);
  if (!w) {
    struct err e;
    err_nomem(&e);
    rpc_finish(c, NULL, &e);
    return;
  }
  w->call = c;
  c->state = w;
  list_init(&w->link);
  list_append(&c->owner->health->watchers, &w->link);
  tell(c);
}

static void watch_cancelled(struct call *c, struct err *e)
{
  (void)e;
  struct watcher *w = c->state;
  list_remove(&w->link);
}

const struct rpc_handler health_handlers[] = {
    {.path = "/grpc.health.v1.Health/Check", .start = check},
    {.path = "/grpc.health.v1.Health/List", .start = list},
    {.path = "/grpc.health.v1.Health/Watch", .start = watch, .cancel = watch_cancelled},
    {.path = NULL},
};

bool health_init(struct reactor *r)
{
  r->health = calloc(1, sizeof *r->health);
  if (!r->health)
    return false;
  r->health->serving = true;
  list_init(&r->health->watchers);
  return true;
}

void health_set_serving(struct reactor *r, bool serving)
{
  struct health *h = r->health;
  if (h->serving == serving)
    return;
  h->serving = serving;
  // Telling one may end it, and only it.
  LIST_EACH (node, &h->watchers)
    tell(CONTAINER_OF(node, struct watcher, link)->call);
}

void health_changed(struct reactor *r)
{
  LIST_EACH (node, &r->health->watchers) {
    struct watcher *w = CONTAINER_OF(node, struct watcher, link);
    if (status_of(r, service_of(w->call)) != w->told)
      tell(w->call);
  }
}

void health_free(struct reactor *r)
{
  free(r->health);
  r->health = NULL;
}
