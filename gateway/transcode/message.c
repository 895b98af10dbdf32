// SPDX-License-Identifier: Apache-2.0
#include "transcode/message.h"

#include <stdio.h>

#include "transcode/text.h"
#include "transcode/transcode.h"

// --- paths ---------------------------------------------------------------------------------------------------------------------------------

static size_t write_path(const struct path *at, char *out, size_t cap)
{
  if (!at)
    return 0;
  size_t n = write_path(at->up, out, cap);
  int more = snprintf(n < cap ? out + n : NULL, n < cap ? cap - n : 0, "%s%s", n ? "." : "", at->name);
  n += (size_t)more;
  if (at->index >= 0)
    n += (size_t)snprintf(n < cap ? out + n : NULL, n < cap ? cap - n : 0, "[%ld]", at->index);
  return n;
}

void path_text(const struct path *at, char *out, size_t cap)
{
  out[0] = '\0';
  write_path(at, out, cap);
}

bool path_err(const struct path *at, struct err *e, const char *reason, const char *fmt, ...)
{
  char field[sizeof e->field], message[512];
  path_text(at, field, sizeof field);
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(message, sizeof message, fmt, ap);
  va_end(ap);
  return err_field(e, reason, field, "%s%s%s", field, *field ? ": " : "", message);
}

// --- types ---------------------------------------------------------------------------------------------------------------------------------

enum kind message_kind(const ProtobufCMessageDescriptor *desc)
{
  static const struct {
    const char *name;
    enum kind kind;
  } kinds[] = {
      {"Any", KIND_ANY},
      {"Duration", KIND_DURATION},
      {"FieldMask", KIND_FIELD_MASK},
      {"ListValue", KIND_LIST_VALUE},
      {"Struct", KIND_STRUCT},
      {"Timestamp", KIND_TIMESTAMP},
      {"Value", KIND_VALUE},
      {"DoubleValue", KIND_WRAPPER},
      {"FloatValue", KIND_WRAPPER},
      {"Int64Value", KIND_WRAPPER},
      {"UInt64Value", KIND_WRAPPER},
      {"Int32Value", KIND_WRAPPER},
      {"UInt32Value", KIND_WRAPPER},
      {"BoolValue", KIND_WRAPPER},
      {"StringValue", KIND_WRAPPER},
      {"BytesValue", KIND_WRAPPER},
  };
  static const char google[] = "google.protobuf.";
  if (desc->name[0] != google[0]) // most are ours
    return strcmp(desc->short_name, "Payload") == 0 && strcmp(desc->name, "envgate.v1.Payload") == 0 ? KIND_PAYLOAD : KIND_PLAIN;
  if (strncmp(desc->name, google, sizeof google - 1) != 0)
    return KIND_PLAIN;
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (strcmp(desc->name + sizeof google - 1, kinds[i].name) == 0)
      return kinds[i].kind;
  return KIND_PLAIN;
}

static bool may_be_key(const ProtobufCFieldDescriptor *f)
{
  return f->id == 1 && strcmp(f->name, "key") == 0 && f->type != PROTOBUF_C_TYPE_FLOAT && f->type != PROTOBUF_C_TYPE_DOUBLE &&
         f->type != PROTOBUF_C_TYPE_BYTES && f->type != PROTOBUF_C_TYPE_ENUM && f->type != PROTOBUF_C_TYPE_MESSAGE;
}

static bool is_entry(const ProtobufCMessageDescriptor *desc)
{
  return desc->n_fields == 2 && str_ends(str_c(desc->name), STR("Entry")) && may_be_key(&desc->fields[0]) && desc->fields[1].id == 2 &&
         strcmp(desc->fields[1].name, "value") == 0;
}

