// SPDX-License-Identifier: Apache-2.0
#include "config/inline.h"

#include <limits.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/check.h"
#include "config/options.h"

enum { HASH_BYTES = 16, WHAT_MAX = 1024, ENV_VARS_MAX = 64, ENV_VALUE_MAX = 32768 };

// What each kind of source is called in requests, allowed by, and set as.
static const struct {
  const char *field, *option, *provider, *key;
  size_t list; // in struct config
} kinds[] = {
    [SOURCE_IMAGE] = {"source.image", "images", "docker", "image", offsetof(struct config, inline_images)},
    [SOURCE_SPACE] = {"source.space", "spaces", "docker", "space", offsetof(struct config, inline_spaces)},
    [SOURCE_SPACE_UV] = {"source.space", "spaces", "uv", "space", offsetof(struct config, inline_spaces)},
    [SOURCE_PROJECT_URL] = {"source.project_url", "project_urls", "uv", "project_url", offsetof(struct config, inline_project_urls)},
    [SOURCE_PATH] = {"source.path", "paths", "uv", "project", offsetof(struct config, inline_paths)},
};

// --- what is allowed -----------------------------------------------------------------------------------------------------------------------

// An item is the whole, or its beginning with '*' behind it.
static bool item_allows(const char *item, struct str what)
{
  struct str i = str_c(item);
  if (i.n && i.p[i.n - 1] == '*')
    return str_starts(what, (struct str){i.p, i.n - 1});
  return str_eq(i, what);
}

static bool list_allows(const struct strings *list, struct str what)
{
  for (size_t i = 0; i < list->n; i++)
    if (item_allows(list->at[i], what))
      return true;
  return false;
}

// Whether an image is pinned to a digest that is allowed, wherever it comes from.
static bool digest_allowed(const struct strings *list, const char *image)
{
  const char *digest = strchr(image, '@');
  return digest && strncmp(digest + 1, "sha256:", 7) == 0 && list_allows(list, str_c(digest + 1));
}

// What could lead out of an allowed beginning: a way up, a second requirement behind a comma, what a decoder makes of '%'.
static bool url_is_plain(const char *url)
{
  for (const char *p = url; *p; p++)
    if ((unsigned char)*p <= ' ' || *p == 0x7F || strchr(",%\\'\"`", *p))
      return false;
  return !strstr(url, "/../") && !strstr(url, "/./") && !str_ends(str_c(url), STR("/..")) && !strstr(url, "/..#") && !strstr(url, "/..@") &&
         !strstr(url, "/..?");
}

static bool allowed(const struct config *c, const struct inline_source *s, const char *what, struct err *e)
{
  const struct strings *list = (const struct strings *)(const void *)((const char *)c + kinds[s->kind].list);
  if (!list->n)
    return err_set(e, CODE_PERMISSION_DENIED, REASON_SOURCE_NOT_ALLOWED,
                   "%s: sessions of such sources are off; the configuration's inline_sources.%s turns them on", kinds[s->kind].field,
                   kinds[s->kind].option);
  if (list_allows(list, str_c(what)) || (s->kind == SOURCE_IMAGE && digest_allowed(list, what)))
    return true;
  return err_set(e, CODE_PERMISSION_DENIED, REASON_SOURCE_NOT_ALLOWED, "%s: the configuration's inline_sources.%s does not allow it",
                 kinds[s->kind].field, kinds[s->kind].option);
}

static bool names(const struct pairs *map, const char *name)
{
  for (size_t i = 0; i < map->n; i++)
    if (strcmp(map->at[i].name, name) == 0)
      return true;
  return false;
}

static bool vars_allowed(const struct config *c, const struct inline_source *s, struct err *e)
{
  if (s->env_vars.n > ENV_VARS_MAX)
    return err_field(e, REASON_INVALID_REQUEST, "source.env_vars", "source.env_vars must have at most %d names", ENV_VARS_MAX);
  for (size_t i = 0; i < s->env_vars.n; i++) {
    const struct pair *v = &s->env_vars.at[i];
    if (!list_allows(&c->inline_env_vars, str_c(v->name)))
      return err_set(e, CODE_PERMISSION_DENIED, REASON_SOURCE_NOT_ALLOWED,
                     "source.env_vars: the configuration's inline_sources.env_vars does not allow %.64s", v->name);
    if (strlen(v->value) > ENV_VALUE_MAX)
      return err_field(e, REASON_INVALID_REQUEST, "source.env_vars", "source.env_vars: the value of %.64s is over %d bytes", v->name, ENV_VALUE_MAX);
    if (names(&c->inline_common.env_vars, v->name) || names(&c->inline_common.uv_extra_env, v->name))
      return err_set(e, CODE_PERMISSION_DENIED, REASON_SOURCE_NOT_ALLOWED, "source.env_vars: %.64s is set by the configuration", v->name);
  }
  return true;
}

