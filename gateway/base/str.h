// SPDX-License-Identifier: Apache-2.0
// A string as pointer and length, by value. It owns nothing and need not end in NUL.
#ifndef ENVGATE_BASE_STR_H
#define ENVGATE_BASE_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>

struct str {
  const char *p;
  size_t n;
};

// A string literal as a struct str.
#define STR(literal) ((struct str){"" literal, sizeof(literal) - 1})
// The two arguments of printf's "%.*s".
#define STR_ARG(s) (int)(s).n, (s).p

// A C string as a struct str; NULL is the empty string.
static inline struct str str_c(const char *s)
{
  return (struct str){s, s ? strlen(s) : 0};
}

static inline bool str_eq(struct str a, struct str b)
{
  return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

// Compares without regard to ASCII case.
static inline bool str_ieq(struct str a, struct str b)
{
  return a.n == b.n && (a.n == 0 || strncasecmp(a.p, b.p, a.n) == 0);
}

static inline bool str_starts(struct str s, struct str prefix)
{
  return s.n >= prefix.n && (prefix.n == 0 || memcmp(s.p, prefix.p, prefix.n) == 0);
}

static inline bool str_ends(struct str s, struct str suffix)
{
  return s.n >= suffix.n && (suffix.n == 0 || memcmp(s.p + s.n - suffix.n, suffix.p, suffix.n) == 0);
}

// The string without its first `n` bytes (n <= s.n).
static inline struct str str_skip(struct str s, size_t n)
{
  return (struct str){s.p + n, s.n - n};
}

// The string without the spaces and tabs around it (OWS, RFC 9110 section 5.6.3).
static inline struct str str_trim(struct str s)
{
  while (s.n && (s.p[0] == ' ' || s.p[0] == '\t'))
    s = str_skip(s, 1);
  while (s.n && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t'))
    s.n--;
  return s;
}

// Takes the first item off a list, and the separator behind it.
static inline struct str str_cut(struct str *list, char separator)
{
  const char *end = list->n ? memchr(list->p, separator, list->n) : NULL;
  struct str item = {list->p, end ? (size_t)(end - list->p) : list->n};
  *list = str_skip(*list, item.n + (end ? 1 : 0));
  return item;
}

#endif
