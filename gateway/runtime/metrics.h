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
#define METRICS(X)                                                                                                                          \
  X(connections_opened_total, counter, "Connections accepted.")                                                                             \
  X(connections, gauge, "Connections open now.")                                                                                            \
  X(tls_handshakes_total, counter, "TLS handshakes that succeeded.")                                                                        \
  X(tls_handshakes_failed_total, counter, "TLS handshakes that failed or took too long.")                                                   \
  X(auth_refused_total, counter, "Calls refused for their credentials or scope.")                                                           \
  X(quota_refused_total, counter, "Calls and sessions refused for a quota.")                                                                \
  X(websockets_opened_total, counter, "WebSockets opened by callers.")                                                                      \
  X(websockets, gauge, "WebSockets of callers open now.")                                                                                   \
  X(websocket_messages_received_total, counter, "Messages from callers by WebSocket.")                                                      \
  X(websocket_messages_sent_total, counter, "Messages to callers by WebSocket.")                                                            \
  X(calls_in_flight, gauge, "Calls that run or wait now.")                                                                                  \
  X(calls_crossed_total, counter, "Calls that were passed to another reactor.")                                                             \
  X(batch_items_total, counter, "Items of batches that have ended.")                                                                        \
  X(batch_items_failed_total, counter, "Items of batches that ended with an error.")                                                        \
  X(batch_items_pending_total, counter, "Items that batches left pending (WAIT_ANY).")                                                      \
  X(received_bytes_total, counter, "Bytes of request messages.")                                                                            \
  X(sent_bytes_total, counter, "Bytes of reply messages.")                                                                                  \
  X(worker_received_bytes_total, counter, "Bytes of messages from workers.")                                                                \
  X(worker_sent_bytes_total, counter, "Bytes of messages to workers.")                                                                      \
  X(sessions_created_total, counter, "Sessions created.")                                                                                   \
  X(sessions_closed_total, counter, "Sessions closed by their callers.")                                                                    \
  X(sessions_expired_total, counter, "Sessions closed because their lease or idle time ran out.")                                           \
  X(sessions_lost_total, counter, "Sessions that lost their worker.")                                                                       \
  X(session_queue_length, gauge, "Calls that wait for their turn on a session.")                                                            \
  X(replies_kept_served_total, counter, "Retries answered with a kept or running call's reply.")                                            \
  X(replies_dropped_total, counter, "Replies that no caller collected.")                                                                    \
  X(replies_paused_total, counter, "Large replies that were not read on at once, as their caller had not taken others.")                    \
  X(workers_started_total, counter, "Workers launched.")                                                                                    \
  X(workers_failed_total, counter, "Workers that failed to start.")                                                                         \
  X(workers_exited_total, counter, "Workers that ended unasked.")                                                                           \
  X(workers_retired_total, counter, "Workers replaced: after max_worker_sessions or max_worker_age_s, or because they were told to drain.") \
  X(launches_refused_total, counter, "Sessions refused at once because the launches of their environment keep failing.")                    \
  X(worker_queue_length, gauge, "Callers that wait for a worker.")

// Gauges by state: X(metric name, label, value of the label).
#define METRIC_SESSION_STATES(X) X(provisioning) X(ready) X(busy) X(lost)
#define METRIC_WORKER_STATES(X) X(starting) X(ready) X(stopping)

// Histograms of single names: X(name, help). The upper bounds of the buckets in seconds: 1 ms doubling up to about 262 s, then +Inf.
#define METRIC_HISTOGRAMS(X)                                                    \
  X(worker_launch_seconds, "The time from a worker's launch to its readiness.") \
  X(worker_wait_seconds, "The time that a session waited for its worker, ready or yet to be launched.")

// What is known of each environment's pool: X(name).
#define METRIC_POOL(X) X(starting) X(ready) X(stopping) X(sessions) X(waiting) X(breaker_open)

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

enum metric_histogram {
#define X(name, help) METRIC_HISTOGRAM_##name,
  METRIC_HISTOGRAMS(X)
#undef X
      METRIC_HISTOGRAM_COUNT,
};
enum metric_pool {
#define X(name) METRIC_POOL_##name,
  METRIC_POOL(X)
#undef X
      METRIC_POOL_COUNT,
};

enum { METRIC_CODES = 17, METRIC_BUCKETS = 20 };

// One for each method: calls and time by status code, as Prometheus histograms. The upper bounds of the buckets in seconds are fixed:
// 50 µs doubling up to about 13 s, then +Inf.
struct method_metrics {
  _Atomic uint64_t calls[METRIC_CODES];
  _Atomic uint64_t bucket[METRIC_BUCKETS]; // not cumulative; the scrape adds up
  _Atomic uint64_t sum_ns;
};

struct histogram {
  _Atomic uint64_t bucket[METRIC_BUCKETS]; // not cumulative
  _Atomic uint64_t sum_ns;
};

// One for each environment, on the reactor of the pools.
struct env_metrics {
  const char *name; // borrowed; the label
  _Atomic int64_t value[METRIC_POOL_COUNT];
};

struct metrics {
  _Atomic int64_t value[METRIC_COUNT];
  _Atomic int64_t sessions[METRIC_SESSION_STATE_COUNT];
  _Atomic int64_t workers[METRIC_WORKER_STATE_COUNT];
  struct histogram histograms[METRIC_HISTOGRAM_COUNT];
  struct method_metrics *methods; // by the method's index
  int method_count;
  struct env_metrics *envs;
  int env_count;
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

// Counts a time in a histogram.
void metric_observe(struct metrics *m, enum metric_histogram which, nsec took);

// Counts a finished call.
void metric_call(struct metrics *m, int method, int code, nsec took);

// False when out of memory.
bool metrics_init(struct metrics *m, int method_count);
// Makes room for `n` environments, whose names are then to be set; before any scrape. False when out of memory.
bool metrics_init_envs(struct metrics *m, int n);
void metrics_free(struct metrics *m);

// Writes the sum of `n` reactors' metrics in Prometheus' text format 0.0.4, every name with the prefix "envgate_", plus process_* (CPU
// seconds, resident bytes, open and most descriptors, start time) and envgate_build_info. `method_name(i)` gives the label of method i
// ("envgate.v1.SessionService/Step"). False when out of memory.
bool metrics_write(struct metrics *const *all, int n, const char *(*method_name)(int), const char *version, struct buf *out);

// Appends a Markdown table of every metric, for docs/METRICS.md. False when out of memory.
bool metrics_markdown(struct buf *out);

#endif
