// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "providers/docker_engine.h"

// An environment with every key of docker's at its default.
static struct env_config defaults(void)
{
  static char name[] = "echo", image[] = "img:1";
  return (struct env_config){.name = name, .image = image, .port = 8000, .init = true};
}

static void assert_body(const struct env_config *env, const char *expected)
{
  char *body = docker_create_body(env, &env->env_vars, "w7", "0123");
  assert_string_equal(body, expected);
  free(body);
}

static void test_body_of_the_defaults(void **state)
{
  (void)state;
  struct env_config env = defaults();
  assert_body(&env, "{\"Image\":\"img:1\",\"Env\":[],"
                    "\"Labels\":{\"envgate.instance\":\"0123\",\"envgate.environment\":\"echo\",\"envgate.worker\":\"w7\"},"
                    "\"ExposedPorts\":{\"8000/tcp\":{}},"
                    "\"HostConfig\":{\"Init\":true,\"AutoRemove\":false,\"PublishAllPorts\":false,"
                    "\"SecurityOpt\":[\"no-new-privileges\"],\"CapDrop\":[\"ALL\"]}}");
}

static void test_body_with_every_key(void **state)
{
  (void)state;
  char team[] = "team", rl[] = "r\"l", a[] = "A", value[] = "b=c \\ \n", python[] = "python3", dash[] = "-c", network[] = "lab";
  struct pair labels[] = {{team, rl, VALUE_PLAIN}}, vars[] = {{a, value, VALUE_PLAIN}};
  char *command[] = {python, dash, NULL};
  struct env_config env = defaults();
  env.labels = (struct pairs){labels, 1};
  env.env_vars = (struct pairs){vars, 1};
  env.docker_command = (struct strings){command, 2};
  env.network = network;
  env.publish = true;
  env.init = false;
  env.port = 65535;
  env.memory_bytes = INT64_C(9007199254740993); // not a double
  env.cpus = 1.5;
  env.pids_limit = 100;
  assert_body(&env, "{\"Image\":\"img:1\",\"Cmd\":[\"python3\",\"-c\"],\"Env\":[\"A=b=c \\\\ \\n\"],"
                    "\"Labels\":{\"team\":\"r\\\"l\",\"envgate.instance\":\"0123\",\"envgate.environment\":\"echo\",\"envgate.worker\":\"w7\"},"
                    "\"ExposedPorts\":{\"65535/tcp\":{}},"
                    "\"HostConfig\":{\"Init\":false,\"AutoRemove\":false,\"PublishAllPorts\":false,\"Memory\":9007199254740993,"
                    "\"NanoCpus\":1500000000,\"PidsLimit\":100,\"NetworkMode\":\"lab\","
                    "\"PortBindings\":{\"65535/tcp\":[{\"HostIp\":\"127.0.0.1\",\"HostPort\":\"\"}]},"
                    "\"SecurityOpt\":[\"no-new-privileges\"],\"CapDrop\":[\"ALL\"]}}");
}

static void test_socket_paths(void **state)
{
  (void)state;
  assert_string_equal(docker_socket_path("unix:///var/run/docker.sock"), "/var/run/docker.sock");
  assert_null(docker_socket_path("unix://relative"));
  assert_null(docker_socket_path("tcp://127.0.0.1:2375"));
  assert_null(docker_socket_path("unix:"));
  assert_null(docker_socket_path(""));
}

