// SPDX-License-Identifier: Apache-2.0
#include "base/id.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

void random_bytes(void *p, size_t n)
{
  unsigned char *to = p;
  while (n) {
    ssize_t got = getrandom(to, n, 0);
    if (got < 0 && errno == EINTR)
      continue;
    if (got <= 0)
      abort();
    to += got;
    n -= (size_t)got;
  }
}

void random_take(struct random_pool *pool, void *p, size_t n)
{
  if (pool->left < n) {
    random_bytes(pool->bytes, sizeof pool->bytes);
    pool->left = sizeof pool->bytes;
  }
  pool->left -= n;
  memcpy(p, pool->bytes + pool->left, n);
  memset(pool->bytes + pool->left, 0, n); // what was given out is not kept
}

void id_random(struct random_pool *pool, char *out, size_t n)
{
  static const char digits[] = "0123456789abcdefghijklmnopqrstuv";
  if (pool)
    random_take(pool, out, n);
  else
    random_bytes(out, n);
  for (size_t i = 0; i < n; i++)
    out[i] = digits[(unsigned char)out[i] & 31];
  out[n] = '\0';
}

void id_uuid(char out[37])
{
  static const char hex[] = "0123456789abcdef";
  unsigned char b[16];
  random_bytes(b, sizeof b);
  b[6] = (unsigned char)((b[6] & 0x0F) | 0x40);
  b[8] = (unsigned char)((b[8] & 0x3F) | 0x80);
  char *p = out;
  for (size_t i = 0; i < sizeof b; i++) {
    if (i == 4 || i == 6 || i == 8 || i == 10)
      *p++ = '-';
    *p++ = hex[b[i] >> 4];
    *p++ = hex[b[i] & 15];
  }
  *p = '\0';
}

uint64_t hash_fnv(uint64_t hash, struct str s)
{
  if (!hash)
    hash = 0xcbf29ce484222325u;
  for (size_t i = 0; i < s.n; i++)
    hash = (hash ^ (unsigned char)s.p[i]) * 0x100000001b3u;
  return hash;
}
