// SPDX-License-Identifier: Apache-2.0
// Private to transcode/: access to messages by descriptor, and the paths of fields for errors.
#ifndef ENVGATE_TRANSCODE_MESSAGE_H
#define ENVGATE_TRANSCODE_MESSAGE_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"

// Where in a message the work is: a chain on the stack, from the innermost outwards. NULL is the message itself.
struct path {
  const struct path *up;
  const char *name;
  long index; // of a repeated field's element; -1: none
};

// Fills `e` with INVALID_ARGUMENT: "items[3].name: " and the message.
bool path_err(const struct path *at, struct err *e, const char *reason, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

// The same as plain text, "" for the message itself. What is too long is cut.
void path_text(const struct path *at, char *out, size_t cap);

// The messages that have a JSON form of their own.
enum kind {
  KIND_PLAIN,
  KIND_PAYLOAD, // envgate.v1.Payload
  KIND_ANY,
  KIND_DURATION,
  KIND_FIELD_MASK,
  KIND_LIST_VALUE,
  KIND_STRUCT,
  KIND_TIMESTAMP,
  KIND_VALUE,
  KIND_WRAPPER, // google.protobuf.Int32Value and the like
};

enum kind message_kind(const ProtobufCMessageDescriptor *desc);

// The depth inside a message that lies at `depth`. Value and entries of maps do not count, as they lie in a message that does, so the depth of a
// Struct in binary form is that of its JSON. A Payload's depth is its own: it begins anew.
int depth_inside(int depth, const ProtobufCMessageDescriptor *desc, bool entry);

// True when `f` of `parent` is a map: protobuf-c makes it a repeated field of entries with a key and a value, and does not tell. It is one when
// the entries' type is nested in the parent and named after the field as protoc does: "Parent.FooBarEntry" for foo_bar.
bool field_is_map(const ProtobufCMessageDescriptor *parent, const ProtobufCFieldDescriptor *f);

// True for an enum field of type google.protobuf.NullValue, whose JSON is null.
bool field_is_null_value(const ProtobufCFieldDescriptor *f);

static inline const ProtobufCMessageDescriptor *field_message(const ProtobufCFieldDescriptor *f)
{
  return f->type == PROTOBUF_C_TYPE_MESSAGE ? f->descriptor : NULL;
}

// The field that `key` names, in either spelling.
const ProtobufCFieldDescriptor *field_find(const ProtobufCMessageDescriptor *desc, struct str key);

// The size of one value of a type in a message's struct.
static inline size_t value_size(ProtobufCType type)
{
  static const uint8_t sizes[] = {
      [PROTOBUF_C_TYPE_INT32] = 4,
      [PROTOBUF_C_TYPE_SINT32] = 4,
      [PROTOBUF_C_TYPE_SFIXED32] = 4,
      [PROTOBUF_C_TYPE_INT64] = 8,
      [PROTOBUF_C_TYPE_SINT64] = 8,
      [PROTOBUF_C_TYPE_SFIXED64] = 8,
      [PROTOBUF_C_TYPE_UINT32] = 4,
      [PROTOBUF_C_TYPE_FIXED32] = 4,
      [PROTOBUF_C_TYPE_UINT64] = 8,
      [PROTOBUF_C_TYPE_FIXED64] = 8,
      [PROTOBUF_C_TYPE_FLOAT] = 4,
      [PROTOBUF_C_TYPE_DOUBLE] = 8,
      [PROTOBUF_C_TYPE_BOOL] = sizeof(protobuf_c_boolean),
      [PROTOBUF_C_TYPE_ENUM] = 4,
      [PROTOBUF_C_TYPE_STRING] = sizeof(void *),
      [PROTOBUF_C_TYPE_BYTES] = sizeof(ProtobufCBinaryData),
      [PROTOBUF_C_TYPE_MESSAGE] = sizeof(void *),
  };
  return sizes[type];
}

// A field's place in its message, and that of its count, has flag or oneof case.
static inline void *field_slot(ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
  return (char *)m + f->offset;
}

static inline const void *field_value(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
  return (const char *)m + f->offset;
}

static inline const void *field_quantifier(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
  return (const char *)m + f->quantifier_offset;
}

// How many elements a repeated field has.
static inline size_t field_count(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
  return *(const size_t *)field_quantifier(m, f);
}

// True when a singular field is set; for one without presence: when it is not its default.
bool field_present(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f);

// True when a singular field knows whether it was set: members of oneofs (so proto3's `optional`) and messages.
bool field_has_presence(const ProtobufCFieldDescriptor *f);

// Marks a singular field as set.
void field_mark(ProtobufCMessage *m, const ProtobufCFieldDescriptor *f);

#endif
