// SPDX-License-Identifier: Apache-2.0
// Which protocol a request speaks, and what all of them share.
#include "front/http_request.h"

#include <assert.h>

#include "auth/auth.h"
#include "config/config.h"
#include "front/connect_wire.h"
#include "front/http_cors.h"
#include "front/http_openenv.h"

// --- the body, gathered --------------------------------------------------------------------------------------------------------------------

static void gather(struct http_request *q, struct str bytes)
{
  q->carrier->consumed(q, bytes.n);
  if (q->body_too_large || buf_add(&q->body, bytes.p, bytes.n))
    return;
  // Out of memory looks the same from here, and is as good a reason.
  q->body_too_large = true;
  buf_free(&q->body);
}

// --- the gateway's own paths ---------------------------------------------------------------------------------------------------------------

static void route_end(struct http_request *q)
{
  bool post = q->route->post;
  if (post ? str_eq(q->method, STR("POST")) : str_eq(q->method, STR("GET")) || str_eq(q->method, STR("HEAD"))) {
    q->route->answer(q);
    return;
  }
  const struct str text = post ? STR("the path takes POST only\n") : STR("the path takes GET and HEAD only\n");
  struct http_head head = {.status = 405};
  http_put(&head, "content-type", "text/plain; charset=utf-8");
  http_put(&head, "allow", post ? "POST" : "GET, HEAD");
  q->carrier->answer_static(q, &head, text);
}

static const struct http_protocol route_protocol = {.end = route_end};

bool http_path_matches(const char *pattern, struct str path, struct str *name)
{
  *name = STR("");
  const char *star = strchr(pattern, '*');
  if (!star)
    return str_eq(path, str_c(pattern));
  struct str before = {pattern, (size_t)(star - pattern)}, after = str_c(star + 1);
  if (path.n <= before.n + after.n || !str_starts(path, before) || !str_ends(path, after))
    return false;
  *name = (struct str){path.p + before.n, path.n - before.n - after.n};
  return !memchr(name->p, '/', name->n);
}

static const struct http_route *find_route(const struct http_request *q)
{
  struct str name;
  for (const struct http_route *route = q->site->routes; route->path; route++)
    if (http_path_matches(route->path, q->path, &name))
      return route;
  return NULL;
}

// --- the carrier's side --------------------------------------------------------------------------------------------------------------------

static void refuse_path(struct http_request *q)
{
  struct err e;
  err_set(&e, CODE_UNIMPLEMENTED, REASON_METHOD_NOT_FOUND, "no method %.*s; see reflection or /openapi.json", STR_ARG(q->path));
  http_request_refuse(q, &e, 404);
}

void http_request_start(struct http_request *q)
{
  if (http_cors_start(q))
    return;
  q->route = find_route(q);
  if (q->route && q->route->post && str_eq(q->method, STR("GET")) && http_socket_start(q)) // the same path by WebSocket
    return;
  if (q->route) {
    if (q->call)
      call_drop(q->call);
    q->call = NULL;
    q->protocol = &route_protocol;
    return;
  }
  if (http_socket_start(q))
    return;
  struct call *c = http_call(q, &http_rest_front, CODEC_REST, "http");
  if (!c)
    return;
  struct str type = call_header(c, STR("content-type"));
  bool web = grpc_web_content_type(type, &q->text, &q->codec), stream = false;
  bool connect = connect_content_type(type, &stream, &q->codec), found = rpc_find(q->r, q->path, NULL);
  // Connect's JSON looks like REST's; its version tells.
  q->rpc = web || found || (connect && (stream || q->codec == CODEC_PROTO)) || call_header(c, STR("connect-protocol-version")).n;
  if (web || (found && stream))
    http_stream_start(q);
  else if (found)
    http_connect_start(q);
  else if (q->rpc)
    refuse_path(q);
  else
    http_rest_start(q);
}

void http_request_data(struct http_request *q, struct str bytes)
{
  if (!q->protocol)
    q->carrier->consumed(q, bytes.n); // answered already; what comes before its sender knows is dropped
  else if (q->protocol->data)
    q->protocol->data(q, bytes);
  else
    gather(q, bytes);
}

void http_request_end(struct http_request *q)
{
  q->whole = true;
  if (q->protocol)
    q->protocol->end(q);
}

void http_request_resume(struct http_request *q)
{
  if (q->protocol && q->protocol->resume)
    q->protocol->resume(q);
}

void http_request_hurry(struct http_request *q)
{
  const struct rpc_method *method = q->call ? q->call->method : NULL;
  if (q->whole || !q->protocol || q->held.n || (method && method->client_streaming))
    return;
  struct err e;
  err_set(&e, CODE_DEADLINE_EXCEEDED, REASON_DEADLINE, "the rest of the request did not come within body_timeout_s");
  if (method)
    call_refuse(q->call, &e);
  else
    http_request_refuse(q, &e, 408);
}

void http_request_cancel(struct http_request *q)
{
  if (q->call)
    call_cancel(q->call);
}

void http_request_close(struct http_request *q)
{
  struct call *c = q->call;
  q->call = NULL;
  q->protocol = NULL;
  if (c)
    call_abandon(c);
  http_openenv_close(q);
  buf_free(&q->body);
  buf_free(&q->held);
  grpc_frames_free(&q->frames);
}

void http_request_refuse(struct http_request *q, const struct err *e, int status)
{
  q->status = status;
  q->protocol = NULL;
  struct call *c = http_call(q, &http_rest_front, CODEC_REST, "http");
  if (c)
    call_refuse(c, e);
}

// --- the protocols' side -------------------------------------------------------------------------------------------------------------------

struct call *http_call(struct http_request *q, const struct call_front *front, enum codec codec, const char *protocol)
{
  struct call *c = q->call;
  if (!c) {
    struct err e;
    err_nomem(&e);
    c = q->call = call_new(q->r, front, q);
    if (!c) {
      http_answer_error(q, NULL, &e);
      return NULL;
    }
    c->peer = q->peer;
    if (!q->carrier->headers(q, &c->arena, &c->headers, &c->header_count)) {
      c->front = &http_rest_front;
      call_refuse(c, &e);
      return NULL;
    }
  }
  c->front = front;
  c->front_ctx = q;
  c->codec = codec;
  c->protocol = protocol;
  return c;
}

// The caller's Authorization; two of them are a way to have two readers see two callers.
static bool one_authorization(const struct header *headers, size_t n, struct str *value, struct err *e)
{
  *value = STR("");
  for (size_t i = 0; i < n; i++) {
    if (!str_eq(headers[i].name, STR("authorization")))
      continue;
    if (value->n)
      return err_set(e, CODE_UNAUTHENTICATED, REASON_CREDENTIALS_UNKNOWN, "there is more than one authorization");
    *value = headers[i].value;
  }
  return true;
}

bool http_may(struct http_request *q, const struct header *headers, size_t n, unsigned scopes, struct identity *who)
{
  struct str authorization;
  struct err e;
  if (one_authorization(headers, n, &authorization, &e) && auth_check(q->r, q->peer, authorization, scopes, who, &e))
    return true;
  http_answer_error(q, NULL, &e);
  return false;
}

void http_put(struct http_head *head, const char *name, const char *value)
{
  assert(head->n < HTTP_HEADERS);
  head->header[head->n++] = (struct header){str_c(name), str_c(value)};
}

void http_answer_text(struct http_request *q, int status, const char *content_type, struct str body)
{
  struct http_head head = {.status = status};
  http_put(&head, "content-type", content_type);
  q->carrier->answer_static(q, &head, body);
}
