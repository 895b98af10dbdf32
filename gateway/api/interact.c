// SPDX-License-Identifier: Apache-2.0
// Each request of the stream is a call of the unary method that it is named for (call_begin_within): so it is checked, queued, kept, passed to its session's reactor
// and counted as such a call is, and nothing of that is here. What is: the replies, whose bytes go behind their id as they are, and the credit.
//
// Memory. A reply goes to the front as long as the caller takes what is there (call_full); after that replies wait in line here. Each gives its credit back when it goes to the
// front, so no more than CREDIT requests are ever between the two. Small replies (FLOW_LARGE) are so bounded; large ones have room in the connection's flow, each by a
// key of its own, until they have gone to the front, or until that has given away most of what it has.
#include "api/interact.h"

#include <stdio.h>

#include "api/api.h"
#include "api/payload.h"
#include "envgate/v1/session_service.pb-c.h"

enum {
  CREDIT = 256,                 // as the .proto says
  REQUEST_BYTES_MAX = 32 << 20, // of requests under way, or one that is larger
  WRAPPING_MAX = 64,            // bytes around a reply
};

#define REQUEST(name) ENVGATE__V1__INTERACT_REQUEST__REQUEST_##name
#define RESPONSE(name) ENVGATE__V1__INTERACT_RESPONSE__RESPONSE_##name
#define PATH(method)                                                                      \
  {                                                                                       \
    "/envgate.v1.SessionService/" method, sizeof "/envgate.v1.SessionService/" method - 1 \
  }

// What may be asked, by the field of the request; and the field of the reply.
static const struct kind {
  struct str path;
  int request;
  unsigned response;
  const char *name;
} kinds[] = {
    {PATH("Step"), REQUEST(STEP), RESPONSE(RESULT), "result"},
    {PATH("Reset"), REQUEST(RESET), RESPONSE(RESULT), "result"},
    {PATH("GetState"), REQUEST(GET_STATE), RESPONSE(STATE), "state"},
    {PATH("CreateSession"), REQUEST(CREATE_SESSION), RESPONSE(SESSION), "session"},
    {PATH("CloseSession"), REQUEST(CLOSE_SESSION), RESPONSE(CLOSED), "closed"},
    {PATH("CallTool"), REQUEST(CALL_TOOL), RESPONSE(TOOL), "tool"},
};

struct interact {
  struct call *call;       // the stream's
  struct list under_way;   // requests
  struct list line;        // of those that are answered: who waits for the caller to take what the front has
  struct list large;       // whose replies the front has, and that keep their room in the flow until it has given them away
  struct list spare;       // for reuse
  size_t n;                // under way
  size_t bytes;            // of these
  size_t received;         // of the stream, with the message before
  unsigned credit;         // how many more requests may come
  uint32_t last_key;       // of the flow
  bool half_closed;        // the caller has sent its last
  bool draining;           // the gateway shuts down
  bool over;               // nobody waits for what is under way
  struct turn_end failing; // there was no memory for a reply
};

// In the stream's arena.
struct request {
  struct list link;
  struct interact *stream;
  struct call *call; // while it is under way
  const struct kind *kind;
  uint64_t id, flow_key;
  size_t bytes;
  // With its answer: what it is, with pieces between its own bytes; a status or what its kind has.
  bool failed;
  struct buf reply;
  struct splices pieces;
};

// --- requests and their memory -------------------------------------------------------------------------------------------------------------

// NULL: out of memory.
static struct request *request_new(struct interact *st, uint64_t id, size_t bytes)
{
  struct list *node = list_pop(&st->spare);
  struct request *q = node ? CONTAINER_OF(node, struct request, link) : arena_alloc(&st->call->arena, sizeof *q);
  if (!q)
    return NULL;
  *q = (struct request){.stream = st, .id = id, .bytes = bytes};
  list_init(&q->link);
  q->flow_key = (uint64_t)++st->last_key << 32 | (uint32_t)st->call->flow_key; // beside the streams' own
  return q;
}

static void drop_reply(struct request *q)
{
  buf_return(&q->stream->call->home->bufs, &q->reply);
  splices_free(&q->pieces);
}

// It is answered, and its reply is the front's. It may be used for another.
static void request_done(struct request *q)
{
  struct interact *st = q->stream;
  if (st->call->flow)
    flow_done(st->call->flow, q->flow_key);
  list_remove(&q->link);
  list_append(&st->spare, &q->link);
}

