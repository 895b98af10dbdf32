// SPDX-License-Identifier: Apache-2.0
// What the reference worker answers, word for word as openenv 0.10.0 did (without pydantic's `url`).
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// cmocka needs those above
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "reference/protocol.h"

struct fixture {
  struct ref_options options;
  struct ref_protocol protocol;
  struct ref_env *env;
  struct ref_reply reply;
};

static void open_worker(struct fixture *f, const char *env)
{
  *f = (struct fixture){.options = {.kind = ref_env_kind(env), .capacity = 2, .ready = true}};
  f->protocol.options = &f->options;
  f->env = ref_env_make(f->options.kind);
  assert_non_null(f->env);
}

static void close_worker(struct fixture *f)
{
  ref_env_destroy(f->env);
  ref_protocol_free(&f->protocol);
  buf_free(&f->reply.text);
}

static const char *text(struct fixture *f)
{
  assert_non_null(buf_reserve(&f->reply.text, 1));
  f->reply.text.p[f->reply.text.n] = '\0';
  return f->reply.text.p;
}

// The message lies in memory of its exact size, so that a sanitizer sees a read past its end.
static const char *ask(struct fixture *f, const char *message)
{
  size_t n = strlen(message);
  char *exact = malloc(n ? n : 1);
  assert_non_null(exact);
  memcpy(exact, message, n);
  ref_ws_message(&f->protocol, f->env, (struct str){exact, n}, &f->reply);
  free(exact);
  return text(f);
}

static void expect(struct fixture *f, const char *message, const char *want)
{
  assert_string_equal(ask(f, message), want);
  assert_int_equal(f->reply.verdict, REF_SEND);
}

static void expect_invalid(struct fixture *f, const char *message, const char *errors)
{
  struct buf want = {0};
  assert_true(
      buf_printf(&want, "{\"type\":\"error\",\"data\":{\"message\":\"Invalid message\",\"code\":\"VALIDATION_ERROR\",\"errors\":[%s]}}", errors));
  expect(f, message, want.p);
  buf_free(&want);
}

static void test_an_episode(void **state)
{
  (void)state;
  struct fixture f;
  open_worker(&f, "echo");
  expect(&f, "{\"type\":\"reset\",\"data\":{\"seed\":7,\"episode_id\":\"e\",\"foo\":1}}",
         "{\"type\":\"observation\",\"data\":{\"observation\":{\"metadata\":{},\"echoed_message\":\"Echo environment ready!\","
         "\"message_length\":0},\"reward\":0.0,\"done\":false}}");
  expect(&f, " { \"data\" : {\"message\":\"hi\"} , \"type\":\"step\" } ",
         "{\"type\":\"observation\",\"data\":{\"observation\":{\"metadata\":{\"original_message\":\"hi\",\"step\":1,\"executions\":1},"
         "\"echoed_message\":\"hi\",\"message_length\":2},\"reward\":0.2,\"done\":false,\"metadata\":{\"original_message\":\"hi\",\"step\":1,"
         "\"executions\":1}}}");
  expect(&f, "{\"type\":\"state\"}",
         "{\"type\":\"state\",\"data\":{\"episode_id\":\"e\",\"step_count\":1,\"last_message\":\"hi\",\"total_steps\":1,"
         "\"repeated_steps\":0}}");
  assert_non_null(strstr(ask(&f, "{\"type\":\"reset\"}"), "\"observation\""));
  assert_null(strstr(ask(&f, "{\"type\":\"state\"}"), "\"episode_id\":\"e\""));
  ask(&f, "{\"type\":\"close\"}");
  assert_int_equal(f.reply.verdict, REF_CLOSE);
  assert_int_equal(f.reply.code, 1000);
  close_worker(&f);
}

// Spaces, spellings of numbers, duplicate keys and their order are kept; of several `data` the last counts, as in Python.
static void test_echo_gives_data_back_as_it_is(void **state)
{
  (void)state;
  static const char data[] = "{ \"z\":9007199254740993,\"a\":1e400,\"a\":-0.0 ,\"\\u0061\":[\"\\ud83d\\ude00\\/\",null]}";
  struct fixture f;
  struct buf message = {0}, want = {0};
  open_worker(&f, "echo");
  assert_true(buf_printf(&message, "{\"type\":\"step\",\"data\":{\"data\":1,\"message\":\"\",\"data\": %s }}", data));
  assert_true(buf_printf(&want, "\"echoed_message\":\"\",\"message_length\":0,\"data\":%s},\"reward\":0.0", data));
  assert_non_null(strstr(ask(&f, message.p), want.p));
  assert_non_null(strstr(ask(&f, "{\"type\":\"step\",\"data\":{\"message\":\"\"}}"), "\"message_length\":0}"));
  buf_free(&message);
  buf_free(&want);
  close_worker(&f);

  open_worker(&f, "pixels");
  assert_non_null(strstr(ask(&f, "{\"type\":\"step\",\"data\":{\"action\":1,\"data\":1}}"), "extra_forbidden"));
  close_worker(&f);
}

