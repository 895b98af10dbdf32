// SPDX-License-Identifier: Apache-2.0
// What callers may have launched: allowed wholes and beginnings, what would lead out of them, and which sources are the same.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// cmocka needs those above
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/inline.h"

#define ENVIRONMENTS "\"environments\": {\"x\": {\"builtin\": {\"environment\": \"echo\"}}}"

static struct config *parse(const char *inline_sources)
{
  char text[2048];
  struct config_mistakes m;
  snprintf(text, sizeof text, "{%s%s%s}", ENVIRONMENTS, inline_sources ? ", \"inline_sources\": " : "", inline_sources ? inline_sources : "");
  struct config *c = config_parse(str_c(text), &m);
  if (!c)
    fail_msg("%s: %s", m.n ? m.at[0].path : "", m.n ? m.at[0].text : "out of memory");
  return c;
}

static struct env_config *make(const struct config *c, enum source_kind kind, const char *what, struct err *e)
{
  return inline_env(c, &(struct inline_source){.kind = kind, .what = what, .app = ""}, e);
}

static void assert_allowed(const struct config *c, enum source_kind kind, const char *what)
{
  struct err e;
  struct env_config *env = make(c, kind, what, &e);
  if (!env)
    fail_msg("%s: %s", what, e.msg);
  env_release(env);
}

static void assert_refused(const struct config *c, enum source_kind kind, const char *what, enum code code, const char *word)
{
  struct err e;
  struct env_config *env = make(c, kind, what, &e);
  if (env)
    fail_msg("%s was allowed", what);
  assert_int_equal(e.code, code);
  if (code == CODE_PERMISSION_DENIED)
    assert_ptr_equal(e.reason, REASON_SOURCE_NOT_ALLOWED);
  if (!strstr(e.msg, word))
    fail_msg("\"%s\" has no \"%s\"", e.msg, word);
}

static void test_off_by_default(void **state)
{
  (void)state;
  struct config *c = parse(NULL);
  assert_refused(c, SOURCE_IMAGE, "a:1", CODE_PERMISSION_DENIED, "inline_sources.images");
  assert_refused(c, SOURCE_SPACE_UV, "a/b", CODE_PERMISSION_DENIED, "inline_sources.spaces");
  assert_refused(c, SOURCE_PROJECT_URL, "git+https://a/b", CODE_PERMISSION_DENIED, "inline_sources.project_urls");
  assert_refused(c, SOURCE_PATH, "/tmp", CODE_PERMISSION_DENIED, "inline_sources.paths");
  assert_refused(c, SOURCE_PATH, "/no/such/folder", CODE_PERMISSION_DENIED, "inline_sources.paths");
  config_free(c);
}

#define DIGEST "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void test_images(void **state)
{
  (void)state;
  struct config *c = parse("{\"images\": [\"r.example.com/envs/*\", \"echo:1\", \"" DIGEST "\"]}");
  assert_allowed(c, SOURCE_IMAGE, "r.example.com/envs/chess:2");
  assert_allowed(c, SOURCE_IMAGE, "echo:1");
  assert_allowed(c, SOURCE_IMAGE, "anywhere.example/x@" DIGEST);
  assert_refused(c, SOURCE_IMAGE, "r.example.com/envs", CODE_PERMISSION_DENIED, "does not allow");
  assert_refused(c, SOURCE_IMAGE, "r.example.com/envsevil/x", CODE_PERMISSION_DENIED, "does not allow");
  assert_refused(c, SOURCE_IMAGE, "echo:11", CODE_PERMISSION_DENIED, "does not allow");
  assert_refused(c, SOURCE_IMAGE, "x@" DIGEST "0", CODE_PERMISSION_DENIED, "does not allow");
  assert_refused(c, SOURCE_IMAGE, "r.example.com/envs/a b", CODE_INVALID_ARGUMENT, "source.image must be an image's name");
  assert_refused(c, SOURCE_IMAGE, "", CODE_INVALID_ARGUMENT, "source.image must have 1 to");
  assert_refused(c, SOURCE_SPACE, "a/b", CODE_PERMISSION_DENIED, "inline_sources.spaces");
  config_free(c);
}

