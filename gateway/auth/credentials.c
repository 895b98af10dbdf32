// SPDX-License-Identifier: Apache-2.0
#include "auth/credentials.h"

#include <errno.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>

void token_hash(struct str token, unsigned char hash[TOKEN_HASH])
{
  SHA256((const unsigned char *)token.p, token.n, hash);
}

bool token_of_bearer(struct str authorization, struct str *token)
{
  static const struct str scheme = {"bearer ", 7};
  *token = authorization;
  if (!authorization.n)
    return true;
  if (authorization.n <= scheme.n || strncasecmp(authorization.p, scheme.p, scheme.n) != 0)
    return false;
  *token = str_skip(authorization, scheme.n);
  while (token->n && token->p[0] == ' ')
    *token = str_skip(*token, 1);
  return token->n > 0;
}

// --- a line ----------------------------------------------------------------------------------------------------------------------------

static bool is_space(char c)
{
  return c == ' ' || c == '\t' || c == '\r';
}

// Cuts the next word off; "" at the end.
static struct str next_word(struct str *line)
{
  size_t from = 0, to;
  while (from < line->n && is_space(line->p[from]))
    from++;
  for (to = from; to < line->n && !is_space(line->p[to]);)
    to++;
  struct str word = {line->p + from, to - from};
  *line = str_skip(*line, to);
  return word;
}

static bool parse_hash(struct str hex, unsigned char hash[TOKEN_HASH])
{
  if (hex.n != 2 * (size_t)TOKEN_HASH)
    return false;
  for (size_t i = 0; i < hex.n; i++) {
    char c = hex.p[i];
    int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (digit < 0)
      return false;
    hash[i / 2] = (unsigned char)(hash[i / 2] << 4 | digit);
  }
  return true;
}

// What is wrong, in words; NULL: nothing.
static const char *parse_credential(struct str word, struct credential *c)
{
  static const struct str kinds[] = {{"uri:", 4}, {"dns:", 4}, {"cn:", 3}};
  if (str_starts(word, STR("sha256:")))
    return parse_hash(str_skip(word, 7), c->hash) ? NULL : "sha256: must be followed by 64 hexadecimal digits";
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    if (!str_starts(word, kinds[i]))
      continue;
    if (word.n == kinds[i].n || word.n > PEER_NAME_MAX + kinds[i].n)
      return "uri:, dns: and cn: must be followed by a name of 1 to 512 bytes";
    for (size_t k = 0; k < word.n; k++)
      if (word.p[k] <= ' ' || word.p[k] > '~')
        return "a name must be printable ASCII";
    c->name = strndup(word.p, word.n);
    return c->name ? NULL : "out of memory";
  }
  return "a line must begin with sha256:, uri:, dns: or cn:";
}

bool principal_name_ok(struct str name)
{
  for (size_t i = 0; i < name.n; i++) {
    char c = name.p[i], lower = (char)(c | 0x20);
    if (!(lower >= 'a' && lower <= 'z') && !(c >= '0' && c <= '9') && (!c || !strchr("._@-", c)))
      return false;
  }
  return name.n > 0 && name.n <= PRINCIPAL_NAME_MAX;
}

// A number of digits with an optional fraction.
static bool parse_number(struct str text, bool whole, double *n)
{
  char copy[24], *end;
  if (!text.n || text.n >= sizeof copy)
    return false;
  memcpy(copy, text.p, text.n);
  copy[text.n] = '\0';
  if (strspn(copy, whole ? "0123456789" : "0123456789.") != text.n)
    return false;
  *n = strtod(copy, &end);
  return end == copy + text.n && *n <= 1e9;
}

static const char *parse_limit(struct str key, struct str value, struct credential *c)
{
  double n;
  bool rate = str_eq(key, STR("calls_per_s"));
  if (!rate && !str_eq(key, STR("sessions")) && !str_eq(key, STR("calls")))
    return "only principal, scope, sessions, calls and calls_per_s can be set";
  if (!parse_number(value, !rate, &n))
    return "a limit must be a number from 0 (none) to 1000000000; calls_per_s may have a fraction";
  c->limited = true;
  if (rate)
    c->limits.calls_per_s = n;
  else if (str_eq(key, STR("calls")))
    c->limits.calls = (int64_t)n;
  else
    c->limits.sessions = (int64_t)n;
  return NULL;
}

static const char *parse_setting(struct str word, struct credential *c)
{
  const char *equals = memchr(word.p, '=', word.n);
  if (!equals)
    return "behind the credential there must be KEY=VALUE";
  struct str key = {word.p, (size_t)(equals - word.p)}, value = str_skip(word, key.n + 1);
  if (str_eq(key, STR("principal"))) {
    if (c->principal[0] || !principal_name_ok(value))
      return "principal must be given once: 1 to 64 letters, digits and . _ @ -";
    memcpy(c->principal, value.p, value.n);
    return NULL;
  }
  if (str_eq(key, STR("scope"))) {
    if (c->scopes || !(c->scopes = scope_parse(value)))
      return "scope must be given once: agent, trainer or admin";
    return NULL;
  }
  return parse_limit(key, value, c);
}

