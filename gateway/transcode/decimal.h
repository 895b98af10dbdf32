// SPDX-License-Identifier: Apache-2.0
// Private to transcode/ and the reference worker: JSON numbers and floating-point numbers of three sizes, each way exact. Nothing here allocates.
//
// Reading rounds once, to the nearest, ties to even, from the decimal itself: a float32 that is rounded by way of a float64 may be another one.
#ifndef ENVGATE_TRANSCODE_DECIMAL_H
#define ENVGATE_TRANSCODE_DECIMAL_H

#include <stdbool.h>
#include <stdint.h>

#include "transcode/text.h"

// A JSON number: ±digits × 10^exponent, and if `more`, a bit more than that: less than one more digit.
struct decimal {
  bool negative, more;
  uint64_t digits;
  int64_t exponent;
  struct str text; // all of it, which must live on
};

// Reads the number at `p`, which is one of valid JSON text, and returns what is behind it. Nothing at or behind `end` is read.
const char *decimal_read(const char *p, const char *end, struct decimal *d);

// The nearest float64, float32 and (as its bits) float16. What is too large is ±infinity, as IEEE 754 has it.
double decimal_float64(const struct decimal *d);
float decimal_float32(const struct decimal *d);
uint16_t decimal_float16(const struct decimal *d);

// The value of a float16's bits.
double float16_value(uint16_t bits);

// The fewest digits that read back as the same number of that size (all of them for whole numbers below 2^24), written as Python's repr writes a float: "0.1",
// "3.0", "1e-07". For the narrower sizes they read back, too, when they are read as a float64 first, which is then rounded, as NumPy does. Returns the length. `v` must
// be finite.
size_t float64_repr(double v, char out[TEXT_MAX]);
size_t float32_repr(float v, char out[TEXT_MAX]);
size_t float16_repr(uint16_t bits, char out[TEXT_MAX]);

#endif