static void test_urls(void **state)
{
  (void)state;
  struct config *c = parse("{\"project_urls\": [\"git+https://g.example/envs/*\", \"openenv-echo==1.2\"]}");
  assert_allowed(c, SOURCE_PROJECT_URL, "git+https://g.example/envs/chess@v1#subdirectory=a..b");
  assert_allowed(c, SOURCE_PROJECT_URL, "openenv-echo==1.2");
  static const char *const out[] = {
      "git+https://g.example/envs/../evil",     "git+https://g.example/envs/x/..",      "git+https://g.example/envs/%2e%2e/evil",
      "git+https://g.example/envs/a,evil",      "git+https://g.example/envs/a evil",    "git+https://g.example/envs/..#x",
      "git+https://g.example/envs/a\\..\\evil", "git+https://g.example/envs/./../evil", "git+https://g.example/envs/..@main",
  };
  for (size_t i = 0; i < sizeof out / sizeof *out; i++)
    assert_refused(c, SOURCE_PROJECT_URL, out[i], CODE_INVALID_ARGUMENT, "ways up");
  assert_refused(c, SOURCE_PROJECT_URL, "git+https://g.example/other", CODE_PERMISSION_DENIED, "project_urls does not allow");
  assert_refused(c, SOURCE_PROJECT_URL, "openenv-echo==1.22", CODE_PERMISSION_DENIED, "project_urls does not allow");
  config_free(c);
}

static void test_paths(void **state)
{
  (void)state;
  char root[] = "/tmp/envgate-test-inline-XXXXXX", text[256], path[256], link[256];
  assert_non_null(mkdtemp(root));
  snprintf(text, sizeof text, "{\"paths\": [\"%s/good/*\"]}", root);
  struct config *c = parse(text);
  snprintf(path, sizeof path, "%s/good", root);
  assert_int_equal(mkdir(path, 0700), 0);
  snprintf(path, sizeof path, "%s/good/env", root);
  assert_int_equal(mkdir(path, 0700), 0);
  snprintf(link, sizeof link, "%s/good/out", root);
  assert_int_equal(symlink("/usr", link), 0);
  assert_allowed(c, SOURCE_PATH, path);
  assert_refused(c, SOURCE_PATH, link, CODE_PERMISSION_DENIED, "does not allow");
  snprintf(path, sizeof path, "%s/good/env/../../../../usr", root);
  assert_refused(c, SOURCE_PATH, path, CODE_PERMISSION_DENIED, "does not allow");
  assert_refused(c, SOURCE_PATH, "good/env", CODE_PERMISSION_DENIED, "does not allow");
  assert_refused(c, SOURCE_PATH, "/no/such/folder", CODE_PERMISSION_DENIED, "does not allow");
  config_free(c);
  unlink(link);
  snprintf(path, sizeof path, "%s/good/env", root);
  rmdir(path);
  snprintf(path, sizeof path, "%s/good", root);
  rmdir(path);
  rmdir(root);
}

static struct env_config *with_vars(const struct config *c, struct pair *vars, size_t n, struct err *e)
{
  return inline_env(c, &(struct inline_source){.kind = SOURCE_IMAGE, .what = "echo:1", .app = "", .env_vars = {vars, n}}, e);
}

