// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// cmocka needs those above
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "config/config.h"
#include "config/options.h"
#include "config/schema.h"

#define ENV(body) "{\"environments\": {\"x\": " body "}}"
#define BUILTIN "\"builtin\": {\"environment\": \"echo\"}"

static struct config *parse_ok(const char *text)
{
  struct config_mistakes m;
  struct config *c = config_parse(str_c(text), &m);
  if (!c)
    fail_msg("%s: %s", m.n ? m.at[0].path : "", m.n ? m.at[0].text : "out of memory");
  assert_int_equal(m.n, 0);
  return c;
}

// Asserts that the text has exactly one mistake, at that path and line, whose text has `word` in it.
static void assert_mistake(const char *text, const char *path, int line, const char *word)
{
  struct config_mistakes m;
  assert_null(config_parse(str_c(text), &m));
  if (m.n != 1)
    for (size_t i = 0; i < m.n; i++)
      print_error("%s: %s\n", m.at[i].path, m.at[i].text);
  assert_int_equal(m.n, 1);
  assert_string_equal(m.at[0].path, path);
  if (!strstr(m.at[0].text, word))
    fail_msg("\"%s\" has no \"%s\"", m.at[0].text, word);
  assert_int_equal(m.at[0].line, line);
  config_mistakes_free(&m);
}

static void test_defaults(void **state)
{
  (void)state;
  struct config *c = config_default();
  assert_non_null(c);
  assert_string_equal(c->listen, "127.0.0.1:8080");
  assert_int_equal(c->threads, 0);
  assert_int_equal(c->log_level, LOG_INFO);
  assert_int_equal(c->log_format, LOG_LOGFMT);
  assert_int_equal(c->max_message_bytes, 4194304);
  assert_int_equal(c->max_json_depth, 64);
  assert_int_equal(c->max_header_bytes, 16384);
  assert_int_equal(c->max_connections, 16384);
  assert_int_equal(c->max_streams, 128);
  assert_true(c->idle_connection_s == 300);
  assert_true(c->shutdown_grace_s == 25);
  assert_null(c->state_dir);
  assert_int_equal(access(c->self, X_OK), 0);
  assert_int_equal(c->n_envs, 3);
  assert_null(config_env(c, STR("nothing")));
  assert_null(config_env(c, STR("ech")));
  const struct env_config *env = config_env(c, STR("cartpole"));
  assert_non_null(env);
  assert_string_equal(env->provider, "builtin");
  assert_string_equal(env->builtin, "cartpole");
  assert_int_equal(env->max_workers, 8);
  assert_int_equal(env->sessions_per_worker, 64);
  assert_true(env->lease_s == 300);
  assert_true(env->idle_timeout_s == 0);
  assert_true(env->step_timeout_s == 600);
  assert_true(env->ready_timeout_s == 60);
  assert_true(env->worker_idle_s == 30);
  assert_true(env->stop_grace_s == 10);
  assert_int_equal(env->queue_limit, 16);
  assert_int_equal(env->max_reply_bytes, 104857600);
  assert_string_equal(env->docker_host, "unix:///var/run/docker.sock");
  assert_int_equal(env->port, 0);
  assert_int_equal(env->memory_bytes, INT64_C(4) << 30);
  assert_int_equal(env->pids_limit, 2048);
  assert_true(env->init);
  assert_false(env->publish);
  assert_string_equal(env->uv_path, "uv");
  config_free(c);
  config_free(NULL);
}

