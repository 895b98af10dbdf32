// SPDX-License-Identifier: Apache-2.0
// Workers that have ended. They stay known for a while, so that what a crashed one wrote can still be read.
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "pool/pools.h"

// Whichever is reached first.
enum { ENDED_MOST = 64 };
#define ENDED_TIME (600 * NSEC_PER_S)

struct ended {
  struct list link;
  nsec forget_at;
  struct worker_view view;
  char *id, *env, *provider, *url, *unix_path; // what the view points to
};

static void forget(struct pools *ps, struct ended *d)
{
  list_remove(&d->link);
  ps->ended_count--;
  worker_log_unref(d->view.log);
  free(d->id);
  free(d->env);
  free(d->provider);
  free(d->url);
  free(d->unix_path);
  free(d);
}

static struct ended *ended_of(struct list *node)
{
  return CONTAINER_OF(node, struct ended, link);
}

// Forgets whose time has come, and the oldest when they are too many.
static void tidy(struct pools *ps)
{
  nsec now = clock_mono();
  while (ps->ended_count && (ps->ended_count > ENDED_MOST || ended_of(ps->ended.next)->forget_at <= now))
    forget(ps, ended_of(ps->ended.next));
  if (ps->ended_count)
    timer_set(ps->reactor, &ps->forget, ended_of(ps->ended.next)->forget_at); // out of memory: with the next that ends
}

static void on_forget(struct timer *t)
{
  tidy(CONTAINER_OF(t, struct pools, forget));
}

void ended_init(struct pools *ps)
{
  list_init(&ps->ended);
  ps->forget.fire = on_forget;
}

void ended_free(struct pools *ps)
{
  timer_unset(ps->reactor, &ps->forget);
  while (ps->ended_count)
    forget(ps, ended_of(ps->ended.next));
}

void ended_add(struct pools *ps, const struct worker *w)
{
  struct ended *d = calloc(1, sizeof *d);
  if (!d)
    return;
  list_init(&d->link);
  list_append(&ps->ended, &d->link);
  ps->ended_count++;
  d->forget_at = clock_mono() + ENDED_TIME;
  d->id = strdup(w->id);
  d->env = strdup(w->env->name);
  d->provider = strdup(w->env->provider);
  d->url = strdup(w->endpoint.url ? w->endpoint.url : "");
  d->unix_path = w->endpoint.unix_path ? strdup(w->endpoint.unix_path) : NULL;
  d->view = (struct worker_view){
      .sequence = w->sequence,
      .id = d->id,
      .env = d->env,
      .provider = d->provider,
      .state = WORKER_GONE,
      .url = d->url,
      .unix_path = d->unix_path,
      .sessions_served = w->served,
      .capacity = w->capacity,
      .dialect = w->dialect,
      .launched_wall = w->launched_wall,
      .ready_wall = w->ready_wall,
      .ended_wall = clock_wall(),
      .log = worker_log_ref(w->log),
  };
  if (!d->id || !d->env || !d->provider || !d->url)
    forget(ps, d);
  tidy(ps);
}

bool ended_next(const struct pools *ps, uint64_t after, struct worker_view *v)
{
  bool any = false;
  LIST_EACH (node, &ps->ended) { // in the order of their ends
    const struct ended *d = ended_of(node);
    if (d->view.sequence <= after || (any && d->view.sequence > v->sequence))
      continue;
    *v = d->view;
    any = true;
  }
  return any;
}

bool ended_find(const struct pools *ps, struct str id, struct worker_view *v)
{
  LIST_EACH (node, &ps->ended) {
    const struct ended *d = ended_of(node);
    if (!str_eq(id, str_c(d->id)))
      continue;
    *v = d->view;
    return true;
  }
  return false;
}
