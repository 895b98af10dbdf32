// SPDX-License-Identifier: Apache-2.0
#include "config/suggest.h"

#include <stdio.h>

// Longer keys than any of ours are not looked at.
enum { KEY_MAX = 40 };

static size_t min3(size_t a, size_t b, size_t c)
{
  size_t least = a < b ? a : b;
  return least < c ? least : c;
}

// Levenshtein's distance: how many letters to change, add or leave out.
static size_t distance(struct str a, struct str b)
{
  size_t row[KEY_MAX + 1];
  for (size_t k = 0; k <= b.n; k++)
    row[k] = k;
  for (size_t i = 1; i <= a.n; i++) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t k = 1; k <= b.n; k++) {
      size_t above = row[k];
      row[k] = min3(above + 1, row[k - 1] + 1, diagonal + (a.p[i - 1] != b.p[k - 1]));
      diagonal = above;
    }
  }
  return row[b.n];
}

// Whether a key is the first word of one of ours: "memory" of "memory_bytes".
static bool is_first_word(struct str key, const char *candidate)
{
  return key.n && str_starts(str_c(candidate), key) && candidate[key.n] == '_';
}

// Keeps `candidate` when it is nearer than what was found, and not a different word altogether.
static void consider(struct str key, const char *candidate, const char **best, size_t *least)
{
  size_t d = is_first_word(key, candidate) ? 1 : distance(key, str_c(candidate));
  if (d < *least && d * 3 <= key.n + 1) {
    *best = candidate;
    *least = d;
  }
}

static const char *nearest(enum setting_scope scope, const char *provider, struct str key)
{
  const char *best = NULL;
  size_t least = KEY_MAX;
  for (int i = 0; i < SETTINGS_COUNT; i++)
    if (setting_in(&settings[i], scope, provider))
      consider(key, settings[i].key, &best, &least);
  if (scope == IN_GATEWAY) {
    consider(key, "environments", &best, &least);
    consider(key, "inline_sources", &best, &least);
  }
  for (int i = 0; scope == IN_ENVIRONMENT && !provider && i < PROVIDER_COUNT; i++)
    consider(key, provider_names[i], &best, &least);
  return best;
}

void suggest(enum setting_scope scope, const char *provider, struct str key, char *hint, size_t size)
{
  hint[0] = '\0';
  if (key.n > KEY_MAX)
    return;
  const char *near = nearest(scope, provider, key);
  if (near) {
    snprintf(hint, size, "; did you mean %s?", near);
    return;
  }
  for (int i = 0; i < SETTINGS_COUNT; i++) {
    const struct setting *s = &settings[i];
    if (!str_eq(str_c(s->key), key))
      continue;
    if (s->scope == IN_GATEWAY)
      snprintf(hint, size, " here; %s belongs to the top of the file", s->key);
    else if (s->scope == IN_INLINE)
      snprintf(hint, size, " here; %s belongs into inline_sources", s->key);
    else if (s->provider)
      snprintf(hint, size, " here; %s belongs into the environment's object \"%s\"", s->key, s->provider);
    else
      snprintf(hint, size, " here; %s belongs to an environment%s", s->key, scope == IN_ENVIRONMENT ? ", beside its provider's object" : "");
    return;
  }
}
