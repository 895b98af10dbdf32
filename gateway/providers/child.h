// SPDX-License-Identifier: Apache-2.0
// A child process with all that descends from it: in a session of its own, under a supervisor (supervise.h), so that nothing of it outlives the gateway.
//
// Standard input is /dev/null; output goes to a log tail. Its environment is clean: of the gateway's own variables it gets PATH, HOME, LANG and TMPDIR, what
// `keep` and `pass` name, and then its spec's. Secrets in the gateway's environment do not reach workers unasked.
#ifndef ENVGATE_PROVIDERS_CHILD_H
#define ENVGATE_PROVIDERS_CHILD_H

#include "config/config.h"
#include "providers/log_tail.h"
#include "runtime/reactor.h"

struct child;

struct child_spec {
  struct reactor *reactor;
  const struct strings *command; // the first is looked up in the child's PATH
  const struct pairs *env_vars;  // win over inherited ones
  const char *const *keep;       // further variables to inherit, ended by NULL; may be NULL
  const struct strings *pass;    // and these: names, or beginnings that end in '*'
  const char *cwd;               // NULL: the gateway's own
  int64_t rlimit_data;           // bytes; 0: as the gateway's
  int64_t rlimit_open_files;     // 0: as the gateway's
  nsec stop_grace;               // from SIGTERM to SIGKILL
  bool mark;                     // the command runs `envgate booting`
};

// None is called inside child_start or child_stop, nor after the latter.
struct child_events {
  void (*exited)(void *ctx);                   // it has ended by itself and nothing of it is left
  void (*output)(void *ctx, struct str bytes); // it wrote something; hostile bytes
  void (*booting)(void *ctx);                  // with `mark`: `envgate booting` was reached. At most once
};

// Starts it. Copies all of `spec` and `events`. NULL with `e` set when it could not be started at all; a command that cannot be run shows as an exit with code
// 127 and says why in its log tail.
struct child *child_start(const struct child_spec *spec, const struct child_events *events, void *ctx, struct err *e);

// What it printed last.
const struct log_tail *child_log(const struct child *c);

// After `exited`: how it ended, as in "exited with code 3" or "was killed by signal 9 (Killed)", and its last output: FAILED_PRECONDITION,
// WORKER_START_FAILED.
void child_explain(const struct child *c, struct err *e);

// After `exited`: whether a signal ended it. Only otherwise is it sure that nothing of it is left even for a moment: a supervisor that was itself killed could
// not wait.
bool child_was_killed(const struct child *c);

// Stops it if it runs, SIGTERM and after the grace (or at the reactor's kill_at) SIGKILL, and frees it. `stopped` is called afterwards, once nothing of it is left.
void child_stop(struct child *c, void (*stopped)(void *ctx), void *ctx);

#endif
