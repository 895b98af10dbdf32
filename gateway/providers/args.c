// SPDX-License-Identifier: Apache-2.0
#include "providers/args.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Takes `text` over, also when it fails.
static bool add_owned(struct strings *a, char *text)
{
  char **at = text ? realloc(a->at, (a->n + 2) * sizeof *at) : NULL;
  if (!at) {
    free(text);
    return false;
  }
  a->at = at;
  a->at[a->n++] = text;
  a->at[a->n] = NULL;
  return true;
}

bool args_add(struct strings *a, const char *text)
{
  return add_owned(a, strdup(text));
}

bool args_addf(struct strings *a, const char *fmt, ...)
{
  char *text;
  va_list ap;
  va_start(ap, fmt);
  int n = vasprintf(&text, fmt, ap);
  va_end(ap);
  return n >= 0 && add_owned(a, text);
}

bool args_add_all(struct strings *a, const struct strings *more)
{
  for (size_t i = 0; i < more->n; i++)
    if (!args_add(a, more->at[i]))
      return false;
  return true;
}

void args_free(struct strings *a)
{
  for (size_t i = 0; i < a->n; i++)
    free(a->at[i]);
  free(a->at);
  *a = (struct strings){0};
}
