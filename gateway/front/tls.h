// SPDX-License-Identifier: Apache-2.0
// TLS on the one port, by OpenSSL, which is the only TLS library of the program.
//
// A connection whose first byte begins a TLS record comes here for its handshake. Then ALPN decides: an HTTP/2 connection reads and writes through tls_recv and
// tls_send itself; HTTP/1.1's gets plain bytes through a socket pair (tls_pump.c), since libmicrohttpd wants a descriptor and its own TLS is another library. A
// client without ALPN is told apart by its first bytes, as without TLS.
//
// Certificate, key and client CAs are taken up anew when their files change: reactor 0 makes the context and every reactor gets it by mail. Connections keep
// the context that they began with. What was wrong with new files is logged, and the old ones stay.
#ifndef ENVGATE_FRONT_TLS_H
#define ENVGATE_FRONT_TLS_H

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "auth/peer.h"
#include "base/err.h"
#include "runtime/reactor.h"

struct ssl_st; // OpenSSL's SSL

// A TLS record's first byte: a handshake.
enum { TLS_FIRST_BYTE = 0x16 };

// Makes r->tls if the configuration has a certificate. Reactor 0 first. False: `e` names the file and the fault.
bool tls_init(struct reactor *r, struct err *e);
// Closes the handshakes under way and takes no more.
void tls_stop(struct reactor *r);
void tls_free(struct reactor *r);

// Takes over a connection that has begun with TLS_FIRST_BYTE, of which nothing has been read, and the peer. The descriptor is non-blocking. Beyond
// tls_max_handshakes it waits for its turn; `give_up` ends both.
void tls_accept(struct reactor *r, int fd, struct peer *peer, const struct sockaddr_storage *address, socklen_t address_n, nsec give_up);

// How many connections are still here: in their handshake, or HTTP/1.1's with bytes that have not gone out.
int tls_count(const struct reactor *r);

// As recv(2) and send(2) of a non-blocking socket, with errno: EAGAIN, or anything else for a connection that is over. 0 from tls_recv: the peer said that it has
// ended. What could not be sent must be offered again, from any address, with nothing before it.
ssize_t tls_recv(struct ssl_st *ssl, void *p, size_t n);
ssize_t tls_send(struct ssl_st *ssl, const void *p, size_t n);
// True when bytes were read from the socket that tls_recv has not given out: the descriptor does not tell of them.
bool tls_holds(const struct ssl_st *ssl);
// Says that no more will be sent (close_notify).
void tls_end(struct ssl_st *ssl);
// Frees it; the descriptor stays open. NULL is fine.
void tls_close(struct ssl_st *ssl);

#endif
