// SPDX-License-Identifier: Apache-2.0
// Reset, Step and GetState, and what other handlers share with them.
#ifndef ENVGATE_API_EPISODES_H
#define ENVGATE_API_EPISODES_H

#include "api/payload.h"
#include "envgate/v1/session_service.pb-c.h"
#include "rpc/rpc.h"
#include "session/session.h"

void reset_start(struct call *c);
void step_start(struct call *c);
void get_state_start(struct call *c);
void episode_cancel(struct call *c, struct err *e);

// The session that a Reset, Step or GetState request names.
const char *episode_session_name(const struct call *c);

// The reactor that a session's resource name points to; that of `near` for what is no name of ours.
int reactor_of_name(const struct reactor *near, const char *name);

// The caller's session of a resource name, with its lease renewed. NULL: `e`, for `field`. Another principal's session is none.
struct session *session_of_name(struct reactor *r, struct identity who, const char *name, const char *field, struct err *e);
// The same for a call; NULL: the call has been ended with the error.
struct session *call_session(struct call *c, const char *name, const char *field);

bool request_id_check(struct str id, struct err *e);
bool timeout_check(double timeout_s, struct err *e);
// A request's own timeout_s, checked, as the call's deadline if that is earlier.
bool timeout_apply(struct call *c, double timeout_s, struct err *e);
// 0 becomes 100.
bool page_size_check(int32_t size, size_t *wanted, struct err *e);

// Checks a StepRequest and fills what a waiter asks of the session, with spans into `q` and the scope's arena, and the request's own terms. The session's name is not
// looked at. False: `e`.
bool step_read(const struct payload_scope *scope, const Envgate__V1__StepRequest *q, struct waiter *w, struct payload_terms *terms, struct err *e);
// The same for a ResetRequest.
bool reset_read(const struct payload_scope *scope, const Envgate__V1__ResetRequest *q, struct waiter *w, struct payload_terms *terms, struct err *e);

// How the session's payloads are written. Lives as long as the session.
struct payload_terms session_terms(const struct session *s);

// What a step that its caller no longer waits for has come to, as DEADLINE_EXCEEDED.
void step_overdue(enum session_left left, bool has_request_id, struct err *e);

// A StepResult with all that it points to.
struct step_reply {
  Envgate__V1__StepResult result;
  Envgate__V1__Timings timings;
  Envgate__V1__Payload observation, metadata;
  struct payload_bytes bytes; // the caller's to give back, whatever became of it
};

// Makes a result that has the outcome's numbers alone, without strings and payloads.
void step_result_fill(Envgate__V1__StepResult *result, const struct outcome *o);

// Fills it for one waiter whose call came at `arrived`. It points into `session`, the outcome and its own bytes. False: `e`.
bool step_reply_fill(struct step_reply *reply, const struct payload_scope *scope, const struct payload_terms *terms, const char *session,
                     const struct outcome *o, const struct waiter *w, nsec arrived, struct err *e);

#endif
