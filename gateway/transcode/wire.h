// SPDX-License-Identifier: Apache-2.0
// Private to transcode/: how values lie in binary messages, https://protobuf.dev/programming-guides/encoding/
#ifndef ENVGATE_TRANSCODE_WIRE_H
#define ENVGATE_TRANSCODE_WIRE_H

#include <protobuf-c/protobuf-c.h>
#include <stdint.h>

enum wire_type { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_GROUP = 3, WIRE_GROUP_END = 4, WIRE_32 = 5 };

// How one value of a type is written, outside of a packed field.
static inline unsigned wire_type_of(ProtobufCType type)
{
  static const uint8_t types[] = {
      [PROTOBUF_C_TYPE_INT32] = WIRE_VARINT,  [PROTOBUF_C_TYPE_SINT32] = WIRE_VARINT, [PROTOBUF_C_TYPE_SFIXED32] = WIRE_32,
      [PROTOBUF_C_TYPE_INT64] = WIRE_VARINT,  [PROTOBUF_C_TYPE_SINT64] = WIRE_VARINT, [PROTOBUF_C_TYPE_SFIXED64] = WIRE_64,
      [PROTOBUF_C_TYPE_UINT32] = WIRE_VARINT, [PROTOBUF_C_TYPE_FIXED32] = WIRE_32,    [PROTOBUF_C_TYPE_UINT64] = WIRE_VARINT,
      [PROTOBUF_C_TYPE_FIXED64] = WIRE_64,    [PROTOBUF_C_TYPE_FLOAT] = WIRE_32,      [PROTOBUF_C_TYPE_DOUBLE] = WIRE_64,
      [PROTOBUF_C_TYPE_BOOL] = WIRE_VARINT,   [PROTOBUF_C_TYPE_ENUM] = WIRE_VARINT,   [PROTOBUF_C_TYPE_STRING] = WIRE_BYTES,
      [PROTOBUF_C_TYPE_BYTES] = WIRE_BYTES,   [PROTOBUF_C_TYPE_MESSAGE] = WIRE_BYTES,
  };
  return types[type];
}

#endif
