// SPDX-License-Identifier: Apache-2.0
// Whether a worker is ready, and which dialect it speaks: GET /health until it answers, then one try of the `/ws` upgrade.
#ifndef ENVGATE_POOL_READINESS_H
#define ENVGATE_POOL_READINESS_H

#include "upstream/http_client.h"
#include "worker/protocol.h"

struct readiness;

// Called once, when the worker is ready (e NULL) or was not by the deadline (DEADLINE_EXCEEDED with what was last seen of it). The readiness is freed by then.
typedef void readiness_done(void *ctx, enum worker_dialect dialect, const struct err *e);

// Begins. `ep` must live until it is done or cancelled. NULL: out of memory. `done` is never called inside.
struct readiness *readiness_start(struct reactor *r, const struct endpoint *ep, nsec deadline, readiness_done *done, void *ctx);

// Gives up; `done` is not called. NULL is fine.
void readiness_cancel(struct readiness *q);

#endif
