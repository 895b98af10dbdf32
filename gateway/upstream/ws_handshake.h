// SPDX-License-Identifier: Apache-2.0
// The opening handshake of WebSockets (RFC 6455 section 4), without I/O: a client's, and what a server needs of it.
#ifndef ENVGATE_UPSTREAM_WS_HANDSHAKE_H
#define ENVGATE_UPSTREAM_WS_HANDSHAKE_H

#include "base/buf.h"
#include "base/str.h"
#include "config/config.h"

enum { WS_HEAD_MAX = 8192 };

// What the server must answer to our key.
struct ws_accept {
  char text[29];
};

// Appends the upgrade request, with a key of its own, to `out`. `headers` are the endpoint's, `more` the session's; both may be NULL. False when out
// of memory.
bool ws_handshake_request(struct buf *out, const char *host, const char *base, const char *path, const struct pairs *headers,
                          const struct pairs *more, struct ws_accept *accept);

enum ws_handshake {
  WS_HANDSHAKE_MORE,   // the head is not whole yet
  WS_HANDSHAKE_OK,     // 101, and all is as it must be: frames begin at *head
  WS_HANDSHAKE_STATUS, // another status: *status
  WS_HANDSHAKE_BAD,    // *problem, a static text
};

// Reads the head of the reply from all bytes that have come so far.
enum ws_handshake ws_handshake_reply(struct str bytes, const struct ws_accept *accept, size_t *head, int *status, const char **problem);

// What a server answers to a client's Sec-WebSocket-Key. False: it is no key.
bool ws_handshake_accept(struct str key, struct ws_accept *accept);

// Whether a comma separated list, such as a Connection header's, has the token, in any case.
bool ws_handshake_lists(struct str list, struct str token);

#endif