bool field_is_map(const ProtobufCMessageDescriptor *parent, const ProtobufCFieldDescriptor *f)
{
  const ProtobufCMessageDescriptor *entry = field_message(f);
  if (f->label != PROTOBUF_C_LABEL_REPEATED || !entry || !is_entry(entry))
    return false;
  struct str name = str_c(entry->name), outer = str_c(parent->name);
  if (!str_starts(name, outer) || name.p[outer.n] != '.')
    return false;
  const char *type = name.p + outer.n + 1;
  bool capital = true;
  for (const char *p = f->name; *p; p++) {
    if (*p == '_') {
      capital = true;
      continue;
    }
    if (*type++ != (capital && *p >= 'a' && *p <= 'z' ? *p - 'a' + 'A' : *p))
      return false;
    capital = false;
  }
  return strcmp(type, "Entry") == 0;
}

int depth_inside(int depth, const ProtobufCMessageDescriptor *desc, bool entry)
{
  enum kind kind = message_kind(desc);
  return kind == KIND_PAYLOAD ? 0 : entry || kind == KIND_VALUE ? depth : depth + 1;
}

bool field_is_null_value(const ProtobufCFieldDescriptor *f)
{
  if (f->type != PROTOBUF_C_TYPE_ENUM)
    return false;
  const ProtobufCEnumDescriptor *type = f->descriptor;
  return strcmp(type->name, "google.protobuf.NullValue") == 0;
}

const ProtobufCFieldDescriptor *field_find(const ProtobufCMessageDescriptor *desc, struct str key)
{
  for (unsigned i = 0; i < desc->n_fields; i++)
    if (name_matches(key, desc->fields[i].name))
      return &desc->fields[i];
  return NULL;
}

// --- values --------------------------------------------------------------------------------------------------------------------------------

static bool is_pointer(const ProtobufCFieldDescriptor *f)
{
  return f->type == PROTOBUF_C_TYPE_STRING || f->type == PROTOBUF_C_TYPE_MESSAGE;
}

static bool is_oneof(const ProtobufCFieldDescriptor *f)
{
  return (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0;
}

bool field_has_presence(const ProtobufCFieldDescriptor *f)
{
  return is_oneof(f) || f->type == PROTOBUF_C_TYPE_MESSAGE || f->label == PROTOBUF_C_LABEL_OPTIONAL || f->label == PROTOBUF_C_LABEL_REQUIRED;
}

// Not the zero of its type. A double's negative zero is something.
static bool is_set(const ProtobufCFieldDescriptor *f, const void *value)
{
  static const char zero[8];
  if (f->type == PROTOBUF_C_TYPE_STRING) {
    const char *s = *(char *const *)value;
    return s && *s;
  }
  if (f->type == PROTOBUF_C_TYPE_MESSAGE)
    return *(void *const *)value != NULL;
  if (f->type == PROTOBUF_C_TYPE_BYTES)
    return ((const ProtobufCBinaryData *)value)->len > 0;
  return memcmp(value, zero, value_size(f->type)) != 0;
}

bool field_present(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
  if (is_oneof(f))
    return *(const uint32_t *)field_quantifier(m, f) == f->id;
  const void *value = field_value(m, f);
  switch (f->label) {
  case PROTOBUF_C_LABEL_REQUIRED:
    return true;
  case PROTOBUF_C_LABEL_OPTIONAL:
    return is_pointer(f) ? *(void *const *)value != f->default_value : *(const protobuf_c_boolean *)field_quantifier(m, f);
  case PROTOBUF_C_LABEL_REPEATED:
  case PROTOBUF_C_LABEL_NONE:
    break;
  }
  return is_set(f, value);
}

void field_mark(ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
  void *quantifier = (char *)m + f->quantifier_offset;
  if (is_oneof(f))
    *(uint32_t *)quantifier = f->id;
  else if (f->label == PROTOBUF_C_LABEL_OPTIONAL && !is_pointer(f))
    *(protobuf_c_boolean *)quantifier = 1;
}

// --- new --------------------------------------------------------------------------------------------------------------------------------

ProtobufCMessage *message_new(const ProtobufCMessageDescriptor *desc, struct arena *a)
{
  ProtobufCMessage *m = arena_alloc(a, desc->sizeof_message);
  if (m)
    protobuf_c_message_init(desc, m);
  return m;
}
