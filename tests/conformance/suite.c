// SPDX-License-Identifier: Apache-2.0
// connectrpc.conformance.v1.ConformanceService, as its .proto describes it: requests say how they want to be answered, and are told back.
#include <assert.h>

#include "connectrpc/conformance/v1/service.pb-c.h"
#include "server.h"

#define SUITE(name) Connectrpc__Conformance__V1__##name
typedef SUITE(UnaryResponseDefinition) unary_definition;
typedef SUITE(StreamResponseDefinition) stream_definition;
typedef SUITE(ConformancePayload) payload;
typedef SUITE(ConformancePayload__RequestInfo) request_info;
typedef SUITE(Header) header;
typedef SUITE(Error) suite_error;

// A call's state. Its strings and messages lie in the call's arena.
struct state {
  struct call *c;
  struct timer timer;               // the next reply
  Google__Protobuf__Any **requests; // that no reply has told of
  size_t requests_n, requests_room;
  bool defined; // the first request has come
  const unary_definition *unary;
  const stream_definition *stream;
  bool full_duplex, input_done;
  size_t due;     // replies of the stream that may go
  size_t replied; // that have gone
};

static void fail(struct call *c)
{
  struct err e;
  err_nomem(&e);
  rpc_finish(c, NULL, &e);
}

// --- what was asked ------------------------------------------------------------------------------------------------------------------------

static struct state *new_state(struct call *c, void (*fire)(struct timer *t))
{
  struct state *s = arena_alloc(&c->arena, sizeof *s);
  if (!s) {
    fail(c);
    return NULL;
  }
  s->c = c;
  s->timer.fire = fire;
  c->state = s;
  return s;
}

// Keeps a request for request_info.
static bool keep(struct state *s, const ProtobufCMessage *m)
{
  struct arena *a = &s->c->arena;
  if (s->requests_n == s->requests_room) {
    size_t room = s->requests_room ? s->requests_room * 2 : 4;
    Google__Protobuf__Any **to = arena_alloc(a, room * sizeof *to);
    if (!to)
      return false;
    if (s->requests_n)
      memcpy(to, s->requests, s->requests_n * sizeof *to);
    s->requests = to;
    s->requests_room = room;
  }
  Google__Protobuf__Any *any = arena_alloc(a, sizeof *any);
  size_t n = protobuf_c_message_get_packed_size(m);
  uint8_t *bytes = arena_alloc(a, n);
  char *url = arena_printf(a, "type.googleapis.com/%s", m->descriptor->name);
  if (!any || !bytes || !url)
    return false;
  google__protobuf__any__init(any);
  protobuf_c_message_pack(m, bytes);
  any->type_url = url;
  any->value = (ProtobufCBinaryData){n, bytes};
  s->requests[s->requests_n++] = any;
  return true;
}

// A kept request as a message that lives as long as the call.
static const ProtobufCMessage *kept(const struct state *s, size_t i)
{
  const ProtobufCBinaryData *value = &s->requests[i]->value;
  return protobuf_c_message_unpack(s->c->method->input, arena_allocator(&s->c->arena), value->len, value->data);
}

static size_t header_of(header **headers, size_t n, struct str name)
{
  for (size_t i = 0; i < n; i++)
    if (str_eq(str_c(headers[i]->name), name))
      return i;
  return n;
}

// The call's headers, each name once with all its values. NULL: out of memory.
static header **headers_of(const struct call *c, struct arena *a, size_t *n)
{
  header **all = arena_alloc(a, (c->header_count + 1) * sizeof *all);
  *n = 0;
  for (size_t i = 0; all && i < c->header_count; i++) {
    const struct header *h = &c->headers[i];
    size_t at = header_of(all, *n, h->name);
    if (at == *n) {
      header *new = arena_alloc(a, sizeof *new);
      char **values = arena_alloc(a, c->header_count * sizeof *values);
      if (!new || !values)
        return NULL;
      connectrpc__conformance__v1__header__init(new);
      new->name = arena_dup(a, h->name);
      new->value = values;
      all[(*n)++] = new;
    }
    all[at]->value[all[at]->n_value] = arena_dup(a, h->value);
    if (!all[at]->name || !all[at]->value[all[at]->n_value++])
      return NULL;
  }
  return all;
}

// NULL: out of memory.
static request_info *info_of(const struct state *s, bool whole)
{
  struct call *c = s->c;
  request_info *info = arena_alloc(&c->arena, sizeof *info);
  if (!info)
    return NULL;
  connectrpc__conformance__v1__conformance_payload__request_info__init(info);
  info->requests = s->requests;
  info->n_requests = s->requests_n;
  if (!whole)
    return info;
  info->request_headers = headers_of(c, &c->arena, &info->n_request_headers);
  if (!info->request_headers)
    return NULL;
  if (c->deadline != NSEC_NEVER) {
    info->_timeout_ms_case = CONNECTRPC__CONFORMANCE__V1__CONFORMANCE_PAYLOAD__REQUEST_INFO___TIMEOUT_MS_TIMEOUT_MS;
    info->timeout_ms = (int64_t)((c->deadline - c->arrived) / NSEC_PER_MS);
  }
  if (c->by_get) {
    info->connect_get_info = arena_alloc(&c->arena, sizeof *info->connect_get_info);
    if (!info->connect_get_info)
      return NULL;
    connectrpc__conformance__v1__conformance_payload__connect_get_info__init(info->connect_get_info);
  }
  return info;
}

