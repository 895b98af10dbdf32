// SPDX-License-Identifier: Apache-2.0
#include "reference/protocol.h"

#include <stdio.h>

#include "base/json.h"

// How a result is wrapped.
enum shape { SHAPE_WS, SHAPE_HTTP, SHAPE_HTTP_OLD };

void ref_protocol_free(struct ref_protocol *p)
{
  buf_free(&p->result.fields);
  buf_free(&p->result.metadata);
  buf_free(&p->errors);
}

// A reply half written for want of memory must not go out.
static void settle(struct ref_reply *reply, bool ok)
{
  if (!ok)
    reply->verdict = REF_DROP;
}

static struct ref_result *empty_result(struct ref_protocol *p)
{
  struct ref_result *r = &p->result;
  r->fields.n = r->metadata.n = 0;
  r->reward = 0;
  r->done = false;
  r->error = NULL;
  return r;
}

// --- results -------------------------------------------------------------------------------------------------------------------------------

// Puts a member `filler` at `at`, behind another member, so long that the whole has `size` bytes, if it is shorter.
static bool fill_up(struct buf *out, size_t at, size_t size)
{
  const struct str head = STR(",\"filler\":\"");
  if (out->n + head.n + 1 > size)
    return true;
  size_t room = size - out->n, tail = out->n - at;
  if (!buf_reserve(out, room))
    return false;
  memmove(out->p + at + room, out->p + at, tail);
  memcpy(out->p + at, head.p, head.n);
  memset(out->p + at + head.n, 'x', room - head.n - 1);
  out->p[at + room - 1] = '"';
  out->n = size;
  return true;
}

static bool put_metadata(struct buf *out, const struct ref_result *r)
{
  return buf_str(out, STR("\"metadata\":{")) && buf_str(out, buf_view(&r->metadata)) && buf_char(out, '}');
}

// `size`: the least the reply should have.
static bool put_result(struct buf *out, const struct ref_result *r, enum shape shape, size_t size)
{
  bool ok = shape != SHAPE_WS || buf_str(out, STR("{\"type\":\"observation\",\"data\":"));
  ok = ok && buf_str(out, STR("{\"observation\":{"));
  if (shape != SHAPE_HTTP_OLD)
    ok = ok && put_metadata(out, r) && buf_char(out, ',');
  ok = ok && buf_str(out, buf_view(&r->fields));
  size_t at = out->n;
  ok = ok && buf_str(out, STR("},\"reward\":")) && ref_json_double(out, r->reward) &&
       buf_str(out, r->done ? STR(",\"done\":true") : STR(",\"done\":false"));
  if (r->metadata.n && shape != SHAPE_HTTP_OLD)
    ok = ok && buf_char(out, ',') && put_metadata(out, r);
  else if (shape == SHAPE_HTTP)
    ok = ok && buf_str(out, STR(",\"metadata\":null"));
  ok = ok && buf_char(out, '}') && (shape != SHAPE_WS || buf_char(out, '}'));
  return ok && fill_up(out, at, size);
}

static enum shape http_shape(const struct ref_protocol *p)
{
  return p->options->dialect == REF_DIALECT_HTTP ? SHAPE_HTTP_OLD : SHAPE_HTTP;
}

// --- errors --------------------------------------------------------------------------------------------------------------------------------

// An error frame; `more` is further members with a comma before them.
static bool ws_error(struct ref_reply *reply, const char *code, struct str message, struct str more)
{
  struct buf *out = &reply->text;
  reply->delay_ms = 0;
  return buf_str(out, STR("{\"type\":\"error\",\"data\":{\"message\":")) && buf_json_string(out, message) &&
         buf_printf(out, ",\"code\":\"%s\"", code) && buf_str(out, more) && buf_str(out, STR("}}"));
}

static bool ws_invalid(struct ref_protocol *p, struct ref_reply *reply)
{
  struct buf *out = &reply->text;
  reply->delay_ms = 0;
  return buf_str(out, STR("{\"type\":\"error\",\"data\":{\"message\":\"Invalid message\",\"code\":\"VALIDATION_ERROR\",\"errors\":[")) &&
         buf_str(out, buf_view(&p->errors)) && buf_str(out, STR("]}}"));
}

static bool http_invalid(struct ref_protocol *p, struct ref_reply *reply)
{
  reply->status = 422;
  reply->delay_ms = 0;
  return buf_str(&reply->text, STR("{\"detail\":[")) && buf_str(&reply->text, buf_view(&p->errors)) && buf_str(&reply->text, STR("]}"));
}

