// SPDX-License-Identifier: Apache-2.0
#include "config/check.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

// Header fields that the HTTP and WebSocket clients write themselves.
static const char *const own_headers[] = {"connection", "content-length", "content-type",      "expect", "host", "keep-alive",
                                          "te",         "trailer",        "transfer-encoding", "upgrade"};

static bool was_given(const struct given *given, const char *provider, const char *key)
{
  const struct setting *s = setting_find(IN_ENVIRONMENT, provider, str_c(key));
  return s && given->setting[s - settings];
}

void check_gateway(const struct config *c, struct report *r)
{
  if (!c->tls_cert_file && (c->tls_key_file || c->tls_client_ca_file))
    report_add(r, "tls_cert_file", "is missing: without a certificate there is no TLS");
  bool inlines = c->inline_images.n || c->inline_spaces.n || c->inline_project_urls.n || c->inline_paths.n;
  if (c->n_envs == 0 && !inlines)
    report_add(r, "environments", "must have at least one environment, as {\"echo\": {\"builtin\": {\"environment\": \"echo\"}}}");
}

// Finds the provider that the environment means: the one named, else the one whose object is given. -1 with a mistake reported.
static int meant_provider(const struct env_config *env, const struct given *given, struct report *r)
{
  int found = -1, n = 0;
  if (was_given(given, NULL, "provider")) {
    for (int i = 0; env->provider && i < PROVIDER_COUNT; i++)
      if (strcmp(env->provider, provider_names[i]) == 0)
        return i;
    return -1; // reported where it was read
  }
  for (int i = 0; i < PROVIDER_COUNT; i++)
    if (given->provider[i]) {
      found = i;
      n++;
    }
  if (n == 1)
    return found;
  if (n == 0)
    report_add(r, NULL, "must say how its workers come to be, by an object named static, process, uv, docker or builtin");
  else
    report_add(r, NULL, "must have one provider's object, not %d", n);
  return -1;
}

static void check_objects(int provider, const struct given *given, struct report *r)
{
  const char *name = provider_names[provider];
  for (int i = 0; i < PROVIDER_COUNT; i++)
    if (given->provider[i] && i != provider)
      report_add(r, provider_names[i], "does not belong to an environment of the provider %s", name);
  if (!given->provider[provider]) {
    report_add(r, name, "is missing: the provider's settings");
    return;
  }
  if (!given->entered[provider])
    return;
  size_t length = report_enter(r, str_c(name));
  for (int i = 0; i < SETTINGS_COUNT; i++)
    if (settings[i].required && setting_in(&settings[i], IN_ENVIRONMENT, name) && !given->setting[i])
      report_add(r, settings[i].key, "is missing: %s", settings[i].help);
  report_leave(r, length);
}

static void check_static(struct env_config *env, const struct given *given, struct report *r)
{
  if (env->env_vars.n)
    report_add(r, "env_vars", "does not belong to the provider static, whose workers run already");
  if (env->pass_env.n)
    report_add(r, "pass_env", "does not belong to the provider static, whose workers run already");
  if (was_given(given, NULL, "max_workers") && env->urls.n && env->max_workers != (int64_t)env->urls.n)
    report_add(r, "max_workers", "must be the number of urls (%zu), or be left out", env->urls.n);
  env->max_workers = (int64_t)env->urls.n;
  static const char *const replacing[] = {"max_worker_sessions", "max_worker_age_s"};
  for (size_t i = 0; i < sizeof replacing / sizeof *replacing; i++)
    if (was_given(given, NULL, replacing[i]))
      report_add(r, replacing[i], "does not belong to the provider static, whose workers run already");
}

static bool mentions(const struct env_config *env, const char *what)
{
  for (size_t i = 0; i < env->command.n; i++)
    if (strstr(env->command.at[i], what))
      return true;
  for (size_t i = 0; i < env->env_vars.n; i++)
    if (env->env_vars.at[i].source == VALUE_PLAIN && strstr(env->env_vars.at[i].value, what))
      return true;
  return false;
}

static void check_process(const struct env_config *env, struct report *r)
{
  if (env->command.n == 0)
    return;
  if (!env->command.at[0][0])
    report_add(r, "process.command", "must begin with a program");
  bool port = mentions(env, "{port}"), socket = mentions(env, "{socket}");
  if (!port && !socket)
    report_add(r, "process.command", "must tell the worker where to listen: put {port} or {socket} into the command or into a value of env_vars");
  else if (port && socket)
    report_add(r, "process.command", "has both {port} and {socket} (counting env_vars); the worker can listen on one only");
}

// One of extra_env takes the place of one of env_vars, or joins them. False when out of memory; `p` is the caller's then.
static bool merge_pair(struct pairs *into, const struct pair *p)
{
  for (size_t i = 0; i < into->n; i++)
    if (strcmp(into->at[i].name, p->name) == 0) {
      free(into->at[i].name);
      free(into->at[i].value);
      into->at[i] = *p;
      return true;
    }
  struct pair *at = realloc(into->at, (into->n + 1) * sizeof *at);
  if (!at)
    return false;
  into->at = at;
  at[into->n++] = *p;
  return true;
}

static void merge_extra_env(struct env_config *env, struct report *r)
{
  struct pairs *extra = &env->uv_extra_env;
  while (extra->n && merge_pair(&env->env_vars, &extra->at[extra->n - 1]))
    extra->n--;
  if (extra->n) {
    r->failed = true;
    return;
  }
  free(extra->at);
  *extra = (struct pairs){0};
}

