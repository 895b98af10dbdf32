// SPDX-License-Identifier: Apache-2.0
// Binary messages into protobuf-c's structs, in one pass that checks what it decodes: https://protobuf.dev/programming-guides/encoding/
//
// protobuf-c's own decoder has no recursion limit, takes invalid UTF-8, cuts strings at NUL, and merges messages in oneofs wrongly.
#include <endian.h>

#include "base/utf8.h"
#include "transcode/message.h"
#include "transcode/transcode.h"
#include "transcode/wire.h"

struct reader {
  struct arena *arena;
  struct err *e;
  int max_depth;
};

// A value as it lies in the message: a number, or the bytes behind a length.
struct value {
  uint64_t number;
  struct str bytes;
};

static bool malformed(const struct reader *r, const struct path *at, const char *what)
{
  return path_err(at, r->e, REASON_INVALID_REQUEST, "the message is malformed: %s", what);
}

// --- from the front of the bytes -----------------------------------------------------------------------------------------------------------

// Takes a varint of at most `max` bytes.
static inline bool take_varint(struct str *s, size_t max, uint64_t *out)
{
  if (s->n && (uint8_t)*s->p < 0x80) {
    *out = (uint8_t)*s->p;
    *s = str_skip(*s, 1);
    return true;
  }
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

static inline bool take(struct str *s, size_t n, struct str *out)
{
  if (s->n < n)
    return false;
  *out = (struct str){s->p, n};
  *s = str_skip(*s, n);
  return true;
}

static inline bool take_value(struct str *s, unsigned wire_type, struct value *v)
{
  uint32_t word;
  switch (wire_type) {
  case WIRE_VARINT:
    return take_varint(s, 10, &v->number);
  case WIRE_64:
    if (!take(s, 8, &v->bytes))
      return false;
    memcpy(&v->number, v->bytes.p, 8);
    v->number = le64toh(v->number);
    return true;
  case WIRE_32:
    if (!take(s, 4, &v->bytes))
      return false;
    memcpy(&word, v->bytes.p, 4);
    v->number = le32toh(word);
    return true;
  case WIRE_BYTES:
    return take_varint(s, 5, &v->number) && v->number <= INT32_MAX && take(s, (size_t)v->number, &v->bytes);
  default:
    return false;
  }
}

// --- into the struct -----------------------------------------------------------------------------------------------------------------------

// Writes a number as the field's type has it.
static void put_number(void *slot, ProtobufCType type, uint64_t v)
{
  uint32_t low = (uint32_t)v;
  switch (type) {
  case PROTOBUF_C_TYPE_SINT32:
    low = low >> 1 ^ (0 - (low & 1));
    memcpy(slot, &low, sizeof low);
    break;
  case PROTOBUF_C_TYPE_SINT64:
    v = v >> 1 ^ (0 - (v & 1));
    memcpy(slot, &v, sizeof v);
    break;
  case PROTOBUF_C_TYPE_BOOL:
    *(protobuf_c_boolean *)slot = v != 0;
    break;
  default:
    if (value_size(type) == sizeof low)
      memcpy(slot, &low, sizeof low);
    else
      memcpy(slot, &v, sizeof v);
  }
}

// The array of a repeated field is as long as the next power of two, from 4 on.
static size_t room_for(size_t n)
{
  return n <= 4 ? 4 : (size_t)1 << (64 - __builtin_clzll(n - 1));
}

// Room for `more` elements of a repeated field behind those that it has; NULL: out of memory. The caller counts them.
static void *grow(const struct reader *r, ProtobufCMessage *m, const ProtobufCFieldDescriptor *f, size_t more)
{
  size_t n = field_count(m, f), size = value_size(f->type), room = room_for(n + more);
  char **array = field_slot(m, f);
  if (!n || room > room_for(n)) {
    char *larger = arena_alloc(r->arena, room * size);
    if (!larger)
      return NULL;
    if (n)
      memcpy(larger, *array, n * size);
    *array = larger;
  }
  return *array + n * size;
}

static bool read_message(const struct reader *r, ProtobufCMessage *m, struct str s, int depth, const struct path *at);

static bool read_string(const struct reader *r, void *slot, struct str s, const struct path *at)
{
  if (s.n && memchr(s.p, '\0', s.n))
    return path_err(at, r->e, REASON_INVALID_REQUEST, "a string must not contain NUL");
  if (s.n && !utf8_valid(s.p, s.n))
    return path_err(at, r->e, REASON_INVALID_REQUEST, "a string must be UTF-8");
  char *copy = arena_dup(r->arena, s);
  memcpy(slot, &copy, sizeof copy);
  return copy || err_nomem(r->e);
}

static bool read_bytes(const struct reader *r, void *slot, struct str s)
{
  char *copy = s.n ? arena_dup(r->arena, s) : NULL;
  *(ProtobufCBinaryData *)slot = (ProtobufCBinaryData){s.n, (uint8_t *)copy};
  return copy || !s.n || err_nomem(r->e);
}

// `before`: what it is merged with; NULL: it is the first.
static bool read_submessage(const struct reader *r, const ProtobufCMessage *parent, const ProtobufCFieldDescriptor *f, void *slot,
                            ProtobufCMessage *before, struct str s, int depth, const struct path *at)
{
  ProtobufCMessage *m = before ? before : message_new(f->descriptor, r->arena);
  if (!m)
    return err_nomem(r->e);
  memcpy(slot, &m, sizeof m);
  return read_message(r, m, s, depth_inside(depth, f->descriptor, field_is_map(parent->descriptor, f)), at);
}

static bool read_packed(const struct reader *r, ProtobufCMessage *m, const ProtobufCFieldDescriptor *f, struct str s, const struct path *at)
{
  unsigned wire_type = wire_type_of(f->type);
  size_t n = 0;
  if (wire_type == WIRE_VARINT)
    for (size_t i = 0; i < s.n; i++)
      n += (uint8_t)s.p[i] < 0x80;
  else
    n = s.n / (wire_type == WIRE_64 ? 8 : 4);
  char *slot = grow(r, m, f, n);
  if (!slot)
    return err_nomem(r->e);
  for (size_t i = 0; s.n; i++) {
    struct value v;
    if (i == n || !take_value(&s, wire_type, &v))
      return malformed(r, at, "a packed field ends within a value");
    put_number(slot, f->type, v.number);
    slot += value_size(f->type);
  }
  *(size_t *)((char *)m + f->quantifier_offset) += n;
  return true;
}

// One value of the field `f`, whose message is at that depth.
static bool read_field(const struct reader *r, ProtobufCMessage *m, const ProtobufCFieldDescriptor *f, unsigned wire_type, const struct value *v,
                       int depth, const struct path *at)
{
  bool repeated = f->label == PROTOBUF_C_LABEL_REPEATED;
  if (wire_type != wire_type_of(f->type))
    return repeated && wire_type == WIRE_BYTES ? read_packed(r, m, f, v->bytes, at) : malformed(r, at, "the field has another type");
  void *slot = repeated ? grow(r, m, f, 1) : field_slot(m, f);
  if (!slot)
    return err_nomem(r->e);
  bool ok = true;
  if (f->type == PROTOBUF_C_TYPE_MESSAGE)
    ok = read_submessage(r, m, f, slot, !repeated && field_present(m, f) ? *(ProtobufCMessage **)slot : NULL, v->bytes, depth, at);
  else if (f->type == PROTOBUF_C_TYPE_STRING)
    ok = read_string(r, slot, v->bytes, at);
  else if (f->type == PROTOBUF_C_TYPE_BYTES)
    ok = read_bytes(r, slot, v->bytes);
  else
    put_number(slot, f->type, v->number);
  if (repeated)
    ++*(size_t *)((char *)m + f->quantifier_offset);
  else
    field_mark(m, f);
  return ok;
}

// Kept as they are, to be written again. `s` is all of the field behind its tag.
static bool keep_unknown(const struct reader *r, ProtobufCMessage *m, uint32_t id, unsigned wire_type, struct str s)
{
  size_t n = m->n_unknown_fields;
  if (!n || room_for(n + 1) > room_for(n)) {
    ProtobufCMessageUnknownField *larger = arena_alloc(r->arena, room_for(n + 1) * sizeof *larger);
    if (!larger)
      return err_nomem(r->e);
    if (n)
      memcpy(larger, m->unknown_fields, n * sizeof *larger);
    m->unknown_fields = larger;
  }
  char *copy = arena_dup(r->arena, s);
  m->unknown_fields[n] = (ProtobufCMessageUnknownField){id, (ProtobufCWireType)wire_type, s.n, (uint8_t *)copy};
  m->n_unknown_fields++;
  return copy || err_nomem(r->e);
}

// The field of that number. Encoders write them in order, so it is mostly the one behind the last, `near`.
static inline const ProtobufCFieldDescriptor *find_field(const ProtobufCMessageDescriptor *desc, const ProtobufCFieldDescriptor *near, unsigned id)
{
  if (!desc->n_fields) // and there is no array
    return NULL;
  const ProtobufCFieldDescriptor *end = desc->fields + desc->n_fields;
  for (int i = 0; i < 4 && near < end; i++, near++)
    if (near->id == id)
      return near;
  return protobuf_c_message_descriptor_get_field(desc, id);
}

static bool has_required(const struct reader *r, const ProtobufCMessage *m, uint64_t seen, const struct path *at)
{
  const ProtobufCFieldDescriptor *f = m->descriptor->fields;
  for (unsigned i = 0; i < m->descriptor->n_fields && i < 64 && f[i].label != PROTOBUF_C_LABEL_NONE;
       i++) // proto3 has no required, and proto2 no NONE
    if (f[i].label == PROTOBUF_C_LABEL_REQUIRED && !(seen & UINT64_C(1) << i))
      return path_err(&(struct path){at, f[i].name, -1}, r->e, REASON_INVALID_REQUEST, "the field is required");
  return true;
}

static bool read_message(const struct reader *r, ProtobufCMessage *m, struct str s, int depth, const struct path *at)
{
  const ProtobufCMessageDescriptor *desc = m->descriptor;
  if (depth > r->max_depth)
    return path_err(at, r->e, REASON_JSON_TOO_DEEP, "the message nests deeper than %d levels", r->max_depth);
  const ProtobufCFieldDescriptor *f = desc->fields, *near = f;
  uint64_t seen = 0; // by place; required fields are proto2's, whose messages here are small
  while (s.n) {
    uint64_t tag;
    struct value v = {0};
    if (!take_varint(&s, 5, &tag) || tag > UINT32_MAX || tag >> 3 == 0)
      return malformed(r, at, "a field's tag is invalid");
    unsigned id = (unsigned)(tag >> 3), wire_type = tag & 7;
    f = find_field(desc, near, id);
    struct path here = {at, f ? f->name : "", -1};
    const struct path *where = f ? &here : at;
    if (wire_type == WIRE_GROUP || wire_type == WIRE_GROUP_END)
      return malformed(r, where, "groups are not supported");
    struct str behind_tag = s;
    if (!take_value(&s, wire_type, &v))
      return malformed(r, where, "it ends within a field, or a field is too long");
    if (!f) {
      if (!keep_unknown(r, m, id, wire_type, (struct str){behind_tag.p, behind_tag.n - s.n}))
        return false;
      continue;
    }
    if (!read_field(r, m, f, wire_type, &v, depth, where))
      return false;
    size_t place = (size_t)(f - desc->fields);
    seen |= place < 64 ? UINT64_C(1) << place : 0;
    near = f;
  }
  return has_required(r, m, seen, at);
}

ProtobufCMessage *proto_decode(const ProtobufCMessageDescriptor *desc, struct str bytes, int max_depth, struct arena *a, struct err *e)
{
  struct reader r = {a, e, max_depth};
  ProtobufCMessage *m = message_new(desc, a);
  if (!m) {
    err_nomem(e);
    return NULL;
  }
  return read_message(&r, m, bytes, depth_inside(0, desc, false), NULL) ? m : NULL;
}
