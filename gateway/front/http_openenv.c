// SPDX-License-Identifier: Apache-2.0
#include "front/http_openenv.h"

#include <assert.h>
#include <stdlib.h>

#include "api/openenv.h"
#include "base/json.h"
#include "config/config.h"
#include "envgate/v1/environment_service.pb-c.h"
#include "envgate/v1/session_service.pb-c.h"
#include "front/http_request.h"
#include "session/session.h"

#define SESSIONS "/envgate.v1.SessionService/"
#define ENVIRONMENTS "/envgate.v1.EnvironmentService/"
#define COOKIE "envgate_session"

static const char JSON[] = "application/json";

enum { NAME_MAX_BYTES = 128 };

// What happens to a request, one call after another.
struct http_openenv {
  // The call that runs has ended, well or with `e`; `out` is what it said. Answers, or makes the next call.
  void (*next)(struct http_request *q, struct call *c, struct buf *out, const struct err *e);
  struct arena arena;
  bool of_session;     // the path names a session, not an environment
  const char *name;    // "environments/{environment}" or "sessions/{id}", as in the path
  const char *session; // "sessions/{id}": the path's, the cookie's, JSON-RPC's or the one made here; "": none
  bool by_cookie;
  bool made;     // the session was made here …
  bool theirs;   // … and the caller has been told of it, so that it outlives the request
  bool document; // /metadata, not /schema
  struct openenv_rpc rpc;
};

// --- answers -----------------------------------------------------------------------------------------------------------------------------------

static void put_head(struct http_head *head, int status, const struct call *c, const char *type)
{
  *head = (struct http_head){.status = status, .more = c->extra ? &c->extra->head : NULL};
  http_put(head, "content-type", type);
  if (c->id[0])
    http_put(head, "x-request-id", c->id);
}

// Takes over the body.
static void answer(struct http_request *q, struct http_head *head, struct buf *body, struct splices *splices)
{
  q->protocol = NULL;
  q->carrier->answer(q, head, body, splices);
}

static void answer_json(struct http_request *q, int status, const struct call *c, bool ok, struct buf *body)
{
  struct http_head head;
  if (!ok) {
    buf_free(body);
    q->protocol = NULL;
    http_answer_text(q, 503, JSON, STR("{\"detail\":\"out of memory\"}"));
    return;
  }
  put_head(&head, status, c, JSON);
  answer(q, &head, body, NULL);
}

// As FastAPI says it, {"detail": …}; what is the gateway's own has what REST says beside it, {"error": {…}}.
static void answer_error(struct http_request *q, const struct call *c, const struct buf *problems, const struct err *e)
{
  bool refused = e->reason == REASON_INVALID_ACTION || e->reason == REASON_INVALID_REQUEST;
  int status = q->status ? q->status : refused ? 422 : code_http_status(e->code);
  struct buf body = {0}, error = {0};
  struct http_head head;
  char seconds[16];
  if (e->reason == REASON_ENV_EXCEPTION) { // what Starlette answers with; the exception's text is in the worker's log
    bool ok = buf_str(&body, STR("Internal Server Error"));
    put_head(&head, 500, c, "text/plain; charset=utf-8");
    if (!ok)
      buf_free(&body);
    answer(q, &head, &body, NULL);
    return;
  }
  bool known = problems && problems->n, ok = buf_str(&body, STR("{\"detail\":"));
  if (known) // all that a worker would say
    ok = ok && buf_str(&body, buf_view(problems)) && buf_char(&body, '}');
  else
    ok = ok && buf_json_string(&body, str_c(e->msg)) && http_error_body(rpc_api(q->r), c, e, status, &error) && buf_char(&body, ',') &&
         buf_str(&body, str_skip(buf_view(&error), 1));
  buf_free(&error);
  if (!ok) {
    answer_json(q, status, c, false, &body);
    return;
  }
  put_head(&head, status, c, JSON);
  if (e->retry_after_ms) {
    snprintf(seconds, sizeof seconds, "%u", (e->retry_after_ms + 999) / 1000);
    http_put(&head, "retry-after", seconds);
  }
  if (status == 401)
    http_put(&head, "www-authenticate", "Bearer");
  answer(q, &head, &body, NULL);
}

