// SPDX-License-Identifier: Apache-2.0
// Messages as proto3 JSON.
#include <math.h>

#include "base/json.h"
#include "transcode/json_write.h"
#include "transcode/map_keys.h"
#include "transcode/text.h"

bool write_full(struct writer *w, size_t more)
{
  const struct buf *out = w->out;
  if (out->max && more > out->max - out->n)
    return err_set(w->e, CODE_RESOURCE_EXHAUSTED, REASON_MESSAGE_TOO_LARGE, "the message is over the limit of %zu bytes", out->max);
  return err_nomem(w->e);
}

bool write_text(struct writer *w, struct str s)
{
  return buf_str(w->out, s) || write_full(w, s.n);
}

bool write_string(struct writer *w, struct str s)
{
  return buf_json_string(w->out, s) || write_full(w, s.n + 2);
}

// A value that text.h has printed, with quotes or without.
static bool write_short(struct writer *w, bool quoted, const char *text, size_t n)
{
  char *to = buf_reserve(w->out, n + 2);
  if (!to)
    return write_full(w, n + 2);
  if (quoted)
    *to++ = '"';
  memcpy(to, text, n);
  if (quoted)
    to[n] = '"';
  w->out->n += n + (quoted ? 2 : 0);
  return true;
}

bool write_quoted(struct writer *w, const char *text, size_t n)
{
  return write_short(w, true, text, n);
}

// --- scalars -------------------------------------------------------------------------------------------------------------------------------

bool write_double(struct writer *w, double v)
{
  char text[TEXT_MAX];
  if (isnan(v))
    return write_text(w, STR("\"NaN\""));
  if (isinf(v))
    return write_text(w, v < 0 ? STR("\"-Infinity\"") : STR("\"Infinity\""));
  return write_short(w, false, text, double_text(v, text));
}

static bool write_float(struct writer *w, float v)
{
  char text[TEXT_MAX];
  return isfinite(v) ? write_short(w, false, text, float_text(v, text)) : write_double(w, (double)v);
}

static bool write_int(struct writer *w, int64_t v, bool quoted)
{
  char text[TEXT_MAX];
  return write_short(w, quoted, text, int_text(v, text));
}

static bool write_uint(struct writer *w, uint64_t v, bool quoted)
{
  char text[TEXT_MAX];
  return write_short(w, quoted, text, uint_text(v, text));
}

static bool write_enum(struct writer *w, const ProtobufCFieldDescriptor *f, int v)
{
  if (field_is_null_value(f))
    return write_text(w, STR("null"));
  const ProtobufCEnumValue *value = protobuf_c_enum_descriptor_get_value(f->descriptor, v);
  return value ? write_quoted(w, value->name, strlen(value->name)) : write_int(w, v, false);
}

static bool write_bytes(struct writer *w, const ProtobufCBinaryData *bytes)
{
  size_t n = base64_length(bytes->len);
  char *to = buf_reserve(w->out, n + 2);
  if (!to)
    return write_full(w, n + 2);
  to[0] = '"';
  base64_encode(bytes->data, bytes->len, to + 1);
  to[n + 1] = '"';
  w->out->n += n + 2;
  return true;
}

// `key`: as the key of a map, where every type is in quotes.
static bool write_scalar(struct writer *w, const ProtobufCFieldDescriptor *f, const void *value, bool key)
{
  switch (f->type) {
  case PROTOBUF_C_TYPE_INT32:
  case PROTOBUF_C_TYPE_SINT32:
  case PROTOBUF_C_TYPE_SFIXED32:
    return write_int(w, *(const int32_t *)value, key);
  case PROTOBUF_C_TYPE_INT64:
  case PROTOBUF_C_TYPE_SINT64:
  case PROTOBUF_C_TYPE_SFIXED64:
    return write_int(w, *(const int64_t *)value, true);
  case PROTOBUF_C_TYPE_UINT32:
  case PROTOBUF_C_TYPE_FIXED32:
    return write_uint(w, *(const uint32_t *)value, key);
  case PROTOBUF_C_TYPE_UINT64:
  case PROTOBUF_C_TYPE_FIXED64:
    return write_uint(w, *(const uint64_t *)value, true);
  case PROTOBUF_C_TYPE_FLOAT:
    return write_float(w, *(const float *)value);
  case PROTOBUF_C_TYPE_DOUBLE:
    return write_double(w, *(const double *)value);
  case PROTOBUF_C_TYPE_BOOL: {
    struct str text = *(const protobuf_c_boolean *)value ? STR("true") : STR("false");
    return write_short(w, key, text.p, text.n);
  }
  case PROTOBUF_C_TYPE_ENUM:
    return write_enum(w, f, *(const int *)value);
  case PROTOBUF_C_TYPE_STRING:
    return write_string(w, str_c(*(char *const *)value));
  case PROTOBUF_C_TYPE_BYTES:
    return write_bytes(w, value);
  case PROTOBUF_C_TYPE_MESSAGE:
    break;
  }
  return err_set(w->e, CODE_INTERNAL, REASON_INTERNAL, "field %s has no JSON form", f->name);
}

