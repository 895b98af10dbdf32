// SPDX-License-Identifier: Apache-2.0
// Back-pressure from a caller to its workers: how much of large replies may be in memory for one caller's connection at a time.
//
// A reply must be whole before it can be passed on, so what can be put off is to receive it. Before a large message is read on, its reader asks the flow of
// the caller that waits for it for room, in the name of the call (`key`), and if there is none it waits in line. A call's room is given back when all of the
// call's reply has been sent. A call that has room gets more at once, and one message always has room: so nothing waits for itself.
//
// A flow has a home, the reactor of its connection. Readers may be on any reactor: what is marked so may be called there.
#ifndef ENVGATE_RUNTIME_FLOW_H
#define ENVGATE_RUNTIME_FLOW_H

#include <stdatomic.h>
#include <stddef.h>

#include "runtime/reactor.h"

enum {
  FLOW_LARGE = 64 << 10,  // smaller messages need no room
  FLOW_BUDGET = 16 << 20, // or one reply, if that is larger
};

struct flow {
  atomic_bool used; // there is room taken or someone in line; the rest is flow.c's own
  struct flow_state *state;
};
struct flow_wait;

// At home. NULL: out of memory. `patience`: so long may the caller take nothing while readers wait.
struct flow *flow_new(struct reactor *home, nsec patience);
// At home, once: its connection is gone. Readers that wait must leave, as they will when their calls are cancelled. It lives on for other references.
void flow_close(struct flow *f);
// Any reactor.
struct flow *flow_ref(struct flow *f);
void flow_unref(struct flow *f); // NULL is fine

// Any reactor. Asks for room for `bytes` more. True: it is there. False: `answer` comes later on `r`, once, never inside, unless flow_leave comes first: `room`
// says whether it is there now, or the caller has taken nothing for too long.
bool flow_ask(struct flow *f, struct reactor *r, uint64_t key, size_t bytes, void (*answer)(void *ctx, bool room), void *ctx,
              struct flow_wait **wait);
// On the reactor that asked. NULL is fine.
void flow_leave(struct flow_wait *wait);

// At home; cheap for calls that never took room. The call's reply is complete, and waits for the caller.
void flow_complete(struct flow *f, uint64_t key);
// Any reactor. The call's room is free again.
void flow_done(struct flow *f, uint64_t key);
// At home. The caller has taken some of a large reply.
void flow_progress(struct flow *f);

#endif
