// SPDX-License-Identifier: Apache-2.0
// "uv": OpenEnv projects, Hugging Face spaces and packages, run by Astral's uv.
//
// A server is either uvicorn with an app, which can listen on a unix socket, or the project's `server` script. Those that OpenEnv's templates make cannot: that
// of 0.10 takes --host and --port only, and those of 0.2 and before take nothing at all and always listen on port 8000, so where a project's folder has
// server/app.py the app is preferred, as OpenEnv's own provider does. Asking a script for its --help would start such a server.
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

// Where uv's cache, Pythons and certificates are. What may hold a password (indexes, proxies) is passed on only when pass_env names it: the worker would see it.
static const char *const kept[] = {
    "UV_CACHE_DIR",    "UV_PYTHON_INSTALL_DIR", "UV_OFFLINE",    "UV_LINK_MODE", "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME", "XDG_DATA_HOME",         "SSL_CERT_FILE", "SSL_CERT_DIR", NULL,
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

static bool has_app(const char *project)
{
  char path[PATH_MAX];
  int n = snprintf(path, sizeof path, "%s/server/app.py", project);
  return n > 0 && n < PATH_MAX && access(path, R_OK) == 0;
}

static bool add_address(struct strings *args, const struct env_config *env, const char *app)
{
  for (size_t i = 0; i < env->server_args.n; i++)
    if (strstr(env->server_args.at[i], "{socket}"))
      return true;
  if (app && !env->uv_host && !env->uv_port && !env->uv_connect_host)
    return args_add(args, "--uds") && args_add(args, "{socket}");
  return args_add(args, "--host") && args_add(args, "{host}") && args_add(args, "--port") && args_add(args, "{port}");
}

static bool add_server(struct strings *args, const struct env_config *env, const char *app)
{
  bool ok = app ? args_add(args, "uvicorn") && args_add(args, app) : args_add(args, "server");
  ok = ok && add_address(args, env, app) && (!env->uv_reload || args_add(args, "--reload"));
  ok = ok && (env->uv_workers <= 1 || (args_add(args, "--workers") && args_addf(args, "%lld", (long long)env->uv_workers)));
  return ok && args_add_all(args, &env->server_args);
}

// Where the gateway reaches what listens at `host`.
static const char *reach(const char *host)
{
  if (host && strcmp(host, "0.0.0.0") == 0)
    return "127.0.0.1";
  return host && strcmp(host, "[::]") == 0 ? "[::1]" : host;
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
  const char *app = env->uv_app ? env->uv_app : env->uv_project && has_app(project) ? "server.app:app" : NULL;
  if (!app && (env->uv_reload || env->uv_workers > 1)) {
    err_set(e, CODE_FAILED_PRECONDITION, REASON_WORKER_START_FAILED,
            "the project %s has no server/app.py for uvicorn, whose options reload and workers are; set app", project);
    return NULL;
  }
  struct command command = {
      .cwd = env->cwd,
      .keep = kept,
      .host = env->uv_host,
      .connect_host = env->uv_connect_host ? env->uv_connect_host : reach(env->uv_host),
      .port = (uint16_t)env->uv_port,
      .install_timeout = nsec_from_s(env->uv_install_timeout_s),
  };
  if (env->uv_project && app && !command.cwd)
    command.cwd = project; // an app is named relative to its project's folder
  struct launch *l = NULL;
  const char *self = spec->reactor->config->self;
  if (args_add(&command.args, uv) && args_add(&command.args, "run") && args_add_all(&command.args, &env->uv_args) &&
      add_source(&command.args, env, env->uv_project ? project : NULL) && args_add(&command.args, "--") && args_add(&command.args, self) &&
      args_add(&command.args, "booting") && args_add(&command.args, "--") && add_server(&command.args, env, app))
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