static const char *parse_line(struct str line, struct credential *c)
{
  const char *wrong = parse_credential(next_word(&line), c);
  struct str word;
  while (!wrong && (word = next_word(&line)).n)
    wrong = parse_setting(word, c);
  if (!wrong && (!c->principal[0] || !c->scopes))
    wrong = "principal= and scope= are both needed";
  return wrong;
}

// --- the file ------------------------------------------------------------------------------------------------------------------------------

static int compare(const void *a, const void *b)
{
  const struct credential *x = a, *y = b;
  if (!x->name != !y->name)
    return x->name ? 1 : -1;
  return x->name ? strcmp(x->name, y->name) : memcmp(x->hash, y->hash, TOKEN_HASH);
}

static int by_principal(const void *a, const void *b)
{
  const struct credential *const *x = a, *const *y = b;
  int order = strcmp((*x)->principal, (*y)->principal);
  return order ? order : (*y)->limited - (*x)->limited; // the one with limits first
}

// Gives every line of a principal the same limits.
static bool share_limits(struct credentials *c, struct err *e)
{
  struct credential **sorted = calloc(c->n + 1, sizeof(struct credential *));
  if (!sorted)
    return err_nomem(e);
  for (size_t i = 0; i < c->n; i++)
    sorted[i] = &c->at[i];
  qsort(sorted, c->n, sizeof *sorted, by_principal);
  bool ok = true;
  for (size_t i = 1; ok && i < c->n; i++) {
    if (strcmp(sorted[i]->principal, sorted[i - 1]->principal) != 0)
      continue;
    ok = !sorted[i]->limited ||
         err_set(e, CODE_INVALID_ARGUMENT, REASON_INVALID_REQUEST, "principal %s has limits in two lines", sorted[i]->principal);
    sorted[i]->limits = sorted[i - 1]->limits;
  }
  free(sorted);
  return ok;
}

static bool finish(struct credentials *c, struct err *e)
{
  qsort(c->at, c->n, sizeof *c->at, compare);
  for (size_t i = 0; i < c->n; i++) {
    c->tokens += !c->at[i].name;
    if (i && compare(&c->at[i - 1], &c->at[i]) == 0)
      return err_set(e, CODE_INVALID_ARGUMENT, REASON_INVALID_REQUEST, "principals %s and %s have the same credential", c->at[i - 1].principal,
                     c->at[i].principal);
  }
  return share_limits(c, e);
}

static bool add_line(struct credentials *c, struct str line, int number, const struct quota_limits *defaults, size_t *room, struct err *e)
{
  struct str rest = line, first = next_word(&rest);
  if (!first.n || first.p[0] == '#')
    return true;
  if (c->n == *room) {
    size_t more = *room ? *room * 2 : 16;
    struct credential *at = realloc(c->at, more * sizeof *at);
    if (!at)
      return err_nomem(e);
    c->at = at;
    *room = more;
  }
  struct credential *row = &c->at[c->n++];
  *row = (struct credential){.limits = *defaults};
  const char *wrong = c->n > CREDENTIALS_MAX ? "there are too many lines (100000)" : parse_line(line, row);
  return !wrong || err_set(e, CODE_INVALID_ARGUMENT, REASON_INVALID_REQUEST, "line %d: %s", number, wrong);
}

struct credentials *credentials_parse(struct str text, const struct quota_limits *defaults, struct err *e)
{
  struct credentials *c = calloc(1, sizeof *c);
  size_t room = 0;
  bool ok = true;
  if (!c) {
    err_nomem(e);
    return NULL;
  }
  for (int number = 1; ok && text.n; number++) {
    const char *end = memchr(text.p, '\n', text.n);
    struct str line = {text.p, end ? (size_t)(end - text.p) : text.n};
    ok = add_line(c, line, number, defaults, &room, e);
    text = str_skip(text, line.n + (end != NULL));
  }
  if (ok && (!c->n || finish(c, e)))
    return c;
  credentials_free(c);
  return NULL;
}

void credentials_free(struct credentials *c)
{
  if (!c)
    return;
  for (size_t i = 0; i < c->n; i++)
    free(c->at[i].name);
  free(c->at);
  free(c);
}

// --- looking up --------------------------------------------------------------------------------------------------------------------------

// How long this takes tells of the hash, from which nobody gets to the token.
const struct credential *credentials_token(const struct credentials *c, struct str token)
{
  struct credential key = {0};
  token_hash(token, key.hash);
  return c->tokens ? bsearch(&key, c->at, c->tokens, sizeof *c->at, compare) : NULL;
}

const struct credential *credentials_name(const struct credentials *c, const char *name)
{
  union { // the key is not written to
    const char *from;
    char *to;
  } text = {name};
  struct credential key = {.name = text.to};
  return c->n > c->tokens ? bsearch(&key, c->at + c->tokens, c->n - c->tokens, sizeof *c->at, compare) : NULL;
}
