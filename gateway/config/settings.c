// SPDX-License-Identifier: Apache-2.0
// Values of settings: from text into their targets, defaults, and freeing them.
#include <math.h>
#include <regex.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "config/config.h"
#include "config/options.h"

static const struct {
  const char *name;
  double bytes;
} size_units[] = {{"GiB", 1073741824.0}, {"MiB", 1048576.0}, {"KiB", 1024.0}};
enum { SIZE_UNITS = sizeof size_units / sizeof *size_units };

static void *target(const struct setting *s, void *base)
{
  return (char *)base + s->offset;
}

static char *dup(struct str s)
{
  char *copy = malloc(s.n + 1);
  if (!copy)
    return NULL;
  if (s.n)
    memcpy(copy, s.p, s.n);
  copy[s.n] = '\0';
  return copy;
}

bool pattern_matches(const char *pattern, const char *s)
{
  regex_t re;
  if (!pattern)
    return true;
  if (regcomp(&re, pattern, REG_EXTENDED | REG_NOSUB) != 0)
    return false;
  bool matches = regexec(&re, s, 0, NULL, 0) == 0;
  regfree(&re);
  return matches;
}

// A number in the notation that JSON and people share; strtod alone would also take "0x10", "inf" and " 1".
static bool parse_number(struct str text, double *v)
{
  char copy[64];
  if (text.n == 0 || text.n >= sizeof copy)
    return false;
  memcpy(copy, text.p, text.n);
  copy[text.n] = '\0';
  if (strspn(copy, "0123456789.+-eE") != text.n)
    return false;
  char *end = NULL;
  *v = strtod(copy, &end);
  return end == copy + text.n && isfinite(*v);
}

static bool parse_size(struct str text, double *v)
{
  for (int i = 0; i < SIZE_UNITS; i++) {
    struct str unit = str_c(size_units[i].name);
    if (!str_ends(text, unit))
      continue;
    if (!parse_number((struct str){text.p, text.n - unit.n}, v))
      return false;
    *v *= size_units[i].bytes;
    return true;
  }
  return parse_number(text, v);
}

static bool value_index(const struct setting *s, struct str text, unsigned *index)
{
  for (*index = 0; s->values[*index]; ++*index)
    if (str_eq(str_c(s->values[*index]), text))
      return true;
  return false;
}

// A string as `pattern`, `values` and the row's length have it; without NUL, since it becomes a C string.
static bool string_fits(const struct setting *s, const char *copy, size_t n)
{
  unsigned index;
  if (strlen(copy) != n)
    return false;
  if (s->type == SET_STRING && ((double)n < s->min || (s->max > 0 && (double)n > s->max)))
    return false;
  if (s->values && !value_index(s, str_c(copy), &index))
    return false;
  return pattern_matches(s->pattern, copy);
}

// "must be …" for a value, or for an item of a list or map.
static bool refuse(const struct setting *s, struct err *e)
{
  struct buf what = {0};
  if (s->type == SET_STRINGS || s->type == SET_PAIRS)
    return err_set(e, CODE_INVALID_ARGUMENT, NULL, "must be %s", s->form ? s->form : "a string without NUL");
  if (!setting_expects(s, &what)) {
    buf_free(&what);
    return err_nomem(e);
  }
  err_set(e, CODE_INVALID_ARGUMENT, NULL, "must be %.*s", STR_ARG(buf_view(&what)));
  buf_free(&what);
  return false;
}

// A checked copy of a string; NULL with `e` set.
static char *take_string(const struct setting *s, struct str text, struct err *e)
{
  char *copy = dup(text);
  if (!copy) {
    err_nomem(e);
    return NULL;
  }
  if (string_fits(s, copy, text.n))
    return copy;
  free(copy);
  refuse(s, e);
  return NULL;
}

static bool set_number(const struct setting *s, struct str text, void *base, struct err *e)
{
  double v = 0;
  bool ok = s->type == SET_SIZE ? parse_size(text, &v) : parse_number(text, &v);
  if (!ok || v < s->min || (s->max > 0 && v > s->max) || (s->type != SET_NUMBER && v != floor(v)))
    return refuse(s, e);
  if (s->type == SET_NUMBER)
    *(double *)target(s, base) = v;
  else
    *(int64_t *)target(s, base) = (int64_t)v;
  return true;
}

static void free_strings(struct strings *list)
{
  for (size_t i = 0; i < list->n; i++)
    free(list->at[i]);
  free(list->at);
}

