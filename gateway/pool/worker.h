// SPDX-License-Identifier: Apache-2.0
// One worker's life: launched, probed until ready, watched, stopped. What it is used for is the pool's business.
//
//   STARTING -> READY -> STOPPING -> GONE        a failed start goes from STARTING to STOPPING
#ifndef ENVGATE_POOL_WORKER_H
#define ENVGATE_POOL_WORKER_H

#include "pool/pool.h"
#include "pool/readiness.h"

// Told on reactor 0, never inside a function of this header. The worker is STOPPING already when `failed` and `died` are called.
struct worker_events {
  void (*progress)(struct worker *w);                    // w->progress has changed
  void (*ready)(struct worker *w);                       // it can serve: it became ready, or a probe found it well
  void (*failed)(struct worker *w, const struct err *e); // it could not be launched, or was not ready in time
  void (*died)(struct worker *w, const struct err *e);   // it had been ready, and ended by itself or does not answer any more
  void (*gone)(struct worker *w);                        // nothing of it is left but this struct
};

struct worker {
  struct list link; // the pool's
  struct pool *pool;
  char id[40];
  uint64_t sequence; // the pools' count of launches
  int ordinal;
  struct reactor *reactor;
  const struct env_config *env;
  struct secrets *env_vars; // as they were read for this launch
  const struct worker_events *events;

  enum worker_state state;
  struct launch *launch; // NULL: gone
  nsec launched, launched_wall;
  struct launch_progress progress;
  nsec ready_wall;        // 0: it has never been ready
  struct worker_log *log; // what it writes
  struct endpoint endpoint;
  enum worker_dialect dialect;
  struct readiness *readiness; // STARTING, once launched
  bool suspect;                // READY, but a connection to it was lost: it is being probed
  struct http_request *probe;  // runs
  struct timer probe_again;

  // The pool's account of it.
  int64_t capacity;  // sessions that it takes, as far as is known
  int64_t used;      // slots handed out
  int holds;         // requests of the pool's own that run on it
  nsec full_until;   // it answered that it was full: not before then
  nsec full_pause;   // how long it was left alone last
  int64_t served;    // slots ever handed out
  bool launching;    // it counts as one of the launches at a time
  bool idled;        // it has had no use for worker_idle_s
  bool aged;         // it is to be replaced, and still serves until another is ready
  bool retiring;     // it serves nobody new, and is stopped when nobody has it any more
  struct timer idle; // when it fires, it has idled
  struct timer age;  // when it fires, it has aged
};

// Launches one. NULL with `e` set when that cannot even begin. The pool's part is zeroed and `link` unlinked.
struct worker *worker_start(const struct provider *provider, const struct launch_spec *spec, struct pool *pool, const struct worker_events *events,
                            struct err *e);

// Looks whether it still answers; if not, it is stopped and `died` is called, else `ready`. One look at a time.
void worker_probe(struct worker *w);

// Stops it; `gone` follows. Harmless when it is stopping or gone.
void worker_stop(struct worker *w);

// Frees one that is gone.
void worker_free(struct worker *w);

#endif
