// SPDX-License-Identifier: Apache-2.0
// Messages in binary form: https://protobuf.dev/programming-guides/encoding/
//
// The length of an inner message stands before it. So a message is written from its end to its beginning: then the length is known when it is due, and
// one pass is enough.
#include <endian.h>

#include "transcode/message.h"
#include "transcode/transcode.h"
#include "transcode/wire.h"

enum { FIRST_ROOM = 1024, SPARE_MAX = 1 << 20, VARINT_MAX = 10 };

// What is written lies at the end of the buffer's memory, from `p` on.
struct writer {
  struct buf *out;
  struct splices *splices; // NULL: nothing may be left where it lies
  char *p, *low;           // not below `low`: there the buffer's own bytes end; NULL: there is no room yet
  bool full, nomem;
};

static char *end_of(const struct writer *w)
{
  return w->out->p + w->out->cap;
}

// How many bytes the message has from here to its end.
static inline size_t written(const struct writer *w)
{
  return (size_t)(end_of(w) - w->p) + (w->splices ? w->splices->bytes : 0);
}

// Makes room for `n` bytes before what is written. False: over the limit or out of memory, and nothing more need be written.
static __attribute__((noinline)) bool make_room(struct writer *w, size_t n)
{
  struct buf *out = w->out;
  size_t own = w->p ? (size_t)(end_of(w) - w->p) : 0, wanted = own + n;
  size_t spare = wanted < SPARE_MAX ? wanted : SPARE_MAX, room = wanted + (spare > FIRST_ROOM / 2 ? spare : FIRST_ROOM / 2);
  if (out->max && room > out->max - out->n)
    room = out->max - out->n;
  w->full = w->full || room < wanted;
  if (w->full || w->nomem)
    return false;
  size_t old_cap = out->cap;
  w->nomem = !buf_reserve(out, room);
  if (w->nomem)
    return false;
  w->p = end_of(w) - own;
  w->low = out->p + out->n;
  if (own && old_cap != out->cap)
    memmove(w->p, out->p + old_cap - own, own);
  return true;
}

static inline bool has_room(struct writer *w, size_t n)
{
  return (size_t)(w->p - w->low) >= n || make_room(w, n);
}

// --- values --------------------------------------------------------------------------------------------------------------------------------

static inline uint32_t load32(const void *p)
{
  uint32_t v;
  memcpy(&v, p, sizeof v);
  return v;
}

static inline uint64_t load64(const void *p)
{
  uint64_t v;
  memcpy(&v, p, sizeof v);
  return v;
}

// A number as its varint has it: negative int32 and enums are extended to 64 bits, sint zigzags.
static inline uint64_t varint_of(ProtobufCType type, const void *value)
{
  switch (type) {
  case PROTOBUF_C_TYPE_BOOL:
    return *(const protobuf_c_boolean *)value != 0;
  case PROTOBUF_C_TYPE_INT32:
  case PROTOBUF_C_TYPE_ENUM:
    return (uint64_t)(int64_t)(int32_t)load32(value);
  case PROTOBUF_C_TYPE_UINT32:
    return load32(value);
  case PROTOBUF_C_TYPE_SINT32:
    return (load32(value) << 1) ^ (0 - (load32(value) >> 31));
  case PROTOBUF_C_TYPE_SINT64:
    return (load64(value) << 1) ^ (0 - (load64(value) >> 63));
  default:
    return load64(value);
  }
}

// The bytes of a string or of bytes.
static inline struct str text_of(ProtobufCType type, const void *value)
{
  if (type == PROTOBUF_C_TYPE_STRING) {
    const char *s = *(char *const *)value;
    return s ? str_c(s) : STR("");
  }
  const ProtobufCBinaryData *b = value;
  return (struct str){(const char *)b->data, b->data ? b->len : 0};
}

static inline bool is_packed(const ProtobufCFieldDescriptor *f)
{
  return (f->flags & PROTOBUF_C_FIELD_FLAG_PACKED) && wire_type_of(f->type) != WIRE_BYTES;
}

// Whether a field without presence is more than its type's zero.
static inline bool is_something(ProtobufCType type, const void *value)
{
  if (type < PROTOBUF_C_TYPE_STRING)
    return value_size(type) == 4 ? load32(value) != 0 : load64(value) != 0;
  if (type == PROTOBUF_C_TYPE_BYTES)
    return ((const ProtobufCBinaryData *)value)->len > 0;
  const char *p = *(char *const *)value;
  return p && (type == PROTOBUF_C_TYPE_MESSAGE || *p);
}

// Whether a field is written. A message that is not there can't be, whatever its oneof says.
static inline bool is_written(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
  const void *value = field_value(m, f);
  if (f->label == PROTOBUF_C_LABEL_REPEATED)
    return field_count(m, f) > 0;
  if (!(f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) && f->label == PROTOBUF_C_LABEL_NONE)
    return is_something(f->type, value);
  return field_present(m, f) && (f->type != PROTOBUF_C_TYPE_MESSAGE || *(ProtobufCMessage *const *)value);
}

// --- from the end to the beginning ---------------------------------------------------------------------------------------------------------

