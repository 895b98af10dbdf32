// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "providers/docker_pull.h"
#include "providers/log_tail.h"

// An environment with every key of docker's at its default.
static struct env_config defaults(void)
{
  static char name[] = "echo", image[] = "img:1";
  return (struct env_config){.name = name, .image = image, .init = true};
}

static void assert_body(const struct env_config *env, const uint16_t *ports, int n_ports, const char *expected)
{
  const struct docker_spec spec = {
      .env = env, .env_vars = &env->env_vars, .worker_id = "w7", .instance = "0123", .config = "ab", .ports = ports, .n_ports = n_ports};
  char *body = docker_create_body(&spec);
  assert_string_equal(body, expected);
  free(body);
}

#define OWN_LABELS "\"envgate.instance\":\"0123\",\"envgate.environment\":\"echo\",\"envgate.worker\":\"w7\",\"envgate.config\":\"ab\"}"
#define LOG_CONFIG "\"LogConfig\":{\"Type\":\"local\",\"Config\":{\"max-size\":\"10m\",\"max-file\":\"2\"}}"

static void test_body_of_the_defaults(void **state)
{
  (void)state;
  struct env_config env = defaults();
  assert_body(&env, NULL, 0,
              "{\"Image\":\"img:1\",\"Env\":[],\"Labels\":{" OWN_LABELS ","
              "\"HostConfig\":{\"Init\":true,\"AutoRemove\":false,\"PublishAllPorts\":false,"
              "\"CapDrop\":[\"ALL\"],\"SecurityOpt\":[\"no-new-privileges\"]," LOG_CONFIG "}}");
}

static void test_body_with_every_key(void **state)
{
  (void)state;
  char team[] = "team", rl[] = "r\"l", a[] = "A", value[] = "b=c \\ \n", python[] = "python3", dash[] = "-c", network[] = "lab";
  char bind[] = "/data/in:/in:ro", volume[] = "cache:/root/.cache", setuid[] = "SETUID";
  struct pair labels[] = {{team, rl, VALUE_PLAIN}}, vars[] = {{a, value, VALUE_PLAIN}};
  char *command[] = {python, dash, NULL}, *mounts[] = {bind, volume, NULL}, *caps[] = {setuid, NULL};
  const uint16_t ports[] = {65535, 7860};
  struct env_config env = defaults();
  env.labels = (struct pairs){labels, 1};
  env.env_vars = (struct pairs){vars, 1};
  env.docker_command = (struct strings){command, 2};
  env.docker_mounts = (struct strings){mounts, 2};
  env.cap_add = (struct strings){caps, 1};
  env.network = network;
  env.publish = env.read_only = true;
  env.init = false;
  env.memory_bytes = INT64_C(9007199254740993); // not a double
  env.cpus = 1.5;
  env.pids_limit = 100;
  assert_body(
      &env, ports, 2,
      "{\"Image\":\"img:1\",\"Cmd\":[\"python3\",\"-c\"],\"Env\":[\"A=b=c \\\\ \\n\"],"
      "\"Labels\":{\"team\":\"r\\\"l\"," OWN_LABELS ",\"ExposedPorts\":{\"65535/tcp\":{},\"7860/tcp\":{}},"
      "\"HostConfig\":{\"Init\":false,\"AutoRemove\":false,\"PublishAllPorts\":false,\"Memory\":9007199254740993,"
      "\"NanoCpus\":1500000000,\"PidsLimit\":100,\"NetworkMode\":\"lab\","
      "\"PortBindings\":{\"65535/tcp\":[{\"HostIp\":\"127.0.0.1\",\"HostPort\":\"\"}],\"7860/tcp\":[{\"HostIp\":\"127.0.0.1\",\"HostPort\":\"\"}]},"
      "\"Mounts\":[{\"Type\":\"bind\",\"Source\":\"/data/in\",\"Target\":\"/in\",\"ReadOnly\":true},"
      "{\"Type\":\"volume\",\"Source\":\"cache\",\"Target\":\"/root/.cache\",\"ReadOnly\":false}],"
      "\"ReadonlyRootfs\":true,\"Tmpfs\":{\"/tmp\":\"rw,exec,nosuid,nodev,mode=1777\"},"
      "\"CapDrop\":[\"ALL\"],\"CapAdd\":[\"SETUID\"],\"SecurityOpt\":[\"no-new-privileges\"]," LOG_CONFIG "}}");
}

