// SPDX-License-Identifier: Apache-2.0
#include "config/secrets.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/options.h"

static bool refuse(const char *key, const struct pair *p, const char *why, struct err *e)
{
  const char *what = p->source == VALUE_FILE ? "file" : "environment variable";
  return err_set(e, CODE_FAILED_PRECONDITION, REASON_WORKER_START_FAILED, "%s.%s: the %s %s %s", key, p->name, what, p->value, why);
}

static bool cannot_read(const char *key, const struct pair *p, struct err *e)
{
  char why[160];
  snprintf(why, sizeof why, "cannot be read: %s", strerror(errno));
  return refuse(key, p, why, e);
}

// What the file holds, with a NUL behind.
static char *read_file(const char *key, const struct pair *p, struct err *e)
{
  int fd = open(p->value, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY); // a FIFO must not hold up the loop
  struct stat st;
  char *text = NULL;
  if (fd < 0) {
    cannot_read(key, p, e);
  } else if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
    refuse(key, p, "is no regular file", e);
  } else if (!(text = calloc(1, SECRET_MAX + 2))) {
    err_nomem(e);
  } else {
    size_t n = 0;
    ssize_t got = 1;
    while (n <= SECRET_MAX && (got = read(fd, text + n, SECRET_MAX + 1 - n)) > 0)
      n += (size_t)got;
    bool ok = false;
    if (got < 0)
      cannot_read(key, p, e);
    else if (n > SECRET_MAX || memchr(text, '\0', n))
      refuse(key, p, n > SECRET_MAX ? "is larger than 64 KiB" : "has a NUL in it", e);
    else
      ok = true;
    if (!ok) {
      explicit_bzero(text, n);
      free(text);
      text = NULL;
    }
  }
  if (fd >= 0)
    close(fd);
  return text;
}

// Editors and `kubectl create secret` leave a line end.
static void cut_line_end(char *text)
{
  size_t n = strlen(text);
  if (n && text[n - 1] == '\n')
    text[--n] = '\0';
  if (n && text[n - 1] == '\r')
    text[--n] = '\0';
}

// The value of one pair, owned by the caller; NULL with `e` set.
static char *read_value(const struct setting *row, const struct pair *p, struct err *e)
{
  char *text = NULL;
  if (p->source == VALUE_FILE) {
    text = read_file(row->key, p, e);
    if (!text)
      return NULL;
    cut_line_end(text);
  } else {
    const char *value = p->source == VALUE_ENV ? getenv(p->value) : p->value;
    if (!value) {
      refuse(row->key, p, "is not set in the gateway's environment", e);
      return NULL;
    }
    text = strdup(value);
    if (!text) {
      err_nomem(e);
      return NULL;
    }
  }
  if (p->source == VALUE_PLAIN || pattern_matches(row->pattern, text))
    return text;
  refuse(row->key, p, "holds what the setting may not have", e);
  explicit_bzero(text, strlen(text));
  free(text);
  return NULL;
}

struct secrets *secrets_read(const char *key, const struct pairs *from, struct err *e)
{
  const struct setting *row = setting_find(IN_ENVIRONMENT, NULL, str_c(key));
  struct secrets *s = calloc(1, sizeof *s);
  if (!s || !row || !(s->pairs.at = calloc(from->n ? from->n : 1, sizeof *s->pairs.at))) {
    free(s);
    err_nomem(e);
    return NULL;
  }
  s->refs = 1;
  for (size_t i = 0; i < from->n; i++) {
    struct pair *to = &s->pairs.at[s->pairs.n++];
    to->source = from->at[i].source;
    to->name = strdup(from->at[i].name);
    if (!to->name)
      err_nomem(e);
    else if ((to->value = read_value(row, &from->at[i], e)))
      continue;
    secrets_unref(s);
    return NULL;
  }
  return s;
}

struct secrets *secrets_ref(struct secrets *s)
{
  if (s)
    atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
  return s;
}

void secrets_unref(struct secrets *s)
{
  if (!s || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) > 1)
    return;
  for (size_t i = 0; i < s->pairs.n; i++) {
    struct pair *p = &s->pairs.at[i];
    if (p->value)
      explicit_bzero(p->value, strlen(p->value));
    free(p->value);
    free(p->name);
  }
  free(s->pairs.at);
  free(s);
}
