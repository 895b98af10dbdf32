// SPDX-License-Identifier: Apache-2.0
// A growing byte buffer with a maximum, and a shared, counted one for bytes that outlive their maker.
#ifndef ENVGATE_BASE_BUF_H
#define ENVGATE_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/str.h"

// Bytes [0, n) are filled. A zeroed buf with `max` set is empty and ready; buf_free makes it so again (max stays).
struct buf {
  char *p;
  size_t n, cap;
  size_t max; // it never holds more; 0: no limit
};

// buf_reserve where there is no room yet.
char *buf_grow(struct buf *b, size_t more);

// Makes room for `more` bytes behind n and returns where they go; NULL when over max or out of memory (the buf is unchanged).
static inline char *buf_reserve(struct buf *b, size_t more)
{
  return b->p && more <= b->cap - b->n ? b->p + b->n : buf_grow(b, more);
}

// Each appends and returns true, or changes nothing and returns false (over max, out of memory).
static inline bool buf_add(struct buf *b, const void *p, size_t n)
{
  char *to = buf_reserve(b, n);
  if (!to)
    return n == 0;
  if (n)
    memcpy(to, p, n);
  b->n += n;
  return true;
}

static inline bool buf_str(struct buf *b, struct str s)
{
  return buf_add(b, s.p, s.n);
}

static inline bool buf_char(struct buf *b, char c)
{
  char *to = buf_reserve(b, 1);
  if (!to)
    return false;
  *to = c;
  b->n++;
  return true;
}

bool buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

// Appends `s` as a JSON string with its quotes. Bytes that are not UTF-8 become U+FFFD.
bool buf_json_string(struct buf *b, struct str s);

// Drops the first `n` bytes (n <= b->n).
void buf_consume(struct buf *b, size_t n);

// Frees the bytes and empties it.
void buf_free(struct buf *b);

static inline struct str buf_view(const struct buf *b)
{
  return (struct str){b->p, b->n};
}

// Memory kept for reuse by one thread, so that bytes as many as the last ones ask malloc for nothing. Zeroed, it is empty.
// There are two sizes, since some are kept for long, and few bytes must not sit in the memory of many.
enum { BUF_SPARES = 64, BUF_SMALL = 4 << 10, BUF_LARGE = 64 << 10 };
struct buf_pool {
  struct buf_spares {
    struct buf at[BUF_SPARES];
    int n;
  } small, large; // of at most BUF_SMALL and BUF_LARGE bytes each
};

// Gives an empty buf without memory a spare's that fits `want` bytes, if there is one. Its max stays.
void buf_lend(struct buf_pool *pool, struct buf *b, size_t want);
// Takes the memory back, which need not be of this pool, and empties the buf.
void buf_return(struct buf_pool *pool, struct buf *b);
void buf_pool_free(struct buf_pool *pool);

// What shared bytes are made of, kept for reuse by one thread. Zeroed, it is empty.
struct shared_pool {
  struct shared *shell[BUF_SPARES];
  int shells;
  struct buf_pool memory;
};

// Bytes shared by several owners of one thread; freed, or returned to the pool, when the last lets go.
struct shared {
  uint32_t refs;
  struct shared_pool *pool;
  struct buf buf;
};

// Takes over `b`'s bytes (b becomes empty) with one reference; NULL when out of memory (b keeps them). The pool may be NULL; else it must outlive the bytes.
struct shared *shared_take(struct shared_pool *pool, struct buf *b);
struct shared *shared_ref(struct shared *s);
// Lets go; NULL is fine.
void shared_unref(struct shared *s);
void shared_pool_free(struct shared_pool *pool);

#endif