// What the worker or the API said, as it is.
static void answer_said(struct http_request *q, struct call *c, struct buf *out)
{
  struct http_openenv *o = q->openenv;
  struct http_head head;
  char cookie[3 * NAME_MAX_BYTES];
  put_head(&head, 200, c, JSON);
  if (o->theirs) {
    const char *slash = memrchr(q->path.p, '/', q->path.n);
    snprintf(cookie, sizeof cookie, COOKIE "=%s; Path=%.*s; HttpOnly; SameSite=Lax%s", o->session + sizeof "sessions/" - 1,
             slash ? (int)(slash - q->path.p) : 0, q->path.p, q->peer && q->peer->tls ? "; Secure" : "");
    http_put(&head, "set-cookie", cookie);
  }
  answer(q, &head, out, &c->splices);
}

// --- calls -------------------------------------------------------------------------------------------------------------------------------------

static void on_message(struct call *c, struct buf *out)
{
  (void)c; // no method here streams
  out->n = 0;
}

static void on_head(struct call *c)
{
  (void)c;
}

static void on_finish(struct call *c, struct buf *out, const struct err *e)
{
  struct http_request *q = c->front_ctx;
  q->call = NULL;
  q->openenv->next(q, c, out, e);
}

static const struct call_front front = {.head = on_head, .message = on_message, .finish = on_finish};

// A new call of a method, or the one that the request began with. NULL: it has ended, and the request with it.
static struct call *call_of(struct http_request *q, const char *path,
                            void (*next)(struct http_request *, struct call *, struct buf *, const struct err *))
{
  struct call *c = http_call(q, &front, CODEC_OPENENV, "http");
  struct err e;
  if (!c)
    return NULL;
  q->openenv->next = next;
  if (call_method(c, str_c(path), &e))
    return c;
  call_refuse(c, &e);
  return NULL;
}

// Goes on with a request in the call's arena; NULL: out of memory.
static void go(struct call *c, ProtobufCMessage *request, size_t bytes)
{
  struct err e;
  if (request) {
    call_request(c, request, bytes);
    call_end_of_messages(c);
  } else {
    err_nomem(&e);
    call_refuse(c, &e);
  }
}

// The same with a request that only says what it is about, whose name is the first field of every request of the API that has one.
static void go_named(struct call *c, const char *name, size_t bytes)
{
  const ProtobufCMessageDescriptor *d = c->method->input;
  ProtobufCMessage *m = message_new(d, &c->arena);
  char *copy = name ? arena_dup(&c->arena, str_c(name)) : NULL;
  assert(d->fields[0].id == 1 && d->fields[0].type == PROTOBUF_C_TYPE_STRING);
  if (m && copy)
    *(char **)(void *)((char *)m + d->fields[0].offset) = copy;
  go(c, copy ? m : NULL, bytes);
}

// The answer is what the call said, or its error.
static void last(struct http_request *q, struct call *c, struct buf *out, const struct err *e)
{
  if (e)
    answer_error(q, c, out, e);
  else
    answer_said(q, c, out);
}

// Ends a request whose body is refused.
static void refuse_body(struct http_request *q, struct call *c, const struct openenv_read *read)
{
  struct err e;
  struct buf problems = {0};
  if (!read->problem.n || !buf_str(&problems, read->problem))
    err_nomem(&e);
  else
    err_set(&e, CODE_INVALID_ARGUMENT, REASON_INVALID_REQUEST, "the body is not what OpenEnv's API takes");
  q->openenv->next = last;
  rpc_finish_bytes(c, buf_view(&problems), &e);
  buf_free(&problems);
}

static struct openenv_read reader(const struct http_request *q, struct arena *a)
{
  return (struct openenv_read){.arena = a, .max_depth = (int)q->r->config->max_json_depth};
}

static void ask_to_create(struct http_request *q, void (*next)(struct http_request *, struct call *, struct buf *, const struct err *))
{
  struct call *c = call_of(q, SESSIONS "CreateSession", next);
  if (c)
    go_named(c, q->openenv->name, 0);
}