static void test_what_is_refused(void **state)
{
  (void)state;
  struct fixture f;
  open_worker(&f, "echo");
  expect_invalid(&f, "{\"type\":\"step\",\"data\":{}}", "{\"type\":\"missing\",\"loc\":[\"message\"],\"msg\":\"Field required\",\"input\":{}}");
  expect_invalid(&f, "{\"type\":\"step\"}", "{\"type\":\"missing\",\"loc\":[\"data\"],\"msg\":\"Field required\",\"input\":{\"type\":\"step\"}}");
  expect_invalid(&f, "{\"type\":\"step\",\"data\":5}",
                 "{\"type\":\"dict_type\",\"loc\":[\"data\"],\"msg\":\"Input should be a valid dictionary\",\"input\":5}");
  expect_invalid(&f, "{\"type\":\"step\",\"data\":{\"message\":5,\"x\":[1,2],\"metadata\":3}}",
                 "{\"type\":\"dict_type\",\"loc\":[\"metadata\"],\"msg\":\"Input should be a valid dictionary\",\"input\":3},"
                 "{\"type\":\"string_type\",\"loc\":[\"message\"],\"msg\":\"Input should be a valid string\",\"input\":5},"
                 "{\"type\":\"extra_forbidden\",\"loc\":[\"x\"],\"msg\":\"Extra inputs are not permitted\",\"input\":[1,2]}");
  expect_invalid(&f, "{\"type\":\"step\",\"data\":{\"message\":\"a\"},\"request_id\":\"x\"}",
                 "{\"type\":\"extra_forbidden\",\"loc\":[\"request_id\"],\"msg\":\"Extra inputs are not permitted\",\"input\":\"x\"}");
  expect_invalid(&f, "{\"type\":\"state\",\"data\":{}}",
                 "{\"type\":\"extra_forbidden\",\"loc\":[\"data\"],\"msg\":\"Extra inputs are not permitted\",\"input\":{}}");
  expect_invalid(&f, "{\"type\":\"reset\",\"data\":null}",
                 "{\"type\":\"dict_type\",\"loc\":[\"data\"],\"msg\":\"Input should be a valid dictionary\",\"input\":null}");
  // A fault is an unknown field unless --faults is given.
  expect_invalid(&f, "{\"type\":\"step\",\"data\":{\"message\":\"a\",\"fault\":\"exit\"}}",
                 "{\"type\":\"extra_forbidden\",\"loc\":[\"fault\"],\"msg\":\"Extra inputs are not permitted\",\"input\":\"exit\"}");
  assert_int_equal(f.env->step_count, 0);
  expect(&f, "{\"type\":\"nope\"}", "{\"type\":\"error\",\"data\":{\"message\":\"Unknown message type: nope\",\"code\":\"UNKNOWN_TYPE\"}}");
  expect(&f, "{}", "{\"type\":\"error\",\"data\":{\"message\":\"Unknown message type: \",\"code\":\"UNKNOWN_TYPE\"}}");
  assert_non_null(strstr(ask(&f, "nonsense"), "\"code\":\"INVALID_JSON\""));
  assert_non_null(strstr(ask(&f, ""), "\"code\":\"INVALID_JSON\""));
  assert_non_null(strstr(ask(&f, "{\"type\":\"state\"} x"), "\"code\":\"INVALID_JSON\""));
  assert_int_equal(f.reply.verdict, REF_SEND);
  close_worker(&f);
}

