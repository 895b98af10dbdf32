// SPDX-License-Identifier: Apache-2.0
// StepBatch and ResetBatch: one call that steps or resets many sessions side by side.
#ifndef ENVGATE_API_BATCH_H
#define ENVGATE_API_BATCH_H

#include "rpc/rpc.h"

// For rpc_handler.
int batch_route(const struct call *c);
void batch_start(struct call *c);
void batch_deadline(struct call *c);
void batch_cancel(struct call *c, struct err *e);

#endif
