// SPDX-License-Identifier: Apache-2.0
// Server reflection, grpc.reflection.v1 and v1alpha, from the tables of rpc/descriptors.h.
#ifndef ENVGATE_API_REFLECTION_H
#define ENVGATE_API_REFLECTION_H

#include "rpc/rpc.h"

// Rows for rpc_init; ends with a NULL path.
extern const struct rpc_handler reflection_handlers[];

#endif
