// SPDX-License-Identifier: Apache-2.0
// A worker's reply, in both dialects. The first byte chooses request and status.
#include <stdint.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/utf8.h"
#include "worker/protocol.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void require(bool truth)
{
  if (!truth)
    abort();
}

// Every span must be a JSON value in the text.
static void check_span(struct str span, struct str text)
{
  if (!span.n)
    return;
  require(span.p >= text.p && span.p + span.n <= text.p + text.n);
  require(json_check(span, JSON_DEPTH + 2, "", NULL, NULL));
}

static void check(const struct worker_reply *r, struct str text)
{
  check_span(r->observation, text);
  check_span(r->metadata, text);
  check_span(r->state, text);
  require((r->kind == REPLY_ERROR) == (r->err.code != CODE_OK));
  require(r->kind != REPLY_OBSERVATION || r->observation.n);
  require(r->kind != REPLY_STATE || r->state.n);
  if (r->kind != REPLY_ERROR)
    check_span(r->raw, text);
  require(r->kind != REPLY_MCP || r->raw.n);
  require(utf8_valid(r->err.msg, strlen(r->err.msg)) && utf8_valid(r->err.field, strlen(r->err.field)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
  static const int statuses[] = {200, 422, 500, 404};
  if (!n)
    return 0;
  enum worker_op op = (enum worker_op)(data[0] % 4);
  struct str text = {(const char *)data + 1, n - 1};
  static struct worker_reply reply;
  protocol_ws_reply(op, text, JSON_DEPTH, &reply);
  check(&reply, text);
  protocol_http_reply(op, statuses[data[0] / 4 % 4], text, JSON_DEPTH, &reply);
  check(&reply, text);
  return 0;
}
