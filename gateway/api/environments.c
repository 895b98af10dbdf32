// SPDX-License-Identifier: Apache-2.0
// envgate.v1.EnvironmentService. It asks the pools, so all of it runs on reactor 0.
#include <stdlib.h>

#include "api/api.h"
#include "api/control.h"
#include "api/episodes.h"
#include "api/payload.h"
#include "config/config.h"
#include "envgate/v1/environment_service.pb-c.h"
#include "pool/pool.h"

static bool environment_fill(struct call *c, const struct env_config *env, Envgate__V1__Environment *m, struct err *e)
{
  struct pool_stats stats = pool_stats(pool_find(c->owner, str_c(env->name)));
  envgate__v1__environment__init(m);
  m->name = arena_printf(&c->arena, "environments/%s", env->name);
  m->provider = env->provider;
  m->description = env->description;
  m->max_workers = (int32_t)env->max_workers;
  m->sessions_per_worker = (int32_t)env->sessions_per_worker;
  m->ready_workers = stats.ready;
  m->starting_workers = stats.starting;
  m->sessions = stats.sessions;
  return m->name || err_nomem(e);
}

const struct env_config *call_environment(struct call *c, const char *name, const char *field)
{
  struct err e;
  const struct env_config *env = environment_of_name(c->owner->config, name, true, field, &e);
  if (!env)
    fail(c, &e);
  return env;
}

static void get_start(struct call *c)
{
  const struct env_config *env = call_environment(c, ((const Envgate__V1__GetEnvironmentRequest *)(const void *)c->request)->name, "name");
  if (!env)
    return;
  Envgate__V1__Environment reply;
  struct err e;
  if (environment_fill(c, env, &reply, &e))
    rpc_finish(c, &reply.base, NULL);
  else
    fail(c, &e);
}

static int by_name(const void *a, const void *b)
{
  return strcmp((*(const struct env_config *const *)a)->name, (*(const struct env_config *const *)b)->name);
}

// Pages go on behind a name, which is the token.
static bool list_fill(struct call *c, const Envgate__V1__ListEnvironmentsRequest *q, Envgate__V1__ListEnvironmentsResponse *reply, struct err *e)
{
  const struct config *config = c->owner->config;
  size_t wanted, n = config->n_envs;
  if (!page_size_check(q->page_size, &wanted, e))
    return false;
  if (q->page_token[0] && !config_env(config, str_c(q->page_token)))
    return err_field(e, REASON_INVALID_REQUEST, "page_token", "page_token must be the next_page_token of the page before, unchanged");
  const struct env_config **sorted = arena_alloc(&c->arena, (n + 1) * sizeof(const struct env_config *));
  Envgate__V1__Environment *page = arena_alloc(&c->arena, wanted * sizeof *page);
  reply->environments = arena_alloc(&c->arena, wanted * sizeof(Envgate__V1__Environment *));
  if (!sorted || !page || !reply->environments)
    return err_nomem(e);
  for (size_t i = 0; i < n; i++)
    sorted[i] = &config->envs[i];
  qsort(sorted, n, sizeof(const struct env_config *), by_name);
  for (size_t i = 0; i < n; i++) {
    if (q->page_token[0] && strcmp(sorted[i]->name, q->page_token) <= 0)
      continue;
    if (reply->n_environments == wanted) {
      reply->next_page_token = sorted[i - 1]->name;
      break;
    }
    Envgate__V1__Environment *m = &page[reply->n_environments];
    if (!environment_fill(c, sorted[i], m, e))
      return false;
    reply->environments[reply->n_environments++] = m;
  }
  return true;
}

static void list_start(struct call *c)
{
  Envgate__V1__ListEnvironmentsResponse reply;
  envgate__v1__list_environments_response__init(&reply);
  struct err e;
  if (list_fill(c, (const void *)c->request, &reply, &e))
    rpc_finish(c, &reply.base, NULL);
  else
    fail(c, &e);
}

// --- GetSchema, GetMetadata -----------------------------------------------------------------------------------------------------------------------------

// Outlives its call, since the pool's answer can't be withdrawn.
struct schema_call {
  struct call *call; // NULL once it has ended
  Envgate__V1__PayloadFormat format;
};

static void on_document(struct schema_call *sc, struct str text, const struct err *failed, ProtobufCMessage *reply, Envgate__V1__Payload **slot)
{
  struct call *c = sc->call;
  struct err e;
  Envgate__V1__Payload payload;
  struct payload_scope scope = {0};
  if (c)
    scope = payload_scope(c);
  if (c && failed)
    fail(c, failed);
  else if (c && payload_write(&scope, text, sc->format, &payload, slot, &e))
    rpc_finish(c, reply, NULL);
  else if (c)
    fail(c, &e);
  free(sc);
}

static void on_metadata(void *ctx, struct str metadata, const struct err *failed)
{
  Envgate__V1__GetMetadataResponse reply;
  envgate__v1__get_metadata_response__init(&reply);
  on_document(ctx, metadata, failed, &reply.base, &reply.metadata);
}

static void on_schema(void *ctx, struct str schema, const struct err *failed)
{
  Envgate__V1__GetSchemaResponse reply;
  envgate__v1__get_schema_response__init(&reply);
  on_document(ctx, schema, failed, &reply.base, &reply.schema);
}

static void document_start(struct call *c, enum document which, const char *environment, Envgate__V1__PayloadFormat format)
{
  const struct env_config *env = call_environment(c, environment, "environment");
  if (!env)
    return;
  struct err e;
  struct schema_call *sc = NULL;
  if (payload_format_check(format, &e)) {
    sc = malloc(sizeof *sc);
    if (!sc)
      err_nomem(&e);
  }
  if (!sc) {
    fail(c, &e);
    return;
  }
  *sc = (struct schema_call){c, format};
  c->state = sc;
  pool_document(pool_find(c->owner, str_c(env->name)), which, which == DOCUMENT_SCHEMA ? on_schema : on_metadata, sc);
}

static void schema_start(struct call *c)
{
  const Envgate__V1__GetSchemaRequest *q = (const void *)c->request;
  document_start(c, DOCUMENT_SCHEMA, q->environment, q->payload_format);
}

static void metadata_start(struct call *c)
{
  const Envgate__V1__GetMetadataRequest *q = (const void *)c->request;
  document_start(c, DOCUMENT_METADATA, q->environment, q->payload_format);
}

static void schema_cancel(struct call *c, struct err *e)
{
  (void)e;
  ((struct schema_call *)c->state)->call = NULL;
}

#define PATH(method) "/envgate.v1.EnvironmentService/" method
const struct rpc_handler environment_handlers[] = {
    {.path = PATH("ListEnvironments"), .route = control_route, .start = list_start},
    {.path = PATH("GetEnvironment"), .route = control_route, .start = get_start},
    {.path = PATH("GetSchema"), .route = control_route, .start = schema_start, .cancel = schema_cancel},
    {.path = PATH("GetMetadata"), .route = control_route, .start = metadata_start, .cancel = schema_cancel},
    {.path = PATH("Preload"), .route = control_route, .start = preload_start, .cancel = preload_cancel},
    {.path = NULL},
};
