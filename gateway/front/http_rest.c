// SPDX-License-Identifier: Apache-2.0
// REST: a request becomes a call, what the call answers the reply.
#include "config/config.h"
#include "front/http_request.h"
#include "google/rpc/status.pb-c.h"
#include "rpc/rest.h"
#include "transcode/transcode.h"

static const char JSON[] = "application/json";
static const char LINES[] = "application/x-ndjson"; // of a server stream: a message a line

// --- errors --------------------------------------------------------------------------------------------------------------------------------

// Only when there is no memory to say more.
static const char NO_MEMORY[] = "{\"error\":{\"code\":503,\"message\":\"out of memory\",\"status\":\"RESOURCE_EXHAUSTED\"}}";

static bool error_details(const struct err *e, struct buf *out)
{
  enum { DETAILS_BYTES = 65536, DETAILS_DEPTH = 16 };
  struct arena a;
  arena_init(&a, DETAILS_BYTES);
  const Google__Rpc__Status *status = rpc_status(e, &a);
  const struct transcode_options o = {.max_depth = DETAILS_DEPTH, .snake_case = true};
  const ProtobufCFieldDescriptor *details = protobuf_c_message_descriptor_get_field_by_name(&google__rpc__status__descriptor, "details");
  struct err ignored;
  bool ok = status && json_encode_field(&status->base, details, &o, out, &ignored);
  arena_free(&a);
  return ok;
}

bool http_error_body(const struct err *e, int status, struct buf *out)
{
  return buf_printf(out, "{\"error\":{\"code\":%d,\"message\":", status) && buf_json_string(out, str_c(e->msg)) &&
         buf_printf(out, ",\"status\":\"%s\",\"details\":", code_name(e->code)) && error_details(e, out) && buf_str(out, STR("}}"));
}

// --- the call's end ------------------------------------------------------------------------------------------------------------------------

static void answer_error(struct http_request *q, const struct err *e)
{
  int status = q->status ? q->status : code_http_status(e->code);
  q->retry_after_s = (e->retry_after_ms + 999) / 1000;
  struct buf body = {0};
  if (http_error_body(e, status, &body)) {
    http_answer(q, status, JSON, &body);
  } else {
    buf_free(&body);
    http_answer_static(q, 503, JSON, (struct str){NO_MEMORY, sizeof NO_MEMORY - 1});
  }
}

static void answer_reply(struct http_request *q, struct call *c, struct buf *out)
{
  q->splices = c->splices;
  c->splices = (struct splices){0};
  http_answer(q, 200, JSON, out);
}

// Adds a line to a stream, which begins with the first.
static bool add_line(struct http_request *q, struct buf *line, size_t *waiting)
{
  if (!q->streams)
    http_stream(q, 200, LINES);
  return buf_char(line, '\n') && http_stream_add(q, line, waiting);
}

static void message(struct call *c, struct buf *out)
{
  struct http_request *q = c->front_ctx;
  size_t waiting;
  if (!q)
    return;
  memcpy(q->request_id, c->id, sizeof q->request_id);
  if (q->stream_ended)
    return;
  if (add_line(q, out, &waiting))
    call_backlog(c, waiting);
  else
    http_stream_end(q, true); // not by call_cancel, as the handler is at work
}

// The status has been sent: an error is the last line.
static void end_stream(struct http_request *q, const struct err *e)
{
  struct buf line = {0};
  size_t waiting;
  bool told = !e || (http_error_body(e, code_http_status(e->code), &line) && add_line(q, &line, &waiting));
  buf_free(&line);
  http_stream_end(q, !told);
}

static void finish(struct call *c, struct buf *out, const struct err *e)
{
  struct http_request *q = c->front_ctx;
  if (!q)
    return;
  q->call = NULL;
  memcpy(q->request_id, c->id, sizeof q->request_id);
  if (!q->streams && !e && c->method->server_streaming)
    http_stream(q, 200, LINES);
  if (q->streams)
    end_stream(q, e);
  else if (e)
    answer_error(q, e);
  else
    answer_reply(q, c, out);
}

