// SPDX-License-Identifier: Apache-2.0
#include "config/report.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

// As much of a strange key as helps to find it.
enum { KEY_SHOWN = 80 };

size_t report_enter(struct report *r, struct str key)
{
  size_t length = r->path.n;
  bool ok = length == 0 || buf_char(&r->path, '.');
  for (size_t i = 0; ok && i < key.n && i < KEY_SHOWN; i++) {
    unsigned char c = (unsigned char)key.p[i];
    ok = buf_char(&r->path, c < 0x20 || c == 0x7F ? '?' : (char)c); // a path is printed; a key must not steer the terminal
  }
  r->failed |= !ok;
  return length;
}

void report_leave(struct report *r, size_t length)
{
  r->path.n = length;
}

static bool grow(struct config_mistakes *m)
{
  struct config_mistake *at = realloc(m->at, (m->n + 1) * sizeof *at);
  if (at)
    m->at = at;
  return at != NULL;
}

static bool add(struct report *r, const char *text)
{
  struct config_mistakes *m = r->to;
  char *path = strndup(r->path.p ? r->path.p : "", r->path.n), *copy = strdup(text);
  if (!path || !copy || !grow(m)) {
    free(path);
    free(copy);
    return false;
  }
  m->at[m->n++] = (struct config_mistake){path, r->line, copy};
  return true;
}

void report_add(struct report *r, const char *key, const char *fmt, ...)
{
  char text[512];
  if (report_full(r))
    return;
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  size_t length = r->path.n;
  if (key)
    report_enter(r, str_c(key));
  if (r->to->n == MISTAKES_MAX - 1)
    r->failed |= !add(r, "has a mistake, and more may follow; mend the others first");
  else
    r->failed |= !add(r, text);
  report_leave(r, length);
}

void report_err(struct report *r, const struct err *e)
{
  if (e->code == CODE_INVALID_ARGUMENT)
    report_add(r, NULL, "%s", e->msg);
  else
    r->failed = true;
}