// The name of what is to be launched, as it is compared and used. NULL with `e`.
static char *resolve(const struct inline_source *s, struct err *e)
{
  const char *field = kinds[s->kind].field;
  if (!s->what[0] || strlen(s->what) > WHAT_MAX) {
    err_field(e, REASON_INVALID_REQUEST, field, "%s must have 1 to %d bytes", field, WHAT_MAX);
    return NULL;
  }
  if (s->kind == SOURCE_PROJECT_URL && !url_is_plain(s->what)) {
    err_field(e, REASON_INVALID_REQUEST, field, "%s must have no white space, quotes, commas, '%%', backslashes or ways up (/../)", field);
    return NULL;
  }
  char *what = strdup(s->what);
  if (!what)
    err_nomem(e);
  return what;
}

// Paths are compared without links and ways up. What is not there gets the same answer as what is not allowed.
static char *resolve_path(const struct config *c, const struct inline_source *s, struct err *e)
{
  char *path = s->what[0] == '/' ? realpath(s->what, NULL) : NULL;
  if (path && allowed(c, s, path, e))
    return path;
  if (!path)
    allowed(c, s, "", e);
  free(path);
  return NULL;
}

// --- the environment -----------------------------------------------------------------------------------------------------------------------

static void hash_text(EVP_MD_CTX *h, const char *text)
{
  uint64_t n = strlen(text);
  EVP_DigestUpdate(h, &n, sizeof n);
  EVP_DigestUpdate(h, text, n);
}

static int by_name(const void *a, const void *b)
{
  return strcmp(((const struct pair *)a)->name, ((const struct pair *)b)->name);
}

// Names it by a hash that nobody can aim at: whoever has the same name shares the workers.
static bool name_it(struct env_config *env, const struct inline_source *s, const char *what)
{
  EVP_MD_CTX *h = EVP_MD_CTX_new();
  struct pair *sorted = calloc(s->env_vars.n + 1, sizeof *sorted);
  unsigned char digest[EVP_MAX_MD_SIZE];
  bool ok = h && sorted && EVP_DigestInit_ex(h, EVP_sha256(), NULL);
  if (ok) {
    char numbers[64];
    snprintf(numbers, sizeof numbers, "%d %lld", (int)s->kind, (long long)s->port);
    hash_text(h, numbers);
    hash_text(h, what);
    hash_text(h, s->app);
    if (s->env_vars.n)
      memcpy(sorted, s->env_vars.at, s->env_vars.n * sizeof *sorted);
    qsort(sorted, s->env_vars.n, sizeof *sorted, by_name);
    for (size_t i = 0; i < s->env_vars.n; i++) {
      hash_text(h, sorted[i].name);
      hash_text(h, sorted[i].value);
    }
    ok = EVP_DigestFinal_ex(h, digest, NULL);
  }
  EVP_MD_CTX_free(h);
  free(sorted);
  static const char prefix[] = "inline_", hex[] = "0123456789abcdef";
  env->name = ok ? malloc(sizeof prefix + 2 * HASH_BYTES) : NULL;
  if (!env->name)
    return false;
  memcpy(env->name, prefix, sizeof prefix);
  char *to = env->name + sizeof prefix - 1;
  for (size_t i = 0; i < HASH_BYTES; i++) {
    *to++ = hex[digest[i] >> 4];
    *to++ = hex[digest[i] & 15];
  }
  *to = '\0';
  return true;
}

