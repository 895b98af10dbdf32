// SPDX-License-Identifier: Apache-2.0
// What gRPC-Web has that gRPC has not, as bytes in and bytes out, without I/O: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md. Its
// messages are grpc_wire.h's frames.
#ifndef ENVGATE_FRONT_GRPC_WEB_WIRE_H
#define ENVGATE_FRONT_GRPC_WEB_WIRE_H

#include "rpc/rpc.h"

// The flag of the last frame, which has the trailers.
enum { GRPC_WEB_TRAILERS = 0x80 };

// application/grpc-web and application/grpc-web-text, with or without +proto or +json, with whatever parameters. False: another.
bool grpc_web_content_type(struct str value, bool *text, enum codec *codec);

// Appends the trailers of a call's end as a block of HTTP/1 header fields. `e` is NULL for a good end. False: out of memory.
bool grpc_web_trailers(const struct call *c, const struct err *e, struct buf *out);

// Decodes base64 that comes in pieces, and may be several encodings one behind the other, each with its padding. Zeroed, it is ready.
struct grpc_web_text {
  char four[4];
  unsigned n;
};
// Appends what `in` gives. False: it is no base64, or out of memory.
bool grpc_web_text_decode(struct grpc_web_text *t, struct str in, struct buf *out);
// True when nothing is half there.
static inline bool grpc_web_text_whole(const struct grpc_web_text *t)
{
  return t->n == 0;
}

// Appends base64 with padding: a piece that stands on its own. False: out of memory.
bool grpc_web_text_encode(struct str bytes, struct buf *out);

#endif