// Takes the session that has been made. False: out of memory, and the lease ends it.
static bool take_session(struct http_request *q, const struct call *c)
{
  struct http_openenv *o = q->openenv;
  o->session = arena_printf(&o->arena, "sessions/%.*s", STR_ARG(c->session));
  o->made = o->session != NULL;
  if (!o->session)
    o->session = "";
  return o->made;
}

// The request's own session is needed no longer, unless it is the caller's now. Nothing of the request must be touched behind an answer, so this comes before.
static void give_back(struct http_request *q)
{
  struct http_openenv *o = q->openenv;
  if (!o->made || o->theirs)
    return;
  session_close_later(q->r, str_c(o->session + sizeof "sessions/" - 1));
  o->made = false;
}

// --- /reset, /step, /state ---------------------------------------------------------------------------------------------------------------------

static bool is_gone(const struct err *e)
{
  return e->reason == REASON_SESSION_NOT_FOUND || e->reason == REASON_SESSION_LOST || e->reason == REASON_SESSION_CLOSED;
}

static void answer_no_session(struct http_request *q, const struct call *c)
{
  struct err e;
  err_set(&e, CODE_FAILED_PRECONDITION, REASON_SESSION_NOT_FOUND,
          "there is no session, or it has ended: POST %s/reset makes one and sets the cookie " COOKIE
          ", which must come with each request (requests.Session sees to that); without cookies, use POST /v1/sessions",
          q->openenv->name);
  answer_error(q, c, NULL, &e);
}

static void on_created(struct http_request *q, struct call *c, struct buf *out, const struct err *e);

static void on_reset(struct http_request *q, struct call *c, struct buf *out, const struct err *e)
{
  struct http_openenv *o = q->openenv;
  if (e && is_gone(e) && !o->made) { // the cookie's has ended, or is another's
    ask_to_create(q, on_created);
    return;
  }
  o->theirs = o->made && !e;
  give_back(q);
  last(q, c, out, e);
}

static void ask_to_reset(struct http_request *q)
{
  struct call *c = call_of(q, SESSIONS "Reset", on_reset);
  if (!c)
    return;
  struct openenv_read read = reader(q, &c->arena);
  Envgate__V1__ResetRequest *m = arena_alloc(&c->arena, sizeof *m);
  if (m && !openenv_reset_read(&read, buf_view(&q->body), m)) {
    refuse_body(q, c, &read);
    return;
  }
  if (m)
    m->session = arena_dup(&c->arena, str_c(q->openenv->session));
  go(c, m && m->session ? &m->base : NULL, q->body.n);
}

static void on_created(struct http_request *q, struct call *c, struct buf *out, const struct err *e)
{
  struct err nomem;
  if (e) {
    last(q, c, out, e);
  } else if (take_session(q, c)) {
    ask_to_reset(q);
  } else {
    err_nomem(&nomem);
    last(q, c, out, &nomem);
  }
}

// Before a session is made, so that a body that is wrong makes none.
static void begin_reset(struct http_request *q)
{
  struct openenv_read read = reader(q, &q->call->arena);
  Envgate__V1__ResetRequest m;
  if (!openenv_reset_read(&read, buf_view(&q->body), &m))
    refuse_body(q, q->call, &read);
  else if (q->openenv->session[0])
    ask_to_reset(q);
  else
    ask_to_create(q, on_created);
}

static void on_work(struct http_request *q, struct call *c, struct buf *out, const struct err *e)
{
  if (e && is_gone(e))
    answer_no_session(q, c);
  else
    last(q, c, out, e);
}

// A session that could never be, so that who may not ask is told that first.
static const char *session_or_none(const struct http_request *q)
{
  return q->openenv->session[0] ? q->openenv->session : "sessions/-";
}

static void begin_step(struct http_request *q)
{
  struct call *c = call_of(q, SESSIONS "Step", on_work);
  if (!c)
    return;
  struct openenv_read read = reader(q, &c->arena);
  Envgate__V1__StepRequest *m = arena_alloc(&c->arena, sizeof *m);
  if (m && !openenv_step_read(&read, buf_view(&q->body), m)) {
    refuse_body(q, c, &read);
    return;
  }
  if (m)
    m->session = arena_dup(&c->arena, str_c(session_or_none(q)));
  go(c, m && m->session ? &m->base : NULL, q->body.n);
}

