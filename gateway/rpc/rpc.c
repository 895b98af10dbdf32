// SPDX-License-Identifier: Apache-2.0
#include "rpc/rpc.h"

#include <assert.h>
#include <stdlib.h>

#include "auth/auth.h"
#include "base/id.h"
#include "config/config.h"
#include "rpc/mail.h"
#include "rpc/rest.h"
#include "runtime/log.h"
#include "transcode/transcode.h"

enum {
  MAX_REPLY = 512 << 20, // an encoded reply; the worker's own limit (max_reply_bytes) is met before
  // A payload from this size on is sent from where it was received. On HTTP/1.1 that costs another system call, and the copy is the only one.
  SPLICE_MIN = 8 << 10,
  SPLICE_MIN_REST = 128 << 10,
  SPARE_CALLS = 64, // call objects kept for reuse
};

struct rpc {
  const struct rpc_api *api;
  const struct rpc_handler **handlers; // by method; NULL: not served
  uint32_t *reply_size;                // by method: of the last one
  unsigned *scopes;                    // by method: who may call it
  int *table;                          // method index + 1 by hash of its path; open addressing
  size_t mask;
  int last;          // the method found last; mostly it is asked for again
  struct list calls; // whose home is here
  int count;
  struct random_pool random; // for request ids
  struct arena messages;     // memory for a message of a client stream; empty while one is at work
  struct call *spare[SPARE_CALLS];
  int spares;
};

// What a call may take for what its request becomes: a google.protobuf.Value is so much larger than its JSON.
static size_t call_memory(const struct reactor *r)
{
  return 16 * (size_t)r->config->max_message_bytes + 65536;
}

// --- methods -------------------------------------------------------------------------------------------------------------------------------

bool rpc_init(struct reactor *r, const struct rpc_api *api, const struct rpc_handler *handlers)
{
  struct rpc *rpc = calloc(1, sizeof *rpc);
  if (!rpc)
    return false;
  r->rpc = rpc;
  rpc->api = api;
  list_init(&rpc->calls);
  arena_init(&rpc->messages, call_memory(r));
  size_t size = 4;
  while (size < (size_t)api->method_count * 2)
    size *= 2;
  rpc->mask = size - 1;
  rpc->table = calloc(size, sizeof *rpc->table);
  rpc->handlers = calloc((size_t)api->method_count, sizeof(const struct rpc_handler *));
  rpc->reply_size = calloc((size_t)api->method_count, sizeof *rpc->reply_size);
  rpc->scopes = calloc((size_t)api->method_count, sizeof *rpc->scopes);
  if (!rpc->scopes || !rpc->table || !rpc->handlers || !rpc->reply_size)
    return false;
  for (int i = 0; i < api->method_count; i++) {
    rpc->scopes[i] = scopes_of_method(str_c(api->methods[i].path));
    size_t at = hash_fnv(0, str_c(api->methods[i].path)) & rpc->mask;
    while (rpc->table[at])
      at = (at + 1) & rpc->mask;
    rpc->table[at] = i + 1;
  }
  for (const struct rpc_handler *h = handlers; h->path; h++) {
    int index;
    if (rpc_find(r, str_c(h->path), &index))
      rpc->handlers[index] = h;
  }
  return true;
}

static void call_destroy(struct call *c)
{
  mail_free(c);
  arena_free(&c->arena);
  buf_free(&c->out);
  splices_free(&c->splices);
  free(c);
}

void rpc_free(struct reactor *r)
{
  struct rpc *rpc = r->rpc;
  if (!rpc)
    return;
  LIST_EACH (node, &rpc->calls) {
    struct call *c = CONTAINER_OF(node, struct call, link);
    timer_unset(c->begun ? c->owner : r, &c->deadline_timer);
    if (c->crossed)
      flow_unref(c->flow);
    call_destroy(c);
  }
  while (rpc->spares)
    call_destroy(rpc->spare[--rpc->spares]);
  arena_free(&rpc->messages);
  free(rpc->table);
  free(rpc->handlers);
  free(rpc->reply_size);
  free(rpc->scopes);
  free(rpc);
  r->rpc = NULL;
}