static void test_values(void **state)
{
  (void)state;
  struct config *c = parse_ok("{\"$schema\": \"x\", \"listen\": \"unix:/run/g.sock\", \"log_level\": \"error\", \"log_format\": \"json\","
                              "\"access_log\": true, \"max_message_bytes\": \"1.5MiB\", \"threads\": 2.0, \"max_streams\": 1e3,"
                              "\"idle_connection_s\": 1.25, \"environments\": {\"d\": {\"provider\": \"docker\", \"description\": \"\\u00e9\\n\","
                              "\"docker\": {\"image\": \"a/b:c@sha256:d\", \"command\": [\"x\", \"\"], \"labels\": {\"k\": \"v\", \"a\": \"\"},"
                              "\"cpus\": 0.5, \"memory_bytes\": \"64GiB\", \"publish\": true, \"init\": false}, \"headers\": {\"X-Y\": \"a b\"}}}}");
  assert_string_equal(c->listen, "unix:/run/g.sock");
  assert_int_equal(c->log_level, LOG_ERROR);
  assert_int_equal(c->log_format, LOG_JSON);
  assert_true(c->access_log);
  assert_int_equal(c->max_message_bytes, 1572864);
  assert_int_equal(c->threads, 2);
  assert_int_equal(c->max_streams, 1000);
  assert_true(c->idle_connection_s == 1.25);
  const struct env_config *d = config_env(c, STR("d"));
  assert_string_equal(d->description, "\xC3\xA9\n");
  assert_string_equal(d->image, "a/b:c@sha256:d");
  assert_int_equal(d->docker_command.n, 2);
  assert_string_equal(d->docker_command.at[1], "");
  assert_null(d->docker_command.at[2]);
  assert_int_equal(d->labels.n, 2);
  assert_string_equal(d->labels.at[0].name, "k");
  assert_string_equal(d->labels.at[1].value, "");
  assert_true(d->cpus == 0.5);
  assert_int_equal(d->memory_bytes, INT64_C(64) << 30);
  assert_true(d->publish);
  assert_false(d->init);
  assert_string_equal(d->headers.at[0].value, "a b");
  config_free(c);
}

// The image of a Space, unless one is given.
static void test_docker_spaces(void **state)
{
  (void)state;
  struct config *c = parse_ok("{\"environments\": {\"a\": {\"docker\": {\"space\": \"Open.Env/My_echo-2\"}},"
                              "\"b\": {\"docker\": {\"space\": \"o/n\", \"tag\": \"V1.2\"}},"
                              "\"c\": {\"docker\": {\"space\": \"o/n\", \"image\": \"mine:1\"}}}}");
  assert_string_equal(config_env(c, STR("a"))->image, "registry.hf.space/open-env-my-echo-2:latest");
  assert_string_equal(config_env(c, STR("b"))->image, "registry.hf.space/o-n:V1.2");
  assert_string_equal(config_env(c, STR("c"))->image, "mine:1");
  config_free(c);
}

static void test_provider_left_out(void **state)
{
  (void)state;
  struct config *c = parse_ok("{\"environments\": {\"s\": {\"static\": {\"urls\": [\"http://a:1\", \"unix:/b\"]}},"
                              "\"p\": {\"env_vars\": {\"PORT\": \"{port}\"}, \"process\": {\"command\": [\"x\"]}},"
                              "\"u\": {\"uv\": {\"project\": \".\", \"app\": \"a.b:c\"}}}}");
  assert_string_equal(config_env(c, STR("s"))->provider, "static");
  assert_int_equal(config_env(c, STR("s"))->max_workers, 2); // one for each url
  assert_string_equal(config_env(c, STR("p"))->provider, "process");
  assert_string_equal(config_env(c, STR("u"))->provider, "uv");
  config_free(c);
}

