// SPDX-License-Identifier: Apache-2.0
// The syntax is checked in a first pass, so the second, which knows the table, meets mistakes of meaning only. No tree is built: that keeps the line of every
// mistake, and large numbers, duplicate keys and NUL in strings, which a tree would blur.
#include "config/read.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "config/check.h"
#include "config/options.h"
#include "config/suggest.h"

struct reader {
  struct json j;
  struct report *r;
  const char *counted; // lines are counted up to here
};

// Brings the report's line up to where reading is.
static void mark_line(struct reader *rd)
{
  const char *at;
  while ((at = memchr(rd->counted, '\n', (size_t)(rd->j.p - rd->counted)))) {
    rd->r->line++;
    rd->counted = at + 1;
  }
}

static void skip(struct reader *rd)
{
  if (!json_skip(&rd->j, NULL))
    rd->r->failed = true; // not seen: the first pass went over it
}

// Decodes a key or string into `out`, which the caller frees. False, with the mistake reported, when it has no text.
static bool decode(struct reader *rd, struct str raw, struct buf *out)
{
  if (!buf_reserve(out, raw.n + 1)) {
    rd->r->failed = true;
    return false;
  }
  if (!json_unescape(raw, out)) { // there was room, so it isn't memory
    report_add(rd->r, NULL, "has half of a surrogate pair (\\ud800 to \\udfff)");
    return false;
  }
  return true;
}

// What an object's members are read into; each reader uses what it needs.
struct target {
  void *base;              // of the settings' offsets
  const struct setting *s; // the map that the members are of
  const char *provider;    // whose settings they are; NULL: nobody's
  struct given *given;
  bool environments, inlines, common; // the members that are objects of their own have been there
};
typedef void read_member(struct reader *rd, struct str key, struct target *t);

// Reads the members of an object that was entered, each by `member`, with its key in the report's path.
static void read_members(struct reader *rd, read_member *member, struct target *t)
{
  struct str raw;
  while (json_next_key(&rd->j, &raw)) {
    struct buf key = {0};
    mark_line(rd);
    bool ok = decode(rd, raw, &key);
    size_t length = report_enter(rd->r, buf_view(&key));
    if (ok)
      member(rd, buf_view(&key), t);
    else
      skip(rd);
    report_leave(rd->r, length);
    buf_free(&key);
  }
}

static void report_twice(struct reader *rd)
{
  report_add(rd->r, NULL, "is given twice");
  skip(rd);
}

// --- one value ----------------------------------------------------------------------------------------------------------------------------

static bool type_fits(enum setting_type type, enum json_type json)
{
  switch (type) {
  case SET_STRING:
  case SET_ENUM:
    return json == JSON_STRING;
  case SET_INT:
  case SET_NUMBER:
    return json == JSON_NUMBER;
  case SET_SIZE:
    return json == JSON_NUMBER || json == JSON_STRING;
  case SET_BOOL:
    return json == JSON_BOOL;
  case SET_STRINGS:
    return json == JSON_ARRAY;
  case SET_PAIRS:
    return json == JSON_OBJECT;
  }
  return false;
}

static void report_type(struct reader *rd, const struct setting *s)
{
  struct buf what = {0};
  if (setting_expects(s, &what))
    report_add(rd->r, NULL, "must be %.*s", STR_ARG(buf_view(&what)));
  else
    rd->r->failed = true;
  buf_free(&what);
  skip(rd);
}

static void read_scalar(struct reader *rd, const struct setting *s, bool string, void *base)
{
  struct buf decoded = {0};
  struct str text;
  struct err e;
  bool ok = string ? json_string(&rd->j, &text) : json_skip(&rd->j, &text);
  if (ok && string) {
    ok = decode(rd, text, &decoded);
    text = buf_view(&decoded);
  }
  if (ok && !setting_set(s, text, base, &e))
    report_err(rd->r, &e);
  buf_free(&decoded);
}

// A string in a list or map; the mistake is reported otherwise.
static bool read_string(struct reader *rd, struct buf *out)
{
  enum json_type type;
  struct str raw;
  if (json_peek(&rd->j, &type) && type == JSON_STRING)
    return json_string(&rd->j, &raw) && decode(rd, raw, out);
  report_add(rd->r, NULL, "must be a string");
  skip(rd);
  return false;
}

