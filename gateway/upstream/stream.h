// SPDX-License-Identifier: Apache-2.0
// A connected byte stream to an endpoint. libcurl connects it (DNS, TLS, unix socket). One without TLS is then a plain descriptor and costs
// nothing else; one with TLS keeps its libcurl handle.
#ifndef ENVGATE_UPSTREAM_STREAM_H
#define ENVGATE_UPSTREAM_STREAM_H

#include <sys/types.h>

#include "upstream/http_client.h"

struct stream_connector;

// Lies in its owner and must not move. Zeroed: closed.
struct stream {
  int fd;                             // may be watched once it is connected; 0: not connected
  struct stream_connector *connector; // while it connects; for ever with TLS
};

// Starts to connect. `done` is called once, never inside, unless stream_close comes first; `e` is NULL when it is connected, else UNAVAILABLE
// (WORKER_UNREACHABLE). False when out of memory.
bool stream_open(struct stream *s, struct reactor *r, const struct endpoint *ep, void (*done)(struct stream *s, const struct err *e));

enum { STREAM_AGAIN = -1, STREAM_FAILED = -2 };

// As read(2) and write(2), never blocking: how many bytes (0 from recv: the end), or one of the above. TLS may hold bytes that the
// descriptor does not show: read until STREAM_AGAIN.
ssize_t stream_recv(struct stream *s, void *p, size_t n);
ssize_t stream_send(struct stream *s, const void *p, size_t n);

static inline bool stream_is_tls(const struct stream *s)
{
  return s->connector != NULL;
}

// Closes it in any state. A watch on fd must have been closed before.
void stream_close(struct stream *s);

#endif
