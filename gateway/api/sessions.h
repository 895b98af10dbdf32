// SPDX-License-Identifier: Apache-2.0
// What CreateSessions (creations.c) shares with CreateSession (sessions.c).
#ifndef ENVGATE_API_SESSIONS_H
#define ENVGATE_API_SESSIONS_H

#include "envgate/v1/session_service.pb-c.h"
#include "rpc/rpc.h"
#include "session/session.h"

// The session as a message, wholly in the arena; NULL when out of memory. `standing` may be NULL.
Envgate__V1__Session *session_message(const struct session *s, const struct standing *standing, struct arena *a);

// Where to create: the caller's connection's reactor; but a retry may come by another connection and must find what the first one made, so a request_id decides.
int create_route_by(const struct call *c, const char *request_id);
// A gRPC caller is answered somewhat before its own deadline, since it listens no longer than that.
void answer_in_time(struct call *c);
// Checks a request, whose timeout_s becomes the call's deadline, and makes of it what session_create wants. On success spec->env and spec->tensors are held. False: `e`.
bool create_spec(struct call *c, const Envgate__V1__CreateSessionRequest *q, struct session_spec *spec, struct err *e);
// Whether nothing is or will be launched for a PROVISIONING session whose name nobody has: then `e` says so.
bool create_hopeless(struct session *s, const struct standing *standing, struct err *e);

// CreateSessions, for rpc_handler.
int creations_route(const struct call *c);
void creations_start(struct call *c);
void creations_deadline(struct call *c);
void creations_cancel(struct call *c, struct err *e);

#endif
