// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/json.h"
#include "base/utf8.h"
#include "worker/protocol.h"

// --- requests --------------------------------------------------------------------------------------------------------------------------

static void expect_ws(const struct worker_request *q, const char *want)
{
  struct buf own = {.max = 4096}, whole = {0};
  struct str pieces[WORKER_REQUEST_PIECES];
  int n = protocol_ws_request(q, &own, pieces);
  assert_in_range(n, 1, WORKER_REQUEST_PIECES);
  for (int i = 0; i < n; i++)
    assert_true(buf_str(&whole, pieces[i]));
  assert_int_equal(whole.n, strlen(want));
  assert_memory_equal(whole.p, want, whole.n);
  assert_true(json_check(buf_view(&whole), JSON_DEPTH, "", NULL, NULL));
  buf_free(&own);
  buf_free(&whole);
}

static void ws_requests(void **state)
{
  (void)state;
  expect_ws(&(struct worker_request){.op = OP_STATE}, "{\"type\":\"state\"}");
  expect_ws(&(struct worker_request){.op = OP_STEP, .action = STR(" {\"a\": 1}")}, "{\"type\":\"step\",\"data\": {\"a\": 1}}");
  expect_ws(&(struct worker_request){.op = OP_MCP, .action = STR("{\"id\":1}")}, "{\"type\":\"mcp\",\"data\":{\"id\":1}}");
  expect_ws(&(struct worker_request){.op = OP_RESET}, "{\"type\":\"reset\",\"data\":{}}");
  expect_ws(&(struct worker_request){.op = OP_RESET, .options = STR(" { } ")}, "{\"type\":\"reset\",\"data\":{}}");
  expect_ws(&(struct worker_request){.op = OP_RESET, .has_seed = true, .seed = INT64_MIN},
            "{\"type\":\"reset\",\"data\":{\"seed\":-9223372036854775808}}");
  // What is set by itself comes last, so that it wins over an option of the same name.
  expect_ws(
      &(struct worker_request){.op = OP_RESET, .has_seed = true, .seed = 7, .episode_id = STR("e\"\n"), .options = STR("{ \"seed\":1, \"x\":[] }")},
      "{\"type\":\"reset\",\"data\":{\"seed\":1, \"x\":[],\"seed\":7,\"episode_id\":\"e\\\"\\n\"}}");
}

static void expect_http(const struct worker_request *q, const char *method, const char *path, const char *body)
{
  struct buf b = {0};
  const char *m, *p;
  assert_true(protocol_http_request(q, &m, &p, &b));
  assert_string_equal(m, method);
  assert_string_equal(p, path);
  assert_int_equal(b.n, strlen(body));
  if (b.n)
    assert_memory_equal(b.p, body, b.n);
  buf_free(&b);
}

static void http_requests(void **state)
{
  (void)state;
  expect_http(&(struct worker_request){.op = OP_STATE}, "GET", "/state", "");
  expect_http(&(struct worker_request){.op = OP_STEP, .action = STR("[1]")}, "POST", "/step", "{\"action\":[1]}");
  expect_http(&(struct worker_request){.op = OP_RESET}, "POST", "/reset", "{}");
  expect_http(&(struct worker_request){.op = OP_RESET, .has_seed = true, .seed = 7, .options = STR("{\"x\":1}")}, "POST", "/reset",
              "{\"x\":1,\"seed\":7}");
}

static void no_memory_for_a_request(void **state)
{
  (void)state;
  struct buf own = {.max = 8};
  struct str pieces[WORKER_REQUEST_PIECES];
  const struct worker_request q = {.op = OP_RESET, .has_seed = true, .seed = 12345678};
  const char *m, *p;
  assert_int_equal(protocol_ws_request(&q, &own, pieces), 0);
  assert_false(protocol_http_request(&q, &m, &p, &own));
  buf_free(&own);
}

// --- replies ---------------------------------------------------------------------------------------------------------------------------

// Parses from memory of exactly its size, so that the address sanitizer sees what is read too far.
static struct worker_reply ws(enum worker_op op, const char *text)
{
  static char *kept;
  free(kept);
  size_t n = strlen(text);
  kept = malloc(n ? n : 1);
  assert_non_null(kept);
  memcpy(kept, text, n);
  struct worker_reply reply;
  memset(&reply, 0xA5, sizeof reply);
  protocol_ws_reply(op, (struct str){kept, n}, JSON_DEPTH, &reply);
  return reply;
}

