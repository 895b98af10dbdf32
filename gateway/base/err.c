// SPDX-License-Identifier: Apache-2.0
#include "base/err.h"

#include <stdio.h>
#include <string.h>

#define X(name, help) const char REASON_##name[] = #name;
ERR_REASONS(X)
#undef X

static const struct {
  const char *name;
  int http;
} codes[] = {
    [CODE_OK] = {"OK", 200},
    [CODE_CANCELLED] = {"CANCELLED", 499},
    [CODE_UNKNOWN] = {"UNKNOWN", 500},
    [CODE_INVALID_ARGUMENT] = {"INVALID_ARGUMENT", 400},
    [CODE_DEADLINE_EXCEEDED] = {"DEADLINE_EXCEEDED", 504},
    [CODE_NOT_FOUND] = {"NOT_FOUND", 404},
    [CODE_ALREADY_EXISTS] = {"ALREADY_EXISTS", 409},
    [CODE_PERMISSION_DENIED] = {"PERMISSION_DENIED", 403},
    [CODE_RESOURCE_EXHAUSTED] = {"RESOURCE_EXHAUSTED", 429},
    [CODE_FAILED_PRECONDITION] = {"FAILED_PRECONDITION", 400},
    [CODE_ABORTED] = {"ABORTED", 409},
    [CODE_OUT_OF_RANGE] = {"OUT_OF_RANGE", 400},
    [CODE_UNIMPLEMENTED] = {"UNIMPLEMENTED", 501},
    [CODE_INTERNAL] = {"INTERNAL", 500},
    [CODE_UNAVAILABLE] = {"UNAVAILABLE", 503},
    [CODE_DATA_LOSS] = {"DATA_LOSS", 500},
    [CODE_UNAUTHENTICATED] = {"UNAUTHENTICATED", 401},
};

// Drops the bytes of a UTF-8 character that the end of the buffer cut.
static void trim_cut_character(char *s, size_t cap, int wanted)
{
  if (wanted < 0 || (size_t)wanted < cap)
    return;
  size_t end = cap - 1, start = end;
  while (start > 0 && ((unsigned char)s[start - 1] & 0xC0) == 0x80)
    start--;
  if (start == 0)
    return;
  unsigned char lead = (unsigned char)s[start - 1];
  size_t need = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
  if (end - (start - 1) < need)
    s[start - 1] = '\0';
}

__attribute__((format(printf, 4, 0))) static void fill(struct err *e, enum code code, const char *reason, const char *fmt, va_list ap)
{
  e->code = code;
  e->reason = reason;
  e->retry_after_ms = 0;
  e->jsonrpc_code = 0;
  e->field[0] = '\0';
  trim_cut_character(e->msg, sizeof e->msg, vsnprintf(e->msg, sizeof e->msg, fmt, ap));
}

bool err_set(struct err *e, enum code code, const char *reason, const char *fmt, ...)
{
  if (!e)
    return false;
  va_list ap;
  va_start(ap, fmt);
  fill(e, code, reason, fmt, ap);
  va_end(ap);
  return false;
}

bool err_field(struct err *e, const char *reason, const char *field, const char *fmt, ...)
{
  if (!e)
    return false;
  va_list ap;
  va_start(ap, fmt);
  fill(e, CODE_INVALID_ARGUMENT, reason, fmt, ap);
  va_end(ap);
  trim_cut_character(e->field, sizeof e->field, snprintf(e->field, sizeof e->field, "%s", field));
  return false;
}

bool err_nomem(struct err *e)
{
  return err_set(e, CODE_RESOURCE_EXHAUSTED, REASON_OUT_OF_MEMORY, "out of memory");
}

const char *code_name(enum code code)
{
  size_t i = (size_t)code;
  return i < sizeof codes / sizeof *codes ? codes[i].name : "UNKNOWN";
}

int code_http_status(enum code code)
{
  size_t i = (size_t)code;
  return i < sizeof codes / sizeof *codes ? codes[i].http : 500;
}
