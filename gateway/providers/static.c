// SPDX-License-Identifier: Apache-2.0
// "static": workers that somebody else runs, by their URLs. Nothing is launched and nothing stopped.
#include <stdlib.h>

#include "providers/providers.h"

struct static_launch {
  struct launch launch;
  struct reactor *reactor;
  struct launch_events events;
  void *ctx;
  struct endpoint endpoint;
  struct task task; // calls `started`, later `stopped`
  bool posted;
  void (*stopped)(void *ctx); // set: stop was called
};

static void launch_free(struct static_launch *l)
{
  endpoint_free(&l->endpoint);
  free(l);
}

static void run(struct reactor *r, struct task *t)
{
  (void)r;
  struct static_launch *l = CONTAINER_OF(t, struct static_launch, task);
  l->posted = false;
  if (!l->stopped) {
    l->events.started(l->ctx, &l->endpoint);
    return;
  }
  void (*stopped)(void *) = l->stopped;
  void *ctx = l->ctx;
  launch_free(l);
  stopped(ctx);
}

static void post(struct static_launch *l)
{
  if (l->posted)
    return;
  l->posted = true;
  reactor_post(l->reactor, &l->task);
}

static struct launch *static_start(const struct launch_spec *spec, const struct launch_events *events, void *ctx, struct err *e)
{
  struct static_launch *l = calloc(1, sizeof *l);
  if (!l) {
    err_nomem(e);
    return NULL;
  }
  *l = (struct static_launch){.launch = {&provider_static}, .reactor = spec->reactor, .events = *events, .ctx = ctx, .task.run = run};
  if (!endpoint_parse(&l->endpoint, spec->env->urls.at[spec->ordinal], e)) {
    launch_free(l);
    return NULL;
  }
  post(l);
  return &l->launch;
}

static void static_log_tail(struct launch *launch, char *text, size_t max)
{
  (void)launch;
  if (max)
    text[0] = '\0';
}

static void static_stop(struct launch *launch, void (*stopped)(void *ctx), void *ctx)
{
  struct static_launch *l = CONTAINER_OF(launch, struct static_launch, launch);
  l->stopped = stopped;
  l->ctx = ctx;
  post(l);
}

const struct provider provider_static = {
    .name = "static",
    .start = static_start,
    .log_tail = static_log_tail,
    .stop = static_stop,
};
