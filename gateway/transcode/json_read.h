// SPDX-License-Identifier: Apache-2.0
// Private to transcode/: what json_read.c (any message) and wellknown_read.c (those with a JSON form of their own) share.
#ifndef ENVGATE_TRANSCODE_JSON_READ_H
#define ENVGATE_TRANSCODE_JSON_READ_H

#include "base/json.h"
#include "transcode/message.h"
#include "transcode/transcode.h"

// Each function passes one JSON value and returns false with `e` filled. The scanner's limit of depth bounds their recursion.
struct reader {
  struct json j;
  const struct transcode_options *o;
  struct arena *a;
  struct err *e;
  bool skipped; // the value last read was an enum's unknown name, and those are ignored: it is to be left out
};

// The error of a scanner that has failed, and of a value that is not `what`. Both return false.
bool read_failed(const struct reader *r, const struct path *at);
bool read_expected(const struct reader *r, const struct path *at, const char *what);

// A string without its escapes; not ended by NUL, and it may lie in the input.
bool read_string(struct reader *r, const struct path *at, const char *what, struct str *text);
// The value's span, of any type, validated.
bool read_span(struct reader *r, const struct path *at, struct str *span);

// One value of the field's type (an element, if the field is repeated) into its zeroed place.
bool read_value(struct reader *r, const struct path *at, const ProtobufCFieldDescriptor *f, void *slot);
bool read_array(struct reader *r, const struct path *at, ProtobufCMessage *m, const ProtobufCFieldDescriptor *f);
bool read_map(struct reader *r, const struct path *at, ProtobufCMessage *m, const ProtobufCFieldDescriptor *f);
// An object's members as the message's fields; "@type" is passed over where `any` is set.
bool read_object(struct reader *r, const struct path *at, ProtobufCMessage *m, bool any);

// In scalar_read.c. What a field of that type takes, in words.
const char *scalar_words(const ProtobufCFieldDescriptor *f);
// A scalar from its text without quotes, copied into the arena where it is longer than its place. For an enum's unknown name see reader.skipped.
bool scalar_from_text(struct reader *r, const struct path *at, const ProtobufCFieldDescriptor *f, struct str text, void *slot);

// In wellknown_read.c: a message from the JSON form of its type.
bool read_message(struct reader *r, const struct path *at, ProtobufCMessage *m);
// The same for those that are a string in JSON; false for all others, too.
bool message_from_text(struct reader *r, const struct path *at, ProtobufCMessage *m, struct str text);
// Appends members, each as `"key": value`, to the object that an envgate.v1.Payload field has, or makes it.
bool payload_append(struct reader *r, const struct path *at, ProtobufCMessage *m, const ProtobufCFieldDescriptor *f, struct str members);

#endif
