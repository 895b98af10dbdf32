// SPDX-License-Identifier: Apache-2.0
#include "providers/docker_ports.h"

#include <stdio.h>
#include <stdlib.h>

#define FIRST_PAUSE (10 * NSEC_PER_MS)
#define LONGEST_PAUSE (50 * NSEC_PER_MS)
#define TRY_TIMEOUT (2 * NSEC_PER_S)

void docker_search_end(struct docker_search *s)
{
  if (!s->reactor)
    return;
  timer_unset(s->reactor, &s->timer);
  for (int i = 0; i < s->n; i++) {
    if (s->tries[i].request)
      http_cancel(s->tries[i].request);
    endpoint_free(&s->tries[i].endpoint);
  }
  *s = (struct docker_search){0};
}

static void on_tried(void *ctx, const struct http_reply *reply)
{
  struct docker_try *t = ctx;
  t->request = NULL;
  if (reply->status)
    t->search->done(t->search, &t->endpoint);
}

static void ask_all(struct docker_search *s)
{
  const struct http_options o = {.method = "GET", .path = "/health", .timeout = TRY_TIMEOUT, .done = on_tried};
  for (int i = 0; i < s->n; i++) {
    struct http_options each = o;
    each.ctx = &s->tries[i];
    if (!s->tries[i].request)
      s->tries[i].request = http_start(s->reactor, &s->tries[i].endpoint, &each);
  }
}

static void on_timer(struct timer *t)
{
  struct docker_search *s = CONTAINER_OF(t, struct docker_search, timer);
  nsec now = clock_mono();
  ask_all(s);
  if (now >= s->deadline || !timer_set(s->reactor, t, now + s->pause)) {
    s->done(s, NULL);
    return;
  }
  s->pause = s->pause * 3 / 2 < LONGEST_PAUSE ? s->pause * 3 / 2 : LONGEST_PAUSE;
}

bool docker_search_start(struct docker_search *s, struct reactor *r, const struct docker_container *c, nsec deadline,
                         void (*done)(struct docker_search *s, const struct endpoint *found))
{
  bool ok = true;
  *s = (struct docker_search){.reactor = r, .deadline = deadline, .pause = FIRST_PAUSE, .timer.fire = on_timer, .n = c->n_ports, .done = done};
  for (int i = 0; i < s->n; i++) {
    struct docker_try *t = &s->tries[i];
    t->search = s;
    if (asprintf(&t->endpoint.url, "http://%s:%u", c->address, (unsigned)c->ports[i]) < 0)
      t->endpoint.url = NULL;
    ok = ok && t->endpoint.url;
  }
  return ok && timer_set(r, &s->timer, r->now);
}