static void begin_state(struct http_request *q)
{
  struct call *c = call_of(q, SESSIONS "GetState", on_work);
  if (c)
    go_named(c, session_or_none(q), 0);
}

// --- /health, /schema, /metadata -----------------------------------------------------------------------------------------------------------------

// A string member of what a call said, quotes and all; "": there is none.
static struct str said(const struct buf *out, struct str name)
{
  struct json j;
  struct str key, value, found = {0};
  json_init(&j, out->n ? buf_view(out) : STR("{}"), JSON_DEPTH_MAX);
  json_enter_object(&j);
  while (json_next_key(&j, &key) && json_skip(&j, &value))
    if (json_raw_eq(key, name))
      found = value;
  return found;
}

static void on_health(struct http_request *q, struct call *c, struct buf *out, const struct err *e)
{
  if (e) {
    last(q, c, out, e);
    return;
  }
  bool well = q->openenv->of_session ? !str_eq(said(out, STR("state")), STR("\"STATE_LOST\"")) : str_eq(said(out, STR("status")), STR("\"SERVING\""));
  struct buf body = {0};
  answer_json(q, well ? 200 : 503, c, buf_str(&body, well ? STR("{\"status\":\"healthy\"}") : STR("{\"status\":\"unhealthy\"}")), &body);
}

// GetSession of the path's session.
static void ask_for_session(struct http_request *q, void (*next)(struct http_request *, struct call *, struct buf *, const struct err *))
{
  struct call *c = call_of(q, SESSIONS "GetSession", next);
  if (c)
    go_named(c, q->openenv->name, 0);
}

static void begin_health(struct http_request *q)
{
  if (q->openenv->of_session) {
    ask_for_session(q, on_health);
    return;
  }
  struct call *c = call_of(q, "/grpc.health.v1.Health/Check", on_health);
  if (c)
    go_named(c, q->openenv->name, 0);
}

static void on_session(struct http_request *q, struct call *c, struct buf *out, const struct err *e)
{
  struct http_openenv *o = q->openenv;
  struct str environment = said(out, STR("environment"));
  if (e || environment.n < 2) {
    last(q, c, out, e);
    return;
  }
  const char *name = arena_dup(&o->arena, (struct str){environment.p + 1, environment.n - 2});
  c = call_of(q, o->document ? ENVIRONMENTS "GetMetadata" : ENVIRONMENTS "GetSchema", last);
  if (c)
    go_named(c, name, 0);
}

static void begin_document(struct http_request *q)
{
  ask_for_session(q, on_session);
}

// --- /mcp --------------------------------------------------------------------------------------------------------------------------------------

static void answer_rpc_error(struct http_request *q, const struct call *c, int code, struct str message, const char *reason)
{
  struct buf body = {0};
  bool ok = openenv_rpc_error(&q->openenv->rpc, code, message, reason, &body);
  answer_json(q, 200, c, ok, &body);
}

// JSON-RPC's errors come with status 200, as OpenEnv's servers have it, but for those of HTTP's own: who asks, and how much.
static void answer_rpc_failure(struct http_request *q, const struct call *c, const struct buf *out, const struct err *e)
{
  struct http_openenv *o = q->openenv;
  if (e->code == CODE_UNAUTHENTICATED || e->code == CODE_PERMISSION_DENIED || e->reason == REASON_QUOTA_EXCEEDED || q->status) {
    answer_error(q, c, out, e);
    return;
  }
  if (e->reason == REASON_SESSION_NOT_FOUND && o->rpc.session_id.n) {
    struct buf text = {0};
    bool ok = buf_str(&text, STR("Unknown session_id: ")) && buf_str(&text, o->rpc.session_id);
    answer_rpc_error(q, c, JSONRPC_INVALID_PARAMS, ok ? buf_view(&text) : STR("Unknown session_id"), NULL);
    buf_free(&text);
    return;
  }
  bool of_worker = e->reason == REASON_ENV_EXCEPTION || e->reason == REASON_TOOLS_NOT_SUPPORTED;
  answer_rpc_error(q, c, of_worker ? JSONRPC_INTERNAL : JSONRPC_SERVER, str_c(e->msg), e->reason);
}

