// SPDX-License-Identifier: Apache-2.0
#include "reference/env.h"

#include <math.h>
#include <stdlib.h>

#include "base/id.h"
#include "transcode/decimal.h"

const struct ref_env_kind *ref_env_kind_at(unsigned i)
{
  static const struct ref_env_kind *const kinds[] = {&ref_echo, &ref_cartpole, &ref_pixels, NULL};
  return kinds[i];
}

const struct ref_env_kind *ref_env_kind(const char *name)
{
  const struct ref_env_kind *kind;
  for (unsigned i = 0; (kind = ref_env_kind_at(i)); i++)
    if (strcmp(kind->name, name) == 0)
      return kind;
  return NULL;
}

// `raw` is a JSON string without its quotes.
static bool set_episode_id(struct ref_env *env, struct str raw)
{
  char uuid[37];
  if (!raw.p) {
    id_uuid(uuid);
    raw = str_c(uuid);
  }
  env->episode_id.n = 0;
  return buf_char(&env->episode_id, '"') && buf_str(&env->episode_id, raw) && buf_char(&env->episode_id, '"');
}

struct ref_env *ref_env_make(const struct ref_env_kind *kind)
{
  struct ref_env *env = kind->make();
  if (!env)
    return NULL;
  env->kind = kind;
  if (!set_episode_id(env, (struct str){0})) {
    ref_env_destroy(env);
    return NULL;
  }
  return env;
}

void ref_env_destroy(struct ref_env *env)
{
  if (!env)
    return;
  buf_free(&env->episode_id);
  env->kind->destroy(env);
}

bool ref_env_reset(struct ref_env *env, const uint64_t *seed, struct str episode_id, struct ref_result *result)
{
  if (!set_episode_id(env, episode_id))
    return false;
  env->step_count = 0;
  return env->kind->reset(env, seed, result);
}

bool ref_env_step(struct ref_env *env, const struct ref_action *action, struct ref_result *result)
{
  env->step_count++;
  if (env->kind->step(env, action, result))
    return true;
  env->step_count--;
  return false;
}

bool ref_env_state(const struct ref_env *env, struct buf *out)
{
  return buf_str(out, STR("{\"episode_id\":")) && buf_str(out, buf_view(&env->episode_id)) &&
         buf_printf(out, ",\"step_count\":%llu", (unsigned long long)env->step_count) && env->kind->state(env, out) && buf_char(out, '}');
}

bool ref_json_double(struct buf *out, double v)
{
  if (!isfinite(v))
    return buf_str(out, STR("null"));
  char text[TEXT_MAX];
  return buf_add(out, text, float64_repr(v, text));
}