static void check_uv(struct env_config *env, const struct given *given, struct report *r)
{
  int n = was_given(given, "uv", "project") + was_given(given, "uv", "space") + was_given(given, "uv", "project_url");
  if (n != 1)
    report_add(r, "uv", "must have exactly one of project, space and project_url");
  if (env->uv_port && was_given(given, NULL, "max_workers") && env->max_workers > 1)
    report_add(r, "uv.port", "is one port, so max_workers must be 1, or be left out");
  else if (env->uv_port)
    env->max_workers = 1;
  if (env->uv_reload && env->uv_workers > 1)
    report_add(r, "uv.reload", "does not go together with several workers");
  if (!env->uv_app && !env->uv_project && (env->uv_reload || env->uv_workers > 1))
    report_add(r, "uv", "must have an app for uvicorn, since reload and workers are its options");
  merge_extra_env(env, r);
}

// The image of a Space. NULL: out of memory.
static char *hub_image(const char *space, const char *tag)
{
  char *image = NULL;
  if (asprintf(&image, "registry.hf.space/%s:%s", space, tag) < 0)
    return NULL;
  for (char *p = image + strlen("registry.hf.space/"), *end = p + strlen(space); p < end; p++) {
    if (*p >= 'A' && *p <= 'Z')
      *p = (char)(*p - 'A' + 'a');
    else if (!(*p >= 'a' && *p <= 'z') && !(*p >= '0' && *p <= '9'))
      *p = '-';
  }
  return image;
}

static void check_docker(struct env_config *env, const struct given *given, struct report *r)
{
  if (!was_given(given, "docker", "image") && !was_given(given, "docker", "space"))
    report_add(r, "docker", "must have an image or a space");
  if (was_given(given, "docker", "tag") && (env->image || !was_given(given, "docker", "space")))
    report_add(r, "docker.tag", "goes with a space; an image has its tag in its name");
  if (env->pass_env.n)
    report_add(r, "pass_env", "does not belong to the provider docker; say it in env_vars, as {\"NAME\": {\"env\": \"NAME\"}}");
  if (env->image || !env->docker_space || !env->docker_tag)
    return;
  env->image = hub_image(env->docker_space, env->docker_tag);
  if (!env->image)
    r->failed = true;
}

static bool is_own(struct str name)
{
  bool own = name.n >= 14 && strncasecmp(name.p, "sec-websocket-", 14) == 0;
  for (size_t k = 0; !own && k < sizeof own_headers / sizeof *own_headers; k++)
    own = str_ieq(name, str_c(own_headers[k]));
  return own;
}

// What a caller proves to the gateway is no worker's to have: it could act as the caller.
static void check_forward_headers(const struct env_config *env, struct report *r)
{
  for (size_t i = 0; i < env->forward_headers.n; i++) {
    struct str name = str_c(env->forward_headers.at[i]);
    if (str_ieq(name, STR("authorization")) || str_ieq(name, STR("proxy-authorization")))
      report_add(r, "forward_headers", "must not have %s: callers' credentials never go to workers", name.p);
    else if (is_own(name))
      report_add(r, "forward_headers", "must not have %s, which the gateway sets itself", name.p);
  }
}

static void check_headers(const struct env_config *env, struct report *r)
{
  for (size_t i = 0; i < env->headers.n; i++) {
    struct str name = str_c(env->headers.at[i].name);
    if (is_own(name))
      report_add(r, "headers", "must not have %s, which the gateway sets itself", env->headers.at[i].name);
    for (size_t k = 0; k < i; k++)
      if (str_ieq(name, str_c(env->headers.at[k].name)))
        report_add(r, "headers", "has %s more than once", env->headers.at[i].name);
  }
}

void check_environment(struct env_config *env, const struct given *given, struct report *r)
{
  check_headers(env, r);
  check_forward_headers(env, r);
  int provider = meant_provider(env, given, r);
  if (provider < 0)
    return;
  check_objects(provider, given, r);
  struct err e;
  const struct setting *row = setting_find(IN_ENVIRONMENT, NULL, STR("provider"));
  if (row && !env->provider && !setting_set(row, str_c(provider_names[provider]), env, &e))
    report_err(r, &e);
  const char *name = provider_names[provider];
  if (!given->entered[provider])
    return;
  if (strcmp(name, "static") == 0)
    check_static(env, given, r);
  else if (strcmp(name, "process") == 0)
    check_process(env, r);
  else if (strcmp(name, "uv") == 0)
    check_uv(env, given, r);
  else if (strcmp(name, "docker") == 0)
    check_docker(env, given, r);
  if (env->min_workers > env->max_workers)
    report_add(r, "min_workers", "must be at most max_workers (%" PRId64 ")", env->max_workers);
}

void check_inline_common(struct env_config *env, const struct given *given, struct report *r)
{
  // What is launched is the caller's to say, within what is allowed; and nothing is launched before.
  static const struct {
    const char *provider, *key;
  } callers[] = {{NULL, "provider"}, {NULL, "min_workers"}, {"docker", "image"},   {"docker", "space"}, {"docker", "tag"},
                 {"uv", "project"},  {"uv", "space"},       {"uv", "project_url"}, {"uv", "app"}};
  check_headers(env, r);
  for (int i = 0; i < PROVIDER_COUNT; i++)
    if (given->provider[i] && strcmp(provider_names[i], "docker") != 0 && strcmp(provider_names[i], "uv") != 0)
      report_add(r, provider_names[i], "does not belong to inline sources, which docker and uv launch");
  for (size_t i = 0; i < sizeof callers / sizeof *callers; i++) {
    if (!was_given(given, callers[i].provider, callers[i].key))
      continue;
    size_t length = r->path.n;
    if (callers[i].provider)
      report_enter(r, str_c(callers[i].provider));
    report_add(r, callers[i].key, "does not belong to what inline sources have in common");
    report_leave(r, length);
  }
}
