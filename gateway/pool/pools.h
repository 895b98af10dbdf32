// SPDX-License-Identifier: Apache-2.0
// What pool.c, pools.c and schema.c share. Private to pool/.
#ifndef ENVGATE_POOL_POOLS_H
#define ENVGATE_POOL_POOLS_H

#include "pool/pool.h"
#include "pool/state_dir.h"
#include "pool/worker.h"

enum { EPITAPHS = 64 };

struct epitaph {
  char worker_id[40]; // "": none
  struct err err;
};

struct pools {
  struct reactor *reactor;
  struct pool *at; // one for each environment, in the configuration's order
  size_t n;
  char instance[17];                 // random hexadecimal digits
  struct state_dir state_dir;        // none: nothing here is launched on this machine
  uint64_t workers_named;            // for the next worker's id
  struct epitaph epitaphs[EPITAPHS]; // a ring
  unsigned epitaph_next;
  bool draining;
  void (*stopped)(void *ctx); // set by pools_stop, cleared when it is called
  void *stopped_ctx;
  struct task tell_stopped;
};

struct schema_waiter; // schema.c

struct pool {
  struct pools *pools;
  const struct env_config *env;
  const struct provider *provider;
  struct list workers; // of every state
  struct list waiting; // struct slot_request, in the order of coming
  int waiting_count;
  int64_t slots_each;         // of a worker yet to be launched: sessions_per_worker, or fewer once a worker said so
  int failures;               // launches that failed in a row
  nsec failed_at, not_before; // the last failure, and when the next launch may be
  struct timer again;         // pumps: not_before, or a full worker is to be tried anew
  struct buf schema;          // the worker's; empty: not asked yet
  struct schema_waiter *schema_waiters;
  struct worker *schema_worker; // it is being asked; holds it
  struct http_request *schema_fetch;
};

// pool.c: does whatever can be done now: serves, launches, or answers that nothing helps. To be called after every change.
void pool_pump(struct pool *p);
// pool.c: how many workers there are that run or will, or still occupy their place.
int pool_live(const struct pool *p);
// pool.c: refuses who waits, and stops every worker.
void pool_drain(struct pool *p);
void pool_init(struct pool *p, struct pools *pools, const struct env_config *env);
void pool_free(struct pool *p);

// pool.c: one hold on a worker less (w->used and w->holds are up to date): frees it if it is gone, or lets it idle.
void pool_let_go(struct pool *p, struct worker *w);

// pools.c: keeps why a worker ended.
void pools_bury(struct pools *ps, const struct worker *w, const struct err *e);
// pools.c: one worker less; tells pools_stop's caller when it was the last.
void pools_check_drained(struct pools *ps);

// schema.c: asks a ready worker if anybody waits for the schema and nobody has asked yet.
void schema_pump(struct pool *p, struct worker *ready);
// schema.c: answers all who wait for the schema.
void schema_fail(struct pool *p, const struct err *e);

#endif
