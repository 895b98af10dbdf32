// SPDX-License-Identifier: Apache-2.0
// Sessions: one caller's instance of an environment in a worker, and the promise that a step happens exactly once.
//
// A session belongs to the reactor that made it, and everything here runs on that reactor's thread. Its id names the reactor.
//
// Work runs one at a time, in order. Each piece of work has waiters (calls). A waiter may leave (deadline, cancellation) without any effect on work that
// runs: its reply is kept for a retry with the same request_id, or dropped, and never given to other work. Work that waits and has lost its last waiter is not begun.
#ifndef ENVGATE_SESSION_SESSION_H
#define ENVGATE_SESSION_SESSION_H

// Ids are random, so the simplest hash will do; the default one falls through switch labels, which clang warns of.
#define HASH_FUNCTION HASH_FNV
#include <uthash.h>
// By its default a table of uthash grows when a bucket has ten sessions, and each that a search passes by is a cache miss or two.
#undef HASH_BKT_CAPACITY_THRESH
#define HASH_BKT_CAPACITY_THRESH 6U

#include "auth/auth.h"
#include "pool/pool.h"
#include "runtime/flow.h"
#include "worker/link.h"

enum { REQUEST_ID_MAX = 128, EPISODE_ID_MAX = 256, KEPT_REPLIES = 16, KEPT_BYTES = 1 << 20 };

enum session_state { SESSION_PROVISIONING, SESSION_READY, SESSION_BUSY, SESSION_LOST };

struct session;

// What a piece of work led to, shared by its waiters and the kept replies. Counted; see outcome_unref.
struct outcome {
  uint32_t refs;
  struct session_table *table; // whose spares it returns to
  char request_id[REQUEST_ID_MAX + 1];
  uint64_t request_hash;
  struct shared *bytes; // the worker's message, into which the spans point; NULL with err
  struct err *err;      // what went wrong, or NULL; then the following holds
  struct str observation, metadata, state;
  struct str raw; // of the worker's message, also with err; see struct worker_reply. "": there is none
  double reward;
  bool has_reward, done, has_terminated, terminated, has_truncated, truncated;
  int64_t step_index;
  const char *episode_id; // in `episode`; never NULL
  struct shared *episode;
  nsec worker_time; // from sending to the whole reply
};

// One call's interest in a piece of work. Lies in the call; every field above `link` is the caller's to set, and what they point to must live until
// done or session_leave.
struct waiter {
  struct worker_request request;
  struct str request_id; // at most REQUEST_ID_MAX bytes; "": none
  struct str episode_id; // precondition; "": none
  bool has_step_index;   // precondition, OP_STEP
  int64_t step_index;
  struct flow *flow; // of its caller, and the call's key there; NULL: its large replies need no room. Must live until done or session_leave
  uint64_t flow_key;
  // Once, with an outcome (its err may be set) or with an error of the session's. The outcome lives until it returns. May run inside session_submit.
  void (*done)(struct waiter *w, const struct outcome *o, const struct err *e);

  struct list link;
  struct work *work;
  nsec submitted, sent; // sent: 0 if it was not sent for this waiter
};

// Where a waiter's texts are pointed to, for who copies them. One without bytes is left as it is, since words that are not NULL mean something.
enum { WAITER_TEXTS = 6 };
static inline void waiter_texts(struct waiter *w, struct str *texts[WAITER_TEXTS])
{
  struct worker_request *q = &w->request;
  struct str *const all[WAITER_TEXTS] = {&q->action, &q->episode_id, &q->options, &q->words, &w->request_id, &w->episode_id};
  memcpy(texts, all, sizeof all);
}

struct session_spec {
  const struct env_config *env; // the session holds it
  double lease_s, idle_timeout_s;
  int payload_format;          // the API's, kept for it
  struct shared *tensors;      // the same; NULL: none. The session takes a reference
  struct str request_id;       // "": none
  struct identity who;         // its owner
  const struct pairs *headers; // the caller's, for the WebSocket upgrade; NULL: none
};

// A call that waits for a session to be ready. Lies in the call.
struct session_waiter {
  // Once: with the session, READY, or with an error, and then the session is gone. May run inside session_create.
  void (*ready)(struct session_waiter *w, struct session *s, const struct err *e);
  struct list link;
  struct session *session;
};

// Who has a session for its own, as a socket has (front/openenv_ws.c). Lies in it.
struct session_hold {
  // Once: the session is gone, and why; not after session_release. May run inside what ends the session.
  void (*ended)(struct session_hold *h, const struct err *e);
  bool keeps; // its lease does not run out meanwhile
  struct list link;
  struct session *session;
};

