// SPDX-License-Identifier: Apache-2.0
#include "cli/plain.h"

static bool in_range(char c, char low, char high)
{
  return c >= low && c <= high;
}

// A byte of text; false: out of memory.
static bool add_text(struct plain *p, char c, struct buf *out)
{
  unsigned char u = (unsigned char)c;
  if (p->c2) { // 0xC2 0x80 to 0xC2 0x9F are control characters that some terminals obey
    p->c2 = false;
    if (u >= 0x80 && u < 0xA0)
      return true;
    if (!buf_char(out, '\xC2'))
      return false;
  }
  if (u == 0xC2) {
    p->c2 = true;
    return true;
  }
  if ((u < 0x20 && c != '\n' && c != '\t') || u == 0x7F)
    return true;
  return buf_char(out, c);
}

// A byte of a control sequence (ECMA-48): it ends with 0x40 to 0x7E, and is kept if that is an 'm', which sets colours.
static bool add_control(struct plain *p, char c, struct buf *out)
{
  if (in_range(c, 0x20, 0x3F)) {
    if (p->n < PLAIN_SEQUENCE)
      p->sequence[p->n++] = c;
    return true;
  }
  p->state = PLAIN_TEXT;
  if (c != 'm' || p->n == PLAIN_SEQUENCE)
    return in_range(c, 0x40, 0x7E) || add_text(p, c, out);
  for (size_t i = 0; i < p->n; i++)
    if (!in_range(p->sequence[i], '0', ';'))
      return true;
  return buf_str(out, STR("\033[")) && buf_add(out, p->sequence, p->n) && buf_char(out, 'm');
}

static void begin(struct plain *p, char c)
{
  p->n = 0;
  if (c == '[')
    p->state = PLAIN_CONTROL;
  else if (memchr("]PX^_", c, 5))
    p->state = PLAIN_STRING;
  else
    p->state = in_range(c, 0x20, 0x2F) ? PLAIN_SHORT : PLAIN_TEXT;
}

// A byte of a string that the terminal would take in: it ends with BEL, or ESC and a backslash, or where a line ends.
static void pass_string(struct plain *p, char c)
{
  if (c == '\a' || c == '\n' || (p->state == PLAIN_STRING_ESCAPE && c == '\\'))
    p->state = PLAIN_TEXT;
  else
    p->state = c == '\033' ? PLAIN_STRING_ESCAPE : PLAIN_STRING;
}

static bool add_byte(struct plain *p, char c, struct buf *out)
{
  switch (p->state) {
  case PLAIN_TEXT:
    if (c != '\033')
      return add_text(p, c, out);
    p->state = PLAIN_ESCAPE;
    return true;
  case PLAIN_ESCAPE:
    begin(p, c);
    return true;
  case PLAIN_CONTROL:
    return add_control(p, c, out);
  case PLAIN_STRING:
  case PLAIN_STRING_ESCAPE:
    pass_string(p, c);
    return c != '\n' || buf_char(out, c);
  case PLAIN_SHORT:
    if (!in_range(c, 0x20, 0x2F))
      p->state = PLAIN_TEXT;
    return true;
  }
  return true;
}

bool plain_add(struct plain *p, struct str bytes, struct buf *out)
{
  for (size_t i = 0; i < bytes.n; i++)
    if (!add_byte(p, bytes.p[i], out))
      return false;
  return true;
}
