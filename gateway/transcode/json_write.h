// SPDX-License-Identifier: Apache-2.0
// Private to transcode/: what json_write.c (any message) and wellknown_write.c (those with a JSON form of their own) share.
#ifndef ENVGATE_TRANSCODE_JSON_WRITE_H
#define ENVGATE_TRANSCODE_JSON_WRITE_H

#include "transcode/message.h"
#include "transcode/transcode.h"

// What one JSON text may take for messages in google.protobuf.Any, which must be decoded to be written.
enum { WRITER_SCRATCH = 16 << 20 };

// Each function appends a value and returns false with `e` filled. They leave half a text behind; the entry points take it back.
struct writer {
  struct buf *out;
  const struct transcode_options *o;
  struct err *e;
  struct arena scratch;
  int depth;
};

// Fills the error of an append of `more` bytes that has failed. Returns false.
bool write_full(struct writer *w, size_t more);

bool write_text(struct writer *w, struct str s);
// With escapes.
bool write_string(struct writer *w, struct str s);
// In quotes, as it is.
bool write_quoted(struct writer *w, const char *text, size_t n);
// NaN and the infinities as strings.
bool write_double(struct writer *w, double v);
// One value of the field's type: an element, if the field is repeated.
bool write_value(struct writer *w, const struct path *at, const ProtobufCFieldDescriptor *f, const void *value);
bool write_map(struct writer *w, const struct path *at, const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f);
// The fields as an object's members, without its braces. `first`: no comma is needed before them.
bool write_members(struct writer *w, const struct path *at, const ProtobufCMessage *m, bool first);

// In wellknown_write.c: a message in the JSON form of its type.
bool write_message(struct writer *w, const struct path *at, const ProtobufCMessage *m);
// True when the field's value is an envgate.v1.Payload without content, which is left out.
bool payload_is_unset(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f);

#endif
