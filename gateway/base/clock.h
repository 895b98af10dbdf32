// SPDX-License-Identifier: Apache-2.0
// Time. Every deadline is a monotonic count of nanoseconds, `nsec`; the wall clock is for logs and for what callers see.
#ifndef ENVGATE_BASE_CLOCK_H
#define ENVGATE_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

typedef uint64_t nsec;

#define NSEC_PER_US ((nsec)1000)
#define NSEC_PER_MS ((nsec)1000000)
#define NSEC_PER_S ((nsec)1000000000)
// A deadline that never comes.
#define NSEC_NEVER UINT64_MAX

static inline nsec clock_mono(void)
{
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (nsec)t.tv_sec * NSEC_PER_S + (nsec)t.tv_nsec;
}

// Nanoseconds since 1970 (UTC).
static inline nsec clock_wall(void)
{
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return (nsec)t.tv_sec * NSEC_PER_S + (nsec)t.tv_nsec;
}

// a + b, or NSEC_NEVER where the sum would not fit.
static inline nsec nsec_add(nsec a, nsec b)
{
  return a > NSEC_NEVER - b ? NSEC_NEVER : a + b;
}

// Seconds as nanoseconds: negative and NaN become 0, what does not fit NSEC_NEVER.
static inline nsec nsec_from_s(double s)
{
  if (!(s > 0))
    return 0;
  return s >= 1.8e10 ? NSEC_NEVER : (nsec)(s * 1e9);
}

#endif
