// SPDX-License-Identifier: Apache-2.0
#include "api/mcp.h"

#include "api/openenv.h"

// A call's piece of work, in its arena.
struct mcp_call {
  struct waiter waiter;
  struct call *call;
  Envgate__V1__PayloadFormat format;
};

static const char *session_name(const struct call *c)
{
  const void *q = c->request;
  if (c->method->input == &envgate__v1__call_tool_request__descriptor)
    return ((const Envgate__V1__CallToolRequest *)q)->session;
  return ((const Envgate__V1__ListToolsRequest *)q)->session;
}

int mcp_route(const struct call *c)
{
  return reactor_of_name(c->home, session_name(c));
}

// --- a worker's JSON-RPC response, which is known to be a valid JSON object ----------------------------------------------------------------

// The values of members, by name; a key that is there twice has its last. What is not there stays "".
struct member {
  struct str name;
  struct str value; // its span
};

static void read_members(struct str object, struct member *members, size_t n)
{
  struct json j;
  struct str key, value;
  json_init(&j, object, JSON_DEPTH_MAX);
  if (!object.n || !json_enter_object(&j))
    return;
  while (json_next_key(&j, &key) && json_skip(&j, &value))
    for (size_t i = 0; i < n; i++)
      if (json_raw_eq(key, members[i].name))
        members[i].value = value;
}

// A string's text in the arena; "" for what is none. NULL: out of memory.
static const char *text_of(struct str value, struct arena *a)
{
  if (!value.n || value.p[0] != '"')
    return "";
  struct buf text = {0};
  const char *copy = json_unescape((struct str){value.p + 1, value.n - 2}, &text) && !(text.n && memchr(text.p, 0, text.n)) ? NULL : "";
  if (!copy)
    copy = arena_dup(a, buf_view(&text));
  buf_free(&text);
  return copy;
}

// Whether a value begins so, which tells its type.
static bool begins(struct str value, char c)
{
  return value.n && value.p[0] == c;
}

static bool is(struct str value, const char *json)
{
  return str_eq(value, str_c(json));
}

// What a JSON-RPC error means. Workers have no code for an unknown tool or for having none, so their words must do; whatever is not known is TOOL_FAILED.
static bool read_error(struct str error, struct arena *a, struct err *e)
{
  struct member m[] = {{STR("code"), {0}}, {STR("message"), {0}}};
  read_members(error, m, sizeof m / sizeof *m);
  double code = m[0].value.n && (m[0].value.p[0] == '-' || (m[0].value.p[0] >= '0' && m[0].value.p[0] <= '9')) ? json_double(m[0].value) : 0;
  const char *text = text_of(m[1].value, a);
  if (!text)
    return err_nomem(e);
  struct str words = str_c(text);
  if (str_starts(words, STR("Environment does not support MCP")) || str_starts(words, STR("MCP server not available")))
    err_set(e, CODE_UNIMPLEMENTED, REASON_TOOLS_NOT_SUPPORTED, "the environment has no tools");
  else if (str_starts(words, STR("Unknown tool")) || str_starts(words, STR("Tool not found")))
    err_set(e, CODE_NOT_FOUND, REASON_TOOL_NOT_FOUND, "the environment has no such tool (%.*s); ListTools names those it has", STR_ARG(words));
  else if (code <= JSONRPC_INVALID_PARAMS && code >= JSONRPC_INVALID_PARAMS)
    err_set(e, CODE_INVALID_ARGUMENT, REASON_TOOL_FAILED, "the tool does not take the arguments: %.*s", STR_ARG(words));
  else
    err_set(e, CODE_UNKNOWN, REASON_TOOL_FAILED, "the tool's call failed: %.*s", STR_ARG(words));
  e->jsonrpc_code = code >= INT32_MIN && code <= INT32_MAX ? (int32_t)code : 0;
  return false;
}

// The result of a response. False: `e`.
static bool read_response(struct str response, struct arena *a, struct str *result, struct err *e)
{
  struct member m[] = {{STR("result"), {0}}, {STR("error"), {0}}};
  read_members(response, m, sizeof m / sizeof *m);
  if (m[1].value.n && !is(m[1].value, "null"))
    return read_error(m[1].value, a, e);
  *result = m[0].value;
  return result->n || err_set(e, CODE_INTERNAL, REASON_WORKER_PROTOCOL, "the worker's JSON-RPC response has neither a result nor an error");
}

// --- ListTools ---------------------------------------------------------------------------------------------------------------------------

