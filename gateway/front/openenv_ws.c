// SPDX-License-Identifier: Apache-2.0
// A socket that is a session is one at once: the upgrade succeeds before there is a worker, as a worker's own does, and what the client sends meanwhile waits.
//
// A session that is lost or closed while its client is silent is told as the answer to the client's next request: a client of OpenEnv's that finds its socket closed opens
// another and steps on in an environment that was never reset. For the same reason nothing is ever reset here in a client's name.
#include "front/openenv_ws.h"

#include <stdio.h>
#include <stdlib.h>

#include "api/forward.h"
#include "api/openenv.h"
#include "auth/auth.h"
#include "config/inline.h"
#include "front/openenv_words.h"
#include "runtime/log.h"
#include "runtime/metrics.h"
#include "session/session.h"

enum {
  PIPELINE = 16,            // requests that wait here, or so many bytes of them, before the socket is read no more
  PIPELINE_BYTES = 1 << 20, //
  MESSAGE_LEAST = 16 << 20, // what a worker takes, whatever max_message_bytes says
  SESSION_ID_MAX = 64,      // more than one has
  PACE_MS = 10,             // to look again for a call in the principal's quota
};
// OpenEnv's client waits for 60 s for its first reply.
#define CAPACITY_WAIT (55 * NSEC_PER_S)
#define CAPACITY_LOOK (1 * NSEC_PER_S)

// A message that waits.
struct waiting {
  struct list link;
  struct shared *message;
  bool binary;
};

struct door {
  struct reactor *r; // where it lives
  struct websocket *socket;
  struct identity who;
  const struct env_config *env; // held; NULL: it attaches
  char id[SESSION_ID_MAX];      // … to this session
  struct pairs headers;         // of the upgrade, that go to the worker
  nsec began, patience;

  struct session_waiter creation;
  struct standing_waiter asker;
  struct timer capacity; // until it is looked whether there is hope for a worker
  bool asked;            // the session; it is not ready yet

  struct session_hold hold; // hold.session: the session, while there is one
  struct err *gone;         // why there is none any more
  char worker[40];          // for the log

  struct list waiting;
  int n_waiting;
  size_t waiting_bytes;
  struct shared *message; // the request that is carried out; NULL: none
  bool binary;
  struct openenv_words words;
  bool mcp;               // messages are JSON-RPC …
  unsigned scopes;        // what each takes
  struct arena arena;     // of the request that is carried out
  struct openenv_rpc rpc; // … and this is it; its id is always there
  struct waiter waiter;
  bool submitted;    // it is the session's
  bool counted;      // it is in the principal's quota
  struct timer pace; // until it is looked for a call in the quota again
  uint64_t requests;
  bool pumping, shutting, over;
  int code; // of the close frame
  struct turn_end end;
};

// --- the end -------------------------------------------------------------------------------------------------------------------------------

static void log_end(const struct door *d)
{
  const struct reactor *r = d->r;
  if (r->config->access_log && r->log)
    log_event(r->log, LOG_INFO, "websocket.closed", LF_C("environment", d->env ? d->env->name : NULL), LF_C("session", d->id),
              LF_C("worker", d->worker), LF_INT("code", d->code), LF_INT("requests", d->requests),
              LF_NUM("ms", (double)(clock_mono() - d->began) / 1e6), LF_C("principal", d->who.principal ? d->who.principal->name : NULL));
}

static void end_request(struct door *d)
{
  if (d->counted)
    quota_give_call(&d->who.principal->quota);
  d->counted = d->submitted = false;
  timer_unset(d->r, &d->pace);
  shared_unref(d->message);
  d->message = NULL;
  d->rpc.id = STR("null");
  arena_reset(&d->arena);
}

static void door_free(struct door *d)
{
  struct list *node;
  while ((node = list_pop(&d->waiting))) {
    struct waiting *m = CONTAINER_OF(node, struct waiting, link);
    shared_unref(m->message);
    free(m);
  }
  if (d->env)
    env_release(d->env);
  pairs_free(&d->headers);
  arena_free(&d->arena);
  free(d->gone);
  free(d);
}