static struct worker_reply http(enum worker_op op, int status, const char *text)
{
  struct worker_reply reply;
  memset(&reply, 0xA5, sizeof reply);
  protocol_http_reply(op, status, str_c(text), JSON_DEPTH, &reply);
  return reply;
}

static void assert_span(struct str s, const char *want)
{
  assert_int_equal(s.n, strlen(want));
  if (s.n)
    assert_memory_equal(s.p, want, s.n);
}

static void observation(void **state)
{
  (void)state;
  struct worker_reply r =
      ws(OP_STEP, "{ \"type\" : \"observation\" , \"data\" : { \"observation\" : {\"a\":[1, 2]} , \"reward\":-1.5e1,\"done\":true,"
                  " \"metadata\": {\"truncated\":true,\"n\":1} } } ");
  assert_int_equal(r.kind, REPLY_OBSERVATION);
  assert_span(r.observation, "{\"a\":[1, 2]}");
  assert_span(r.metadata, "{\"truncated\":true,\"n\":1}");
  assert_true(r.has_reward && r.done && r.has_truncated && r.truncated);
  assert_true(r.reward == -15);
  assert_false(r.has_terminated);
  assert_int_equal(r.err.code, CODE_OK);
  r = ws(OP_RESET, "{\"type\":\"observation\",\"data\":{\"observation\":null,\"metadata\":null,\"done\":null}}");
  assert_int_equal(r.kind, REPLY_OBSERVATION);
  assert_span(r.observation, "null");
  assert_span(r.metadata, "");
  assert_false(r.has_reward || r.done);
}

static void rewards(void **state)
{
  (void)state;
  const struct {
    const char *json;
    bool has;
    double value;
  } rows[] = {{"1", true, 1},    {"true", true, 1}, {"false", true, 0}, {"null", false, 0}, {"1e400", true, INFINITY},
              {"-0.0", true, 0}, {"0.1", true, 0.1}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    char text[128];
    snprintf(text, sizeof text, "{\"type\":\"observation\",\"data\":{\"reward\":%s,\"observation\":{}}}", rows[i].json);
    struct worker_reply r = ws(OP_STEP, text);
    assert_int_equal(r.kind, REPLY_OBSERVATION);
    assert_int_equal(r.has_reward, rows[i].has);
    assert_true(!r.has_reward || r.reward == rows[i].value);
  }
}

// As Python's json: the last wins, and nothing is left of the ones before. The order of keys does not matter.
static void repeated_keys(void **state)
{
  (void)state;
  struct worker_reply r = ws(OP_STEP, "{\"data\":{\"observation\":1,\"reward\":5},\"data\":{\"observation\":2,\"done\":true,\"done\":false,"
                                      "\"metadata\":{\"terminated\":true},\"metadata\":{}},\"type\":\"state\",\"t\\u0079pe\":\"observation\"}");
  assert_int_equal(r.kind, REPLY_OBSERVATION);
  assert_span(r.observation, "2");
  assert_span(r.metadata, "{}");
  assert_false(r.has_reward || r.done || r.has_terminated);
}

static void flags_of_the_reply_win_over_its_metadata(void **state)
{
  (void)state;
  struct worker_reply r = ws(OP_STEP, "{\"type\":\"observation\",\"data\":{\"observation\":{\"truncated\":true},\"terminated\":false,"
                                      "\"metadata\":{\"terminated\":true,\"truncated\":1,\"episode_id\":\"m\"}}}");
  assert_true(r.has_terminated);
  assert_false(r.terminated);
  assert_false(r.has_truncated); // 1 is no boolean, and an observation's members are the environment's own
  assert_span(r.episode_id, "m");
}

static void states(void **state)
{
  (void)state;
  struct worker_reply r = ws(OP_STATE, "{\"type\":\"state\",\"data\": {\"episode_id\":\"e\\n\",\"step_count\":6,\"reward\":\"x\"}}");
  assert_int_equal(r.kind, REPLY_STATE);
  assert_span(r.state, "{\"episode_id\":\"e\\n\",\"step_count\":6,\"reward\":\"x\"}");
  assert_span(r.episode_id, "e\\n");
  assert_int_equal(http(OP_STATE, 200, " {} ").kind, REPLY_STATE);
  assert_int_equal(http(OP_STATE, 200, "[]").kind, REPLY_ERROR);
}

