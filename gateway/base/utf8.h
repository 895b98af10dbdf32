// SPDX-License-Identifier: Apache-2.0
// UTF-8 as RFC 3629 section 4 has it: no overlong forms, no surrogates, nothing above U+10FFFF.
#ifndef ENVGATE_BASE_UTF8_H
#define ENVGATE_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>

// How many bytes the character at `p` takes, of the `n` there are (n > 0); 0 when they are no valid character.
static inline size_t utf8_length(const char *p, size_t n)
{
  const unsigned char *s = (const unsigned char *)p;
  if (s[0] < 0x80)
    return 1;
  if (s[0] < 0xC2 || s[0] > 0xF4)
    return 0;
  size_t len = s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : 4;
  if (n < len)
    return 0;
  unsigned char low = 0x80, high = 0xBF; // the second byte's range depends on the first
  if (s[0] == 0xE0)
    low = 0xA0;
  else if (s[0] == 0xED)
    high = 0x9F;
  else if (s[0] == 0xF0)
    low = 0x90;
  else if (s[0] == 0xF4)
    high = 0x8F;
  if (s[1] < low || s[1] > high)
    return 0;
  for (size_t i = 2; i < len; i++)
    if ((s[i] & 0xC0) != 0x80)
      return 0;
  return len;
}

static inline bool utf8_valid(const char *p, size_t n)
{
  for (size_t i = 0; i < n;) {
    size_t len = utf8_length(p + i, n - i);
    if (!len)
      return false;
    i += len;
  }
  return true;
}

#endif
