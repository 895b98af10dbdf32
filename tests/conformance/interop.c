// SPDX-License-Identifier: Apache-2.0
// grpc.testing.TestService, as https://github.com/grpc/grpc/blob/master/doc/interop-test-descriptions.md describes it.
#include "grpc/testing/empty.pb-c.h"
#include "grpc/testing/messages.pb-c.h"
#include "server.h"

typedef Grpc__Testing__StreamingOutputCallRequest output_request;

enum { SIZE_MOST = 64 << 20 };

static void end_with(struct call *c, int code, const char *text)
{
  struct err e;
  err_set(&e, (enum code)code, NULL, "%s", text);
  rpc_finish(c, NULL, &e);
}

static void fail(struct call *c)
{
  struct err e;
  err_nomem(&e);
  rpc_finish(c, NULL, &e);
}

static void empty_call(struct call *c)
{
  const Grpc__Testing__Empty reply = GRPC__TESTING__EMPTY__INIT;
  rpc_finish(c, &reply.base, NULL);
}

// custom_metadata: what came in these two goes back as header and as trailer.
static bool echo_metadata(struct call *c)
{
  struct str head = call_header(c, STR("x-grpc-test-echo-initial")), trailer = call_header(c, STR("x-grpc-test-echo-trailing-bin"));
  return (!head.n || call_add_header(c, STR("x-grpc-test-echo-initial"), head)) &&
         (!trailer.n || call_add_trailer(c, STR("x-grpc-test-echo-trailing-bin"), trailer));
}

// Zeros; NULL when there is no memory for them or nobody could want so many.
static uint8_t *zeros(struct arena *a, int32_t size)
{
  return size >= 0 && size <= SIZE_MOST ? arena_alloc(a, (size_t)size + 1) : NULL;
}

static void unary_call(struct call *c)
{
  const Grpc__Testing__SimpleRequest *request = (const void *)c->request;
  if (!echo_metadata(c)) {
    fail(c);
    return;
  }
  if (request->response_status && request->response_status->code) {
    end_with(c, request->response_status->code, request->response_status->message);
    return;
  }
  Grpc__Testing__Payload payload = GRPC__TESTING__PAYLOAD__INIT;
  payload.body = (ProtobufCBinaryData){(size_t)request->response_size, zeros(&c->arena, request->response_size)};
  Grpc__Testing__SimpleResponse reply = GRPC__TESTING__SIMPLE_RESPONSE__INIT;
  reply.payload = &payload;
  char id[] = "envgate";
  if (request->fill_server_id)
    reply.server_id = id;
  if (payload.body.data)
    rpc_finish(c, &reply.base, NULL);
  else
    end_with(c, CODE_INVALID_ARGUMENT, "response_size is out of range");
}

// --- streams -------------------------------------------------------------------------------------------------------------------------------

// The replies that are asked for, one behind the other, each after its interval.
struct output {
  struct call *c;
  struct timer timer;
  struct asked {
    int32_t size, interval_us;
  } * asked; // in the arena
  size_t n, room, sent;
  bool done; // no more will be asked for
  int64_t received;
};

static bool ask(struct output *o, int32_t size, int32_t interval_us)
{
  if (o->n == o->room) {
    size_t room = o->room ? o->room * 2 : 8;
    struct asked *to = arena_alloc(&o->c->arena, room * sizeof *to);
    if (!to)
      return false;
    if (o->n)
      memcpy(to, o->asked, o->n * sizeof *to);
    o->asked = to;
    o->room = room;
  }
  o->asked[o->n++] = (struct asked){size, interval_us};
  return true;
}

// False: the call is over.
static bool send_next(struct output *o)
{
  struct arena a;
  arena_init(&a, SIZE_MOST + 65536);
  Grpc__Testing__Payload payload = GRPC__TESTING__PAYLOAD__INIT;
  Grpc__Testing__StreamingOutputCallResponse reply = GRPC__TESTING__STREAMING_OUTPUT_CALL_RESPONSE__INIT;
  int32_t size = o->asked[o->sent++].size;
  payload.body = (ProtobufCBinaryData){(size_t)size, zeros(&a, size)};
  reply.payload = &payload;
  bool ok = payload.body.data && call_send(o->c, &reply.base);
  arena_free(&a);
  if (!ok)
    fail(o->c);
  return ok;
}

