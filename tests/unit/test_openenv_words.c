// SPDX-License-Identifier: Apache-2.0
// What a client of OpenEnv says, and how a worker is asked the same.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "front/openenv_words.h"

// The message as text: its operation, what a plain HTTP worker would be asked, and what is special: "step {…}", "reset ep {…}", "other!" (words only), "close".
static const char *read_as(struct str message)
{
  static const char *const names[] = {[OP_RESET] = "reset", [OP_STEP] = "step", [OP_STATE] = "state", [OP_MCP] = "mcp", [OP_OTHER] = "other"};
  static char text[256];
  struct openenv_words words;
  struct worker_request q;
  char *copy = malloc(message.n + 1); // of just its size, for the sanitizer
  assert_non_null(copy);
  if (message.n)
    memcpy(copy, message.p, message.n);
  openenv_words_read((struct str){copy, message.n}, 8, &words, &q);
  assert_ptr_equal(q.words.p, copy);
  assert_int_equal(q.words.n, message.n);
  assert_true(words.valid || q.words_only);
  assert_true(!words.close || q.op == OP_OTHER);
  snprintf(text, sizeof text, "%s%s%s%s%.*s%s%.*s%.*s%s", words.valid ? "" : "bad ", words.close ? "close " : "", names[q.op],
           q.episode_id.n ? " " : "", STR_ARG(q.episode_id), q.action.n || q.options.n ? " " : "", STR_ARG(q.action), STR_ARG(q.options),
           q.words_only ? "!" : "");
  free(copy);
  return text;
}

#define READS(message, want) assert_string_equal(read_as(STR(message)), want)

static void requests(void **state)
{
  (void)state;
  READS("{\"type\":\"step\",\"data\":{\"a\":1}}", "step {\"a\":1}");
  READS(" {\"data\" : {\"a\":[1, 2]} , \"type\" : \"st\\u0065p\" } ", "step {\"a\":[1, 2]}");
  READS("{\"type\":\"reset\"}", "reset");
  READS("{\"type\":\"reset\",\"data\":{}}", "reset {}");
  READS("{\"type\":\"reset\",\"data\":{\"seed\":7,\"episode_id\":\"e\"}}", "reset e {\"seed\":7,\"episode_id\":\"e\"}");
  READS("{\"type\":\"reset\",\"data\":{\"episode_id\":\"\\u0065\"}}", "reset {\"episode_id\":\"\\u0065\"}");
  READS("{\"type\":\"reset\",\"data\":{\"episode_id\":7}}", "reset {\"episode_id\":7}");
  READS("{\"type\":\"state\"}", "state");
  READS("{\"type\":\"close\"}", "close other!");
  READS("{\"type\":\"mcp\",\"data\":{}}", "other!");
  // Of a member that is there twice Python takes the last.
  READS("{\"type\":\"nope\",\"type\":\"state\"}", "state");
  READS("{\"type\":\"state\",\"type\":\"nope\"}", "other!");
  READS("{\"type\":\"state\",\"type\":5}", "other!");
}

static void what_only_the_worker_can_refuse(void **state)
{
  (void)state;
  READS("{\"type\":\"step\"}", "step!");
  READS("{\"type\":\"step\",\"data\":{},\"request_id\":\"r\"}", "step {}!");
  READS("{\"type\":\"step\",\"data\":[1]}", "step [1]!");
  READS("{\"type\":\"reset\",\"data\":5}", "reset!");
  READS("{\"type\":\"state\",\"data\":{}}", "state!");
  READS("{\"type\":\"close\",\"data\":{}}", "other!");
  READS("{\"type\":\"close\",\"x\":1}", "other!");
  READS("{}", "other!");
  READS("[]", "other!");
  READS("17", "other!");
}

static void what_is_no_json(void **state)
{
  (void)state;
  READS("", "bad other!");
  READS("{", "bad other!");
  READS("nonsense", "bad other!");
  READS("{\"type\":\"step\",\"data\":{\"a\":NaN}}", "bad step!");
  READS("{\"type\":\"close\"} x", "bad other!");
  READS("{\"type\":\"state\"", "bad state!");
  READS("{\"type\":\"step\",\"data\":[[[[[[[[[[1]]]]]]]]]]}", "bad step!"); // too deep
}

static void answers(void **state)
{
  (void)state;
  struct buf b = {0};
  struct openenv_words words = {.valid = true, .type = STR("a\\\"b\\u00e9")};
  assert_true(openenv_error(&b, OPENENV_EXECUTION_ERROR, STR("a \"b\"\n")));
  assert_string_equal((buf_char(&b, '\0'), b.p), "{\"type\":\"error\",\"data\":{\"message\":\"a \\\"b\\\"\\n\",\"code\":\"EXECUTION_ERROR\"}}");
  b.n = 0;
  assert_true(openenv_full(&b, 8) && buf_char(&b, '\0'));
  assert_string_equal(b.p, "{\"type\":\"error\",\"data\":{\"message\":\"Server at capacity: 8/8 sessions active. Cannot accept new connections.\","
                           "\"code\":\"CAPACITY_REACHED\",\"active_sessions\":8,\"max_sessions\":8}}");
  b.n = 0;
  assert_true(openenv_cannot(&b, &words) && buf_char(&b, '\0'));
  assert_string_equal(b.p, "{\"type\":\"error\",\"data\":{\"message\":\"Unknown message type: a\\\"b\xC3\xA9\",\"code\":\"UNKNOWN_TYPE\"}}");
  buf_free(&b);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(requests),
      cmocka_unit_test(what_only_the_worker_can_refuse),
      cmocka_unit_test(what_is_no_json),
      cmocka_unit_test(answers),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