static void test_api_versions(void **state)
{
  (void)state;
  static const struct {
    const char *body, *prefix; // NULL: none
  } cases[] = {
      {"{\"ApiVersion\":\"1.41\",\"MinAPIVersion\":\"1.12\"}", "/v1.41"},
      {"{\"ApiVersion\":\"1.52\",\"MinAPIVersion\":\"1.44\"}", "/v1.44"},
      {"{\"ApiVersion\":\"1.40\"}", "/v1.40"},
      {"{\"ApiVersion\":\"2.0\"}", NULL},
      {"{\"ApiVersion\":\"1.\"}", NULL},
      {"{\"ApiVersion\":\"1.41/../x\"}", NULL},
      {"{\"ApiVersion\":1.41}", NULL},
      {"[]", NULL},
      {"<html>", NULL},
      {"", NULL},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char prefix[DOCKER_VERSION_MAX] = "";
    assert_int_equal(docker_api_version(str_c(cases[i].body), prefix), cases[i].prefix != NULL);
    assert_string_equal(prefix, cases[i].prefix ? cases[i].prefix : "");
  }
}

static void test_pull_paths(void **state)
{
  (void)state;
  static const struct {
    const char *image, *query;
  } cases[] = {
      {"echo", "echo&tag=latest"},
      {"echo:1", "echo%3A1"},
      {"registry:5000/a/echo", "registry%3A5000/a/echo&tag=latest"},
      {"registry:5000/a/echo:v1.2", "registry%3A5000/a/echo%3Av1.2"},
      {"a/echo@sha256:00ff", "a/echo%40sha256%3A00ff"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct buf path = {0};
    assert_true(docker_pull_path("/v1.41", cases[i].image, &path));
    assert_memory_equal(path.p, "/v1.41/images/create?fromImage=", 31);
    assert_string_equal(path.p + 31, cases[i].query);
    buf_free(&path);
  }
}

static void test_created_ids(void **state)
{
  (void)state;
  char ref[DOCKER_REF_MAX] = "";
  assert_true(docker_created_id(STR("{\"Id\":\"00ffab\",\"Warnings\":null}"), ref));
  assert_string_equal(ref, "00ffab");
  char other[DOCKER_REF_MAX] = "";
  assert_false(docker_created_id(STR("{\"Id\":\"../volumes/x\"}"), other));
  assert_false(docker_created_id(STR("{\"Id\":\"\"}"), other));
  assert_false(docker_created_id(STR("{\"Id\":5}"), other));
  assert_false(docker_created_id(STR(""), other));
  assert_string_equal(other, "");
}

static void test_messages(void **state)
{
  (void)state;
  char text[DOCKER_MESSAGE_MAX];
  docker_message(404, STR("{\"message\":\"no such\\n\\u001bimage\"}"), text);
  assert_string_equal(text, "no such  image");
  docker_message(500, STR("not JSON"), text);
  assert_string_equal(text, "HTTP status 500");
  docker_message(400, STR("{\"message\":\"a\xff\"}"), text);
  assert_string_equal(text, "a?");
}

// What does not fit is cut at a character's start.
static void test_long_messages(void **state)
{
  (void)state;
  struct buf body = {0};
  assert_true(buf_str(&body, STR("{\"message\":\"x")));
  for (int i = 0; i < 300; i++)
    assert_true(buf_str(&body, STR("\xc3\xa4")));
  assert_true(buf_str(&body, STR("\"}")));
  char text[DOCKER_MESSAGE_MAX];
  docker_message(400, buf_view(&body), text);
  assert_int_equal(strlen(text), DOCKER_MESSAGE_MAX - 1);
  assert_int_equal((unsigned char)text[DOCKER_MESSAGE_MAX - 2], 0xa4);
  buf_free(&body);
}

static void test_wait_codes(void **state)
{
  (void)state;
  int64_t code;
  assert_true(docker_wait_code(STR("{\"Error\":null,\"StatusCode\":137}\n"), &code));
  assert_int_equal(code, 137);
  assert_false(docker_wait_code(STR(""), &code)); // the Engine ended before the container did
  assert_false(docker_wait_code(STR("{\"StatusCode\":\"1\"}"), &code));
}

static struct docker_container parsed(const struct env_config *env, const char *body)
{
  struct docker_container c;
  assert_true(docker_container_parse(str_c(body), env, &c));
  return c;
}

#define SETTINGS                                                                                       \
  "\"NetworkSettings\":{\"Ports\":{\"8000/tcp\":[{\"HostIp\":\"127.0.0.1\",\"HostPort\":\"32768\"}]}," \
  "\"Networks\":{\"bridge\":{\"IPAddress\":\"172.17.0.2\",\"GlobalIPv6Address\":\"fd00::2\"}}}"

static void test_addresses(void **state)
{
  (void)state;
  static const char body[] = "{\"State\":{\"Running\":true}," SETTINGS "}";
  struct env_config env = defaults();
  struct docker_container c = parsed(&env, body);
  assert_true(c.running);
  assert_string_equal(c.address, "172.17.0.2");
  assert_int_equal(c.port, 8000);

  env.publish = true;
  c = parsed(&env, body);
  assert_string_equal(c.address, "127.0.0.1");
  assert_int_equal(c.port, 32768);

  char host[] = "host";
  env.network = host;
  c = parsed(&env, body);
  assert_string_equal(c.address, "127.0.0.1");
  assert_int_equal(c.port, 8000);
}

static void test_addresses_of_odd_networks(void **state)
{
  (void)state;
  struct env_config env = defaults();
  struct docker_container c = parsed(
      &env, "{\"State\":{\"Running\":true},\"NetworkSettings\":{\"Networks\":{\"six\":{\"IPAddress\":\"\",\"GlobalIPv6Address\":\"fd00::2\"}}}}");
  assert_string_equal(c.address, "[fd00::2]");
  c = parsed(&env, "{\"State\":{\"Running\":true},\"NetworkSettings\":{\"Networks\":{\"none\":{\"IPAddress\":\"\"}}}}");
  assert_string_equal(c.address, "");
  c = parsed(&env, "{\"State\":{\"Running\":true},\"NetworkSettings\":{\"Networks\":{\"x\":{\"IPAddress\":\"evil/path\"}}}}");
  assert_string_equal(c.address, "");
  env.publish = true;
  c = parsed(&env, "{\"State\":{\"Running\":true},\"NetworkSettings\":{\"Ports\":{\"8000/tcp\":[{\"HostPort\":\"70000\"}]}}}");
  assert_string_equal(c.address, "");
  assert_false(docker_container_parse(STR("{}"), &env, &c));
  assert_false(docker_container_parse(STR("nonsense"), &env, &c));
}

static void test_exits(void **state)
{
  (void)state;
  struct env_config env = defaults();
  struct err e;
  struct docker_container c = parsed(&env, "{\"State\":{\"Running\":false,\"ExitCode\":3,\"OOMKilled\":false,\"Error\":\"\"}}");
  assert_false(c.running);
  docker_explain_exit(&c, &env, &e);
  assert_string_equal(e.msg, "the worker exited with code 3");
  assert_int_equal(e.code, CODE_FAILED_PRECONDITION);
  assert_ptr_equal(e.reason, REASON_WORKER_START_FAILED);

  c.exit_code = 137;
  docker_explain_exit(&c, &env, &e);
  assert_string_equal(e.msg, "the worker exited with code 137 (128 + signal 9, Killed)");

  c = parsed(&env, "{\"State\":{\"ExitCode\":127,\"Error\":\"no such\\nfile\"}}");
  docker_explain_exit(&c, &env, &e);
  assert_string_equal(e.msg, "the worker exited with code 127: no such file");

  c = parsed(&env, "{\"State\":{\"ExitCode\":137,\"OOMKilled\":true}}");
  env.memory_bytes = 1 << 20;
  docker_explain_exit(&c, &env, &e);
  assert_string_equal(e.msg, "the worker exited with code 137 (128 + signal 9, Killed), out of memory (memory_bytes is 1048576)");
  c.out_of_memory = false;
  docker_explain_exit(&c, &env, &e);
  assert_string_equal(e.msg, "the worker exited with code 137 (128 + signal 9, Killed), perhaps out of memory (memory_bytes is 1048576)");
  c.exit_code = 143;
  docker_explain_exit(&c, &env, &e);
  assert_string_equal(e.msg, "the worker exited with code 143 (128 + signal 15, Terminated)");
}

static const char frames[] = "\1\0\0\0\0\0\0\3out"
                             "\2\0\0\0\0\0\0\0"
                             "\2\0\0\0\0\0\0\4err\n"
                             "\1\0\0\0\0\0\1\0"; // 256 bytes follow

// However the stream is cut, the output is the same.
static void test_stream_in_any_pieces(void **state)
{
  (void)state;
  char whole[sizeof frames - 1 + 256];
  memcpy(whole, frames, sizeof frames - 1);
  memset(whole + sizeof frames - 1, 'x', 256);
  for (size_t size = 1; size <= sizeof whole; size++) {
    struct docker_stream s = {0};
    struct log_tail log = {0};
    for (size_t at = 0; at < sizeof whole; at += size)
      assert_true(docker_stream_feed(&s, (struct str){whole + at, sizeof whole - at < size ? sizeof whole - at : size}, &log));
    assert_int_equal(log.total, 3 + 4 + 256);
    char text[300];
    log_tail_text(&log, text, sizeof text);
    assert_memory_equal(text, "outerr\nxxx", 10);
    assert_int_equal(s.n_head, 0);
  }
}

static void test_streams_that_are_none(void **state)
{
  (void)state;
  static const char *const heads[] = {"\3\0\0\0\0\0\0\1x", "\1\1\0\0\0\0\0\1x", "{\"message\":\"x\"}"};
  for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
    struct docker_stream s = {0};
    struct log_tail log = {0};
    assert_false(docker_stream_feed(&s, (struct str){heads[i], 9}, &log));
    assert_int_equal(log.total, 0);
  }
}