static void test_integers_as_pydantic_takes_them(void **state)
{
  (void)state;
  struct fixture f;
  open_worker(&f, "cartpole");
  ask(&f, "{\"type\":\"reset\",\"data\":{\"seed\":1}}");
  static const char *const good[] = {"1", "0", "-0", "\"1\"", "true", "1.0", "1e0"};
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    char message[64];
    snprintf(message, sizeof message, "{\"type\":\"step\",\"data\":{\"action\":%s}}", good[i]);
    assert_non_null(strstr(ask(&f, message), "\"type\":\"observation\""));
  }
  static const struct {
    const char *value, *type;
  } bad[] = {
      {"2", "less_than_equal"}, {"-1", "greater_than_equal"}, {"0.5", "int_from_float"},  {"\"abc\"", "int_parsing"},
      {"[1]", "int_type"},      {"null", "int_type"},         {"1e400", "finite_number"}, {"123456789012345678901234567890", "less_than_equal"},
      {"\"\"", "int_parsing"},  {"1e30", "less_than_equal"},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    char message[96], want[96];
    snprintf(message, sizeof message, "{\"type\":\"step\",\"data\":{\"action\":%s}}", bad[i].value);
    snprintf(want, sizeof want, "\"errors\":[{\"type\":\"%s\",\"loc\":[\"action\"]", bad[i].type);
    assert_non_null(strstr(ask(&f, message), want));
  }
  expect_invalid(&f, "{\"type\":\"step\",\"data\":{\"action\":2}}",
                 "{\"type\":\"less_than_equal\",\"loc\":[\"action\"],\"msg\":\"Input should be less than or equal to 1\",\"input\":2,"
                 "\"ctx\":{\"le\":1}}");
  close_worker(&f);
}

static void test_what_ends_the_session(void **state)
{
  (void)state;
  struct fixture f;
  open_worker(&f, "echo");
  static const struct {
    const char *message, *name;
  } cases[] = {{"[1]", "list"}, {"\"s\"", "str"}, {"5", "int"}, {"5.5", "float"}, {"true", "bool"}, {"null", "NoneType"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char want[128];
    snprintf(want, sizeof want, "{\"type\":\"error\",\"data\":{\"message\":\"'%s' object has no attribute 'get'\",\"code\":\"SESSION_ERROR\"}}",
             cases[i].name);
    assert_string_equal(ask(&f, cases[i].message), want);
    assert_int_equal(f.reply.verdict, REF_SEND_CLOSE);
  }
  ref_ws_binary(&f.reply);
  assert_string_equal(text(&f), "{\"type\":\"error\",\"data\":{\"message\":\"'text'\",\"code\":\"SESSION_ERROR\"}}");
  assert_int_equal(f.reply.verdict, REF_SEND_CLOSE);
  ref_ws_capacity(&f.protocol, &f.reply);
  assert_string_equal(text(&f), "{\"type\":\"error\",\"data\":{\"message\":\"Server at capacity: 2/2 sessions active. Cannot accept new "
                                "connections.\",\"code\":\"CAPACITY_REACHED\",\"active_sessions\":2,\"max_sessions\":2}}");
  close_worker(&f);
}

static void test_mcp_without_tools(void **state)
{
  (void)state;
  struct fixture f;
  open_worker(&f, "echo");
  expect(&f, "{\"type\":\"mcp\",\"data\":{\"jsonrpc\":\"2.0\",\"id\":\"a\",\"method\":\"tools/list\"}}",
         "{\"type\":\"mcp\",\"data\":{\"jsonrpc\":\"2.0\",\"id\":\"a\",\"error\":{\"code\":-32603,\"message\":\"Environment does not support "
         "MCP\",\"data\":null}}}");
  expect(&f, "{\"type\":\"mcp\",\"data\":{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"foo\"}}",
         "{\"type\":\"mcp\",\"data\":{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-32601,\"message\":\"Method not found: foo\","
         "\"data\":null}}}");
  assert_non_null(strstr(ask(&f, "{\"type\":\"mcp\",\"data\":{}}"), "-32600"));
  ref_http_mcp(&f.protocol, NULL, STR("{bad"), &f.reply);
  assert_string_equal(text(&f), "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32700,\"message\":\"Parse error\",\"data\":null}}");
  close_worker(&f);
}

static void test_faults(void **state)
{
  (void)state;
  struct fixture f;
  open_worker(&f, "echo");
  f.options.faults = true;
  static const struct {
    const char *fault;
    enum ref_verdict verdict;
    int code;
    uint32_t ms;
  } cases[] = {
      {"\"slow\",\"ms\":70", REF_SEND, 1000, 70},
      {"\"garbage\"", REF_SEND, 1000, 0},
      {"\"binary\"", REF_SEND_BINARY, 1000, 0},
      {"\"close\"", REF_CLOSE, 1011, 0},
      {"\"close\",\"code\":4001,\"ms\":5", REF_CLOSE, 4001, 5},
      {"\"drop\"", REF_DROP, 1000, 0},
      {"\"hang\"", REF_HANG, 1000, 0},
      {"\"exit\",\"code\":3", REF_EXIT, 3, 0},
      {"\"desync_extra\"", REF_SEND_TWICE, 1000, 0},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char message[96];
    snprintf(message, sizeof message, "{\"type\":\"step\",\"data\":{\"message\":\"a\",\"fault\":%s}}", cases[i].fault);
    ask(&f, message);
    assert_int_equal(f.reply.verdict, cases[i].verdict);
    assert_int_equal(f.reply.code, cases[i].code);
    assert_int_equal(f.reply.delay_ms, cases[i].ms);
    assert_int_equal(f.env->step_count, i + 1); // the step has been taken all the same
  }
  uint64_t before = f.env->step_count;
  expect(&f, "{\"type\":\"step\",\"data\":{\"message\":\"a\",\"fault\":\"error\"}}",
         "{\"type\":\"error\",\"data\":{\"message\":\"the action asked for an error\",\"code\":\"EXECUTION_ERROR\"}}");
  assert_non_null(strstr(ask(&f, "{\"type\":\"step\",\"data\":{\"message\":\"a\",\"fault\":\"validation\"}}"), "VALIDATION_ERROR"));
  assert_non_null(strstr(ask(&f, "{\"type\":\"step\",\"data\":{\"message\":\"a\",\"fault\":7}}"), "literal_error"));
  assert_int_equal(f.env->step_count, before);
  ask(&f, "{\"type\":\"step\",\"data\":{\"message\":\"a\",\"fault\":\"big\",\"bytes\":5000}}");
  assert_int_equal(f.reply.text.n, 5000);
  close_worker(&f);
}

static void test_replies_of_a_size(void **state)
{
  (void)state;
  struct fixture f;
  open_worker(&f, "echo");
  ask(&f, "{\"type\":\"step\",\"data\":{\"message\":\"a\"}}");
  size_t plain = f.reply.text.n, least = plain + strlen(",\"filler\":\"\"");
  static const size_t more[] = {0, 1, 100, 28000};
  for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
    struct err e;
    f.options.reply_bytes = least + more[i];
    ask(&f, "{\"type\":\"step\",\"data\":{\"message\":\"a\"}}");
    assert_int_equal(f.reply.text.n, least + more[i]);
    assert_true(json_check(buf_view(&f.reply.text), JSON_DEPTH, "", NULL, &e));
    assert_non_null(strstr(text(&f), "\"message_length\":1,\"filler\":\""));
  }
  f.options.reply_bytes = least - 1; // no room for a filler
  ask(&f, "{\"type\":\"step\",\"data\":{\"message\":\"a\"}}");
  assert_int_equal(f.reply.text.n, plain);
  close_worker(&f);
}

