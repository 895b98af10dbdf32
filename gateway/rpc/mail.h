// SPDX-License-Identifier: Apache-2.0
// How the messages of a server stream get from the reactor that runs it (owner) to that of its connection (home), and how a slow caller holds it up. Private to
// rpc/.
#ifndef ENVGATE_RPC_MAIL_H
#define ENVGATE_RPC_MAIL_H

#include "rpc/rpc.h"

// At the owner of a call that has crossed: sends the message that c->out has home, or word that the head is to go out. False: out of memory, or too
// much waits.
bool mail_send(struct call *c, bool head);

// At home, when the call has finished: passes what is left to the front.
void mail_finish(struct call *c);

// With the call.
void mail_free(struct call *c);

// In rpc.c. At home: one errand of the call less (call.errands); it may be freed.
void call_let_go(struct call *c);

#endif
