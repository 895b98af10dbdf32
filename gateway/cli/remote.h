// SPDX-License-Identifier: Apache-2.0
// The subcommands that ask a running gateway: workers, sessions, logs, preload, drain, stop. Their options are one table (remote.c), of which --help and
// docs/CLI.md are made.
#ifndef ENVGATE_CLI_REMOTE_H
#define ENVGATE_CLI_REMOTE_H

#include "base/arena.h"
#include "cli/cli.h"
#include "cli/client.h"

enum remote_exit { EXIT_UNREACHED = 3, EXIT_INTERRUPTED = 130 }; // beside cli.h's

// What the command line says. Strings are argv's, or "".
struct remote_args {
  const char *server, *environment, *tail, *workers, *timeout;
  const char *what; // the argument: a worker's id or an environment's name, without its collection
  bool json, all, follow, timestamps;
};

// Runs the subcommand argv[0]. False: there is none of that name, and nothing was done.
bool cli_remote(int argc, char **argv, int *exit_code);

// A line for each in the program's help, and all of docs/CLI.md.
void cli_remote_summaries(void);
bool cli_remote_markdown(struct buf *out);

// --- between remote.c and the files of the commands

int remote_workers(struct client *c, const struct remote_args *a);
int remote_sessions(struct client *c, const struct remote_args *a);
int remote_logs(struct client *c, const struct remote_args *a);
int remote_preload(struct client *c, const struct remote_args *a);
int remote_drain(struct client *c, const struct remote_args *a);
int remote_stop(struct client *c, const struct remote_args *a);

// Says on standard error how a request ended that did not end well, and returns the exit code. CLIENT_DONE is EXIT_OK, and says nothing.
int remote_end(const struct client *c, enum client_result result, const struct err *e);

// A message from its JSON, in the arena. NULL: `e`, which says that it is no answer of a gateway's.
ProtobufCMessage *remote_decode(const ProtobufCMessageDescriptor *type, struct str json, struct arena *a, struct err *e);

// A launch's progress in words: "pulling 3/7 layers, 45.2/120.0 MiB".
struct Envgate__V1__LaunchProgress;
void remote_progress(const struct Envgate__V1__LaunchProgress *p, char *text, size_t room);

// Writes to standard output and flushes it. False: it can't be written, which has been said.
bool remote_write(struct str bytes);

#endif
