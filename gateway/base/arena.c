// SPDX-License-Identifier: Apache-2.0
#include "base/arena.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { CHUNK = 4096, ALIGN = 16 };

struct arena_chunk {
  struct arena_chunk *next;
  size_t size; // of the whole chunk
};
enum { HEAD = (sizeof(struct arena_chunk) + ALIGN - 1) & ~(size_t)(ALIGN - 1) };

void *arena_alloc_raw(struct arena *a, size_t n)
{
  if (n > SIZE_MAX - ALIGN)
    return NULL;
  n = (n + ALIGN - 1) & ~(size_t)(ALIGN - 1);
  if (n > (size_t)(a->end - a->at)) {
    size_t size = n > CHUNK - HEAD ? n + HEAD : CHUNK;
    if (size < n || size > a->left)
      return NULL;
    struct arena_chunk *c = malloc(size);
    if (!c)
      return NULL;
    a->left -= size;
    c->size = size;
    c->next = a->chunks;
    a->chunks = c;
    a->at = (char *)c + HEAD;
    a->end = (char *)c + size;
  }
  void *p = a->at;
  a->at += n;
  return p;
}

static void *pb_alloc(void *data, size_t n)
{
  return arena_alloc_raw(data, n ? n : 1);
}

static void pb_free(void *data, void *p)
{
  (void)data;
  (void)p;
}

void arena_init(struct arena *a, size_t max)
{
  *a = (struct arena){.left = max, .allocator = {pb_alloc, pb_free, a}};
}

void *arena_alloc(struct arena *a, size_t n)
{
  void *p = arena_alloc_raw(a, n ? n : 1);
  if (p)
    memset(p, 0, n);
  return p;
}

char *arena_dup(struct arena *a, struct str s)
{
  char *p = arena_alloc_raw(a, s.n + 1);
  if (!p)
    return NULL;
  if (s.n)
    memcpy(p, s.p, s.n);
  p[s.n] = '\0';
  return p;
}

char *arena_printf(struct arena *a, const char *fmt, ...)
{
  va_list ap;
  va_start(ap, fmt);
  int want = vsnprintf(NULL, 0, fmt, ap);
  va_end(ap);
  char *p = want < 0 ? NULL : arena_alloc_raw(a, (size_t)want + 1);
  if (!p)
    return NULL;
  va_start(ap, fmt);
  vsnprintf(p, (size_t)want + 1, fmt, ap);
  va_end(ap);
  return p;
}

ProtobufCAllocator *arena_allocator(struct arena *a)
{
  return &a->allocator;
}

void arena_swap(struct arena *a, struct arena *b)
{
  struct arena was = *a;
  *a = (struct arena){.chunks = b->chunks, .at = b->at, .end = b->end, .left = b->left, .allocator = a->allocator};
  *b = (struct arena){.chunks = was.chunks, .at = was.at, .end = was.end, .left = was.left, .allocator = b->allocator};
}

// The first chunk is the last in the list, and of the usual size unless the first allocation was a large one.
void arena_reset(struct arena *a)
{
  while (a->chunks && (a->chunks->next || a->chunks->size != CHUNK)) {
    struct arena_chunk *c = a->chunks;
    a->chunks = c->next;
    a->left += c->size;
    free(c);
  }
  a->at = a->chunks ? (char *)a->chunks + HEAD : NULL;
  a->end = a->chunks ? (char *)a->chunks + CHUNK : NULL;
}

void arena_free(struct arena *a)
{
  while (a->chunks) {
    struct arena_chunk *c = a->chunks;
    a->chunks = c->next;
    a->left += c->size;
    free(c);
  }
  a->at = a->end = NULL;
}
