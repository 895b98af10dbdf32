// SPDX-License-Identifier: Apache-2.0
// A request line and fields, one a line, of any bytes: what passes is plain.
#include <stdint.h>
#include <stdlib.h>

#include "front/http_strict.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static struct str cut(struct str *rest, char at)
{
  const char *p = rest->n ? memchr(rest->p, at, rest->n) : NULL;
  struct str head = {rest->p, p ? (size_t)(p - rest->p) : rest->n};
  *rest = str_skip(*rest, head.n + (p ? 1 : 0));
  return head;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
  struct str rest = {(const char *)data, n}, line = cut(&rest, '\n');
  struct str verb = cut(&line, ' '), target = cut(&line, ' ');
  struct http_strict s = {0};
  while (rest.n) {
    struct str value = cut(&rest, '\n'), name = cut(&value, ':');
    http_strict_field(&s, name, value);
  }
  if (http_strict_fault(&s, verb, target, line))
    return 0;
  if (s.hosts > 1 || s.lengths > 1 || s.encodings > 1 || s.lengths + s.encodings > 1 || !verb.n || memchr(verb.p, '\0', verb.n))
    abort();
  return 0;
}