// What the environment's refusal becomes. An `error` of NULL is want of memory.
static bool failed(struct ref_reply *reply, enum shape shape, const char *error)
{
  if (!error)
    return false;
  if (shape == SHAPE_WS)
    return ws_error(reply, "EXECUTION_ERROR", str_c(error), STR(""));
  reply->status = 500;
  reply->delay_ms = 0;
  return buf_str(&reply->text, STR("Internal Server Error"));
}

// --- reset and step, whatever the dialect --------------------------------------------------------------------------------------------------

static bool reset(struct ref_protocol *p, struct ref_env *env, const struct ref_reset *args, enum shape shape, struct ref_reply *reply)
{
  struct ref_result *r = empty_result(p);
  if (!ref_env_reset(env, args->has_seed ? &args->seed : NULL, args->episode_id, r))
    return failed(reply, shape, r->error);
  return put_result(&reply->text, r, shape, p->options->reply_bytes);
}

// What a fault makes of a step that has been carried out and whose reply is written.
static bool apply_fault(const struct ref_step *step, struct ref_reply *reply)
{
  switch (step->fault) {
  case REF_FAULT_GARBAGE:
    reply->text.n = 0;
    return buf_str(&reply->text, STR("<html>this is no JSON"));
  case REF_FAULT_BINARY:
    reply->verdict = REF_SEND_BINARY;
    break;
  case REF_FAULT_CLOSE:
    reply->verdict = REF_CLOSE;
    reply->code = step->code >= 0 ? step->code : 1011;
    break;
  case REF_FAULT_DROP:
    reply->verdict = REF_DROP;
    break;
  case REF_FAULT_HANG:
    reply->verdict = REF_HANG;
    break;
  case REF_FAULT_EXIT:
    reply->verdict = REF_EXIT;
    reply->code = step->code >= 0 ? step->code & 0xFF : 1;
    break;
  case REF_FAULT_DESYNC_EXTRA:
    reply->verdict = REF_SEND_TWICE;
    break;
  case REF_FAULT_NONE:
  case REF_FAULT_SLOW:
  case REF_FAULT_BIG:
  case REF_FAULT_ERROR:
  case REF_FAULT_VALIDATION:
    break;
  }
  return true;
}

static bool step(struct ref_protocol *p, struct ref_env *env, const struct ref_step *args, enum shape shape, struct ref_reply *reply)
{
  reply->delay_ms = args->ms ? args->ms : p->options->delay_ms;
  if (args->fault == REF_FAULT_ERROR)
    return failed(reply, shape, "the action asked for an error");
  struct ref_result *r = empty_result(p);
  if (!ref_env_step(env, &args->action, r))
    return failed(reply, shape, r->error);
  size_t size = args->fault == REF_FAULT_BIG ? args->bytes : p->options->reply_bytes;
  return put_result(&reply->text, r, shape, size) && apply_fault(args, reply);
}

// --- MCP: none of these environments has tools ---------------------------------------------------------------------------------------------

static bool rpc_error(struct buf *out, struct str id, int code, struct str text, struct str raw)
{
  return buf_str(out, STR("{\"jsonrpc\":\"2.0\",\"id\":")) && buf_str(out, id) && buf_printf(out, ",\"error\":{\"code\":%d,\"message\":\"", code) &&
         buf_str(out, text) && buf_str(out, raw) && buf_str(out, STR("\",\"data\":null}}"));
}

// Answers a JSON-RPC request, a valid JSON value.
static bool mcp(struct buf *out, struct str request)
{
  enum { VERSION, ID, METHOD };
  struct ref_member m[] = {[VERSION] = {.key = STR("\"jsonrpc\"")}, [ID] = {.key = STR("\"id\"")}, [METHOD] = {.key = STR("\"method\"")}};
  if (ref_type_of(request) == JSON_OBJECT && !ref_members(request, m, 3, NULL))
    return false;
  struct str id = m[ID].value.p ? m[ID].value : STR("null"), method = m[METHOD].value;
  bool valid = m[VERSION].value.p && str_eq(m[VERSION].value, STR("\"2.0\"")) && method.p && ref_type_of(method) == JSON_STRING;
  if (!valid)
    return rpc_error(out, STR("null"), -32600, STR("Invalid request: jsonrpc must be \\\"2.0\\\" and method a string"), STR(""));
  if (str_eq(method, STR("\"tools/list\"")) || str_eq(method, STR("\"tools/call\"")))
    return rpc_error(out, id, -32603, STR("Environment does not support MCP"), STR(""));
  return rpc_error(out, id, -32601, STR("Method not found: "), (struct str){method.p + 1, method.n - 2});
}

