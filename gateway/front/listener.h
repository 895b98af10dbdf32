// SPDX-License-Identifier: Apache-2.0
// The one port: accepts connections, looks at their first bytes, and hands them to TLS, the gRPC or the HTTP/1 front.
//
// Each reactor has its own. On TCP each has a socket of its own too (SO_REUSEPORT), and the kernel spreads the connections; a unix socket is
// bound by reactor 0 and shared.
#ifndef ENVGATE_FRONT_LISTENER_H
#define ENVGATE_FRONT_LISTENER_H

#include <stdbool.h>

#include "base/err.h"
#include "runtime/reactor.h"

// Makes r->listener and listens on `where`: "HOST:PORT" ("[::1]:8080" for IPv6, port 0 for a free one) or "unix:/path". Both fronts must be there.
// Reactor 0's must be opened first; the others take the port or the socket from it, so this runs before the reactors' threads do. A socket file
// that nobody listens on any more is replaced; an address in use is an error.
bool listener_open(struct reactor *r, const char *where, struct err *e);

// The address that it listens on, with the port that the kernel chose: "127.0.0.1:8080", "[::1]:8080", "unix:/path".
const char *listener_address(const struct reactor *r);

// True when only this machine can reach it: a loopback address or a unix socket.
bool listener_is_local(const struct reactor *r);

// Accepts no more; connections that have not sent a byte yet are closed.
void listener_stop(struct reactor *r);

// Stops and frees it; on reactor 0 this removes the socket file. NULL listeners are fine.
void listener_free(struct reactor *r);

#endif
