// SPDX-License-Identifier: Apache-2.0
#include "front/http_strict.h"

#include <stdlib.h>

static bool is_token(struct str s)
{
  for (size_t i = 0; i < s.n; i++) {
    char c = s.p[i], lower = (char)(c | 0x20);
    if ((lower >= 'a' && lower <= 'z') || c == '-')
      continue;
    if (c <= ' ' || c > '~' || strchr("(),/:;<=>?@[\\]{}\"", c))
      return false;
  }
  return s.n > 0;
}

static void fault(struct http_strict *s, const char *text)
{
  if (!s->fault)
    s->fault = text;
}

// RFC 9110, section 5.5: no control characters but the tab.
static bool is_value(struct str v)
{
  for (size_t i = 0; i < v.n; i++)
    if (((unsigned char)v.p[i] < ' ' && v.p[i] != '\t') || v.p[i] == 0x7F)
      return false;
  return true;
}

static void take_length(struct http_strict *s, struct str v)
{
  enum { DIGITS = 18 };
  s->lengths++;
  s->length = 0;
  if (!v.n || v.n > DIGITS) {
    fault(s, "Content-Length is not a plain number");
    return;
  }
  for (size_t i = 0; i < v.n; i++) {
    if (v.p[i] < '0' || v.p[i] > '9')
      fault(s, "Content-Length is not a plain number");
    s->length = s->length * 10 + (size_t)(v.p[i] - '0');
  }
}

void http_strict_field(struct http_strict *s, struct str name, struct str value)
{
  if (!is_value(value))
    fault(s, "a header field holds a control character");
  if (!is_token(name))
    fault(s, "a header field's name is not a token");
  if (str_ieq(name, STR("host")))
    s->hosts++;
  if (str_ieq(name, STR("content-length")))
    take_length(s, value);
  if (str_ieq(name, STR("expect")))
    s->asks = true;
  if (str_ieq(name, STR("transfer-encoding"))) {
    s->encodings++;
    if (!str_ieq(value, STR("chunked")))
      fault(s, "Transfer-Encoding may only be chunked");
  }
}

const char *http_strict_fault(struct http_strict *s, struct str verb, struct str target, struct str version)
{
  if (s->fault)
    return s->fault;
  for (size_t i = 0; i < target.n; i++)
    if (target.p[i] <= ' ' || target.p[i] > '~')
      return "the request target holds a character that must be percent-encoded";
  if (!is_token(verb))
    return "the method is not a token";
  if (s->hosts > 1)
    return "there is more than one Host";
  if (!s->hosts && str_eq(version, STR("HTTP/1.1")))
    return "there is no Host";
  if (s->lengths > 1)
    return "there is more than one Content-Length";
  if (s->encodings > 1)
    return "there is more than one Transfer-Encoding";
  if (s->lengths && s->encodings)
    return "there are both Content-Length and Transfer-Encoding";
  if (s->encodings && !str_eq(version, STR("HTTP/1.1")))
    return "HTTP/1.0 has no Transfer-Encoding";
  return NULL;
}
