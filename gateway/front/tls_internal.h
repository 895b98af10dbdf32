// SPDX-License-Identifier: Apache-2.0
// What tls.c (handshakes), tls_context.c (files) and tls_pump.c (HTTP/1.1) share. Nobody else includes it.
#ifndef ENVGATE_FRONT_TLS_INTERNAL_H
#define ENVGATE_FRONT_TLS_INTERNAL_H

#include <openssl/ssl.h>

#include "base/list.h"
#include "config/config.h"
#include "front/tls.h"
#include "runtime/reload.h"

enum { TLS_SCRATCH = 64 << 10 };

struct tls_front {
  struct reactor *r;
  SSL_CTX *context;       // a reference; the object is shared by all reactors
  struct list handshakes; // under way
  struct list waiting;    // connections that wait for a handshake's end
  int under_way, most;    // of the handshakes
  struct turn_end next;   // begins those that wait
  struct list pumps;
  int pump_count;
  bool stopped;
  nsec said;                 // the last time that the log was told of a failure
  struct reload reload;      // on reactor 0
  char scratch[TLS_SCRATCH]; // used within one callback only
};

// --- tls_context.c

// A context of the files that the configuration names. NULL: `e`.
SSL_CTX *tls_context_new(const struct config *c, struct err *e);
// Watches the files, on reactor 0, and gives every reactor's front a new context when they change. False: out of memory.
bool tls_context_watch(struct tls_front *f);
// The words for what OpenSSL has just failed at; empties its queue of errors.
const char *tls_why(void);

// --- tls_pump.c

// Takes over the descriptor, `ssl` and the peer, and hands libmicrohttpd the other end of a socket pair.
void tls_pump_open(struct tls_front *f, int fd, SSL *ssl, struct peer *peer, const struct sockaddr_storage *address, socklen_t address_n);
void tls_pumps_free(struct tls_front *f);

#endif
