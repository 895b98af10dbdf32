// SPDX-License-Identifier: Apache-2.0
// Who is at the other end of a connection: an address, the names in a client certificate, and the token that it showed last.
#ifndef ENVGATE_AUTH_PEER_H
#define ENVGATE_AUTH_PEER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/str.h"

enum {
  PEER_ADDRESS = 56,   // "[" + INET6_ADDRSTRLEN + "]:65535"
  PEER_NAMES_MAX = 16, // of a certificate
  PEER_NAME_MAX = 512, // bytes
};

// A name that a client certificate has, as credentials are written: "uri:spiffe://…", "dns:…", "cn:…".
struct peer_names {
  char *at[PEER_NAMES_MAX];
  size_t n;
};

struct principal;
// Who a caller is. By value: it outlives the credential that it came from. Zeroed: nobody in particular, as everybody is without auth_file.
struct identity {
  struct principal *principal; // lives as long as the gateway
  unsigned scopes;             // of enum scope
};

// Lies in its connection; used by its reactor only.
struct peer {
  char address[PEER_ADDRESS]; // "192.0.2.1:50000", "[2001:db8::1]:50000", "unix"
  bool local;                 // by the loopback or a unix socket
  bool tls;                   // encrypted
  struct peer_names *names;   // of a certificate that was verified; NULL: there is none

  // auth.c's own: what was found last, so that a call costs a comparison
  uint64_t generation; // of the credentials it was found in; 0: nothing was found
  char *token;         // NULL: the certificate
  size_t token_n;
  struct identity who;
};

// Begins with an address.
void peer_init(struct peer *p, const struct sockaddr *address);

// Takes the names of the client certificate of a TLS connection, if it has one. False: out of memory.
struct ssl_st;
bool peer_take_names(struct peer *p, const struct ssl_st *ssl);

// Moves it: `from` owns nothing afterwards.
void peer_move(struct peer *to, struct peer *from);

// Forgets the token, cleaned from memory.
void peer_forget(struct peer *p);
// Frees what it owns.
void peer_free(struct peer *p);

#endif
