// SPDX-License-Identifier: Apache-2.0
// The structured log: one line an event, logfmt or JSON, to standard error.
//
// Safe from any thread, as long as each has a struct log of its own where lines are gathered. What is written goes by one write(2) of whole lines, so lines never mix. Never give it a payload, a token or a header's value.
#ifndef ENVGATE_RUNTIME_LOG_H
#define ENVGATE_RUNTIME_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include <time.h>

#include "base/buf.h"
#include "base/str.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };
enum log_format { LOG_LOGFMT, LOG_JSON };

// Lines that wait for the end of a turn, and the last line's second as text, which need not be made again.
struct log_gather {
  struct buf lines;
  bool lost; // the last write failed, perhaps in the middle of a line
  time_t second;
  char stamp[24];
};

struct log {
  int fd;
  enum log_level level; // lines below it are not written
  enum log_format format;
  struct log_gather *gather; // NULL: each line is written at once. Lines from LOG_WARN up always are, with what waits before them.
};

// One key and its value. Keys are literals in snake_case.
struct log_field {
  const char *key;
  enum { LOG_STR, LOG_INT, LOG_NUM } type;
  struct str s; // LOG_STR: escaped as the format needs it; an empty one is left out
  int64_t i;
  double d;
};
#define LF_STR(key, value) ((struct log_field){key, LOG_STR, value, 0, 0})
#define LF_C(key, value) ((struct log_field){key, LOG_STR, str_c(value), 0, 0})
#define LF_INT(key, value) ((struct log_field){key, LOG_INT, {0, 0}, (int64_t)(value), 0})
#define LF_NUM(key, value) ((struct log_field){key, LOG_NUM, {0, 0}, 0, value})

static inline bool log_on(const struct log *l, enum log_level level)
{
  return level >= l->level;
}

// Writes `ts`, `level`, `event` and the fields. `event` names what happened: "call", "session.created", "worker.exited" …
void log_write(const struct log *l, enum log_level level, const char *event, const struct log_field *fields, int n);

// Writes what has been gathered.
void log_flush(const struct log *l);

// log_event(log, LOG_INFO, "worker.ready", LF_C("worker", id), LF_INT("ms", ms));
#define log_event(l, level, event, ...)                                                         \
  do {                                                                                          \
    if (log_on(l, level)) {                                                                     \
      const struct log_field log_fields_[] = {__VA_ARGS__};                                     \
      log_write(l, level, event, log_fields_, (int)(sizeof log_fields_ / sizeof *log_fields_)); \
    }                                                                                           \
  } while (0)

#endif