static void test_references(void **state)
{
  (void)state;
  struct config *c = parse_ok("{\"environments\": {\"u\": {\"env_vars\": {\"A\": \"a\", \"B\": {\"env\": \"X_1\"}, \"C\": \"{}\"},"
                              "\"headers\": {\"Authorization\": {\"file\": \"/run/token\"}}, \"pass_env\": [\"UV_*\", \"TZ\"],"
                              "\"uv\": {\"project\": \".\", \"port\": 8001, \"extra_env\": {\"D\": \"d\", \"A\": {\"file\": \"/a\"}}}}}}");
  const struct env_config *u = config_env(c, STR("u"));
  assert_int_equal(u->max_workers, 1);
  assert_int_equal(u->headers.at[0].source, VALUE_FILE);
  assert_string_equal(u->headers.at[0].value, "/run/token");
  assert_int_equal(u->uv_extra_env.n, 0);
  assert_int_equal(u->env_vars.n, 4);
  static const struct {
    const char *name, *value;
    enum value_source source;
  } vars[] = {{"A", "/a", VALUE_FILE}, {"B", "X_1", VALUE_ENV}, {"C", "{}", VALUE_PLAIN}, {"D", "d", VALUE_PLAIN}};
  for (size_t i = 0; i < 4; i++) {
    assert_string_equal(u->env_vars.at[i].name, vars[i].name);
    assert_string_equal(u->env_vars.at[i].value, vars[i].value);
    assert_int_equal(u->env_vars.at[i].source, vars[i].source);
  }
  config_free(c);
}

