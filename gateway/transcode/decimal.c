// SPDX-License-Identifier: Apache-2.0
// A decimal of at most 19 digits whose exponent is not far from 0 is a quotient or product of two integers of 64 bits, which 128 bits hold exactly: that is all
// that most numbers need, both ways. What is beyond goes the C library's way, which is exact, and slow.
#include "transcode/decimal.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/json_scan.h"

__extension__ typedef unsigned __int128 uint128;

enum { DIGITS_MAX = 19, POWER_MAX = 27 }; // any 19 digits fit into 64 bits, as does 5^27

static const uint64_t powers_of_5[POWER_MAX + 1] = {
    UINT64_C(1),
    UINT64_C(5),
    UINT64_C(25),
    UINT64_C(125),
    UINT64_C(625),
    UINT64_C(3125),
    UINT64_C(15625),
    UINT64_C(78125),
    UINT64_C(390625),
    UINT64_C(1953125),
    UINT64_C(9765625),
    UINT64_C(48828125),
    UINT64_C(244140625),
    UINT64_C(1220703125),
    UINT64_C(6103515625),
    UINT64_C(30517578125),
    UINT64_C(152587890625),
    UINT64_C(762939453125),
    UINT64_C(3814697265625),
    UINT64_C(19073486328125),
    UINT64_C(95367431640625),
    UINT64_C(476837158203125),
    UINT64_C(2384185791015625),
    UINT64_C(11920928955078125),
    UINT64_C(59604644775390625),
    UINT64_C(298023223876953125),
    UINT64_C(1490116119384765625),
    UINT64_C(7450580596923828125),
};

