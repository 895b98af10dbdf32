// SPDX-License-Identifier: Apache-2.0
#include "worker/protocol.h"

#include <stdio.h>

#include "base/json.h"
#include "base/utf8.h"

enum {
  MAX_LOCATION = 64,   // of a validation error's path, and of each item
  MAX_TEXT_RAW = 8192, // of a worker's text that is decoded for a message; struct err cuts further
  CAPACITY_RETRY_MS = 1000,
  // An action that is refused may be echoed and validated in many places; the caller is told about so many.
  MAX_PROBLEMS = 4,
};

// --- requests --------------------------------------------------------------------------------------------------------------------------

static bool is_space(char c)
{
  return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

// What is between the braces of a valid JSON object, without space around it; "" for an empty one.
static struct str object_members(struct str object)
{
  while (object.n && is_space(object.p[0]))
    object = str_skip(object, 1);
  while (object.n && is_space(object.p[object.n - 1]))
    object.n--;
  if (object.n < 2)
    return STR("");
  struct str in = {object.p + 1, object.n - 2};
  while (in.n && is_space(in.p[0]))
    in = str_skip(in, 1);
  while (in.n && is_space(in.p[in.n - 1]))
    in.n--;
  return in;
}

// Seed and episode_id as members. They come behind the caller's options: of a key that is there twice, Python's json takes the last.
static bool add_reset_members(const struct worker_request *q, bool comma, struct buf *out)
{
  bool ok = true;
  if (q->has_seed) {
    ok = buf_printf(out, "%s\"seed\":%lld", comma ? "," : "", (long long)q->seed);
    comma = true;
  }
  if (ok && q->episode_id.n)
    ok = buf_printf(out, "%s\"episode_id\":", comma ? "," : "") && buf_json_string(out, q->episode_id);
  return ok;
}

int protocol_ws_request(const struct worker_request *q, struct buf *own, struct str pieces[WORKER_REQUEST_PIECES])
{
  if (q->words.p) {
    pieces[0] = q->words;
    return 1;
  }
  if (q->op == OP_STATE) {
    pieces[0] = STR("{\"type\":\"state\"}");
    return 1;
  }
  if (q->op == OP_STEP || q->op == OP_MCP) {
    pieces[0] = q->op == OP_STEP ? STR("{\"type\":\"step\",\"data\":") : STR("{\"type\":\"mcp\",\"data\":");
    pieces[1] = q->action;
    pieces[2] = STR("}");
    return 3;
  }
  struct str members = object_members(q->options);
  if (!add_reset_members(q, members.n > 0, own) || !buf_str(own, STR("}}")))
    return 0;
  pieces[0] = STR("{\"type\":\"reset\",\"data\":{");
  pieces[1] = members;
  pieces[2] = buf_view(own);
  return 3;
}

bool protocol_http_request(const struct worker_request *q, const char **method, const char **path, struct buf *body)
{
  *method = q->op == OP_STATE ? "GET" : "POST";
  switch (q->op) {
  case OP_STATE:
    *path = "/state";
    return true;
  case OP_STEP:
    *path = "/step";
    return buf_str(body, STR("{\"action\":")) && buf_str(body, q->action) && buf_char(body, '}');
  case OP_RESET:
    *path = "/reset";
    break;
  case OP_MCP: // not for this dialect
  case OP_OTHER:
    return false;
  }
  struct str members = object_members(q->options);
  return buf_char(body, '{') && buf_str(body, members) && add_reset_members(q, members.n > 0, body) && buf_char(body, '}');
}

// --- replies: one pass that notes where things are -------------------------------------------------------------------------------------

struct value {
  bool there;
  enum json_type type;
  struct str span; // the whole value
};

// The values of interest at a reply's level of "observation", of whatever type the reply is.
struct fields {
  struct value whole;
  struct value observation, reward, done, terminated, truncated, metadata, episode_id; // of an observation or state
  struct value meta_terminated, meta_truncated, meta_episode_id;                       // in "metadata"
  struct value message, code, errors, max_sessions;                                    // of an error
  struct value detail;                                                                 // of an HTTP error
};

static bool read_value(struct json *j, struct value *v)
{
  v->there = true;
  return json_peek(j, &v->type) && json_skip(j, &v->span);
}

static bool read_metadata(struct json *j, struct fields *f)
{
  f->meta_terminated = f->meta_truncated = f->meta_episode_id = (struct value){0}; // of an earlier "metadata"
  f->metadata.there = true;
  if (!json_peek(j, &f->metadata.type))
    return false;
  if (f->metadata.type != JSON_OBJECT)
    return json_skip(j, &f->metadata.span);
  struct str key, ignored;
  if (!json_enter_object(j))
    return false;
  const char *start = j->p - 1; // the brace
  while (json_next_key(j, &key)) {
    struct value *v = json_raw_eq(key, STR("terminated"))   ? &f->meta_terminated
                      : json_raw_eq(key, STR("truncated"))  ? &f->meta_truncated
                      : json_raw_eq(key, STR("episode_id")) ? &f->meta_episode_id
                                                            : NULL;
    if (!(v ? read_value(j, v) : json_skip(j, &ignored)))
      return false;
  }
  f->metadata.span = (struct str){start, (size_t)(j->p - start)};
  return !j->failed;
}

static struct value *find_field(struct fields *f, struct str key)
{
#define FIELD(name)                                          \
  {                                                          \
    {#name, sizeof #name - 1}, offsetof(struct fields, name) \
  }
  static const struct {
    struct str key;
    size_t at;
  } known[] = {FIELD(observation), FIELD(reward), FIELD(done),   FIELD(terminated), FIELD(truncated),   FIELD(episode_id),
               FIELD(message),     FIELD(code),   FIELD(errors), FIELD(detail),     FIELD(max_sessions)};
#undef FIELD
  bool escaped = key.n && memchr(key.p, '\\', key.n);
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (escaped ? json_raw_eq(key, known[i].key) : str_eq(key, known[i].key))
      return (struct value *)(void *)((char *)f + known[i].at);
  return NULL;
}

// Passes one value and, if it is an object, notes its fields.
static bool read_fields(struct json *j, struct fields *f)
{
  *f = (struct fields){.whole.there = true};
  if (!json_peek(j, &f->whole.type))
    return false;
  if (f->whole.type != JSON_OBJECT)
    return json_skip(j, &f->whole.span);
  struct str key, ignored;
  if (!json_enter_object(j))
    return false;
  const char *start = j->p - 1; // the brace
  while (json_next_key(j, &key)) {
    struct value *v = find_field(f, key);
    bool ok = v ? read_value(j, v) : json_raw_eq(key, STR("metadata")) ? read_metadata(j, f) : json_skip(j, &ignored);
    if (!ok)
      return false;
  }
  f->whole.span = (struct str){start, (size_t)(j->p - start)};
  return !j->failed;
}

// A WebSocket message: {"type": …, "data": …}.
static bool read_message(struct json *j, struct value *type, struct fields *data)
{
  struct str key, ignored;
  *type = (struct value){0};
  *data = (struct fields){0};
  if (!json_enter_object(j))
    return false;
  while (json_next_key(j, &key)) {
    bool ok = json_raw_eq(key, STR("type")) ? read_value(j, type) : json_raw_eq(key, STR("data")) ? read_fields(j, data) : json_skip(j, &ignored);
    if (!ok)
      return false;
  }
  return !j->failed && json_end(j);
}

// --- replies: what they mean -----------------------------------------------------------------------------------------------------------

static bool is_type(const struct value *v, enum json_type type)
{
  return v->there && v->type == type;
}

// The text between a string's quotes; "" for anything else.
static struct str raw_string(const struct value *v)
{
  return is_type(v, JSON_STRING) ? (struct str){v->span.p + 1, v->span.n - 2} : STR("");
}

static bool string_is(const struct value *v, struct str s)
{
  return is_type(v, JSON_STRING) && json_raw_eq(raw_string(v), s);
}

static void broken(struct worker_reply *reply, const char *what)
{
  reply->kind = REPLY_ERROR;
  reply->session_ended = true;
  reply->raw = STR("");
  err_set(&reply->err, CODE_ABORTED, REASON_WORKER_PROTOCOL, "the worker broke OpenEnv's protocol: %s", what);
}

static void read_flag(const struct value *v, const struct value *other, bool *has, bool *flag)
{
  const struct value *from = is_type(v, JSON_BOOL) ? v : other;
  *has = is_type(from, JSON_BOOL);
  *flag = *has && from->span.p[0] == 't';
}

static bool read_reward(const struct value *v, struct worker_reply *reply)
{
  reply->has_reward = v->there && v->type != JSON_NULL;
  if (!reply->has_reward)
    return true;
  if (v->type == JSON_NUMBER)
    reply->reward = json_double(v->span);
  else if (v->type == JSON_BOOL)
    reply->reward = v->span.p[0] == 't';
  else
    return false;
  return true;
}

static void read_mcp(const struct fields *f, struct worker_reply *reply)
{
  if (is_type(&f->whole, JSON_OBJECT))
    reply->kind = REPLY_MCP;
  else
    broken(reply, "a JSON-RPC response is no object");
}

static void find_episode_id(const struct fields *f, struct worker_reply *reply)
{
  reply->episode_id = raw_string(is_type(&f->episode_id, JSON_STRING) ? &f->episode_id : &f->meta_episode_id);
}

static void read_observation(const struct fields *f, struct worker_reply *reply)
{
  if (!f->observation.there) {
    broken(reply, "a reply has no observation");
    return;
  }
  if (!read_reward(&f->reward, reply)) {
    broken(reply, "a reward is neither number, boolean nor null");
    return;
  }
  if (f->done.there && f->done.type != JSON_BOOL && f->done.type != JSON_NULL) {
    broken(reply, "a reply's done is no boolean");
    return;
  }
  reply->kind = REPLY_OBSERVATION;
  reply->observation = f->observation.span;
  reply->metadata = is_type(&f->metadata, JSON_NULL) ? STR("") : f->metadata.span;
  reply->done = is_type(&f->done, JSON_BOOL) && f->done.span.p[0] == 't';
  read_flag(&f->terminated, &f->meta_terminated, &reply->has_terminated, &reply->terminated);
  read_flag(&f->truncated, &f->meta_truncated, &reply->has_truncated, &reply->truncated);
  find_episode_id(f, reply);
}

static void read_state(const struct fields *f, struct worker_reply *reply)
{
  if (!is_type(&f->whole, JSON_OBJECT)) {
    broken(reply, "a state is no object");
    return;
  }
  reply->kind = REPLY_STATE;
  reply->state = f->whole.span;
  find_episode_id(f, reply);
}

// --- errors ----------------------------------------------------------------------------------------------------------------------------

// Control characters become spaces (a NUL would end a C string), and broken UTF-8 question marks.
static void clean_text(char *p, size_t n)
{
  for (size_t i = 0; i < n;) {
    size_t len = utf8_length(p + i, n - i);
    unsigned char c = (unsigned char)p[i];
    if (!len)
      p[i] = '?';
    else if (c == 0x7F || (c < 0x20 && c != '\n' && c != '\t'))
      p[i] = ' ';
    i += len ? len : 1;
  }
}

// The front of a valid raw string, not cut inside a character, an escape or a pair of them.
static struct str raw_front(struct str raw, size_t max)
{
  if (raw.n <= max)
    return raw;
  size_t i = 0, whole = 0;
  while (i <= max) {
    whole = i;
    const char *p = raw.p + i;
    if (p[0] != '\\')
      i += utf8_length(p, raw.n - i);
    else if (p[1] != 'u')
      i += 2;
    else
      i += (p[2] | 0x20) == 'd' && strchr("89aAbB", p[3]) ? 12 : 6;
  }
  return (struct str){raw.p, whole};
}

// Appends the decoded text of a raw string; false when it can't be decoded.
static bool add_text(struct buf *out, struct str raw)
{
  size_t before = out->n;
  if (!json_unescape(raw_front(raw, MAX_TEXT_RAW), out)) {
    out->n = before;
    return false;
  }
  if (out->n > before)
    clean_text(out->p + before, out->n - before);
  return true;
}

// The items of a validation error's "loc" joined by dots: at most twice MAX_LOCATION. FastAPI's begin with "body" and "action", pydantic's
// with the action's own field.
static bool add_location(struct json *j, struct buf *out)
{
  size_t start = out->n;
  bool first = true;
  if (!json_enter_array(j))
    return false;
  while (json_next_item(j)) {
    enum json_type type;
    struct str item;
    if (!json_peek(j, &type) || !(type == JSON_STRING ? json_string(j, &item) : json_skip(j, &item)))
      return false;
    bool prefix = first && (json_raw_eq(item, STR("body")) || json_raw_eq(item, STR("data")) || json_raw_eq(item, STR("action")));
    if (prefix)
      continue;
    first = false;
    if (out->n - start >= MAX_LOCATION)
      continue;
    if (out->n > start)
      buf_char(out, '.');
    if (type == JSON_STRING)
      add_text(out, raw_front(item, MAX_LOCATION));
    else
      buf_str(out, (struct str){item.p, item.n < MAX_LOCATION ? item.n : MAX_LOCATION});
  }
  return !j->failed;
}

struct problem {
  struct buf where, what;
};

// One {"loc": […], "msg": "…"}.
static bool read_problem(struct json *j, struct problem *p)
{
  struct str key, ignored;
  if (!json_enter_object(j))
    return false;
  while (json_next_key(j, &key)) {
    struct value v;
    if (json_raw_eq(key, STR("loc"))) {
      enum json_type type;
      p->where.n = 0;
      if (!json_peek(j, &type) || !(type == JSON_ARRAY ? add_location(j, &p->where) : json_skip(j, &ignored)))
        return false;
    } else if (json_raw_eq(key, STR("msg"))) {
      p->what.n = 0;
      if (!read_value(j, &v))
        return false;
      add_text(&p->what, raw_string(&v));
    } else if (!json_skip(j, &ignored)) {
      return false;
    }
  }
  return !j->failed;
}

// The place in the caller's request: "action.move.0".
static void request_path(enum worker_op op, const struct buf *where, char *path, size_t size)
{
  const char *top = op == OP_STEP ? "action" : op == OP_RESET ? "options" : "";
  snprintf(path, size, "%s%s%.*s", top, top[0] && where->n ? "." : "", (int)where->n, where->n ? where->p : "");
}

// Fills `reply` from a list of validation errors (which is valid JSON): the first gives the field, the next ones are told in the message.
static bool read_problems(enum worker_op op, struct str list, int max_depth, struct worker_reply *reply)
{
  struct json j;
  json_init(&j, list, max_depth);
  struct buf text = {0};
  char field[sizeof reply->err.field] = "";
  int n = 0;
  bool ok = json_enter_array(&j);
  while (ok && json_next_item(&j) && n < MAX_PROBLEMS) {
    struct problem p = {0};
    ok = read_problem(&j, &p);
    if (ok) {
      char path[sizeof field];
      request_path(op, &p.where, path, sizeof path);
      if (n++ == 0)
        snprintf(field, sizeof field, "%s", path);
      buf_printf(&text, "%s%s: %.*s", n > 1 ? "; " : "", path, (int)p.what.n, p.what.n ? p.what.p : "");
    }
    buf_free(&p.where);
    buf_free(&p.what);
  }
  ok = ok && n > 0;
  if (ok)
    err_field(&reply->err, REASON_INVALID_ACTION, field, "the environment refused it: %.*s", (int)text.n, text.n ? text.p : "");
  buf_free(&text);
  return ok;
}

static void refused(enum worker_op op, const struct value *errors, struct str text, int max_depth, struct worker_reply *reply)
{
  reply->kind = REPLY_ERROR;
  if (is_type(errors, JSON_ARRAY) && read_problems(op, errors->span, max_depth, reply))
    return;
  const char *field = op == OP_STEP ? "action" : op == OP_RESET ? "options" : "";
  err_field(&reply->err, REASON_INVALID_ACTION, field, "the environment refused it: %.*s", STR_ARG(text));
}

static void worker_full(const struct fields *f, struct worker_reply *reply)
{
  double max = is_type(&f->max_sessions, JSON_NUMBER) ? json_double(f->max_sessions.span) : 0;
  reply->capacity = reply->session_ended = true;
  reply->max_sessions = max >= 1 && max <= 1e9 ? (int64_t)max : 0;
  err_set(&reply->err, CODE_RESOURCE_EXHAUSTED, REASON_NO_CAPACITY, "the worker takes no more sessions");
  reply->err.retry_after_ms = CAPACITY_RETRY_MS;
}

// Maps a worker's error code. Codes that are not known are taken for the environment's own; a worker that gives the session up closes it.
static void by_code(enum worker_op op, const struct fields *f, struct str text, int max_depth, struct worker_reply *reply)
{
  const struct value *code = &f->code;
  reply->kind = REPLY_ERROR;
  if (string_is(code, STR("CAPACITY_REACHED"))) {
    worker_full(f, reply);
  } else if (string_is(code, STR("VALIDATION_ERROR")) || string_is(code, STR("INVALID_JSON"))) {
    refused(op, &f->errors, text, max_depth, reply);
  } else if (string_is(code, STR("FACTORY_ERROR"))) {
    reply->session_ended = true;
    err_set(&reply->err, CODE_FAILED_PRECONDITION, REASON_ENV_FACTORY_FAILED, "the worker could not make the environment: %.*s", STR_ARG(text));
  } else if (string_is(code, STR("SESSION_ERROR"))) {
    reply->session_ended = true;
    err_set(&reply->err, CODE_ABORTED, REASON_SESSION_LOST, "the worker gave the session up: %.*s", STR_ARG(text));
  } else if (string_is(code, STR("UNKNOWN_TYPE")) && op == OP_MCP) {
    err_set(&reply->err, CODE_UNIMPLEMENTED, REASON_TOOLS_NOT_SUPPORTED, "the worker has no MCP: its OpenEnv is older than 0.2.3");
  } else if (string_is(code, STR("UNKNOWN_TYPE"))) {
    err_set(&reply->err, CODE_UNIMPLEMENTED, REASON_WORKER_PROTOCOL, "the worker does not know this request: %.*s", STR_ARG(text));
  } else {
    err_set(&reply->err, CODE_UNKNOWN, REASON_ENV_EXCEPTION, "the environment raised an exception: %.*s", STR_ARG(text));
  }
}

// Decodes a worker's text for a message; what can't be decoded is told as that.
static struct str message_text(const struct value *v, struct buf *space)
{
  if (!is_type(v, JSON_STRING))
    return STR("(no message)");
  if (!add_text(space, raw_string(v)))
    return STR("(its message is no valid text)");
  return space->n ? buf_view(space) : STR("(no message)");
}

// All but the error's text, which is long and means nothing while its code is OK.
static void begin(struct worker_reply *r)
{
  r->kind = REPLY_ERROR;
  r->raw = r->observation = r->metadata = r->state = r->episode_id = STR("");
  r->has_reward = r->done = r->has_terminated = r->terminated = r->has_truncated = r->truncated = false;
  r->session_ended = r->capacity = false;
  r->reward = 0;
  r->max_sessions = 0;
  err_clear(&r->err);
}

// The limit is meant for what an environment sends; around that are levels of the protocol's own.
static void init_json(struct json *j, struct str text, int max_depth, int own_levels)
{
  json_init(j, text, max_depth > JSON_DEPTH_MAX - own_levels ? JSON_DEPTH_MAX : max_depth + own_levels);
}

static void bad_json(const struct json *j, struct worker_reply *reply)
{
  char what[128];
  snprintf(what, sizeof what, "a reply is no valid JSON: %s at byte %zu", j->problem ? j->problem : "nothing", (size_t)(j->p - j->start));
  broken(reply, what);
}

void protocol_ws_reply(enum worker_op op, struct str message, int max_depth, struct worker_reply *reply)
{
  begin(reply);
  struct json j;
  struct value type;
  struct fields data;
  init_json(&j, message, max_depth, 2);
  if (!read_message(&j, &type, &data)) {
    bad_json(&j, reply);
    return;
  }
  reply->raw = data.whole.span;
  if (string_is(&type, STR("error"))) {
    struct buf space = {0};
    by_code(op, &data, message_text(&data.message, &space), max_depth, reply);
    buf_free(&space);
  } else if (op == OP_OTHER) {
    reply->kind = REPLY_OTHER;
  } else if (op == OP_STATE && string_is(&type, STR("state"))) {
    read_state(&data, reply);
  } else if (op == OP_MCP && string_is(&type, STR("mcp"))) {
    read_mcp(&data, reply);
  } else if ((op == OP_RESET || op == OP_STEP) && string_is(&type, STR("observation"))) {
    read_observation(&data, reply);
  } else {
    broken(reply, "a reply is of another type than the request");
  }
}

// --- HTTP ------------------------------------------------------------------------------------------------------------------------------

// An error's body as text: FastAPI's {"detail": "…"}, else the body itself.
static struct str body_text(const struct fields *f, struct str body, struct buf *space)
{
  if (is_type(&f->detail, JSON_STRING))
    return message_text(&f->detail, space);
  size_t n = body.n < MAX_TEXT_RAW ? body.n : MAX_TEXT_RAW;
  if (!n || !buf_add(space, body.p, n))
    return STR("(no message)");
  clean_text(space->p, space->n);
  return buf_view(space);
}

static void http_error(enum worker_op op, int status, struct str body, int max_depth, struct worker_reply *reply)
{
  struct json j;
  struct fields f;
  init_json(&j, body, max_depth, 1);
  if (!read_fields(&j, &f) || !json_end(&j))
    f = (struct fields){0}; // plain text
  struct buf space = {0};
  struct str text = body_text(&f, body, &space);
  if (status == 400 || status == 422) {
    refused(op, &f.detail, text, max_depth, reply);
  } else if (status >= 500) {
    reply->kind = REPLY_ERROR;
    err_set(&reply->err, CODE_UNKNOWN, REASON_ENV_EXCEPTION, "the environment raised an exception (HTTP status %d): %.*s", status, STR_ARG(text));
  } else {
    char what[64];
    snprintf(what, sizeof what, "it answered with HTTP status %d", status);
    broken(reply, what);
  }
  buf_free(&space);
}

void protocol_http_reply(enum worker_op op, int status, struct str body, int max_depth, struct worker_reply *reply)
{
  begin(reply);
  reply->raw = body;
  if (status != 200) {
    http_error(op, status, body, max_depth, reply);
    return;
  }
  struct json j;
  struct fields f;
  init_json(&j, body, max_depth, 1);
  if (!read_fields(&j, &f) || !json_end(&j))
    bad_json(&j, reply);
  else if (op == OP_STATE)
    read_state(&f, reply);
  else
    read_observation(&f, reply);
}