static void tools(void **state)
{
  (void)state;
  struct worker_reply r = ws(OP_MCP, "{\"type\":\"mcp\",\"data\": {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"tools\":[]}} }");
  assert_int_equal(r.kind, REPLY_MCP);
  assert_span(r.raw, "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"tools\":[]}}");
  assert_true(ws(OP_MCP, "{\"type\":\"mcp\",\"data\":[]}").err.reason == REASON_WORKER_PROTOCOL);
  assert_true(ws(OP_MCP, "{\"type\":\"mcp\"}").err.reason == REASON_WORKER_PROTOCOL);
  assert_true(ws(OP_MCP, "{\"type\":\"observation\",\"data\":{\"observation\":1}}").err.reason == REASON_WORKER_PROTOCOL);
  r = ws(OP_MCP, "{\"type\":\"error\",\"data\":{\"message\":\"Unknown message type: mcp\",\"code\":\"UNKNOWN_TYPE\"}}");
  assert_true(r.err.code == CODE_UNIMPLEMENTED && r.err.reason == REASON_TOOLS_NOT_SUPPORTED && !r.session_ended);
  struct buf body = {0};
  const char *method, *path;
  assert_false(protocol_http_request(&(struct worker_request){.op = OP_MCP, .action = STR("{}")}, &method, &path, &body));
}

// What the worker said is there as it was, also where it is an error.
static void raw(void **state)
{
  (void)state;
  assert_span(ws(OP_STEP, "{\"type\":\"observation\",\"data\":{\"observation\":1, \"reward\": 1.0}}").raw, "{\"observation\":1, \"reward\": 1.0}");
  assert_span(ws(OP_STATE, "{\"data\":{\"x\":1},\"type\":\"state\"}").raw, "{\"x\":1}");
  assert_span(ws(OP_STEP, "{\"type\":\"error\",\"data\":{\"code\":\"EXECUTION_ERROR\",\"message\":\"m\"}}").raw,
              "{\"code\":\"EXECUTION_ERROR\",\"message\":\"m\"}");
  assert_span(ws(OP_STEP, "{\"type\":\"observation\",\"data\":{}}").raw, "");
  assert_span(http(OP_STEP, 200, "{\"observation\":1}").raw, "{\"observation\":1}");
  assert_span(http(OP_STEP, 422, "{\"detail\":\"nope\"}").raw, "{\"detail\":\"nope\"}");
  assert_span(http(OP_STEP, 200, "oops").raw, "");
}

static void what_breaks_the_protocol(void **state)
{
  (void)state;
  const char *bad[] = {
      "",
      "{",
      "[]",
      "null",
      "{}",
      "\"observation\"",
      "{\"type\":\"observation\"}",
      "{\"type\":\"observation\",\"data\":null}",
      "{\"type\":\"observation\",\"data\":{}}",
      "{\"type\":\"observation\",\"data\":{\"observation\":NaN}}",
      "{\"type\":\"observation\",\"data\":{\"observation\":1,\"reward\":\"1\"}}",
      "{\"type\":\"observation\",\"data\":{\"observation\":1,\"done\":1}}",
      "{\"type\":\"observation\",\"data\":{\"observation\":\"\xFF\"}}",
      "{\"type\":\"observation\",\"data\":{\"observation\":1}} x",
      "{\"type\":\"observation\",\"data\":{\"observation\":1}",
      "{\"type\":\"state\",\"data\":{}}",
      "{\"type\":\"mcp\",\"data\":{}}",
      "{\"type\":1,\"data\":{\"observation\":1}}",
      "\xEF\xBB\xBF{\"type\":\"observation\",\"data\":{\"observation\":1}}",
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    struct worker_reply r = ws(OP_STEP, bad[i]);
    if (r.kind != REPLY_ERROR || r.err.code != CODE_ABORTED || r.err.reason != REASON_WORKER_PROTOCOL || !r.session_ended || r.capacity)
      fail_msg("accepted: %s", bad[i]);
    assert_null(strstr(r.err.msg, "observation\":"));
  }
  struct worker_reply r = ws(OP_STATE, "{\"type\":\"observation\",\"data\":{\"observation\":1}}");
  assert_true(r.err.reason == REASON_WORKER_PROTOCOL);
}

