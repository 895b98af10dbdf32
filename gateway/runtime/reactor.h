// SPDX-License-Identifier: Apache-2.0
// A reactor: one thread with its event loop. Everything else hangs off one, and is touched by its thread only.
//
// Other threads reach it by reactor_post and by nothing else. Callbacks run on the reactor's thread, one at a time, and may
// call anything here; an object may be freed inside its own callback unless its contract says otherwise.
#ifndef ENVGATE_RUNTIME_REACTOR_H
#define ENVGATE_RUNTIME_REACTOR_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/list.h"
#include "base/str.h"

struct reactor;

// A piece of work for a reactor; it lies in the object that it is about and must live until it has run.
struct task {
  struct task *next;
  void (*run)(struct reactor *r, struct task *t);
};

// A timer, coarse to a millisecond, that lies in its object. Zeroed: not set.
struct timer {
  nsec due;
  void (*fire)(struct timer *t); // the timer is unset when it runs; it may set it anew
  uint32_t slot;                 // place in the heap, from 1; 0: not set
};

// A watched file descriptor.
struct io;
enum {
  IO_READ = 1,
  IO_WRITE = 2,
  IO_HANGUP = 4, // the peer closed its writing side (EPOLLRDHUP)
  // Told once, when something comes, not again and again while it is there, which spares the kernel a look at each socket in each turn. For owners who read
  // until a read is short; with IO_HANGUP among the events, which then comes unasked, until the end; and who call io_again when they stop before that.
  IO_EDGE = 8,
};
// `events` says what is ready; an error of the descriptor shows as all of the watched events.
typedef void io_callback(void *ctx, int events);

// Work for the end of a loop turn: each node's run() is called once after the turn's events, before the loop sleeps. This is
// where connections flush what the turn has gathered, in one write.
struct turn_end {
  struct list link; // list_init before use
  void (*run)(struct turn_end *t);
};

struct timer_heap {
  struct timer **at; // 1-based binary heap
  uint32_t n, cap;
};

struct reactor {
  uv_loop_t uv;         // see reactor_uv
  int index;            // 0: the control reactor, which also runs the pools
  struct reactor **all; // every reactor, by index
  int count;
  nsec now;                // the time when the turn's first event came; cheap and good for deadlines
  struct log *log;         // shared by all; it takes care of itself
  struct metrics *metrics; // this reactor's own
  const struct config *config;
  bool draining;  // the gateway shuts down: no new sessions
  nsec drain_end; // with draining: when calls that still run are given up, and sessions with them
  nsec kill_at;   // with draining: when workers that still run are killed, whatever their own grace

  struct buf_pool bufs; // for replies

  // What the upper layers keep for each reactor. Each is set by its layer.
  struct http_client *http;
  struct session_table *sessions;
  struct pools *pools;              // on reactor 0 only
  struct docker_host *docker_hosts; // on reactor 0 only
  struct rpc *rpc;
  struct grpc_front *grpc_front;
  struct http_front *http_front;
  struct websocket_front *websockets;
  struct auth *auth;     // NULL: everybody may do everything
  struct tls_front *tls; // NULL: no TLS
  struct listener *listener;
  struct health *health;
  struct control *control; // on reactor 0 only
  struct gateway *gateway;

  // reactor.c's own
  int epoll;
  int wake; // an eventfd: there is mail
  bool uv_dirty;
  struct timer_heap timers;
  _Atomic(struct task *) mailbox; // a stack; its owner takes all of it at once and reverses it
  struct list turn_ends;
  struct list dead; // ios that were closed in this turn
  nsec busy_poll;   // how long to spin after the last event; 0: not at all
  nsec last_event;
  bool stopping;
};

// How long to wait for something to stop before it is killed: `grace`, but while the gateway shuts down no longer than until kill_at.
static inline nsec reactor_grace(const struct reactor *r, nsec grace)
{
  nsec now = clock_mono(), left = r->kill_at > now ? r->kill_at - now : 0;
  return r->draining && left < grace ? left : grace;
}

// Makes a reactor; its loop does not run yet. False: `e` says why.
bool reactor_init(struct reactor *r, int index, struct reactor **all, int count, struct err *e);

// Runs the loop on the calling thread until reactor_stop. With r->busy_poll set it looks for events again and again for that long after the last one
// before it lets the thread sleep: waking it costs more than many a call.
void reactor_run(struct reactor *r);
// One turn of it: sleeps until something happens and does what there is.
void reactor_turn(struct reactor *r);

// Lets reactor_run return after the current turn. On the reactor's own thread only.
void reactor_stop(struct reactor *r);

// Runs what close callbacks are left and frees the loop. Everything that watches or waits on it must be closed before.
void reactor_free(struct reactor *r);

// Has `t` run on `r`, from any thread, in the order of posting. Wakes it if need be; one wake-up serves all that is posted meanwhile.
void reactor_post(struct reactor *r, struct task *t);

// Sets (or moves) a timer to an absolute time. NSEC_NEVER unsets it. False when out of memory.
bool timer_set(struct reactor *r, struct timer *t, nsec due);
// Unsets it; harmless when it is not set.
void timer_unset(struct reactor *r, struct timer *t);
static inline bool timer_is_set(const struct timer *t)
{
  return t->slot != 0;
}

// Watches `fd` for `events` (level-triggered, unless with IO_EDGE). The descriptor stays the caller's, who closes it after io_close. NULL: out of memory or not
// watchable. One io a descriptor and reactor.
struct io *io_open(struct reactor *r, int fd, int events, io_callback *callback, void *ctx);
// Changes what is watched; 0 pauses.
void io_events(struct io *io, int events);
// With IO_EDGE: has what is still there told again.
void io_again(struct io *io);
// Ends the watch at once; the callback is not called again. NULL is fine. The descriptor may be closed right after.
void io_close(struct io *io);

// Queues `t` for this turn's end, once however often it is called.
void turn_end_add(struct reactor *r, struct turn_end *t);

// libuv's loop, for children and signals. Ask for it anew each time a handle is started, so that libuv gets to watch it before the reactor sleeps.
uv_loop_t *reactor_uv(struct reactor *r);

#endif
