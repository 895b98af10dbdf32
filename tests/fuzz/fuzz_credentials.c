// SPDX-License-Identifier: Apache-2.0
// The file of credentials, and the Authorization header.
#include <stdint.h>
#include <stdlib.h>

#include "auth/credentials.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
  if (!ok)
    abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  struct err e;
  struct str text = {(const char *)data, size}, token;
  if (token_of_bearer(text, &token) && size)
    check(token.n && token.n < size && token.p + token.n == text.p + size && token.p[0] != ' ');
  const struct quota_limits defaults = {.calls = 1};
  struct credentials *c = credentials_parse((struct str){(const char *)data, size}, &defaults, &e);
  if (!c) {
    check(e.code == CODE_INVALID_ARGUMENT && e.msg[0]);
    return 0;
  }
  for (size_t i = 0; i < c->n; i++) {
    const struct credential *row = &c->at[i];
    check(row->scopes && principal_name_ok(str_c(row->principal)) && row->limits.calls >= 0 && row->limits.calls_per_s >= 0);
    check(!row->name == (i < c->tokens));
    if (row->name)
      check(credentials_name(c, row->name) == row);
  }
  check(!credentials_token(c, (struct str){(const char *)data, size})); // nobody finds a text that has its own hash
  credentials_free(c);
  return 0;
}