// The limit is for the observation itself: the protocol's own two levels do not count.
static void depth(void **state)
{
  (void)state;
  char text[512];
  for (int levels = JSON_DEPTH; levels <= JSON_DEPTH + 1; levels++) {
    char open[80] = "", close[80] = "";
    memset(open, '[', (size_t)levels);
    memset(close, ']', (size_t)levels);
    snprintf(text, sizeof text, "{\"type\":\"observation\",\"data\":{\"observation\":%s%s}}", open, close);
    assert_int_equal(ws(OP_STEP, text).kind, levels == JSON_DEPTH ? REPLY_OBSERVATION : REPLY_ERROR);
  }
}

static void validation_errors(void **state)
{
  (void)state;
  struct worker_reply r = ws(OP_STEP, "{\"type\":\"error\",\"data\":{\"message\":\"Invalid message\",\"code\":\"VALIDATION_ERROR\",\"errors\":["
                                      "{\"type\":\"missing\",\"loc\":[\"moves\",2,\"x\"],\"msg\":\"Field required\",\"input\":{\"loc\":[]}},"
                                      "{\"loc\":[\"y\"],\"msg\":\"Too \\u00e9\"}]}}");
  assert_int_equal(r.kind, REPLY_ERROR);
  assert_int_equal(r.err.code, CODE_INVALID_ARGUMENT);
  assert_true(r.err.reason == REASON_INVALID_ACTION);
  assert_false(r.session_ended);
  assert_string_equal(r.err.field, "action.moves.2.x");
  assert_string_equal(r.err.msg, "the environment refused it: action.moves.2.x: Field required; action.y: Too \xC3\xA9");
  r = ws(OP_STEP, "{\"type\":\"error\",\"data\":{\"message\":\"no such move\",\"code\":\"VALIDATION_ERROR\",\"errors\":{}}}");
  assert_string_equal(r.err.field, "action");
  assert_non_null(strstr(r.err.msg, "no such move"));
  r = http(OP_STEP, 422, "{\"detail\":[{\"type\":\"missing\",\"loc\":[\"body\",\"action\",\"message\"],\"msg\":\"Field required\"}]}");
  assert_string_equal(r.err.field, "action.message");
  assert_true(r.err.reason == REASON_INVALID_ACTION);
  r = http(OP_STEP, 422, "{\"detail\":\"nope\"}");
  assert_non_null(strstr(r.err.msg, "nope"));
  r = http(OP_RESET, 422, "{\"detail\":[{\"loc\":[\"body\",\"seed\"],\"msg\":\"bad\"}]}");
  assert_string_equal(r.err.field, "options.seed");
}

static struct worker_reply coded(const char *code)
{
  char text[256];
  snprintf(text, sizeof text, "{\"type\":\"error\",\"data\":{\"message\":\"why\",\"code\":\"%s\",\"active_sessions\":1,\"max_sessions\":3}}", code);
  return ws(OP_STEP, text);
}

static void error_codes(void **state)
{
  (void)state;
  const struct {
    const char *name, *reason;
    enum code code;
    bool ended, capacity;
  } rows[] = {
      {"EXECUTION_ERROR", REASON_ENV_EXCEPTION, CODE_UNKNOWN, false, false},
      {"FACTORY_ERROR", REASON_ENV_FACTORY_FAILED, CODE_FAILED_PRECONDITION, true, false},
      {"SESSION_ERROR", REASON_SESSION_LOST, CODE_ABORTED, true, false},
      {"CAPACITY_REACHED", REASON_NO_CAPACITY, CODE_RESOURCE_EXHAUSTED, true, true},
      {"VALIDATION_ERROR", REASON_INVALID_ACTION, CODE_INVALID_ARGUMENT, false, false},
      {"INVALID_JSON", REASON_INVALID_ACTION, CODE_INVALID_ARGUMENT, false, false},
      {"UNKNOWN_TYPE", REASON_WORKER_PROTOCOL, CODE_UNIMPLEMENTED, false, false},
      {"A_NEW_ONE", REASON_ENV_EXCEPTION, CODE_UNKNOWN, false, false},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    struct worker_reply r = coded(rows[i].name);
    assert_int_equal(r.kind, REPLY_ERROR);
    assert_int_equal(r.err.code, rows[i].code);
    assert_string_equal(r.err.reason, rows[i].reason);
    assert_int_equal(r.session_ended, rows[i].ended);
    assert_int_equal(r.capacity, rows[i].capacity);
    assert_int_equal(r.max_sessions, rows[i].capacity ? 3 : 0);
    assert_true(rows[i].capacity || strstr(r.err.msg, "why"));
  }
}

