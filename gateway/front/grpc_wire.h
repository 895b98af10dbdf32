// SPDX-License-Identifier: Apache-2.0
// What gRPC puts into HTTP/2's headers and data, as bytes in and bytes out, without I/O:
// https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
#ifndef ENVGATE_FRONT_GRPC_WIRE_H
#define ENVGATE_FRONT_GRPC_WIRE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/str.h"
#include "rpc/rpc.h"

// What the first bytes of a connection say: HTTP/2's preface ("PRI * HTTP/2.0"), something else, too little yet, or what is neither HTTP/2 nor HTTP/1: two words
// of which the second is no request target. No HTTP/1 method begins with "PRI", so three bytes tell HTTP/2.
enum { GRPC_SNIFF_MOST = 32 }; // it looks at no more bytes
enum grpc_sniff { GRPC_SNIFF_MORE, GRPC_SNIFF_HTTP2, GRPC_SNIFF_OTHER, GRPC_SNIFF_NEITHER };
enum grpc_sniff grpc_sniff(struct str first);

// The value of grpc-timeout: one to eight digits and a unit out of H M S m u n. False: it is none.
bool grpc_timeout(struct str value, nsec *timeout);

// The codec of a content-type: application/grpc, application/grpc+proto or application/grpc+json, with or without parameters. False: another.
bool grpc_content_type(struct str value, enum codec *codec);

// The flag of a compressed message.
enum { GRPC_COMPRESSED = 1 };

// What may follow "application/grpc" in a content-type: nothing, +proto or +json, and parameters. False: something else.
bool grpc_subtype(struct str rest, enum codec *codec);

// Cuts a stream of bytes into messages: a flag byte, four bytes of length, and as many bytes. Zeroed with `max` set it is ready. gRPC-Web and Connect have the
// same frames.
struct grpc_frames {
  size_t max;      // of a message
  uint8_t allowed; // the flags that a message may have
  uint8_t prefix[5];
  unsigned prefix_n;
  struct buf body;  // a message that came in pieces
  struct buf plain; // one that was compressed
};
enum grpc_frame {
  GRPC_FRAME_NONE,      // all of the input is taken, and no message is complete
  GRPC_FRAME_MESSAGE,   // there is one
  GRPC_FRAME_TOO_LARGE, // it would be over max
  GRPC_FRAME_FLAG,      // it has a flag that is not allowed
  GRPC_FRAME_NOMEM,
};
// Takes bytes from the front of `in` up to the end of a message, whose flags are then f->prefix[0]. `message` lies in `in`'s bytes or in `f`, until the next call. After a failure
// `f` is only good for grpc_frames_free.
enum grpc_frame grpc_frames_next(struct grpc_frames *f, struct str *in, struct str *message);

// The same for those who answer with an error: true when there is a message, decompressed if need be; false with e->code set, or CODE_OK when more is to come.
bool grpc_next_message(struct grpc_frames *f, struct str *in, struct str *message, struct err *e);

// True when no message is half there.
static inline bool grpc_frames_whole(const struct grpc_frames *f)
{
  return f->prefix_n == 0;
}

// Frees and empties it.
void grpc_frames_free(struct grpc_frames *f);

enum { GRPC_PREFIX = 5 };
// Writes the prefix of a message of `n` bytes. False: four bytes can't say `n`.
bool grpc_prefix(uint8_t to[GRPC_PREFIX], uint8_t flags, size_t n);

// Decompresses a message whose flag says so; no bytes are an empty message. `out` is empty, and its max is that of a message. False: INTERNAL, or
// RESOURCE_EXHAUSTED when it would be over max.
bool grpc_unzip(struct str message, struct buf *out, struct err *e);

// Compresses a message in place where that is worth its time, and sets GRPC_COMPRESSED in *flags. Left alone when out of memory.
void grpc_zip(struct buf *message, uint8_t *flags);

// Appends `text` percent-encoded, as grpc-message has it. At out->max it ends early, between characters. False: out of memory with nothing added.
bool grpc_percent_encode(struct str text, struct buf *out);

// Appends base64 without padding, as "-bin" headers have it. False: out of memory or over out->max.
bool grpc_base64(struct str bytes, struct buf *out);

#endif