// At the end of the turn, as the session's own functions may be on the stack before.
static void on_end_of_door(struct turn_end *t)
{
  struct door *d = CONTAINER_OF(t, struct door, end);
  struct session *s = d->hold.session;
  session_unask_standing(&d->asker);
  timer_unset(d->r, &d->capacity);
  if (d->asked)
    session_abandon(&d->creation);
  if (d->submitted)
    session_leave(&d->waiter);
  session_release(&d->hold);
  if (s && d->env)
    session_close(s);
  end_request(d);
  log_end(d);
  door_free(d);
}

static void end(struct door *d, int code)
{
  if (d->over)
    return;
  d->over = true;
  d->code = code;
  d->socket = NULL;
  turn_end_add(d->r, &d->end);
}

static void close_with(struct door *d, int code)
{
  if (d->over)
    return;
  websocket_close(d->socket, code);
  end(d, code);
}

// --- answers -------------------------------------------------------------------------------------------------------------------------------

// Takes over the text's memory. `ok` false: it could not be made.
static void say(struct door *d, struct buf *text, bool ok)
{
  if (ok && !d->over)
    websocket_send(d->socket, WS_TEXT, buf_view(text), NULL, STR(""));
  buf_free(text);
  if (!ok)
    close_with(d, WS_CODE_INTERNAL);
}

static void say_rpc_error(struct door *d, int code, struct str message)
{
  struct buf text = {0};
  bool ok = openenv_rpc_error(&d->rpc, code, message, NULL, &text);
  say(d, &text, ok);
}

static void say_error(struct door *d, const char *code, const char *message)
{
  struct buf text = {0};
  if (d->mcp) {
    say_rpc_error(d, code == OPENENV_EXECUTION_ERROR ? JSONRPC_INTERNAL : JSONRPC_SERVER, str_c(message));
    return;
  }
  bool ok = openenv_error(&text, code, str_c(message));
  say(d, &text, ok);
}

// The session is over, or there never was one: says so as a worker does, whose close code is 1000 where it has refused, and ends.
static void say_end(struct door *d, const struct err *e)
{
  const char *code = openenv_code(e);
  say_error(d, code == OPENENV_EXECUTION_ERROR ? OPENENV_SESSION_ERROR : code, e->msg);
  bool refused = code == OPENENV_CAPACITY_REACHED || code == OPENENV_FACTORY_ERROR;
  close_with(d, d->shutting || d->r->draining ? WS_CODE_RESTART : refused ? WS_CODE_NORMAL : WS_CODE_INTERNAL);
}

// A plain HTTP worker's reply, as it would have come by WebSocket.
static void say_http(struct door *d, const struct outcome *o)
{
  struct str head = d->waiter.request.op == OP_STATE ? STR("{\"type\":\"state\",\"data\":") : STR("{\"type\":\"observation\",\"data\":");
  if (o->err)
    say_error(d, openenv_code(o->err), o->err->msg);
  else
    websocket_send(d->socket, WS_TEXT, head, o->bytes, STR("}"));
}

static void say_outcome(struct door *d, const struct outcome *o)
{
  if (d->mcp && o->err)
    say_error(d, OPENENV_EXECUTION_ERROR, o->err->msg);
  else if (d->mcp)
    websocket_send(d->socket, WS_TEXT, o->raw, NULL, STR(""));
  else if (session_dialect(d->hold.session) == DIALECT_HTTP)
    say_http(d, o);
  else
    websocket_send(d->socket, WS_TEXT, STR(""), o->bytes, STR(""));
}

static void say_failure(struct door *d, const struct err *e)
{
  struct session *s = d->hold.session;
  struct shared *last = session_last_words(s);
  if (d->mcp && e->code == CODE_UNIMPLEMENTED) {
    say_error(d, OPENENV_EXECUTION_ERROR, e->msg);
  } else if (last && !d->mcp) {
    websocket_send(d->socket, WS_TEXT, STR(""), last, STR(""));
    close_with(d, WS_CODE_NORMAL);
  } else if (e->code == CODE_UNIMPLEMENTED) {
    struct buf text = {0};
    bool ok = openenv_cannot(&text, &d->words);
    say(d, &text, ok);
  } else if (session_lost(s) || e->code == CODE_ABORTED || e->code == CODE_NOT_FOUND) {
    say_end(d, e);
  } else {
    say_error(d, OPENENV_EXECUTION_ERROR, e->msg);
  }
}

