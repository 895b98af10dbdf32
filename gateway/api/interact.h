// SPDX-License-Identifier: Apache-2.0
// Interact: many sessions over one stream.
#ifndef ENVGATE_API_INTERACT_H
#define ENVGATE_API_INTERACT_H

#include "rpc/rpc.h"

// For rpc_handler.
void interact_start(struct call *c);
void interact_message(struct call *c, const ProtobufCMessage *m);
void interact_half_close(struct call *c);
void interact_drained(struct call *c);
void interact_cancel(struct call *c, struct err *e);
void interact_shutdown(struct call *c);

#endif
