// SPDX-License-Identifier: Apache-2.0
#include "auth/quota.h"

enum { RETRY_CALLS_MS = 50, RETRY_SESSIONS_MS = 1000 };

void quota_limit(struct quota *q, const struct quota_limits *limits)
{
  atomic_store_explicit(&q->max_sessions, limits->sessions, memory_order_relaxed);
  atomic_store_explicit(&q->max_calls, limits->calls, memory_order_relaxed);
  atomic_store_explicit(&q->interval, limits->calls_per_s > 0 ? nsec_from_s(1 / limits->calls_per_s) : 0, memory_order_relaxed);
}

static bool exceeded(struct err *e, uint64_t retry_after_ms, const char *of)
{
  err_set(e, CODE_RESOURCE_EXHAUSTED, REASON_QUOTA_EXCEEDED, "the principal has its quota of %s; wait, or ask for a larger one", of);
  e->retry_after_ms = retry_after_ms < UINT32_MAX ? (uint32_t)retry_after_ms : UINT32_MAX;
  return false;
}

// https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm (virtual scheduling)
static bool in_time(struct quota *q, nsec interval, nsec now, nsec *wait)
{
  nsec ahead = interval < NSEC_PER_S ? NSEC_PER_S - interval : 0;
  uint64_t due = atomic_load_explicit(&q->due, memory_order_relaxed), from;
  do {
    from = due > now ? due : now;
    if (from - now > ahead) {
      *wait = from - now - ahead;
      return false;
    }
  } while (!atomic_compare_exchange_weak_explicit(&q->due, &due, nsec_add(from, interval), memory_order_relaxed, memory_order_relaxed));
  return true;
}

bool quota_take_call(struct quota *q, nsec now, bool *counted, struct err *e)
{
  int64_t max = atomic_load_explicit(&q->max_calls, memory_order_relaxed);
  nsec interval = atomic_load_explicit(&q->interval, memory_order_relaxed), wait;
  *counted = max > 0;
  if (max > 0 && atomic_fetch_add_explicit(&q->calls, 1, memory_order_relaxed) >= max) {
    quota_give_call(q);
    *counted = false;
    return exceeded(e, RETRY_CALLS_MS, "calls at a time");
  }
  if (!interval || in_time(q, interval, now, &wait))
    return true;
  if (*counted)
    quota_give_call(q);
  *counted = false;
  return exceeded(e, wait / NSEC_PER_MS + 1, "calls a second");
}

void quota_give_call(struct quota *q)
{
  atomic_fetch_sub_explicit(&q->calls, 1, memory_order_relaxed);
}

bool quota_take_session(struct quota *q, struct err *e)
{
  int64_t max = atomic_load_explicit(&q->max_sessions, memory_order_relaxed);
  if (atomic_fetch_add_explicit(&q->sessions, 1, memory_order_relaxed) < max || max == 0)
    return true;
  quota_give_session(q);
  return exceeded(e, RETRY_SESSIONS_MS, "sessions");
}

void quota_give_session(struct quota *q)
{
  atomic_fetch_sub_explicit(&q->sessions, 1, memory_order_relaxed);
}