static void on_tools_session(struct http_request *q, struct call *c, struct buf *out, const struct err *e);

static void on_tools(struct http_request *q, struct call *c, struct buf *out, const struct err *e)
{
  struct http_openenv *o = q->openenv;
  if (e && o->by_cookie && is_gone(e)) { // as if there were no cookie
    o->by_cookie = false;
    ask_to_create(q, on_tools_session);
    return;
  }
  give_back(q);
  if (e)
    answer_rpc_failure(q, c, out, e);
  else
    answer_said(q, c, out);
}

static void ask_for_tools(struct http_request *q)
{
  struct http_openenv *o = q->openenv;
  bool calls = str_eq(o->rpc.method, STR("tools/call"));
  struct call *c = call_of(q, calls ? SESSIONS "CallTool" : SESSIONS "ListTools", on_tools);
  if (!c)
    return;
  c->words = (struct str){arena_dup(&c->arena, buf_view(&q->body)), q->body.n};
  if (c->words.p)
    go_named(c, o->session, q->body.n);
  else
    go(c, NULL, 0);
}

// A session for this request only, as OpenEnv's servers make an environment for it.
static void on_tools_session(struct http_request *q, struct call *c, struct buf *out, const struct err *e)
{
  struct err nomem;
  err_nomem(&nomem);
  if (e || !take_session(q, c))
    answer_rpc_failure(q, c, out, e ? e : &nomem);
  else
    ask_for_tools(q);
}

// {"jsonrpc":"2.0","id":…,"result":{"session_id":"…"}}, and what `more` says, which is inside the result.
static void answer_session(struct http_request *q, const struct call *c, struct str id, struct str more)
{
  struct buf body = {0};
  bool ok = openenv_rpc_session(&q->openenv->rpc, id, more, &body);
  answer_json(q, 200, c, ok, &body);
}

static void on_rpc_created(struct http_request *q, struct call *c, struct buf *out, const struct err *e)
{
  if (e) {
    answer_rpc_failure(q, c, out, e);
    return;
  }
  answer_session(q, c, c->session, STR(""));
}

static void on_rpc_closed(struct http_request *q, struct call *c, struct buf *out, const struct err *e)
{
  if (e)
    answer_rpc_failure(q, c, out, e);
  else
    answer_session(q, c, q->openenv->rpc.session_id, STR(",\"closed\":true"));
}

static void close_by_rpc(struct http_request *q)
{
  struct call *c = call_of(q, SESSIONS "CloseSession", on_rpc_closed);
  if (c)
    go_named(c, q->openenv->session, q->body.n);
}

// Answers what takes no call; the one that the request began with is dropped.
static void reply_at_once(struct http_request *q, int code, struct str message)
{
  struct call *c = q->call;
  q->call = NULL;
  answer_rpc_error(q, c, code, message, NULL);
  call_drop(c);
}

static void manage_session(struct http_request *q, bool create)
{
  struct http_openenv *o = q->openenv;
  if (!create && !o->rpc.session_id.n) {
    reply_at_once(q, JSONRPC_INVALID_PARAMS, STR("Invalid params - 'session_id' is required"));
  } else if (!o->of_session) {
    if (create)
      ask_to_create(q, on_rpc_created);
    else
      close_by_rpc(q);
  } else { // the path's session is there already, and its owner's to close
    reply_at_once(q, JSONRPC_INVALID_REQUEST, STR("the path names a session: there is none to create or to close by MCP"));
  }
}

static void begin_mcp(struct http_request *q)
{
  struct http_openenv *o = q->openenv;
  struct openenv_read read = reader(q, &o->arena);
  struct err e;
  if (!openenv_rpc_read(&read, buf_view(&q->body), &o->rpc)) {
    err_nomem(&e);
    o->next = last;
    call_refuse(q->call, &e);
    return;
  }
  bool create = str_eq(o->rpc.method, STR("openenv/session/create")), close = str_eq(o->rpc.method, STR("openenv/session/close"));
  if (o->rpc.session_id.n && !o->of_session) {
    o->session = arena_printf(&o->arena, "sessions/%.*s", STR_ARG(o->rpc.session_id));
    o->by_cookie = false;
    if (!o->session || o->rpc.session_id.n > NAME_MAX_BYTES)
      o->session = "sessions/-"; // there is none
  }
  if (!o->rpc.valid)
    reply_at_once(q, JSONRPC_PARSE_ERROR, STR("Parse error"));
  else if (!o->rpc.method.n)
    reply_at_once(q, JSONRPC_INVALID_REQUEST, STR("Invalid request: method is required, a string"));
  else if (create || close)
    manage_session(q, create);
  else if (o->session[0])
    ask_for_tools(q);
  else
    ask_to_create(q, on_tools_session);
}

