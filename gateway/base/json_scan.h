// SPDX-License-Identifier: Apache-2.0
// Private to base/, transcode/ and their tests: the searches through runs of plain characters in strings, of digits, and of numbers in arrays.
#ifndef ENVGATE_BASE_JSON_SCAN_H
#define ENVGATE_BASE_JSON_SCAN_H

#include <endian.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

// Both find the first byte of [p, end) that is '"', '\\', below 0x20 or above 0x7F, and give `end` when there is none. Neither reads at `end`.
// They must agree; tests/unit/test_json.c compares them.

static inline const char *json_scan_plain_portable(const char *p, const char *end)
{
  const uint64_t ones = UINT64_C(0x0101010101010101);
  while (end - p >= 8) {
    uint64_t word;
    memcpy(&word, p, 8);
    // A byte's top bit is set when it is a hit. A borrow can set it falsely, but only in a word that has a hit, too.
    uint64_t quote = (word ^ ones * '"') - ones, backslash = (word ^ ones * '\\') - ones, control = word - ones * 0x20;
    if ((quote | backslash | control | word) & ones * 0x80)
      break;
    p += 8;
  }
  while (p < end && (unsigned char)*p >= 0x20 && (unsigned char)*p < 0x80 && *p != '"' && *p != '\\')
    p++;
  return p;
}

#ifdef __SSE2__
static inline const char *json_scan_plain_sse2(const char *p, const char *end)
{
  const __m128i quote = _mm_set1_epi8('"'), backslash = _mm_set1_epi8('\\'), space = _mm_set1_epi8(0x20);
  while (end - p >= 16) {
    __m128i v;
    memcpy(&v, p, 16);
    // Signed: bytes above 0x7F are below 0x20, too.
    __m128i hit = _mm_or_si128(_mm_cmplt_epi8(v, space), _mm_or_si128(_mm_cmpeq_epi8(v, quote), _mm_cmpeq_epi8(v, backslash)));
    unsigned mask = (unsigned)_mm_movemask_epi8(hit);
    if (mask)
      return p + __builtin_ctz(mask);
    p += 16;
  }
  return json_scan_plain_portable(p, end);
}
#endif

// The first byte of [p, end) that is no digit; `end` when there is none. Eight at a time: how long a number is cannot be foreseen, and a loop that
// ends at each place costs a mispredicted branch.
static inline const char *json_scan_digits(const char *p, const char *end)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  const uint64_t ones = UINT64_C(0x0101010101010101);
  while (end - p >= 8) {
    uint64_t word;
    memcpy(&word, p, 8);
    uint64_t digit = word ^ ones * '0';                             // 0 to 9 where there is a digit
    uint64_t other = ((digit & ones * 0x7F) + ones * 0x76) | digit; // its top bit is set where there is none
    other &= ones * 0x80;
    if (other)
      return p + (__builtin_ctzll(other) >> 3);
    p += 8;
  }
#endif
  while (p < end && *p >= '0' && *p <= '9')
    p++;
  return p;
}

static inline const char *json_scan_plain(const char *p, const char *end)
{
#ifdef __SSE2__
  return json_scan_plain_sse2(p, end);
#else
  return json_scan_plain_portable(p, end);
#endif
}

// --- numbers in arrays ---------------------------------------------------------------------------------------------------------------------

// How many bytes are looked at together: bit i of a set of them stands for byte i.
enum { JSON_BLOCK = 64 };

// Where in a block there is a digit, and where there is `c`.
typedef uint64_t json_find_digits(const char *p);
typedef uint64_t json_find(const char *p, char c);

// Eight top bits of bytes, the rest zeros, as eight bits.
static inline uint64_t json_gather(uint64_t tops)
{
  return (tops >> 7) * UINT64_C(0x0102040810204080) >> 56;
}

static inline uint64_t json_find_digits_portable(const char *p)
{
  const uint64_t ones = UINT64_C(0x0101010101010101);
  uint64_t found = 0;
  for (int i = 0; i < JSON_BLOCK; i += 8) {
    uint64_t word;
    memcpy(&word, p + i, 8);
    uint64_t digit = le64toh(word) ^ ones * '0'; // 0 to 9 where there is a digit
    found |= json_gather(~(((digit & ones * 0x7F) + ones * 0x76) | digit) & ones * 0x80) << i;
  }
  return found;
}