static void read_strings(struct reader *rd, const struct setting *s, void *base)
{
  size_t n = 0;
  json_enter_array(&rd->j);
  while (json_next_item(&rd->j)) {
    struct err e;
    struct buf item = {0};
    char index[24];
    snprintf(index, sizeof index, "%zu", n++);
    mark_line(rd);
    size_t length = report_enter(rd->r, str_c(index));
    if (read_string(rd, &item) && !setting_append(s, buf_view(&item), base, &e))
      report_err(rd->r, &e);
    report_leave(rd->r, length);
    buf_free(&item);
  }
  if ((double)n < s->min)
    report_add(rd->r, NULL, "must have at least %.0f item", s->min);
}

// {"file": PATH} or {"env": NAME}; the mistake is reported otherwise.
static bool read_reference(struct reader *rd, struct buf *out, enum value_source *source)
{
  enum json_type type;
  struct str key;
  int n = 0;
  bool ok = true;
  json_enter_object(&rd->j);
  while (json_next_key(&rd->j, &key)) {
    bool file = str_eq(key, STR("file")), known = file || str_eq(key, STR("env"));
    *source = file ? VALUE_FILE : VALUE_ENV;
    ok = ++n == 1 && known && json_peek(&rd->j, &type) && type == JSON_STRING && ok;
    if (!ok)
      skip(rd);
    else if (!read_string(rd, out))
      return false;
  }
  if (!ok || n != 1)
    report_add(rd->r, NULL, "must be a string, {\"file\": PATH} or {\"env\": NAME}");
  return ok && n == 1;
}

// A map's value.
static bool read_pair_value(struct reader *rd, const struct setting *s, struct buf *out, enum value_source *source)
{
  enum json_type type;
  *source = VALUE_PLAIN;
  if (s->references && json_peek(&rd->j, &type) && type == JSON_OBJECT)
    return read_reference(rd, out, source);
  return read_string(rd, out);
}

static bool pairs_have(const struct pairs *map, struct str name)
{
  for (size_t i = 0; i < map->n; i++)
    if (str_eq(str_c(map->at[i].name), name))
      return true;
  return false;
}

static void read_pair(struct reader *rd, struct str name, struct target *t)
{
  const struct pairs *map = (const struct pairs *)(const void *)((const char *)t->base + t->s->offset);
  struct err e;
  struct buf value = {0};
  enum value_source source;
  if (pairs_have(map, name))
    report_twice(rd);
  else if (read_pair_value(rd, t->s, &value, &source) && !setting_append_pair(t->s, name, buf_view(&value), source, t->base, &e))
    report_err(rd->r, &e);
  buf_free(&value);
}

static void read_value(struct reader *rd, const struct setting *s, void *base)
{
  enum json_type type;
  if (!json_peek(&rd->j, &type) || !type_fits(s->type, type))
    report_type(rd, s);
  else if (s->type == SET_STRINGS)
    read_strings(rd, s, base);
  else if (s->type == SET_PAIRS && json_enter_object(&rd->j))
    read_members(rd, read_pair, &(struct target){.s = s, .base = base});
  else
    read_scalar(rd, s, type == JSON_STRING, base);
}

// --- objects -------------------------------------------------------------------------------------------------------------------------------

// Reads the value of a setting's key, or says that there is no such key. The report's path has the key already.
static void read_setting(struct reader *rd, enum setting_scope scope, const char *provider, struct str key, struct given *given, void *base)
{
  const struct setting *s = setting_find(scope, provider, key);
  if (!s) {
    char hint[160] = "";
    if (!report_full(rd->r))
      suggest(scope, provider, key, hint, sizeof hint);
    report_add(rd->r, NULL, "is no setting%s", hint);
    skip(rd);
    return;
  }
  bool *seen = &given->setting[s - settings];
  if (*seen) {
    report_twice(rd);
    return;
  }
  *seen = true;
  read_value(rd, s, base);
}

// Enters an object; reports what is no object.
static bool enter(struct reader *rd, const char *what)
{
  enum json_type type;
  if (json_peek(&rd->j, &type) && type == JSON_OBJECT)
    return json_enter_object(&rd->j);
  report_add(rd->r, NULL, "must be %s", what);
  skip(rd);
  return false;
}

static void read_environment_setting(struct reader *rd, struct str key, struct target *t)
{
  read_setting(rd, IN_ENVIRONMENT, t->provider, key, t->given, t->base);
}

static void read_provider(struct reader *rd, int provider, struct given *given, void *env)
{
  if (given->provider[provider]) {
    report_twice(rd);
    return;
  }
  given->provider[provider] = true;
  given->entered[provider] = enter(rd, "an object of the provider's settings");
  if (given->entered[provider])
    read_members(rd, read_environment_setting, &(struct target){.base = env, .given = given, .provider = provider_names[provider]});
}

