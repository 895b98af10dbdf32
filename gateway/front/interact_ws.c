// SPDX-License-Identifier: Apache-2.0
// A socket is an Interact stream's call: each message an InteractRequest, each reply an InteractResponse, as text (JSON as REST has it) or binary, as the subprotocol says.
//
// A WebSocket has neither a status at its end nor a half-close. So a stream that ends with an error says it by a last message, which has the id 0 and the status, and then a close code: 1012
// when the gateway shuts down, 1011 for its own faults, 1008 else. The caller closes when it has what it wants, as if it had cancelled.
//
// Browsers can't set Authorization: their token may be one of the subprotocols that they offer, envgate.bearer.TOKEN, which is never the one that is agreed on.
#include "front/interact_ws.h"

#include <stdlib.h>

#include "auth/auth.h"
#include "config/config.h"
#include "envgate/v1/session_service.pb-c.h"

#define BEARER "envgate.bearer."
#define PATIENCE (15 * NSEC_PER_S) // as for HTTP/2 connections (runtime/flow.h)

struct interact_socket {
  struct reactor *r;
  struct websocket *w; // NULL: not yet, or no more
  struct call *call;   // until it ends; the headers lie in its arena
  struct flow *flow;
  struct turn_end freeing;
};

static void on_freeing(struct turn_end *t)
{
  struct interact_socket *s = CONTAINER_OF(t, struct interact_socket, freeing);
  flow_close(s->flow);
  free(s);
}

static enum ws_opcode opcode_of(const struct call *c)
{
  return c->codec == CODEC_PROTO ? WS_BINARY : WS_TEXT;
}

// --- replies -------------------------------------------------------------------------------------------------------------------------------

static void on_call_head(struct call *c)
{
  (void)c;
}

static void on_call_message(struct call *c, struct buf *out)
{
  struct interact_socket *s = c->front_ctx;
  struct shared *body = out->n >= FLOW_LARGE ? shared_take(NULL, out) : NULL;
  if (s->w && !websocket_send(s->w, opcode_of(c), buf_view(out), body, STR("")))
    websocket_pause(s->w);
  shared_unref(body);
  out->n = 0;
  call_backlog(c, s->w && websocket_full(s->w) ? CALL_BACKLOG_HIGH : 0);
}

static int close_code(const struct err *e)
{
  if (!e)
    return WS_CODE_NORMAL;
  return e->code == CODE_UNAVAILABLE ? WS_CODE_RESTART : e->code == CODE_INTERNAL ? WS_CODE_INTERNAL : WS_CODE_POLICY;
}

// Without memory for it the close code must do.
static void send_status(struct interact_socket *s, struct call *c, const struct err *e)
{
  struct err failed;
  struct buf last = {0};
  Envgate__V1__InteractResponse m;
  envgate__v1__interact_response__init(&m);
  m.response_case = ENVGATE__V1__INTERACT_RESPONSE__RESPONSE_STATUS;
  m.status = call_status(c, e, &c->arena);
  if (m.status && call_encode(c, &m.base, &last, &failed))
    websocket_send(s->w, opcode_of(c), buf_view(&last), NULL, STR(""));
  buf_free(&last);
}

static void on_call_finish(struct call *c, struct buf *out, const struct err *e)
{
  struct interact_socket *s = c->front_ctx;
  (void)out;
  s->call = NULL;
  if (s->w) {
    if (e)
      send_status(s, c, e);
    websocket_close(s->w, close_code(e));
    s->w = NULL;
  }
  turn_end_add(s->r, &s->freeing);
}

static const struct call_front front = {.head = on_call_head, .message = on_call_message, .finish = on_call_finish};

// --- requests ------------------------------------------------------------------------------------------------------------------------------

static void on_message(void *ctx, struct shared *message, bool binary)
{
  struct interact_socket *s = ctx;
  struct err e;
  if (binary == (s->call->codec == CODEC_PROTO)) {
    call_message(s->call, buf_view(&message->buf));
  } else {
    err_set(&e, CODE_INVALID_ARGUMENT, REASON_INVALID_REQUEST, "messages must be %s, as the subprotocol says", binary ? "text" : "binary");
    call_refuse(s->call, &e);
  }
  shared_unref(message);
}

static void on_drained(void *ctx)
{
  struct interact_socket *s = ctx;
  websocket_resume(s->w);
  call_backlog(s->call, 0);
}

// The call hears of it by its handler.
static void on_shutdown(void *ctx)
{
  (void)ctx;
}

static void on_end(void *ctx, int code)
{
  struct interact_socket *s = ctx;
  (void)code;
  s->w = NULL;
  call_cancel(s->call);
}