// Nobody waits any more.
static void leave(struct interact *st)
{
  struct list *node;
  st->over = true;
  list_remove(&st->failing.link);
  while (!list_empty(&st->large))
    request_done(CONTAINER_OF(st->large.next, struct request, link));
  while (!list_empty(&st->line)) {
    struct request *q = CONTAINER_OF(st->line.next, struct request, link);
    drop_reply(q);
    request_done(q);
  }
  while ((node = list_pop(&st->under_way))) {
    struct request *q = CONTAINER_OF(node, struct request, link);
    if (st->call->flow)
      flow_done(st->call->flow, q->flow_key);
    call_cancel(q->call); // which comes to on_finish, now or later
  }
}

static void end(struct interact *st, const struct err *e)
{
  leave(st);
  rpc_finish(st->call, NULL, e);
}

static void on_failing(struct turn_end *t)
{
  struct err e;
  err_nomem(&e);
  end(CONTAINER_OF(t, struct interact, failing), &e);
}

// At the turn's end, as a request that is under way may be at work now: of another's reply, that of a session which it closes.
static void end_nomem(struct interact *st)
{
  turn_end_add(st->call->home, &st->failing);
}

// All that was asked is answered and on its way: perhaps that was it.
static void end_if_done(struct interact *st)
{
  struct err e;
  if (st->over || st->n || !list_empty(&st->line) || !list_empty(&st->failing.link))
    return;
  if (st->half_closed) {
    end(st, NULL);
  } else if (st->draining) {
    err_set(&e, CODE_UNAVAILABLE, REASON_DRAINING, "the gateway is shutting down; what was not answered was not begun");
    end(st, &e);
  }
}

// --- replies -------------------------------------------------------------------------------------------------------------------------------

static size_t reply_bytes(const struct request *q)
{
  return q->reply.n + q->pieces.bytes;
}

// There is room for it.
static void add_varint(struct buf *to, uint64_t n)
{
  for (; n >= 0x80; n >>= 7)
    to->p[to->n++] = (char)(n | 0x80);
  to->p[to->n++] = (char)n;
}

static void add_reply(struct buf *to, const struct request *q)
{
  struct splice_place at = {0};
  bool piece;
  struct str bytes;
  while ((bytes = splices_next(&q->pieces, buf_view(&q->reply), &at, SIZE_MAX, &piece)).n)
    buf_str(to, bytes);
}

// https://protobuf.dev/programming-guides/encoding/
static void wrap_proto(struct buf *to, const struct request *q)
{
  enum { ID = 1, CREDIT_GIVEN = 7, VARINT = 0, BYTES = 2 };
  unsigned field = q->failed ? RESPONSE(STATUS) : q->kind->response;
  add_varint(to, ID << 3 | VARINT);
  add_varint(to, q->id);
  add_varint(to, field << 3 | BYTES);
  add_varint(to, reply_bytes(q));
  add_reply(to, q);
  add_varint(to, CREDIT_GIVEN << 3 | VARINT);
  add_varint(to, 1);
}

static void wrap_json(struct buf *to, const struct request *q)
{
  buf_printf(to, "{\"id\":\"%llu\",\"%s\":", (unsigned long long)q->id, q->failed ? "status" : q->kind->name);
  add_reply(to, q);
  buf_printf(to, ",\"credit\":1}");
}

// Gives a reply to the front. False: out of memory.
static bool send_reply(struct request *q)
{
  struct interact *st = q->stream;
  struct call *c = st->call;
  struct buf message = {0};
  size_t bytes = reply_bytes(q);
  buf_lend(&c->home->bufs, &message, bytes + WRAPPING_MAX);
  bool ok = buf_reserve(&message, bytes + WRAPPING_MAX) != NULL;
  if (ok) {
    (c->codec == CODEC_PROTO ? wrap_proto : wrap_json)(&message, q);
    st->credit++;
    call_send_encoded(c, &message);
  }
  buf_return(&c->home->bufs, &message);
  drop_reply(q);
  if (bytes >= FLOW_LARGE && call_full(c) && c->flow) {
    list_append(&st->large, &q->link);
    flow_complete(c->flow, q->flow_key);
  } else {
    request_done(q);
  }
  return ok;
}

static void send_line(struct interact *st)
{
  while (!list_empty(&st->line) && !call_full(st->call)) {
    struct request *q = CONTAINER_OF(st->line.next, struct request, link);
    list_remove(&q->link);
    if (!send_reply(q)) {
      end_nomem(st);
      return;
    }
  }
  end_if_done(st);
}

// It has its answer.
static void answered(struct request *q)
{
  struct interact *st = q->stream;
  bool waits = !list_empty(&st->line) || call_full(st->call);
  list_append(&st->line, &q->link);
  if (waits && st->call->flow && reply_bytes(q) >= FLOW_LARGE)
    flow_complete(st->call->flow, q->flow_key);
  send_line(st);
}

