// SPDX-License-Identifier: Apache-2.0
// Private to transcode/: single values as proto3 JSON spells them. Nothing here allocates.
//
// The …_from_text functions take the value's text without quotes and return false when it is not wholly a value of that kind.
#ifndef ENVGATE_TRANSCODE_TEXT_H
#define ENVGATE_TRANSCODE_TEXT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/str.h"

// Room for any of the texts below, with NUL.
enum { TEXT_MAX = 48 };

// Integers in any spelling of a JSON number that is integral: 100, 1e2, 100.0. Exact; false, too, when out of range.
bool int_from_text(struct str text, int64_t min, int64_t max, int64_t *out);
bool uint_from_text(struct str text, uint64_t max, uint64_t *out);

// A JSON number, or "NaN", "Infinity", "-Infinity". False, too, for a number beyond the type's range.
bool double_from_text(struct str text, double *out);
bool float_from_text(struct str text, float *out);

// Integers, and how long they are.
size_t int_text(int64_t v, char out[TEXT_MAX]);
size_t uint_text(uint64_t v, char out[TEXT_MAX]);

// A short decimal that reads back as the same value; integers have no fraction. Returns its length. `v` must be finite.
size_t double_text(double v, char out[TEXT_MAX]);
size_t float_text(float v, char out[TEXT_MAX]);

// How many bytes base64 makes of `n` (with padding).
size_t base64_length(size_t n);
void base64_encode(const uint8_t *from, size_t n, char *to);
// Both alphabets, with or without padding. `to` has room for text.n / 4 * 3 + 3 bytes.
bool base64_decode(struct str text, uint8_t *to, size_t *n);

// google.protobuf.Timestamp (RFC 3339, years 1 to 9999) and Duration ("1.5s"). Writing returns 0 for a value out of range.
bool timestamp_from_text(struct str text, int64_t *seconds, int32_t *nanos);
size_t timestamp_text(int64_t seconds, int32_t nanos, char out[TEXT_MAX]);
bool duration_from_text(struct str text, int64_t *seconds, int32_t *nanos);
size_t duration_text(int64_t seconds, int32_t nanos, char out[TEXT_MAX]);

// lowerCamelCase as protoc makes a JSON name: underscores go, and the letter behind one is capital. `to` has room for strlen(name); returns the length.
size_t camel_name(const char *name, char *to);
// True when `key` is `name` or its lowerCamelCase.
bool name_matches(struct str key, const char *name);

#endif
