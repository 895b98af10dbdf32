// SPDX-License-Identifier: Apache-2.0
// A session's hold on a slot of a pool: the pools live on reactor 0, the session on its own, and messages go between.
#ifndef ENVGATE_SESSION_SLOT_H
#define ENVGATE_SESSION_SLOT_H

#include "pool/pool.h"

struct slot_ticket;

// Asks the environment's pool for a slot. `granted` is called once on `r`, never inside, with the slot (the ticket's; valid as long as it is held) or with an
// error, and then the ticket is gone. NULL: out of memory. `since`: how long the session has waited already, which is its place in the queue. `count` is one
// more while the ticket lives.
struct slot_ticket *slot_ask(struct reactor *r, const struct env_config *env, nsec since, int *count,
                             void (*granted)(void *ctx, const struct slot *slot, const struct err *e), void *ctx);

// Asks why the worker of a held slot died: `told` is called once on the ticket's reactor, never inside, with what the provider knows (exit code, log tail) as soon as it
// knows it, or with NULL when it has not heard of a death within 150 ms. Not after slot_return.
void slot_ask_why(struct slot_ticket *t, void (*told)(void *ctx, const struct err *why));

// Asks how the wish stands: `told` is called once on the ticket's reactor, never inside; with NULL when the wish has been answered. Not after the ticket is gone
// or slot_return. One question at a time.
void slot_ask_standing(struct slot_ticket *t, void (*told)(void *ctx, const struct standing *s));

// Withdraws the wish, or hands the slot back. `granted` is not called any more, and the ticket is not the caller's any more.
void slot_return(struct slot_ticket *t, enum slot_return how, int64_t max_sessions);

#endif
