// SPDX-License-Identifier: Apache-2.0
// protobuf ↔ JSON by descriptor, both ways, for every message: https://protobuf.dev/programming-guides/json/
//
// All input is hostile. Decoding needs an arena and copies what it keeps, except where it says otherwise. envgate.v1.Payload is written and read
// as the JSON value itself: its bytes are copied untouched after one validating scan (base/json.h), unless the caller knows that they are valid.
#ifndef ENVGATE_TRANSCODE_TRANSCODE_H
#define ENVGATE_TRANSCODE_TRANSCODE_H

#include <protobuf-c/protobuf-c.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/splice.h"
#include "base/str.h"

// The messages that google.protobuf.Any may hold in JSON, sorted by full name in strcmp's order.
struct message_types {
  const ProtobufCMessageDescriptor *const *at;
  size_t n;
};

struct transcode_options {
  int max_depth;                     // of messages and of JSON
  const struct message_types *types; // NULL: none, and each Any of JSON is an error
  bool snake_case;                   // writing: field names as in the .proto; else lowerCamelCase. Reading takes both always.
  bool ignore_unknown;               // reading: unknown fields are passed over; else they are an error that names them
  bool
      emit_defaults; // writing: fields without presence are written though they have their default value (as REST does, so that "done": false is there)
  bool payloads_checked;   // writing: the bytes of every Payload.json are known to be valid JSON; else they are checked
  struct splices *splices; // writing: where payloads' bytes may be noted instead of copied; NULL: all are copied. A failure leaves them half filled
  // Reading: unknown members of the top-level object are collected as one JSON object into this Payload field (merged behind what the field itself
  // has); NULL: none. OpenEnv's reset takes such extras.
  const char *extras_field;
};

// Decodes a binary message into the arena, as hostile: nesting at most max_depth, well-formed tags and lengths, every field of its type, string fields valid UTF-8
// without NUL, no group. A message that comes twice is merged, unknown fields are kept. NULL: INVALID_ARGUMENT (INVALID_REQUEST, JSON_TOO_DEEP) with the
// field's path, or out of memory.
ProtobufCMessage *proto_decode(const ProtobufCMessageDescriptor *desc, struct str bytes, int max_depth, struct arena *a, struct err *e);

// Encodes behind what `out` has. False: out of memory or over out->max (RESOURCE_EXHAUSTED).
bool proto_encode(const ProtobufCMessage *m, struct buf *out, struct err *e);

// The same, where large payloads may be noted in `splices` (empty but for what is held; may be NULL) instead of copied. A failure leaves them half filled.
bool proto_encode_spliced(const ProtobufCMessage *m, struct splices *splices, struct buf *out, struct err *e);

// JSON text to a message in the arena. NULL: INVALID_ARGUMENT with the field's path ("action", "items[3].name") and what it should be.
ProtobufCMessage *json_decode(const ProtobufCMessageDescriptor *desc, struct str text, const struct transcode_options *o, struct arena *a,
                              struct err *e);

// The same for a single field of a message that exists already, as for path variables, query parameters and google.api.http's body: "field".
// `text` is the JSON of the field's value.
bool json_decode_field(ProtobufCMessage *m, const ProtobufCFieldDescriptor *f, struct str text, const struct transcode_options *o, struct arena *a,
                       struct err *e);

// A field's value from plain text (a query parameter or path variable): strings as they are, other scalars and enums as in JSON. `path` is dotted ("page.size") and goes into
// submessages. Repeated fields grow by one each time.
bool text_decode_field(ProtobufCMessage *m, struct str path, struct str text, struct arena *a, struct err *e);

// A message as JSON, appended. False: out of memory, over out->max, or a value that JSON cannot have (`e`).
bool json_encode(const ProtobufCMessage *m, const struct transcode_options *o, struct buf *out, struct err *e);

// One field's value as JSON (google.api.http's response_body).
bool json_encode_field(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f, const struct transcode_options *o, struct buf *out,
                       struct err *e);

// A new message with its defaults, in the arena; NULL when out of memory.
ProtobufCMessage *message_new(const ProtobufCMessageDescriptor *desc, struct arena *a);

#endif
