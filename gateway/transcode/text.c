// SPDX-License-Identifier: Apache-2.0
#include "transcode/text.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"

static bool is_digit(char c)
{
  return c >= '0' && c <= '9';
}

// --- numbers -------------------------------------------------------------------------------------------------------------------------------

static bool is_number(struct str text)
{
  struct json j;
  struct str span;
  json_init(&j, text, 1);
  return json_number(&j, &span) && span.n == text.n;
}

// The power of ten behind a number's 'e' (`text` begins behind it), clamped where it no longer matters.
static long long exponent(struct str text)
{
  const long long limit = 1LL << 40;
  bool negative = text.n && *text.p == '-';
  long long value = 0;
  for (size_t i = 0; i < text.n; i++)
    if (is_digit(text.p[i]) && value < limit)
      value = value * 10 + (text.p[i] - '0');
  return negative ? -value : value;
}

// value = value × 10^zeros + digit; false when it does not fit.
static bool shift_in(uint64_t *value, long long zeros, unsigned digit)
{
  for (; zeros > 0 && *value; zeros--)
    if (__builtin_mul_overflow(*value, 10U, value))
      return false;
  return !__builtin_add_overflow(*value, digit, value);
}

// An integral number as sign and magnitude, without rounding.
static bool integer(struct str text, bool *negative, uint64_t *magnitude)
{
  if (!is_number(text))
    return false;
  *negative = *text.p == '-';
  *magnitude = 0;
  bool fraction = false;
  long long scale = 0, zeros = 0; // zeros: those passed and not yet shifted in, as they may be undone by the exponent
  for (size_t i = *negative; i < text.n; i++) {
    char c = text.p[i];
    if (c == '.') {
      fraction = true;
    } else if (!is_digit(c)) {
      scale += exponent(str_skip(text, i + 1));
      break;
    } else {
      scale -= fraction;
      if (c == '0') {
        zeros++;
      } else {
        if (!shift_in(magnitude, zeros + 1, (unsigned)(c - '0')))
          return false;
        zeros = 0;
      }
    }
  }
  if (!*magnitude)
    return true;
  scale += zeros;
  return scale >= 0 && shift_in(magnitude, scale, 0);
}

bool int_from_text(struct str text, int64_t min, int64_t max, int64_t *out)
{
  bool negative;
  uint64_t magnitude;
  if (!integer(text, &negative, &magnitude))
    return false;
  if (negative) {
    if (magnitude > (uint64_t)INT64_MAX + 1)
      return false;
    *out = (int64_t)(0 - magnitude);
  } else {
    if (magnitude > INT64_MAX)
      return false;
    *out = (int64_t)magnitude;
  }
  return *out >= min && *out <= max;
}

bool uint_from_text(struct str text, uint64_t max, uint64_t *out)
{
  bool negative;
  return integer(text, &negative, out) && (!negative || *out == 0) && *out <= max;
}

// The three values that JSON has no number for.
static bool named_double(struct str text, double *out)
{
  if (str_eq(text, STR("NaN")))
    *out = (double)NAN;
  else if (str_eq(text, STR("Infinity")))
    *out = (double)INFINITY;
  else if (str_eq(text, STR("-Infinity")))
    *out = -(double)INFINITY;
  else
    return false;
  return true;
}

bool double_from_text(struct str text, double *out)
{
  if (named_double(text, out))
    return true;
  if (!is_number(text))
    return false;
  *out = json_double(text);
  return isfinite(*out);
}

bool float_from_text(struct str text, float *out)
{
  double named;
  if (named_double(text, &named)) {
    *out = (float)named;
    return true;
  }
  if (!is_number(text))
    return false;
  char copy[512];
  if (text.n < sizeof copy) {
    // Not by way of a double, which would round twice.
    memcpy(copy, text.p, text.n);
    copy[text.n] = '\0';
    *out = strtof(copy, NULL);
  } else {
    double wide = json_double(text);
    if (fabs(wide) > (double)FLT_MAX)
      return false;
    *out = (float)wide;
  }
  return isfinite(*out);
}