static bool set_status(struct request *q, const struct Google__Rpc__Status *status)
{
  struct err e;
  q->failed = true;
  return status && call_encode(q->stream->call, &((const Google__Rpc__Status *)status)->base, &q->reply, &e);
}

// Of a request's call.
static void on_finish(struct call *c, struct buf *out, const struct err *e)
{
  struct request *q = c->front_ctx;
  struct interact *st = q->stream;
  q->call = NULL;
  list_remove(&q->link);
  st->n--;
  st->bytes -= q->bytes;
  if (st->over)
    return;
  if (e) {
    if (!set_status(q, call_status(c, e, &c->arena))) {
      drop_reply(q);
      end_nomem(st);
      return;
    }
  } else {
    q->reply = *out;
    q->pieces = c->splices;
    *out = (struct buf){.max = out->max};
    c->splices = (struct splices){0};
  }
  answered(q);
}

static const struct call_front front = {.finish = on_finish}; // unary methods have nothing else

// --- the stream ----------------------------------------------------------------------------------------------------------------------------

void interact_start(struct call *c)
{
  struct interact *st = arena_alloc(&c->arena, sizeof *st);
  struct err e;
  Envgate__V1__InteractResponse first;
  envgate__v1__interact_response__init(&first);
  first.credit = CREDIT;
  if (!st) {
    err_nomem(&e);
    fail(c, &e);
    return;
  }
  st->call = c;
  st->credit = CREDIT;
  st->draining = c->home->draining;
  list_init(&st->under_way);
  list_init(&st->line);
  list_init(&st->large);
  list_init(&st->spare);
  list_init(&st->failing.link);
  st->failing.run = on_failing;
  c->state = st;
  if (!call_send(c, &first.base))
    end_nomem(st);
  else
    end_if_done(st);
}

static const struct kind *kind_of(int request)
{
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (kinds[i].request == request)
      return &kinds[i];
  return NULL;
}

// Whether a request may begin; `e` says why not.
static bool may_begin(const struct interact *st, const struct request *q, struct err *e)
{
  if (!q->kind)
    return err_field(e, REASON_INVALID_REQUEST, "request",
                     "request is required: one of reset, step, get_state, create_session, close_session and call_tool");
  if (st->draining)
    return err_set(e, CODE_UNAVAILABLE, REASON_DRAINING, "the gateway is shutting down and begins nothing new");
  if (!st->n || st->bytes + q->bytes <= REQUEST_BYTES_MAX)
    return true;
  err_set(e, CODE_RESOURCE_EXHAUSTED, REASON_QUEUE_FULL, "the stream's requests under way have %zu bytes, and %d are allowed: wait for replies",
          st->bytes, REQUEST_BYTES_MAX);
  e->retry_after_ms = 100;
  return false;
}

static void begin(struct request *q, ProtobufCMessage *m)
{
  struct interact *st = q->stream;
  struct call *c = q->call = call_new(st->call->home, &front, q);
  if (!c) {
    end_nomem(st);
    return;
  }
  list_append(&st->under_way, &q->link);
  st->n++;
  st->bytes += q->bytes;
  call_begin_within(c, st->call, q->kind->path, m, q->bytes, q->flow_key);
}

void interact_message(struct call *c, const ProtobufCMessage *m)
{
  const Envgate__V1__InteractRequest *asked = (const void *)m;
  struct interact *st = c->state;
  struct err e;
  size_t bytes = c->received - st->received;
  st->received = c->received;
  if (!st->credit) {
    err_set(&e, CODE_RESOURCE_EXHAUSTED, REASON_CREDIT_EXCEEDED,
            "a request came beyond the stream's credit: send no more than the responses have granted (%d with the first)", CREDIT);
    end(st, &e);
    return;
  }
  st->credit--;
  struct request *q = request_new(st, asked->id, bytes);
  if (!q) {
    end_nomem(st);
    return;
  }
  q->kind = kind_of((int)asked->request_case);
  if (may_begin(st, q, &e))
    begin(q, &asked->step->base); // whichever it is: they lie in a union, and each begins with its base
  else if (set_status(q, rpc_status(&e, c->message)))
    answered(q);
  else
    end_nomem(st);
}

void interact_half_close(struct call *c)
{
  struct interact *st = c->state;
  st->half_closed = true;
  end_if_done(st);
}

void interact_drained(struct call *c)
{
  struct interact *st = c->state;
  while (!list_empty(&st->large))
    request_done(CONTAINER_OF(st->large.next, struct request, link));
  send_line(st);
}

void interact_cancel(struct call *c, struct err *e)
{
  (void)e;
  leave(c->state);
}

void interact_shutdown(struct call *c)
{
  struct interact *st = c->state;
  st->draining = true;
  end_if_done(st);
}