static bool set_list(const struct setting *s, struct str text, void *base, struct err *e)
{
  struct strings *list = target(s, base);
  free_strings(list);
  *list = (struct strings){0};
  for (bool more = text.n > 0; more;) {
    const char *comma = memchr(text.p, ',', text.n);
    size_t n = comma ? (size_t)(comma - text.p) : text.n;
    if (!setting_append(s, (struct str){text.p, n}, base, e))
      return false;
    more = comma;
    text = str_skip(text, n + more);
  }
  return true;
}

bool setting_set(const struct setting *s, struct str text, void *base, struct err *e)
{
  unsigned index = 0;
  switch (s->type) {
  case SET_STRING: {
    char **to = target(s, base), *copy = take_string(s, text, e);
    if (!copy)
      return false;
    free(*to);
    *to = copy;
    return true;
  }
  case SET_ENUM:
    if (!value_index(s, text, &index))
      return refuse(s, e);
    _Static_assert(sizeof(enum log_level) == sizeof(unsigned) && sizeof(enum log_format) == sizeof(unsigned) &&
                       sizeof(enum tls_client_cert) == sizeof(unsigned) && sizeof(enum tls_plaintext) == sizeof(unsigned),
                   "enums are unsigned");
    *(unsigned *)target(s, base) = index;
    return true;
  case SET_INT:
  case SET_SIZE:
  case SET_NUMBER:
    return set_number(s, text, base, e);
  case SET_BOOL:
    if (!str_eq(text, STR("true")) && !str_eq(text, STR("false")))
      return refuse(s, e);
    *(bool *)target(s, base) = str_eq(text, STR("true"));
    return true;
  case SET_STRINGS:
    return set_list(s, text, base, e);
  case SET_PAIRS:
    break;
  }
  return refuse(s, e);
}

bool setting_append(const struct setting *s, struct str item, void *base, struct err *e)
{
  struct strings *list = target(s, base);
  if (s->max > 0 && (double)list->n >= s->max)
    return err_set(e, CODE_INVALID_ARGUMENT, NULL, "must have at most %.0f items", s->max);
  char *copy = take_string(s, item, e);
  if (!copy)
    return false;
  char **at = realloc(list->at, (list->n + 2) * sizeof *at);
  if (!at) {
    free(copy);
    return err_nomem(e);
  }
  list->at = at;
  at[list->n++] = copy;
  at[list->n] = NULL;
  return true;
}

static bool pairs_put(struct pairs *map, char *name, char *value, enum value_source source)
{
  struct pair *at = name && value ? realloc(map->at, (map->n + 1) * sizeof *at) : NULL;
  if (!at)
    return false;
  map->at = at;
  at[map->n++] = (struct pair){name, value, source};
  return true;
}

// A reference's path or name.
static char *take_reference(struct str text, enum value_source source, struct err *e)
{
  bool file = source == VALUE_FILE;
  char *copy = dup(text);
  if (!copy)
    err_nomem(e);
  else if (strlen(copy) == text.n && pattern_matches(file ? REFERENCE_FILE_PATTERN : REFERENCE_ENV_PATTERN, copy))
    return copy;
  else
    err_set(e, CODE_INVALID_ARGUMENT, NULL, file ? "must name an absolute path as \"file\"" : "must name an environment variable as \"env\"");
  free(copy);
  return NULL;
}

bool setting_append_pair(const struct setting *s, struct str name, struct str value, enum value_source source, void *base, struct err *e)
{
  struct pairs *map = target(s, base);
  if (s->max > 0 && (double)map->n >= s->max)
    return err_set(e, CODE_INVALID_ARGUMENT, NULL, "must have at most %.0f names", s->max);
  char *name_copy = dup(name), *value_copy = source == VALUE_PLAIN ? take_string(s, value, e) : take_reference(value, source, e);
  if (!name_copy)
    err_nomem(e);
  if (!name_copy || !value_copy)
    goto fail;
  if (strlen(name_copy) != name.n || !pattern_matches(s->name_pattern, name_copy)) {
    err_set(e, CODE_INVALID_ARGUMENT, NULL, "has a wrong name: it must be %s", s->name_form);
    goto fail;
  }
  if (pairs_put(map, name_copy, value_copy, source))
    return true;
  err_nomem(e);
fail:
  free(name_copy);
  free(value_copy);
  return false;
}

