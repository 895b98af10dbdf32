// SPDX-License-Identifier: Apache-2.0
// A configuration file of any bytes: a config or mistakes, never both, never neither.
#include <stdint.h>
#include <stdlib.h>

#include "config/config.h"
#include "config/options.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_config(const struct config *c)
{
  if (!c->listen || !c->self || c->n_envs == 0 || c->n_envs > ENVIRONMENTS_MAX)
    abort();
  for (size_t i = 0; i < c->n_envs; i++) {
    const struct env_config *env = &c->envs[i];
    if (!pattern_matches(ENVIRONMENT_NAME_PATTERN, env->name) || config_env(c, str_c(env->name)) != env)
      abort();
    if (!env->provider || !env->description || env->max_workers < 1 || env->sessions_per_worker < 1 || !(env->lease_s > 0))
      abort();
    if (strcmp(env->provider, "static") == 0 && (env->urls.n == 0 || env->max_workers != (int64_t)env->urls.n))
      abort();
    if (strcmp(env->provider, "docker") == 0 && !env->image)
      abort();
    if (strcmp(env->provider, "process") == 0 && (env->command.n == 0 || env->command.at[env->command.n]))
      abort();
    if (strcmp(env->provider, "uv") == 0 && !env->uv_project + !env->uv_space + !env->uv_project_url != 2)
      abort();
    if (strcmp(env->provider, "builtin") == 0 && !env->builtin)
      abort();
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  struct config_mistakes m;
  struct config *c = config_parse((struct str){(const char *)data, size}, &m);
  if (!c == !m.n)
    abort();
  if (c)
    check_config(c);
  for (size_t i = 0; i < m.n; i++) {
    if (!m.at[i].text[0] || m.at[i].line < 0)
      abort();
    for (const char *p = m.at[i].path; *p; p++)
      if ((unsigned char)*p < 0x20 || *p == 0x7F) // it is printed
        abort();
  }
  config_mistakes_free(&m);
  config_free(c);
  return 0;
}
