// SPDX-License-Identifier: Apache-2.0
// What a principal may take: sessions, calls at a time, calls a second. Counted over all reactors by atomics, which nobody touches whose principal has no such limit.
#ifndef ENVGATE_AUTH_QUOTA_H
#define ENVGATE_AUTH_QUOTA_H

#include <stdatomic.h>
#include <stdbool.h>

#include "base/clock.h"
#include "base/err.h"

struct quota_limits {
  int64_t sessions, calls; // 0: no limit
  double calls_per_s;      // 0: no limit
};

struct quota {
  _Atomic int64_t max_sessions, max_calls;
  _Atomic uint64_t interval; // nanoseconds of a call; 0: no limit
  _Atomic int64_t sessions, calls;
  _Atomic uint64_t due; // when the next call would come if they came evenly
};

// Sets the limits; what has been taken stays taken.
void quota_limit(struct quota *q, const struct quota_limits *limits);

// Takes a call. *counted says whether it must be given back. False: RESOURCE_EXHAUSTED (QUOTA_EXCEEDED) in `e`, with the time to wait.
// Calls a second are exact over any time, by an even pace (GCRA) that may run ahead by a second's worth of calls.
bool quota_take_call(struct quota *q, nsec now, bool *counted, struct err *e);
void quota_give_call(struct quota *q);

// Takes a session; sessions are always counted, so that a limit set later holds. False: as above.
bool quota_take_session(struct quota *q, struct err *e);
void quota_give_session(struct quota *q);

#endif