static void test_wrong_values(void **state)
{
  (void)state;
  static const struct {
    const char *setting, *path, *word;
  } cases[] = {
      {"\"listen\": \"8080\"", "listen", "HOST:PORT"},
      {"\"listen\": \"a:65536\"", "listen", "HOST:PORT"},
      {"\"listen\": \"a:1\\u0000\"", "listen", "HOST:PORT"},
      {"\"threads\": -1", "threads", "from 0 to 256"},
      {"\"threads\": 257", "threads", "from 0 to 256"},
      {"\"threads\": 1.5", "threads", "whole number"},
      {"\"threads\": 1e400", "threads", "whole number"},
      {"\"threads\": \"1\"", "threads", "whole number"},
      {"\"threads\": null", "threads", "whole number"},
      {"\"threads\": 0.000000000000000000000000000000000000000000000000000000000000000000001", "threads", "whole number"},
      {"\"access_log\": \"true\"", "access_log", "true or false"},
      {"\"access_log\": 1", "access_log", "true or false"},
      {"\"log_level\": \"INFO\"", "log_level", "one of debug, info, warn, error"},
      {"\"max_message_bytes\": \"1TiB\"", "max_message_bytes", "from 1024"},
      {"\"max_message_bytes\": \"0x1000\"", "max_message_bytes", "from 1024"},
      {"\"max_message_bytes\": \"KiB\"", "max_message_bytes", "from 1024"},
      {"\"max_message_bytes\": \"2GiB\"", "max_message_bytes", "to 1073741824"},
      {"\"state_dir\": \"relative\"", "state_dir", "absolute"},
      {"\"state_dir\": \"/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"", "state_dir", "64"},
      {"\"thread\": 1", "thread", "did you mean threads?"},
      {"\"\\u0074hread\": 1", "thread", "did you mean threads?"},
      {"\"enviroments\": 1", "enviroments", "did you mean environments?"},
      {"\"lease_s\": 1", "lease_s", "belongs to an environment"},
      {"\"image\": 1", "image", "object \"docker\""},
      {"\"zzz\": {\"a\": [1, {}]}", "zzz", "no setting"},
      {"\"a\\nb\": 1", "a?b", "no setting"},
      {"\"self\": \"/bin/sh\"", "self", "no setting"},
      {"\"threads\": 1, \"threads\": 1", "threads", "twice"},
      {"\"threads\": 1, \"thr\\u0065ads\": 1", "threads", "twice"},
      {"\"environments\": {}", "environments", "twice"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char text[400];
    snprintf(text, sizeof text, "{\"environments\": {\"x\": {" BUILTIN "}},\n %s}", cases[i].setting);
    assert_mistake(text, cases[i].path, 2, cases[i].word);
  }
}

static void test_wrong_environments(void **state)
{
  (void)state;
  static const struct {
    const char *body, *path, *word;
  } cases[] = {
      {"{}", "environments.x", "static, process, uv, docker or builtin"},
      {"7", "environments.x", "object"},
      {"{" BUILTIN ", \"lease_s\": 0}", "environments.x.lease_s", "from 0.01"},
      {"{" BUILTIN ", \"image\": \"a\"}", "environments.x.image", "object \"docker\""},
      {"{" BUILTIN ", \"listen\": \"a:1\"}", "environments.x.listen", "top of the file"},
      {"{" BUILTIN ", " BUILTIN "}", "environments.x.builtin", "twice"},
      {"{" BUILTIN ", \"dokcer\": {}}", "environments.x.dokcer", "did you mean docker?"},
      {"{" BUILTIN ", \"env\": {}}", "environments.x.env", "did you mean env_vars?"},
      {"{\"docker\": {\"image\": \"x\", \"memory\": \"1GiB\"}}", "environments.x.docker.memory", "did you mean memory_bytes?"},
      {"{" BUILTIN ", \"docker\": {\"image\": \"a\"}}", "environments.x", "one provider's object, not 2"},
      {"{\"provider\": \"builtin\", " BUILTIN ", \"docker\": {\"image\": \"a\"}}", "environments.x.docker", "provider builtin"},
      {"{\"provider\": \"docker\"}", "environments.x.docker", "missing"},
      {"{\"provider\": \"podman\", " BUILTIN "}", "environments.x.provider", "one of static"},
      {"{\"docker\": 1}", "environments.x.docker", "object"}, // no word of its image
      {"{\"builtin\": {}}", "environments.x.builtin.environment", "missing"},
      {"{\"builtin\": {\"environment\": \"doom\"}}", "environments.x.builtin.environment", "echo, cartpole, pixels"},
      {"{\"builtin\": {\"environment\": \"echo\", \"lease_s\": 1}}", "environments.x.builtin.lease_s", "beside its provider's object"},
      {"{\"builtin\": {\"environment\": \"echo\", \"args\": [\"a\", 1]}}", "environments.x.builtin.args.1", "string"},
      {"{\"builtin\": {\"environment\": \"echo\", \"args\": \"a\"}}", "environments.x.builtin.args", "list of strings"},
      {"{\"builtin\": {\"environment\": \"echo\", \"args\": [\"\\ud800\"]}}", "environments.x.builtin.args.0", "surrogate"},
      {"{\"builtin\": {\"environment\": \"echo\", \"args\": [\"a\\u0000b\"]}}", "environments.x.builtin.args.0", "NUL"},
      {"{" BUILTIN ", \"headers\": {\"a b\": \"c\"}}", "environments.x.headers.a b", "wrong name"},
      {"{" BUILTIN ", \"headers\": {\"a\": \"c\\r\\nd: e\"}}", "environments.x.headers.a", "ASCII"},
      {"{" BUILTIN ", \"headers\": {\"a\": \"b\", \"a\": \"b\"}}", "environments.x.headers.a", "twice"},
      {"{" BUILTIN ", \"headers\": {\"a\": \"b\", \"A\": \"b\"}}", "environments.x.headers", "more than once"},
      {"{" BUILTIN ", \"headers\": {\"SEC-WebSocket-Key\": \"b\"}}", "environments.x.headers", "sets itself"},
      {"{" BUILTIN ", \"headers\": {\"HOST\": \"b\"}}", "environments.x.headers", "sets itself"},
      {"{" BUILTIN ", \"env_vars\": {\"A=B\": \"b\"}}", "environments.x.env_vars.A=B", "wrong name"},
      {"{" BUILTIN ", \"env_vars\": {\"A\": 1}}", "environments.x.env_vars.A", "string"},
      {"{" BUILTIN ", \"env_vars\": {\"A\": {}}}", "environments.x.env_vars.A", "{\"file\": PATH}"},
      {"{" BUILTIN ", \"env_vars\": {\"A\": {\"file\": \"a\"}}}", "environments.x.env_vars.A", "absolute path"},
      {"{" BUILTIN ", \"env_vars\": {\"A\": {\"file\": \"/a\", \"env\": \"A\"}}}", "environments.x.env_vars.A", "{\"env\": NAME}"},
      {"{" BUILTIN ", \"env_vars\": {\"A\": {\"file\": \"/a\", \"file\": \"/a\"}}}", "environments.x.env_vars.A", "{\"env\": NAME}"},
      {"{" BUILTIN ", \"env_vars\": {\"A\": {\"env\": 1}}}", "environments.x.env_vars.A", "{\"env\": NAME}"},
      {"{" BUILTIN ", \"env_vars\": {\"A\": {\"vault\": \"a\"}}}", "environments.x.env_vars.A", "{\"env\": NAME}"},
      {"{" BUILTIN ", \"headers\": {\"A\": {\"env\": \"a-b\"}}}", "environments.x.headers.A", "environment variable"},
      {"{\"docker\": {\"image\": \"a\", \"labels\": {\"a\": {\"env\": \"A\"}}}}", "environments.x.docker.labels.a", "must be a string"},
      {"{" BUILTIN ", \"pass_env\": [\"A=b\"]}", "environments.x.pass_env.0", "variable's name"},
      {"{\"docker\": {\"image\": \"a\"}, \"pass_env\": [\"A\"]}", "environments.x.pass_env", "env_vars"},
      {"{\"static\": {\"urls\": [\"http://a\"]}, \"pass_env\": [\"A\"]}", "environments.x.pass_env", "static"},
      {"{\"static\": {\"urls\": []}}", "environments.x.static.urls", "at least 1"},
      {"{\"static\": {\"urls\": [\"ftp://a\"]}}", "environments.x.static.urls.0", "http(s)://"},
      {"{\"static\": {\"urls\": [\"http://user@a\"]}}", "environments.x.static.urls.0", "http(s)://"},
      {"{\"static\": {\"urls\": [\"http://a:70000\"]}}", "environments.x.static.urls.0", "http(s)://"},
      {"{\"static\": {\"urls\": [\"http://a/?q\"]}}", "environments.x.static.urls.0", "http(s)://"},
      {"{\"static\": {\"urls\": [\"ws://a\"]}, \"forward_headers\": [\"x\", \"AUTHORIZATION\"]}", "environments.x.forward_headers",
       "credentials never"},
      {"{\"static\": {\"urls\": [\"wss://a\"]}, \"forward_headers\": [\"Host\"]}", "environments.x.forward_headers", "sets itself"},
      {"{\"static\": {\"urls\": [\"http://a\"]}, \"max_workers\": 2}", "environments.x.max_workers", "number of urls (1)"},
      {"{\"static\": {\"urls\": [\"http://a\"]}, \"env_vars\": {\"A\": \"b\"}}", "environments.x.env_vars", "static"},
      {"{\"process\": {\"command\": [\"a\"]}}", "environments.x.process.command", "{port} or {socket}"},
      {"{\"process\": {\"command\": [\"a\", \"{port}\", \"{socket}\"]}}", "environments.x.process.command", "both"},
      {"{\"process\": {\"command\": [\"\", \"{port}\"]}}", "environments.x.process.command", "program"},
      {"{\"uv\": {}}", "environments.x.uv", "exactly one"},
      {"{\"uv\": {\"project\": \".\", \"space\": \"a/b\"}}", "environments.x.uv", "exactly one"},
      {"{\"uv\": {\"space\": \"a\"}}", "environments.x.uv.space", "ORG/NAME"},
      {"{\"uv\": {\"project\": \"\"}}", "environments.x.uv.project", "not empty"},
      {"{\"docker\": {\"port\": 1}}", "environments.x.docker", "an image or a space"},
      {"{\"docker\": {\"image\": \"x\", \"tag\": \"1\"}}", "environments.x.docker.tag", "goes with a space"},
      {"{\"docker\": {\"space\": \"x\"}}", "environments.x.docker.space", "ORG/NAME"},
      {"{\"docker\": {\"image\": \"x\", \"mounts\": [\"relative/path:/x\"]}}", "environments.x.docker.mounts.0", "SOURCE"},
      {"{\"docker\": {\"image\": \"x\", \"mounts\": [\"/a:/b:rw\"]}}", "environments.x.docker.mounts.0", "SOURCE"},
      {"{\"docker\": {\"image\": \"x\", \"cap_add\": [\"net_raw\"]}}", "environments.x.docker.cap_add.0", "capability"},
      {"{\"uv\": {\"project\": \".\", \"port\": 8000}, \"max_workers\": 2}", "environments.x.uv.port", "max_workers"},
      {"{\"uv\": {\"project\": \".\", \"reload\": true, \"workers\": 2}}", "environments.x.uv.reload", "several workers"},
      {"{\"uv\": {\"space\": \"a/b\", \"workers\": 2}}", "environments.x.uv", "an app"},
      {"{\"uv\": {\"project\": \".\", \"host\": \"::\"}}", "environments.x.uv.host", "in []"},
      {"{\"docker\": {\"image\": \"-x\"}}", "environments.x.docker.image", "image"},
      {"{\"docker\": {\"image\": \"x\", \"host\": \"tcp://a\"}}", "environments.x.docker.host", "unix:///"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char text[400];
    snprintf(text, sizeof text, "{\"environments\":\n {\"x\": %s}}", cases[i].body);
    assert_mistake(text, cases[i].path, 2, cases[i].word);
  }
}

static void test_names(void **state)
{
  (void)state;
  const char *bad[] = {"",    "A",   "-a",       "a-",   "a_b",
                       "a.b", "a/b", "a\\u0000", "a\\n", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    char text[300];
    struct config_mistakes m;
    snprintf(text, sizeof text, "{\"environments\": {\"%s\": {" BUILTIN "}}}", bad[i]);
    assert_null(config_parse(str_c(text), &m));
    assert_int_equal(m.n, 1);
    assert_non_null(strstr(m.at[0].text, "no name for an environment"));
    config_mistakes_free(&m);
  }
  config_free(parse_ok("{\"environments\": {\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\": {" BUILTIN "},"
                       "\"0\": {" BUILTIN "}}}"));
  assert_mistake("{\"environments\": {\"a\": {" BUILTIN "},\n\"a\": {" BUILTIN "}}}", "environments.a", 2, "twice");
}

static void test_all_mistakes(void **state)
{
  (void)state;
  static const struct {
    const char *path;
    int line;
  } want[] = {{"threads", 2}, {"log_level", 3}, {"environments.a.lease_s", 5}, {"environments.a.docker", 5}, {"environments.b", 6}};
  struct config_mistakes m;
  assert_null(config_parse(STR("{\n\"threads\": -1,\n\"log_level\": 1,\n\"environments\": {\n"
                               "\"a\": {\"lease_s\": -1, \"docker\": {\"port\": 1}},\n\"b\": {\"lease_s\": 1,\n\"queue_limit\": 1}}}"),
                           &m));
  assert_int_equal(m.n, sizeof want / sizeof *want);
  for (size_t i = 0; i < m.n; i++) {
    assert_string_equal(m.at[i].path, want[i].path);
    assert_int_equal(m.at[i].line, want[i].line);
  }
  config_mistakes_free(&m);
  assert_int_equal(m.n, 0);
}

static void test_broken_json(void **state)
{
  (void)state;
  assert_mistake("", "", 1, "column 1");
  assert_mistake("{\n  \"a\": 1,\n  }", "", 3, "column 3");
  assert_mistake("{} x", "", 1, "column 4");
  assert_mistake("{\"a\": \"\xFF\"}", "", 1, "column 8");
  assert_mistake("{\n\"a\": 1", "", 2, "column");
  assert_mistake("[]", "", 1, "must be an object");
  assert_mistake("{}", "environments", 0, "at least one environment");
  assert_mistake("{\"environments\": {}}", "environments", 0, "at least one environment");
}

static void test_bounds(void **state)
{
  (void)state;
  size_t n = (1 << 20) + 1;
  char *text = malloc(n);
  assert_non_null(text);
  memset(text, ' ', n);
  struct config_mistakes m;
  assert_null(config_parse((struct str){text, n}, &m));
  assert_non_null(strstr(m.at[0].text, "1 MiB"));
  config_mistakes_free(&m);
  memset(text, '[', n);
  assert_null(config_parse((struct str){text, n - 1}, &m)); // deep
  assert_int_equal(m.n, 1);
  config_mistakes_free(&m);
  char *p = text;
  *p++ = '{';
  for (int i = 0; i < 20000; i++)
    p += snprintf(p, 16, "%s\"k%d\":0", i ? "," : "", i);
  *p++ = '}';
  assert_null(config_parse((struct str){text, (size_t)(p - text)}, &m)); // many mistakes
  assert_int_equal(m.n, 100);
  assert_non_null(strstr(m.at[99].text, "more may follow"));
  config_mistakes_free(&m);
  free(text);
}

static void test_load(void **state)
{
  (void)state;
  struct config_mistakes m;
  assert_null(config_load("/nonexistent/file", &m));
  assert_int_equal(m.n, 1);
  assert_non_null(strstr(m.at[0].text, "can't be read"));
  config_mistakes_free(&m);
  assert_null(config_load("/", &m));
  assert_int_equal(m.n, 1);
  config_mistakes_free(&m);
  assert_null(config_load("/dev/zero", &m)); // without end
  assert_non_null(strstr(m.at[0].text, "1 MiB"));
  config_mistakes_free(&m);
  char path[] = "/tmp/test_config.XXXXXX";
  int fd = mkstemp(path);
  assert_true(fd >= 0);
  const char text[] = ENV("{" BUILTIN "}");
  assert_int_equal(write(fd, text, sizeof text - 1), sizeof text - 1);
  close(fd);
  struct config *c = config_load(path, &m);
  unlink(path);
  assert_non_null(c);
  assert_int_equal(m.n, 0);
  config_free(c);
}

// Each row is whole: the sort of thing that nobody sees until a user does.
static void test_table(void **state)
{
  (void)state;
  struct buf schema = {0};
  assert_true(config_schema(&schema));
  assert_true(buf_char(&schema, '\0'));
  for (int i = 0; i < SETTINGS_COUNT; i++) {
    const struct setting *s = &settings[i];
    char quoted[60];
    struct buf expects = {0};
    snprintf(quoted, sizeof quoted, "\"%s\":", s->key);
    assert_non_null(strstr(schema.p, quoted));
    assert_ptr_equal(setting_find(s->scope, s->provider, str_c(s->key)), s); // no key twice
    assert_true(setting_expects(s, &expects) && expects.n > 0);
    assert_true(s->help && s->help[strlen(s->help) - 1] == '.');
    assert_true(!s->pattern || s->form);
    assert_true(!s->name_pattern || s->name_form);
    assert_true(s->scope == IN_ENVIRONMENT || !s->provider);
    assert_true(s->scope != IN_GATEWAY || s->type != SET_PAIRS); // no such options
    assert_true((s->type == SET_ENUM) <= (s->values != NULL));
    buf_free(&expects);
  }
  buf_free(&schema);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_defaults),
      cmocka_unit_test(test_references),
      cmocka_unit_test(test_values),
      cmocka_unit_test(test_docker_spaces),
      cmocka_unit_test(test_provider_left_out),
      cmocka_unit_test(test_wrong_values),
      cmocka_unit_test(test_wrong_environments),
      cmocka_unit_test(test_names),
      cmocka_unit_test(test_all_mistakes),
      cmocka_unit_test(test_broken_json),
      cmocka_unit_test(test_bounds),
      cmocka_unit_test(test_load),
      cmocka_unit_test(test_table),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