// What the environment says goes to callers as text: no control characters, no broken UTF-8, no more than fits.
static void texts(void **state)
{
  (void)state;
  struct worker_reply r =
      ws(OP_STEP, "{\"type\":\"error\",\"data\":{\"code\":\"EXECUTION_ERROR\",\"message\":\"a\\u0000b\\u001bc\\ud83d\\ude00\\nd\"}}");
  assert_non_null(strstr(r.err.msg, ": a b c\xF0\x9F\x98\x80\nd"));
  r = ws(OP_STEP, "{\"type\":\"error\",\"data\":{\"code\":\"EXECUTION_ERROR\",\"message\":\"\\ud83d\"}}");
  assert_non_null(strstr(r.err.msg, "no valid text"));
  r = ws(OP_STEP, "{\"type\":\"error\",\"data\":{\"code\":\"EXECUTION_ERROR\"}}");
  assert_non_null(strstr(r.err.msg, "no message"));
  r = http(OP_STEP, 500, "Traceback\x01 \xFF caf\xC3\xA9");
  assert_int_equal(r.err.code, CODE_UNKNOWN);
  assert_non_null(strstr(r.err.msg, "Traceback  ? caf\xC3\xA9"));
  assert_false(r.session_ended);
  for (size_t shift = 0; shift < 12; shift++) { // wherever the cut falls
    static char text[40000];
    int n = snprintf(text, sizeof text, "{\"type\":\"error\",\"data\":{\"code\":\"EXECUTION_ERROR\",\"message\":\"%.*s", (int)shift, "xxxxxxxxxxxx");
    while (n < 30000)
      n += snprintf(text + n, sizeof text - (size_t)n, "\\ud83d\\ude00\xC3\xA9");
    snprintf(text + n, sizeof text - (size_t)n, "\"}}");
    r = ws(OP_STEP, text);
    assert_in_range(strlen(r.err.msg), sizeof r.err.msg - 5, sizeof r.err.msg - 1);
    assert_true(utf8_valid(r.err.msg, strlen(r.err.msg)));
    assert_null(strstr(r.err.msg, "no valid text"));
  }
}

static void http_replies(void **state)
{
  (void)state;
  struct worker_reply r = http(OP_STEP, 200, "{\"observation\":{\"x\":1},\"reward\":true,\"done\":false}");
  assert_int_equal(r.kind, REPLY_OBSERVATION);
  assert_span(r.observation, "{\"x\":1}");
  assert_true(r.has_reward && r.reward == 1);
  r = http(OP_STEP, 404, "{\"detail\":\"Not Found\"}");
  assert_true(r.session_ended && r.err.reason == REASON_WORKER_PROTOCOL);
  r = http(OP_STEP, 200, "<html>");
  assert_true(r.session_ended && r.err.reason == REASON_WORKER_PROTOCOL);
  r = http(OP_STEP, 503, "");
  assert_true(r.err.reason == REASON_ENV_EXCEPTION);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(ws_requests),
      cmocka_unit_test(http_requests),
      cmocka_unit_test(no_memory_for_a_request),
      cmocka_unit_test(observation),
      cmocka_unit_test(rewards),
      cmocka_unit_test(repeated_keys),
      cmocka_unit_test(flags_of_the_reply_win_over_its_metadata),
      cmocka_unit_test(states),
      cmocka_unit_test(tools),
      cmocka_unit_test(raw),
      cmocka_unit_test(what_breaks_the_protocol),
      cmocka_unit_test(depth),
      cmocka_unit_test(validation_errors),
      cmocka_unit_test(error_codes),
      cmocka_unit_test(texts),
      cmocka_unit_test(http_replies),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
