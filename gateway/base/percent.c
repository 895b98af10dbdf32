// SPDX-License-Identifier: Apache-2.0
#include "base/percent.h"

static int hex_digit(char c)
{
  if (c >= '0' && c <= '9')
    return c - '0';
  if (c >= 'a' && c <= 'f')
    return c - 'a' + 10;
  if (c >= 'A' && c <= 'F')
    return c - 'A' + 10;
  return -1;
}

bool percent_decode(struct str text, struct percent_decoding how, char *to, size_t *n)
{
  size_t plain = 0;
  while (plain < text.n && text.p[plain] != '%' && text.p[plain] != '+')
    plain++;
  if (plain)
    memcpy(to, text.p, plain);
  *n = plain;
  for (size_t i = plain; i < text.n; i++) {
    char c = text.p[i];
    if (c == '%') {
      int high = text.n - i > 2 ? hex_digit(text.p[i + 1]) : -1;
      int low = text.n - i > 2 ? hex_digit(text.p[i + 2]) : -1;
      if (high < 0 || low < 0)
        return false;
      c = (char)(high * 16 + low);
      if (c != '/' || !how.keep_slash)
        i += 2;
      else
        c = '%';
    } else if (c == '+' && how.plus_is_space)
      c = ' ';
    to[(*n)++] = c;
  }
  return true;
}
