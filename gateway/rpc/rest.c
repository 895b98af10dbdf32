// SPDX-License-Identifier: Apache-2.0
#include "rpc/rest.h"

#include "base/percent.h"
#include "base/utf8.h"
#include "transcode/message.h"

// Our replies are flat but for payloads, which were checked when they came in.
enum { REPLY_DEPTH = 1024 };

// --- percent-encoding ----------------------------------------------------------------------------------------------------------------------

// Decodes `text` into the arena; it ends in NUL there. `field` is for errors.
static bool decode_text(struct str text, struct percent_decoding how, const char *field, struct arena *a, struct str *out, struct err *e)
{
  char *to = arena_alloc(a, text.n + 1);
  if (!to)
    return err_nomem(e);
  size_t n;
  if (!percent_decode(text, how, to, &n))
    return err_field(e, REASON_INVALID_REQUEST, field, "%s: \"%%\" must be followed by two hexadecimal digits; a \"%%\" itself is %%25", field);
  if (memchr(to, '\0', n) || !utf8_valid(to, n))
    return err_field(e, REASON_INVALID_REQUEST, field, "%s: must be UTF-8 text without NUL when it is decoded", field);
  *out = (struct str){to, n};
  return true;
}

// --- fields --------------------------------------------------------------------------------------------------------------------------------

// Whether the singular field at a dotted path is set. False for what is repeated or not there.
static bool path_is_set(const ProtobufCMessage *m, const char *path)
{
  while (m) {
    char name[64];
    size_t n = strcspn(path, ".");
    if (n >= sizeof name)
      return false;
    memcpy(name, path, n);
    name[n] = '\0';
    const ProtobufCFieldDescriptor *f = protobuf_c_message_descriptor_get_field_by_name(m->descriptor, name);
    if (!f || f->label == PROTOBUF_C_LABEL_REPEATED || !field_present(m, f))
      return false;
    if (!path[n])
      return true;
    if (f->type != PROTOBUF_C_TYPE_MESSAGE)
      return false;
    m = *(ProtobufCMessage *const *)(const void *)((const char *)m + f->offset);
    path += n + 1;
  }
  return false;
}

// A parameter's name as the .proto has it: "pageSize" → "page_size", for both are taken. In the arena; NULL when out of memory.
static const char *snake_case(struct str name, struct arena *a)
{
  char *out = arena_alloc(a, 2 * name.n + 1);
  if (!out)
    return NULL;
  size_t n = 0;
  for (size_t i = 0; i < name.n; i++) {
    char c = name.p[i];
    if (c >= 'A' && c <= 'Z') {
      out[n++] = '_';
      c = (char)(c - 'A' + 'a');
    }
    out[n++] = c;
  }
  return out;
}

// --- the request ---------------------------------------------------------------------------------------------------------------------------

// The field that takes unknown members of the body (see rest.h), or NULL.
static const char *extras_field(const ProtobufCMessageDescriptor *input)
{
  const ProtobufCFieldDescriptor *f = protobuf_c_message_descriptor_get_field_by_name(input, "options");
  if (!f || f->type != PROTOBUF_C_TYPE_MESSAGE || f->label == PROTOBUF_C_LABEL_REPEATED)
    return NULL;
  const ProtobufCMessageDescriptor *type = f->descriptor;
  return strcmp(type->name, "envgate.v1.Payload") == 0 ? f->name : NULL;
}

static ProtobufCMessage *from_body(const struct rest_match *match, struct str body, int max_depth, struct arena *a, struct err *e)
{
  const struct rpc_method *method = match->method;
  struct transcode_options o = {.max_depth = max_depth, .types = &match->api->types};
  if (method->http_body && strcmp(method->http_body, "*") == 0) {
    o.extras_field = extras_field(method->input);
    return json_decode(method->input, body.n ? body : STR("{}"), &o, a, e);
  }
  ProtobufCMessage *m = message_new(method->input, a);
  if (!m) {
    err_nomem(e);
    return NULL;
  }
  if (!body.n)
    return m;
  if (!method->http_body) {
    err_set(e, CODE_INVALID_ARGUMENT, REASON_INVALID_REQUEST, "%s %s takes no body", method->http_verb, method->http_path);
    return NULL;
  }
  const ProtobufCFieldDescriptor *f = protobuf_c_message_descriptor_get_field_by_name(method->input, method->http_body);
  return json_decode_field(m, f, body, &o, a, e) ? m : NULL;
}

static bool set_parameter(ProtobufCMessage *m, struct str pair, struct arena *a, struct err *e)
{
  const char *equals = memchr(pair.p, '=', pair.n);
  struct str name = {pair.p, equals ? (size_t)(equals - pair.p) : pair.n};
  struct str value = equals ? str_skip(pair, name.n + 1) : STR("");
  struct percent_decoding how = {.plus_is_space = true};
  if (!decode_text(name, how, "query", a, &name, e))
    return false;
  const char *field = snake_case(name, a);
  if (!field)
    return err_nomem(e);
  if (path_is_set(m, field))
    return err_field(e, REASON_INVALID_REQUEST, field, "%s: is given twice", field);
  return decode_text(value, how, field, a, &value, e) && text_decode_field(m, str_c(field), value, a, e);
}

static bool from_query(ProtobufCMessage *m, struct str query, struct arena *a, struct err *e)
{
  while (query.n) {
    const char *amp = memchr(query.p, '&', query.n);
    struct str pair = {query.p, amp ? (size_t)(amp - query.p) : query.n};
    if (pair.n && !set_parameter(m, pair, a, e))
      return false;
    query = str_skip(query, pair.n + (amp ? 1 : 0));
  }
  return true;
}

static bool from_path(ProtobufCMessage *m, const struct rest_match *match, struct arena *a, struct err *e)
{
  for (int i = 0; i < match->vars; i++) {
    const char *field = arena_dup(a, match->var[i].field);
    if (!field)
      return err_nomem(e);
    if (path_is_set(m, field))
      return err_field(e, REASON_INVALID_REQUEST, field, "%s: is given by the path; leave it out of the body and the query", field);
    struct str text = {0};
    if (!decode_text(match->var[i].text, (struct percent_decoding){.keep_slash = !match->var[i].whole}, field, a, &text, e) ||
        !text_decode_field(m, str_c(field), text, a, e))
      return false;
  }
  return true;
}

ProtobufCMessage *rest_request(const struct rest_match *m, struct str query, struct str body, int max_depth, struct arena *a, struct err *e)
{
  ProtobufCMessage *request = from_body(m, body, max_depth, a, e);
  if (!request || !from_query(request, query, a, e) || !from_path(request, m, a, e))
    return NULL;
  return request;
}

// --- the reply -----------------------------------------------------------------------------------------------------------------------------

bool rest_reply(const struct rpc_api *api, const struct rpc_method *method, const ProtobufCMessage *reply, struct splices *splices, struct buf *out,
                struct err *e)
{
  const struct transcode_options o = {
      .max_depth = REPLY_DEPTH, .types = &api->types, .snake_case = true, .emit_defaults = true, .payloads_checked = true, .splices = splices};
  if (!method || !method->http_response_body)
    return json_encode(reply, &o, out, e);
  const ProtobufCFieldDescriptor *f = protobuf_c_message_descriptor_get_field_by_name(reply->descriptor, method->http_response_body);
  return json_encode_field(reply, f, &o, out, e);
}