const struct rpc_api *rpc_api(const struct reactor *r)
{
  return r->rpc->api;
}

void rpc_drain(struct reactor *r)
{
  LIST_EACH (node, &r->rpc->calls) {
    struct call *c = CONTAINER_OF(node, struct call, link);
    if (c->started && !c->finished && c->handler->shutdown)
      c->handler->shutdown(c);
  }
}

int rpc_calls(struct reactor *r)
{
  return r->rpc->count;
}

const struct rpc_method *rpc_find(struct reactor *r, struct str path, int *index)
{
  struct rpc *rpc = r->rpc;
  const struct rpc_method *methods = rpc->api->methods;
  int i = rpc->last;
  if (!str_eq(path, str_c(methods[i].path))) {
    size_t at = hash_fnv(0, path) & rpc->mask;
    while (rpc->table[at] && !str_eq(path, str_c(methods[rpc->table[at] - 1].path)))
      at = (at + 1) & rpc->mask;
    i = rpc->table[at] - 1;
    if (i < 0)
      return NULL;
    rpc->last = i;
  }
  if (index)
    *index = i;
  return &methods[i];
}

// --- the life of a call --------------------------------------------------------------------------------------------------------------------

static void on_deadline(struct timer *t);
static void on_cancel_back(struct reactor *r, struct task *t);

struct call *call_new(struct reactor *home, const struct call_front *front, void *front_ctx)
{
  struct rpc *rpc = home->rpc;
  struct call *c = rpc->spares ? rpc->spare[--rpc->spares] : NULL;
  if (!c) {
    c = malloc(sizeof *c);
    if (!c)
      return NULL;
    arena_init(&c->arena, call_memory(home));
  }
  // Everything but the arena, which keeps a chunk, and err, which is large and filled only when a call fails.
  size_t after_arena = offsetof(struct call, arena) + sizeof c->arena, err_at = offsetof(struct call, err), after_err = err_at + sizeof c->err;
  memset((char *)c + after_arena, 0, err_at - after_arena);
  memset((char *)c + after_err, 0, sizeof *c - after_err);
  err_clear(&c->err);
  c->out.max = MAX_REPLY;
  c->home = c->owner = home;
  c->front = front;
  c->front_ctx = front_ctx;
  c->deadline = NSEC_NEVER;
  c->arrived = home->now;
  c->method_index = -1;
  c->protocol = "";
  c->deadline_timer.fire = on_deadline;
  list_append(&rpc->calls, &c->link);
  rpc->count++;
  metric_add(home->metrics, METRIC_calls_in_flight, 1);
  return c;
}

// At home, when the front has had the end and no errand points here any more.
static void call_free(struct call *c)
{
  struct rpc *rpc = c->home->rpc;
  if (c->within)
    call_let_go(c->within);
  list_remove(&c->link);
  rpc->count--;
  metric_add(c->home->metrics, METRIC_calls_in_flight, -1);
  if (rpc->spares == SPARE_CALLS) {
    call_destroy(c);
    return;
  }
  mail_free(c);
  arena_reset(&c->arena);
  buf_return(&c->home->bufs, &c->out);
  splices_free(&c->splices);
  rpc->spare[rpc->spares++] = c;
}

struct str call_header(const struct call *c, struct str name)
{
  for (size_t i = 0; i < c->header_count; i++)
    if (str_eq(c->headers[i].name, name))
      return c->headers[i].value;
  return STR("");
}

static bool all_of(struct str s, const char *set)
{
  for (size_t i = 0; i < s.n; i++)
    if (!s.p[i] || !strchr(set, s.p[i]))
      return false;
  return true;
}

