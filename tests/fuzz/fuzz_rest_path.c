// SPDX-License-Identifier: Apache-2.0
// A request line "VERB path?query", then a newline and the body: finding the method and making its request.
#include <stdlib.h>

#include "api/api.h"
#include "rpc/rest.h"

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
  enum { DEPTH = 16, ARENA = 1 << 22 };
  struct str rest = {(const char *)data, n};
  struct str line = cut(&rest, '\n');
  struct str verb = cut(&line, ' ');
  struct str path = cut(&line, '?');

  struct rest_match m;
  bool other_verb;
  struct buf allow = {.max = 64};
  if (rest_find(&envgate_api, verb, path, &m, &other_verb, &allow)) {
    struct arena a;
    arena_init(&a, ARENA);
    struct err e;
    err_clear(&e);
    if (!rest_request(&m, line, rest, DEPTH, &a, &e) && e.code == CODE_OK)
      abort(); // a refusal says why
    arena_free(&a);
    for (int i = 0; i < m.vars; i++)
      if (m.var[i].text.p < path.p || m.var[i].text.p + m.var[i].text.n > path.p + path.n)
        abort();
  }
  buf_free(&allow);
  return 0;
}