// For which there is room.
static inline void put_varint(struct writer *w, uint64_t v)
{
  if (v < 0x80) {
    *--w->p = (char)v;
    return;
  }
  size_t n = ((63 - (size_t)__builtin_clzll(v)) * 9 + 73) / 64; // one for each 7 bits
  char *to = w->p -= n;
  for (; v >= 0x80; v >>= 7)
    *to++ = (char)(v | 0x80);
  *to = (char)v;
}

static inline void put_tag(struct writer *w, uint32_t id, unsigned wire_type)
{
  put_varint(w, (uint64_t)id << 3 | wire_type);
}

static inline void put_bytes(struct writer *w, const void *p, size_t n)
{
  w->p -= n;
  if (n)
    memcpy(w->p, p, n);
}

static bool put_message(struct writer *w, const ProtobufCMessage *m);

// One value, and room for its tag.
static inline bool put_one(struct writer *w, ProtobufCType type, const void *value)
{
  enum { NUMBER_MAX = VARINT_MAX + VARINT_MAX };
  uint32_t low;
  uint64_t v;
  switch (wire_type_of(type)) {
  case WIRE_32:
    low = htole32(load32(value));
    if (!has_room(w, NUMBER_MAX))
      return false;
    put_bytes(w, &low, sizeof low);
    return true;
  case WIRE_64:
    v = htole64(load64(value));
    if (!has_room(w, NUMBER_MAX))
      return false;
    put_bytes(w, &v, sizeof v);
    return true;
  case WIRE_VARINT:
    if (!has_room(w, NUMBER_MAX))
      return false;
    put_varint(w, varint_of(type, value));
    return true;
  default:
    break;
  }
  if (type == PROTOBUF_C_TYPE_MESSAGE) {
    const ProtobufCMessage *m = *(ProtobufCMessage *const *)value;
    size_t behind = written(w);
    if ((m && !put_message(w, m)) || !has_room(w, NUMBER_MAX))
      return false;
    put_varint(w, written(w) - behind);
    return true;
  }
  struct str s = text_of(type, value);
  bool left = w->splices && splices_add(w->splices, (size_t)(end_of(w) - w->p), s);
  if (!has_room(w, (left ? 0 : s.n) + NUMBER_MAX))
    return false;
  if (!left)
    put_bytes(w, s.p, s.n);
  put_varint(w, s.n);
  return true;
}

static bool put_repeated(struct writer *w, const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
  size_t each = value_size(f->type), n = field_count(m, f), behind = written(w);
  const char *values = *(char *const *)field_value(m, f);
  bool packed = is_packed(f);
  for (size_t i = n; i-- > 0;) {
    if (!put_one(w, f->type, values + i * each))
      return false;
    if (!packed)
      put_tag(w, f->id, wire_type_of(f->type));
  }
  if (!packed)
    return true;
  if (!has_room(w, VARINT_MAX + VARINT_MAX))
    return false;
  put_varint(w, written(w) - behind);
  put_tag(w, f->id, WIRE_BYTES);
  return true;
}

static bool put_message(struct writer *w, const ProtobufCMessage *m)
{
  for (unsigned i = m->n_unknown_fields; i-- > 0;) {
    const ProtobufCMessageUnknownField *u = &m->unknown_fields[i];
    if (!has_room(w, u->len + VARINT_MAX))
      return false;
    put_bytes(w, u->data, u->len);
    put_tag(w, u->tag, u->wire_type);
  }
  for (unsigned i = m->descriptor->n_fields; i-- > 0;) {
    const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];
    if (!is_written(m, f))
      continue;
    if (f->label == PROTOBUF_C_LABEL_REPEATED) {
      if (!put_repeated(w, m, f))
        return false;
      continue;
    }
    if (!put_one(w, f->type, field_value(m, f)))
      return false;
    put_tag(w, f->id, wire_type_of(f->type));
  }
  return true;
}

// They were noted from the end to the beginning, and by how many bytes are behind them.
static void turn_round(struct splices *s, size_t end)
{
  for (size_t i = 0, j = s->n; i < j--; i++) {
    struct splice last = s->at[j];
    s->at[j] = s->at[i];
    s->at[i] = last;
  }
  for (size_t i = 0; i < s->n; i++)
    s->at[i].at = end - s->at[i].at;
}

bool proto_encode(const ProtobufCMessage *m, struct buf *out, struct err *e)
{
  return proto_encode_spliced(m, NULL, out, e);
}

bool proto_encode_spliced(const ProtobufCMessage *m, struct splices *splices, struct buf *out, struct err *e)
{
  struct writer w = {.out = out, .splices = splices && splices->n_held ? splices : NULL};
  if (!make_room(&w, 0) || !put_message(&w, m)) {
    if (w.nomem)
      return err_nomem(e);
    return err_set(e, CODE_RESOURCE_EXHAUSTED, REASON_MESSAGE_TOO_LARGE, "the message has more bytes than the limit of %zu", out->max);
  }
  size_t n = (size_t)(end_of(&w) - w.p);
  memmove(w.low, w.p, n);
  out->n += n;
  if (w.splices)
    turn_round(w.splices, out->n);
  return true;
}