// --- WebSocket -----------------------------------------------------------------------------------------------------------------------------

static bool ws_reset(struct ref_protocol *p, struct ref_env *env, struct str data, struct ref_reply *reply)
{
  struct ref_reset args = {0};
  if (data.p && !ref_parse_reset(data, false, &args, &p->errors))
    return false;
  return p->errors.n ? ws_invalid(p, reply) : reset(p, env, &args, SHAPE_WS, reply);
}

static bool ws_step(struct ref_protocol *p, struct ref_env *env, struct str data, struct ref_reply *reply)
{
  struct ref_step args;
  if (!ref_parse_action(env->kind, p->options->faults, data, &args, &p->errors))
    return false;
  return p->errors.n ? ws_invalid(p, reply) : step(p, env, &args, SHAPE_WS, reply);
}

static bool ws_state(struct ref_protocol *p, struct ref_env *env, struct str data, struct ref_reply *reply)
{
  (void)p;
  (void)data;
  return buf_str(&reply->text, STR("{\"type\":\"state\",\"data\":")) && ref_env_state(env, &reply->text) && buf_char(&reply->text, '}');
}

static bool ws_close(struct ref_protocol *p, struct ref_env *env, struct str data, struct ref_reply *reply)
{
  (void)p;
  (void)env;
  (void)data;
  reply->verdict = REF_CLOSE;
  reply->code = 1000;
  return true;
}

static bool ws_mcp(struct ref_protocol *p, struct ref_env *env, struct str data, struct ref_reply *reply)
{
  (void)p;
  (void)env;
  return buf_str(&reply->text, STR("{\"type\":\"mcp\",\"data\":")) && mcp(&reply->text, data) && buf_char(&reply->text, '}');
}

static const struct ws_method {
  struct str type; // with its quotes
  enum { DATA_FORBIDDEN, DATA_OPTIONAL, DATA_REQUIRED } data;
  bool (*answer)(struct ref_protocol *p, struct ref_env *env, struct str data, struct ref_reply *reply);
} ws_methods[] = {
    {{"\"step\"", 6}, DATA_REQUIRED, ws_step},    {{"\"reset\"", 7}, DATA_OPTIONAL, ws_reset}, {{"\"state\"", 7}, DATA_FORBIDDEN, ws_state},
    {{"\"close\"", 7}, DATA_FORBIDDEN, ws_close}, {{"\"mcp\"", 5}, DATA_REQUIRED, ws_mcp},
};

static const struct ws_method *find_method(struct str type)
{
  for (size_t i = 0; i < sizeof ws_methods / sizeof *ws_methods; i++)
    if (type.p && str_eq(type, ws_methods[i].type))
      return &ws_methods[i];
  return NULL;
}

static bool unknown_type(struct str type, struct ref_reply *reply)
{
  bool string = type.p && ref_type_of(type) == JSON_STRING;
  struct str shown = !type.p ? STR("") : string ? (struct str){type.p + 1, type.n - 2} : type;
  struct buf text = {0};
  bool ok = buf_str(&text, STR("Unknown message type: ")) && (string ? json_unescape(shown, &text) : buf_str(&text, shown)) &&
            ws_error(reply, "UNKNOWN_TYPE", buf_view(&text), STR(""));
  buf_free(&text);
  return ok;
}

// Answers a message that is a JSON object.
static bool ws_object(struct ref_protocol *p, struct ref_env *env, struct str message, struct ref_reply *reply)
{
  struct ref_member m[] = {{.key = STR("\"type\"")}, {.key = STR("\"data\"")}};
  struct buf extra = {0};
  if (!ref_members(message, m, 2, &extra)) {
    buf_free(&extra);
    return false;
  }
  struct str data = m[1].value;
  const struct ws_method *method = find_method(m[0].value);
  bool ok = true;
  if (method && method->data == DATA_FORBIDDEN && data.p)
    ok = ref_error_add(&p->errors, "extra_forbidden", m[1].key, "Extra inputs are not permitted", data, STR(""));
  else if (method && method->data == DATA_REQUIRED && !data.p)
    ok = ref_error_missing(&p->errors, m[1].key, message);
  else if (method && data.p && ref_type_of(data) != JSON_OBJECT)
    ok = ref_error_dict(&p->errors, m[1].key, data);
  if (ok && extra.n)
    ok = (!p->errors.n || buf_char(&p->errors, ',')) && buf_str(&p->errors, buf_view(&extra));
  buf_free(&extra);
  if (!ok)
    return false;
  if (!method)
    return unknown_type(m[0].value, reply);
  return p->errors.n ? ws_invalid(p, reply) : method->answer(p, env, data, reply);
}

