// SPDX-License-Identifier: Apache-2.0
#include "providers/log_tail.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

void log_tail_add(struct log_tail *t, struct str bytes)
{
  if (bytes.n > LOG_TAIL_BYTES) {
    t->total += bytes.n - LOG_TAIL_BYTES;
    bytes = str_skip(bytes, bytes.n - LOG_TAIL_BYTES);
  }
  while (bytes.n) {
    size_t at = t->total % LOG_TAIL_BYTES, n = LOG_TAIL_BYTES - at;
    if (n > bytes.n)
      n = bytes.n;
    memcpy(t->ring + at, bytes.p, n);
    t->total += n;
    bytes = str_skip(bytes, n);
  }
}

// Copies the kept bytes in order, and returns how many they are.
static size_t unroll(const struct log_tail *t, char out[LOG_TAIL_BYTES])
{
  if (t->total <= LOG_TAIL_BYTES) {
    memcpy(out, t->ring, t->total);
    return t->total;
  }
  size_t at = t->total % LOG_TAIL_BYTES;
  memcpy(out, t->ring + at, LOG_TAIL_BYTES - at);
  memcpy(out + LOG_TAIL_BYTES - at, t->ring, at);
  return LOG_TAIL_BYTES;
}

static bool in_range(char c, char low, char high)
{
  return c >= low && c <= high;
}

// The length of the escape sequence at p[0] == ESC (ECMA-48): a control sequence up to its final byte, a string up to its terminator, or a
// short one. An unfinished one takes all that is left.
static size_t escape_length(const char *p, size_t n)
{
  size_t i = 1;
  if (i < n && p[i] == '[') {
    for (i++; i < n && in_range(p[i], 0x20, 0x3F);)
      i++;
    return i < n && in_range(p[i], 0x40, 0x7E) ? i + 1 : i;
  }
  if (i < n && memchr("]PX^_", p[i], 5)) {
    for (i++; i < n; i++) {
      if (p[i] == '\a')
        return i + 1;
      if (p[i] == '\n') // strings have no line ends: one that was never ended must not swallow what follows
        return i;
      if (p[i] == '\033' && i + 1 < n && p[i + 1] == '\\')
        return i + 2;
    }
    return n;
  }
  while (i < n && in_range(p[i], 0x20, 0x2F))
    i++;
  return i < n && in_range(p[i], 0x30, 0x7E) ? i + 1 : i;
}

static bool is_control(const char *p, size_t len)
{
  unsigned char c = (unsigned char)p[0];
  if (len == 1)
    return (c < 0x20 && c != '\n' && c != '\t') || c == 0x7F;
  return len == 2 && c == 0xC2 && (unsigned char)p[1] < 0xA0; // C1: some terminals obey those, too
}

// Cleans in place: the result is never longer. Returns its length.
static size_t clean(char *p, size_t n)
{
  size_t to = 0;
  for (size_t from = 0; from < n;) {
    size_t len = utf8_length(p + from, n - from);
    if (p[from] == '\033') {
      len = escape_length(p + from, n - from);
    } else if (!len) {
      p[to++] = '?';
      len = 1;
    } else if (!is_control(p + from, len)) {
      memmove(p + to, p + from, len);
      to += len;
    }
    from += len;
  }
  return to;
}

void log_tail_text(const struct log_tail *t, char *text, size_t max)
{
  if (!max)
    return;
  char kept[LOG_TAIL_BYTES];
  size_t start = 0, end = clean(kept, unroll(t, kept));
  while (end && memchr("\n\t ", kept[end - 1], 3))
    end--;
  bool cut = t->total > LOG_TAIL_BYTES;
  if (end > max - 1) {
    start = end - (max - 1);
    cut = kept[start - 1] != '\n';
  }
  if (cut) {
    // What is left of the first line goes, unless it is all there is.
    const char *line_end = memchr(kept + start, '\n', end - start);
    if (line_end)
      start = (size_t)(line_end - kept) + 1;
    while (start < end && ((unsigned char)kept[start] & 0xC0) == 0x80)
      start++;
  }
  memcpy(text, kept + start, end - start);
  text[end - start] = '\0';
}

void log_tail_explain(const struct log_tail *t, struct err *e)
{
  static const char intro[] = "\nIts last output:\n";
  size_t at = strlen(e->msg);
  if (at + sizeof intro >= sizeof e->msg)
    return;
  char *text = e->msg + at + sizeof intro - 1;
  log_tail_text(t, text, sizeof e->msg - (at + sizeof intro - 1));
  if (*text)
    memcpy(e->msg + at, intro, sizeof intro - 1);
}