// --- requests ------------------------------------------------------------------------------------------------------------------------------

static void pump(struct door *d);

static void on_done(struct waiter *w, const struct outcome *o, const struct err *e)
{
  struct door *d = CONTAINER_OF(w, struct door, waiter);
  d->submitted = false;
  if (!d->over && o)
    say_outcome(d, o);
  else if (!d->over)
    say_failure(d, e);
  end_request(d);
  pump(d);
}

// False: not now, and it is looked again; or never, and the socket ends.
static bool admitted(struct door *d)
{
  struct identity who;
  struct err e;
  if (!d->r->auth || websocket_admit(d->socket, d->scopes, &who, &d->counted, &e)) {
    if (d->r->auth)
      d->who = who;
    return true;
  }
  if (e.reason == REASON_QUOTA_EXCEEDED) { // OpenEnv's clients know of no retries: they wait
    uint32_t ms = e.retry_after_ms && e.retry_after_ms < PACE_MS ? e.retry_after_ms : PACE_MS;
    if (timer_set(d->r, &d->pace, nsec_add(d->r->now, ms * NSEC_PER_MS)))
      return false;
  }
  say_error(d, OPENENV_SESSION_ERROR, e.msg);
  close_with(d, WS_CODE_POLICY);
  return false;
}

static void submit(struct door *d)
{
  struct session *s = d->hold.session;
  if (!d->env)
    session_find(d->r, str_c(d->id), d->who); // renews its lease
  d->waiter.done = on_done;
  if (session_takes_headers(s))
    d->waiter.request.headers = &d->headers;
  d->requests++;
  d->submitted = true;
  session_submit(s, &d->waiter);
}

// What the gateway answers itself, of a socket's own session. False: it is the worker's to answer.
static bool answer_rpc(struct door *d)
{
  const struct openenv_rpc *q = &d->rpc;
  struct str own = str_c(d->id);
  struct buf text = {0};
  bool ok;
  if (!q->valid) {
    say_rpc_error(d, JSONRPC_PARSE_ERROR, STR("Parse error"));
  } else if (!q->method.n) {
    say_rpc_error(d, JSONRPC_INVALID_REQUEST, STR("Invalid request: method is required, a string"));
  } else if (str_eq(q->method, STR("openenv/session/create"))) {
    ok = openenv_rpc_session(q, own, STR(""), &text);
    say(d, &text, ok);
  } else if (!str_eq(q->method, STR("openenv/session/close"))) {
    return false;
  } else if (!q->session_id.n) {
    say_rpc_error(d, JSONRPC_INVALID_PARAMS, STR("Invalid params - 'session_id' is required"));
  } else if (str_eq(q->session_id, own)) {
    say_rpc_error(d, JSONRPC_INVALID_REQUEST, STR("Cannot close active WebSocket-managed session via MCP method"));
  } else {
    ok = buf_str(&text, STR("Unknown session_id: ")) && buf_str(&text, q->session_id);
    say_rpc_error(d, JSONRPC_INVALID_PARAMS, ok ? buf_view(&text) : STR("Unknown session_id"));
    buf_free(&text);
  }
  return true;
}

static void carry_rpc_out(struct door *d)
{
  struct openenv_read read = {.arena = &d->arena, .max_depth = (int)d->r->config->max_json_depth};
  struct str text = buf_view(&d->message->buf);
  if (!openenv_rpc_read(&read, text, &d->rpc)) {
    close_with(d, WS_CODE_INTERNAL);
    return;
  }
  if (answer_rpc(d)) {
    end_request(d);
    pump(d);
    return;
  }
  d->waiter.request = (struct worker_request){.op = OP_MCP, .action = text};
  submit(d);
}

