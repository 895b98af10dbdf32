// SPDX-License-Identifier: Apache-2.0
// Gathers mistakes while a file is read: each with the path and the line that reading has come to.
#ifndef ENVGATE_CONFIG_REPORT_H
#define ENVGATE_CONFIG_REPORT_H

#include "base/buf.h"
#include "config/config.h"

// More than anyone reads at a time. What is over is counted out by one last mistake.
enum { MISTAKES_MAX = 100 };

struct report {
  struct config_mistakes *to;
  struct buf path; // of the value that is read: "environments.echo"
  int line;
  bool failed; // out of memory: nothing that was read may be used
};

// Goes down to a key and back: report_leave takes what report_enter returned.
size_t report_enter(struct report *r, struct str key);
void report_leave(struct report *r, size_t length);

// Adds a mistake at the path, or at `key` below it (NULL: none).
void report_add(struct report *r, const char *key, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

// Adds what `e` says, unless it is OUT_OF_MEMORY, which fails the report.
void report_err(struct report *r, const struct err *e);

static inline bool report_full(const struct report *r)
{
  return r->to->n >= MISTAKES_MAX;
}

#endif
