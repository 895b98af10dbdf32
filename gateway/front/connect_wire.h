// SPDX-License-Identifier: Apache-2.0
// What Connect puts into headers, queries and bodies, as bytes in and bytes out, without I/O: https://connectrpc.com/docs/protocol. Its streams are made of
// grpc_wire.h's frames.
#ifndef ENVGATE_FRONT_CONNECT_WIRE_H
#define ENVGATE_FRONT_CONNECT_WIRE_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/clock.h"
#include "rpc/rpc.h"

// The flag of a stream's last frame.
enum { CONNECT_END = 2 };

// A content-type of Connect's, with whatever parameters: application/proto and application/json for unary calls, application/connect+proto and
// application/connect+json for streams. False: another.
bool connect_content_type(struct str value, bool *stream, enum codec *codec);

// The value of connect-timeout-ms: one to ten digits. False: it is none.
bool connect_timeout(struct str value, nsec *timeout);

// A call by GET. The strings lie in the arena or in the query.
struct connect_get {
  enum codec codec;
  struct str message;
  bool gzip;
};
// Reads "encoding=json&message=…&base64=1&compression=gzip&connect=v1". Parameters that it does not know are passed over. False: `e`; *unsupported says that
// it is the encoding that is not known, for which HTTP has a status of its own.
bool connect_query(struct str query, struct arena *a, struct connect_get *get, bool *unsupported, struct err *e);

// The HTTP status of a unary call's error.
int connect_http_status(enum code code);

// Appends an error as JSON: {"code": "not_found", "message": …, "details": [{"type": …, "value": base64}]}. `c` (may be NULL) has details of its own. False:
// out of memory.
bool connect_error(const struct call *c, const struct err *e, struct buf *out);

// Appends a stream's last message: {"error": …, "metadata": {name: [value, …]}}. `e` is NULL for a good end. False: out of memory.
bool connect_end(const struct call *c, const struct err *e, struct buf *out);

#endif