// Equal where nothing differs that shapes the container; a label does, a limit, a secret, the gateway's key; not who launched it.
static void test_config_hashes(void **state)
{
  (void)state;
  char a[] = "A", one[] = "1", two[] = "2";
  struct pair vars[] = {{a, one, VALUE_PLAIN}}, others[] = {{a, two, VALUE_PLAIN}};
  struct env_config env = defaults();
  const struct pairs v = {vars, 1}, w = {others, 1};
  char hash[DOCKER_HASH_MAX], again[DOCKER_HASH_MAX];
  assert_true(docker_config_hash(&env, &v, "key", hash));
  assert_int_equal(strlen(hash), DOCKER_HASH_MAX - 1);
  env.max_workers = 7;
  assert_true(docker_config_hash(&env, &v, "key", again));
  assert_string_equal(hash, again);
  assert_true(docker_config_hash(&env, &w, "key", again));
  assert_string_not_equal(hash, again);
  assert_true(docker_config_hash(&env, &v, "yek", again));
  assert_string_not_equal(hash, again);
  env.port = 8001;
  assert_true(docker_config_hash(&env, &v, "key", again));
  assert_string_not_equal(hash, again);
}

static void test_ports(void **state)
{
  (void)state;
  static const struct {
    int64_t port;
    const char *image;
    int n;
    uint16_t first, second;
  } cases[] = {
      {5, "{\"Config\":{\"ExposedPorts\":{\"8000/tcp\":{}}}}", 1, 5, 0},
      {0, "{\"Config\":{\"ExposedPorts\":{\"9000/tcp\":{},\"7860/tcp\":{},\"80/tcp\":{},\"8000/tcp\":{}}}}", 1, 8000, 0},
      {0, "{\"Config\":{\"ExposedPorts\":{\"9000/tcp\":{},\"7860/tcp\":{},\"80/tcp\":{}}}}", 1, 7860, 0},
      {0, "{\"Config\":{\"ExposedPorts\":{\"9000/tcp\":{},\"81/tcp\":{},\"80/udp\":{}}}}", 1, 81, 0},
      {0, "{\"Config\":{\"ExposedPorts\":{\"70000/tcp\":{},\"-1/tcp\":{},\"x/tcp\":{},\"80\":{},\"\":{}}}}", 2, 8000, 7860},
      {0, "{\"Config\":{\"ExposedPorts\":null}}", 2, 8000, 7860},
      {0, "nonsense", 2, 8000, 7860},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    uint16_t ports[DOCKER_PORTS_MAX] = {0};
    assert_int_equal(docker_ports(cases[i].port, str_c(cases[i].image), ports), cases[i].n);
    assert_int_equal(ports[0], cases[i].first);
    assert_int_equal(ports[1], cases[i].second);
  }
}

static void test_paths_of_lists_and_events(void **state)
{
  (void)state;
  struct buf path = {0};
  assert_true(docker_list_path("/v1.41", "00ff", &path));
  assert_string_equal(path.p, "/v1.41/containers/json?all=1&filters=%7B%22label%22%3A%5B%22envgate.instance%3D00ff%22%5D%7D");
  buf_free(&path);
  char time[DOCKER_TIME_MAX];
  docker_time(1700000000000000042, time);
  assert_true(docker_events_path("/v1.41", "00ff", time, &path));
  assert_string_equal(
      path.p, "/v1.41/events?since=1700000000.000000042&filters=%7B%22type%22%3A%5B%22container%22%5D%2C%22event%22%3A%5B%22die%22%2C%22oom%22%2C"
              "%22destroy%22%5D%2C%22label%22%3A%5B%22envgate.instance%3D00ff%22%5D%7D");
  buf_free(&path);
  docker_time(-5, time);
  assert_string_equal(time, "0.000000000");
}

static void on_listed(void *ctx, const struct docker_listed *c)
{
  struct buf *seen = ctx;
  assert_true(buf_printf(seen, "%s %s %s %s %s %s %d;", c->id, c->name, c->image, c->environment ? c->environment : "-", c->worker ? c->worker : "-",
                         c->config ? c->config : "-", c->running));
}