static bool tool_fill(const struct payload_scope *scope, Envgate__V1__PayloadFormat format, struct str object, Envgate__V1__Tool *tool, struct err *e)
{
  struct member m[] = {{STR("name"), {0}}, {STR("description"), {0}}, {STR("inputSchema"), {0}}, {STR("input_schema"), {0}}};
  read_members(object, m, sizeof m / sizeof *m);
  envgate__v1__tool__init(tool);
  tool->name = unconst(text_of(m[0].value, scope->arena));
  tool->description = unconst(text_of(m[1].value, scope->arena));
  Envgate__V1__Payload *schema = arena_alloc(scope->arena, sizeof *schema);
  if (!tool->name || !tool->description || !schema)
    return err_nomem(e);
  struct str json = m[2].value.n ? m[2].value : m[3].value;
  return payload_write(scope, is(json, "null") ? STR("") : json, format, schema, &tool->input_schema, e);
}

static bool tools_fill(const struct payload_scope *scope, Envgate__V1__PayloadFormat format, struct str result, Envgate__V1__ListToolsResponse *reply,
                       struct err *e)
{
  struct member m[] = {{STR("tools"), {0}}};
  if (begins(result, '{'))
    read_members(result, m, 1);
  struct str tools = m[0].value, tool;
  if (!begins(tools, '['))
    return err_set(e, CODE_INTERNAL, REASON_WORKER_PROTOCOL, "the worker's list of tools is none");
  struct json j;
  size_t n = 0;
  json_init(&j, tools, JSON_DEPTH_MAX);
  for (json_enter_array(&j); json_next_item(&j) && json_skip(&j, &tool);)
    n++;
  Envgate__V1__Tool *at = arena_alloc(scope->arena, (n + 1) * sizeof *at);
  reply->tools = arena_alloc(scope->arena, (n + 1) * sizeof(Envgate__V1__Tool *));
  if (!at || !reply->tools)
    return err_nomem(e);
  json_init(&j, tools, JSON_DEPTH_MAX);
  for (json_enter_array(&j); json_next_item(&j) && json_skip(&j, &tool);) {
    if (!begins(tool, '{'))
      return err_set(e, CODE_INTERNAL, REASON_WORKER_PROTOCOL, "the worker's list of tools has something else in it");
    reply->tools[reply->n_tools] = &at[reply->n_tools];
    if (!tool_fill(scope, format, tool, &at[reply->n_tools++], e))
      return false;
  }
  return true;
}

static void reply_tools(struct mcp_call *mc, struct str response)
{
  struct call *c = mc->call;
  struct payload_scope scope = payload_scope(c);
  Envgate__V1__ListToolsResponse reply;
  envgate__v1__list_tools_response__init(&reply);
  reply.session = unconst(session_name(c));
  struct err e;
  struct str result = {0};
  if (read_response(response, scope.arena, &result, &e) && tools_fill(&scope, mc->format, result, &reply, &e))
    rpc_finish(c, &reply.base, NULL);
  else
    fail(c, &e);
}

// --- CallTool ----------------------------------------------------------------------------------------------------------------------------

// MCP's isError, FastMCP's is_error, or the error of a CallToolObservation.
static bool is_error(struct str result)
{
  struct member m[] = {{STR("isError"), {0}}, {STR("is_error"), {0}}, {STR("tool_name"), {0}}, {STR("error"), {0}}};
  if (!begins(result, '{'))
    return false;
  read_members(result, m, sizeof m / sizeof *m);
  return is(m[0].value, "true") || is(m[1].value, "true") || (m[2].value.n && m[3].value.n && !is(m[3].value, "null"));
}

bool call_tool_reply_fill(struct call_tool_reply *reply, const struct payload_scope *scope, Envgate__V1__PayloadFormat format, const char *session,
                          struct str response, struct err *e)
{
  struct str result = {0};
  envgate__v1__call_tool_response__init(&reply->response);
  if (!read_response(response, scope->arena, &result, e))
    return false;
  reply->response.session = unconst(session);
  reply->response.is_error = is_error(result);
  return payload_write(scope, result, format, &reply->result, &reply->response.result, e);
}

static void reply_call(struct mcp_call *mc, const struct outcome *o)
{
  struct call *c = mc->call;
  struct payload_scope scope = payload_scope(c);
  struct call_tool_reply reply;
  struct err e;
  call_lend(c, o->bytes);
  if (call_tool_reply_fill(&reply, &scope, mc->format, session_name(c), o->raw, &e))
    rpc_finish(c, &reply.response.base, NULL);
  else
    fail(c, &e);
}