// Carries the request out, or as much of it as can be now.
static void carry_out(struct door *d)
{
  if (d->gone) {
    say_end(d, d->gone);
    return;
  }
  if (d->binary) { // what OpenEnv's server makes of it
    say_error(d, OPENENV_SESSION_ERROR, "'text'");
    close_with(d, WS_CODE_NORMAL);
    return;
  }
  if (!admitted(d))
    return;
  d->waiter = (struct waiter){0};
  if (d->mcp) {
    carry_rpc_out(d);
    return;
  }
  openenv_words_read(buf_view(&d->message->buf), (int)d->r->config->max_json_depth, &d->words, &d->waiter.request);
  if (d->words.close)
    close_with(d, WS_CODE_NORMAL);
  else
    submit(d);
}

static void on_pace(struct timer *t)
{
  carry_out(CONTAINER_OF(t, struct door, pace));
}

static bool may_begin(const struct door *d)
{
  return !d->over && !d->message && !d->asked && !websocket_full(d->socket);
}

static void begin(struct door *d, struct shared *message, bool binary)
{
  d->message = message;
  d->binary = binary;
  carry_out(d);
}

// Begins what waits, one after another; on_done may run inside.
static void pump(struct door *d)
{
  if (d->pumping)
    return;
  d->pumping = true;
  struct list *node;
  while (may_begin(d) && (node = list_pop(&d->waiting))) {
    struct waiting *m = CONTAINER_OF(node, struct waiting, link);
    struct shared *message = m->message;
    bool binary = m->binary;
    d->n_waiting--;
    d->waiting_bytes -= message->buf.n;
    free(m);
    if (d->n_waiting < PIPELINE / 2)
      websocket_resume(d->socket);
    begin(d, message, binary);
  }
  d->pumping = false;
  if (d->shutting && !d->over && !d->message)
    close_with(d, WS_CODE_RESTART);
}

static void on_message(void *ctx, struct shared *message, bool binary)
{
  struct door *d = ctx;
  if (may_begin(d) && list_empty(&d->waiting)) {
    d->pumping = true;
    begin(d, message, binary);
    d->pumping = false;
    pump(d);
    return;
  }
  struct waiting *m = malloc(sizeof *m);
  if (!m) {
    shared_unref(message);
    close_with(d, WS_CODE_INTERNAL);
    return;
  }
  *m = (struct waiting){.message = message, .binary = binary};
  list_append(&d->waiting, &m->link);
  d->n_waiting++;
  d->waiting_bytes += message->buf.n;
  if (d->n_waiting >= PIPELINE || d->waiting_bytes >= PIPELINE_BYTES)
    websocket_pause(d->socket);
}

static void on_drained(void *ctx)
{
  pump(ctx);
}

static void on_shutdown(void *ctx)
{
  struct door *d = ctx;
  d->shutting = true;
  if (!d->message)
    close_with(d, WS_CODE_RESTART);
}

static void on_end(void *ctx, int code)
{
  end(ctx, code);
}

// --- the session ---------------------------------------------------------------------------------------------------------------------------

static void on_gone(struct session_hold *h, const struct err *e)
{
  struct door *d = CONTAINER_OF(h, struct door, hold);
  if (d->over)
    return;
  d->gone = malloc(sizeof *d->gone);
  if (!d->gone || d->shutting) {
    close_with(d, d->shutting ? WS_CODE_RESTART : WS_CODE_INTERNAL);
    return;
  }
  *d->gone = *e;
}

static void take(struct door *d, struct session *s)
{
  d->hold.ended = on_gone;
  session_hold(s, &d->hold);
  snprintf(d->id, sizeof d->id, "%s", session_id(s));
  snprintf(d->worker, sizeof d->worker, "%s", session_worker_id(s));
}

static void on_ready(struct session_waiter *w, struct session *s, const struct err *e)
{
  struct door *d = CONTAINER_OF(w, struct door, creation);
  d->asked = false;
  session_unask_standing(&d->asker);
  timer_unset(d->r, &d->capacity);
  if (s)
    take(d, s); // also when the socket has ended in this turn: then its end closes the session
  if (d->over)
    return;
  if (e)
    say_end(d, e);
  else
    pump(d);
}

