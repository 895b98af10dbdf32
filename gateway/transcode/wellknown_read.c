// SPDX-License-Identifier: Apache-2.0
// The messages that have a JSON form of their own, from JSON.
#include <envgate/v1/payload.pb-c.h>
#include <google/protobuf/any.pb-c.h>
#include <google/protobuf/duration.pb-c.h>
#include <google/protobuf/field_mask.pb-c.h>
#include <google/protobuf/struct.pb-c.h>
#include <google/protobuf/timestamp.pb-c.h>
#include <math.h>

#include "transcode/any.h"
#include "transcode/json_read.h"
#include "transcode/text.h"

static const char timestamp_words[] = "an RFC 3339 time of the years 1 to 9999, like \"2024-05-01T12:00:00Z\"";
static const char duration_words[] = "a duration of at most 315576000000 s, like \"1.5s\"";
static const char mask_words[] = "lowerCamelCase paths with commas between, like \"name,page.size\"";

// --- from strings --------------------------------------------------------------------------------------------------------------------------

// A path of a mask in snake_case. Each capital letter takes one byte more.
static char *mask_path(struct reader *r, const struct path *at, struct str camel)
{
  char *name = arena_alloc(r->a, camel.n * 2 + 1);
  if (!name) {
    err_nomem(r->e);
    return NULL;
  }
  size_t n = 0;
  for (size_t i = 0; i < camel.n; i++) {
    char c = camel.p[i];
    bool capital = c >= 'A' && c <= 'Z';
    if (!capital && !(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && c != '.') {
      read_expected(r, at, mask_words);
      return NULL;
    }
    if (capital)
      name[n++] = '_';
    name[n++] = capital ? (char)(c - 'A' + 'a') : c;
  }
  return name;
}

static bool mask_from_text(struct reader *r, const struct path *at, Google__Protobuf__FieldMask *mask, struct str text)
{
  if (!text.n)
    return true;
  size_t count = 1;
  for (size_t i = 0; i < text.n; i++)
    count += text.p[i] == ',';
  mask->paths = arena_alloc(r->a, count * sizeof(char *));
  if (!mask->paths)
    return err_nomem(r->e);
  while (mask->n_paths < count) {
    const char *comma = text.n ? memchr(text.p, ',', text.n) : NULL;
    struct str path = comma ? (struct str){text.p, (size_t)(comma - text.p)} : text;
    if (!path.n)
      return read_expected(r, at, mask_words);
    char *name = mask_path(r, at, path);
    if (!name)
      return false;
    mask->paths[mask->n_paths++] = name;
    text = str_skip(text, path.n + (comma ? 1 : 0));
  }
  return true;
}

bool message_from_text(struct reader *r, const struct path *at, ProtobufCMessage *m, struct str text)
{
  const ProtobufCFieldDescriptor *first = m->descriptor->fields;
  switch (message_kind(m->descriptor)) {
  case KIND_TIMESTAMP: {
    Google__Protobuf__Timestamp *t = (Google__Protobuf__Timestamp *)m;
    return timestamp_from_text(text, &t->seconds, &t->nanos) || read_expected(r, at, timestamp_words);
  }
  case KIND_DURATION: {
    Google__Protobuf__Duration *d = (Google__Protobuf__Duration *)m;
    return duration_from_text(text, &d->seconds, &d->nanos) || read_expected(r, at, duration_words);
  }
  case KIND_FIELD_MASK:
    return mask_from_text(r, at, (Google__Protobuf__FieldMask *)m, text);
  case KIND_WRAPPER:
    return scalar_from_text(r, at, first, text, field_slot(m, first));
  case KIND_PAYLOAD:
  case KIND_ANY:
  case KIND_LIST_VALUE:
  case KIND_STRUCT:
  case KIND_VALUE:
  case KIND_PLAIN:
    break;
  }
  return path_err(at, r->e, REASON_INVALID_REQUEST, "a message cannot be given as text");
}

static bool read_text_message(struct reader *r, const struct path *at, ProtobufCMessage *m, const char *words)
{
  struct str text;
  return read_string(r, at, words, &text) && message_from_text(r, at, m, text);
}

// --- google.protobuf.Value -----------------------------------------------------------------------------------------------------------------

static bool read_number_value(struct reader *r, const struct path *at, Google__Protobuf__Value *v)
{
  struct str number;
  if (!json_number(&r->j, &number))
    return read_failed(r, at);
  v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_NUMBER_VALUE;
  v->number_value = json_double(number);
  return isfinite(v->number_value) || read_expected(r, at, "a number in the range of a double");
}

static bool read_string_value(struct reader *r, const struct path *at, Google__Protobuf__Value *v)
{
  v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_STRING_VALUE;
  return read_value(r, at, protobuf_c_message_descriptor_get_field(v->base.descriptor, v->kind_case), &v->string_value);
}

static bool read_json_value(struct reader *r, const struct path *at, Google__Protobuf__Value *v)
{
  enum json_type type;
  bool flag;
  if (!json_peek(&r->j, &type))
    return read_failed(r, at);
  switch (type) {
  case JSON_NULL:
    v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_NULL_VALUE;
    return json_null(&r->j) || read_failed(r, at);
  case JSON_BOOL:
    if (!json_bool(&r->j, &flag))
      return read_failed(r, at);
    v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_BOOL_VALUE;
    v->bool_value = flag;
    return true;
  case JSON_NUMBER:
    return read_number_value(r, at, v);
  case JSON_STRING:
    return read_string_value(r, at, v);
  case JSON_ARRAY:
    v->list_value = (Google__Protobuf__ListValue *)message_new(&google__protobuf__list_value__descriptor, r->a);
    v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_LIST_VALUE;
    return v->list_value ? read_message(r, at, &v->list_value->base) : err_nomem(r->e);
  case JSON_OBJECT:
    break;
  }
  v->struct_value = (Google__Protobuf__Struct *)message_new(&google__protobuf__struct__descriptor, r->a);
  v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_STRUCT_VALUE;
  return v->struct_value ? read_message(r, at, &v->struct_value->base) : err_nomem(r->e);
}

// --- envgate.v1.Payload --------------------------------------------------------------------------------------------------------------------

static bool payload_set(struct reader *r, Envgate__V1__Payload *p, struct str text)
{
  p->form_case = ENVGATE__V1__PAYLOAD__FORM_JSON;
  p->json.data = (uint8_t *)arena_dup(r->a, text);
  p->json.len = text.n;
  return p->json.data || err_nomem(r->e);
}

// Takes the whole value as it is. Its depth is its own: it counts from here.
static bool read_payload(struct reader *r, const struct path *at, ProtobufCMessage *m)
{
  int outside = r->j.depth;
  struct str span;
  r->j.depth = 0;
  bool ok = read_span(r, at, &span);
  r->j.depth = outside;
  return ok && payload_set(r, (Envgate__V1__Payload *)m, span);
}

// What is between the braces of an object, without space around it. False when the text is no object.
static bool inside_object(struct str text, struct str *members)
{
  struct json j;
  json_init(&j, text, JSON_DEPTH_MAX);
  if (!json_enter_object(&j))
    return false;
  struct json first = j;
  struct str key;
  *members = (struct str){j.p, 0};
  if (json_next_key(&first, &key))
    members->n = (size_t)(text.p + text.n - 1 - j.p);
  return true;
}

bool payload_append(struct reader *r, const struct path *at, ProtobufCMessage *m, const ProtobufCFieldDescriptor *f, struct str members)
{
  Envgate__V1__Payload *p = *(Envgate__V1__Payload **)field_slot(m, f);
  if (!p) {
    p = (Envgate__V1__Payload *)message_new(&envgate__v1__payload__descriptor, r->a);
    if (!p)
      return err_nomem(r->e);
    *(Envgate__V1__Payload **)field_slot(m, f) = p;
  }
  struct str own = {"", 0};
  if (p->form_case == ENVGATE__V1__PAYLOAD__FORM_JSON && !inside_object((struct str){(char *)p->json.data, p->json.len}, &own))
    return read_expected(r, at, "an object, as there are further members for it");
  size_t room = own.n + members.n + 3;
  struct buf text = {.p = arena_alloc(r->a, room), .cap = room, .max = room};
  if (!text.p)
    return err_nomem(r->e);
  bool ok = buf_char(&text, '{') && buf_str(&text, own) && (!own.n || buf_char(&text, ',')) && buf_str(&text, members) && buf_char(&text, '}');
  return ok ? payload_set(r, p, buf_view(&text)) : err_nomem(r->e);
}

// --- google.protobuf.Any -------------------------------------------------------------------------------------------------------------------

// Looks ahead in an object for "@type", which may stand anywhere in it. `url` stays empty when it is not there; `empty`: nothing is.
static bool find_type(struct reader *r, const struct path *at, struct str *url, bool *empty)
{
  struct reader ahead = *r;
  struct str key;
  *url = (struct str){"", 0};
  *empty = true;
  if (!json_enter_object(&ahead.j))
    return read_failed(&ahead, at);
  while (json_next_key(&ahead.j, &key)) {
    *empty = false;
    if (json_raw_eq(key, STR("@type"))) {
      if (url->n)
        return path_err(at, r->e, REASON_INVALID_REQUEST, "\"@type\" is there twice");
      if (!read_string(&ahead, at, "a string as \"@type\"", url))
        return false;
    } else if (!json_skip(&ahead.j, NULL)) {
      return read_failed(&ahead, at);
    }
  }
  return !ahead.j.failed || read_failed(&ahead, at);
}

// {"@type": …, "value": …}: for the types whose JSON is no object of fields.
static bool read_any_value(struct reader *r, const struct path *at, ProtobufCMessage *m)
{
  struct str key;
  bool found = false;
  if (!json_enter_object(&r->j))
    return read_failed(r, at);
  while (json_next_key(&r->j, &key)) {
    if (json_raw_eq(key, STR("value")) && !found) {
      found = true;
      if (!read_message(r, at, m))
        return false;
    } else if (json_raw_eq(key, STR("@type")) || r->o->ignore_unknown) {
      if (!json_skip(&r->j, NULL))
        return read_failed(r, at);
    } else {
      return path_err(at, r->e, REASON_INVALID_REQUEST, "beside \"@type\" there may be \"value\" once and nothing else");
    }
  }
  if (r->j.failed)
    return read_failed(r, at);
  return found || path_err(at, r->e, REASON_INVALID_REQUEST, "\"value\" is missing");
}

static bool read_any(struct reader *r, const struct path *at, Google__Protobuf__Any *any)
{
  enum json_type type;
  if (!json_peek(&r->j, &type))
    return read_failed(r, at);
  if (type != JSON_OBJECT)
    return read_expected(r, at, "an object");
  struct str url;
  bool empty;
  if (!find_type(r, at, &url, &empty))
    return false;
  if (empty)
    return json_skip(&r->j, NULL) || read_failed(r, at);
  const ProtobufCMessageDescriptor *desc = any_type(r->o->types, url);
  if (!desc)
    return read_expected(r, at, "\"@type\" with the URL of a known message type");
  ProtobufCMessage *inner = message_new(desc, r->a);
  any->type_url = arena_dup(r->a, url);
  if (!inner || !any->type_url)
    return err_nomem(r->e);
  if (!(message_kind(desc) == KIND_PLAIN ? read_object(r, at, inner, true) : read_any_value(r, at, inner)))
    return false;
  any->value.len = protobuf_c_message_get_packed_size(inner);
  any->value.data = arena_alloc(r->a, any->value.len);
  if (!any->value.data)
    return err_nomem(r->e);
  protobuf_c_message_pack(inner, any->value.data);
  return true;
}

// -------------------------------------------------------------------------------------------------------------------------------------------

bool read_message(struct reader *r, const struct path *at, ProtobufCMessage *m)
{
  const ProtobufCFieldDescriptor *first = m->descriptor->fields;
  struct path here = {at, "", -1};
  switch (message_kind(m->descriptor)) {
  case KIND_PAYLOAD:
    return read_payload(r, at, m);
  case KIND_ANY:
    return read_any(r, at, (Google__Protobuf__Any *)m);
  case KIND_DURATION:
    return read_text_message(r, at, m, duration_words);
  case KIND_FIELD_MASK:
    return read_text_message(r, at, m, mask_words);
  case KIND_TIMESTAMP:
    return read_text_message(r, at, m, timestamp_words);
  case KIND_LIST_VALUE:
    here.name = first->name;
    return read_array(r, &here, m, first);
  case KIND_STRUCT:
    here.name = first->name;
    return read_map(r, &here, m, first);
  case KIND_VALUE:
    return read_json_value(r, at, (Google__Protobuf__Value *)m);
  case KIND_WRAPPER:
    return read_value(r, at, first, field_slot(m, first));
  case KIND_PLAIN:
    break;
  }
  return read_object(r, at, m, false);
}
