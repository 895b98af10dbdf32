// SPDX-License-Identifier: Apache-2.0
// The last bytes of a worker's output, for error messages. Output is hostile: it is kept as it comes and cleaned when it is read.
#ifndef ENVGATE_PROVIDERS_LOG_TAIL_H
#define ENVGATE_PROVIDERS_LOG_TAIL_H

#include <stddef.h>

#include "base/err.h"
#include "base/str.h"

enum { LOG_TAIL_BYTES = 8192 };

// A ring. Zeroed: empty and ready. It needs no freeing.
struct log_tail {
  size_t total; // bytes ever added
  char ring[LOG_TAIL_BYTES];
};

// Adds output, in pieces of any size; only the last LOG_TAIL_BYTES are kept.
void log_tail_add(struct log_tail *t, struct str bytes);

// The last whole lines that fit `max` bytes with the final NUL, as clean UTF-8: escape sequences and control characters other than newline and
// tab are left out, invalid bytes become '?', space at the end is cut. A single line that is longer is cut at its front. "" where there is none.
void log_tail_text(const struct log_tail *t, char *text, size_t max);

// Appends the last output, if any, to e's message, which is then the gateway's own words in the first line and the worker's in the lines after.
void log_tail_explain(const struct log_tail *t, struct err *e);

#endif
