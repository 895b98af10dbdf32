// SPDX-License-Identifier: Apache-2.0
#include "pool/worker_log.h"

#include <stdlib.h>
#include <string.h>

enum {
  RECORD_MOST = 16 << 10, // bytes of a record; at most an eighth of the log, so that dropping one never empties it
  RING_FIRST = 1024,      // bytes of the ring at first
};
// What comes within this time of a record's first byte joins it, so that a worker that writes byte by byte costs no header for each.
#define RECORD_TIME (10 * NSEC_PER_MS)

// The ring's bytes are records: this, and `n` bytes of output.
struct record {
  uint64_t offset;
  nsec wall;
  size_t n;
};

// Places in the ring are counted on and on; their index is the remainder by `cap`.
struct worker_log {
  struct reactor *reactor;
  uint32_t refs;
  bool ended;
  struct list followers;
  struct turn_end tell;
  char *ring;
  size_t cap, max, record_most;
  uint64_t begin, end; // the oldest record, and behind the newest
  uint64_t newest;     // the newest, if there is any
  uint64_t total;      // bytes that the worker wrote
};

// --- the ring ------------------------------------------------------------------------------------------------------------------------------

static void ring_put(char *ring, size_t cap, uint64_t at, const void *from, size_t n)
{
  size_t index = at % cap, first = n < cap - index ? n : cap - index;
  memcpy(ring + index, from, first);
  if (n > first)
    memcpy(ring, (const char *)from + first, n - first);
}

static void ring_get(const struct worker_log *log, uint64_t at, void *to, size_t n)
{
  size_t index = at % log->cap, first = n < log->cap - index ? n : log->cap - index;
  memcpy(to, log->ring + index, first);
  if (n > first)
    memcpy((char *)to + first, log->ring, n - first);
}

static struct record record_at(const struct worker_log *log, uint64_t at)
{
  struct record r;
  ring_get(log, at, &r, sizeof r);
  return r;
}

static void grow(struct worker_log *log, size_t need)
{
  size_t cap = log->cap ? log->cap : RING_FIRST;
  while (cap < need && cap < log->max)
    cap *= 2;
  if (cap > log->max)
    cap = log->max;
  char *ring = cap > log->cap ? malloc(cap) : NULL;
  if (!ring)
    return;
  for (uint64_t at = log->begin; at < log->end;) {
    size_t index = at % log->cap, n = log->cap - index;
    n = n < log->end - at ? n : (size_t)(log->end - at);
    ring_put(ring, cap, at, log->ring + index, n);
    at += n;
  }
  free(log->ring);
  log->ring = ring;
  log->cap = cap;
}

// Makes room for `n` bytes behind the end: by memory while there is some to be had, else at the cost of the oldest. False: out of memory.
static bool make_room(struct worker_log *log, size_t n)
{
  size_t used = (size_t)(log->end - log->begin);
  if (used + n > log->cap && log->cap < log->max)
    grow(log, used + n);
  while (log->end - log->begin + n > log->cap) {
    if (log->begin == log->end)
      return false;
    log->begin += sizeof(struct record) + record_at(log, log->begin).n;
  }
  return true;
}

// --- writing -------------------------------------------------------------------------------------------------------------------------------

// The newest record, if it may still grow.
static bool may_grow(const struct worker_log *log, nsec now, struct record *newest)
{
  if (log->begin == log->end)
    return false;
  *newest = record_at(log, log->newest);
  return newest->n < log->record_most && now - newest->wall < RECORD_TIME && newest->offset + newest->n == log->total;
}

// Adds what fits into one record, and returns how much that was.
static size_t add_some(struct worker_log *log, struct str bytes, nsec now)
{
  struct record r;
  bool grows = may_grow(log, now, &r);
  if (!grows)
    r = (struct record){log->total, now, 0};
  size_t n = bytes.n < log->record_most - r.n ? bytes.n : log->record_most - r.n;
  if (!make_room(log, n + (grows ? 0 : sizeof r))) {
    log->total += n; // lost
    return n;
  }
  if (grows && log->newest < log->begin)
    return 0; // without memory it had to go itself: there will be a new one
  if (!grows) {
    log->newest = log->end;
    log->end += sizeof r;
  }
  ring_put(log->ring, log->cap, log->end, bytes.p, n);
  r.n += n;
  ring_put(log->ring, log->cap, log->newest, &r, sizeof r);
  log->end += n;
  log->total += n;
  return n;
}

