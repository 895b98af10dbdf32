// SPDX-License-Identifier: Apache-2.0
// What the files of pool/ share. Private to pool/.
#ifndef ENVGATE_POOL_POOLS_H
#define ENVGATE_POOL_POOLS_H

#include <stdatomic.h>

#include "pool/pool.h"
#include "pool/state_dir.h"
#include "pool/worker.h"
#include "runtime/metrics.h"

enum { EPITAPHS = 64 };

struct epitaph {
  char worker_id[40]; // "": none
  struct err err;
};

struct pools {
  struct reactor *reactor;
  struct pool *at; // one for each environment, in the configuration's order
  size_t n;
  struct list all;                // these, and those of inline sources
  int64_t inlines;                // how many those are
  struct state_dir state;         // who we are, and where sockets lie
  uint64_t workers_named;         // for the next worker's id
  const struct provider *adopter; // the one whose workers may outlive the gateway; NULL: none is used
  struct adoption *adoption;
  bool listing;                      // it looks for what an earlier life left; its launches wait for that
  struct epitaph epitaphs[EPITAPHS]; // a ring
  unsigned epitaph_next;
  int ended_count;     // workers that have ended and are remembered
  struct list ended;   // ended.c's: workers that have ended, the oldest first
  struct timer forget; // the oldest of them
  struct list hungry;  // struct pool that want to launch and may, in the order of coming
  void (*changed)(struct reactor *r);
  int launching; // workers that count as launches under way, of every pool
  bool draining;
  void (*stopped)(void *ctx); // set by pools_stop, cleared when it is called
  void *stopped_ctx;
  struct task tell_stopped;
};

struct schema_waiter; // schema.c

struct pool {
  struct list link;        // in pools.all
  struct timer linger;     // of an inline source, while nobody uses it
  struct turn_end freeing; // then
  int64_t published[METRIC_POOL_COUNT];
  struct pools *pools;
  const struct env_config *env;
  const struct provider *provider;
  struct env_metrics *metrics; // reactor 0's, one for all inline sources; NULL: none are kept
  struct list workers;         // of every state
  struct list waiting;         // struct slot_request, in the order of coming
  int waiting_count;
  const struct list *counted; // one that waits, as the line is now, and how many do before it; NULL: not known
  int64_t counted_before;
  struct list warm;                // struct warm_request
  int64_t slots_each;              // of a worker yet to be launched: sessions_per_worker, or fewer once a worker said so
  struct list hungry;              // in pools.hungry
  int launching;                   // of pools.launching
  int failures;                    // launches that failed in a row
  struct err *cause;               // of the last of them; NULL: none, or no memory for it
  nsec failed_at;                  // the last failure
  nsec not_before;                 // when the next launch may be
  atomic_bool broken;              // no worker is ready, and launches fail: for other threads
  struct timer again;              // pumps: not_before, or a full worker is to be tried anew
  struct buf documents[DOCUMENTS]; // the worker's; empty: not asked yet
  struct schema_waiter *schema_waiters;
  struct worker *schema_worker; // it is being asked; holds it
  enum document schema_asked;   // for this
  struct http_request *schema_fetch;
};

static inline struct worker *worker_of(struct list *node)
{
  return CONTAINER_OF(node, struct worker, link);
}

static inline struct pool *pool_of(struct list *node)
{
  return CONTAINER_OF(node, struct pool, link);
}

// --- pool.c: who waits, and who is served

// Does whatever can be done now: serves, launches, or answers that nothing helps. To be called after every change.
void pool_pump(struct pool *p);
// Refuses who waits, and stops every worker.
void pool_drain(struct pool *p);
void pool_init(struct pool *p, struct pools *pools, const struct env_config *env);
void pool_free(struct pool *p);
// One hold on a worker less (w->used and w->holds are up to date): frees it if it is gone, stops it if it is retiring, or lets it idle.
void pool_let_go(struct pool *p, struct worker *w);
// Answers at most `n` of those who wait with an error, after the first `skip`.
void pool_refuse(struct pool *p, int64_t skip, int64_t n, const struct err *e);
// Slots that there will be soon: of workers who start, are being probed, or whose slot is just being freed.
int64_t pool_slots_coming(const struct pool *p);
int pool_count(const struct pool *p, enum worker_state state);
bool pool_is_static(const struct pool *p);

// --- fleet.c: how many workers there are, and which

// Workers that run or will, or still occupy their place; and how many there may be.
int pool_live(const struct pool *p);
int64_t pool_limit(const struct pool *p);
// How many are wanted whether anybody asks or not.
int64_t pool_floor(const struct pool *p);
// Launches that keep failing: callers are not made to wait for the next one.
bool pool_breaker_open(const struct pool *p);
// How many more workers could be launched, now or in a while.
int64_t pool_launchable(const struct pool *p);
// Stops what is idle and what is to be replaced, as far as the floor allows.
void fleet_tidy(struct pool *p);
// Launches what is wanted, as far as it may.
void fleet_launch(struct pool *p);
// Takes over a worker that runs already, under its number. False when it may not or can't; then it is nobody's.
bool fleet_adopt(struct pool *p, uint64_t number, const char *handle);
// Has the worker serve nobody new, and stops it as soon as nobody has it.
void fleet_retire(struct worker *w);

// --- adopt.c

// Begins to look for workers that an earlier life left.
void pools_adopt(struct pools *ps);
void pools_adopt_end(struct pools *ps);

// --- inspect.c

// Tells the warm requests how far they are.
void warm_pump(struct pool *p);
void warm_fail(struct pool *p, const struct err *e);
// Keeps the pool's numbers for other threads.
void pool_publish(struct pool *p);

// --- pools.c

// Keeps why a worker ended.
void pools_bury(struct pools *ps, const struct worker *w, const struct err *e);
// One worker less; tells pools_stop's caller when it was the last.
void pools_check_drained(struct pools *ps);

// Of an inline source: has it go away in a while if nobody uses it.
void pools_watch_inline(struct pool *p);

// --- ended.c: workers that have ended stay known for a while, with their logs

void ended_init(struct pools *ps);
// A worker is gone. Without memory for it, it is forgotten at once.
void ended_add(struct pools *ps, const struct worker *w);
bool ended_next(const struct pools *ps, uint64_t after, struct worker_view *v);
bool ended_find(const struct pools *ps, struct str id, struct worker_view *v);
void ended_free(struct pools *ps);

// --- schema.c

// Asks a ready worker if anybody waits for a document and nobody is asked yet.
void schema_pump(struct pool *p, struct worker *ready);
// Answers all who wait for documents.
void schema_fail(struct pool *p, const struct err *e);

#endif