// Who wants to know how a session that is PROVISIONING stands. Lies in the call.
struct standing_waiter {
  // Once: with the session and how its wish for a worker stands (NULL: it waits for none any more), or without a session and with why it has ended. May run inside
  // session_ask_standing.
  void (*told)(struct standing_waiter *w, struct session *s, const struct standing *standing, const struct err *e);
  struct list link;
};

bool sessions_init(struct reactor *r); // false: out of memory
// Closes every session of the reactor.
void sessions_close_all(struct reactor *r);
// True when no session and no slot is held or under way any more.
bool sessions_gone(struct reactor *r);
void sessions_free(struct reactor *r);

// Creates a session, or joins the one that its owner created with the same request_id. `w->ready` is called once unless session_abandon comes first.
void session_create(struct reactor *r, const struct session_spec *spec, struct session_waiter *w);
// The waiter leaves. A session that was created without a request_id, and so can't be found again, is given up.
void session_abandon(struct session_waiter *w);
// The waiter leaves and takes the session's name with it: the session goes on to become READY, or LOST with why it could not. Its lease begins anew.
void session_hand_out(struct session_waiter *w);
// A caller gets the name of a session that is ready: who creates it again by its request_id has no right to close it any more (session_view's handed_out).
void session_name_known(struct session *s);
// The waiter leaves, and the session ends unless others wait for it, too.
void session_give_up(struct session_waiter *w);

void session_hold(struct session *s, struct session_hold *h);
// Harmless when the session is gone.
void session_release(struct session_hold *h);

void session_ask_standing(struct session *s, struct standing_waiter *w);
// Harmless when it has been told.
void session_unask_standing(struct standing_waiter *w);

// The reactor that a session's id names; -1: not an id of ours.
int session_reactor(struct str id, int reactors);
// The session of that id (without "sessions/") that is there for the caller, or NULL. Renews its lease.
struct session *session_find(struct reactor *r, struct str id, struct identity who);
// Closes it: its callers get ABORTED (SESSION_CLOSED). It is gone when this returns.
void session_close(struct session *s);
// Closes the session of that id soon, wherever it is and whosever; harmless when there is none. Without memory for that its lease ends it.
void session_close_later(struct reactor *from, struct str id);

// Runs work, or joins the same request's, or gives its kept reply.
void session_submit(struct session *s, struct waiter *w);

// What it left: work that will not begin for it; work that runs; work that waits for its turn and goes on for one who left by session_leave_to_go_on.
enum session_left { LEFT_WAITING, LEFT_RUNNING, LEFT_TO_GO_ON };
// A waiter leaves before done.
enum session_left session_leave(struct waiter *w);
// A waiter with a request_id leaves before done, and what it asked for goes on without it: also what waits is begun in its turn, and its reply kept for a later
// waiter with the same request_id. What has no room for that (a session keeps 1 MiB of such requests) is not begun before that waiter comes.
void session_leave_to_go_on(struct waiter *w);

// Walks the reactor's sessions, whosever they are, in the order of creation, from behind the one with sequence number `after` (0: from the first). NULL: no more.
struct session *session_next(struct reactor *r, uint64_t after);

// What callers may see. Strings live as long as the session.
struct session_view {
  const char *id;
  uint64_t sequence;
  const struct env_config *env;
  const struct principal *owner; // NULL: there is no auth
  enum session_state state;
  nsec created_wall;
  nsec expires_wall;      // NSEC_NEVER while work runs
  const char *episode_id; // never NULL
  int64_t step_index;
  const char *worker_id;
  const struct err *err; // SESSION_LOST: why, also why it never became ready
  double lease_s, idle_timeout_s;
  int payload_format;
  const void *tensors; // the bytes of session_spec's, or NULL
  bool handed_out;     // by session_hand_out
};
struct session_view session_view(const struct session *s);

// The session's environment, if its worker takes headers with each request (plain HTTP); else NULL.
const struct env_config *session_takes_headers(const struct session *s);

// The API's payload format of the session, and its id.
int session_payload_format(const struct session *s);
const void *session_tensors(const struct session *s); // as session_view's
const char *session_id(const struct session *s);
const char *session_worker_id(const struct session *s);

// How it talks to its worker, as soon as it is READY.
enum worker_dialect session_dialect(const struct session *s);
// Why it is LOST; NULL: it is not.
const struct err *session_lost(const struct session *s);
// The message by which its worker gave it up, an error in OpenEnv's protocol; NULL: none. It lives as long as the session.
struct shared *session_last_words(const struct session *s);

#endif
