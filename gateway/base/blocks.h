// SPDX-License-Identifier: Apache-2.0
// malloc's calls with small blocks kept for reuse, for a library that allocates and frees the same few sizes all the time. For one thread.
#ifndef ENVGATE_BASE_BLOCKS_H
#define ENVGATE_BASE_BLOCKS_H

#include <stddef.h>

enum { BLOCK_STEP = 64, BLOCK_SIZES = 16, BLOCK_SPARES = 256 };

// Zeroed, it is empty. It must outlive its blocks.
struct blocks {
  struct block_spares {
    struct block *first;
    int n;
  } spares[BLOCK_SIZES];
};

// As their namesakes of the C library; each block must go back to where it came from.
void *blocks_malloc(struct blocks *b, size_t n);
void *blocks_calloc(struct blocks *b, size_t n, size_t size);
void *blocks_realloc(struct blocks *b, void *p, size_t n);
void blocks_free(struct blocks *b, void *p);

// Frees the spares.
void blocks_clear(struct blocks *b);

#endif