static void has_news(struct worker_log *log)
{
  if (!list_empty(&log->followers))
    turn_end_add(log->reactor, &log->tell);
}

void worker_log_add(struct worker_log *log, struct str bytes)
{
  nsec now = clock_wall();
  while (bytes.n)
    bytes = str_skip(bytes, add_some(log, bytes, now));
  has_news(log);
}

void worker_log_end(struct worker_log *log)
{
  log->ended = true;
  has_news(log);
}

// --- reading -------------------------------------------------------------------------------------------------------------------------------

bool worker_log_ended(const struct worker_log *log)
{
  return log->ended;
}

uint64_t worker_log_total(const struct worker_log *log)
{
  return log->total;
}

struct log_cursor worker_log_at(const struct worker_log *log, uint64_t offset)
{
  return (struct log_cursor){offset, log->begin};
}

bool worker_log_read(const struct worker_log *log, struct log_cursor *at, char *to, size_t room, struct log_piece *piece)
{
  if (at->record < log->begin)
    at->record = log->begin;
  while (at->record < log->end) {
    struct record r = record_at(log, at->record);
    if (at->offset < r.offset + r.n) {
      uint64_t from = at->offset > r.offset ? at->offset : r.offset;
      size_t left = (size_t)(r.offset + r.n - from);
      *piece = (struct log_piece){left < room ? left : room, from, from - at->offset, r.wall};
      ring_get(log, at->record + sizeof r + (from - r.offset), to, piece->n);
      at->offset = from + piece->n;
      return true;
    }
    if (at->record == log->newest)
      return false; // it may still grow
    at->record += sizeof r + r.n;
  }
  return false;
}

// Passes lines from the oldest byte that is kept. With `lines` it stops behind so many, and *offset is where; with 0 it counts all.
static size_t pass_lines(const struct worker_log *log, size_t lines, uint64_t *offset)
{
  char some[1024];
  struct log_piece piece;
  struct log_cursor at = worker_log_at(log, 0);
  size_t passed = 0;
  bool unfinished = false;
  while (worker_log_read(log, &at, some, sizeof some, &piece)) {
    for (size_t i = 0; i < piece.n; i++) {
      unfinished = some[i] != '\n';
      passed += !unfinished;
      if (lines && passed == lines) {
        *offset = piece.offset + i + 1;
        return passed;
      }
    }
  }
  return passed + unfinished;
}

struct log_cursor worker_log_tail(const struct worker_log *log, size_t lines)
{
  size_t kept = pass_lines(log, 0, NULL);
  uint64_t offset = log->begin < log->end ? record_at(log, log->begin).offset : log->total;
  if (!lines)
    offset = log->total;
  else if (kept > lines)
    pass_lines(log, kept - lines, &offset);
  return worker_log_at(log, offset);
}

// --- its life ------------------------------------------------------------------------------------------------------------------------------

static void on_turn_end(struct turn_end *t)
{
  struct worker_log *log = CONTAINER_OF(t, struct worker_log, tell);
  worker_log_ref(log); // the last follower may let go of it
  LIST_EACH (node, &log->followers) {
    struct log_follower *f = CONTAINER_OF(node, struct log_follower, link);
    f->news(f);
  }
  worker_log_unref(log);
}

void worker_log_follow(struct worker_log *log, struct log_follower *f)
{
  list_append(&log->followers, &f->link);
}

struct worker_log *worker_log_new(struct reactor *r, size_t max)
{
  struct worker_log *log = calloc(1, sizeof *log);
  if (!log)
    return NULL;
  log->reactor = r;
  log->refs = 1;
  log->max = max > LOG_LEAST ? max : LOG_LEAST;
  log->record_most = log->max / 8 < RECORD_MOST ? log->max / 8 : RECORD_MOST;
  list_init(&log->followers);
  list_init(&log->tell.link);
  log->tell.run = on_turn_end;
  return log;
}

struct worker_log *worker_log_ref(struct worker_log *log)
{
  log->refs++;
  return log;
}

void worker_log_unref(struct worker_log *log)
{
  if (!log || --log->refs)
    return;
  list_remove(&log->tell.link);
  free(log->ring);
  free(log);
}
