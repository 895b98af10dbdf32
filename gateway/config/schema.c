// SPDX-License-Identifier: Apache-2.0
#include "config/schema.h"

#include <cjson/cJSON.h>
#include <stdlib.h>

#include "config/options.h"

#define SIZE_PATTERN "^[0-9]+([.][0-9]+)?(KiB|MiB|GiB)?$"

// Gives `item` to an object (or, without a key, to an array). False when either could not be made; the item is freed then.
static bool add(cJSON *to, const char *key, cJSON *item)
{
  if (item && to && (key ? cJSON_AddItemToObject(to, key, item) : cJSON_AddItemToArray(to, item)))
    return true;
  cJSON_Delete(item);
  return false;
}

static bool add_text(cJSON *to, const char *key, const char *text)
{
  return add(to, key, cJSON_CreateString(text));
}

static bool add_number(cJSON *to, const char *key, double v)
{
  return add(to, key, cJSON_CreateNumber(v));
}

// Adds an empty object and returns it; NULL when that failed.
static cJSON *add_object(cJSON *to, const char *key)
{
  cJSON *o = cJSON_CreateObject();
  return add(to, key, o) ? o : NULL;
}

static cJSON *add_array(cJSON *to, const char *key)
{
  cJSON *a = cJSON_CreateArray();
  return add(to, key, a) ? a : NULL;
}

static bool add_values(const struct setting *s, cJSON *to)
{
  cJSON *values = add_array(to, "enum");
  bool ok = values != NULL;
  for (int i = 0; ok && s->values[i]; i++)
    ok = add_text(values, NULL, s->values[i]);
  return ok;
}

static bool add_range(const struct setting *s, cJSON *to, const char *type)
{
  return add_text(to, "type", type) && add_number(to, "minimum", s->min) && (s->max <= 0 || add_number(to, "maximum", s->max));
}

// minLength and maxLength, minItems and maxItems …
static bool add_bounds(const struct setting *s, cJSON *to, const char *min, const char *max)
{
  return (s->min <= 0 || add_number(to, min, s->min)) && (s->max <= 0 || add_number(to, max, s->max));
}

static bool add_pattern(cJSON *to, const char *pattern)
{
  return !pattern || add_text(to, "pattern", pattern);
}

static bool add_size(const struct setting *s, cJSON *to)
{
  cJSON *any = add_array(to, "anyOf"), *number = any ? add_object(any, NULL) : NULL, *text = any ? add_object(any, NULL) : NULL;
  return number && text && add_range(s, number, "integer") && add_text(text, "type", "string") && add_pattern(text, SIZE_PATTERN);
}

static bool add_list(const struct setting *s, cJSON *to)
{
  cJSON *items = add_text(to, "type", "array") ? add_object(to, "items") : NULL;
  return items && add_text(items, "type", "string") && add_pattern(items, s->pattern) && add_bounds(s, to, "minItems", "maxItems");
}

// {"required": [key]}
static cJSON *add_needing(cJSON *alternatives, const char *key)
{
  cJSON *o = add_object(alternatives, NULL), *required = o ? add_array(o, "required") : NULL;
  return required && add_text(required, NULL, key) ? o : NULL;
}

// {"key": text}, and nothing else
static bool add_reference(cJSON *alternatives, const char *key, const char *pattern)
{
  cJSON *o = add_needing(alternatives, key);
  cJSON *properties = o && add_text(o, "type", "object") && add(o, "additionalProperties", cJSON_CreateFalse()) ? add_object(o, "properties") : NULL;
  cJSON *text = properties ? add_object(properties, key) : NULL;
  return text && add_text(text, "type", "string") && add_pattern(text, pattern);
}

// A map's value.
static bool add_value(const struct setting *s, cJSON *to)
{
  cJSON *alternatives = s->references ? add_array(to, "anyOf") : NULL, *plain = alternatives ? add_object(alternatives, NULL) : to;
  return plain && add_text(plain, "type", "string") && add_pattern(plain, s->pattern) &&
         (!s->references ||
          (add_reference(alternatives, "file", REFERENCE_FILE_PATTERN) && add_reference(alternatives, "env", REFERENCE_ENV_PATTERN)));
}

static bool add_map(const struct setting *s, cJSON *to)
{
  cJSON *names = add_text(to, "type", "object") ? add_object(to, "propertyNames") : NULL;
  cJSON *values = names ? add_object(to, "additionalProperties") : NULL;
  return values && add_pattern(names, s->name_pattern) && add_value(s, values) && add_bounds(s, to, "minProperties", "maxProperties");
}

static bool add_type(const struct setting *s, cJSON *to)
{
  switch (s->type) {
  case SET_ENUM:
    return add_values(s, to);
  case SET_STRING:
    return add_text(to, "type", "string") && (!s->values || add_values(s, to)) && add_pattern(to, s->pattern) &&
           add_bounds(s, to, "minLength", "maxLength");
  case SET_INT:
    return add_range(s, to, "integer");
  case SET_SIZE:
    return add_size(s, to);
  case SET_NUMBER:
    return add_range(s, to, "number");
  case SET_BOOL:
    return add_text(to, "type", "boolean");
  case SET_STRINGS:
    return add_list(s, to);
  case SET_PAIRS:
    return add_map(s, to);
  }
  return false;
}

static bool add_default(const struct setting *s, cJSON *to)
{
  if (!s->def)
    return true;
  if (s->type == SET_INT || s->type == SET_SIZE || s->type == SET_NUMBER)
    return add_number(to, "default", strtod(s->def, NULL));
  if (s->type == SET_BOOL)
    return add(to, "default", cJSON_CreateBool(strcmp(s->def, "true") == 0));
  return add_text(to, "default", s->def);
}