// What Python's json.loads made of anything else, and how the server fell over it.
static bool ws_no_object(enum json_type type, struct str message, struct ref_reply *reply)
{
  const char *name = "int";
  if (type == JSON_ARRAY)
    name = "list";
  else if (type == JSON_STRING)
    name = "str";
  else if (type == JSON_BOOL)
    name = "bool";
  else if (type == JSON_NULL)
    name = "NoneType";
  else if (memchr(message.p, '.', message.n) || memchr(message.p, 'e', message.n) || memchr(message.p, 'E', message.n))
    name = "float";
  char text[64];
  snprintf(text, sizeof text, "'%s' object has no attribute 'get'", name);
  reply->verdict = REF_SEND_CLOSE;
  return ws_error(reply, "SESSION_ERROR", str_c(text), STR(""));
}

static void start(struct ref_protocol *p, struct ref_reply *reply)
{
  p->errors.n = 0;
  reply->verdict = REF_SEND;
  reply->code = 1000;
  reply->status = 200;
  reply->delay_ms = 0;
  reply->text.n = 0;
}

void ref_ws_message(struct ref_protocol *p, struct ref_env *env, struct str message, struct ref_reply *reply)
{
  start(p, reply);
  struct json j;
  struct str value;
  json_init(&j, message, JSON_DEPTH_MAX);
  if (!json_skip(&j, &value) || !json_end(&j)) {
    char text[160];
    snprintf(text, sizeof text, "Invalid JSON: %s (char %zu)", j.problem ? j.problem : "syntax", (size_t)(j.p - j.start));
    settle(reply, ws_error(reply, "INVALID_JSON", str_c(text), STR("")));
    return;
  }
  enum json_type type = ref_type_of(value);
  settle(reply, type == JSON_OBJECT ? ws_object(p, env, value, reply) : ws_no_object(type, value, reply));
}

void ref_ws_binary(struct ref_reply *reply)
{
  reply->text.n = 0;
  reply->verdict = REF_SEND_CLOSE;
  reply->code = 1000;
  settle(reply, ws_error(reply, "SESSION_ERROR", STR("'text'"), STR("")));
}

void ref_ws_capacity(const struct ref_protocol *p, struct ref_reply *reply)
{
  reply->text.n = 0;
  reply->verdict = REF_SEND_CLOSE;
  reply->code = 1000;
  unsigned n = p->options->capacity;
  char text[128], more[96];
  snprintf(text, sizeof text, "Server at capacity: %u/%u sessions active. Cannot accept new connections.", n, n);
  snprintf(more, sizeof more, ",\"active_sessions\":%u,\"max_sessions\":%u", n, n);
  settle(reply, ws_error(reply, "CAPACITY_REACHED", str_c(text), str_c(more)));
}

// --- HTTP ----------------------------------------------------------------------------------------------------------------------------------

// The body as one JSON object; otherwise `errors` says what is wrong. `loc` in FastAPI's error is where the decoder stopped.
static bool body_object(struct str body, struct str *object, struct buf *errors)
{
  if (!body.n)
    return ref_error_missing(errors, STR("\"body\""), STR("null"));
  struct json j;
  json_init(&j, body, JSON_DEPTH_MAX);
  if (!json_skip(&j, object) || !json_end(&j)) {
    char loc[40];
    int n = snprintf(loc, sizeof loc, "\"body\",%zu", (size_t)(j.p - j.start));
    struct buf ctx = {0};
    bool ok = buf_str(&ctx, STR("{\"error\":")) && buf_json_string(&ctx, str_c(j.problem ? j.problem : "syntax")) && buf_char(&ctx, '}') &&
              ref_error_add(errors, "json_invalid", (struct str){loc, (size_t)n}, "JSON decode error", STR("{}"), buf_view(&ctx));
    buf_free(&ctx);
    return ok;
  }
  if (ref_type_of(*object) != JSON_OBJECT)
    return ref_error_add(errors, "model_attributes_type", STR("\"body\""), "Input should be a valid dictionary or object to extract fields from",
                         *object, STR(""));
  return true;
}

void ref_http_reset(struct ref_protocol *p, struct ref_env *env, struct str body, struct ref_reply *reply)
{
  start(p, reply);
  struct ref_reset args = {0};
  struct str object = STR("{}"); // no body is as good
  bool ok = (!body.n || body_object(body, &object, &p->errors)) && (p->errors.n || ref_parse_reset(object, true, &args, &p->errors));
  settle(reply, ok && (p->errors.n ? http_invalid(p, reply) : reset(p, env, &args, http_shape(p), reply)));
}

