// SPDX-License-Identifier: Apache-2.0
// The handlers of envgate.v1: one function a method. They check requests, find the session or the environment, and write replies; what happens in between is
// the layers' below.
#ifndef ENVGATE_API_API_H
#define ENVGATE_API_API_H

#include "rpc/rpc.h"

// Rows for rpc_init; each list ends with a NULL path.
extern const struct rpc_handler session_handlers[];
extern const struct rpc_handler environment_handlers[];
extern const struct rpc_handler worker_handlers[];

#endif
