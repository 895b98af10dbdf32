// SPDX-License-Identifier: Apache-2.0
#include "reference/pcg64.h"

#include <stddef.h>

__extension__ typedef unsigned __int128 u128;

enum { POOL = 4 };

// SeedSequence's hash: its multiplier moves on with each word.
static uint32_t hash_word(uint32_t word, uint32_t *hash, uint32_t multiplier)
{
  word ^= *hash;
  *hash *= multiplier;
  word *= *hash;
  return word ^ word >> 16;
}

static uint32_t mix(uint32_t x, uint32_t y)
{
  uint32_t word = 0xca01f9ddu * x - 0x4973f715u * y;
  return word ^ word >> 16;
}

// The pool that SeedSequence(seed) makes. A 64-bit seed is two words of entropy at most, and an absent word counts as zero.
static void fill_pool(uint32_t pool[POOL], uint64_t seed)
{
  uint32_t hash = 0x43b0d7e5u;
  for (size_t i = 0; i < POOL; i++)
    pool[i] = hash_word(i < 2 ? (uint32_t)(seed >> 32 * i) : 0, &hash, 0x931e8875u);
  for (size_t from = 0; from < POOL; from++)
    for (size_t to = 0; to < POOL; to++)
      if (from != to)
        pool[to] = mix(pool[to], hash_word(pool[from], &hash, 0x931e8875u));
}

// SeedSequence.generate_state(4, uint64).
static void generate_state(const uint32_t pool[POOL], uint64_t out[4])
{
  uint32_t hash = 0x8b51f9ddu, word[8];
  for (size_t i = 0; i < 8; i++)
    word[i] = hash_word(pool[i % POOL], &hash, 0x58f38dedu);
  for (size_t i = 0; i < 4; i++)
    out[i] = (uint64_t)word[2 * i + 1] << 32 | word[2 * i];
}

static void advance(struct pcg64 *g)
{
  const u128 multiplier = (u128)UINT64_C(2549297995355413924) << 64 | UINT64_C(4865540595714422341);
  g->state = g->state * multiplier + g->increment;
}

void pcg64_seed(struct pcg64 *g, uint64_t seed)
{
  uint32_t pool[POOL];
  uint64_t word[4];
  fill_pool(pool, seed);
  generate_state(pool, word);
  g->increment = ((u128)word[2] << 64 | word[3]) << 1 | 1;
  g->state = 0;
  advance(g);
  g->state += (u128)word[0] << 64 | word[1];
  advance(g);
}

uint64_t pcg64_next(struct pcg64 *g)
{
  advance(g);
  uint64_t high = (uint64_t)(g->state >> 64), folded = high ^ (uint64_t)g->state;
  unsigned turn = (unsigned)(high >> 58);
  return folded >> turn | folded << (-turn & 63);
}

double pcg64_uniform(struct pcg64 *g, double low, double high)
{
  return low + (high - low) * ((double)(pcg64_next(g) >> 11) * 0x1p-53);
}