// --- how it is answered --------------------------------------------------------------------------------------------------------------------

static bool add_headers(struct call *c, header *const *headers, size_t n, bool (*add)(struct call *c, struct str name, struct str value))
{
  for (size_t i = 0; i < n; i++) {
    char *name = arena_dup(&c->arena, str_c(headers[i]->name));
    if (!name)
      return false;
    for (char *p = name; *p; p++)
      if (*p >= 'A' && *p <= 'Z')
        *p = (char)(*p - 'A' + 'a');
    for (size_t k = 0; k < headers[i]->n_value; k++)
      if (!add(c, str_c(name), str_c(headers[i]->value[k])))
        return false;
  }
  return true;
}

static void finish_with_error(struct state *s, const suite_error *error, bool with_info)
{
  struct call *c = s->c;
  bool ok = true;
  for (size_t i = 0; ok && i < error->n_details; i++)
    ok = call_add_detail(c, str_c(error->details[i]->type_url),
                         (struct str){(const char *)error->details[i]->value.data, error->details[i]->value.len});
  if (with_info) {
    const request_info *info = info_of(s, true);
    size_t n = info ? protobuf_c_message_get_packed_size(&info->base) : 0;
    uint8_t *bytes = arena_alloc(&c->arena, n);
    ok = ok && info && bytes;
    if (ok) {
      protobuf_c_message_pack(&info->base, bytes);
      ok = call_add_detail(c, STR("type.googleapis.com/connectrpc.conformance.v1.ConformancePayload.RequestInfo"),
                           (struct str){(const char *)bytes, n});
    }
  }
  struct err e;
  if (ok)
    err_set(&e, (enum code)error->code, NULL, "%s",
            error->_message_case == CONNECTRPC__CONFORMANCE__V1__ERROR___MESSAGE_MESSAGE ? error->message : "");
  else
    err_nomem(&e);
  rpc_finish(c, NULL, &e);
}

// A reply of the method: each has its payload as the one field. NULL: out of memory.
static ProtobufCMessage *reply_of(const struct call *c, payload *p)
{
  struct arena *a = (struct arena *)(uintptr_t)&c->arena;
  ProtobufCMessage *reply = message_new(c->method->output, a);
  const ProtobufCFieldDescriptor *field = protobuf_c_message_descriptor_get_field_by_name(c->method->output, "payload");
  if (reply)
    *(payload **)(void *)((char *)reply + field->offset) = p;
  return reply;
}

static payload *new_payload(struct call *c)
{
  payload *p = arena_alloc(&c->arena, sizeof *p);
  if (p)
    connectrpc__conformance__v1__conformance_payload__init(p);
  return p;
}

// --- one reply -----------------------------------------------------------------------------------------------------------------------------

static void reply_unary(struct state *s)
{
  struct call *c = s->c;
  const unary_definition *d = s->unary;
  if (d && d->response_case == CONNECTRPC__CONFORMANCE__V1__UNARY_RESPONSE_DEFINITION__RESPONSE_ERROR) {
    finish_with_error(s, d->error, true);
    return;
  }
  payload *p = new_payload(c);
  if (!p || !(p->request_info = info_of(s, true))) {
    fail(c);
    return;
  }
  if (d && d->response_case == CONNECTRPC__CONFORMANCE__V1__UNARY_RESPONSE_DEFINITION__RESPONSE_RESPONSE_DATA)
    p->data = d->response_data;
  const ProtobufCMessage *reply = reply_of(c, p);
  if (reply)
    rpc_finish(c, reply, NULL);
  else
    fail(c);
}

static void on_unary_timer(struct timer *t)
{
  reply_unary(CONTAINER_OF(t, struct state, timer));
}

static void answer_unary(struct state *s)
{
  struct call *c = s->c;
  const unary_definition *d = s->unary;
  if (d && (!add_headers(c, d->response_headers, d->n_response_headers, call_add_header) ||
            !add_headers(c, d->response_trailers, d->n_response_trailers, call_add_trailer)))
    fail(c);
  else if (d && d->response_delay_ms)
    timer_set(c->owner, &s->timer, nsec_add(clock_mono(), d->response_delay_ms * NSEC_PER_MS));
  else
    reply_unary(s);
}

static void unary(struct call *c)
{
  struct state *s = new_state(c, on_unary_timer);
  if (!s)
    return;
  s->unary = ((const SUITE(UnaryRequest) *)c->request)->response_definition; // IdempotentUnaryRequest is alike
  if (keep(s, c->request))
    answer_unary(s);
  else
    fail(c);
}