static void on_done(struct waiter *w, const struct outcome *o, const struct err *e)
{
  struct mcp_call *mc = CONTAINER_OF(w, struct mcp_call, waiter);
  if (mc->call->codec == CODEC_OPENENV)
    openenv_finish(mc->call, o, e);
  else if (e || o->err)
    fail(mc->call, e ? e : o->err);
  else if (mc->call->method->input == &envgate__v1__call_tool_request__descriptor)
    reply_call(mc, o);
  else
    reply_tools(mc, o->raw);
}

// --- requests ----------------------------------------------------------------------------------------------------------------------------

void mcp_cancel(struct call *c, struct err *e)
{
  struct mcp_call *mc = c->state;
  enum session_left left = session_leave(&mc->waiter);
  if (e->code == CODE_DEADLINE_EXCEEDED)
    step_overdue(left, mc->waiter.request_id.n > 0, e);
}

// The call's session and its memory; NULL: the call has been ended.
static struct mcp_call *begin(struct call *c, struct session **s)
{
  *s = call_session(c, session_name(c), "session");
  struct mcp_call *mc = *s ? arena_alloc(&c->arena, sizeof *mc) : NULL;
  if (*s && !mc) {
    struct err e;
    err_nomem(&e);
    fail(c, &e);
  }
  if (mc)
    mc->call = c;
  return mc;
}

static void submit(struct mcp_call *mc, struct session *s, Envgate__V1__PayloadFormat format)
{
  struct call *c = mc->call;
  mc->format = payload_format_choose(format, session_payload_format(s));
  mc->waiter.request.op = OP_MCP;
  mc->waiter.done = on_done;
  mc->waiter.flow = c->flow;
  mc->waiter.flow_key = c->flow_key;
  c->state = mc;
  session_submit(s, &mc->waiter);
}

// A caller that speaks JSON-RPC itself: its words go to the worker, and the worker's to it.
static bool by_words(struct mcp_call *mc, struct session *s)
{
  if (mc->call->codec != CODEC_OPENENV)
    return false;
  mc->waiter.request.action = mc->call->words;
  submit(mc, s, ENVGATE__V1__PAYLOAD_FORMAT__PAYLOAD_FORMAT_UNSPECIFIED);
  return true;
}

void list_tools_start(struct call *c)
{
  const Envgate__V1__ListToolsRequest *q = (const void *)c->request;
  struct session *s;
  struct mcp_call *mc = begin(c, &s);
  struct err e;
  if (!mc || by_words(mc, s))
    return;
  if (!payload_format_check(q->payload_format, &e) || !timeout_apply(c, q->timeout_s, &e)) {
    fail(c, &e);
    return;
  }
  mc->waiter.request.action = STR("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/list\",\"params\":{}}");
  submit(mc, s, q->payload_format);
}

bool call_tool_read(const struct payload_scope *scope, const Envgate__V1__CallToolRequest *q, struct waiter *w, struct err *e)
{
  struct str arguments;
  enum json_type type;
  w->request.op = OP_MCP;
  w->request_id = str_c(q->request_id);
  if (!q->tool[0])
    return err_field(e, REASON_INVALID_REQUEST, "tool", "tool is required: the name of one of ListTools");
  if (!payload_read(scope, q->arguments, "arguments", &arguments, &type, e) || !payload_format_check(q->payload_format, e) ||
      !request_id_check(w->request_id, e) || !timeout_check(q->timeout_s, e))
    return false;
  if (arguments.n && type != JSON_OBJECT)
    return err_field(e, REASON_INVALID_REQUEST, "arguments", "arguments must be a JSON object");
  struct buf text = {0};
  char *copy = NULL;
  if (buf_str(&text, STR("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":")) &&
      buf_json_string(&text, str_c(q->tool)) && buf_str(&text, STR(",\"arguments\":")) && buf_str(&text, arguments.n ? arguments : STR("{}")) &&
      buf_str(&text, STR("}}")))
    copy = arena_dup(scope->arena, buf_view(&text));
  w->request.action = (struct str){copy, text.n};
  buf_free(&text);
  return copy || err_nomem(e);
}

void call_tool_start(struct call *c)
{
  const Envgate__V1__CallToolRequest *q = (const void *)c->request;
  struct session *s;
  struct mcp_call *mc = begin(c, &s);
  struct err e;
  if (!mc || by_words(mc, s))
    return;
  struct payload_scope scope = payload_scope(c);
  if (call_tool_read(&scope, q, &mc->waiter, &e) && timeout_apply(c, q->timeout_s, &e))
    submit(mc, s, q->payload_format);
  else
    fail(c, &e);
}
