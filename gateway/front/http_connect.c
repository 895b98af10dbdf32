// SPDX-License-Identifier: Apache-2.0
// Connect's unary calls: POST with the message as the body, or GET with it in the query for methods without side effects. What goes wrong, and the answer to it:
//   a verb that the method does not take             HTTP 405
//   a content type or encoding that is none of ours  HTTP 415
//   a compression other than gzip and identity       UNIMPLEMENTED, with accept-encoding
//   a malformed timeout, version or query            INVALID_ARGUMENT
//   a body over max_message_bytes                    RESOURCE_EXHAUSTED, MESSAGE_TOO_LARGE
#include "config/config.h"
#include "front/connect_wire.h"
#include "front/http_request.h"

// --- the reply -----------------------------------------------------------------------------------------------------------------------------

// Only when there is no memory to say more.
static const char NO_MEMORY[] = "{\"code\":\"resource_exhausted\",\"message\":\"out of memory\"}";

// The handler's headers, and its trailers, whose names get a prefix as they travel with the headers here. NULL: there are none, or no memory for them.
static const struct headers *own_headers(struct call *c)
{
  struct call_extra *x = c->extra;
  for (size_t i = 0; x && i < x->trailers.n; i++) {
    const struct header *h = &x->trailers.at[i];
    const char *name = arena_printf(&c->arena, "trailer-%s", h->name.p);
    if (!name || !headers_add(&x->head, str_c(name), h->value, &c->arena))
      return NULL;
  }
  return x ? &x->head : NULL;
}

static void finish(struct call *c, struct buf *out, const struct err *e)
{
  struct http_request *q = c->front_ctx;
  q->call = NULL;
  q->protocol = NULL;
  struct http_head head = {.status = e ? connect_http_status(e->code) : 200, .more = own_headers(c)};
  http_put(&head, "content-type", e || q->codec == CODEC_JSON ? "application/json" : "application/proto");
  http_put(&head, "x-request-id", c->id);
  if (!e) {
    uint8_t flags = 0;
    if (q->gzip && splices_join(&c->splices, out))
      grpc_zip(out, &flags);
    if (flags)
      http_put(&head, "content-encoding", "gzip");
    q->carrier->answer(q, &head, out, &c->splices);
    return;
  }
  if (e->code == CODE_UNIMPLEMENTED)
    http_put(&head, "accept-encoding", "gzip, identity");
  if (head.status == 401)
    http_put(&head, "www-authenticate", "Bearer");
  char seconds[16];
  if (e->retry_after_ms) {
    snprintf(seconds, sizeof seconds, "%u", (e->retry_after_ms + 999) / 1000);
    http_put(&head, "retry-after", seconds);
  }
  struct buf body = {0};
  if (connect_error(c, e, &body)) {
    q->carrier->answer(q, &head, &body, NULL);
  } else {
    buf_free(&body);
    q->carrier->answer_static(q, &head, (struct str){NO_MEMORY, sizeof NO_MEMORY - 1});
  }
}

static const struct call_front front = {.finish = finish};

// --- the request ---------------------------------------------------------------------------------------------------------------------------

static void deliver(struct http_request *q, struct str message)
{
  struct buf plain = {.max = (size_t)q->r->config->max_message_bytes};
  struct err e;
  bool ok = true;
  if (q->gzip) {
    ok = grpc_unzip(message, &plain, &e);
    message = buf_view(&plain);
  }
  if (!ok)
    call_refuse(q->call, &e);
  else
    call_message(q->call, message);
  if (q->call)
    call_end_of_messages(q->call);
  buf_free(&plain);
}

static void end_post(struct http_request *q)
{
  struct err e;
  if (q->body_too_large) {
    err_set(&e, CODE_RESOURCE_EXHAUSTED, REASON_MESSAGE_TOO_LARGE, "the request message is over max_message_bytes (%lld)",
            (long long)q->r->config->max_message_bytes);
    call_refuse(q->call, &e);
    return;
  }
  struct buf body = q->body; // the answer may come inside
  q->body = (struct buf){.max = body.max};
  deliver(q, buf_view(&body));
  buf_free(&body);
}

static const struct http_protocol post = {.end = end_post};

static void end_get(struct http_request *q)
{
  struct connect_get get;
  bool unsupported;
  struct err e;
  if (connect_query(q->query, &q->call->arena, &get, &unsupported, &e)) {
    q->codec = q->call->codec = get.codec;
    q->call->by_get = true;
    q->gzip = get.gzip;
    deliver(q, get.message);
  } else if (unsupported) {
    http_request_refuse(q, &e, 415);
  } else {
    call_refuse(q->call, &e);
  }
}

static const struct http_protocol get = {.end = end_get};

static bool check(struct http_request *q, struct call *c, struct err *e)
{
  struct str version = call_header(c, STR("connect-protocol-version"));
  if (version.n && !str_eq(version, STR("1")))
    return err_field(e, REASON_INVALID_REQUEST, "connect-protocol-version", "connect-protocol-version must be 1");
  struct str encoding = call_header(c, STR("content-encoding"));
  q->gzip = str_ieq(encoding, STR("gzip"));
  if (encoding.n && !q->gzip && !str_ieq(encoding, STR("identity")))
    return err_set(e, CODE_UNIMPLEMENTED, REASON_INVALID_REQUEST, "content-encoding must be gzip or identity");
  struct str timeout = call_header(c, STR("connect-timeout-ms"));
  nsec ns = NSEC_NEVER;
  if (timeout.n && !connect_timeout(timeout, &ns))
    return err_field(e, REASON_INVALID_REQUEST, "connect-timeout-ms", "connect-timeout-ms must be 1 to 10 digits");
  c->deadline = nsec_add(c->arrived, ns);
  return call_method(c, q->path, e);
}

// What HTTP has to say of the request before Connect has: the status, or 0.
static int refusal(struct http_request *q, const struct rpc_method *method, struct err *e)
{
  bool is_get = str_eq(q->method, STR("GET")), stream, unary = !method->client_streaming && !method->server_streaming;
  if (!str_eq(q->method, STR("POST")) && !(is_get && method->idempotent && unary)) {
    err_set(e, CODE_UNIMPLEMENTED, REASON_METHOD_NOT_FOUND, "%s takes POST only", method->path);
    return 405;
  }
  if (is_get)
    return 0;
  if (connect_content_type(call_header(q->call, STR("content-type")), &stream, &q->codec) && !stream && unary)
    return 0;
  err_set(e, CODE_INVALID_ARGUMENT, REASON_MEDIA_TYPE,
          unary ? "the content type must be application/proto or application/json (Connect), or application/grpc-web; gRPC needs HTTP/2"
                : "the method streams: the content type must be application/connect+proto, application/connect+json or application/grpc-web; gRPC "
                  "needs HTTP/2");
  return 415;
}

void http_connect_start(struct http_request *q)
{
  struct err e;
  int status = refusal(q, rpc_find(q->r, q->path, NULL), &e);
  if (status) {
    http_request_refuse(q, &e, status);
    return;
  }
  struct call *c = http_call(q, &front, q->codec, "connect");
  q->protocol = str_eq(q->method, STR("GET")) ? &get : &post;
  if (!check(q, c, &e))
    call_refuse(c, &e);
}
