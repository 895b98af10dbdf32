// SPDX-License-Identifier: Apache-2.0
#include "worker/link.h"

#include <stdio.h>
#include <stdlib.h>

#include "runtime/metrics.h"

#define PING_INTERVAL (30 * NSEC_PER_S)
#define PAUSED_LOOK (1 * NSEC_PER_S)

enum { BODY_KEPT = 4 << 10 }; // of a request's memory, for the session's next

// What each request reads stands first, in few cache lines.
struct link {
  struct reactor *r;
  const struct env_config *env;
  const struct link_events *events;
  void *ctx;
  struct ws *ws;
  enum worker_dialect dialect;
  enum worker_op op; // of the running request
  int max_depth;
  bool opened, running, gone;
  bool answered;              // a reply has come, so that a refusal for capacity would make no sense any more
  bool retried;               // HTTP: the request was started a second time, since nothing of the first was taken
  uint64_t sent_at_read;      // WebSocket: what had been read when the running request was sent
  nsec deadline;              // of the running request
  nsec paused;                // since when its reply is not read; 0: it is
  struct timer timer;         // set for `deadline` or an earlier one
  struct turn_end freeing;    // what is up the stack may still look at a link that is gone
  struct http_request *http;  // a GET that runs
  struct http_request *steps; // for all POSTs, one after the other
  struct endpoint ep;         // HTTP only, as the rest
  const char *path;
  struct buf body;
  struct pairs headers; // of the running request; a copy, since it may be sent again when who asked has left
  bool own_headers;     // `steps` has some, from the last request
};

static void count(const struct link *l, enum metric which, size_t n)
{
  if (l->r->metrics)
    metric_add(l->r->metrics, which, (int64_t)n);
}

// --- ends ------------------------------------------------------------------------------------------------------------------------------

static void free_now(struct turn_end *t)
{
  struct link *l = CONTAINER_OF(t, struct link, freeing);
  endpoint_free(&l->ep);
  buf_free(&l->body);
  pairs_free(&l->headers);
  free(l);
}

// From here on no callback is called.
static void let_go(struct link *l)
{
  if (l->gone)
    return;
  l->gone = true;
  timer_unset(l->r, &l->timer);
  ws_close(l->ws, 1000);
  l->ws = NULL;
  if (l->http)
    http_cancel(l->http);
  if (l->steps)
    http_cancel(l->steps);
  l->http = l->steps = NULL;
  turn_end_add(l->r, &l->freeing); // after the HTTP client's, which lets go of `body`
}

static void end(struct link *l, const struct link_end *how)
{
  let_go(l);
  l->events->end(l->ctx, how);
}

// A link that was open and is lost; one that never opened is UNAVAILABLE, so that another worker may be tried.
static void lose_by(struct link *l, const char *what, bool cut)
{
  struct err e;
  if (l->opened)
    err_set(&e, CODE_ABORTED, REASON_SESSION_LOST, "the session is lost: %s", what);
  else
    err_set(&e, CODE_UNAVAILABLE, REASON_WORKER_UNREACHABLE, "%s", what);
  end(l, &(struct link_end){.err = &e, .cut = cut});
}

static void lose(struct link *l, const char *what)
{
  lose_by(l, what, false);
}

void link_close(struct link *l)
{
  if (l)
    let_go(l);
}

static void on_timer(struct timer *t)
{
  struct link *l = CONTAINER_OF(t, struct link, timer);
  if (!l->running)
    return;
  if (l->paused) { // the time until it is read on is not the worker's
    timer_set(l->r, t, nsec_add(l->r->now, PAUSED_LOOK));
    return;
  }
  if (l->r->now < l->deadline) {
    timer_set(l->r, t, l->deadline); // was set for an earlier request; to move it at each would cost more
    return;
  }
  char what[128];
  snprintf(what, sizeof what, "the worker did not answer within %.6g s (the environment's step_timeout_s)", l->env->step_timeout_s);
  lose(l, what);
}

// --- replies ---------------------------------------------------------------------------------------------------------------------------