static bool set(struct env_config *env, struct given *given, const char *provider, const char *key, const char *field, const char *value,
                struct err *e)
{
  const struct setting *row = setting_find(IN_ENVIRONMENT, provider, str_c(key));
  if (!row)
    return err_field(e, REASON_INVALID_REQUEST, field, "%s can't be launched by %s", field, provider);
  given->setting[row - settings] = true;
  struct err why;
  if (setting_set(row, str_c(value), env, &why))
    return true;
  return why.code == CODE_INVALID_ARGUMENT ? err_field(e, REASON_INVALID_REQUEST, field, "%s %s", field, why.msg) : err_nomem(e);
}

static bool set_vars(struct env_config *env, const struct inline_source *s, struct err *e)
{
  const struct setting *row = setting_find(IN_ENVIRONMENT, NULL, STR("env_vars"));
  struct err why;
  for (size_t i = 0; row && i < s->env_vars.n; i++)
    if (!setting_append_pair(row, str_c(s->env_vars.at[i].name), str_c(s->env_vars.at[i].value), VALUE_PLAIN, env, &why))
      return why.code == CODE_INVALID_ARGUMENT ? err_field(e, REASON_INVALID_REQUEST, "source.env_vars", "source.env_vars %s", why.msg)
                                               : err_nomem(e);
  return true;
}

// The checks that the file's environments get, too.
static bool check_all(struct env_config *env, struct given *given, int provider, struct err *e)
{
  struct config_mistakes mistakes = {0};
  struct report r = {.to = &mistakes};
  given->provider[provider] = given->entered[provider] = true;
  check_environment(env, given, &r);
  bool ok = !r.failed && mistakes.n == 0;
  if (r.failed)
    err_nomem(e);
  else if (!ok)
    err_field(e, REASON_INVALID_REQUEST, "source", "source: %s %s", mistakes.at[0].path, mistakes.at[0].text);
  config_mistakes_free(&mistakes);
  buf_free(&r.path);
  return ok;
}

static int provider_index(const char *name)
{
  int i = 0;
  while (strcmp(provider_names[i], name) != 0)
    i++;
  return i;
}

static bool fill(struct env_config *env, const struct config *c, const struct inline_source *s, const char *what, struct err *e)
{
  const char *provider = kinds[s->kind].provider;
  bool docker = strcmp(provider, "docker") == 0;
  struct given given = {0};
  char port[24];
  snprintf(port, sizeof port, "%lld", (long long)s->port);
  if (!settings_copy(IN_ENVIRONMENT, env, &c->inline_common) || !name_it(env, s, what) || !(env->holds = malloc(sizeof *env->holds)))
    return err_nomem(e);
  atomic_init(env->holds, 1);
  if (s->app[0] && docker)
    return err_field(e, REASON_INVALID_REQUEST, "source.app", "source.app does not go with what docker launches");
  if (s->port && !docker)
    return err_field(e, REASON_INVALID_REQUEST, "source.port", "source.port does not go with what uv launches");
  return set(env, &given, provider, kinds[s->kind].key, kinds[s->kind].field, what, e) &&
         (!s->app[0] || set(env, &given, "uv", "app", "source.app", s->app, e)) &&
         (!s->port || set(env, &given, "docker", "port", "source.port", port, e)) && set_vars(env, s, e) &&
         check_all(env, &given, provider_index(provider), e);
}

static void env_free(struct env_config *env)
{
  settings_free(IN_ENVIRONMENT, env);
  free(env->holds);
  free(env->name);
  free(env);
}

struct env_config *inline_env(const struct config *c, const struct inline_source *source, struct err *e)
{
  char *what = source->kind == SOURCE_PATH ? resolve_path(c, source, e) : resolve(source, e);
  if (!what || (source->kind != SOURCE_PATH && !allowed(c, source, what, e)) || !vars_allowed(c, source, e)) {
    free(what);
    return NULL;
  }
  struct env_config *env = calloc(1, sizeof *env);
  if (!env)
    err_nomem(e);
  if (env && !fill(env, c, source, what, e)) {
    env_free(env);
    env = NULL;
  }
  free(what);
  return env;
}

void env_hold(const struct env_config *env)
{
  if (env->holds)
    atomic_fetch_add_explicit(env->holds, 1, memory_order_relaxed);
}

void env_release(const struct env_config *env)
{
  union {
    const struct env_config *from;
    struct env_config *to;
  } ours = {env}; // whoever made it may free it
  if (env->holds && atomic_fetch_sub_explicit(env->holds, 1, memory_order_acq_rel) == 1)
    env_free(ours.to);
}