static void go_on(struct output *o)
{
  if (timer_is_set(&o->timer))
    return;
  while (o->sent < o->n) {
    int32_t wait = o->asked[o->sent].interval_us;
    if (wait > 0) {
      timer_set(o->c->owner, &o->timer, nsec_add(clock_mono(), (nsec)wait * NSEC_PER_US));
      return;
    }
    if (!send_next(o))
      return;
  }
  if (o->done)
    rpc_finish(o->c, NULL, NULL);
}

static void on_timer(struct timer *t)
{
  struct output *o = CONTAINER_OF(t, struct output, timer);
  if (send_next(o))
    go_on(o);
}

static struct output *new_output(struct call *c)
{
  struct output *o = arena_alloc(&c->arena, sizeof *o);
  c->state = o;
  if (!o || !echo_metadata(c)) {
    fail(c);
    return NULL;
  }
  o->c = c;
  o->timer.fire = on_timer;
  return o;
}

static bool ask_all(struct output *o, const output_request *request)
{
  for (size_t i = 0; i < request->n_response_parameters; i++)
    if (!ask(o, request->response_parameters[i]->size, request->response_parameters[i]->interval_us))
      return false;
  return true;
}

static void streaming_output(struct call *c)
{
  struct output *o = new_output(c);
  if (!o)
    return;
  o->done = true;
  if (ask_all(o, (const output_request *)(const void *)c->request))
    go_on(o);
  else
    fail(c);
}

static void begin(struct call *c)
{
  new_output(c);
}

static void full_duplex(struct call *c, const ProtobufCMessage *m)
{
  const output_request *request = (const output_request *)(const void *)m;
  if (request->response_status && request->response_status->code)
    end_with(c, request->response_status->code, request->response_status->message);
  else if (ask_all(c->state, request))
    go_on(c->state);
  else
    fail(c);
}

static void half_duplex(struct call *c, const ProtobufCMessage *m)
{
  if (!ask_all(c->state, (const output_request *)(const void *)m))
    fail(c);
}

static void output_end(struct call *c)
{
  struct output *o = c->state;
  o->done = true;
  go_on(o);
}

static void input(struct call *c, const ProtobufCMessage *m)
{
  const Grpc__Testing__StreamingInputCallRequest *request = (const void *)m;
  struct output *o = c->state;
  o->received += request->payload ? (int64_t)request->payload->body.len : 0;
}

static void input_end(struct call *c)
{
  const struct output *o = c->state;
  Grpc__Testing__StreamingInputCallResponse reply = GRPC__TESTING__STREAMING_INPUT_CALL_RESPONSE__INIT;
  reply.aggregated_payload_size = (int32_t)o->received;
  rpc_finish(c, &reply.base, NULL);
}

static void cancelled(struct call *c, struct err *e)
{
  struct output *o = c->state;
  (void)e;
  if (o)
    timer_unset(c->owner, &o->timer);
}

#define PATH(name) "/grpc.testing.TestService/" name
const struct rpc_handler interop_handlers[] = {
    {.path = PATH("EmptyCall"), .start = empty_call},
    {.path = PATH("UnaryCall"), .start = unary_call},
    {.path = PATH("CacheableUnaryCall"), .start = unary_call},
    {.path = PATH("StreamingOutputCall"), .start = streaming_output, .cancel = cancelled},
    {.path = PATH("StreamingInputCall"), .start = begin, .message = input, .half_close = input_end, .cancel = cancelled},
    {.path = PATH("FullDuplexCall"), .start = begin, .message = full_duplex, .half_close = output_end, .cancel = cancelled},
    {.path = PATH("HalfDuplexCall"), .start = begin, .message = half_duplex, .half_close = output_end, .cancel = cancelled},
    {.path = NULL},
};
