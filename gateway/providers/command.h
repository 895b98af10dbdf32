// SPDX-License-Identifier: Apache-2.0
// A worker that is a command on this machine: what the providers process, builtin and uv have in common.
//
// In the command's arguments and in the values of the environment's env_vars, {port} stands for a free TCP port, {host} for the address to listen on, and
// {socket} for the path of a unix socket in state_dir. Where {socket} appears the worker is reached by it, else at {port}. Other braces are left alone, and all
// are in values that were read by reference.
#ifndef ENVGATE_PROVIDERS_COMMAND_H
#define ENVGATE_PROVIDERS_COMMAND_H

#include "providers/provider.h"

struct command {
  struct strings args;
  const char *cwd;          // NULL: the gateway's own
  const char *const *keep;  // variables to inherit, as in struct child_spec
  const char *host;         // NULL: 127.0.0.1
  const char *connect_host; // NULL: as host
  uint16_t port;            // 0: any free one
  nsec install_timeout;     // not 0: it runs `envgate booting` when what comes before, an installation, is done, which takes so long at most
};

// A provider's start, log_tail and stop. Copies `command`.
struct launch *command_start(const struct launch_spec *spec, const struct provider *provider, const struct command *command,
                             const struct launch_events *events, void *ctx, struct err *e);
void command_log_tail(struct launch *l, char *text, size_t max);
void command_stop(struct launch *l, void (*stopped)(void *ctx), void *ctx);

#endif