static void expect_http(struct fixture *f, int status, const char *want)
{
  assert_int_equal(f->reply.status, status);
  assert_string_equal(text(f), want);
}

static void test_http(void **state)
{
  (void)state;
  struct fixture f;
  open_worker(&f, "echo");
  ref_http_reset(&f.protocol, f.env, STR(""), &f.reply);
  expect_http(&f, 200,
              "{\"observation\":{\"metadata\":{},\"echoed_message\":\"Echo environment ready!\",\"message_length\":0},"
              "\"reward\":0.0,\"done\":false,\"metadata\":null}");
  ref_http_reset(&f.protocol, f.env, STR("{\"seed\":-1,\"episode_id\":5}"), &f.reply);
  expect_http(&f, 422,
              "{\"detail\":[{\"type\":\"greater_than_equal\",\"loc\":[\"body\",\"seed\"],\"msg\":\"Input should be greater than or "
              "equal to 0\",\"input\":-1,\"ctx\":{\"ge\":0}},{\"type\":\"string_type\",\"loc\":[\"body\",\"episode_id\"],"
              "\"msg\":\"Input should be a valid string\",\"input\":5}]}");
  ref_http_step(&f.protocol, f.env, STR("{\"action\":5,\"timeout_s\":-1,\"request_id\":4}"), &f.reply);
  expect_http(&f, 422,
              "{\"detail\":[{\"type\":\"dict_type\",\"loc\":[\"body\",\"action\"],\"msg\":\"Input should be a valid dictionary\","
              "\"input\":5},{\"type\":\"greater_than\",\"loc\":[\"body\",\"timeout_s\"],\"msg\":\"Input should be greater than 0\","
              "\"input\":-1,\"ctx\":{\"gt\":0.0}},{\"type\":\"string_type\",\"loc\":[\"body\",\"request_id\"],\"msg\":\"Input should "
              "be a valid string\",\"input\":4}]}");
  ref_http_step(&f.protocol, f.env, STR("{\"action\":{}}"), &f.reply);
  expect_http(&f, 422, "{\"detail\":[{\"type\":\"missing\",\"loc\":[\"message\"],\"msg\":\"Field required\",\"input\":{}}]}");
  ref_http_step(&f.protocol, f.env, STR(""), &f.reply);
  expect_http(&f, 422, "{\"detail\":[{\"type\":\"missing\",\"loc\":[\"body\"],\"msg\":\"Field required\",\"input\":null}]}");
  ref_http_step(&f.protocol, f.env, STR("[1]"), &f.reply);
  expect_http(&f, 422,
              "{\"detail\":[{\"type\":\"model_attributes_type\",\"loc\":[\"body\"],\"msg\":\"Input should be a valid dictionary or "
              "object to extract fields from\",\"input\":[1]}]}");
  f.options.dialect = REF_DIALECT_HTTP; // openenv-core 0.1 has no metadata
  ref_http_step(&f.protocol, f.env, STR("{\"action\":{\"message\":\"hi\"},\"timeout_s\":15}"), &f.reply);
  expect_http(&f, 200, "{\"observation\":{\"echoed_message\":\"hi\",\"message_length\":2},\"reward\":0.2,\"done\":false}");
  f.options.faults = true;
  ref_http_step(&f.protocol, f.env, STR("{\"action\":{\"message\":\"hi\",\"fault\":\"error\"}}"), &f.reply);
  expect_http(&f, 500, "Internal Server Error");
  f.options.ready = false;
  ref_http_health(&f.protocol, NULL, STR(""), &f.reply);
  expect_http(&f, 503, "{\"status\":\"unhealthy\"}");
  close_worker(&f);
}