// What a reply means for the link: the caller's, or the end.
static void deliver(struct link *l, struct worker_reply *reply, struct shared *bytes)
{
  if (reply->capacity) {
    shared_unref(bytes);
    if (l->answered)
      lose(l, "the worker says that it is full, in the middle of a session");
    else
      end(l, &(struct link_end){.err = &reply->err, .capacity = true, .max_sessions = reply->max_sessions});
    return;
  }
  bool ended = reply->session_ended;
  struct err why;
  if (ended)
    why = reply->err;
  l->running = false;
  l->answered = true;
  l->events->reply(l->ctx, reply, bytes);
  if (ended && !l->gone)
    end(l, &(struct link_end){.err = &why});
}

static bool on_large(void *ctx, size_t more)
{
  struct link *l = ctx;
  if (!l->running || !l->events->large || l->events->large(l->ctx, more))
    return true;
  l->paused = clock_mono();
  return false;
}

void link_resume(struct link *l)
{
  if (!l->paused)
    return;
  nsec now = clock_mono();
  l->deadline = nsec_add(l->deadline, now - l->paused);
  l->paused = 0;
  timer_set(l->r, &l->timer, l->deadline);
  if (l->ws)
    ws_resume(l->ws);
  else
    http_resume(l->http ? l->http : l->steps);
}

// Nobody asked. Right after the upgrade a worker says so that it is full or could not make the environment; anything else is none of ours to guess.
static void on_unasked(struct link *l, struct shared *message)
{
  struct worker_reply reply;
  protocol_ws_reply(OP_STATE, buf_view(&message->buf), l->max_depth, &reply);
  bool first_words = !l->answered && reply.kind == REPLY_ERROR && reply.session_ended && reply.err.reason != REASON_WORKER_PROTOCOL;
  shared_unref(message);
  if (first_words)
    end(l, &(struct link_end){.err = &reply.err, .capacity = reply.capacity, .max_sessions = reply.max_sessions});
  else
    lose(l, "the worker sent a message that nobody asked for");
}

static void on_ws_message(void *ctx, struct shared *message)
{
  struct link *l = ctx;
  count(l, METRIC_worker_received_bytes_total, message->buf.n);
  // Nor is what came in one piece with the reply before it an answer to a request that was sent in between.
  if (!l->running || ws_reads(l->ws) == l->sent_at_read) {
    on_unasked(l, message);
    return;
  }
  struct worker_reply reply;
  protocol_ws_reply(l->op, buf_view(&message->buf), l->max_depth, &reply);
  deliver(l, &reply, message);
}

static void on_ws_open(void *ctx)
{
  struct link *l = ctx;
  l->opened = true;
  l->events->open(l->ctx);
}

static void on_ws_end(void *ctx, enum ws_end why, int code, const struct err *e)
{
  enum { GOING_AWAY = 1001, SERVICE_RESTART = 1012 }; // what a server says when it has been told to end; uvicorn the second
  struct link *l = ctx;
  bool ends = why == WS_END_CLOSED && (code == GOING_AWAY || code == SERVICE_RESTART);
  l->ws = NULL;
  lose_by(l, e->msg, why == WS_END_LOST || ends);
}

// --- HTTP ------------------------------------------------------------------------------------------------------------------------------

static bool start_request(struct link *l);

static void on_no_reply(struct link *l, const struct http_reply *reply)
{
  if (!reply->sent && !l->retried) {
    l->retried = true;
    if (start_request(l))
      return;
  }
  lose_by(l, reply->err->msg, true);
}

static void on_http_reply(void *ctx, const struct http_reply *reply)
{
  struct link *l = ctx;
  l->http = NULL;
  if (!reply->status) {
    on_no_reply(l, reply);
    return;
  }
  count(l, METRIC_worker_received_bytes_total, reply->body.n);
  struct worker_reply parsed;
  protocol_http_reply(l->op, reply->status, reply->body, l->max_depth, &parsed);
  deliver(l, &parsed, shared_ref(reply->bytes));
}

// Most requests have none, and then there is nothing to change.
static bool use_headers(struct link *l)
{
  bool before = l->own_headers;
  l->own_headers = l->headers.n > 0;
  return (!before && !l->own_headers) || http_set_headers(l->steps, &l->headers);
}

