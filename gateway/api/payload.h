// SPDX-License-Identifier: Apache-2.0
// envgate.v1.Payload between messages and JSON bytes, and what the handlers share.
#ifndef ENVGATE_API_PAYLOAD_H
#define ENVGATE_API_PAYLOAD_H

#include "base/json.h"
#include "envgate/v1/payload.pb-c.h"
#include "google/protobuf/timestamp.pb-c.h"
#include "rpc/rpc.h"
#include "transcode/tensors.h"

// What payloads are read and written for: a call, or a part of one that may outlive it.
struct payload_scope {
  struct arena *arena; // for what has to be made
  const struct config *config;
  enum codec codec;      // of the reply
  struct buf_pool *bufs; // of the reactor where that is
  size_t room;           // how many bytes payloads in tensor form may have
};
struct payload_scope payload_scope(struct call *c);

// The payload's JSON: its own bytes after one validating scan, or its value written out into the arena. NULL payload: "" . `type` gets the value's type. False: `e`
// names `field`.
bool payload_read(const struct payload_scope *scope, const Envgate__V1__Payload *p, const char *field, struct str *json, enum json_type *type,
                  struct err *e);

// The JSON of a request's tensors, or of their row of that number, in the arena. False: `e`.
bool payload_of_tensors(const struct payload_scope *scope, const struct tensor_writer *w, size_t row, struct str *json, struct err *e);

// Fills `p` with valid JSON in a format, where tensors are JSON, too (see payload_write_by); JSON codecs splice the bytes whatever the format. The message points to `json`, which must live until the reply is
// written. "" leaves *slot NULL. False: `e`.
bool payload_write(const struct payload_scope *scope, struct str json, Envgate__V1__PayloadFormat format, Envgate__V1__Payload *p,
                   Envgate__V1__Payload **slot, struct err *e);

// A format that a request names must be one there is.
bool payload_format_check(Envgate__V1__PayloadFormat format, struct err *e);
// The format to write in: the request's own wish, or what the session says.
Envgate__V1__PayloadFormat payload_format_choose(Envgate__V1__PayloadFormat wish, int fallback);

// How payloads are to be written.
struct payload_terms {
  Envgate__V1__PayloadFormat format;
  const struct tensor_specs *tensors; // NULL: none
};

// A request's own terms, checked, in the arena. False: `e`.
bool payload_terms_read(struct arena *a, Envgate__V1__PayloadFormat format, Envgate__V1__TensorSpec *const *tensors, size_t n,
                        struct payload_terms *terms, struct err *e);
// The terms to write by: where a request does not say, `fallback`, and so on.
struct payload_terms payload_terms_choose(struct payload_terms own, struct payload_terms fallback);
// Tensors must be named where they are asked for. False: INVALID_ARGUMENT.
bool payload_terms_check(const struct payload_terms *terms, struct err *e);

// The bytes of a payload in tensor form, which no other form has.
struct payload_bytes {
  struct buf data, rest;
};

// The same as payload_write by all terms. The message points to `json` and into `bytes`, which is empty and the caller's to give back.
bool payload_write_by(const struct payload_scope *scope, struct str json, const struct payload_terms *terms, Envgate__V1__Payload *p,
                      Envgate__V1__Payload **slot, struct payload_bytes *bytes, struct err *e);
// Empties it. The pool is of this thread.
void payload_bytes_return(struct buf_pool *pool, struct payload_bytes *bytes);

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
