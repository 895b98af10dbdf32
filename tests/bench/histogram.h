// SPDX-License-Identifier: Apache-2.0
// load.c's latencies, counted in buckets of 1/64 of their size.
#ifndef ENVGATE_BENCH_HISTOGRAM_H
#define ENVGATE_BENCH_HISTOGRAM_H

#include <stdint.h>

enum { HISTOGRAM_SUB = 64, HISTOGRAM_BUCKETS = 58 * HISTOGRAM_SUB + HISTOGRAM_SUB };

// Of nanoseconds.
struct histogram {
  uint64_t count, max;
  uint64_t buckets[HISTOGRAM_BUCKETS];
};

static inline void histogram_add(struct histogram *h, uint64_t v)
{
  unsigned shift = v < 2 * HISTOGRAM_SUB ? 0 : 63U - (unsigned)__builtin_clzll(v) - 6; // SUB is 2 to the 6th
  h->buckets[shift * HISTOGRAM_SUB + (unsigned)(v >> shift)]++;
  h->count++;
  h->max = v > h->max ? v : h->max;
}

// The middle of a bucket, in microseconds.
static inline double histogram_us(unsigned i)
{
  if (i < 2 * HISTOGRAM_SUB)
    return (double)i / 1e3;
  unsigned shift = i / HISTOGRAM_SUB - 1;
  uint64_t low = (uint64_t)(i - shift * HISTOGRAM_SUB) << shift;
  return ((double)low + (double)(1ULL << shift) / 2) / 1e3;
}

// `part` of all are not above that, in microseconds.
static inline double histogram_percentile_us(const struct histogram *h, double part)
{
  uint64_t want = (uint64_t)((double)h->count * part), seen = 0;
  for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
    seen += h->buckets[i];
    if (h->buckets[i] && seen > want)
      return histogram_us(i);
  }
  return (double)h->max / 1e3;
}

#endif