static bool start_request(struct link *l)
{
  if (l->steps && l->op != OP_STATE)
    return use_headers(l) && http_again(l->steps, l->path, buf_view(&l->body));
  struct http_options o = {.method = "GET",
                           .path = l->path,
                           .headers = &l->headers,
                           .max_body = (size_t)l->env->max_reply_bytes,
                           .done = on_http_reply,
                           .large = on_large,
                           .ctx = l};
  if (l->op == OP_STATE)
    return (l->http = http_start(l->r, &l->ep, &o)) != NULL;
  o.method = "POST";
  o.content_type = "application/json";
  o.body = buf_view(&l->body);
  o.kept = true;
  l->own_headers = l->headers.n > 0;
  return (l->steps = http_start(l->r, &l->ep, &o)) != NULL;
}

static void on_health(void *ctx, const struct http_reply *reply)
{
  struct link *l = ctx;
  l->http = NULL;
  if (reply->status == 200) {
    l->opened = true;
    l->events->open(l->ctx);
    return;
  }
  char what[64];
  snprintf(what, sizeof what, "the worker answered /health with HTTP status %d", reply->status);
  lose(l, reply->status ? what : reply->err->msg);
}

static bool open_http(struct link *l, const struct endpoint *ep)
{
  if (!endpoint_copy(&l->ep, ep))
    return false;
  l->http = http_start(l->r, ep, &(struct http_options){.method = "GET", .path = "/health", .timeout = 10 * NSEC_PER_S, .done = on_health, .ctx = l});
  return l->http != NULL;
}

// --- opening and sending ---------------------------------------------------------------------------------------------------------------

static bool open_ws(struct link *l, const struct endpoint *ep, const struct pairs *headers)
{
  static const struct ws_events events = {.open = on_ws_open, .message = on_ws_message, .large = on_large, .end = on_ws_end};
  const struct ws_options o = {.path = "/ws", .headers = headers, .ping_interval = PING_INTERVAL, .max_message = (size_t)l->env->max_reply_bytes};
  l->ws = ws_open(l->r, ep, &o, &events, l);
  return l->ws != NULL;
}

struct link *link_open(struct reactor *r, enum worker_dialect dialect, const struct endpoint *ep, const struct env_config *env,
                       const struct pairs *headers, int max_depth, const struct link_events *events, void *ctx)
{
  struct link *l = calloc(1, sizeof *l);
  if (!l)
    return NULL;
  *l = (struct link){
      .r = r, .env = env, .events = events, .ctx = ctx, .dialect = dialect, .max_depth = max_depth, .timer.fire = on_timer, .freeing.run = free_now};
  list_init(&l->freeing.link);
  if (dialect == DIALECT_WS ? open_ws(l, ep, headers) : open_http(l, ep))
    return l;
  free_now(&l->freeing);
  return NULL;
}

static bool send_ws(struct link *l, const struct worker_request *q)
{
  struct buf own = {0};
  struct str pieces[WORKER_REQUEST_PIECES];
  int n = protocol_ws_request(q, &own, pieces);
  l->sent_at_read = ws_reads(l->ws);
  bool ok = n > 0 && ws_send(l->ws, pieces, n);
  for (int i = 0; ok && i < n; i++)
    count(l, METRIC_worker_sent_bytes_total, pieces[i].n);
  buf_free(&own);
  return ok;
}

static bool send_http(struct link *l, const struct worker_request *q)
{
  const char *method; // start_request knows it
  l->retried = false;
  if (l->body.cap > BODY_KEPT)
    buf_free(&l->body);
  l->body.n = 0;
  pairs_free(&l->headers);
  if (!pairs_add(&l->headers, q->headers) || !protocol_http_request(q, &method, &l->path, &l->body) || !start_request(l))
    return false;
  count(l, METRIC_worker_sent_bytes_total, l->body.n);
  return true;
}

bool link_send(struct link *l, const struct worker_request *q)
{
  l->op = q->op;
  l->deadline = nsec_add(l->r->now, nsec_from_s(l->env->step_timeout_s));
  if (!timer_is_set(&l->timer) && !timer_set(l->r, &l->timer, l->deadline))
    return false;
  l->running = l->dialect == DIALECT_WS ? send_ws(l, q) : send_http(l, q);
  return l->running;
}