// --- fields --------------------------------------------------------------------------------------------------------------------------------

bool write_value(struct writer *w, const struct path *at, const ProtobufCFieldDescriptor *f, const void *value)
{
  if (f->type != PROTOBUF_C_TYPE_MESSAGE)
    return write_scalar(w, f, value, false);
  const ProtobufCMessage *m = *(ProtobufCMessage *const *)value;
  if (!m && !(m = message_new(f->descriptor, &w->scratch))) // as a map's value, or a oneof's that was set by hand
    return err_nomem(w->e);
  return write_message(w, at, m);
}

static bool write_array(struct writer *w, const struct path *at, const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
  const char *items = *(char *const *)field_value(m, f);
  size_t size = value_size(f->type);
  struct path here = *at;
  for (size_t i = 0; i < field_count(m, f); i++) {
    here.index = (long)i;
    if (!write_text(w, i ? STR(",") : STR("[")) || !write_value(w, &here, f, items + i * size))
      return false;
  }
  return write_text(w, field_count(m, f) ? STR("]") : STR("[]"));
}

bool write_map(struct writer *w, const struct path *at, const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
  struct map_keys keys;
  if (!map_keys_find(&keys, m, f, &w->scratch))
    return err_nomem(w->e);
  struct path here = *at;
  bool first = true;
  for (size_t i = 0; i < keys.n; i++) {
    if (map_keys_come_again(&keys, i))
      continue;
    const ProtobufCMessage *entry = keys.entries[i];
    const ProtobufCFieldDescriptor *fields = entry->descriptor->fields;
    here.index = (long)i;
    if (!write_text(w, first ? STR("{") : STR(",")) || !write_scalar(w, &fields[0], field_value(entry, &fields[0]), true) ||
        !write_text(w, STR(":")) || !write_value(w, &here, &fields[1], field_value(entry, &fields[1])))
      return false;
    first = false;
  }
  return write_text(w, first ? STR("{}") : STR("}"));
}

// Any field's value, present or not.
static bool write_field(struct writer *w, const struct path *at, const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
  if (f->label != PROTOBUF_C_LABEL_REPEATED)
    return write_value(w, at, f, field_value(m, f));
  return field_is_map(m->descriptor, f) ? write_map(w, at, m, f) : write_array(w, at, m, f);
}

static bool write_name(struct writer *w, const char *name, bool first)
{
  char *to = buf_reserve(w->out, strlen(name) + 4);
  if (!to)
    return write_full(w, strlen(name) + 4);
  size_t n = 0;
  if (!first)
    to[n++] = ',';
  to[n++] = '"';
  if (w->o->snake_case) {
    memcpy(to + n, name, strlen(name));
    n += strlen(name);
  } else {
    n += camel_name(name, to + n);
  }
  to[n++] = '"';
  to[n++] = ':';
  w->out->n += n;
  return true;
}

// Whether a message shows the field.
static bool shown(const struct writer *w, const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
  if (f->label == PROTOBUF_C_LABEL_REPEATED)
    return field_count(m, f) > 0 || w->o->emit_defaults;
  if (!field_present(m, f))
    return w->o->emit_defaults && !field_has_presence(f);
  return !payload_is_unset(m, f);
}

bool write_members(struct writer *w, const struct path *at, const ProtobufCMessage *m, bool first)
{
  const ProtobufCMessageDescriptor *desc = m->descriptor;
  for (unsigned i = 0; i < desc->n_fields; i++) {
    const ProtobufCFieldDescriptor *f = &desc->fields[i];
    if (!shown(w, m, f))
      continue;
    struct path here = {at, f->name, -1};
    if (!write_name(w, f->name, first) || !write_field(w, &here, m, f))
      return false;
    first = false;
  }
  return true;
}

// --- entry points --------------------------------------------------------------------------------------------------------------------------

static struct writer writer_make(const struct transcode_options *o, struct buf *out, struct err *e)
{
  return (struct writer){.o = o, .out = out, .e = e};
}

// Frees what the writer holds; takes back what a failure left half written.
static bool writer_end(struct writer *w, size_t before, bool ok)
{
  arena_free(&w->scratch);
  if (!ok)
    w->out->n = before;
  return ok;
}

bool json_encode(const ProtobufCMessage *m, const struct transcode_options *o, struct buf *out, struct err *e)
{
  struct writer w = writer_make(o, out, e);
  size_t before = out->n;
  arena_init(&w.scratch, WRITER_SCRATCH);
  return writer_end(&w, before, write_message(&w, NULL, m));
}

bool json_encode_field(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f, const struct transcode_options *o, struct buf *out,
                       struct err *e)
{
  struct writer w = writer_make(o, out, e);
  struct path at = {NULL, f->name, -1};
  size_t before = out->n;
  arena_init(&w.scratch, WRITER_SCRATCH);
  bool absent = f->label != PROTOBUF_C_LABEL_REPEATED && field_has_presence(f) && !field_present(m, f);
  return writer_end(&w, before, absent ? write_text(&w, STR("null")) : write_field(&w, &at, m, f));
}
