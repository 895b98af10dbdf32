// SPDX-License-Identifier: Apache-2.0
#include "base/blocks.h"

#include <stdalign.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// Stands before each block.
struct block {
  alignas(max_align_t) size_t size; // that the block has room for
  struct block *next;               // among the spares
};

static struct block *block_of(void *p)
{
  return (struct block *)p - 1;
}

// Which spares a block of so many bytes is among; BLOCK_SIZES: it is too large to be kept.
static size_t place_of(size_t n)
{
  return n <= (size_t)BLOCK_STEP * BLOCK_SIZES ? (n ? n - 1 : 0) / BLOCK_STEP : BLOCK_SIZES;
}

void *blocks_malloc(struct blocks *b, size_t n)
{
  size_t place = place_of(n);
  struct block_spares *spares = &b->spares[place < BLOCK_SIZES ? place : 0];
  struct block *block = place < BLOCK_SIZES ? spares->first : NULL;
  if (block) {
    spares->first = block->next;
    spares->n--;
    return block + 1;
  }
  size_t size = place < BLOCK_SIZES ? (place + 1) * BLOCK_STEP : n;
  if (size > SIZE_MAX - sizeof *block || !(block = malloc(sizeof *block + size)))
    return NULL;
  block->size = size;
  return block + 1;
}

void *blocks_calloc(struct blocks *b, size_t n, size_t size)
{
  size_t all;
  void *p = __builtin_mul_overflow(n, size, &all) ? NULL : blocks_malloc(b, all);
  return p ? memset(p, 0, all) : NULL;
}

void blocks_free(struct blocks *b, void *p)
{
  if (!p)
    return;
  struct block *block = block_of(p);
  size_t place = place_of(block->size);
  if (place == BLOCK_SIZES || b->spares[place].n == BLOCK_SPARES) {
    free(block);
    return;
  }
  block->next = b->spares[place].first;
  b->spares[place].first = block;
  b->spares[place].n++;
}

void *blocks_realloc(struct blocks *b, void *p, size_t n)
{
  if (p && n <= block_of(p)->size)
    return p;
  void *larger = blocks_malloc(b, n);
  if (larger && p) {
    memcpy(larger, p, block_of(p)->size);
    blocks_free(b, p);
  }
  return larger;
}

void blocks_clear(struct blocks *b)
{
  for (size_t i = 0; i < BLOCK_SIZES; i++)
    while (b->spares[i].first) {
      struct block *block = b->spares[i].first;
      b->spares[i].first = block->next;
      free(block);
    }
  memset(b, 0, sizeof *b);
}