static const struct call_front front = {.message = message, .finish = finish};

// --- its beginning -------------------------------------------------------------------------------------------------------------------------

// Makes the call; when there is no memory for it, answers.
static struct call *new_call(struct http_request *q)
{
  struct call *c = call_new(q->r, &front, q);
  struct err e;
  if (!c) {
    err_nomem(&e);
    answer_error(q, &e);
    return NULL;
  }
  q->call = c;
  c->codec = CODEC_REST;
  c->protocol = "http";
  if (!http_headers(q, &c->arena, &c->headers, &c->header_count)) {
    err_nomem(&e);
    call_refuse(c, &e);
    return NULL;
  }
  return c;
}

// "application/json", with whatever parameters; none at all is fine, too.
static bool is_json(struct str content_type)
{
  const char *semicolon = content_type.n ? memchr(content_type.p, ';', content_type.n) : NULL;
  if (semicolon)
    content_type.n = (size_t)(semicolon - content_type.p);
  while (content_type.n && (content_type.p[content_type.n - 1] == ' ' || content_type.p[content_type.n - 1] == '\t'))
    content_type.n--;
  return !content_type.n || str_ieq(content_type, STR("application/json"));
}

// Finds the method. False: `e`, and the HTTP status where the code's own would not do.
static bool route(struct http_request *q, const struct call *c, struct rest_match *match, struct err *e)
{
  bool other_verb;
  struct buf allow = {.max = sizeof q->allow - 1};
  bool found = rest_find(q->method, q->path, match, &other_verb, &allow);
  if (other_verb) {
    q->status = 405;
    memcpy(q->allow, allow.p, allow.n);
    q->allow[allow.n] = '\0';
    err_set(e, CODE_UNIMPLEMENTED, REASON_METHOD_NOT_FOUND, "the path takes %s only", q->allow);
  } else if (!found) {
    err_set(e, CODE_NOT_FOUND, REASON_METHOD_NOT_FOUND, "no such path; /openapi.json has all that there are");
  } else if (q->body_too_large) {
    found = false;
    q->status = 413;
    err_set(e, CODE_RESOURCE_EXHAUSTED, REASON_MESSAGE_TOO_LARGE, "the body is over %lld bytes (max_message_bytes)",
            (long long)q->r->config->max_message_bytes);
  } else if (q->body.n && !is_json(call_header(c, STR("content-type")))) {
    found = false;
    q->status = 415;
    err_set(e, CODE_INVALID_ARGUMENT, REASON_MEDIA_TYPE, "the body's content type must be application/json");
  }
  buf_free(&allow);
  return found;
}

void http_rest_start(struct http_request *q)
{
  struct call *c = new_call(q);
  if (!c)
    return;
  struct err e;
  struct rest_match match;
  if (!route(q, c, &match, &e) || !call_method(c, str_c(match.method->path), &e)) {
    call_refuse(c, &e);
    return;
  }
  size_t bytes = q->body.n;
  ProtobufCMessage *request = rest_request(&match, q->query, buf_view(&q->body), (int)q->r->config->max_json_depth, &c->arena, &e);
  buf_free(&q->body);
  if (!request) {
    call_refuse(c, &e);
    return;
  }
  call_request(c, request, bytes);
  call_end_of_messages(c);
}

void http_rest_refuse(struct http_request *q, const struct err *e, int status)
{
  q->status = status;
  struct call *c = new_call(q);
  if (c)
    call_refuse(c, e);
}

void http_rest_sent(struct http_request *q, size_t waiting)
{
  if (q->call)
    call_backlog(q->call, waiting);
}

void http_rest_cancel(struct http_request *q)
{
  if (q->call)
    call_cancel(q->call);
}

void http_rest_detach(struct http_request *q)
{
  if (q->call)
    q->call->front_ctx = NULL;
  q->call = NULL;
}
