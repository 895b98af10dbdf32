// SPDX-License-Identifier: Apache-2.0
// A hostile client's message at OpenEnv's door.
#include <stdint.h>
#include <stdlib.h>

#include "base/json.h"
#include "front/openenv_words.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void require(bool truth)
{
  if (!truth)
    abort();
}

static bool within(struct str part, struct str whole)
{
  return !part.n || (part.p >= whole.p && part.p + part.n <= whole.p + whole.n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
  enum { DEPTH = 20 };
  const struct str message = {(const char *)data, n};
  struct openenv_words words;
  struct worker_request q;
  enum json_type type;
  struct err e;
  openenv_words_read(message, DEPTH, &words, &q);
  require(q.words.p == message.p && q.words.n == n);
  require(within(words.type, message) && within(q.action, message) && within(q.options, message) && within(q.episode_id, message));
  require(words.valid == json_check(message, DEPTH + 1, "", &type, &e));
  require(words.valid || q.words_only);
  require(!words.close || (words.valid && q.op == OP_OTHER));
  // What a plain HTTP worker is asked is JSON.
  struct buf body = {0};
  const char *method, *path;
  if (!q.words_only && q.op != OP_STATE && protocol_http_request(&q, &method, &path, &body))
    require(json_check(buf_view(&body), DEPTH + 2, "", &type, &e) && type == JSON_OBJECT);
  body.n = 0;
  require(openenv_cannot(&body, &words) && json_check(buf_view(&body), DEPTH, "", &type, &e));
  buf_free(&body);
  return 0;
}
