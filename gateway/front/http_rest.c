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

static bool error_details(const struct rpc_api *api, const struct call *c, const struct err *e, struct buf *out)
{
  enum { DETAILS_BYTES = 65536, DETAILS_DEPTH = 16 };
  struct arena a;
  arena_init(&a, DETAILS_BYTES);
  const Google__Rpc__Status *status = c ? call_status(c, e, &a) : rpc_status_in(api->error_domain, e, &a);
  const struct transcode_options o = {.max_depth = DETAILS_DEPTH, .types = &api->types, .snake_case = true};
  const ProtobufCFieldDescriptor *details = protobuf_c_message_descriptor_get_field_by_name(&google__rpc__status__descriptor, "details");
  struct err ignored;
  bool ok = status && json_encode_field(&status->base, details, &o, out, &ignored);
  arena_free(&a);
  return ok;
}

bool http_error_body(const struct rpc_api *api, const struct call *c, const struct err *e, int status, struct buf *out)
{
  return buf_printf(out, "{\"error\":{\"code\":%d,\"message\":", status) && buf_json_string(out, str_c(e->msg)) &&
         buf_printf(out, ",\"status\":\"%s\",\"details\":", code_name(e->code)) && error_details(api, c, e, out) && buf_str(out, STR("}}"));
}

// The body of an error, and its content type. NULL: out of memory.
static const char *error_text(const struct http_request *q, const struct call *c, const struct err *e, int status, struct buf *out)
{
  if (q->rpc)
    return buf_printf(out, "%s\n", e->msg) ? "text/plain; charset=utf-8" : NULL;
  return http_error_body(rpc_api(q->r), c, e, status, out) ? JSON : NULL;
}

// The verbs that a path takes, as the method or REST's rules have it.
static bool allowed_verbs(const struct http_request *q, struct buf *allow)
{
  struct rest_match match;
  bool other_verb;
  if (rpc_find(q->r, q->path, NULL))
    return buf_str(allow, STR("POST"));
  rest_find(rpc_api(q->r), q->method, q->path, &match, &other_verb, allow);
  return allow->n > 0;
}

void http_answer_error(struct http_request *q, const struct call *c, const struct err *e)
{
  int status = q->status ? q->status : code_http_status(e->code);
  struct http_head head = {.status = status, .more = c && c->extra ? &c->extra->head : NULL};
  if (c && c->id[0])
    http_put(&head, "x-request-id", c->id);
  char seconds[16], verbs[48];
  if (e->retry_after_ms) {
    snprintf(seconds, sizeof seconds, "%u", (e->retry_after_ms + 999) / 1000);
    http_put(&head, "retry-after", seconds);
  }
  if (status == 401)
    http_put(&head, "www-authenticate", "Bearer");
  struct buf allow = {.max = sizeof verbs - 1}, body = {0};
  if (status == 405 && allowed_verbs(q, &allow)) {
    snprintf(verbs, sizeof verbs, "%.*s", (int)allow.n, allow.p);
    http_put(&head, "allow", verbs);
  }
  buf_free(&allow);
  const char *type = error_text(q, c, e, status, &body);
  if (type) {
    http_put(&head, "content-type", type);
    q->carrier->answer(q, &head, &body, NULL);
  } else {
    buf_free(&body);
    http_answer_text(q, 503, JSON, (struct str){NO_MEMORY, sizeof NO_MEMORY - 1});
  }
}

// --- the call's end ------------------------------------------------------------------------------------------------------------------------

static void put_head(struct http_head *head, const struct call *c, const char *type)
{
  *head = (struct http_head){.status = 200, .more = c->extra ? &c->extra->head : NULL};
  http_put(head, "content-type", type);
  http_put(head, "x-request-id", c->id);
}

static void on_head(struct call *c)
{
  struct http_request *q = c->front_ctx;
  struct http_head head;
  if (q->begun)
    return;
  q->begun = true;
  put_head(&head, c, LINES);
  q->carrier->begin(q, &head);
}

