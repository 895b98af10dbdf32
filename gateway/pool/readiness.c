// SPDX-License-Identifier: Apache-2.0
#include "pool/readiness.h"

#include <stdio.h>
#include <stdlib.h>

#include "upstream/ws_client.h"

// From the first try to the ready worker it takes at most half as long again as the worker itself does, or a quarter of a second.
#define FIRST_PAUSE (10 * NSEC_PER_MS)
#define LONGEST_PAUSE (50 * NSEC_PER_MS)
// A worker that accepts and does not answer is asked anew; booting ones do that.
#define TRY_TIMEOUT (2 * NSEC_PER_S)

struct readiness {
  struct reactor *reactor;
  const struct endpoint *endpoint;
  nsec deadline, pause;
  struct timer timer;          // the next try, or the deadline
  struct http_request *health; // runs
  struct ws *ws;               // is being tried
  readiness_done *done;
  void *ctx;
  bool tried;
  struct err seen; // what came of the last try that had its time
};

static void ask_health(struct readiness *q);

void readiness_cancel(struct readiness *q)
{
  if (!q)
    return;
  timer_unset(q->reactor, &q->timer);
  if (q->health)
    http_cancel(q->health);
  ws_close(q->ws, 1000);
  free(q);
}

static void finish(struct readiness *q, enum worker_dialect dialect, const struct err *e)
{
  readiness_done *done = q->done;
  void *ctx = q->ctx;
  readiness_cancel(q);
  done(ctx, dialect, e);
}

static void give_up(struct readiness *q)
{
  struct err e;
  err_set(&e, CODE_DEADLINE_EXCEEDED, REASON_WORKER_START_FAILED, "the worker was not ready in time (last try: %s)", q->seen.msg);
  finish(q, DIALECT_WS, &e);
}

static void on_timer(struct timer *t)
{
  struct readiness *q = CONTAINER_OF(t, struct readiness, timer);
  if (clock_mono() >= q->deadline)
    give_up(q);
  else
    ask_health(q);
}

// A try failed. One that the deadline cut short says less than the one before.
static void note(struct readiness *q, const char *path, const char *why)
{
  if (!q->tried || clock_mono() < q->deadline)
    err_set(&q->seen, CODE_UNAVAILABLE, REASON_WORKER_UNREACHABLE, "%s: %s", path, why);
  q->tried = true;
}

static void try_later(struct readiness *q)
{
  nsec next = clock_mono() + q->pause;
  q->pause = q->pause * 3 / 2 < LONGEST_PAUSE ? q->pause * 3 / 2 : LONGEST_PAUSE;
  if (!timer_set(q->reactor, &q->timer, next < q->deadline ? next : q->deadline))
    give_up(q);
}

static nsec try_timeout(const struct readiness *q)
{
  nsec now = clock_mono();
  if (now >= q->deadline)
    return NSEC_PER_MS;
  nsec left = q->deadline - now;
  return left < TRY_TIMEOUT ? left : TRY_TIMEOUT;
}

// --- the /ws upgrade -----------------------------------------------------------------------------------------------------------------------

static void on_ws_open(void *ctx)
{
  finish(ctx, DIALECT_WS, NULL); // the close frame frees the slot that the try took
}

static void on_ws_message(void *ctx, struct shared *msg)
{
  (void)ctx;
  shared_unref(msg);
}

static void on_ws_end(void *ctx, enum ws_end why, int code, const struct err *e)
{
  struct readiness *q = ctx;
  q->ws = NULL;
  // openenv-core 0.1 has no /ws: 404, or 403 where a websocket library is installed.
  if (why == WS_END_STATUS && (code == 404 || code == 403)) {
    finish(q, DIALECT_HTTP, NULL);
    return;
  }
  // A proxy's 502, a worker that is about to restart, one that wants a token that it does not get, one that accepts and says nothing.
  note(q, "/ws", e->msg);
  try_later(q);
}

static void try_ws(struct readiness *q)
{
  const struct ws_options o = {.path = "/ws", .connect_timeout = try_timeout(q)};
  static const struct ws_events events = {.open = on_ws_open, .message = on_ws_message, .end = on_ws_end};
  q->ws = ws_open(q->reactor, q->endpoint, &o, &events, q);
  if (!q->ws)
    try_later(q);
}

// --- /health -------------------------------------------------------------------------------------------------------------------------------

static void on_health(void *ctx, const struct http_reply *reply)
{
  struct readiness *q = ctx;
  q->health = NULL;
  if (reply->status == 200) {
    try_ws(q);
    return;
  }
  char status[32];
  snprintf(status, sizeof status, "it answered %d", reply->status);
  note(q, "/health", reply->err ? reply->err->msg : status);
  try_later(q);
}

static void ask_health(struct readiness *q)
{
  const struct http_options o = {.method = "GET", .path = "/health", .timeout = try_timeout(q), .done = on_health, .ctx = q};
  q->health = http_start(q->reactor, q->endpoint, &o);
  if (!q->health)
    try_later(q);
}

struct readiness *readiness_start(struct reactor *r, const struct endpoint *ep, nsec deadline, readiness_done *done, void *ctx)
{
  struct readiness *q = calloc(1, sizeof *q);
  if (!q)
    return NULL;
  *q = (struct readiness){.reactor = r, .endpoint = ep, .deadline = deadline, .pause = FIRST_PAUSE, .timer.fire = on_timer, .done = done, .ctx = ctx};
  err_set(&q->seen, CODE_UNAVAILABLE, REASON_WORKER_UNREACHABLE, "none");
  if (!timer_set(r, &q->timer, r->now)) {
    free(q);
    return NULL;
  }
  return q;
}
