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

// What the first bytes of a connection say: HTTP/2's preface ("PRI * HTTP/2.0"), something else, or too little yet. No HTTP/1 method begins with
// "PRI", so three bytes tell.
enum grpc_sniff { GRPC_SNIFF_MORE, GRPC_SNIFF_HTTP2, GRPC_SNIFF_OTHER };
enum grpc_sniff grpc_sniff(struct str first);

// The value of grpc-timeout: one to eight digits and a unit out of H M S m u n. False: it is none.
bool grpc_timeout(struct str value, nsec *timeout);

// The codec of a content-type: application/grpc, application/grpc+proto or application/grpc+json, with or without parameters. False: another.
bool grpc_content_type(struct str value, enum codec *codec);

// Cuts a stream of bytes into messages: a flag byte, four bytes of length, and as many bytes. Zeroed with `max` set it is ready.
struct grpc_frames {
  size_t max; // of a message
  uint8_t prefix[5];
  unsigned prefix_n;
  struct buf body; // a message that came in pieces
};
enum grpc_frame {
  GRPC_FRAME_NONE,       // all of the input is taken, and no message is complete
  GRPC_FRAME_MESSAGE,    // there is one
  GRPC_FRAME_TOO_LARGE,  // it would be over max
  GRPC_FRAME_COMPRESSED, // its flag says compressed, or what no version defines
  GRPC_FRAME_NOMEM,
};
// Takes bytes from the front of `in` up to the end of a message. `message` lies in `in`'s bytes or in `f`, until the next call. After a failure
// `f` is only good for grpc_frames_free.
enum grpc_frame grpc_frames_next(struct grpc_frames *f, struct str *in, struct str *message);

// True when no message is half there.
static inline bool grpc_frames_whole(const struct grpc_frames *f)
{
  return f->prefix_n == 0;
}

// Frees and empties it.
void grpc_frames_free(struct grpc_frames *f);

enum { GRPC_PREFIX = 5 };
// Writes the prefix of a message of `n` bytes. False: four bytes can't say `n`.
bool grpc_prefix(uint8_t to[GRPC_PREFIX], size_t n);

// Appends `text` percent-encoded, as grpc-message has it. At out->max it ends early, between characters. False: out of memory with nothing added.
bool grpc_percent_encode(struct str text, struct buf *out);

// Appends base64 without padding, as "-bin" headers have it. False: out of memory or over out->max.
bool grpc_base64(struct str bytes, struct buf *out);

#endif