static void test_pulls(void **state)
{
  (void)state;
  static const char output[] =
      "{\"status\":\"Pulling\"}\r\n\r\n{\"error\":\"denied\",\"errorDetail\":{\"message\":\"denied\"}}\r\n{\"status\":\"x\"}";
  for (size_t size = 1; size <= sizeof output - 1; size++) {
    struct docker_pull p;
    docker_pull_init(&p);
    for (size_t at = 0; at < sizeof output - 1; at += size)
      assert_true(docker_pull_feed(&p, (struct str){output + at, sizeof output - 1 - at < size ? sizeof output - 1 - at : size}));
    docker_pull_end(&p);
    assert_string_equal(p.error, "denied");
  }
}

static void test_pulls_that_are_refused(void **state)
{
  (void)state;
  struct docker_pull p;
  docker_pull_init(&p);
  assert_true(docker_pull_feed(&p, STR("{\"message\":\"invalid reference\"}")));
  docker_pull_end(&p);
  assert_string_equal(p.error, "invalid reference");

  static char endless[70000];
  docker_pull_init(&p);
  assert_false(docker_pull_feed(&p, (struct str){endless, sizeof endless}));
  docker_pull_end(&p);
  docker_pull_end(&p); // also when a launch ends twice over
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_body_of_the_defaults),
      cmocka_unit_test(test_body_with_every_key),
      cmocka_unit_test(test_socket_paths),
      cmocka_unit_test(test_api_versions),
      cmocka_unit_test(test_pull_paths),
      cmocka_unit_test(test_created_ids),
      cmocka_unit_test(test_messages),
      cmocka_unit_test(test_long_messages),
      cmocka_unit_test(test_wait_codes),
      cmocka_unit_test(test_addresses),
      cmocka_unit_test(test_addresses_of_odd_networks),
      cmocka_unit_test(test_exits),
      cmocka_unit_test(test_stream_in_any_pieces),
      cmocka_unit_test(test_streams_that_are_none),
      cmocka_unit_test(test_pulls),
      cmocka_unit_test(test_pulls_that_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
