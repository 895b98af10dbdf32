// SPDX-License-Identifier: Apache-2.0
#include "api/forward.h"

#include "api/payload.h"

enum { TRACESTATE_MAX = 512 }; // https://www.w3.org/TR/trace-context/#tracestate-limits

struct forward forward_all(const struct call *c)
{
  return (struct forward){c->headers, c->header_count};
}

static bool listed(const struct env_config *env, struct str name)
{
  for (size_t i = 0; i < env->forward_headers.n; i++)
    if (str_ieq(name, str_c(env->forward_headers.at[i])))
      return true;
  return false;
}

static bool is_trace(const struct header *h)
{
  return str_eq(h->name, STR("traceparent")) || (str_eq(h->name, STR("tracestate")) && h->value.n <= TRACESTATE_MAX);
}

// What the configuration sets for the worker is the operator's word, and no caller's.
static bool configured(const struct env_config *env, struct str name)
{
  for (size_t i = 0; i < env->headers.n; i++)
    if (str_ieq(name, str_c(env->headers.at[i].name)))
      return true;
  return false;
}

// A value that is one line to whoever reads it.
static bool plain(struct str value)
{
  for (size_t i = 0; i < value.n; i++)
    if ((value.p[i] < ' ' && value.p[i] != '\t') || value.p[i] > '~')
      return false;
  return true;
}

static bool may_go(const struct header *h, const struct env_config *env)
{
  return (is_trace(h) || listed(env, h->name)) && !configured(env, h->name) && plain(h->value);
}

static bool may_go_anywhere(const struct header *h, const struct config *config)
{
  for (size_t i = 0; i < config->n_envs; i++)
    if (may_go(h, &config->envs[i]))
      return true;
  return false;
}

bool forward_copy(const struct call *c, struct arena *a, struct forward *out)
{
  *out = (struct forward){0};
  struct header *at = NULL;
  for (size_t i = 0; i < c->header_count; i++) {
    const struct header *h = &c->headers[i];
    if (!may_go_anywhere(h, c->home->config))
      continue;
    if (!at && !(at = arena_alloc(a, c->header_count * sizeof *at)))
      return false;
    const char *name = arena_dup(a, h->name), *value = arena_dup(a, h->value);
    if (!name || !value)
      return false;
    at[out->n++] = (struct header){{name, h->name.n}, {value, h->value.n}};
  }
  out->at = at;
  return true;
}

bool forward_to(const struct forward *from, const struct env_config *env, struct arena *a, const struct pairs **out)
{
  struct pairs *pairs = NULL;
  *out = NULL;
  for (size_t i = 0; i < from->n; i++) {
    const struct header *h = &from->at[i];
    if (!may_go(h, env))
      continue;
    if (!pairs) {
      pairs = arena_alloc(a, sizeof *pairs);
      struct pair *at = pairs ? arena_alloc(a, from->n * sizeof *at) : NULL;
      if (!at)
        return false;
      pairs->at = at;
    }
    pairs->at[pairs->n++] = (struct pair){unconst(h->name.p), unconst(h->value.p), VALUE_PLAIN};
  }
  *out = pairs;
  return true;
}