// The caller's ids go to logs, so only harmless ones are taken.
static void take_ids(struct call *c)
{
  if (c->peer)
    memcpy(c->from, c->peer->address, sizeof c->from);
  struct str id = call_header(c, STR("x-request-id"));
  if (id.n && id.n < sizeof c->id && all_of(id, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_.:")) {
    memcpy(c->id, id.p, id.n);
    c->id[id.n] = '\0';
  } else {
    id_random(&c->home->rpc->random, c->id, 16);
  }
  // https://www.w3.org/TR/trace-context/#traceparent-header: version "-" trace-id "-" parent-id "-" flags
  struct str trace = call_header(c, STR("traceparent"));
  if (trace.n >= 55 && trace.p[2] == '-' && trace.p[35] == '-' && all_of((struct str){trace.p + 3, 32}, "0123456789abcdef")) {
    memcpy(c->trace_id, trace.p + 3, 32);
    c->trace_id[32] = '\0';
  }
}

// The caller's Authorization; two of them are a way to have two readers see two callers.
static bool authorization_of(const struct call *c, struct str *value, struct err *e)
{
  *value = STR("");
  for (size_t i = 0; i < c->header_count; i++) {
    if (!str_eq(c->headers[i].name, STR("authorization")))
      continue;
    if (value->n)
      return err_set(e, CODE_UNAUTHENTICATED, REASON_CREDENTIALS_UNKNOWN, "there is more than one authorization");
    *value = c->headers[i].value;
  }
  return true;
}

static bool admit(struct call *c, struct err *e)
{
  struct str authorization;
  unsigned scopes = c->home->rpc->scopes[c->method_index];
  if (!authorization_of(c, &authorization, e) || !auth_check(c->home, c->peer, authorization, scopes, &c->who, e))
    return false;
  if (!c->who.principal || quota_take_call(&c->who.principal->quota, c->arrived, &c->counted, e))
    return true;
  metric_add(c->home->metrics, METRIC_quota_refused_total, 1);
  return false;
}

// For a call that has its ids.
static bool set_method(struct call *c, struct str path, struct err *e)
{
  c->method = rpc_find(c->home, path, &c->method_index);
  if (!c->method)
    return err_set(e, CODE_UNIMPLEMENTED, REASON_METHOD_NOT_FOUND, "no method %.*s; see reflection or /openapi.json", STR_ARG(path));
  c->handler = c->home->rpc->handlers[c->method_index];
  if (!c->handler)
    return err_set(e, CODE_UNIMPLEMENTED, REASON_METHOD_NOT_FOUND, "method %s is not served here", c->method->path);
  if (c->home->auth && !admit(c, e))
    return false;
  if (c->deadline != NSEC_NEVER && !timer_set(c->home, &c->deadline_timer, c->deadline))
    return err_nomem(e);
  return true;
}

bool call_method(struct call *c, struct str path, struct err *e)
{
  take_ids(c);
  return set_method(c, path, e);
}

// Ends a call that its handler did not end. On the owner's thread (home, before it has begun). `e` may be made more precise.
static void end_unasked(struct call *c, struct err *e)
{
  if (c->started && c->handler->cancel)
    c->handler->cancel(c, e);
  rpc_finish(c, NULL, e);
}

static void on_deadline(struct timer *t)
{
  struct call *c = CONTAINER_OF(t, struct call, deadline_timer);
  if (c->started && c->handler->deadline) {
    c->handler->deadline(c);
    return;
  }
  struct err e;
  err_set(&e, CODE_DEADLINE_EXCEEDED, REASON_DEADLINE, "the deadline passed");
  end_unasked(c, &e);
}

void call_deadline(struct call *c, nsec deadline)
{
  if (deadline >= c->deadline)
    return;
  c->deadline = deadline;
  timer_set(c->owner, &c->deadline_timer, deadline);
}

// On the owner's thread.
static void start(struct call *c)
{
  if (c->deadline != NSEC_NEVER && !timer_is_set(&c->deadline_timer) && !timer_set(c->owner, &c->deadline_timer, c->deadline)) {
    struct err e;
    err_nomem(&e);
    rpc_finish(c, NULL, &e);
    return;
  }
  c->started = true;
  c->handler->start(c);
}

static void start_at_owner(struct reactor *r, struct task *t)
{
  (void)r;
  start(CONTAINER_OF(t, struct call, to_owner));
}

static void begin(struct call *c)
{
  c->begun = true;
  if (c->handler->route && c->home->count > 1)
    c->owner = c->home->all[c->handler->route(c)];
  if (c->owner == c->home) {
    start(c);
    return;
  }
  c->crossed = true;
  flow_ref(c->flow);
  timer_unset(c->home, &c->deadline_timer);
  metric_add(c->home->metrics, METRIC_calls_crossed_total, 1);
  c->to_owner.run = start_at_owner;
  reactor_post(c->owner, &c->to_owner);
}

static void finish_with(struct call *c, enum code code, const char *reason, const char *text)
{
  struct err e;
  err_set(&e, code, reason, "%s", text);
  rpc_finish(c, NULL, &e);
}

static ProtobufCMessage *decode(struct call *c, struct str bytes, struct arena *a, struct err *e)
{
  int depth = (int)c->home->config->max_json_depth;
  if (c->codec == CODEC_PROTO)
    return proto_decode(c->method->input, bytes, depth, a, e);
  struct transcode_options o = {.max_depth = depth, .types = &c->home->rpc->api->types};
  return json_decode(c->method->input, bytes, &o, a, e);
}

static void stream_message(struct call *c, struct str bytes)
{
  struct rpc *rpc = c->home->rpc;
  struct arena a; // streams last, so each message has its own memory
  arena_init(&a, call_memory(c->home));
  arena_swap(&a, &rpc->messages);
  struct err e;
  ProtobufCMessage *m = decode(c, bytes, &a, &e);
  c->message = &a;
  if (!m)
    end_unasked(c, &e);
  else
    c->handler->message(c, m);
  c->message = NULL;
  arena_reset(&a);
  arena_swap(&a, &rpc->messages);
  arena_free(&a);
}

// Keeps a call alive over calls into its handler, which may end it.
static void hold(struct call *c)
{
  c->errands++;
}

void call_let_go(struct call *c)
{
  if (--c->errands == 0 && c->delivered)
    call_free(c);
}

void call_begin(struct call *c)
{
  if (!c->method->client_streaming || c->begun)
    return;
  hold(c);
  begin(c);
  call_let_go(c);
}

void call_message(struct call *c, struct str bytes)
{
  c->received += bytes.n;
  if (c->method->client_streaming) {
    hold(c);
    if (!c->begun)
      begin(c);
    if (!c->finished)
      stream_message(c, bytes);
    call_let_go(c);
    return;
  }
  if (c->request) {
    finish_with(c, CODE_UNIMPLEMENTED, REASON_INVALID_REQUEST, "the method takes one message, and a second came");
    return;
  }
  struct err e;
  c->request = decode(c, bytes, &c->arena, &e);
  if (!c->request)
    rpc_finish(c, NULL, &e);
}

void call_begin_within(struct call *c, struct call *stream, struct str path, ProtobufCMessage *m, size_t bytes, uint64_t flow_key)
{
  struct err e;
  c->within = stream;
  hold(stream); // until `c` is freed: its headers lie there
  arena_swap(&c->arena, stream->message);
  c->peer = stream->peer;
  c->codec = stream->codec;
  c->flow = stream->flow;
  c->flow_key = flow_key;
  c->headers = stream->headers;
  c->header_count = stream->header_count;
  c->protocol = stream->protocol;
  memcpy(c->id, stream->id, sizeof c->id);
  memcpy(c->trace_id, stream->trace_id, sizeof c->trace_id);
  memcpy(c->from, stream->from, sizeof c->from);
  call_request(c, m, bytes);
  if (set_method(c, path, &e))
    call_end_of_messages(c);
  else
    call_refuse(c, &e);
}

void call_request(struct call *c, ProtobufCMessage *m, size_t bytes)
{
  c->received += bytes;
  c->request = m;
}

void call_end_of_messages(struct call *c)
{
  if (!c->method->client_streaming) {
    if (c->request)
      begin(c);
    else
      finish_with(c, CODE_UNIMPLEMENTED, REASON_INVALID_REQUEST, "the method takes one message, and none came");
    return;
  }
  hold(c);
  if (!c->begun)
    begin(c);
  if (!c->finished && c->handler->half_close)
    c->handler->half_close(c);
  call_let_go(c);
}

static void cancel_now(struct call *c)
{
  struct err e;
  err_set(&e, CODE_CANCELLED, REASON_CANCELLED, "the caller cancelled or went away");
  end_unasked(c, &e);
}

static void cancel_at_owner(struct reactor *r, struct task *t)
{
  struct call *c = CONTAINER_OF(t, struct call, cancel_task);
  (void)r;
  if (!c->finished)
    cancel_now(c);
  c->cancel_task.run = on_cancel_back;
  reactor_post(c->home, &c->cancel_task);
}

static void on_cancel_back(struct reactor *r, struct task *t)
{
  struct call *c = CONTAINER_OF(t, struct call, cancel_task);
  (void)r;
  call_let_go(c);
}

void call_cancel(struct call *c)
{
  if (c->gone)
    return;
  c->gone = true;
  if (!c->crossed) {
    cancel_now(c);
    return;
  }
  c->errands++;
  c->cancel_task.run = cancel_at_owner;
  reactor_post(c->owner, &c->cancel_task);
}

static void nobody_head(struct call *c)
{
  (void)c;
}

static void nobody_message(struct call *c, struct buf *out)
{
  (void)c;
  out->n = 0;
}

static void nobody_finish(struct call *c, struct buf *out, const struct err *e)
{
  (void)c, (void)out, (void)e;
}

void call_abandon(struct call *c)
{
  static const struct call_front nobody = {.head = nobody_head, .message = nobody_message, .finish = nobody_finish};
  c->front = &nobody;
  call_cancel(c);
}

void call_refuse(struct call *c, const struct err *e)
{
  if (!c->id[0])
    take_ids(c);
  struct err precise = *e;
  end_unasked(c, &precise);
}

void call_drop(struct call *c)
{
  assert(!c->method && !c->begun && !c->errands);
  c->finished = c->delivered = true;
  call_free(c);
}

// --- the end -------------------------------------------------------------------------------------------------------------------------------

// Pieces are for calls whose owner is their home (call_lend): of others home alone looks at c->splices, which are empty. NULL: none.
static struct splices *splices_of(struct call *c)
{
  return c->crossed ? NULL : &c->splices;
}

static size_t spliced_bytes(const struct call *c)
{
  return c->crossed ? 0 : c->splices.bytes;
}

static bool encode_to(const struct call *c, const ProtobufCMessage *m, struct splices *splices, struct buf *out, struct err *e)
{
  const struct rpc_api *api = c->owner->rpc->api;
  switch (c->codec) {
  case CODEC_PROTO:
    return proto_encode_spliced(m, splices, out, e);
  case CODEC_REST:
  case CODEC_OPENENV:
    return rest_reply(api, c->within ? NULL : c->method, m, splices, out, e);
  case CODEC_JSON:
    break;
  }
  struct transcode_options o = {
      .max_depth = (int)c->owner->config->max_json_depth, .types = &api->types, .payloads_checked = true, .splices = splices};
  return json_encode(m, &o, out, e);
}

bool call_encode(const struct call *c, const ProtobufCMessage *m, struct buf *out, struct err *e)
{
  return encode_to(c, m, NULL, out, e);
}

static bool encode(struct call *c, const ProtobufCMessage *m, struct err *e)
{
  uint32_t *size = &c->owner->rpc->reply_size[c->method_index];
  if (c->codec == CODEC_PROTO)
    buf_lend(&c->owner->bufs, &c->out, *size);
  bool ok = encode_to(c, m, splices_of(c), &c->out, e);
  *size = (uint32_t)c->out.n;
  return ok;
}

void call_lend(struct call *c, struct shared *bytes)
{
  if (c->crossed) // shared bytes are for one thread
    return;
  c->splices.min = c->codec == CODEC_REST || c->codec == CODEC_OPENENV ? SPLICE_MIN_REST : SPLICE_MIN;
  if (bytes->buf.n >= c->splices.min)
    splices_hold(&c->splices, bytes);
}

static bool encode_reply(struct call *c, const ProtobufCMessage *m, struct err *e)
{
  if (!encode(c, m, e))
    return false;
  size_t bytes = c->out.n + spliced_bytes(c);
  if (bytes <= MAX_REPLY)
    return true;
  return err_set(e, CODE_RESOURCE_EXHAUSTED, REASON_MESSAGE_TOO_LARGE, "the reply has %zu bytes; the limit is %d", bytes, MAX_REPLY);
}

static struct call_extra *extra_of(struct call *c)
{
  if (!c->extra)
    c->extra = arena_alloc(&c->arena, sizeof *c->extra);
  return c->extra;
}

// Room for one more in an array in the arena; NULL when out of memory.
static void *grow(struct arena *a, void *at, size_t n, size_t *room, size_t size)
{
  if (n < *room)
    return at;
  size_t more = *room ? *room * 2 : 4;
  char *to = arena_alloc(a, more * size);
  if (!to)
    return NULL;
  if (n)
    memcpy(to, at, n * size);
  *room = more;
  return to;
}

bool headers_add(struct headers *h, struct str name, struct str value, struct arena *a)
{
  struct header *at = grow(a, h->at, h->n, &h->room, sizeof *at);
  const char *name_copy = arena_dup(a, name), *value_copy = arena_dup(a, value);
  if (!at || !name_copy || !value_copy)
    return false;
  h->at = at;
  h->at[h->n++] = (struct header){{name_copy, name.n}, {value_copy, value.n}};
  return true;
}

bool call_add_header(struct call *c, struct str name, struct str value)
{
  struct call_extra *x = extra_of(c);
  return x && headers_add(&x->head, name, value, &c->arena);
}

bool call_add_trailer(struct call *c, struct str name, struct str value)
{
  struct call_extra *x = extra_of(c);
  return x && headers_add(&x->trailers, name, value, &c->arena);
}

bool call_add_detail(struct call *c, struct str type_url, struct str value)
{
  struct call_extra *x = extra_of(c);
  struct call_detail *at = x ? grow(&c->arena, x->details, x->detail_count, &x->detail_room, sizeof *at) : NULL;
  const char *type = arena_dup(&c->arena, type_url), *bytes = arena_dup(&c->arena, value);
  if (!at || !type || !bytes)
    return false;
  x->details = at;
  x->details[x->detail_count++] = (struct call_detail){type, {bytes, value.n}};
  return true;
}

void call_send_head(struct call *c)
{
  if (c->crossed)
    mail_send(c, true); // without memory for it, the first message will bring the head
  else
    c->front->head(c);
}

void call_send_encoded(struct call *c, struct buf *message)
{
  assert(!c->crossed);
  c->sent += message->n;
  c->front->message(c, message);
}

bool call_send(struct call *c, const ProtobufCMessage *m)
{
  size_t before = c->out.n;
  struct err e;
  if (!encode(c, m, &e))
    return false;
  c->sent += c->out.n - before;
  if (c->crossed)
    return mail_send(c, false);
  c->front->message(c, &c->out);
  c->out.n = 0;
  return true;
}

static void log_call(const struct call *c, nsec took)
{
  const struct config *config = c->owner->config;
  if (!config->access_log || !c->owner->log)
    return;
  enum code code = c->failed ? c->err.code : CODE_OK;
  // Faults of the gateway or of a worker stand out; what callers did wrong or wanted does not.
  bool fault = code == CODE_INTERNAL || code == CODE_DATA_LOSS || code == CODE_ABORTED || code == CODE_UNAVAILABLE;
  log_event(c->owner->log, fault ? LOG_WARN : LOG_INFO, "call", LF_C("method", c->method ? c->method->path + 1 : ""), LF_C("code", code_name(code)),
            LF_C("reason", c->failed ? c->err.reason : NULL), LF_NUM("ms", (double)took / 1e6), LF_C("request_id", c->id),
            LF_STR("session", c->session), LF_STR("worker", c->worker), LF_C("trace_id", c->trace_id), LF_C("protocol", c->protocol),
            LF_C("peer", c->from), LF_C("principal", c->who.principal ? c->who.principal->name : NULL), LF_INT("in", c->received),
            LF_INT("out", c->sent));
}

// At home: hands the end to the front.
static void deliver(struct call *c)
{
  if (c->mail)
    mail_finish(c);
  c->delivered = true;
  if (c->crossed)
    flow_unref(c->flow);
  if (c->counted)
    quota_give_call(&c->who.principal->quota);
  c->front->finish(c, &c->out, c->failed ? &c->err : NULL);
  if (!c->errands)
    call_free(c);
}

static void deliver_at_home(struct reactor *r, struct task *t)
{
  (void)r;
  deliver(CONTAINER_OF(t, struct call, to_home));
}

static void drop_reply(struct call *c)
{
  buf_free(&c->out);
  c->out.max = MAX_REPLY;
  if (!c->crossed)
    splices_free(&c->splices);
}

// What is left to do when the reply is in c->out.
static void end(struct call *c)
{
  c->finished = true;
  timer_unset(c->owner, &c->deadline_timer);
  nsec took = clock_mono() - c->arrived;
  struct metrics *m = c->owner->metrics;
  if (c->method_index >= 0)
    metric_call(m, c->method_index, (int)(c->failed ? c->err.code : CODE_OK), took);
  if (!c->within) { // else the stream has them
    metric_add(m, METRIC_received_bytes_total, (int64_t)c->received);
    metric_add(m, METRIC_sent_bytes_total, (int64_t)c->sent);
  }
  log_call(c, took);
  if (!c->crossed) {
    deliver(c);
    return;
  }
  c->to_home.run = deliver_at_home;
  reactor_post(c->home, &c->to_home);
}

void rpc_finish(struct call *c, const ProtobufCMessage *reply, const struct err *e)
{
  assert(!c->finished);
  if (e) {
    c->failed = true;
    c->err = *e;
  } else if (reply) {
    size_t before = c->out.n;
    c->failed = !encode_reply(c, reply, &c->err);
    c->sent += c->out.n - before + spliced_bytes(c);
  }
  if (c->failed)
    drop_reply(c);
  end(c);
}

void rpc_finish_bytes(struct call *c, struct str bytes, const struct err *e)
{
  assert(!c->finished && c->codec == CODEC_OPENENV);
  struct splices *splices = splices_of(c);
  if (e) {
    c->failed = true;
    c->err = *e;
  }
  bool lent = splices && splices->n_held && splices_add(splices, c->out.n, bytes);
  if (!lent && bytes.n && !buf_str(&c->out, bytes)) {
    c->failed = true;
    err_nomem(&c->err);
    drop_reply(c);
  }
  c->sent += c->out.n + spliced_bytes(c);
  end(c);
}
