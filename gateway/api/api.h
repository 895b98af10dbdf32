// SPDX-License-Identifier: Apache-2.0
// The handlers of envgate.v1: one function a method. They check requests, find the session or the environment, and write replies; what happens in between is
// the layers' below.
#ifndef ENVGATE_API_API_H
#define ENVGATE_API_API_H

#include "rpc/rpc.h"

// What tools/gen_api.py makes of proto/.
extern const struct rpc_api envgate_api;

// A google.rpc.Status of `e` in the arena, for replies that have errors in them; NULL when out of memory.
static inline struct Google__Rpc__Status *rpc_status(const struct err *e, struct arena *a)
{
  return rpc_status_in(envgate_api.error_domain, e, a);
}

// Rows for rpc_init; each list ends with a NULL path.
extern const struct rpc_handler session_handlers[];
extern const struct rpc_handler environment_handlers[];
extern const struct rpc_handler worker_handlers[];

#endif