// Those that are exact as doubles.
static const double powers_of_10[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                      1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
enum { EXACT_POWER = sizeof powers_of_10 / sizeof *powers_of_10 - 1 };

// --- digits --------------------------------------------------------------------------------------------------------------------------------

static inline bool is_digit(char c)
{
  return c >= '0' && c <= '9';
}

static inline bool eight_digits(uint64_t v)
{
  const uint64_t high = UINT64_C(0xF0F0F0F0F0F0F0F0);
  return (v & high) == UINT64_C(0x3030303030303030) && ((v + UINT64_C(0x0606060606060606)) & high) == UINT64_C(0x3030303030303030);
}

// Appends the digits at `p` to *value, which wraps when there are too many, and returns what is behind them.
static inline const char *take_digits(const char *p, const char *end, uint64_t *value)
{
  uint64_t v = *value;
  for (uint64_t eight; end - p >= 8 && eight_digits(eight = json_load8(p)); p += 8)
    v = v * 100000000 + json_value8(eight);
  for (; p < end && is_digit(*p); p++)
    v = v * 10 + (uint64_t)(*p - '0');
  *value = v;
  return p;
}

// The digits of [p, end) once more, as there are many: the first 19 that count. `e` is the exponent that is written.
static __attribute__((noinline)) void read_many(struct decimal *d, const char *p, const char *end, int64_t e)
{
  int n = 0;
  bool fraction = false;
  d->digits = 0;
  for (; p < end; p++) {
    if (*p == '.') {
      fraction = true;
    } else if (n < DIGITS_MAX) {
      d->digits = d->digits * 10 + (uint64_t)(*p - '0');
      n += d->digits != 0;
      e -= fraction;
    } else {
      d->more |= *p != '0';
      e += !fraction;
    }
  }
  d->exponent = e;
}

// Clamped far beyond what any text in memory could make up for.
static const char *read_exponent(const char *p, const char *end, int64_t *e)
{
  const int64_t limit = INT64_C(1) << 60;
  bool negative = *p == '-';
  if (*p == '-' || *p == '+')
    p++;
  for (*e = 0; p < end && is_digit(*p); p++)
    *e = *e > limit / 10 - 10 ? limit : *e * 10 + (*p - '0');
  if (negative)
    *e = -*e;
  return p;
}

const char *decimal_read(const char *p, const char *end, struct decimal *d)
{
  const char *begin = p;
  d->negative = *p == '-';
  d->more = false;
  d->digits = 0;
  p += d->negative;
  const char *first = p;
  p = take_digits(p, end, &d->digits);
  int64_t exponent = 0;
  bool point = p < end && *p == '.';
  if (point) {
    const char *behind = p + 1;
    p = take_digits(behind, end, &d->digits);
    exponent = behind - p;
  }
  const char *last = p;
  int64_t written = 0;
  if (p < end && (*p | 0x20) == 'e')
    p = read_exponent(p + 1, end, &written);
  d->exponent = exponent + written;
  if (last - first - point > DIGITS_MAX)
    read_many(d, first, last, written);
  d->text = (struct str){begin, (size_t)(p - begin)};
  return p;
}

// --- reading -------------------------------------------------------------------------------------------------------------------------------

// The double with these bits of mantissa (53, the first one set) and this exponent of its lowest one; or of the next larger, where `up`.
static inline double make_double(uint64_t mantissa, int exponent, bool up)
{
  uint64_t bits = ((uint64_t)(exponent + 1023 + 51) << 52) + mantissa + up; // the first bit of the mantissa adds one to the exponent
  double v;
  memcpy(&v, &bits, sizeof v);
  return v;
}

// digits × 10^exponent as the nearest double, for |exponent| <= POWER_MAX. *side: the sign of what the double lacks.
static double nearest(uint64_t digits, int exponent, int *side)
{
  if (!digits) {
    *side = 0;
    return 0;
  }
  int zeros = __builtin_clzll(digits), power;
  uint64_t high;
  bool rest;
  digits <<= zeros;
  if (exponent < 0) {
    // Both with their first bits set, so the quotient has 63 bits or 64.
    uint64_t by = powers_of_5[-exponent];
    int by_zeros = __builtin_clzll(by);
    uint128 dividend = (uint128)digits << 63;
    by <<= by_zeros;
    high = (uint64_t)(dividend / by);
    rest = (uint64_t)dividend != high * by; // what is left is less than 64 bits
    power = by_zeros - 63 - zeros + exponent;
  } else {
    uint128 product = (uint128)digits * powers_of_5[exponent];
    high = (uint64_t)(product >> 64);
    uint64_t low = (uint64_t)product;
    power = exponent - zeros;
    if (high) {
      int more = __builtin_clzll(high);
      product <<= more;
      high = (uint64_t)(product >> 64);
      low = (uint64_t)product;
      power += 64 - more;
    } else {
      high = low;
      low = 0;
    }
    rest = low != 0;
  }
  int more = __builtin_clzll(high);
  high <<= more;
  power -= more;
  uint64_t mantissa = high >> 11, tail = high & 0x7FF;
  bool up = tail > 0x400 || (tail == 0x400 && (rest || (mantissa & 1)));
  *side = up ? -1 : tail || rest ? 1 : 0;
  return make_double(mantissa, power + 11, up);
}

static inline bool near_zero(int64_t exponent)
{
  return exponent >= -POWER_MAX && exponent <= POWER_MAX;
}

// The magnitude as the nearest double.
static inline double magnitude(const struct decimal *d)
{
  int side, side_of_next;
  if (!d->more && d->digits <= UINT64_C(1) << DBL_MANT_DIG && d->exponent >= -EXACT_POWER && d->exponent <= EXACT_POWER && FLT_EVAL_METHOD == 0) {
    // Both are exact as doubles, so the one operation rounds correctly.
    double digits = (double)d->digits;
    return d->exponent < 0 ? digits / powers_of_10[-d->exponent] : digits * powers_of_10[d->exponent];
  }
  if (near_zero(d->exponent)) {
    double v = nearest(d->digits, (int)d->exponent, &side);
    if (!d->more || v == nearest(d->digits + 1, (int)d->exponent, &side_of_next))
      return v;
  }
  return fabs(json_double(d->text));
}

// A number's significant digits (with the point that may be between them) and the power of ten of the first one.
struct significant {
  const char *p, *end;
  int64_t power;
};

static struct significant significant_of(struct str text)
{
  const char *p = text.p, *end = text.p + text.n, *first = NULL;
  bool fraction = false;
  int64_t whole = 0, zeros = 0, written = 0;
  for (p += *p == '-'; p < end && (is_digit(*p) || *p == '.'); p++) {
    if (*p == '.') {
      fraction = true;
      continue;
    }
    if (!first && *p != '0')
      first = p;
    whole += first && !fraction;
    zeros += !first && fraction;
  }
  struct significant s = {first ? first : p, p, whole ? whole - 1 : -zeros - 1};
  if (p < end)
    read_exponent(p + 1, end, &written);
  s.power += written;
  return s;
}

static char next_digit(struct significant *s)
{
  if (s->p < s->end && *s->p == '.')
    s->p++;
  return s->p < s->end ? *s->p++ : '0';
}

// The sign of |d| - v, exactly. `v` is halfway between two of the narrower numbers, so that it has at most 112 significant digits.
static __attribute__((noinline)) int compare(const struct decimal *d, double v)
{
  int side;
  if (near_zero(d->exponent)) {
    double below = nearest(d->digits, (int)d->exponent, &side);
    if (below == v && (!d->more || side >= 0))
      return d->more ? 1 : side;
  }
  char text[192];
  int n = snprintf(text, sizeof text, "%.120e", v);
  struct significant a = significant_of(d->text), b = significant_of((struct str){text, (size_t)n});
  if (a.power != b.power)
    return a.power < b.power ? -1 : 1;
  while (a.p < a.end || b.p < b.end) {
    char x = next_digit(&a), y = next_digit(&b);
    if (x != y)
      return x < y ? -1 : 1;
  }
  return 0;
}

// The bits of a narrower number (without sign) of `mantissa` bits behind the first one, whose exponent has the bias. Rounding `v`, which is rounded itself, is
// rounding the decimal unless `v` is halfway: then it counts on which side of it the decimal is.
static inline uint32_t narrow(const struct decimal *d, double v, int mantissa, int bias)
{
  uint64_t bits;
  memcpy(&bits, &v, sizeof bits);
  if (bits >> 52 == 0) // 0, or far too small
    return 0;
  int exponent = (int)(bits >> 52) - 1023;
  uint64_t whole = (bits & ((UINT64_C(1) << 52) - 1)) | UINT64_C(1) << 52;
  if (exponent > bias)
    return (uint32_t)(2 * bias + 1) << mantissa; // infinity
  int shift = 52 - mantissa, lowest = 1 - bias;
  if (exponent < lowest)
    shift += lowest - exponent;
  if (shift > 53)
    return 0;
  uint64_t kept = whole >> shift, tail = whole & ((UINT64_C(1) << shift) - 1), half = UINT64_C(1) << (shift - 1);
  bool up = tail > half;
  if (tail == half) {
    int side = compare(d, v);
    up = side > 0 || (side == 0 && (kept & 1));
  }
  return (exponent < lowest ? 0 : (uint32_t)(exponent - lowest) << mantissa) + (uint32_t)kept + up;
}

double decimal_float64(const struct decimal *d)
{
  double v = magnitude(d);
  return d->negative ? -v : v;
}

float decimal_float32(const struct decimal *d)
{
  uint32_t bits = narrow(d, magnitude(d), 23, 127) | (uint32_t)d->negative << 31;
  float v;
  memcpy(&v, &bits, sizeof v);
  return v;
}

uint16_t decimal_float16(const struct decimal *d)
{
  return (uint16_t)(narrow(d, magnitude(d), 10, 15) | (uint32_t)d->negative << 15);
}

double float16_value(uint16_t bits)
{
  int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  double v = exponent == 31 ? (mantissa ? (double)NAN : (double)INFINITY) : exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
  return bits >> 15 ? -v : v;
}

// --- writing -------------------------------------------------------------------------------------------------------------------------------

// A size of floating-point numbers.
struct size {
  int mantissa; // bits, with the first one
  int lowest;   // the exponent of the lowest bit there is
  int finer;    // by how many bits the bounds are finer than the number itself
  bool narrow;  // other than double
};

static const struct size size64 = {53, -1074, 2, false}, size32 = {24, -149, 22, true}, size16 = {11, -24, 22, true};

// A positive number as mantissa × 2^exponent. `edge`: the next smaller number is nearer than the next larger one.
struct binary {
  uint64_t mantissa;
  int exponent;
  bool edge;
};

static struct binary binary_of(double v, const struct size *size)
{
  int exponent;
  frexp(v, &exponent);
  exponent -= size->mantissa;
  if (exponent < size->lowest)
    exponent = size->lowest;
  uint64_t mantissa = (uint64_t)ldexp(v, -exponent);
  return (struct binary){mantissa, exponent, mantissa == UINT64_C(1) << (size->mantissa - 1) && exponent > size->lowest};
}

// A decimal to be written: digits × 10^exponent.
struct shortest {
  uint64_t digits;
  int exponent;
};

// n × 2^exponent × 10^power, as a whole number and what is left: 0, less than a half (1), a half (2), more (3). `n` has less than 60 bits, the whole less than 64. False: that is
// not what it is good for.
struct scaled {
  uint64_t whole;
  int rest;
};

static bool scale(uint64_t n, int exponent, int power, struct scaled *out)
{
  int shift = exponent + power;
  if (power < 0) {
    if (shift < 0 || shift > 67)
      return false;
    uint128 x = (uint128)n << shift;
    uint64_t by = powers_of_5[-power], left = (uint64_t)(x % by);
    *out = (struct scaled){(uint64_t)(x / by), left == 0 ? 0 : 2 * left < by ? 1 : 2 * left == by ? 2 : 3};
    return true;
  }
  uint128 x = (uint128)n * powers_of_5[power];
  if (shift >= 0) {
    *out = (struct scaled){(uint64_t)(x << (shift < 64 ? shift : 0)), 0};
    return shift < 64;
  }
  if (shift < -126)
    return false;
  uint128 left = x & (((uint128)1 << -shift) - 1), half = (uint128)1 << (-shift - 1);
  *out = (struct scaled){(uint64_t)(x >> -shift), left == 0 ? 0 : left < half ? 1 : left == half ? 2 : 3};
  return true;
}

// Of the decimals between the bounds, those with the fewest digits; of these the nearest to the number. 17 digits always tell a number from its neighbours.
static bool shortest_exact(const struct binary *b, const struct size *size, int power, struct shortest *out)
{
  struct scaled low, high, v;
  uint64_t n = b->mantissa << size->finer, half = UINT64_C(1) << (size->finer - 1), margin = size->narrow;
  // A bound itself is rounded to the number if that is even. The narrower numbers keep off the bounds by more than what a double rounds.
  bool inclusive = !size->narrow && !(b->mantissa & 1);
  int exponent = b->exponent - size->finer;
  if (power < -POWER_MAX || power > POWER_MAX || !scale(n, exponent, power, &v) || v.whole < UINT64_C(10000000000000000) ||
      !scale(n - (b->edge ? half / 2 : half) + margin, exponent, power, &low) || !scale(n + half - margin, exponent, power, &high))
    return false;
  uint64_t first = low.whole + (low.rest || !inclusive), last = high.whole - (!high.rest && !inclusive), unit = 1;
  int zeros = 0;
  while (last / (unit * 10) * (unit * 10) >= first) {
    unit *= 10;
    zeros++;
  }
  uint64_t below = v.whole / unit * unit, over = v.whole - below;
  bool up = unit == 1 ? v.rest > 2 || (v.rest == 2 && (v.whole & 1)) : over > unit / 2 || (over == unit / 2 && (v.rest || (below / unit & 1)));
  if (below < first || (up && below + unit <= last))
    below += unit;
  *out = (struct shortest){below / unit, zeros - power};
  return true;
}

// Whether a decimal reads back as the number, for the narrower one by way of a double, too.
static bool reads_back(const struct shortest *s, double v, const struct size *size)
{
  char text[TEXT_MAX];
  snprintf(text, sizeof text, "%llue%d", (unsigned long long)s->digits, s->exponent);
  double read = strtod(text, NULL);
  return size->narrow ? (double)(float)read == v && (double)strtof(text, NULL) == v : read == v;
}

// By trying.
static struct shortest shortest_slow(const struct binary *b, double v, const struct size *size)
{
  bool subnormal = b->mantissa >> (size->mantissa - 1) == 0;
  for (int n = subnormal ? 1 : size->narrow ? FLT_DIG : DBL_DIG;; n++) {
    char text[TEXT_MAX];
    snprintf(text, sizeof text, "%.*e", n - 1, v);
    struct decimal d;
    decimal_read(text, text + strlen(text), &d);
    struct shortest s = {d.digits, (int)d.exponent};
    if (!reads_back(&s, v, size) && b->edge)
      s.digits++; // the next larger one may be nearer than where the next smaller number begins
    if (n >= DBL_DECIMAL_DIG || reads_back(&s, v, size))
      return s;
  }
}

// As Python's repr does: with an exponent from 1e16 on and below 1e-4.
static size_t print(bool negative, struct shortest s, char out[TEXT_MAX])
{
  char digits[TEXT_MAX];
  while (s.digits % 10 == 0 && s.digits) {
    s.digits /= 10;
    s.exponent++;
  }
  int n = (int)uint_text(s.digits, digits), point = n + s.exponent;
  const char *sign = negative ? "-" : "";
  if (point > 16 || point <= -4)
    return (size_t)snprintf(out, TEXT_MAX, "%s%c%s%.*se%c%02d", sign, digits[0], n > 1 ? "." : "", n - 1, digits + 1, point > 0 ? '+' : '-',
                            abs(point - 1));
  if (point <= 0)
    return (size_t)snprintf(out, TEXT_MAX, "%s0.%.*s%.*s", sign, -point, "000", n, digits);
  if (point >= n)
    return (size_t)snprintf(out, TEXT_MAX, "%s%.*s%.*s.0", sign, n, digits, point - n, "0000000000000000");
  return (size_t)snprintf(out, TEXT_MAX, "%s%.*s.%.*s", sign, point, digits, n - point, digits + point);
}

static size_t repr(double v, const struct size *size, char out[TEXT_MAX])
{
  struct shortest s = {0};
  double magnitude = fabs(v);
  if (v == 0)
    return (size_t)snprintf(out, TEXT_MAX, signbit(v) ? "-0.0" : "0.0");
  if (magnitude < 0x1p24 && magnitude == floor(magnitude)) {
    s.digits = (uint64_t)magnitude;
    return print(signbit(v), s, out);
  }
  struct binary b = binary_of(magnitude, size);
  int power = 16 - (int)floor(log10(magnitude)); // which may be one too small
  if (!shortest_exact(&b, size, power, &s) && !shortest_exact(&b, size, power + 1, &s))
    s = shortest_slow(&b, magnitude, size);
  return print(signbit(v), s, out);
}

size_t float64_repr(double v, char out[TEXT_MAX])
{
  return repr(v, &size64, out);
}

size_t float32_repr(float v, char out[TEXT_MAX])
{
  return repr((double)v, &size32, out);
}

size_t float16_repr(uint16_t bits, char out[TEXT_MAX])
{
  return repr(float16_value(bits), &size16, out);
}