// --- the upgrade ---------------------------------------------------------------------------------------------------------------------------

static void on_opened(void *ctx, struct websocket *w)
{
  struct interact_socket *s = ctx;
  struct call *c = s->call;
  struct err e;
  s->w = w;
  c->peer = websocket_caller(w);
  if (call_method(c, STR("/envgate.v1.SessionService/Interact"), &e))
    call_begin(c);
  else
    call_refuse(c, &e);
}

static void on_lost(void *ctx)
{
  struct interact_socket *s = ctx;
  call_drop(s->call);
  turn_end_add(s->r, &s->freeing);
}

// NULL: out of memory.
static struct interact_socket *socket_new(struct reactor *r, enum codec codec)
{
  struct interact_socket *s = calloc(1, sizeof *s);
  struct flow *flow = s ? flow_new(r, PATIENCE) : NULL;
  struct call *c = flow ? call_new(r, &front, s) : NULL;
  if (!c) {
    if (flow)
      flow_close(flow);
    free(s);
    return NULL;
  }
  *s = (struct interact_socket){.r = r, .call = c, .flow = flow, .freeing.run = on_freeing};
  list_init(&s->freeing.link);
  c->codec = codec;
  c->protocol = "websocket";
  c->flow = flow;
  return s;
}

// What the subprotocols that are offered say: the one to agree on (NULL: none of ours) and tokens, each as an Authorization. False: out of memory.
static bool read_offers(struct websocket_request *u, const char **protocol, enum codec *codec)
{
  enum { TOKENS = 2 }; // a second one makes two Authorizations, which is refused
  struct header *headers = arena_alloc(&u->arena, (u->n + TOKENS) * sizeof *headers);
  size_t n = u->n, most = u->n + TOKENS;
  if (!headers)
    return false;
  *protocol = NULL;
  for (size_t i = 0; i < u->n; i++) {
    struct str offers = u->headers[i].value;
    headers[i] = u->headers[i];
    while (str_eq(u->headers[i].name, STR("sec-websocket-protocol")) && offers.n) {
      struct str offer = str_trim(str_cut(&offers, ','));
      if (!*protocol && str_eq(offer, STR("envgate.v1.json"))) {
        *protocol = "envgate.v1.json";
        *codec = CODEC_REST;
      } else if (!*protocol && str_eq(offer, STR("envgate.v1.proto"))) {
        *protocol = "envgate.v1.proto";
        *codec = CODEC_PROTO;
      } else if (str_starts(offer, STR(BEARER)) && n < most) {
        const char *value = arena_printf(&u->arena, "Bearer %.*s", STR_ARG(str_skip(offer, sizeof BEARER - 1)));
        if (!value)
          return false;
        headers[n++] = (struct header){STR("authorization"), str_c(value)};
      }
    }
  }
  u->headers = headers;
  u->n = n;
  return true;
}

// Copies what the call is to have of the request's headers: not the offers, which may have the token in them.
static bool give_headers(struct call *c, const struct websocket_request *u)
{
  struct headers own = {0};
  for (size_t i = 0; i < u->n; i++)
    if (!str_eq(u->headers[i].name, STR("sec-websocket-protocol")) && !headers_add(&own, u->headers[i].name, u->headers[i].value, &c->arena))
      return false;
  c->headers = own.at;
  c->header_count = own.n;
  return true;
}

void interact_ws_open(struct websocket_request *u)
{
  static const struct websocket_events events = {.message = on_message, .drained = on_drained, .shutdown = on_shutdown, .end = on_end};
  struct reactor *r = u->q->r;
  struct identity who;
  struct err e;
  const char *protocol;
  enum codec codec = CODEC_PROTO;
  if (!read_offers(u, &protocol, &codec)) {
    err_nomem(&e);
    http_answer_error(u->q, NULL, &e);
    return;
  }
  if (!protocol) {
    err_field(&e, REASON_INVALID_REQUEST, "Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol must offer envgate.v1.json or envgate.v1.proto");
    http_answer_error(u->q, NULL, &e);
    return;
  }
  if (!websocket_may(u, SCOPE_TRAINER, &who))
    return;
  struct interact_socket *s = socket_new(r, codec);
  if (!s || !give_headers(s->call, u)) {
    if (s)
      on_lost(s);
    err_nomem(&e);
    http_answer_error(u->q, NULL, &e);
    return;
  }
  const struct websocket_options o = {.events = &events,
                                      .protocol = protocol,
                                      .binary = true,
                                      .max_message = (size_t)r->config->max_message_bytes,
                                      .at = r,
                                      .opened = on_opened,
                                      .lost = on_lost,
                                      .ctx = s};
  if (!websocket_upgrade(u, &o))
    on_lost(s);
}
