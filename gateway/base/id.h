// SPDX-License-Identifier: Apache-2.0
// Random names.
#ifndef ENVGATE_BASE_ID_H
#define ENVGATE_BASE_ID_H

#include <stddef.h>
#include <stdint.h>

#include "base/str.h"

// Fills `p` with `n` unpredictable bytes. Ends the program when the kernel gives none, which it never does after boot.
void random_bytes(void *p, size_t n);

// Random bytes fetched some at a time, for those who need few and often: a system call each would cost more than a call does. Zeroed, it is empty. For one thread.
struct random_pool {
  unsigned char bytes[1024];
  size_t left;
};
// The same from a pool; n is at most its size.
void random_take(struct random_pool *pool, void *p, size_t n);

// Writes `n` random characters of [0-9a-v] (5 bits each) and a NUL. The pool may be NULL.
void id_random(struct random_pool *pool, char *out, size_t n);

// Writes a UUID of version 4 (RFC 9562 section 5.4) in its text form and a NUL: 37 bytes.
void id_uuid(char out[37]);

// FNV-1a, 64 bits (http://www.isthe.com/chongo/tech/comp/fnv/): for tables and comparisons where the input is not hostile or a collision hurts its sender only.
// Start with `hash` 0 and chain.
uint64_t hash_fnv(uint64_t hash, struct str s);

#endif
