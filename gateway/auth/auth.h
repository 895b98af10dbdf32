// SPDX-License-Identifier: Apache-2.0
// Who may call what. Without auth_file everybody may call everything; with it each call needs a credential that is in the file: a bearer token, or a client
// certificate.
//
// Reactor 0 reads the file, again when it changes, and every reactor gets the new credentials by mail; they are never written to after that. What has been taken away
// is refused from the next call on; calls under way end as they would. A connection remembers the token that it showed last and who that is, so that a call costs
// one comparison, in constant time, and no hashing.
#ifndef ENVGATE_AUTH_AUTH_H
#define ENVGATE_AUTH_AUTH_H

#include "auth/credentials.h"
#include "auth/peer.h"
#include "runtime/reactor.h"

// Makes r->auth if the configuration has an auth_file. Reactor 0 first. False: `e`.
bool auth_init(struct reactor *r, struct err *e);
// NULL is fine. The principals go with reactor 0's, which must be the last.
void auth_free(struct reactor *r);

// Who a call's caller is, by its Authorization header ("": none) and its connection (NULL: none), and whether the method's scopes allow it. False: UNAUTHENTICATED
// or PERMISSION_DENIED in `e`. Without auth, or for methods that anyone may call: true, with nobody in `who`.
bool auth_check(struct reactor *r, struct peer *peer, struct str authorization, unsigned scopes, struct identity *who, struct err *e);

// True when a session of that owner is there for a caller: its own; everybody's for admins, and without auth.
static inline bool auth_owns(struct identity who, const struct principal *owner)
{
  return !who.principal || who.principal == owner || (who.scopes & SCOPE_ADMIN);
}

#endif
