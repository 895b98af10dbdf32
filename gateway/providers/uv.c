// SPDX-License-Identifier: Apache-2.0
// "uv": OpenEnv projects, Hugging Face spaces and packages, run by Astral's uv. Every OpenEnv project has a `server` script; with uv_app uvicorn runs the app.
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "providers/args.h"
#include "providers/command.h"
#include "providers/providers.h"

// What uv needs to find its cache, its Pythons and the network.
static const char *const kept[] = {
    "UV_*",       "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "SSL_CERT_FILE", "SSL_CERT_DIR", "http_proxy", "https_proxy",
    "HTTP_PROXY", "HTTPS_PROXY",    "ALL_PROXY",       "all_proxy",     "NO_PROXY",      "no_proxy",     NULL,
};

static bool is_program(const char *path)
{
  struct stat st;
  return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

// Looks `name` up as a shell would, into `path`.
static bool find_program(const char *name, char path[PATH_MAX])
{
  if (strchr(name, '/'))
    return realpath(name, path) && is_program(path);
  const char *dirs = getenv("PATH");
  while (dirs && *dirs) {
    size_t n = strcspn(dirs, ":");
    int len = snprintf(path, PATH_MAX, "%.*s/%s", (int)n, dirs, name);
    if (n > 0 && len > 0 && len < PATH_MAX && is_program(path))
      return true;
    dirs += n + (dirs[n] == ':');
  }
  return false;
}

static bool find_uv(const struct env_config *env, char path[PATH_MAX], struct err *e)
{
  return find_program(env->uv_path, path) ||
         err_set(
             e, CODE_FAILED_PRECONDITION, REASON_WORKER_START_FAILED,
             "uv (%s) was not found. Install it with `pip install uv` or as https://docs.astral.sh/uv/getting-started/installation/ says, and set "
             "uv_path if it is not in PATH",
             env->uv_path);
}

// What is to be run: the project, or a package from elsewhere. The folder where the gateway happens to run must not count as a project then.
static bool add_source(struct strings *args, const struct env_config *env, const char *project)
{
  if (project)
    return args_add(args, "--project") && args_add(args, project);
  if (!args_add(args, "--isolated") || !args_add(args, "--no-project") || !args_add(args, "--with"))
    return false;
  return env->uv_space ? args_addf(args, "git+https://huggingface.co/spaces/%s", env->uv_space) : args_add(args, env->uv_project_url);
}

static bool add_server(struct strings *args, const struct env_config *env)
{
  bool ok = env->uv_app ? args_add(args, "uvicorn") && args_add(args, env->uv_app) : args_add(args, "server");
  return ok && args_add(args, "--host") && args_add(args, "{host}") && args_add(args, "--port") && args_add(args, "{port}") &&
         args_add_all(args, &env->server_args);
}

static struct launch *uv_start(const struct launch_spec *spec, const struct launch_events *events, void *ctx, struct err *e)
{
  const struct env_config *env = spec->env;
  char uv[PATH_MAX], project[PATH_MAX];
  if (!find_uv(env, uv, e))
    return NULL;
  if (env->uv_project && !realpath(env->uv_project, project)) {
    err_set(e, CODE_FAILED_PRECONDITION, REASON_WORKER_START_FAILED, "the project's folder %s: %s", env->uv_project, strerror(errno));
    return NULL;
  }
  struct command command = {.cwd = env->cwd, .keep = kept};
  if (env->uv_project && env->uv_app && !command.cwd)
    command.cwd = project; // an app is named relative to its project's folder
  struct launch *l = NULL;
  if (args_add(&command.args, uv) && args_add(&command.args, "run") && args_add_all(&command.args, &env->uv_args) &&
      add_source(&command.args, env, env->uv_project ? project : NULL) && args_add(&command.args, "--") && add_server(&command.args, env))
    l = command_start(spec, &provider_uv, &command, events, ctx, e);
  else
    err_nomem(e);
  args_free(&command.args);
  return l;
}

const struct provider provider_uv = {
    .name = "uv",
    .start = uv_start,
    .log_tail = command_log_tail,
    .stop = command_stop,
};