static inline uint64_t json_find_portable(const char *p, char c)
{
  const uint64_t ones = UINT64_C(0x0101010101010101);
  uint64_t found = 0;
  for (int i = 0; i < JSON_BLOCK; i += 8) {
    uint64_t word;
    memcpy(&word, p + i, 8);
    uint64_t other = le64toh(word) ^ ones * (unsigned char)c; // 0 where there is c
    found |= json_gather(~(((other & ones * 0x7F) + ones * 0x7F) | other) & ones * 0x80) << i;
  }
  return found;
}

#ifdef __SSE2__
static inline uint64_t json_find_digits_sse2(const char *p)
{
  uint64_t found = 0;
  for (int i = 0; i < JSON_BLOCK; i += 16) {
    __m128i v;
    memcpy(&v, p + i, 16);
    v = _mm_sub_epi8(v, _mm_set1_epi8('0'));
    v = _mm_cmpeq_epi8(v, _mm_min_epu8(v, _mm_set1_epi8(9)));
    found |= (uint64_t)(unsigned)_mm_movemask_epi8(v) << i;
  }
  return found;
}

static inline uint64_t json_find_sse2(const char *p, char c)
{
  uint64_t found = 0;
  for (int i = 0; i < JSON_BLOCK; i += 16) {
    __m128i v;
    memcpy(&v, p + i, 16);
    found |= (uint64_t)(unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(v, _mm_set1_epi8(c))) << i;
  }
  return found;
}
#endif

// The fastest there is of each.
static inline uint64_t json_digits_in(const char *p)
{
#ifdef __SSE2__
  return json_find_digits_sse2(p);
#else
  return json_find_digits_portable(p);
#endif
}

static inline uint64_t json_places_in(const char *p, char c)
{
#ifdef __SSE2__
  return json_find_sse2(p, c);
#else
  return json_find_portable(p, c);
#endif
}

// Eight digits as they lie in memory and are loaded, the first in the lowest byte, and their value: neighbours are joined to pairs, fours and eight.
static inline uint64_t json_load8(const char *p)
{
  uint64_t v;
  memcpy(&v, p, sizeof v);
  return le64toh(v);
}

static inline uint64_t json_value8(uint64_t v)
{
  v &= UINT64_C(0x0F0F0F0F0F0F0F0F);
  v = (v * 10 + (v >> 8)) & UINT64_C(0x00FF00FF00FF00FF);
  v = (v * 100 + (v >> 16)) & UINT64_C(0x0000FFFF0000FFFF);
  return (v * 10000 + (v >> 32)) & UINT64_C(0xFFFFFFFF);
}

// The same as json_scan_numbers below, for unsigned integers without spaces alone. What matters of a block to the next one is carried, so that the
// processor need not wait for one to begin with the next.
static inline __attribute__((always_inline)) const char *json_scan_integers(const char *p, const char *end, bool rows, json_find_digits *find_digits,
                                                                            json_find *find)
{
  const char *begin = p;
  // Of the byte before the block. A row's end is its "]", its comma the one behind that.
  uint64_t was_digit = 0, was_part = 1, was_leading_zero = 0, was_row_end = 0, was_row_comma = 0;
  for (; end - p >= JSON_BLOCK; p += JSON_BLOCK) {
    uint64_t digit = find_digits(p), comma = find(p, ','), row_end = 0, row_begin = 0, wrong = ~(digit | comma);
    if (wrong && rows) {
      row_end = find(p, ']');
      row_begin = find(p, '[');
      wrong &= ~(row_end | row_begin);
    }
    uint64_t behind_digit = digit << 1 | was_digit, behind_row_end = row_end << 1 | was_row_end, row_comma = comma & behind_row_end;
    uint64_t part = (comma & ~row_comma) | row_begin; // what a number follows
    uint64_t leading_zero = (part << 1 | was_part) & find(p, '0');
    wrong |= ((part | row_end) & ~row_begin & ~behind_digit) | (behind_row_end & ~comma) | ((row_comma << 1 | was_row_comma) ^ row_begin);
    wrong |= (leading_zero << 1 | was_leading_zero) & digit;
    if (wrong)
      break;
    was_digit = digit >> 63;
    was_part = part >> 63;
    was_leading_zero = leading_zero >> 63;
    was_row_end = row_end >> 63;
    was_row_comma = row_comma >> 63;
  }
  // Back to where a number begins for sure.
  if (p > begin)
    do
      p--;
    while (p > begin && (*p < '0' || *p > '9' || (p[-1] >= '0' && p[-1] <= '9')));
  return p;
}

