// SPDX-License-Identifier: Apache-2.0
// The HTTP/1 front: Connect, gRPC-Web, REST by google.api.http, and the site's own paths (/healthz, /readyz, /metrics, /openapi.json).
//
// Each reactor has a libmicrohttpd daemon without a thread or listening socket; its epoll descriptor is nested in the reactor's loop.
//
// A connection that the caller closes, if only its writing half, counts as gone: the call that runs on it is cancelled.
#ifndef ENVGATE_FRONT_HTTP_H
#define ENVGATE_FRONT_HTTP_H

#include <stdbool.h>
#include <sys/socket.h>

#include "auth/peer.h"
#include "front/http_site.h"
#include "runtime/reactor.h"

// Sets up a reactor's part; rpc_init must have run. The site must outlive it. False when out of memory.
bool http_front_init(struct reactor *r, const struct http_site *site);

// Takes over an accepted socket, whose bytes are still unread, and the peer. It is closed even when this returns false: out of memory or descriptors.
bool http_front_accept(struct reactor *r, int fd, const struct sockaddr *addr, socklen_t len, struct peer *peer);

// Connections open now.
int http_front_count(const struct reactor *r);

// Ends keep-alive: idle connections are closed at once, others after the reply they wait for.
void http_front_drain(struct reactor *r);

// Closes every connection, running calls or not, and frees. Before rpc_free. NULL parts are fine.
void http_front_free(struct reactor *r);

#endif