static void test_lists(void **state)
{
  (void)state;
  struct buf seen = {0};
  assert_true(
      docker_list_parse(STR("[{\"Id\":\"0a\",\"Names\":[\"/n\"],\"Image\":\"i:1\",\"State\":\"running\",\"Labels\":{\"envgate.environment\":\"e\","
                            "\"envgate.worker\":\"w1\",\"envgate.config\":\"ff\"}},"
                            "{\"Id\":\"0b\",\"Names\":null,\"State\":\"paused\",\"Labels\":7},"
                            "{\"Id\":\"../x\"},{\"Id\":5},3]"),
                        on_listed, &seen));
  assert_true(buf_char(&seen, '\0'));
  assert_string_equal(seen.p, "0a n i:1 e w1 ff 1;0b   - - - 0;");
  buf_free(&seen);
  assert_false(docker_list_parse(STR("{\"message\":\"x\"}"), on_listed, &seen));
  assert_false(docker_list_parse(STR("nonsense"), on_listed, &seen));
}

static void test_events(void **state)
{
  (void)state;
  struct docker_event e;
  assert_true(docker_event_parse(STR("{\"Type\":\"container\",\"Action\":\"die\",\"Actor\":{\"ID\":\"0a\",\"Attributes\":{\"exitCode\":\"137\"}},"
                                     "\"time\":1700000000,\"timeNano\":1700000000000001000}"),
                                 &e));
  assert_int_equal(e.kind, DOCKER_DIE);
  assert_string_equal(e.id, "0a");
  assert_int_equal(e.exit_code, 137);
  assert_memory_equal(e.time, "1700000000.00000", 16);
  assert_true(docker_event_parse(STR("{\"Action\":\"oom\",\"Actor\":{\"ID\":\"0a\"}}"), &e));
  assert_int_equal(e.kind, DOCKER_OOM);
  assert_string_equal(e.time, "");
  assert_true(docker_event_parse(STR("{\"Action\":\"destroy\",\"Actor\":{\"ID\":\"0a\"},\"timeNano\":-1}"), &e));
  assert_int_equal(e.kind, DOCKER_DESTROY);
  assert_string_equal(e.time, "");
  assert_true(docker_event_parse(STR("{\"Action\":\"exec_die\",\"Actor\":{\"ID\":\"0a\"},\"timeNano\":1e300}"), &e));
  assert_int_equal(e.kind, DOCKER_OTHER);
  assert_false(docker_event_parse(STR("{\"Action\":\"die\",\"Actor\":{\"ID\":\"../0a\"}}"), &e));
  assert_false(docker_event_parse(STR("{\"Action\":\"die\"}"), &e));
  assert_false(docker_event_parse(STR(""), &e));
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
  static const char body[] = "{\"State\":{\"Running\":true,\"Pid\":4711},\"Config\":{\"ExposedPorts\":{\"8000/tcp\":{}}}," SETTINGS "}";
  struct env_config env = defaults();
  struct docker_container c = parsed(&env, body);
  assert_true(c.running);
  assert_int_equal(c.pid, 4711);
  assert_string_equal(c.address, "172.17.0.2");
  assert_int_equal(c.n_ports, 1);
  assert_int_equal(c.ports[0], 8000);

  env.publish = true;
  c = parsed(&env, body);
  assert_string_equal(c.address, "127.0.0.1");
  assert_int_equal(c.n_ports, 1);
  assert_int_equal(c.ports[0], 32768);

  char host[] = "host";
  env.network = host;
  c = parsed(&env, body);
  assert_string_equal(c.address, "127.0.0.1");
  assert_int_equal(c.n_ports, 1);
  assert_int_equal(c.ports[0], 8000);
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

static bool feed(struct docker_stream *s, struct str piece, struct log_tail *log)
{
  struct str output;
  while (piece.n) {
    if (!docker_stream_next(s, &piece, &output))
      return false;
    log_tail_add(log, output);
  }
  return true;
}

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
      assert_true(feed(&s, (struct str){whole + at, sizeof whole - at < size ? sizeof whole - at : size}, &log));
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
    assert_false(feed(&s, (struct str){heads[i], 9}, &log));
    assert_int_equal(log.total, 0);
  }
}

static void feed_pull(struct docker_pull *p, const char *text)
{
  assert_true(docker_pull_feed(p, str_c(text)));
}

static void assert_counts(const struct docker_pull *p, uint32_t layers, uint32_t layers_done, uint64_t bytes, uint64_t bytes_done)
{
  assert_int_equal(p->n_layers, layers);
  assert_int_equal(p->layers_done, layers_done);
  assert_int_equal(p->bytes, bytes);
  assert_int_equal(p->bytes_done, bytes_done);
}

