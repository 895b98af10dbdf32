// SPDX-License-Identifier: Apache-2.0
// "process": any command. "builtin": the gateway's own reference worker, as a process.
#include "providers/args.h"
#include "providers/command.h"
#include "providers/providers.h"

static struct launch *process_start(const struct launch_spec *spec, const struct launch_events *events, void *ctx, struct err *e)
{
  const struct command command = {.args = spec->env->command, .cwd = spec->env->cwd};
  return command_start(spec, &provider_process, &command, events, ctx, e);
}

static struct launch *builtin_start(const struct launch_spec *spec, const struct launch_events *events, void *ctx, struct err *e)
{
  const struct env_config *env = spec->env;
  struct command command = {.cwd = env->cwd};
  struct launch *l = NULL;
  if (args_add(&command.args, spec->reactor->config->self) && args_add(&command.args, "worker") && args_add(&command.args, env->builtin) &&
      args_add(&command.args, "--listen") && args_add(&command.args, "unix:{socket}") && args_add(&command.args, "--capacity") &&
      args_addf(&command.args, "%lld", (long long)env->sessions_per_worker) && args_add_all(&command.args, &env->builtin_args))
    l = command_start(spec, &provider_builtin, &command, events, ctx, e);
  else
    err_nomem(e);
  args_free(&command.args);
  return l;
}

const struct provider provider_process = {
    .name = "process",
    .start = process_start,
    .log_tail = command_log_tail,
    .stop = command_stop,
};

const struct provider provider_builtin = {
    .name = "builtin",
    .start = builtin_start,
    .log_tail = command_log_tail,
    .stop = command_stop,
};