// --- the request -------------------------------------------------------------------------------------------------------------------------------

void http_openenv_close(struct http_request *q)
{
  struct http_openenv *o = q->openenv;
  if (!o)
    return;
  give_back(q);
  arena_free(&o->arena);
  free(o);
  q->openenv = NULL;
}

// The value of our cookie (RFC 6265, section 4.2.1), the first if there are several; "": there is none that could be a session's.
static struct str cookie_of(const struct call *c)
{
  struct str left = call_header(c, STR("cookie"));
  while (left.n) {
    struct str pair = str_cut(&left, ';');
    while (pair.n && pair.p[0] == ' ')
      pair = str_skip(pair, 1);
    if (!str_starts(pair, STR(COOKIE "=")))
      continue;
    struct str id = str_skip(pair, sizeof COOKIE);
    return id.n <= NAME_MAX_BYTES && !memchr(id.p, '/', id.n) ? id : STR("");
  }
  return STR("");
}

// The names that the path and the cookie give. False: out of memory.
static bool read_names(struct http_request *q, const struct call *c)
{
  struct http_openenv *o = q->openenv;
  struct str path = str_skip(q->path, sizeof "/v1/" - 1);
  const char *slash = memrchr(path.p, '/', path.n); // what the route ends in
  assert(slash);
  o->of_session = str_starts(path, STR("sessions/"));
  o->name = arena_dup(&o->arena, (struct str){path.p, (size_t)(slash - path.p)});
  struct str id = o->of_session ? STR("") : cookie_of(c);
  o->by_cookie = id.n > 0;
  o->session = o->of_session ? o->name : id.n ? arena_printf(&o->arena, "sessions/%.*s", STR_ARG(id)) : "";
  return o->name && o->session;
}

static void start(struct http_request *q, void (*begin)(struct http_request *q), bool document)
{
  struct call *c = http_call(q, &http_rest_front, CODEC_OPENENV, "http");
  struct err e;
  if (!c)
    return;
  struct http_openenv *o = q->openenv = calloc(1, sizeof *o);
  if (o) {
    arena_init(&o->arena, 4 * (size_t)q->r->config->max_message_bytes + 65536);
    o->document = document;
    o->rpc.id = STR("null");
  }
  if (!o || !read_names(q, c)) {
    err_nomem(&e);
    call_refuse(c, &e);
    return;
  }
  c->front = &front;
  o->next = last;
  if (q->body_too_large) {
    q->status = 413;
    err_set(&e, CODE_RESOURCE_EXHAUSTED, REASON_MESSAGE_TOO_LARGE, "the body is over %lld bytes (max_message_bytes)",
            (long long)q->r->config->max_message_bytes);
    call_refuse(c, &e);
  } else if (!http_takes_json(q, c)) {
    q->status = 415;
    err_set(&e, CODE_INVALID_ARGUMENT, REASON_MEDIA_TYPE, "the body's content type must be application/json");
    call_refuse(c, &e);
  } else {
    begin(q);
  }
}

void http_openenv_health(struct http_request *q)
{
  start(q, begin_health, false);
}

void http_openenv_schema(struct http_request *q)
{
  start(q, begin_document, false);
}

void http_openenv_metadata(struct http_request *q)
{
  start(q, begin_document, true);
}

void http_openenv_mcp(struct http_request *q)
{
  start(q, begin_mcp, false);
}

void http_openenv_reset(struct http_request *q)
{
  start(q, begin_reset, false);
}

void http_openenv_step(struct http_request *q)
{
  start(q, begin_step, false);
}

void http_openenv_state(struct http_request *q)
{
  start(q, begin_state, false);
}
