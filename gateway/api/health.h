// SPDX-License-Identifier: Apache-2.0
// grpc.health.v1.Health for "" (the gateway), each of its services, and each environment ("environments/{environment}": NOT_SERVING while its launches keep
// failing and no worker of it is ready): Check, List, and Watch, which tells of each change.
#ifndef ENVGATE_API_HEALTH_H
#define ENVGATE_API_HEALTH_H

#include <stdbool.h>

#include "rpc/rpc.h"
#include "runtime/reactor.h"

// Rows for rpc_init; ends with a NULL path.
extern const struct rpc_handler health_handlers[];

// Makes r->health, which says SERVING. False: out of memory.
bool health_init(struct reactor *r);

// SERVING or NOT_SERVING, for this reactor's callers. Watchers are told; with NOT_SERVING, which is for good, their streams then end with
// UNAVAILABLE (DRAINING), so that they don't hold up the drain.
void health_set_serving(struct reactor *r, bool serving);

// Tells the watchers of environments on this reactor what has changed. On its thread.
void health_changed(struct reactor *r);

// After the fronts are freed. NULL is fine.
void health_free(struct reactor *r);

#endif
