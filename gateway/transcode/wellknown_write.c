// SPDX-License-Identifier: Apache-2.0
// The messages that have a JSON form of their own, as JSON.
#include <envgate/v1/payload.pb-c.h>
#include <google/protobuf/any.pb-c.h>
#include <google/protobuf/duration.pb-c.h>
#include <google/protobuf/field_mask.pb-c.h>
#include <google/protobuf/struct.pb-c.h>
#include <google/protobuf/timestamp.pb-c.h>
#include <math.h>

#include "base/json.h"
#include "transcode/any.h"
#include "transcode/json_write.h"
#include "transcode/tensors.h"
#include "transcode/text.h"

static bool write_timestamp(struct writer *w, const struct path *at, const ProtobufCMessage *m)
{
  const Google__Protobuf__Timestamp *t = (const Google__Protobuf__Timestamp *)m;
  char text[TEXT_MAX];
  size_t n = timestamp_text(t->seconds, t->nanos, text);
  if (!n)
    return path_err(at, w->e, REASON_INVALID_REQUEST, "a timestamp must lie in the years 1 to 9999, with nanos from 0 to 999999999");
  return write_quoted(w, text, n);
}

static bool write_duration(struct writer *w, const struct path *at, const ProtobufCMessage *m)
{
  const Google__Protobuf__Duration *d = (const Google__Protobuf__Duration *)m;
  char text[TEXT_MAX];
  size_t n = duration_text(d->seconds, d->nanos, text);
  if (!n)
    return path_err(at, w->e, REASON_INVALID_REQUEST,
                    "a duration must be within 315576000000 s either way, with nanos of the same sign, below a second");
  return write_quoted(w, text, n);
}

// One path of a mask in lowerCamelCase. False where the way back would not lead to the same name.
static bool write_mask_path(struct writer *w, const struct path *at, const char *name)
{
  char *to = buf_reserve(w->out, strlen(name) + 1);
  if (!to)
    return write_full(w, strlen(name) + 1);
  size_t n = 0;
  for (const char *p = name; *p; p++) {
    bool letter_behind = p[1] >= 'a' && p[1] <= 'z';
    bool fine = *p == '_' ? letter_behind : (*p >= 'a' && *p <= 'z') || (*p >= '0' && *p <= '9') || *p == '.';
    if (!fine)
      return path_err(at, w->e, REASON_INVALID_REQUEST, "a path of a field mask must be of lower_case names to have a JSON form");
    to[n++] = *p == '_' ? (char)(*++p - 'a' + 'A') : *p;
  }
  w->out->n += n;
  return true;
}

static bool write_field_mask(struct writer *w, const struct path *at, const ProtobufCMessage *m)
{
  const Google__Protobuf__FieldMask *mask = (const Google__Protobuf__FieldMask *)m;
  if (!write_text(w, STR("\"")))
    return false;
  for (size_t i = 0; i < mask->n_paths; i++)
    if ((i && !write_text(w, STR(","))) || !write_mask_path(w, at, mask->paths[i]))
      return false;
  return write_text(w, STR("\""));
}

static bool write_json_value(struct writer *w, const struct path *at, const ProtobufCMessage *m)
{
  const Google__Protobuf__Value *v = (const Google__Protobuf__Value *)m;
  switch (v->kind_case) {
  case GOOGLE__PROTOBUF__VALUE__KIND_NUMBER_VALUE:
    if (!isfinite(v->number_value))
      return path_err(at, w->e, REASON_INVALID_REQUEST, "a google.protobuf.Value must be a finite number to have a JSON form");
    return write_double(w, v->number_value);
  case GOOGLE__PROTOBUF__VALUE__KIND_STRING_VALUE:
    return write_string(w, str_c(v->string_value));
  case GOOGLE__PROTOBUF__VALUE__KIND_BOOL_VALUE:
    return write_text(w, v->bool_value ? STR("true") : STR("false"));
  case GOOGLE__PROTOBUF__VALUE__KIND_STRUCT_VALUE:
    return v->struct_value ? write_message(w, at, &v->struct_value->base) : write_text(w, STR("{}"));
  case GOOGLE__PROTOBUF__VALUE__KIND_LIST_VALUE:
    return v->list_value ? write_message(w, at, &v->list_value->base) : write_text(w, STR("[]"));
  case GOOGLE__PROTOBUF__VALUE__KIND_NULL_VALUE:
  case GOOGLE__PROTOBUF__VALUE__KIND__NOT_SET:
  default:
    return write_text(w, STR("null"));
  }
}

static bool write_list(struct writer *w, const struct path *at, const ProtobufCMessage *m)
{
  const Google__Protobuf__ListValue *list = (const Google__Protobuf__ListValue *)m;
  struct path here = {at, "values", -1};
  for (size_t i = 0; i < list->n_values; i++) {
    here.index = (long)i;
    if (!write_text(w, i ? STR(",") : STR("[")) || !write_message(w, &here, &list->values[i]->base))
      return false;
  }
  return write_text(w, list->n_values ? STR("]") : STR("[]"));
}

