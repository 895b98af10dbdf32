// SPDX-License-Identifier: Apache-2.0
// One pass over JSON text (RFC 8259) that validates as it goes and hands out spans; it builds no tree and parses no number.
//
// The text is hostile: syntax, UTF-8 and depth are checked. A byte order mark is refused. Duplicate keys are passed on.
// It never reads at or behind `end`. It allocates nothing.
#ifndef ENVGATE_BASE_JSON_H
#define ENVGATE_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/str.h"

enum json_type { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

// The default limit of nesting, and the most that can be asked for: [[1]] has depth 2.
enum { JSON_DEPTH = 64, JSON_DEPTH_MAX = 1000 };

struct json {
  const char *start, *p, *end;
  int depth, max_depth;
  bool failed;         // once set, it stays
  bool too_deep;       // the failure is the depth
  const char *problem; // a static text: what is wrong at p
};

// Begins at the start of `text`. A max_depth above JSON_DEPTH_MAX becomes that.
void json_init(struct json *j, struct str text, int max_depth);

// The type of the value that comes next. False at the end or at a byte that begins no value, which is a failure.
bool json_peek(struct json *j, enum json_type *type);

// Passes one whole value of any type, validated to its last byte, and gives its span (without surrounding space; may be NULL).
bool json_skip(struct json *j, struct str *span);

// Objects: json_enter_object, then json_next_key until it returns false; after each key exactly one value is passed
// (json_skip, json_string, a nested object …). `key` is the span between the quotes, escapes and all; see json_raw_eq.
// json_next_key returns false at the closing brace, which it passes, and on failure (j->failed tells them apart).
bool json_enter_object(struct json *j);
bool json_next_key(struct json *j, struct str *key);

// Arrays: json_enter_array, then one value after each true of json_next_item.
bool json_enter_array(struct json *j);
bool json_next_item(struct json *j);

// Passes a string; `raw` is what is between the quotes, escapes and all.
bool json_string(struct json *j, struct str *raw);

// Passes a number, true/false, or null; each fails on another type.
bool json_number(struct json *j, struct str *span);
bool json_bool(struct json *j, bool *value);
bool json_null(struct json *j);

// True when nothing but space is left; otherwise fails.
bool json_end(struct json *j);

// Validates the whole text as one value. On failure fills INVALID_ARGUMENT (INVALID_REQUEST or JSON_TOO_DEEP) with `field`
// and a message that has the byte offset and never the text. `type` (may be NULL) gets the value's type.
bool json_check(struct str text, int max_depth, const char *field, enum json_type *type, struct err *e);

// Fills `e` from j's failure, in the same words as json_check. Returns false.
bool json_err(const struct json *j, const char *field, struct err *e);

// Decodes the escapes of a raw string (as json_string gives it) and appends UTF-8 to `out`. An unpaired surrogate escape
// is refused. False then, or when out of memory.
bool json_unescape(struct str raw, struct buf *out);

// json_raw_eq where there are escapes.
bool json_escaped_eq(struct str raw, struct str s);

// True when a raw key or string, unescaped, equals `s`. An escape is longer than what it stands for, so most lengths tell already.
static inline bool json_raw_eq(struct str raw, struct str s)
{
  if (raw.n <= s.n)
    return str_eq(raw, s) && !(raw.n && memchr(raw.p, '\\', raw.n));
  return memchr(raw.p, '\\', raw.n) && json_escaped_eq(raw, s);
}

// A number's span as a double, correctly rounded; overflow gives ±infinity.
double json_double(struct str number);

#endif