static int provider_index(struct str name)
{
  for (int i = 0; i < PROVIDER_COUNT; i++)
    if (str_eq(str_c(provider_names[i]), name))
      return i;
  return -1;
}

static void read_environment_member(struct reader *rd, struct str key, struct target *t)
{
  int provider = provider_index(key);
  if (provider >= 0)
    read_provider(rd, provider, t->given, t->base);
  else
    read_environment_setting(rd, key, t);
}

// Reads an environment's object; `check` looks at the whole of it.
static void read_environment(struct reader *rd, struct env_config *env,
                             void (*check)(struct env_config *env, const struct given *given, struct report *r))
{
  struct given given = {0};
  if (!enter(rd, "an object of the environment's settings"))
    return;
  int line = rd->r->line;
  read_members(rd, read_environment_member, &(struct target){.base = env, .given = &given});
  int end = rd->r->line;
  rd->r->line = line; // what is missing or does not fit together is reported where the environment begins
  check(env, &given, rd->r);
  rd->r->line = end;
}

// Adds an environment of the defaults. NULL with the mistake reported.
static struct env_config *add_environment(struct reader *rd, struct config *c, struct str name)
{
  if (c->n_envs >= ENVIRONMENTS_MAX) {
    report_add(rd->r, NULL, "is one environment too many; %d are allowed", ENVIRONMENTS_MAX);
    return NULL;
  }
  if (config_env(c, name)) {
    report_add(rd->r, NULL, "is given twice");
    return NULL;
  }
  struct env_config *envs = realloc(c->envs, (c->n_envs + 1) * sizeof *envs);
  if (!envs) {
    rd->r->failed = true;
    return NULL;
  }
  c->envs = envs;
  struct env_config *env = &envs[c->n_envs];
  *env = (struct env_config){.name = strndup(name.p, name.n)};
  c->n_envs++;
  if (!env->name || !settings_default(IN_ENVIRONMENT, env)) {
    rd->r->failed = true;
    return NULL;
  }
  if (strlen(env->name) != name.n || !pattern_matches(ENVIRONMENT_NAME_PATTERN, env->name))
    report_add(rd->r, NULL, "is no name for an environment: use 1 to 63 of a-z, 0-9 and '-', with no '-' at either end");
  return env;
}

static void read_named_environment(struct reader *rd, struct str name, struct target *t)
{
  struct env_config *env = add_environment(rd, t->base, name);
  if (env)
    read_environment(rd, env, check_environment);
  else
    skip(rd);
}

static void read_inline_member(struct reader *rd, struct str key, struct target *t)
{
  struct config *c = t->base;
  if (!str_eq(key, STR("common"))) {
    read_setting(rd, IN_INLINE, NULL, key, t->given, c);
  } else if (t->common) {
    report_twice(rd);
  } else {
    t->common = true;
    read_environment(rd, &c->inline_common, check_inline_common);
  }
}

static void read_file_member(struct reader *rd, struct str key, struct target *t)
{
  struct given given = {0};
  bool environments = str_eq(key, STR("environments")), inlines = str_eq(key, STR("inline_sources"));
  if (str_eq(key, STR("$schema"))) {
    skip(rd); // for editors
  } else if (!environments && !inlines) {
    read_setting(rd, IN_GATEWAY, NULL, key, t->given, t->base);
  } else if (environments ? t->environments : t->inlines) {
    report_twice(rd);
  } else if (environments) {
    t->environments = true;
    if (enter(rd, "an object of environments by name"))
      read_members(rd, read_named_environment, &(struct target){.base = t->base});
  } else {
    t->inlines = true;
    if (enter(rd, "an object of what callers may name, as {\"images\": […]}"))
      read_members(rd, read_inline_member, &(struct target){.base = t->base, .given = &given});
  }
}

static void read_file(struct reader *rd, struct config *c)
{
  struct given given = {0};
  if (!enter(rd, "an object, as {\"environments\": {…}}"))
    return;
  read_members(rd, read_file_member, &(struct target){.base = c, .given = &given});
  rd->r->line = 0;
  check_gateway(c, rd->r);
}

void config_read(struct str text, struct config *c, struct report *r)
{
  struct reader rd = {.r = r, .counted = text.p};
  r->line = 1;
  json_init(&rd.j, text, JSON_DEPTH);
  if (!json_skip(&rd.j, NULL) || !json_end(&rd.j)) {
    mark_line(&rd);
    report_add(r, NULL, "column %zu: %s", (size_t)(rd.j.p - rd.counted) + 1, rd.j.problem);
    return;
  }
  json_init(&rd.j, text, JSON_DEPTH);
  read_file(&rd, c);
}