// digits / 10^scale, without needless zeros; scale < 20.
static size_t decimal_text(bool negative, uint64_t digits, int scale, char out[TEXT_MAX])
{
  char text[TEXT_MAX];
  size_t at = sizeof text;
  for (; scale > 0 && digits % 10 == 0; scale--)
    digits /= 10;
  do {
    text[--at] = (char)('0' + digits % 10);
    digits /= 10;
    if (--scale == 0)
      text[--at] = '.';
  } while (digits || scale >= 0);
  if (negative)
    text[--at] = '-';
  memcpy(out, text + at, sizeof text - at);
  return sizeof text - at;
}

size_t int_text(int64_t v, char out[TEXT_MAX])
{
  return decimal_text(v < 0, v < 0 ? 0 - (uint64_t)v : (uint64_t)v, 0, out);
}

size_t uint_text(uint64_t v, char out[TEXT_MAX])
{
  return decimal_text(false, v, 0, out);
}

// Integers up to `exact` in magnitude are written as such; 0 for all else. A negative zero keeps its sign only with a fraction.
static size_t integral_text(double v, double exact, char out[TEXT_MAX])
{
  if (v == 0)
    return (size_t)snprintf(out, TEXT_MAX, signbit(v) ? "-0.0" : "0");
  if (fabs(v) > exact || v != floor(v))
    return 0;
  return int_text((int64_t)v, out);
}

// The text of a number that DBL_DIG digits tell from all others, and that %g would print without exponent; 0 for all else. A quotient of two
// integers that are exact as doubles is rounded once, as reading the decimal is, so it proves what the digits were guessed to be.
static size_t short_text(double v, char out[TEXT_MAX])
{
  static const double powers[] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19};
  double magnitude = fabs(v);
  if (FLT_EVAL_METHOD != 0 || magnitude < 1e-4 || magnitude >= powers[DBL_DIG])
    return 0;
  int scale = DBL_DIG;
  while (magnitude >= powers[DBL_DIG - scale])
    scale--;
  while (magnitude * powers[scale] < powers[DBL_DIG - 1])
    scale++;
  uint64_t digits = (uint64_t)(magnitude * powers[scale] + 0.5);
  return (double)digits / powers[scale] == magnitude ? decimal_text(v < 0, digits, scale, out) : 0;
}

size_t double_text(double v, char out[TEXT_MAX])
{
  size_t n = integral_text(v, 0x1p53, out);
  if (!n)
    n = short_text(v, out);
  // With DBL_DIG digits the trailing zeros that %g drops make it the shortest; subnormal numbers have fewer digits than that.
  for (int digits = fabs(v) < DBL_MIN ? 1 : DBL_DIG; !n; digits++) {
    size_t got = (size_t)snprintf(out, TEXT_MAX, "%.*g", digits, v);
    if (digits >= DBL_DECIMAL_DIG || strtod(out, NULL) == v)
      n = got;
  }
  return n;
}

size_t float_text(float v, char out[TEXT_MAX])
{
  size_t n = integral_text((double)v, 0x1p24, out);
  for (int digits = fabsf(v) < FLT_MIN ? 1 : FLT_DIG; !n; digits++) {
    size_t got = (size_t)snprintf(out, TEXT_MAX, "%.*g", digits, (double)v);
    if (digits >= FLT_DECIMAL_DIG || strtof(out, NULL) == v)
      n = got;
  }
  return n;
}

// --- bytes ---------------------------------------------------------------------------------------------------------------------------------

size_t base64_length(size_t n)
{
  return n / 3 * 4 + (n % 3 ? 4 : 0);
}

void base64_encode(const uint8_t *from, size_t n, char *to)
{
  static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (; n >= 3; n -= 3, from += 3) {
    *to++ = alphabet[from[0] >> 2];
    *to++ = alphabet[(from[0] & 3) << 4 | from[1] >> 4];
    *to++ = alphabet[(from[1] & 15) << 2 | from[2] >> 6];
    *to++ = alphabet[from[2] & 63];
  }
  if (!n)
    return;
  unsigned second = n == 2 ? from[1] : 0;
  *to++ = alphabet[from[0] >> 2];
  *to++ = alphabet[(from[0] & 3U) << 4 | second >> 4];
  *to++ = n == 2 ? alphabet[(second & 15) << 2] : '=';
  *to = '=';
}

static int base64_value(char c)
{
  if (c >= 'A' && c <= 'Z')
    return c - 'A';
  if (c >= 'a' && c <= 'z')
    return c - 'a' + 26;
  if (is_digit(c))
    return c - '0' + 52;
  if (c == '+' || c == '-')
    return 62;
  return c == '/' || c == '_' ? 63 : -1;
}

