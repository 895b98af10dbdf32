// SPDX-License-Identifier: Apache-2.0
// base/json: skipping, walking and the two scans agree; whatever is valid unescapes and stays within its bounds.
#include <stdint.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/json_scan.h"
#include "base/utf8.h"

enum { DEPTH = 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool holds)
{
  if (!holds)
    abort();
}

static bool walk_string(struct str raw)
{
  struct buf out = {0};
  bool ok = json_unescape(raw, &out);
  if (ok) {
    check(out.n <= raw.n && (!out.n || utf8_valid(out.p, out.n)));
    check(json_raw_eq(raw, buf_view(&out)));
  }
  buf_free(&out);
  return true;
}

static bool walk(struct json *j)
{
  enum json_type type;
  struct str s;
  bool flag;
  if (!json_peek(j, &type))
    return false;
  switch (type) {
  case JSON_NULL:
    return json_null(j);
  case JSON_BOOL:
    return json_bool(j, &flag);
  case JSON_NUMBER:
    if (!json_number(j, &s))
      return false;
    json_double(s);
    return true;
  case JSON_STRING:
    return json_string(j, &s) && walk_string(s);
  case JSON_ARRAY:
    if (!json_enter_array(j))
      return false;
    while (json_next_item(j))
      if (!walk(j))
        return false;
    return !j->failed;
  case JSON_OBJECT:
    break;
  }
  if (!json_enter_object(j))
    return false;
  while (json_next_key(j, &s))
    if (!walk_string(s) || !walk(j))
      return false;
  return !j->failed;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  struct str text = {(const char *)data, size};
  struct json j;
  struct err e;
  json_init(&j, text, DEPTH);
  bool walked = walk(&j) && json_end(&j);
  check(walked == json_check(text, DEPTH, "field", NULL, &e));
  check(json_scan_plain(text.p, text.p + size) == json_scan_plain_portable(text.p, text.p + size));
  return 0;
}
