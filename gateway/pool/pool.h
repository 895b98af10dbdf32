// SPDX-License-Identifier: Apache-2.0
// The workers of each environment: launched on demand, up to max_workers, with sessions_per_worker slots each. Lives on reactor 0.
//
// A slot is handed to one session only. Callers who wait are served in the order in which they came.
#ifndef ENVGATE_POOL_POOL_H
#define ENVGATE_POOL_POOL_H

#include "providers/provider.h"
#include "worker/link.h"

struct worker; // a running instance; reactor 0 only

// What a session needs to know of its worker: a copy of its own.
struct slot {
  struct worker *worker; // to hand back; not to be looked into on other reactors
  char worker_id[40];
  enum worker_dialect dialect;
  struct endpoint endpoint;
};

// A session's wish for a slot, and later its hold on it. Lies in the session. Every field but `task`'s is set by pool_acquire's caller.
struct slot_request {
  struct list link;
  struct pool *pool;
  // Called on reactor 0, once: with a slot (which passes to the callee), or with e (and slot NULL). Not after pool_cancel.
  void (*granted)(struct slot_request *q, const struct slot *slot, const struct err *e);
};

struct pool_stats {
  int ready, starting, stopping, sessions, waiting;
};

bool pools_init(struct reactor *r, struct err *e);
// Stops every worker; calls `stopped` when nothing is left.
void pools_stop(struct reactor *r, void (*stopped)(void *ctx), void *ctx);
void pools_free(struct reactor *r);

// The pool of an environment; NULL: there is none of that name.
struct pool *pool_find(struct reactor *r, struct str env_name);
struct pool_stats pool_stats(const struct pool *p);

// Asks for a slot. `granted` may be called before it returns. It waits for as long as it takes; the caller has its own deadline and cancels.
void pool_acquire(struct pool *p, struct slot_request *q);
// Withdraws a wish that has not been granted.
void pool_cancel(struct slot_request *q);

enum slot_return {
  SLOT_FREE, // the session ended well; the slot can serve another
  SLOT_FULL, // the worker answered CAPACITY_REACHED: it takes fewer sessions than thought (max_sessions, 0: unknown)
  SLOT_LOST, // the connection died: the worker is probed, and replaced when it does not answer
};
// Hands a slot back and frees its endpoint.
void pool_release(struct pool *p, struct slot *slot, enum slot_return how, int64_t max_sessions);

// Why a worker that is gone ended (exit code, log tail), if it ended by itself and not long ago; else false.
bool pool_worker_epitaph(struct reactor *r, const char *worker_id, struct err *e);

// The worker's own /schema, through any worker of the pool (one is launched if need be), kept after the first time. Exactly one call of done. Not cancellable:
// the caller's context must outlive it.
void pool_schema(struct pool *p, void (*done)(void *ctx, struct str schema, const struct err *e), void *ctx);

#endif
