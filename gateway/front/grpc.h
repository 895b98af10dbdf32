// SPDX-License-Identifier: Apache-2.0
// The HTTP/2 front: connections on one side (nghttp2), calls of rpc/rpc.h on the other. gRPC has the short way; every other protocol goes by
// http_request.h, as on HTTP/1. A reactor has one, used by its thread only.
#ifndef ENVGATE_FRONT_GRPC_H
#define ENVGATE_FRONT_GRPC_H

#include <stdbool.h>

#include "auth/peer.h"
#include "base/err.h"
#include "front/http_site.h"
#include "runtime/reactor.h"

struct ssl_st; // OpenSSL's SSL

// Makes r->grpc_front. After rpc_init; the site must outlive it.
bool grpc_front_init(struct reactor *r, const struct http_site *site, struct err *e);

// Takes over a connection whose first bytes are HTTP/2's preface; nothing of it has been read. The descriptor is non-blocking. `ssl` (NULL: plaintext) and the
// peer are taken over, too. It is counted in the metrics from here on. It is closed even when this returns false: out of memory.
bool grpc_front_accept(struct reactor *r, int fd, struct ssl_st *ssl, struct peer *peer);

// Asks every connection to go (GOAWAY): calls under way finish, new ones are refused in a way that lets clients try elsewhere.
void grpc_front_drain(struct reactor *r);

// How many connections are open.
int grpc_front_count(const struct reactor *r);

// True while a call is open or a reply is not yet in the kernel's hands: closing now would lose it.
bool grpc_front_busy(const struct reactor *r);

// Cancels every call, closes every connection and frees the front. NULL fronts are fine. Before rpc_free.
void grpc_front_free(struct reactor *r);

#endif
