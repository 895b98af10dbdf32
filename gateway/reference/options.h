// SPDX-License-Identifier: Apache-2.0
// The options of `envgate worker`, from one table.
#ifndef ENVGATE_REFERENCE_OPTIONS_H
#define ENVGATE_REFERENCE_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "reference/env.h"

enum ref_dialect {
  REF_DIALECT_WS,   // openenv >= 0.2: each WebSocket has an environment of its own; plain HTTP makes a new one for each request
  REF_DIALECT_HTTP, // openenv-core 0.1: one environment for the process, by plain HTTP; no /ws
  REF_DIALECT_BOTH, // /ws as in `ws`, and plain HTTP on one environment that stays
};

struct ref_options {
  const struct ref_env_kind *kind;
  const char *listen; // HOST:PORT or unix:PATH
  enum ref_dialect dialect;
  uint32_t capacity; // WebSocket sessions at a time
  uint32_t delay_ms; // of each step
  size_t reply_bytes;
  bool faults;
  bool ready; // what /health says
  uint32_t boot_ms;
  int64_t exit_after_ms; // negative: never
  int exit_code;
};

enum ref_parse { REF_PARSED, REF_HELP_SHOWN, REF_USAGE };

// Reads the command line (argv[0] is "worker"); prints the help to stdout or what is wrong to stderr.
enum ref_parse ref_options_parse(struct ref_options *o, int argc, char **argv);

// The table as a Markdown table, for docs. False: out of memory.
bool reference_options_markdown(struct buf *out);

#endif