static void on_standing(struct standing_waiter *w, struct session *s, const struct standing *standing, const struct err *e)
{
  struct door *d = CONTAINER_OF(w, struct door, asker);
  if (e || !s || !d->asked || d->over)
    return; // on_ready tells
  if (!standing || !standing->hopeless) {
    timer_set(d->r, &d->capacity, nsec_add(d->r->now, CAPACITY_LOOK));
    return;
  }
  struct buf text = {0};
  bool ok = openenv_full(&text, d->env->max_workers * d->env->sessions_per_worker);
  d->asked = false;
  session_give_up(&d->creation);
  if (d->mcp)
    say_error(d, OPENENV_CAPACITY_REACHED, "Server at capacity. Cannot accept new connections.");
  else
    say(d, &text, ok);
  buf_free(&text);
  close_with(d, WS_CODE_NORMAL);
}

static void on_capacity(struct timer *t)
{
  struct door *d = CONTAINER_OF(t, struct door, capacity);
  session_ask_standing(d->creation.session, &d->asker);
}

// --- opening -------------------------------------------------------------------------------------------------------------------------------

static void on_opened_new(void *ctx, struct websocket *w)
{
  struct door *d = ctx;
  d->socket = w;
  d->asked = true;
  d->creation.ready = on_ready;
  d->asker.told = on_standing;
  timer_set(d->r, &d->capacity, nsec_add(d->r->now, d->patience));
  const struct session_spec spec = {.env = d->env,
                                    .lease_s = d->env->lease_s,
                                    .idle_timeout_s = d->env->idle_timeout_s,
                                    .who = d->who,
                                    .headers = d->headers.n ? &d->headers : NULL};
  session_create(d->r, &spec, &d->creation);
}

static void on_opened_attach(void *ctx, struct websocket *w)
{
  struct door *d = ctx;
  d->socket = w;
  struct session *s = session_find(d->r, str_c(d->id), d->who);
  if (s) {
    take(d, s);
    return;
  }
  char text[SESSION_ID_MAX + 32];
  snprintf(text, sizeof text, "Unknown session_id: %s", d->id);
  say_error(d, OPENENV_SESSION_ERROR, text);
  close_with(d, WS_CODE_NORMAL);
}

static void on_lost(void *ctx)
{
  door_free(ctx);
}

// What a row of http_sockets opens.
struct kind {
  bool mcp;
  unsigned scopes;
};

static struct door *door_new(struct reactor *r, struct identity who, struct kind kind)
{
  struct door *d = calloc(1, sizeof *d);
  if (!d)
    return NULL;
  d->r = r;
  d->who = who;
  d->mcp = kind.mcp;
  d->scopes = kind.scopes;
  d->rpc.id = STR("null");
  arena_init(&d->arena, 2 * (MESSAGE_LEAST + (size_t)r->config->max_message_bytes) + 65536);
  d->began = clock_mono();
  d->patience = CAPACITY_WAIT;
  d->capacity.fire = on_capacity;
  d->pace.fire = on_pace;
  d->end.run = on_end_of_door;
  list_init(&d->end.link);
  list_init(&d->waiting);
  list_init(&d->asker.link);
  return d;
}

static void refuse(struct http_request *q, const struct err *e)
{
  http_answer_error(q, NULL, e);
}

static void refuse_nomem(struct http_request *q)
{
  struct err e;
  err_nomem(&e);
  refuse(q, &e);
}

static void upgrade(struct websocket_request *u, struct door *d, void (*opened)(void *ctx, struct websocket *w))
{
  static const struct websocket_events events = {.message = on_message, .drained = on_drained, .shutdown = on_shutdown, .end = on_end};
  size_t most = (size_t)d->r->config->max_message_bytes;
  const struct websocket_options o = {.events = &events,
                                      .binary = true,
                                      .max_message = most > MESSAGE_LEAST ? most : MESSAGE_LEAST,
                                      .at = d->r,
                                      .opened = opened,
                                      .lost = on_lost,
                                      .ctx = d};
  if (!websocket_upgrade(u, &o))
    door_free(d);
}