// Parses a command line of at most 15 words, which lie in `words` as long as the options are used.
static enum ref_parse parse(struct ref_options *o, char words[256], const char *line)
{
  char *argv[16] = {NULL}, *at = words, *rest;
  int argc = 0;
  snprintf(words, 256, "%s", line);
  for (char *word; argc < 15 && (word = strtok_r(argc ? NULL : at, " ", &rest)); argc++)
    argv[argc] = word;
  return ref_options_parse(o, argc, argv);
}

static void test_options(void **state)
{
  (void)state;
  struct ref_options o;
  char words[256];
  assert_int_equal(parse(&o, words, "worker cartpole --listen unix:/x --dialect both --capacity 9 --faults"), REF_PARSED);
  assert_string_equal(o.kind->name, "cartpole");
  assert_string_equal(o.listen, "unix:/x");
  assert_int_equal(o.dialect, REF_DIALECT_BOTH);
  assert_int_equal(o.capacity, 9);
  assert_true(o.faults && o.ready && o.exit_after_ms == -1);
  static const char *const bad[] = {"worker",
                                    "worker nope",
                                    "worker echo more",
                                    "worker echo --capacity 0",
                                    "worker echo --capacity 1x",
                                    "worker echo --dialect x",
                                    "worker echo --nope",
                                    "worker echo --listen"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    assert_int_equal(parse(&o, words, bad[i]), REF_USAGE);
}

static void test_options_as_markdown(void **state)
{
  (void)state;
  struct buf table = {0};
  assert_true(reference_options_markdown(&table) && buf_char(&table, '\0'));
  assert_non_null(strstr(table.p, "| `--dialect ws\\|http\\|both` | `ws` | "));
  assert_non_null(strstr(table.p, "| `--faults` |  | Lets"));
  buf_free(&table);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_an_episode),
      cmocka_unit_test(test_echo_gives_data_back_as_it_is),
      cmocka_unit_test(test_what_is_refused),
      cmocka_unit_test(test_integers_as_pydantic_takes_them),
      cmocka_unit_test(test_what_ends_the_session),
      cmocka_unit_test(test_mcp_without_tools),
      cmocka_unit_test(test_faults),
      cmocka_unit_test(test_replies_of_a_size),
      cmocka_unit_test(test_http),
      cmocka_unit_test(test_options),
      cmocka_unit_test(test_options_as_markdown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
