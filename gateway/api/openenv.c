// SPDX-License-Identifier: Apache-2.0
#include "api/openenv.h"

#include <stdio.h>

#include "api/payload.h"
#include "base/json.h"

// --- what is wrong with a body, as FastAPI says it -----------------------------------------------------------------------------------------

// Behind loc's "body" comes `place`, a JSON string or number; "": nothing. `context` is a further member with its comma, or "".
static bool refuse_with(struct openenv_read *r, const char *type, const char *place, const char *msg, struct str input, const char *context)
{
  struct buf text = {0};
  bool ok = buf_printf(&text, "[{\"type\":\"%s\",\"loc\":[\"body\"%s%s],\"msg\":\"%s\",\"input\":", type, place[0] ? "," : "", place, msg) &&
            buf_str(&text, input) && buf_printf(&text, "%s}]", context);
  const char *copy = ok ? arena_dup(r->arena, buf_view(&text)) : NULL;
  r->problem = (struct str){copy, copy ? text.n : 0};
  buf_free(&text);
  return false;
}

static bool refuse(struct openenv_read *r, const char *type, const char *place, const char *msg, struct str input)
{
  return refuse_with(r, type, place, msg, input, "");
}

static bool is_space(char c)
{
  return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

// Checks that it is an object, and takes the space around it away.
static bool check_object(struct openenv_read *r, struct str *body)
{
  enum json_type type;
  struct json j;
  r->problem = STR("");
  while (body->n && is_space(body->p[0]))
    *body = str_skip(*body, 1);
  json_init(&j, *body, r->max_depth);
  if (!json_peek(&j, &type) || !json_skip(&j, body) || !json_end(&j)) {
    char at[32];
    snprintf(at, sizeof at, "%zu", (size_t)(j.p - j.start));
    return refuse(r, "json_invalid", at, j.too_deep ? "JSON nests too deep" : "JSON decode error", STR("{}"));
  }
  if (type != JSON_OBJECT)
    return refuse(r, "model_attributes_type", "", "Input should be a valid dictionary or object to extract fields from", *body);
  return true;
}

// --- values of a valid object ----------------------------------------------------------------------------------------------------------------

struct member {
  struct str name, value; // the value's span; "": it is not there
};

// Finds members, the last of a name; `others` (may be NULL) gets the rest as an object.
static bool read_members(struct str object, struct member *members, size_t n, struct buf *others)
{
  struct json j;
  struct str key, value;
  bool ok = !others || buf_char(others, '{');
  json_init(&j, object, JSON_DEPTH_MAX);
  json_enter_object(&j);
  while (ok && json_next_key(&j, &key) && json_skip(&j, &value)) {
    size_t i = 0;
    while (i < n && !json_raw_eq(key, members[i].name))
      i++;
    if (i < n)
      members[i].value = value;
    else if (others)
      ok = (others->n == 1 || buf_char(others, ',')) && buf_char(others, '"') && buf_str(others, key) && buf_str(others, STR("\":")) &&
           buf_str(others, value);
  }
  return ok && (!others || buf_char(others, '}'));
}

static bool begins(struct str value, char c)
{
  return value.n && value.p[0] == c;
}

static bool is_number(struct str value)
{
  return begins(value, '-') || (value.n && value.p[0] >= '0' && value.p[0] <= '9');
}

// Not there, or null.
static bool is_none(struct str value)
{
  return !value.n || begins(value, 'n');
}

// A JSON string's text in the arena, with a NUL behind it. False: it is no text without NUL, or out of memory.
static bool text_of(struct str value, struct arena *a, struct str *text)
{
  struct buf b = {0};
  bool ok = begins(value, '"') && json_unescape((struct str){value.p + 1, value.n - 2}, &b) && !(b.n && memchr(b.p, 0, b.n));
  const char *copy = ok ? arena_dup(a, buf_view(&b)) : NULL;
  *text = (struct str){copy, b.n};
  buf_free(&b);
  return copy != NULL;
}

// A string of at most `max` bytes for a message's field.
static bool read_text(struct openenv_read *r, struct str value, const char *place, size_t max, char **to)
{
  struct str text;
  if (is_none(value))
    return true;
  if (!text_of(value, r->arena, &text))
    return refuse(r, "string_type", place, "Input should be a valid string", value);
  if (text.n > max)
    return refuse(r, "string_too_long", place, "The string is too long", value);
  *to = unconst(text.p);
  return true;
}

// A whole number from 0 on that an int64 holds.
static bool read_seed(struct str value, int64_t *seed)
{
  *seed = 0;
  for (size_t i = 0; i < value.n; i++) {
    if (value.p[i] < '0' || value.p[i] > '9' || *seed > (INT64_MAX - 9) / 10)
      return false;
    *seed = *seed * 10 + (value.p[i] - '0');
  }
  return value.n > 0;
}

// --- bodies ------------------------------------------------------------------------------------------------------------------------------------

// In the arena. False: out of memory.
static bool json_payload(struct openenv_read *r, struct str json, Envgate__V1__Payload **slot)
{
  Envgate__V1__Payload *p = arena_alloc(r->arena, sizeof *p);
  if (!p)
    return false;
  envgate__v1__payload__init(p);
  p->form_case = ENVGATE__V1__PAYLOAD__FORM_JSON;
  p->json = (ProtobufCBinaryData){json.n, (uint8_t *)unconst(json.p)};
  *slot = p;
  return true;
}

bool openenv_reset_read(struct openenv_read *r, struct str body, Envgate__V1__ResetRequest *q)
{
  struct member m[] = {{STR("seed"), {0}}, {STR("episode_id"), {0}}};
  struct buf others = {0};
  envgate__v1__reset_request__init(q);
  if (!body.n)
    return true;
  if (!check_object(r, &body))
    return false;
  const char *options = read_members(body, m, 2, &others) ? arena_dup(r->arena, buf_view(&others)) : NULL;
  bool ok = options && json_payload(r, (struct str){options, others.n}, &q->options);
  buf_free(&others);
  if (!ok)
    return false;
  if (!is_none(m[0].value)) {
    q->_seed_case = ENVGATE__V1__RESET_REQUEST___SEED_SEED;
    if (!read_seed(m[0].value, &q->seed))
      return refuse(r, "int_type", "\"seed\"", "Input should be a valid integer from 0 on", m[0].value);
  }
  return read_text(r, m[1].value, "\"episode_id\"", EPISODE_ID_MAX, &q->episode_id);
}

bool openenv_step_read(struct openenv_read *r, struct str body, Envgate__V1__StepRequest *q)
{
  struct member m[] = {{STR("action"), {0}}, {STR("timeout_s"), {0}}, {STR("request_id"), {0}}};
  envgate__v1__step_request__init(q);
  if (!check_object(r, &body))
    return false;
  read_members(body, m, sizeof m / sizeof *m, NULL);
  if (!m[0].value.n)
    return refuse(r, "missing", "\"action\"", "Field required", body);
  if (!begins(m[0].value, '{'))
    return refuse(r, "dict_type", "\"action\"", "Input should be a valid dictionary", m[0].value);
  if (!is_none(m[1].value)) {
    if (!is_number(m[1].value))
      return refuse(r, "float_type", "\"timeout_s\"", "Input should be a valid number", m[1].value);
    q->timeout_s = json_double(m[1].value);
    if (!(q->timeout_s > 0))
      return refuse_with(r, "greater_than", "\"timeout_s\"", "Input should be greater than 0", m[1].value, ",\"ctx\":{\"gt\":0.0}");
  }
  return json_payload(r, m[0].value, &q->action) && read_text(r, m[2].value, "\"request_id\"", REQUEST_ID_MAX, &q->request_id);
}

bool openenv_rpc_read(struct openenv_read *r, struct str body, struct openenv_rpc *q)
{
  struct member m[] = {{STR("id"), {0}}, {STR("method"), {0}}, {STR("params"), {0}}}, session = {STR("session_id"), {0}};
  *q = (struct openenv_rpc){.id = STR("null")};
  if (!check_object(r, &body))
    return r->problem.n > 0;
  q->valid = true;
  read_members(body, m, sizeof m / sizeof *m, NULL);
  if (begins(m[2].value, '{'))
    read_members(m[2].value, &session, 1, NULL);
  if (begins(m[0].value, '"') || is_number(m[0].value))
    q->id = m[0].value;
  // What is no text is none.
  if (!text_of(m[1].value, r->arena, &q->method))
    q->method = STR("");
  if (!text_of(session.value, r->arena, &q->session_id))
    q->session_id = STR("");
  return true;
}

// --- answers -----------------------------------------------------------------------------------------------------------------------------------

bool openenv_rpc_error(const struct openenv_rpc *q, int code, struct str message, const char *reason, struct buf *out)
{
  return buf_str(out, STR("{\"jsonrpc\":\"2.0\",\"id\":")) && buf_str(out, q->id) && buf_printf(out, ",\"error\":{\"code\":%d,\"message\":", code) &&
         buf_json_string(out, message) &&
         (reason ? buf_printf(out, ",\"data\":{\"reason\":\"%s\"}}}", reason) : buf_str(out, STR(",\"data\":null}}")));
}

bool openenv_rpc_session(const struct openenv_rpc *q, struct str id, struct str more, struct buf *out)
{
  return buf_str(out, STR("{\"jsonrpc\":\"2.0\",\"id\":")) && buf_str(out, q->id) && buf_str(out, STR(",\"result\":{\"session_id\":")) &&
         buf_json_string(out, id) && buf_str(out, more) && buf_str(out, STR("}}"));
}

// The worker's list of what is wrong: a WebSocket error's "errors", or an HTTP error's "detail".
static struct str problems(const struct outcome *o)
{
  struct member m[] = {{STR("errors"), {0}}, {STR("detail"), {0}}};
  enum json_type type;
  if (o->err->reason != REASON_INVALID_ACTION || !json_check(o->raw, JSON_DEPTH_MAX, "", &type, NULL) || type != JSON_OBJECT)
    return STR("");
  read_members(o->raw, m, 2, NULL);
  return m[0].value.n ? m[0].value : m[1].value;
}

void openenv_finish(struct call *c, const struct outcome *o, const struct err *e)
{
  if (e) {
    rpc_finish_bytes(c, STR(""), e);
    return;
  }
  call_lend(c, o->bytes);
  rpc_finish_bytes(c, o->err ? problems(o) : o->raw, o->err);
}