// At a session that is there, or where the client is told that it is not, as a worker tells it.
static void attach(struct websocket_request *u, struct identity who, struct kind kind, struct str id, bool keeps)
{
  struct reactor *r = u->q->r;
  int at = session_reactor(id, r->count);
  struct door *d = door_new(at < 0 ? r : r->all[at], who, kind);
  if (!d) {
    refuse_nomem(u->q);
    return;
  }
  d->hold.keeps = keeps;
  snprintf(d->id, sizeof d->id, "%.*s", (int)(id.n < SESSION_ID_MAX ? id.n : SESSION_ID_MAX), id.p);
  upgrade(u, d, on_opened_attach);
}

// "timeout_s=5" in the query: how long to wait for a worker where every one is full. False: it is no such time.
static bool read_patience(struct str query, nsec *patience)
{
  char text[32];
  char *end_of_number;
  const struct str key = STR("timeout_s=");
  if (!query.n)
    return true;
  if (!str_starts(query, key) || query.n - key.n >= sizeof text)
    return false;
  snprintf(text, sizeof text, "%.*s", STR_ARG(str_skip(query, key.n)));
  double s = strtod(text, &end_of_number);
  *patience = nsec_from_s(s);
  return text[0] && !*end_of_number && s >= 0;
}

static void open_new(struct websocket_request *u, struct kind kind)
{
  struct reactor *r = u->q->r;
  struct identity who;
  struct err e;
  nsec patience = CAPACITY_WAIT;
  if (!websocket_may(u, kind.scopes, &who))
    return;
  const struct env_config *env = config_env(r->config, u->name);
  if (!env) {
    err_set(&e, CODE_NOT_FOUND, REASON_ENVIRONMENT_NOT_FOUND, "no environment \"%.*s\" is configured; ListEnvironments names those that are",
            (int)(u->name.n < 64 ? u->name.n : 64), u->name.p);
    refuse(u->q, &e);
    return;
  }
  const struct str session = STR("session_id=");
  if (str_starts(u->q->query, session)) { // OpenEnv's MCP client, whose session was made by HTTP (http_openenv.c)
    attach(u, who, kind, str_skip(u->q->query, session.n), true);
    return;
  }
  if (!read_patience(u->q->query, &patience)) {
    err_field(&e, REASON_INVALID_REQUEST, "timeout_s", "the query may have timeout_s=SECONDS or session_id=ID only");
    refuse(u->q, &e);
    return;
  }
  const struct forward all = {u->headers, u->n};
  const struct pairs *headers = NULL;
  struct door *d = door_new(r, who, kind);
  if (!d || !forward_to(&all, env, &u->arena, &headers) || !pairs_add(&d->headers, headers)) {
    if (d)
      door_free(d);
    refuse_nomem(u->q);
    return;
  }
  d->env = env;
  d->hold.keeps = true;
  d->patience = patience;
  env_hold(env);
  upgrade(u, d, on_opened_new);
}

static void open_attach(struct websocket_request *u, struct kind kind)
{
  struct reactor *r = u->q->r;
  struct identity who;
  if (!websocket_may(u, kind.scopes, &who))
    return;
  int at = session_reactor(u->name, r->count);
  if (at < 0 || u->name.n >= SESSION_ID_MAX) {
    struct err e;
    err_set(&e, CODE_NOT_FOUND, REASON_SESSION_NOT_FOUND, "no session sessions/%.*s; it was closed or its lease ran out, or it never was",
            (int)(u->name.n < 64 ? u->name.n : 64), u->name.p);
    refuse(u->q, &e);
    return;
  }
  attach(u, who, kind, u->name, false);
}

void openenv_ws_new(struct websocket_request *u)
{
  open_new(u, (struct kind){.scopes = SCOPE_TRAINER});
}

void openenv_ws_attach(struct websocket_request *u)
{
  open_attach(u, (struct kind){.scopes = SCOPE_TRAINER});
}

void openenv_mcp_new(struct websocket_request *u)
{
  open_new(u, (struct kind){.mcp = true, .scopes = SCOPE_TRAINER});
}

void openenv_mcp_attach(struct websocket_request *u)
{
  open_attach(u, (struct kind){.mcp = true, .scopes = SCOPE_AGENT});
}
