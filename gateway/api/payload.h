// SPDX-License-Identifier: Apache-2.0
// envgate.v1.Payload between messages and JSON bytes, and what the handlers share.
#ifndef ENVGATE_API_PAYLOAD_H
#define ENVGATE_API_PAYLOAD_H

#include "base/json.h"
#include "envgate/v1/payload.pb-c.h"
#include "google/protobuf/timestamp.pb-c.h"
#include "rpc/rpc.h"

// What payloads are read and written for: a call, or a part of one that may outlive it.
struct payload_scope {
  struct arena *arena; // for what has to be made
  const struct config *config;
  enum codec codec; // of the reply
};
struct payload_scope payload_scope(struct call *c);

// The payload's JSON: its own bytes after one validating scan, or its value written out into the arena. NULL payload: "" . `type` gets the value's type. False: `e`
// names `field`.
bool payload_read(const struct payload_scope *scope, const Envgate__V1__Payload *p, const char *field, struct str *json, enum json_type *type,
                  struct err *e);

// Fills `p` with valid JSON in a format; JSON codecs splice the bytes whatever the format. The message points to `json`, which must live until the reply is
// written. "" leaves *slot NULL. False: `e`.
bool payload_write(const struct payload_scope *scope, struct str json, Envgate__V1__PayloadFormat format, Envgate__V1__Payload *p,
                   Envgate__V1__Payload **slot, struct err *e);

// A format that a request names must be one there is.
bool payload_format_check(Envgate__V1__PayloadFormat format, struct err *e);
// The format to write in: the request's own wish, or what the session says.
Envgate__V1__PayloadFormat payload_format_choose(Envgate__V1__PayloadFormat wish, int fallback);

// "collection/{id}" or (where `bare`) "{id}": the id. False: INVALID_ARGUMENT for `field`.
bool resource_id(const char *name, const char *collection, bool bare, const char *field, struct str *id, struct err *e);

// The environment that "environments/{environment}" or (where `bare`) "{environment}" names. NULL: `e`.
const struct env_config *environment_of_name(const struct config *config, const char *name, bool bare, const char *field, struct err *e);

// A time on the wall clock; NULL when out of memory.
Google__Protobuf__Timestamp *timestamp_message(struct arena *a, nsec wall);

// protobuf-c's members are not const, though it never writes to what it encodes.
char *unconst(const char *s);

// Ends the call with an error.
void fail(struct call *c, const struct err *e);

#endif