bool settings_default(enum setting_scope scope, void *base)
{
  struct err e;
  for (int i = 0; i < SETTINGS_COUNT; i++)
    if (settings[i].scope == scope && settings[i].def && !setting_set(&settings[i], str_c(settings[i].def), base, &e))
      return false;
  return true;
}

static bool copy_strings(struct strings *to, const struct strings *from)
{
  *to = (struct strings){0};
  if (!from->n)
    return true;
  to->at = calloc(from->n + 1, sizeof *to->at);
  for (; to->at && to->n < from->n; to->n++)
    if (!(to->at[to->n] = strdup(from->at[to->n])))
      return false;
  return to->at != NULL;
}

static bool copy_value(const struct setting *s, void *to, const void *from)
{
  switch (s->type) {
  case SET_STRING: {
    const char *const *string = from;
    char **copy = to;
    *copy = *string ? strdup(*string) : NULL;
    return *copy || !*string;
  }
  case SET_ENUM:
    *(unsigned *)to = *(const unsigned *)from;
    return true;
  case SET_INT:
  case SET_SIZE:
    *(int64_t *)to = *(const int64_t *)from;
    return true;
  case SET_NUMBER:
    *(double *)to = *(const double *)from;
    return true;
  case SET_BOOL:
    *(bool *)to = *(const bool *)from;
    return true;
  case SET_STRINGS:
    return copy_strings(to, from);
  case SET_PAIRS:
    *(struct pairs *)to = (struct pairs){0};
    return pairs_add(to, from);
  }
  return false;
}

bool settings_copy(enum setting_scope scope, void *to, const void *from)
{
  for (int i = 0; i < SETTINGS_COUNT; i++)
    if (settings[i].scope == scope && !copy_value(&settings[i], target(&settings[i], to), (const char *)from + settings[i].offset))
      return false;
  return true;
}

bool pairs_add(struct pairs *to, const struct pairs *from)
{
  for (size_t i = 0; from && i < from->n; i++) {
    char *name = strdup(from->at[i].name), *value = strdup(from->at[i].value);
    if (pairs_put(to, name, value, from->at[i].source))
      continue;
    free(name);
    free(value);
    return false;
  }
  return true;
}

void pairs_free(struct pairs *p)
{
  for (size_t i = 0; i < p->n; i++) {
    free(p->at[i].name);
    free(p->at[i].value);
  }
  free(p->at);
  *p = (struct pairs){0};
}

static void free_value(const struct setting *s, void *base)
{
  if (s->type == SET_STRING) {
    char **string = target(s, base);
    free(*string);
  } else if (s->type == SET_STRINGS) {
    free_strings(target(s, base));
  } else if (s->type == SET_PAIRS) {
    pairs_free(target(s, base));
  }
}

void settings_free(enum setting_scope scope, void *base)
{
  for (int i = 0; i < SETTINGS_COUNT; i++)
    if (settings[i].scope == scope)
      free_value(&settings[i], base);
}

static bool expects_number(const struct setting *s, struct buf *out)
{
  const char *what = s->type == SET_NUMBER ? "a number" : "a whole number";
  const char *unit = s->unit ? s->unit : "", *of = s->unit ? " of " : "";
  return buf_printf(out, "%s%s%s from %.15g to %.15g", what, of, unit, s->min, s->max) &&
         (s->type != SET_SIZE || buf_str(out, STR(", or a string as \"100MiB\"")));
}

static bool expects_value(const struct setting *s, struct buf *out)
{
  bool ok = buf_str(out, STR("one of "));
  for (int i = 0; ok && s->values[i]; i++)
    ok = buf_printf(out, "%s%s", i ? ", " : "", s->values[i]);
  return ok;
}

bool setting_expects(const struct setting *s, struct buf *out)
{
  if (s->values)
    return expects_value(s, out);
  switch (s->type) {
  case SET_INT:
  case SET_SIZE:
  case SET_NUMBER:
    return expects_number(s, out);
  case SET_BOOL:
    return buf_str(out, STR("true or false"));
  case SET_STRINGS:
    return s->form ? buf_printf(out, "a list, each item %s", s->form) : buf_str(out, STR("a list of strings"));
  case SET_PAIRS:
    return buf_str(out, s->references ? STR("an object of names and strings, or {\"file\": PATH} or {\"env\": NAME}")
                                      : STR("an object of names and strings"));
  case SET_STRING:
  case SET_ENUM:
    break;
  }
  return buf_str(out, s->form ? str_c(s->form) : s->min > 0 ? STR("a string that is not empty") : STR("a string"));
}
