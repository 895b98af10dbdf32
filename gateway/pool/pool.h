// SPDX-License-Identifier: Apache-2.0
// The workers of each environment: launched on demand, up to max_workers, with sessions_per_worker slots each. Lives on reactor 0.
//
// A slot is handed to one session only. Callers who wait are served in the order in which they came.
#ifndef ENVGATE_POOL_POOL_H
#define ENVGATE_POOL_POOL_H

#include "pool/worker_log.h"
#include "providers/provider.h"
#include "worker/link.h"

struct worker; // a running instance; reactor 0 only

enum worker_state { WORKER_STARTING, WORKER_READY, WORKER_STOPPING, WORKER_GONE };

// What a session needs to know of its worker: a copy of its own.
struct slot {
  struct worker *worker; // to hand back; not to be looked into on other reactors
  char worker_id[40];
  enum worker_dialect dialect;
  struct endpoint endpoint;
};

// A session's wish for a slot. Lies in its owner, who sets every field but `link` and `pool`.
struct slot_request {
  struct list link;
  struct pool *pool;
  // Called on reactor 0, once: with a slot (which passes to the callee), or with e (and slot NULL). Not after pool_cancel.
  void (*granted)(struct slot_request *q, const struct slot *slot, const struct err *e);
  nsec asked; // since when it waits, which is its place in the queue: a wish that is made anew keeps it
};

struct pool_stats {
  int ready, starting, stopping, sessions, waiting;
};

// What a wish that waits may hope for.
struct standing {
  bool hopeless;                   // nothing is being launched for it nor will be: it waits for others to give slots back
  bool launching;                  // a worker is being launched for it, or will be in its turn (LAUNCH_WAITING)
  struct launch_progress progress; // with launching
};

bool pools_init(struct reactor *r, struct err *e);
// Has `changed` called on reactor 0 whenever what pool_broken says may have changed. NULL: nobody.
void pools_on_change(struct reactor *r, void (*changed)(struct reactor *r));
// Stops every worker; calls `stopped` when nothing is left.
void pools_stop(struct reactor *r, void (*stopped)(void *ctx), void *ctx);
void pools_free(struct reactor *r);

// True while no worker of the environment (by its place in the configuration) is ready and launches keep failing. On any thread.
bool pool_broken(struct reactor *r, size_t env);

// The pool of an environment; NULL: there is none of that name.
struct pool *pool_find(struct reactor *r, struct str env_name);
// The same, and one is made for an inline source (config/inline.h), which holds the environment. NULL with `e`: NO_CAPACITY (inline_sources.max_pools), or out of
// memory. It goes away when it has been without workers and wishes for a while.
struct pool *pool_for(struct reactor *r, const struct env_config *env, struct err *e);
struct pool_stats pool_stats(const struct pool *p);

// Asks for a slot. `granted` may be called before it returns. It waits for as long as it takes; the caller has its own deadline and cancels.
void pool_acquire(struct pool *p, struct slot_request *q);
// Withdraws a wish that has not been granted.
void pool_cancel(struct slot_request *q);
// How a wish stands that has not been granted.
struct standing pool_standing(const struct slot_request *q);

enum slot_return {
  SLOT_FREE, // the session ended well; the slot can serve another
  SLOT_FULL, // the worker answered CAPACITY_REACHED: it takes fewer sessions than thought (max_sessions, 0: unknown)
  SLOT_LOST, // the connection died: the worker is probed, and replaced when it does not answer
};
// Hands a slot back and frees its endpoint.
void pool_release(struct pool *p, struct slot *slot, enum slot_return how, int64_t max_sessions);

// Why a worker that is gone ended (exit code, log tail), if it ended by itself and not long ago; else false.
bool pool_worker_epitaph(struct reactor *r, const char *worker_id, struct err *e);

// --- looking after workers (WorkerService, Preload); reactor 0 only ---------------------------------------------------------------------------

// What may be seen of a worker. Pointers live until the next callback of the loop.
struct worker_view {
  uint64_t sequence; // in the order of launching, from 1
  const char *id;
  const char *env, *provider;      // their names
  enum worker_state state;         // WORKER_GONE: it has ended, and is still remembered
  bool draining;                   // it takes no new sessions, and is stopped when its last has ended
  const char *url;                 // where it is: "http(s)://…"; "": not known yet
  const char *unix_path;           // where it listens on a unix socket; NULL: it does not, and url says where
  int64_t sessions, capacity;      // slots held; how many it takes as far as is known (0: not known yet)
  int64_t sessions_served;         // slots handed out in its life
  enum worker_dialect dialect;     // once it was ready
  nsec launched_wall;              // when its launch began
  nsec ready_wall, ended_wall;     // when it was found ready, and was gone; 0: not yet
  struct launch_progress progress; // STARTING: what the launch is at
  struct worker_log *log;          // what it wrote
};

// Walks the workers of every pool, in the order of launching, from behind the one with that sequence number (0: from the first); with `ended` also those that
// have ended not long ago. False: no more.
bool pool_next_worker(struct reactor *r, uint64_t after, bool ended, struct worker_view *v);
// The worker of that id, also one that has ended not long ago. False: there is none.
bool pool_find_worker(struct reactor *r, struct str id, struct worker_view *v);
// It takes no new sessions, and is stopped when its last has ended; the pool refills to min_workers. False: there is none of that id.
bool pool_drain_worker(struct reactor *r, struct str id);
// It is stopped at once, and its sessions are lost. False: there is none of that id.
bool pool_stop_worker(struct reactor *r, struct str id);

// A wish for so many workers to be ready, beside what sessions ask for. Lies in its owner.
struct warm_request {
  struct list link;
  struct pool *pool;
  int64_t workers; // set by the caller; more than max_workers means max_workers
  // Something has changed: pool_stats and pool_progress tell what. May be NULL.
  void (*progress)(struct warm_request *q);
  // The end, once: so many are ready (e NULL), or a launch failed, or the gateway drains. Not after pool_warm_cancel.
  void (*done)(struct warm_request *q, const struct err *e);
};
// Launches until `workers` are ready and keeps them so until then; `done` may be called before it returns. From then on they idle for worker_idle_s as any.
void pool_warm(struct pool *p, struct warm_request *q);
void pool_warm_cancel(struct warm_request *q);
// What the launch that has come furthest is at. False: none is under way.
bool pool_progress(const struct pool *p, struct launch_progress *progress);

// What workers publish of themselves: JSON objects.
enum document { DOCUMENT_SCHEMA, DOCUMENT_METADATA, DOCUMENTS };

// The worker's own /schema or /metadata, through any worker of the pool (one is launched if need be), kept after the first time. Exactly one call of done. Not
// cancellable: the caller's context must outlive it.
void pool_document(struct pool *p, enum document which, void (*done)(void *ctx, struct str text, const struct err *e), void *ctx);

#endif