// Where in the block at `p` a number begins before which all is right. A number begins at `p`; commas (with one space behind, or none) part it
// from the next, and with `rows` "],[" does, too. What is wrong, what is another byte, and what only the next block could tell sets a bit of
// `wrong` no later than where the number behind it begins; so what is right before the lowest of them is right for good.
static inline __attribute__((always_inline)) uint64_t json_number_starts(const char *p, bool rows, json_find_digits *find_digits, json_find *find)
{
  uint64_t digit = find_digits(p), comma = find(p, ','), space = find(p, ' '), minus = find(p, '-'), point = find(p, '.');
  uint64_t plus = 0, e = 0, row = 0, other = ~(digit | comma | space | minus | point);
  if (other) {
    row = rows ? find(p, ']') & comma >> 1 & find(p, '[') >> 2 : 0;
    other &= ~(row | row << 2);
  }
  if (other) {
    plus = find(p, '+');
    e = find(p, 'e') | find(p, 'E');
    other &= ~(plus | e);
  }
  comma &= ~(row << 1); // those between numbers
  uint64_t starts = 1 | (comma << 1 & ~space) | space << 1 | row << 3;
  uint64_t sign = minus | plus, power = e << 1, first_digit = (starts & digit) | (starts & minus) << 1;
  uint64_t wrong = other | (space & ~(comma << 1)) | (starts & ~(digit | minus));
  wrong |= (minus & ~(starts | power)) | (plus & ~power) | (e & ~((digit | sign) >> 1)) | ((sign | point) & ~(digit >> 1));
  wrong |= (comma | row | point | e) & ~(digit << 1);
  wrong |= first_digit & find(p, '0') & digit >> 1;
  // Adding the place where a run of digits begins to the digits carries into the place behind the run.
  uint64_t power_digit = (power & digit) | (power & sign) << 1;
  wrong |= (digit + (point << 1)) & ~digit & point;
  wrong |= (digit + power_digit) & ~digit & (point | e);
  uint64_t lowest = wrong & -wrong;
  return starts & (lowest - 1);
}

static inline __attribute__((always_inline)) const char *json_scan_numbers_by(const char *p, const char *end, bool rows,
                                                                              json_find_digits *find_digits, json_find *find)
{
  while (end - p >= JSON_BLOCK) {
    const char *from = p;
    if (!(find(p, '.') | find(p, ' ')))
      p = json_scan_integers(p, end, rows, find_digits, find);
    if (p == from) {
      uint64_t starts = json_number_starts(p, rows, find_digits, find);
      p += starts ? 63 - __builtin_clzll(starts) : 0;
      if (p - from < JSON_BLOCK / 2)
        break; // what stopped it is near
    }
  }
  return p;
}

// `p` is where a number of an array begins, by its first byte. Passes as many whole numbers with what parts them as can be passed together, and
// returns where another number begins, by its first byte; that may be `p` itself. With `rows`, "],[" parts numbers, too. Errors are left to the
// caller to find. Both give the same.
static inline const char *json_scan_numbers_portable(const char *p, const char *end, bool rows)
{
  return json_scan_numbers_by(p, end, rows, json_find_digits_portable, json_find_portable);
}

static inline const char *json_scan_numbers(const char *p, const char *end, bool rows)
{
#ifdef __SSE2__
  return json_scan_numbers_by(p, end, rows, json_find_digits_sse2, json_find_sse2);
#else
  return json_scan_numbers_portable(p, end, rows);
#endif
}

#endif
