// SPDX-License-Identifier: Apache-2.0
// What session.c (life and leases) and work.c (the queue and exactly-once) share.
#ifndef ENVGATE_SESSION_SESSION_PRIVATE_H
#define ENVGATE_SESSION_SESSION_PRIVATE_H

#include "config/config.h"
#include "runtime/flow.h"
#include "runtime/metrics.h"
#include "session/session.h"
#include "session/slot.h"

// A piece of work: one request to the worker and everyone who waits for its reply.
struct work {
  struct list link; // in the session's queue; unlinked while it runs
  struct session *session;
  struct list waiters;
  enum worker_op op;
  char *request_id; // NULL: none
  uint64_t request_hash;
  struct shared *episode; // OP_RESET: the name of the episode, unless the worker gives another
  nsec sent;
  size_t coming; // of its reply, if that is large: as far as it was announced
  // Its reply waits for room, in the name of this waiter (NULL: of nobody) and in this line.
  const struct waiter *asker;
  struct flow_wait *wait;
  bool unwaited; // it has room in the name of nobody
  // While it waits for its turn, and somebody left who wants it to go on all the same: one of its waiters.
  struct stand_in *stand_in;
};

// What each step reads stands first, in few cache lines: with thousands of sessions none of it is in a cache.
struct session {
  UT_hash_handle hh;
  struct reactor *reactor;
  char id[28];
  enum session_state state;
  struct principal *owner; // NULL: there is no auth
  struct link *line;       // NULL: none (provisioning, lost)
  struct work *running;
  struct list queue;
  int queued;
  int payload_format;
  struct shared *tensors; // NULL: none
  char worker_id[40];
  struct shared *episode; // its name, with a NUL; NULL: none yet
  int64_t step_index;
  nsec lease_due, idle_due;
  double lease_s, idle_timeout_s;
  enum worker_dialect dialect;
  bool confirming;  // the first request, which proves that the worker has room, runs
  bool asking;      // the askers' question is under way
  bool handed_out;  // somebody has its name
  bool provisioned; // it was ready once
  bool closed;      // out of the table, and freed when it has parted with its worker
  int kept_at;
  const struct env_config *env;
  size_t kept_bytes;
  struct outcome *kept[KEPT_REPLIES]; // a ring; kept_at is where the next goes

  size_t stand_in_bytes; // of its stand-ins
  UT_hash_handle hh_request;
  struct list link; // the table's, by sequence
  uint64_t sequence;
  nsec created, created_wall;
  char *request_id; // the creation's, behind its owner's name (creation_key); NULL: none

  struct list creators; // session_waiters
  struct list askers;   // standing_waiters
  struct list holds;    // session_holds
  int keepers;          // those of them that keep it
  int attempts;         // workers that answered CAPACITY_REACHED
  int unreached;        // workers that could not be reached
  struct slot_ticket *ticket;
  struct pairs headers;      // the caller's, for the upgrade
  struct err *err;           // SESSION_LOST
  struct shared *last_words; // its worker's, when it gave the session up by an error

  struct timer expiry;
  struct turn_end freeing;
};

// Kept for reuse, so that a step asks malloc for nothing.
enum { SPARES = 64 };

struct session_table {
  struct work *spare_work[SPARES];
  struct outcome *spare_outcome[SPARES];
  int spare_works, spare_outcomes;
  struct session *by_id, *by_request;
  struct flow *unwaited; // for large replies that nobody waits for any more
  struct list all;
  struct list lingering; // closed, but a plain HTTP worker still runs their step
  uint64_t last_sequence;
  int tickets; // slots held or asked for
  int unfreed; // sessions closed and not yet freed
};

// session.c
void session_set_state(struct session *s, enum session_state state);

// work.c
// Begins the next work if the line is free.
void work_pump(struct session *s);
// The reply of the running work.
void work_reply(struct session *s, struct worker_reply *reply, struct shared *bytes);
// The running work's reply is large and needs room for `more`. False: it must wait, and link_resume comes when it is there.
bool work_large(struct session *s, size_t more);
// Ends all work, running and waiting, with an error.
void work_end_all(struct session *s, const struct err *e);
// The name of the session's episode; "" before the first.
const char *session_episode(const struct session *s);
// Frees the spares.
void work_free_spares(struct session_table *t);
// Frees the kept replies.
void work_forget(struct session *s);
void outcome_unref(struct outcome *o);

// stand_in.c
// Puts a stand-in in the place of a waiter of work that has not begun, which leaves: with copies of all that it asks for. False: there is no room, and nothing has changed.
bool stand_in_take(struct work *work, struct waiter *w);
// The work has begun, for which it waited: from here on it needs nobody. Harmless when there is none.
void stand_in_go(struct work *work);

#endif
