// SPDX-License-Identifier: Apache-2.0
// Counters and histograms. Each reactor has its own struct metrics, written by its thread only, with relaxed atomics, so that a scrape on another
// thread may read them; a scrape adds them up.
//
// Every metric is a row of METRICS, so that docs and the scrape cannot miss one. Labels come from closed sets: methods, codes, states,
// environments.
#ifndef ENVGATE_RUNTIME_METRICS_H
#define ENVGATE_RUNTIME_METRICS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/clock.h"

// X(name, type, help): single numbers.
#define METRICS(X)                                                                                                       \
  X(connections_opened_total, counter, "Connections accepted.")                                                          \
  X(connections, gauge, "Connections open now.")                                                                         \
  X(calls_in_flight, gauge, "Calls that run or wait now.")                                                               \
  X(calls_crossed_total, counter, "Calls that were passed to another reactor.")                                          \
  X(batch_items_total, counter, "Items of batches that have ended.")                                                     \
  X(batch_items_failed_total, counter, "Items of batches that ended with an error.")                                     \
  X(received_bytes_total, counter, "Bytes of request messages.")                                                         \
  X(sent_bytes_total, counter, "Bytes of reply messages.")                                                               \
  X(worker_received_bytes_total, counter, "Bytes of messages from workers.")                                             \
  X(worker_sent_bytes_total, counter, "Bytes of messages to workers.")                                                   \
  X(sessions_created_total, counter, "Sessions created.")                                                                \
  X(sessions_closed_total, counter, "Sessions closed by their callers.")                                                 \
  X(sessions_expired_total, counter, "Sessions closed because their lease or idle time ran out.")                        \
  X(sessions_lost_total, counter, "Sessions that lost their worker.")                                                    \
  X(session_queue_length, gauge, "Calls that wait for their turn on a session.")                                         \
  X(replies_kept_served_total, counter, "Retries answered with a kept or running call's reply.")                         \
  X(replies_dropped_total, counter, "Replies that no caller collected.")                                                 \
  X(replies_paused_total, counter, "Large replies that were not read on at once, as their caller had not taken others.") \
  X(workers_started_total, counter, "Workers launched.")                                                                 \
  X(workers_failed_total, counter, "Workers that failed to start.")                                                      \
  X(workers_exited_total, counter, "Workers that ended unasked.")                                                        \
  X(worker_queue_length, gauge, "Callers that wait for a worker.")

// Gauges by state: X(metric name, label, value of the label).
#define METRIC_SESSION_STATES(X) X(provisioning) X(ready) X(busy) X(lost)
#define METRIC_WORKER_STATES(X) X(starting) X(ready) X(stopping)

enum metric {
#define X(name, type, help) METRIC_##name,
  METRICS(X)
#undef X
      METRIC_COUNT,
};
enum metric_session_state {
#define X(name) METRIC_SESSION_##name,
  METRIC_SESSION_STATES(X)
#undef X
      METRIC_SESSION_STATE_COUNT,
};
enum metric_worker_state {
#define X(name) METRIC_WORKER_##name,
  METRIC_WORKER_STATES(X)
#undef X
      METRIC_WORKER_STATE_COUNT,
};

enum { METRIC_CODES = 17, METRIC_BUCKETS = 20 };

// One for each method: calls and time by status code, as Prometheus histograms. The upper bounds of the buckets in seconds are fixed:
// 50 µs doubling up to about 13 s, then +Inf.
struct method_metrics {
  _Atomic uint64_t calls[METRIC_CODES];
  _Atomic uint64_t bucket[METRIC_BUCKETS]; // not cumulative; the scrape adds up
  _Atomic uint64_t sum_ns;
};

struct metrics {
  _Atomic int64_t value[METRIC_COUNT];
  _Atomic int64_t sessions[METRIC_SESSION_STATE_COUNT];
  _Atomic int64_t workers[METRIC_WORKER_STATE_COUNT];
  struct method_metrics *methods; // by the method's index
  int method_count;
};

// A single writer needs no read-modify-write: load, add, store, all relaxed.
static inline void metric_add(struct metrics *m, enum metric which, int64_t n)
{
  int64_t v = atomic_load_explicit(&m->value[which], memory_order_relaxed);
  atomic_store_explicit(&m->value[which], v + n, memory_order_relaxed);
}

// Moves one session (worker) from a state to another; -1: from or to nowhere.
void metric_session_state(struct metrics *m, int from, int to);
void metric_worker_state(struct metrics *m, int from, int to);

// Counts a finished call.
void metric_call(struct metrics *m, int method, int code, nsec took);

// False when out of memory.
bool metrics_init(struct metrics *m, int method_count);
void metrics_free(struct metrics *m);

// Writes the sum of `n` reactors' metrics in Prometheus' text format 0.0.4, every name with the prefix "envgate_", plus process_* (CPU
// seconds, resident bytes, open and most descriptors, start time) and envgate_build_info. `method_name(i)` gives the label of method i
// ("envgate.v1.SessionService/Step"). False when out of memory.
bool metrics_write(struct metrics *const *all, int n, const char *(*method_name)(int), const char *version, struct buf *out);

// Appends a Markdown table of every metric, for docs/METRICS.md. False when out of memory.
bool metrics_markdown(struct buf *out);

#endif