// The request's own fields; the action's are the environment's matter.
static bool check_step_body(struct str object, struct str *action, struct buf *errors)
{
  enum { ACTION, TIMEOUT, REQUEST_ID };
  struct ref_member m[] = {
      [ACTION] = {.key = STR("\"action\"")}, [TIMEOUT] = {.key = STR("\"timeout_s\"")}, [REQUEST_ID] = {.key = STR("\"request_id\"")}};
  if (!ref_members(object, m, 3, NULL))
    return false;
  *action = m[ACTION].value;
  struct str timeout = m[TIMEOUT].value, id = m[REQUEST_ID].value;
  bool ok = true;
  if (!action->p)
    ok = ref_error_missing(errors, STR("\"body\",\"action\""), object);
  else if (ref_type_of(*action) != JSON_OBJECT)
    ok = ref_error_dict(errors, STR("\"body\",\"action\""), *action);
  if (ok && timeout.p && ref_type_of(timeout) == JSON_NUMBER && !(json_double(timeout) > 0))
    ok = ref_error_add(errors, "greater_than", STR("\"body\",\"timeout_s\""), "Input should be greater than 0", timeout, STR("{\"gt\":0.0}"));
  else if (ok && timeout.p && ref_type_of(timeout) != JSON_NUMBER && ref_type_of(timeout) != JSON_NULL)
    ok = ref_error_add(errors, "float_type", STR("\"body\",\"timeout_s\""), "Input should be a valid number", timeout, STR(""));
  if (ok && id.p && ref_type_of(id) != JSON_STRING && ref_type_of(id) != JSON_NULL)
    ok = ref_error_add(errors, "string_type", STR("\"body\",\"request_id\""), "Input should be a valid string", id, STR(""));
  return ok;
}

void ref_http_step(struct ref_protocol *p, struct ref_env *env, struct str body, struct ref_reply *reply)
{
  start(p, reply);
  struct str object = {0}, action = {0};
  struct ref_step args;
  bool ok = body_object(body, &object, &p->errors) && (p->errors.n || check_step_body(object, &action, &p->errors)) &&
            (p->errors.n || ref_parse_action(env->kind, p->options->faults, action, &args, &p->errors));
  settle(reply, ok && (p->errors.n ? http_invalid(p, reply) : step(p, env, &args, http_shape(p), reply)));
}

void ref_http_state(struct ref_protocol *p, struct ref_env *env, struct str body, struct ref_reply *reply)
{
  (void)body;
  start(p, reply);
  settle(reply, ref_env_state(env, &reply->text));
}

void ref_http_mcp(struct ref_protocol *p, struct ref_env *env, struct str body, struct ref_reply *reply)
{
  (void)env;
  start(p, reply);
  struct json j;
  struct str request;
  json_init(&j, body, JSON_DEPTH_MAX);
  bool valid = json_skip(&j, &request) && json_end(&j);
  settle(reply, valid ? mcp(&reply->text, request) : rpc_error(&reply->text, STR("null"), -32700, STR("Parse error"), STR("")));
}

void ref_http_health(struct ref_protocol *p, struct ref_env *env, struct str body, struct ref_reply *reply)
{
  (void)env;
  (void)body;
  start(p, reply);
  reply->status = p->options->ready ? 200 : 503;
  settle(reply, buf_printf(&reply->text, "{\"status\":\"%s\"}", p->options->ready ? "healthy" : "unhealthy"));
}

void ref_http_schema(struct ref_protocol *p, struct ref_env *env, struct str body, struct ref_reply *reply)
{
  (void)env;
  (void)body;
  start(p, reply);
  const struct ref_env_kind *kind = p->options->kind;
  settle(reply, buf_printf(&reply->text, "{\"action\":%s,\"observation\":%s,\"state\":%s}", kind->action_schema, kind->observation_schema,
                           kind->state_schema));
}

void ref_http_metadata(struct ref_protocol *p, struct ref_env *env, struct str body, struct ref_reply *reply)
{
  (void)env;
  (void)body;
  start(p, reply);
  const struct ref_env_kind *kind = p->options->kind;
  settle(reply, buf_printf(&reply->text,
                           "{\"name\":\"%s\",\"description\":\"%s\",\"readme_content\":null,\"version\":\"1.0.0\",\"author\":null,"
                           "\"documentation_url\":null}",
                           kind->class_name, kind->description));
}