bool base64_decode(struct str text, uint8_t *to, size_t *n)
{
  if (text.n % 4 == 0)
    for (int i = 0; i < 2 && text.n && text.p[text.n - 1] == '='; i++)
      text.n--;
  if (text.n % 4 == 1)
    return false;
  uint8_t *begin = to;
  unsigned bits = 0;
  int count = 0; // of bits that wait
  for (size_t i = 0; i < text.n; i++) {
    int value = base64_value(text.p[i]);
    if (value < 0)
      return false;
    bits = (bits << 6 | (unsigned)value) & 0xFFFF;
    count += 6;
    if (count >= 8) {
      count -= 8;
      *to++ = (uint8_t)(bits >> count);
    }
  }
  *n = (size_t)(to - begin); // bits that no byte takes may be any, as Google's readers have it
  return true;
}

// --- time ----------------------------------------------------------------------------------------------------------------------------------

enum { DAY_S = 86400, NANOS = 1000000000 };
#define TIMESTAMP_MIN INT64_C(-62135596800) // 0001-01-01T00:00:00Z
#define TIMESTAMP_MAX INT64_C(253402300799) // 9999-12-31T23:59:59Z
#define DURATION_MAX INT64_C(315576000000)  // 10,000 years; a fraction may come on top

// Days since 1970 of a day in the proleptic Gregorian calendar. Years are counted from March, so that the leap day is the last.
static int64_t days_of_date(int64_t year, int month, int day)
{
  year -= month <= 2;
  int64_t era = (year >= 0 ? year : year - 399) / 400, of_era = year - era * 400;
  int64_t of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
  return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

static void date_of_days(int64_t days, int *year, int *month, int *day)
{
  days += 719468;
  int64_t era = (days >= 0 ? days : days - 146096) / 146097, of_era = days - era * 146097;
  int64_t y = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
  int64_t of_year = of_era - (365 * y + y / 4 - y / 100), m = (5 * of_year + 2) / 153;
  *day = (int)(of_year - (153 * m + 2) / 5 + 1);
  *month = (int)(m < 10 ? m + 3 : m - 9);
  *year = (int)(y + era * 400 + (*month <= 2));
}

// Takes `digits` digits off the front.
static bool take_number(struct str *text, size_t digits, int *out)
{
  if (text->n < digits)
    return false;
  *out = 0;
  for (size_t i = 0; i < digits; i++) {
    if (!is_digit(text->p[i]))
      return false;
    *out = *out * 10 + (text->p[i] - '0');
  }
  *text = str_skip(*text, digits);
  return true;
}

static bool take_char(struct str *text, char c)
{
  if (!text->n || *text->p != c)
    return false;
  *text = str_skip(*text, 1);
  return true;
}

// Takes ".123" off the front if it is there: 1 to 9 digits.
static bool take_fraction(struct str *text, int32_t *nanos)
{
  *nanos = 0;
  if (!take_char(text, '.'))
    return true;
  int digit, count = 0;
  while (take_number(text, 1, &digit)) {
    if (++count > 9)
      return false;
    *nanos = *nanos * 10 + digit;
  }
  for (int i = count; i < 9; i++)
    *nanos *= 10;
  return count > 0;
}

// Takes "Z" or "+01:00": seconds east of UTC.
static bool take_offset(struct str *text, int *seconds)
{
  *seconds = 0;
  if (take_char(text, 'Z'))
    return true;
  int sign = take_char(text, '+') ? 1 : take_char(text, '-') ? -1 : 0, hours, minutes;
  if (!sign || !take_number(text, 2, &hours) || !take_char(text, ':') || !take_number(text, 2, &minutes) || hours > 23 || minutes > 59)
    return false;
  *seconds = sign * (hours * 3600 + minutes * 60);
  return true;
}

static int days_in(int year, int month)
{
  static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
  return days[month - 1] + (month == 2 && leap);
}

bool timestamp_from_text(struct str text, int64_t *seconds, int32_t *nanos)
{
  int year, month, day, hour, minute, second, offset;
  bool date = take_number(&text, 4, &year) && take_char(&text, '-') && take_number(&text, 2, &month) && take_char(&text, '-') &&
              take_number(&text, 2, &day) && take_char(&text, 'T');
  if (!date || year < 1 || month < 1 || month > 12 || day < 1 || day > days_in(year, month))
    return false;
  bool time = take_number(&text, 2, &hour) && take_char(&text, ':') && take_number(&text, 2, &minute) && take_char(&text, ':') &&
              take_number(&text, 2, &second);
  if (!time || hour > 23 || minute > 59 || second > 59)
    return false;
  if (!take_fraction(&text, nanos) || !take_offset(&text, &offset) || text.n)
    return false;
  *seconds = days_of_date(year, month, day) * DAY_S + hour * 3600 + minute * 60 + second - offset;
  return *seconds >= TIMESTAMP_MIN && *seconds <= TIMESTAMP_MAX;
}

// Nanoseconds as 0, 3, 6 or 9 digits behind a point, and the suffix.
static size_t fraction_text(int32_t nanos, char suffix, char *out, size_t room)
{
  int n;
  if (nanos == 0)
    n = snprintf(out, room, "%c", suffix);
  else if (nanos % 1000000 == 0)
    n = snprintf(out, room, ".%03d%c", nanos / 1000000, suffix);
  else if (nanos % 1000 == 0)
    n = snprintf(out, room, ".%06d%c", nanos / 1000, suffix);
  else
    n = snprintf(out, room, ".%09d%c", nanos, suffix);
  return (size_t)n;
}

size_t timestamp_text(int64_t seconds, int32_t nanos, char out[TEXT_MAX])
{
  if (seconds < TIMESTAMP_MIN || seconds > TIMESTAMP_MAX || nanos < 0 || nanos >= NANOS)
    return 0;
  int64_t days = seconds / DAY_S - (seconds % DAY_S < 0);
  int of_day = (int)(seconds - days * DAY_S), year, month, day;
  date_of_days(days, &year, &month, &day);
  size_t n = (size_t)snprintf(out, TEXT_MAX, "%04d-%02d-%02dT%02d:%02d:%02d", year, month, day, of_day / 3600, of_day / 60 % 60, of_day % 60);
  return n + fraction_text(nanos, 'Z', out + n, TEXT_MAX - n);
}

bool duration_from_text(struct str text, int64_t *seconds, int32_t *nanos)
{
  bool negative = take_char(&text, '-');
  int digit, count = 0;
  *seconds = 0;
  while (take_number(&text, 1, &digit)) {
    *seconds = *seconds * 10 + digit;
    if (++count > 12)
      return false;
  }
  if (!count || *seconds > DURATION_MAX || !take_fraction(&text, nanos) || !take_char(&text, 's') || text.n)
    return false;
  if (negative) {
    *seconds = -*seconds;
    *nanos = -*nanos;
  }
  return true;
}

size_t duration_text(int64_t seconds, int32_t nanos, char out[TEXT_MAX])
{
  if (seconds < -DURATION_MAX || seconds > DURATION_MAX || nanos <= -NANOS || nanos >= NANOS || (seconds < 0 && nanos > 0) ||
      (seconds > 0 && nanos < 0))
    return 0;
  bool negative = seconds < 0 || nanos < 0;
  long long whole = negative ? -seconds : seconds;
  size_t n = (size_t)snprintf(out, TEXT_MAX, "%s%lld", negative ? "-" : "", whole);
  return n + fraction_text(negative ? -nanos : nanos, 's', out + n, TEXT_MAX - n);
}

// --- names ---------------------------------------------------------------------------------------------------------------------------------

// The next character of a name's lowerCamelCase; 0 at the end. `name` moves behind it.
static char next_camel(const char **name)
{
  bool capital = false;
  for (; **name == '_'; ++*name) // NOLINT(clang-analyzer-core.NullDereference): every field of a descriptor has a name
    capital = true;
  char c = **name;
  if (c)
    ++*name;
  return capital && c >= 'a' && c <= 'z' ? (char)(c - 'a' + 'A') : c;
}

size_t camel_name(const char *name, char *to)
{
  size_t n = 0;
  for (char c; (c = next_camel(&name));)
    to[n++] = c;
  return n;
}

bool name_matches(struct str key, const char *name)
{
  if (!key.n)
    return false;
  if (str_eq(key, str_c(name)))
    return true;
  for (size_t i = 0; i < key.n; i++)
    if (next_camel(&name) != key.p[i])
      return false;
  return next_camel(&name) == '\0';
}
