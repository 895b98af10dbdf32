// SPDX-License-Identifier: Apache-2.0
// The check of a binary message before protobuf-c may see it: https://protobuf.dev/programming-guides/encoding/
#include "base/utf8.h"
#include "transcode/message.h"
#include "transcode/transcode.h"

enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_GROUP = 3, WIRE_GROUP_END = 4, WIRE_32 = 5 };

struct wire {
  struct err *e;
  int max_depth;
};

static bool malformed(const struct wire *w, const struct path *at, const char *what)
{
  return path_err(at, w->e, REASON_INVALID_REQUEST, "the message is malformed: %s", what);
}

// Takes a varint of at most `max` bytes off the front.
static bool take_varint(struct str *s, size_t max, uint64_t *out)
{
  *out = 0;
  for (size_t i = 0; i < s->n && i < max; i++) {
    uint8_t byte = (uint8_t)s->p[i];
    *out |= (uint64_t)(byte & 0x7F) << (7 * i);
    if (byte < 0x80) {
      *s = str_skip(*s, i + 1);
      return true;
    }
  }
  return false;
}

static bool take(struct str *s, size_t n, struct str *out)
{
  if (s->n < n)
    return false;
  *out = (struct str){s->p, n};
  *s = str_skip(*s, n);
  return true;
}

// Takes one value of a wire type off the front; `bytes` gets the content where it is length-prefixed.
static bool take_value(struct str *s, unsigned wire_type, struct str *bytes)
{
  uint64_t number;
  switch (wire_type) {
  case WIRE_VARINT:
    return take_varint(s, 10, &number);
  case WIRE_64:
    return take(s, 8, bytes);
  case WIRE_32:
    return take(s, 4, bytes);
  case WIRE_BYTES:
    return take_varint(s, 5, &number) && number <= INT32_MAX && take(s, (size_t)number, bytes);
  default:
    return false;
  }
}

static unsigned wire_type_of(ProtobufCType type)
{
  switch (type) {
  case PROTOBUF_C_TYPE_SFIXED32:
  case PROTOBUF_C_TYPE_FIXED32:
  case PROTOBUF_C_TYPE_FLOAT:
    return WIRE_32;
  case PROTOBUF_C_TYPE_SFIXED64:
  case PROTOBUF_C_TYPE_FIXED64:
  case PROTOBUF_C_TYPE_DOUBLE:
    return WIRE_64;
  case PROTOBUF_C_TYPE_STRING:
  case PROTOBUF_C_TYPE_BYTES:
  case PROTOBUF_C_TYPE_MESSAGE:
    return WIRE_BYTES;
  case PROTOBUF_C_TYPE_INT32:
  case PROTOBUF_C_TYPE_SINT32:
  case PROTOBUF_C_TYPE_INT64:
  case PROTOBUF_C_TYPE_SINT64:
  case PROTOBUF_C_TYPE_UINT32:
  case PROTOBUF_C_TYPE_UINT64:
  case PROTOBUF_C_TYPE_BOOL:
  case PROTOBUF_C_TYPE_ENUM:
    break;
  }
  return WIRE_VARINT;
}

static bool check_string(const struct wire *w, const struct path *at, struct str s)
{
  if (!s.n)
    return true;
  if (memchr(s.p, '\0', s.n))
    return path_err(at, w->e, REASON_INVALID_REQUEST, "a string must not contain NUL");
  if (!utf8_valid(s.p, s.n))
    return path_err(at, w->e, REASON_INVALID_REQUEST, "a string must be UTF-8");
  return true;
}

// A packed repeated field: whole values from end to end.
static bool check_packed(const struct wire *w, const struct path *at, unsigned wire_type, struct str s)
{
  struct str value;
  while (s.n)
    if (!take_value(&s, wire_type, &value))
      return malformed(w, at, "a packed field ends within a value");
  return true;
}

static bool check_message(const struct wire *w, const ProtobufCMessageDescriptor *desc, struct str s, int depth, const struct path *at);

// One value of the field `f` of a message of type `parent`, whose own depth is given.
static bool check_field(const struct wire *w, const ProtobufCMessageDescriptor *parent, const ProtobufCFieldDescriptor *f, unsigned wire_type,
                        struct str bytes, int depth, const struct path *at)
{
  unsigned expected = wire_type_of(f->type);
  if (wire_type != expected) {
    bool packed = f->label == PROTOBUF_C_LABEL_REPEATED && wire_type == WIRE_BYTES;
    return packed ? check_packed(w, at, expected, bytes) : malformed(w, at, "the field has another type");
  }
  if (f->type == PROTOBUF_C_TYPE_STRING)
    return check_string(w, at, bytes);
  if (f->type == PROTOBUF_C_TYPE_MESSAGE)
    return check_message(w, f->descriptor, bytes, depth_inside(depth, f->descriptor, field_is_map(parent, f)), at);
  return true;
}

// A singular message that comes twice would have to be merged, which protobuf-c does wrongly for oneofs (and fails where both are unset). No
// encoder writes that. `seen` has a bit for each of the first 64 fields; no message of the API has more.
static bool check_first(const struct wire *w, const ProtobufCMessageDescriptor *desc, const ProtobufCFieldDescriptor *f, uint64_t *seen,
                        const struct path *at)
{
  size_t i = (size_t)(f - desc->fields);
  if (f->type != PROTOBUF_C_TYPE_MESSAGE || f->label == PROTOBUF_C_LABEL_REPEATED || i >= 64)
    return true;
  if (*seen & UINT64_C(1) << i)
    return path_err(at, w->e, REASON_INVALID_REQUEST, "the field is there twice");
  *seen |= UINT64_C(1) << i;
  return true;
}

static bool check_message(const struct wire *w, const ProtobufCMessageDescriptor *desc, struct str s, int depth, const struct path *at)
{
  if (depth > w->max_depth)
    return path_err(at, w->e, REASON_JSON_TOO_DEEP, "the message nests deeper than %d levels", w->max_depth);
  const ProtobufCFieldDescriptor *f = NULL;
  uint64_t seen = 0;
  while (s.n) {
    uint64_t tag;
    struct str bytes = {0};
    if (!take_varint(&s, 5, &tag) || tag > UINT32_MAX || tag >> 3 == 0)
      return malformed(w, at, "a field's tag is invalid");
    unsigned id = (unsigned)(tag >> 3), wire_type = tag & 7;
    if (!f || f->id != id)
      f = protobuf_c_message_descriptor_get_field(desc, id);
    struct path here = {at, f ? f->name : "", -1};
    const struct path *where = f ? &here : at;
    if (wire_type == WIRE_GROUP || wire_type == WIRE_GROUP_END)
      return malformed(w, where, "groups are not supported");
    if (!take_value(&s, wire_type, &bytes))
      return malformed(w, where, "it ends within a field, or a field is too long");
    if (f && !check_first(w, desc, f, &seen, where))
      return false;
    if (f && !check_field(w, desc, f, wire_type, bytes, depth, where))
      return false;
  }
  return true;
}

bool wire_check(const ProtobufCMessageDescriptor *desc, struct str bytes, int max_depth, struct err *e)
{
  struct wire w = {e, max_depth};
  return check_message(&w, desc, bytes, depth_inside(0, desc, false), NULL);
}