static void test_the_same_source_has_the_same_name(void **state)
{
  (void)state;
  struct config *c =
      parse("{\"images\": [\"*\"], \"spaces\": [\"*\"], \"env_vars\": [\"GAME_*\", \"SEED\"], "
            "\"common\": {\"max_workers\": 3, \"lease_s\": 7, \"env_vars\": {\"GAME_OURS\": \"1\"}, \"docker\": {\"memory_bytes\": \"1GiB\"}}}");
  char game[] = "GAME_NAME", seed[] = "SEED", one[] = "1", two[] = "2", other[] = "LD_PRELOAD", ours[] = "GAME_OURS";
  struct pair ab[] = {{game, one, VALUE_PLAIN}, {seed, two, VALUE_PLAIN}}, ba[] = {{seed, two, VALUE_PLAIN}, {game, one, VALUE_PLAIN}},
              different[] = {{game, two, VALUE_PLAIN}, {seed, one, VALUE_PLAIN}};
  struct err e;
  struct env_config *first = with_vars(c, ab, 2, &e), *second = with_vars(c, ba, 2, &e), *third = with_vars(c, different, 2, &e),
                    *none = with_vars(c, NULL, 0, &e);
  assert_true(first && second && third && none);
  assert_string_equal(first->name, second->name);
  assert_string_not_equal(first->name, third->name);
  assert_string_not_equal(first->name, none->name);
  assert_true(strncmp(first->name, "inline_", 7) == 0 && strlen(first->name) == 39);
  assert_string_equal(first->provider, "docker");
  assert_string_equal(first->image, "echo:1");
  assert_int_equal(first->max_workers, 3); // what all have in common
  assert_int_equal(first->memory_bytes, 1 << 30);
  assert_true(first->lease_s == 7);
  assert_int_equal(first->env_vars.n, 3);
  assert_true(env_is_inline(first) && !env_is_inline(&c->envs[0]));
  env_hold(first);
  env_release(first);
  env_release(first);
  env_release(second);
  env_release(third);
  env_release(none);
  env_hold(&c->envs[0]); // nothing
  env_release(&c->envs[0]);
  struct pair bad[] = {{other, one, VALUE_PLAIN}};
  assert_null(with_vars(c, bad, 1, &e));
  assert_int_equal(e.code, CODE_PERMISSION_DENIED);
  assert_non_null(strstr(e.msg, "inline_sources.env_vars does not allow LD_PRELOAD"));
  struct pair set[] = {{ours, one, VALUE_PLAIN}};
  assert_null(with_vars(c, set, 1, &e));
  assert_int_equal(e.code, CODE_PERMISSION_DENIED);
  struct inline_source app = {.kind = SOURCE_IMAGE, .what = "echo:1", .app = "a:b"},
                       port = {.kind = SOURCE_SPACE_UV, .what = "a/b", .app = "", .port = 1};
  assert_null(inline_env(c, &app, &e));
  assert_string_equal(e.field, "source.app");
  assert_null(inline_env(c, &port, &e));
  assert_string_equal(e.field, "source.port");
  config_free(c);
}

static void test_mistakes(void **state)
{
  (void)state;
  static const struct {
    const char *text, *path, *word;
  } cases[] = {
      {"{\"imags\": []}", "inline_sources.imags", "did you mean images"},
      {"{\"images\": [\"a b\"]}", "inline_sources.images.0", "whole name"},
      {"{\"paths\": [\"rel\"]}", "inline_sources.paths.0", "absolute"},
      {"{\"common\": {\"min_workers\": 1}}", "inline_sources.common.min_workers", "does not belong"},
      {"{\"common\": {\"docker\": {\"image\": \"a\"}}}", "inline_sources.common.docker.image", "does not belong"},
      {"{\"common\": {\"process\": {\"command\": [\"a\"]}}}", "inline_sources.common.process", "docker and uv"},
      {"{\"max_pools\": 0}", "inline_sources.max_pools", "from 1 to 1000"},
      {"[]", "inline_sources", "must be an object"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char text[512];
    struct config_mistakes m;
    snprintf(text, sizeof text, "{%s, \"inline_sources\": %s}", ENVIRONMENTS, cases[i].text);
    assert_null(config_parse(str_c(text), &m));
    assert_int_equal(m.n, 1);
    assert_string_equal(m.at[0].path, cases[i].path);
    if (!strstr(m.at[0].text, cases[i].word))
      fail_msg("\"%s\" has no \"%s\"", m.at[0].text, cases[i].word);
    config_mistakes_free(&m);
  }
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_off_by_default), cmocka_unit_test(test_images),   cmocka_unit_test(test_urls),
      cmocka_unit_test(test_paths),          cmocka_unit_test(test_mistakes), cmocka_unit_test(test_the_same_source_has_the_same_name),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
