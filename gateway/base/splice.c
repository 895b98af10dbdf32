// SPDX-License-Identifier: Apache-2.0
#include "base/splice.h"

#include <stdlib.h>

// Room for one more in an array. NULL: out of memory.
static void *grown(void *p, size_t n, size_t *cap, size_t size)
{
  if (n < *cap)
    return p;
  size_t more = *cap ? *cap * 2 : 2;
  void *q = realloc(p, more * size);
  if (q)
    *cap = more;
  return q;
}

bool splices_hold(struct splices *s, struct shared *bytes)
{
  struct shared **held = grown(s->held, s->n_held, &s->cap_held, sizeof(struct shared *));
  if (!held)
    return false;
  s->held = held;
  held[s->n_held++] = shared_ref(bytes);
  return true;
}

static bool lies_in(const struct buf *b, struct str piece)
{
  return piece.p >= b->p && piece.p < b->p + b->n;
}

bool splices_add(struct splices *s, size_t at, struct str piece)
{
  if (piece.n < s->min)
    return false;
  size_t tried = 0; // pieces come in the order of what they lie in
  while (tried < s->n_held && !lies_in(&s->held[s->last]->buf, piece)) {
    s->last = (s->last + 1) % s->n_held;
    tried++;
  }
  struct splice *more = tried < s->n_held ? grown(s->at, s->n, &s->cap, sizeof *more) : NULL;
  if (!more)
    return false;
  s->at = more;
  more[s->n++] = (struct splice){at, piece};
  s->bytes += piece.n;
  return true;
}

void splices_free(struct splices *s)
{
  while (s->n_held)
    shared_unref(s->held[--s->n_held]);
  free(s->held);
  free(s->at);
  *s = (struct splices){.min = s->min};
}

struct str splices_next(const struct splices *s, struct str own, struct splice_place *at, size_t max, bool *piece)
{
  const struct splice *next = at->piece < s->n ? &s->at[at->piece] : NULL;
  struct str bytes;
  *piece = next && next->at == at->own;
  if (*piece)
    bytes = str_skip(next->bytes, at->in);
  else
    bytes = (struct str){own.p + at->own, (next ? next->at : own.n) - at->own};
  bytes.n = bytes.n < max ? bytes.n : max;
  if (!*piece) {
    at->own += bytes.n;
  } else if ((at->in += bytes.n) == next->bytes.n) {
    at->piece++;
    at->in = 0;
  }
  return bytes;
}

bool splices_join(struct splices *s, struct buf *own)
{
  if (!s->n)
    return true;
  struct buf whole = {.max = own->max};
  if (!buf_reserve(&whole, own->n + s->bytes))
    return false;
  struct splice_place at = {0};
  bool piece;
  for (struct str bytes; (bytes = splices_next(s, buf_view(own), &at, SIZE_MAX, &piece)).n;)
    buf_add(&whole, bytes.p, bytes.n);
  buf_free(own);
  *own = whole;
  splices_free(s);
  return true;
}
