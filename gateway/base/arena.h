// SPDX-License-Identifier: Apache-2.0
// Memory that lives as long as one call and is freed at once. Not for several threads at a time.
#ifndef ENVGATE_BASE_ARENA_H
#define ENVGATE_BASE_ARENA_H

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>

#include "base/str.h"

struct arena_chunk;

// Must not move once it is in use: the allocator points to it.
struct arena {
  struct arena_chunk *chunks; // newest first
  char *at, *end;             // free room in the newest
  size_t left;                // how many bytes may still be asked of malloc
  ProtobufCAllocator allocator;
};

// An empty arena that takes at most `max` bytes of memory in all.
void arena_init(struct arena *a, size_t max);

// Zeroed memory for any type; NULL when over max or out of memory.
void *arena_alloc(struct arena *a, size_t n);

// The same, not zeroed.
void *arena_alloc_raw(struct arena *a, size_t n);

// A copy that ends in NUL; NULL as above.
char *arena_dup(struct arena *a, struct str s);

// Printed into the arena; NULL as above.
char *arena_printf(struct arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

// The arena as protobuf-c wants it: freeing does nothing. Its memory is not zeroed (protobuf-c fills it).
ProtobufCAllocator *arena_allocator(struct arena *a);

// Exchanges what two of them hold.
void arena_swap(struct arena *a, struct arena *b);

// Frees what was allocated, but keeps one chunk for the next use: a small call then asks malloc for nothing.
void arena_reset(struct arena *a);

// Frees all of it. The arena may be used again.
void arena_free(struct arena *a);

#endif
