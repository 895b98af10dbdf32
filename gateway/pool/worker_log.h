// SPDX-License-Identifier: Apache-2.0
// What a worker wrote to its standard output and error, as far as it is kept, and who follows it. Bounded: the newest pieces stay, each with its time and its
// place in all that the worker ever wrote. Hostile bytes: they are kept as they came, handed to those who ask for them, and never go to the gateway's
// own log.
//
// On the reactor that it was made for. It is counted, for it outlives its worker, and those who follow it may outlive its place in the pool.
#ifndef ENVGATE_POOL_WORKER_LOG_H
#define ENVGATE_POOL_WORKER_LOG_H

#include "runtime/reactor.h"

struct worker_log;

// Who wants to know of news. Lies in its owner, who holds a reference to the log.
struct log_follower {
  struct list link; // list_init before use; list_remove ends it
  // Something came, or the worker has ended. At the turn's end, so once for all that came in a turn. May unlink this follower, and no other.
  void (*news)(struct log_follower *f);
};

// A reader's place. It stays valid whatever is written and dropped meanwhile.
struct log_cursor {
  uint64_t offset; // of the next byte that it wants
  uint64_t record; // worker_log.c's own
};

struct log_piece {
  size_t n;
  uint64_t offset;  // of its first byte
  uint64_t skipped; // bytes between what the cursor wanted and that byte, which are gone
  nsec wall;        // when the first byte came
};

// An empty one that takes at most `max` bytes of memory, and only as much as is needed; at least LOG_LEAST are kept. NULL: out of memory.
enum { LOG_LEAST = 4096 };
struct worker_log *worker_log_new(struct reactor *r, size_t max);
struct worker_log *worker_log_ref(struct worker_log *log);
void worker_log_unref(struct worker_log *log); // NULL is fine

// The worker wrote something. Without memory it is lost, and readers are told so.
void worker_log_add(struct worker_log *log, struct str bytes);
// Nothing more will come.
void worker_log_end(struct worker_log *log);
bool worker_log_ended(const struct worker_log *log);
// How many bytes the worker has written so far.
uint64_t worker_log_total(const struct worker_log *log);

// Has `f` told of news from now on.
void worker_log_follow(struct worker_log *log, struct log_follower *f);

// A cursor before the byte at `offset`, or before the first of the last `lines` lines that are kept (an unfinished one counts).
struct log_cursor worker_log_at(const struct worker_log *log, uint64_t offset);
struct log_cursor worker_log_tail(const struct worker_log *log, size_t lines);

// Copies the next piece, or the start of it if it is over `room` bytes, and moves the cursor behind it. False: there is none now.
bool worker_log_read(const struct worker_log *log, struct log_cursor *at, char *to, size_t room, struct log_piece *piece);

#endif