static void client_stream(struct call *c)
{
  new_state(c, on_unary_timer);
}

static void client_stream_message(struct call *c, const ProtobufCMessage *m)
{
  struct state *s = c->state;
  if (!keep(s, m)) {
    fail(c);
    return;
  }
  if (!s->defined)
    s->unary = ((const SUITE(ClientStreamRequest) *)kept(s, 0))->response_definition;
  s->defined = true;
}

static void client_stream_end(struct call *c)
{
  answer_unary(c->state);
}

// --- streams of replies --------------------------------------------------------------------------------------------------------------------

static void go_on(struct state *s);

// False: the call is over.
static bool send_one(struct state *s)
{
  struct call *c = s->c;
  payload *p = new_payload(c);
  bool first = s->replied == 0;
  bool info = first || s->full_duplex;
  if (!p || (info && !(p->request_info = info_of(s, first)))) {
    fail(c);
    return false;
  }
  p->data = s->stream->response_data[s->replied];
  const ProtobufCMessage *reply = reply_of(c, p);
  if (!reply || !call_send(c, reply)) {
    fail(c);
    return false;
  }
  s->replied++;
  s->requests = NULL;
  s->requests_n = s->requests_room = 0;
  return true;
}

static void on_stream_timer(struct timer *t)
{
  struct state *s = CONTAINER_OF(t, struct state, timer);
  if (send_one(s))
    go_on(s);
}

static void end_stream(struct state *s)
{
  if (s->stream && s->stream->error)
    finish_with_error(s, s->stream->error, s->replied == 0);
  else
    rpc_finish(s->c, NULL, NULL);
}

static void go_on(struct state *s)
{
  size_t all = s->stream ? s->stream->n_response_data : 0;
  if (timer_is_set(&s->timer))
    return;
  while (s->replied < (s->due < all ? s->due : all)) {
    if (s->stream->response_delay_ms) {
      timer_set(s->c->owner, &s->timer, nsec_add(clock_mono(), s->stream->response_delay_ms * NSEC_PER_MS));
      return;
    }
    if (!send_one(s))
      return;
  }
  // A request beyond the replies that there are ends a full-duplex call.
  if ((s->input_done || s->due > all) && s->replied >= all)
    end_stream(s);
}

// What comes before the first reply. False: the call is over.
static bool begin_stream(struct state *s, bool send_head)
{
  const stream_definition *d = s->stream;
  if (d && (!add_headers(s->c, d->response_headers, d->n_response_headers, call_add_header) ||
            !add_headers(s->c, d->response_trailers, d->n_response_trailers, call_add_trailer))) {
    fail(s->c);
    return false;
  }
  if (d && d->n_response_data && send_head)
    call_send_head(s->c);
  return true;
}

static void server_stream(struct call *c)
{
  struct state *s = new_state(c, on_stream_timer);
  if (!s)
    return;
  s->stream = ((const SUITE(ServerStreamRequest) *)c->request)->response_definition;
  s->input_done = true;
  s->due = SIZE_MAX;
  if (!keep(s, c->request))
    fail(c);
  else if (begin_stream(s, true))
    go_on(s);
}

static void bidi_stream(struct call *c)
{
  new_state(c, on_stream_timer);
}

static void bidi_message(struct call *c, const ProtobufCMessage *m)
{
  struct state *s = c->state;
  if (!keep(s, m)) {
    fail(c);
    return;
  }
  if (!s->defined) {
    const SUITE(BidiStreamRequest) *request = (const void *)kept(s, 0);
    s->defined = true;
    s->stream = request->response_definition;
    s->full_duplex = request->full_duplex;
    if (!begin_stream(s, s->full_duplex))
      return;
  }
  if (!s->full_duplex)
    return;
  s->due++;
  go_on(s);
}

static void bidi_end(struct call *c)
{
  struct state *s = c->state;
  s->input_done = true;
  s->due = SIZE_MAX;
  go_on(s);
}

static void cancelled(struct call *c, struct err *e)
{
  struct state *s = c->state;
  (void)e;
  if (s)
    timer_unset(c->owner, &s->timer);
}

#define PATH(name) "/connectrpc.conformance.v1.ConformanceService/" name
const struct rpc_handler suite_handlers[] = {
    {.path = PATH("Unary"), .start = unary, .cancel = cancelled},
    {.path = PATH("IdempotentUnary"), .start = unary, .cancel = cancelled},
    {.path = PATH("ServerStream"), .start = server_stream, .cancel = cancelled},
    {.path = PATH("ClientStream"), .start = client_stream, .message = client_stream_message, .half_close = client_stream_end, .cancel = cancelled},
    {.path = PATH("BidiStream"), .start = bidi_stream, .message = bidi_message, .half_close = bidi_end, .cancel = cancelled},
    {.path = NULL},
};
