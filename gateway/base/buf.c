// SPDX-License-Identifier: Apache-2.0
#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json_scan.h"
#include "base/utf8.h"

enum { GENEROUS_UNTIL = 4 << 20 };

char *buf_grow(struct buf *b, size_t more)
{
  if (more > SIZE_MAX / 2 - b->n || (b->max && b->n + more > b->max))
    return NULL;
  size_t need = b->n + more, cap = b->cap ? b->cap : 256;
  while (cap < need)
    cap *= 2;
  if (cap > GENEROUS_UNTIL) // memory of its own, which grows without being copied
    cap = need + need / 8;
  if (b->max && cap > b->max)
    cap = b->max;
  char *p = realloc(b->p, cap);
  if (!p)
    return NULL;
  b->p = p;
  b->cap = cap;
  return p + b->n;
}

bool buf_printf(struct buf *b, const char *fmt, ...)
{
  va_list ap;
  va_start(ap, fmt);
  int want = vsnprintf(NULL, 0, fmt, ap);
  va_end(ap);
  char *to = want < 0 ? NULL : buf_reserve(b, (size_t)want + 1);
  if (!to)
    return false;
  va_start(ap, fmt);
  vsnprintf(to, (size_t)want + 1, fmt, ap);
  va_end(ap);
  b->n += (size_t)want;
  return true;
}

bool buf_json_string(struct buf *b, struct str s)
{
  static const char hex[] = "0123456789abcdef";
  size_t before = b->n;
  bool ok = buf_char(b, '"');
  size_t run = 0; // start of the bytes that need no escape
  // Mostly none does.
  size_t plain = s.n ? (size_t)(json_scan_plain(s.p, s.p + s.n) - s.p) : 0;
  if (plain && memchr(s.p, 0x7F, plain))
    plain = 0;
  for (size_t i = plain; ok && i < s.n;) {
    unsigned char c = (unsigned char)s.p[i];
    size_t len = c < 0x80 ? 1 : utf8_length(s.p + i, s.n - i);
    if (len && c >= 0x20 && c != '"' && c != '\\' && c != 0x7F) {
      i += len;
      continue;
    }
    ok = buf_add(b, s.p + run, i - run);
    if (!len) {
      ok = ok && buf_str(b, STR("\xEF\xBF\xBD"));
    } else if (c == '"' || c == '\\') {
      ok = ok && buf_char(b, '\\') && buf_char(b, (char)c);
    } else if (c == '\n' || c == '\t' || c == '\r') {
      ok = ok && buf_char(b, '\\') && buf_char(b, c == '\n' ? 'n' : c == '\t' ? 't' : 'r');
    } else {
      char u[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
      ok = ok && buf_add(b, u, sizeof u);
    }
    run = ++i;
  }
  ok = ok && buf_add(b, s.p + run, s.n - run) && buf_char(b, '"');
  if (!ok)
    b->n = before;
  return ok;
}

void buf_consume(struct buf *b, size_t n)
{
  b->n -= n;
  if (b->n)
    memmove(b->p, b->p + n, b->n);
}

void buf_free(struct buf *b)
{
  free(b->p);
  b->p = NULL;
  b->n = b->cap = 0;
}

void buf_lend(struct buf_pool *pool, struct buf *b, size_t want)
{
  struct buf_spares *spares = want <= BUF_SMALL ? &pool->small : &pool->large;
  if (b->p || !spares->n || want > BUF_LARGE)
    return;
  const struct buf *spare = &spares->at[--spares->n];
  b->p = spare->p;
  b->cap = spare->cap;
}

void buf_return(struct buf_pool *pool, struct buf *b)
{
  struct buf_spares *spares = b->cap <= BUF_SMALL ? &pool->small : &pool->large;
  if (!b->p || spares->n == BUF_SPARES || b->cap > BUF_LARGE) {
    buf_free(b);
    return;
  }
  spares->at[spares->n++] = *b;
  b->p = NULL;
  b->n = b->cap = 0;
}

void buf_pool_free(struct buf_pool *pool)
{
  while (pool->small.n)
    buf_free(&pool->small.at[--pool->small.n]);
  while (pool->large.n)
    buf_free(&pool->large.at[--pool->large.n]);
}

struct shared *shared_take(struct shared_pool *pool, struct buf *b)
{
  struct shared *s = pool && pool->shells ? pool->shell[--pool->shells] : malloc(sizeof *s);
  if (!s)
    return NULL;
  *s = (struct shared){.refs = 1, .pool = pool, .buf = *b};
  b->p = NULL;
  b->n = b->cap = 0;
  return s;
}

struct shared *shared_ref(struct shared *s)
{
  s->refs++;
  return s;
}

void shared_unref(struct shared *s)
{
  if (!s || --s->refs)
    return;
  struct shared_pool *pool = s->pool;
  if (pool)
    buf_return(&pool->memory, &s->buf);
  else
    buf_free(&s->buf);
  if (pool && pool->shells < BUF_SPARES)
    pool->shell[pool->shells++] = s;
  else
    free(s);
}

void shared_pool_free(struct shared_pool *pool)
{
  buf_pool_free(&pool->memory);
  while (pool->shells)
    free(pool->shell[--pool->shells]);
}
