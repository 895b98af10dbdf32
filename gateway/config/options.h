// SPDX-License-Identifier: Apache-2.0
// The one table of settings. A row is all there is to know of a setting; the file's parser, the command line, --help, the JSON Schema and docs/OPTIONS.md are
// all made from the rows, so none can miss one.
#ifndef ENVGATE_CONFIG_OPTIONS_H
#define ENVGATE_CONFIG_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/str.h"
#include "config/config.h"

// Where a setting stands in the file.
enum setting_scope {
  IN_GATEWAY,     // at the top; it is a command line option, too
  IN_ENVIRONMENT, // in an environment, or in the object there that is named as the row's provider
  IN_INLINE,      // in the gateway's "inline_sources"
};

enum setting_type {
  SET_STRING,  // char *
  SET_ENUM,    // an enum whose members are the indexes in `values`
  SET_INT,     // int64_t
  SET_SIZE,    // int64_t, in bytes; also written as "64KiB", "100MiB" or "1GiB"
  SET_NUMBER,  // double
  SET_BOOL,    // bool
  SET_STRINGS, // struct strings
  SET_PAIRS,   // struct pairs
};

struct setting {
  const char *key;      // its name in the file; on the command line with "--" in front and '-' for '_'
  const char *provider; // NULL: the environment's own
  enum setting_scope scope;
  enum setting_type type;
  size_t offset;             // in struct config (IN_GATEWAY, IN_INLINE) or struct env_config
  const char *def;           // as on the command line; NULL: nothing (NULL, an empty list)
  double min, max;           // numbers: the range; strings: the length; lists and maps: the number of items. max 0: no limit
  const char *const *values; // the only ones allowed, ending in NULL
  const char *pattern;       // regular expression for strings, a list's items and a map's values; means the same to POSIX (extended) and ECMA-262
  const char *form;          // the pattern in words, for "must be …"
  const char *name_pattern;  // as pattern, for a map's names
  const char *name_form;     // as form, for a map's names
  const char *unit;          // of numbers
  bool required;             // the provider cannot do without
  bool references;           // a map's values may also be {"file": PATH} or {"env": NAME}
  const char *help;
};

extern const struct setting settings[];
enum { SETTINGS_COUNT = 96 };

// The providers' names, ending in NULL, and their number.
extern const char *const provider_names[];
enum { PROVIDER_COUNT = 5 };

// A name of an environment: also a DNS label, so that it fits into host names and paths.
#define ENVIRONMENT_NAME_PATTERN "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
// At most so many environments, and names in a map.
enum { ENVIRONMENTS_MAX = 1000, PAIRS_MAX = 1000 };
// What a reference names.
#define REFERENCE_FILE_PATTERN "^/"
#define REFERENCE_ENV_PATTERN "^[A-Za-z_][A-Za-z0-9_]*$"

// The row at that place, or NULL. `provider` may be NULL.
const struct setting *setting_find(enum setting_scope scope, const char *provider, struct str key);

// True when the row stands in that object of the file.
bool setting_in(const struct setting *s, enum setting_scope scope, const char *provider);

// Sets one value (not a map) in the struct config or env_config at `base` from text as on the command line, where a list's items have commas between them. On
// failure nothing is changed, but for a list, and `e` says what the value must be, or OUT_OF_MEMORY.
bool setting_set(const struct setting *s, struct str text, void *base, struct err *e);

// Appends an item to a list, or a name and a value to a map, under the same terms.
bool setting_append(const struct setting *s, struct str item, void *base, struct err *e);
bool setting_append_pair(const struct setting *s, struct str name, struct str value, enum value_source source, void *base, struct err *e);

// Sets every default of a scope in a zeroed struct. False when out of memory.
bool settings_default(enum setting_scope scope, void *base);

// Sets every setting of a scope in a zeroed struct to a copy of what it is in another. False when out of memory.
bool settings_copy(enum setting_scope scope, void *to, const void *from);

// Frees what the scope's settings own.
void settings_free(enum setting_scope scope, void *base);

// Appends what a value must be, as "a whole number from 1 to 64". False when out of memory.
bool setting_expects(const struct setting *s, struct buf *out);

// True when `s` matches a row's pattern (NULL matches all).
bool pattern_matches(const char *pattern, const char *s);

#endif