static bool write_struct(struct writer *w, const struct path *at, const ProtobufCMessage *m)
{
  const ProtobufCFieldDescriptor *fields = &m->descriptor->fields[0];
  struct path here = {at, fields->name, -1};
  return write_map(w, &here, m, fields);
}

static bool write_tensors(struct writer *w, const struct path *at, const Envgate__V1__Tensors *t)
{
  char field[sizeof w->e->field];
  path_text(at, field, sizeof field);
  const struct tensor_writer *tensors = tensor_writer_new(t, w->o->max_depth, field, NULL, &w->scratch, w->e);
  return tensors && tensor_writer_put(tensors, 0, w->out, w->e);
}

static bool write_payload(struct writer *w, const struct path *at, const ProtobufCMessage *m)
{
  const Envgate__V1__Payload *p = (const Envgate__V1__Payload *)m;
  if (p->form_case == ENVGATE__V1__PAYLOAD__FORM_JSON) {
    struct str text = {(const char *)p->json.data, p->json.len};
    if (w->o->payloads_checked)
      return (w->o->splices && splices_add(w->o->splices, w->out->n, text)) || write_text(w, text);
    char field[sizeof w->e->field];
    path_text(at, field, sizeof field);
    return json_check(text, w->o->max_depth, field, NULL, w->e) && write_text(w, text);
  }
  if (p->form_case == ENVGATE__V1__PAYLOAD__FORM_TENSORS && p->tensors)
    return write_tensors(w, at, p->tensors);
  if (p->form_case == ENVGATE__V1__PAYLOAD__FORM_VALUE && p->value)
    return write_message(w, at, &p->value->base);
  return write_text(w, STR("null"));
}

bool payload_is_unset(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
  if (f->type != PROTOBUF_C_TYPE_MESSAGE || message_kind(f->descriptor) != KIND_PAYLOAD)
    return false;
  const Envgate__V1__Payload *p = *(Envgate__V1__Payload *const *)field_value(m, f);
  return !p || p->form_case == ENVGATE__V1__PAYLOAD__FORM__NOT_SET;
}

static bool write_any(struct writer *w, const struct path *at, const ProtobufCMessage *m)
{
  const Google__Protobuf__Any *any = (const Google__Protobuf__Any *)m;
  if (!str_c(any->type_url).n && !any->value.len)
    return write_text(w, STR("{}"));
  const ProtobufCMessageDescriptor *desc = any_type(w->o->types, str_c(any->type_url));
  if (!desc)
    return path_err(at, w->e, REASON_INVALID_REQUEST, "no such message type is known");
  ProtobufCMessage *inner = proto_decode(desc, (struct str){(const char *)any->value.data, any->value.len}, w->o->max_depth, &w->scratch, w->e);
  if (!inner || !write_text(w, STR("{\"@type\":")) || !write_string(w, str_c(any->type_url)))
    return false;
  bool ok = message_kind(desc) == KIND_PLAIN ? write_members(w, at, inner, false) : write_text(w, STR(",\"value\":")) && write_message(w, at, inner);
  return ok && write_text(w, STR("}"));
}

static bool write_kind(struct writer *w, const struct path *at, const ProtobufCMessage *m, enum kind kind)
{
  switch (kind) {
  case KIND_PAYLOAD:
    return write_payload(w, at, m);
  case KIND_ANY:
    return write_any(w, at, m);
  case KIND_DURATION:
    return write_duration(w, at, m);
  case KIND_FIELD_MASK:
    return write_field_mask(w, at, m);
  case KIND_LIST_VALUE:
    return write_list(w, at, m);
  case KIND_STRUCT:
    return write_struct(w, at, m);
  case KIND_TIMESTAMP:
    return write_timestamp(w, at, m);
  case KIND_VALUE:
    return write_json_value(w, at, m);
  case KIND_WRAPPER:
    return write_value(w, at, &m->descriptor->fields[0], field_value(m, &m->descriptor->fields[0]));
  case KIND_PLAIN:
    break;
  }
  return write_text(w, STR("{")) && write_members(w, at, m, true) && write_text(w, STR("}"));
}

bool write_message(struct writer *w, const struct path *at, const ProtobufCMessage *m)
{
  int outside = w->depth;
  w->depth = depth_inside(outside, m->descriptor, false);
  if (w->depth > w->o->max_depth)
    return path_err(at, w->e, REASON_JSON_TOO_DEEP, "the message nests deeper than %d levels", w->o->max_depth);
  bool ok = write_kind(w, at, m, message_kind(m->descriptor));
  w->depth = outside;
  return ok;
}