// The object's settings as "properties", which is returned; nothing else is allowed in it. NULL when out of memory.
static cJSON *add_settings(cJSON *to, enum setting_scope scope, const char *provider)
{
  cJSON *properties = add_text(to, "type", "object") ? add_object(to, "properties") : NULL;
  bool ok = properties && add(to, "additionalProperties", cJSON_CreateFalse());
  for (int i = 0; ok && i < SETTINGS_COUNT; i++) {
    const struct setting *s = &settings[i];
    if (!setting_in(s, scope, provider))
      continue;
    cJSON *property = add_object(properties, s->key);
    ok = property && add_text(property, "description", s->help) && add_type(s, property) && add_default(s, property);
  }
  return ok ? properties : NULL;
}

static bool add_required(cJSON *to, const char *provider)
{
  cJSON *required = add_array(to, "required");
  bool ok = required != NULL;
  for (int i = 0; ok && i < SETTINGS_COUNT; i++)
    if (settings[i].required && setting_in(&settings[i], IN_ENVIRONMENT, provider))
      ok = add_text(required, NULL, settings[i].key);
  return ok;
}

// uv's three ways to name a project exclude each other.
static bool add_uv_choice(cJSON *to)
{
  cJSON *one = add_array(to, "oneOf");
  return one && add_needing(one, "project") && add_needing(one, "space") && add_needing(one, "project_url");
}

// An image may be named by its Space; where both are given the image counts.
static bool add_docker_choice(cJSON *to)
{
  cJSON *any = add_array(to, "anyOf");
  return any && add_needing(any, "image") && add_needing(any, "space");
}

static bool add_provider_objects(cJSON *properties)
{
  bool ok = true;
  for (int i = 0; ok && i < PROVIDER_COUNT; i++) {
    const char *name = provider_names[i];
    cJSON *provider = add_object(properties, name);
    ok = provider && add_settings(provider, IN_ENVIRONMENT, name) && add_required(provider, name) &&
         (strcmp(name, "uv") != 0 || add_uv_choice(provider)) && (strcmp(name, "docker") != 0 || add_docker_choice(provider));
  }
  return ok;
}

// An environment has one provider's object, and "provider", where it is given, names that one.
static bool add_provider_choice(cJSON *environment)
{
  cJSON *one = add_array(environment, "oneOf");
  bool ok = one != NULL;
  for (int i = 0; ok && i < PROVIDER_COUNT; i++) {
    cJSON *choice = add_needing(one, provider_names[i]), *properties = choice ? add_object(choice, "properties") : NULL;
    cJSON *named = properties ? add_object(properties, "provider") : NULL;
    ok = named && add_text(named, "const", provider_names[i]);
    for (int k = 0; ok && k < PROVIDER_COUNT; k++)
      ok = k == i || add(properties, provider_names[k], cJSON_CreateFalse());
  }
  return ok;
}

static bool add_environments(cJSON *properties)
{
  cJSON *all = add_object(properties, "environments");
  cJSON *names =
      all && add_text(all, "description", "The environments by name.") && add_text(all, "type", "object") ? add_object(all, "propertyNames") : NULL;
  cJSON *environment = names && add_pattern(names, ENVIRONMENT_NAME_PATTERN) ? add_object(all, "additionalProperties") : NULL;
  cJSON *settings_of_it = environment ? add_settings(environment, IN_ENVIRONMENT, NULL) : NULL;
  return settings_of_it && add_provider_objects(settings_of_it) && add_provider_choice(environment) && add_number(all, "minProperties", 1) &&
         add_number(all, "maxProperties", ENVIRONMENTS_MAX);
}

// "common" may have the objects of docker and uv, in part.
static bool add_inline(cJSON *properties)
{
  cJSON *o = add_object(properties, "inline_sources");
  bool ok = o && add_text(o, "description", "What callers may have launched that is no environment of this file.");
  cJSON *lists = ok ? add_settings(o, IN_INLINE, NULL) : NULL, *common = lists ? add_object(lists, "common") : NULL;
  ok = common && add_text(common, "description", "Settings of all of them, as of an environment.");
  cJSON *settings_of_all = ok ? add_settings(common, IN_ENVIRONMENT, NULL) : NULL;
  cJSON *docker = settings_of_all ? add_object(settings_of_all, "docker") : NULL, *uv = docker ? add_object(settings_of_all, "uv") : NULL;
  return uv && add_settings(docker, IN_ENVIRONMENT, "docker") && add_settings(uv, IN_ENVIRONMENT, "uv");
}

static bool fill(cJSON *root)
{
  bool ok = add_text(root, "$schema", "https://json-schema.org/draft/2020-12/schema") && add_text(root, "title", "envgate's configuration file");
  cJSON *properties = ok ? add_settings(root, IN_GATEWAY, NULL) : NULL, *required = properties ? add_array(root, "required") : NULL;
  return required && add_text(required, NULL, "environments") && add(properties, "$schema", cJSON_CreateTrue()) && add_environments(properties) &&
         add_inline(properties);
}

bool config_schema(struct buf *out)
{
  cJSON *root = cJSON_CreateObject();
  char *text = root && fill(root) ? cJSON_Print(root) : NULL;
  bool ok = text && buf_str(out, str_c(text)) && buf_char(out, '\n');
  cJSON_free(text);
  cJSON_Delete(root);
  return ok;
}
