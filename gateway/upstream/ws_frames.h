// SPDX-License-Identifier: Apache-2.0
// WebSocket frames (RFC 6455), without I/O: bytes in, events out; and the other way round. wslay reads and writes the frames. For both ends: a client, whose
// frames are masked and the server's are not (ws_client.c), and a server (front/websocket.c).
#ifndef ENVGATE_UPSTREAM_WS_FRAMES_H
#define ENVGATE_UPSTREAM_WS_FRAMES_H

#include "base/buf.h"
#include "base/id.h"
#include "base/str.h"

// RFC 6455 section 7.4.1
enum {
  WS_CODE_NORMAL = 1000,
  WS_CODE_GOING_AWAY = 1001,
  WS_CODE_PROTOCOL_ERROR = 1002,
  WS_CODE_UNSUPPORTED = 1003,
  WS_CODE_NONE = 1005, // a close frame without a code
  WS_CODE_BAD_TEXT = 1007,
  WS_CODE_POLICY = 1008,
  WS_CODE_TOO_BIG = 1009,
  WS_CODE_INTERNAL = 1011,
  WS_CODE_RESTART = 1012,
};

// RFC 6455 section 5.2
enum ws_opcode { WS_CONTINUATION = 0, WS_TEXT = 1, WS_BINARY = 2, WS_CLOSE = 8, WS_PING = 9, WS_PONG = 10 };

// A coder is wslay's state with its 4 KiB buffer. Between two frames it holds nothing, so the sockets of a thread borrow from a few: an idle
// socket has none.
struct ws_coder;
struct ws_coders {
  struct ws_coder *idle; // a stack
  int n_idle;
  struct shared_pool messages; // must outlive every message that was read
  struct ws_coder *writer;     // writes whole frames only, so one serves all
  struct random_pool random;   // for masking keys
  bool server;                 // the peers are clients; to be set before the first use
};

// False when out of memory. It must not move once it is in use.
bool ws_coders_init(struct ws_coders *c);
void ws_coders_free(struct ws_coders *c);

// The receiving side of one socket. Zeroed, with coders and max_message set, it is ready.
struct ws_frames {
  struct ws_coders *coders;
  size_t max_message;
  bool takes_binary;      // a binary message is a message, too, not an error
  bool binary;            // the message that has begun is binary
  struct ws_coder *coder; // borrowed while a frame is only partly here
  struct buf message;     // what has come of the message
  bool in_message;        // a message has begun
  bool over;              // no more events: after a close frame or an error
};

enum ws_event_type {
  WS_EVENT_NONE, // all bytes are used up
  WS_EVENT_MESSAGE, // `message`, whose reference passes to the caller; text unless `binary`, and not checked to be UTF-8. A NUL follows that is not counted.
  WS_EVENT_PING, // `payload` wants to go back in a pong
  WS_EVENT_PONG,
  WS_EVENT_CLOSE, // `code` and `payload`, the reason
  WS_EVENT_ERROR, // the peer broke the protocol or a limit: `problem` says how, and `code` fits into a close frame
};

struct ws_event {
  struct shared *message;
  bool binary;
  struct str payload; // valid until the next call
  int code;
  const char *problem; // a static text
};

// Reads from the front of `in`, and moves it, until something happens.
enum ws_event_type ws_frames_read(struct ws_frames *f, struct str *in, struct ws_event *ev);

// Where the next bytes of a large frame may be received, so that they need not be copied: how many, and `to`. 0: the next bytes are for ws_frames_read, as all
// of a client's are, which are masked.
size_t ws_frames_room(struct ws_frames *f, char **to);
// `n` bytes have been received there; what ws_frames_read would say of them.
enum ws_event_type ws_frames_received(struct ws_frames *f, size_t n, struct ws_event *ev);

// How large the message that is coming in will be, as far as its frames have announced; 0: none is half here.
size_t ws_frames_coming(const struct ws_frames *f);

// Gives back what it holds.
void ws_frames_free(struct ws_frames *f);

// Appends one frame with the pieces as its payload, masked if we are the client. False when out of memory or over out's max (nothing is appended), or when a
// control frame has over 125 bytes.
bool ws_frames_write(struct ws_coders *c, enum ws_opcode opcode, const struct str *pieces, int n, struct buf *out);

// A server's: appends only the header of a frame with `n` bytes of payload, which its owner sends behind it. False when out of memory.
bool ws_frames_write_header(struct ws_coders *c, enum ws_opcode opcode, size_t n, struct buf *out);

// ws_frames_write for a close frame with a code and no reason.
bool ws_frames_write_close(struct ws_coders *c, int code, struct buf *out);

#endif