// Not by call_cancel, as the handler may be at work: it learns it when the request is closed.
static void give_up(struct http_request *q)
{
  q->given_up = true;
  q->carrier->abort(q);
}

static void on_message(struct call *c, struct buf *out)
{
  enum { WAITING_MOST = 64 << 20 }; // whoever sends should have stopped long before
  struct http_request *q = c->front_ctx;
  on_head(c);
  if (q->given_up)
    return;
  if (q->carrier->queued(q) <= WAITING_MOST && buf_char(out, '\n') && q->carrier->piece(q, out))
    call_backlog(c, q->carrier->queued(q));
  else
    give_up(q);
}

// The status has been sent: an error is the last line.
static void end_lines(struct http_request *q, struct call *c, const struct err *e)
{
  struct buf line = {0};
  on_head(c);
  if (q->given_up)
    return;
  if (!e || (http_error_body(rpc_api(q->r), c, e, code_http_status(e->code), &line) && buf_char(&line, '\n') && q->carrier->piece(q, &line)))
    q->carrier->end(q);
  else
    give_up(q);
  buf_free(&line);
}

static void finish(struct call *c, struct buf *out, const struct err *e)
{
  struct http_request *q = c->front_ctx;
  q->call = NULL;
  q->protocol = NULL;
  if (q->begun || (!e && c->method->server_streaming)) {
    end_lines(q, c, e);
    return;
  }
  if (e) {
    http_answer_error(q, c, e);
    return;
  }
  struct http_head head;
  put_head(&head, c, JSON);
  q->carrier->answer(q, &head, out, &c->splices);
}

const struct call_front http_rest_front = {.head = on_head, .message = on_message, .finish = finish};

// --- its beginning -------------------------------------------------------------------------------------------------------------------------

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

// A body is JSON, and says so or says nothing. A browser lets any page send a POST that says nothing, or something simple, without asking here first (CORS), so a
// page's request has to say it.
bool http_takes_json(const struct http_request *q, const struct call *c)
{
  struct str type = call_header(c, STR("content-type"));
  bool of_page = str_eq(q->method, STR("POST")) && call_header(c, STR("origin")).n && !q->allowed_origin;
  return of_page ? type.n && is_json(type) : !q->body.n || is_json(type);
}

// Finds the method. False: `e`, and the HTTP status where the code's own would not do.
static bool route(struct http_request *q, const struct call *c, struct rest_match *match, struct err *e)
{
  bool other_verb;
  struct buf allow = {.max = 48};
  bool found = rest_find(rpc_api(q->r), q->method, q->path, match, &other_verb, &allow);
  if (other_verb) {
    q->status = 405;
    err_set(e, CODE_UNIMPLEMENTED, REASON_METHOD_NOT_FOUND, "the path takes %.*s only", (int)allow.n, allow.p);
  } else if (!found) {
    err_set(e, CODE_NOT_FOUND, REASON_METHOD_NOT_FOUND, "no such path; /openapi.json has all that there are");
  } else if (q->body_too_large) {
    found = false;
    q->status = 413;
    err_set(e, CODE_RESOURCE_EXHAUSTED, REASON_MESSAGE_TOO_LARGE, "the body is over %lld bytes (max_message_bytes)",
            (long long)q->r->config->max_message_bytes);
  } else if (!http_takes_json(q, c)) {
    found = false;
    q->status = 415;
    err_set(e, CODE_INVALID_ARGUMENT, REASON_MEDIA_TYPE, "the body's content type must be application/json");
  }
  buf_free(&allow);
  return found;
}

static void end(struct http_request *q)
{
  struct call *c = q->call;
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

static void resume(struct http_request *q)
{
  if (q->call)
    call_backlog(q->call, q->carrier->queued(q));
}

static const struct http_protocol protocol = {.end = end, .resume = resume};

void http_rest_start(struct http_request *q)
{
  q->protocol = &protocol;
}