static void test_pull_counts(void **state)
{
  (void)state;
  struct docker_pull p = {0};
  feed_pull(&p, "{\"status\":\"Pulling from a/b\",\"id\":\"latest\"}\r\n{\"status\":\"Pulling fs layer\",\"progressDetail\":{},\"id\":\"a1\"}\r\n");
  assert_counts(&p, 1, 0, 0, 0);
  feed_pull(&p, "{\"status\":\"Already exists\",\"progressDetail\":{},\"id\":\"b2\"}\n");
  assert_counts(&p, 2, 1, 0, 0);
  feed_pull(&p, "{\"status\":\"Downloading\",\"progressDetail\":{\"current\":30,\"total\":100},\"id\":\"a1\"}\n");
  assert_counts(&p, 2, 1, 100, 30);
  feed_pull(&p, "{\"status\":\"Downloading\",\"progressDetail\":{\"current\":10,\"total\":100},\"id\":\"a1\"}\n"); // begun anew
  assert_counts(&p, 2, 1, 100, 30);
  feed_pull(&p, "{\"status\":\"Download complete\",\"progressDetail\":{},\"id\":\"a1\"}\n");
  assert_counts(&p, 2, 1, 100, 100);
  feed_pull(&p, "{\"status\":\"Extracting\",\"progressDetail\":{\"current\":5,\"total\":400},\"id\":\"a1\"}\n");
  feed_pull(&p, "{\"status\":\"Pull complete\",\"progressDetail\":{},\"id\":\"a1\"}\n{\"status\":\"Pull complete\",\"id\":\"a1\"}\n");
  assert_counts(&p, 2, 2, 100, 100);
  docker_pull_end(&p);
  assert_counts(&p, 2, 2, 100, 100);
  assert_string_equal(p.error, "");
}

// A registry's words.
static void test_pull_counts_that_lie(void **state)
{
  (void)state;
  struct docker_pull p = {0};
  feed_pull(&p, "{\"status\":\"Downloading\",\"progressDetail\":{\"current\":-1,\"total\":-5},\"id\":\"a1\"}\n");
  feed_pull(&p, "{\"status\":\"Downloading\",\"progressDetail\":{\"current\":\"x\",\"total\":[]},\"id\":\"a1\"}\n");
  feed_pull(&p,
            "{\"status\":\"Downloading\",\"progressDetail\":7,\"id\":{}}\n[]\nnull\n{\"status\":5,\"id\":\"a1\"}\n{\"status\":\"Downloading\"}\n");
  assert_counts(&p, 1, 0, 0, 0);
  feed_pull(&p, "{\"status\":\"Downloading\",\"progressDetail\":{\"current\":1e308,\"total\":1e308},\"id\":\"a1\"}\n");
  assert_counts(&p, 1, 0, UINT64_C(1) << 46, UINT64_C(1) << 46);
  for (int i = 0; i < 2 * DOCKER_LAYERS_MAX; i++) {
    char line[100];
    snprintf(line, sizeof line, "{\"status\":\"Waiting\",\"id\":\"layer %d\"}\n", i);
    feed_pull(&p, line);
  }
  assert_int_equal(p.n_layers, DOCKER_LAYERS_MAX);
  docker_pull_end(&p);
}

static void test_pulls(void **state)
{
  (void)state;
  static const char output[] =
      "{\"status\":\"Pulling\"}\r\n\r\n{\"error\":\"denied\",\"errorDetail\":{\"message\":\"denied\"}}\r\n{\"status\":\"x\"}";
  for (size_t size = 1; size <= sizeof output - 1; size++) {
    struct docker_pull p = {0};
    for (size_t at = 0; at < sizeof output - 1; at += size)
      assert_true(docker_pull_feed(&p, (struct str){output + at, sizeof output - 1 - at < size ? sizeof output - 1 - at : size}));
    docker_pull_end(&p);
    assert_string_equal(p.error, "denied");
  }
}

static void test_pulls_that_are_refused(void **state)
{
  (void)state;
  struct docker_pull p = {0};
  assert_true(docker_pull_feed(&p, STR("{\"message\":\"invalid reference\"}")));
  docker_pull_end(&p);
  assert_string_equal(p.error, "invalid reference");

  static char endless[70000];
  p = (struct docker_pull){0};
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
      cmocka_unit_test(test_config_hashes),
      cmocka_unit_test(test_ports),
      cmocka_unit_test(test_paths_of_lists_and_events),
      cmocka_unit_test(test_lists),
      cmocka_unit_test(test_events),
      cmocka_unit_test(test_pull_counts),
      cmocka_unit_test(test_pull_counts_that_lie),
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
