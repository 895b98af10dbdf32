// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "api/api.h"
#include "config/config.h"
#include "front/connect_wire.h"
#include "front/grpc_web_wire.h"

static void test_content_types(void **state)
{
  (void)state;
  static const struct {
    const char *type;
    bool ok, stream;
    enum codec codec;
  } rows[] = {
      {"application/proto", true, false, CODEC_PROTO},
      {"application/json", true, false, CODEC_JSON},
      {"Application/JSON; charset=utf-8", true, false, CODEC_JSON},
      {"application/connect+proto", true, true, CODEC_PROTO},
      {"application/connect+json ;x=y", true, true, CODEC_JSON},
      {"", false, false, 0},
      {"application/protobuf", false, false, 0},
      {"application/connect", false, false, 0},
      {"application/connect+foo", false, false, 0},
      {"application/grpc-web", false, false, 0},
      {"text/json", false, false, 0},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    bool stream = false;
    enum codec codec = CODEC_REST;
    assert_int_equal(connect_content_type(str_c(rows[i].type), &stream, &codec), rows[i].ok);
    if (!rows[i].ok)
      continue;
    assert_int_equal(stream, rows[i].stream);
    assert_int_equal(codec, rows[i].codec);
  }
  bool text;
  enum codec codec;
  assert_true(grpc_web_content_type(STR("application/grpc-web"), &text, &codec) && !text && codec == CODEC_PROTO);
  assert_true(grpc_web_content_type(STR("application/grpc-web+json"), &text, &codec) && !text && codec == CODEC_JSON);
  assert_true(grpc_web_content_type(STR("application/grpc-web-text"), &text, &codec) && text && codec == CODEC_PROTO);
  assert_true(grpc_web_content_type(STR("application/GRPC-web-text+proto; a=b"), &text, &codec) && text && codec == CODEC_PROTO);
  assert_false(grpc_web_content_type(STR("application/grpc-webby"), &text, &codec));
  assert_false(grpc_web_content_type(STR("application/grpc-web-texts"), &text, &codec));
  assert_false(grpc_web_content_type(STR("application/grpc"), &text, &codec));
}

static void test_timeouts(void **state)
{
  (void)state;
  nsec t;
  assert_true(connect_timeout(STR("0"), &t) && t == 0);
  assert_true(connect_timeout(STR("1500"), &t) && t == 1500 * NSEC_PER_MS);
  assert_true(connect_timeout(STR("9999999999"), &t) && t == 9999999999 * NSEC_PER_MS);
  const char *const bad[] = {"", "10000000000", "-1", "1.5", "1s", " 1", "1 "};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    assert_false(connect_timeout(str_c(bad[i]), &t));
}

static bool query(const char *text, struct connect_get *get, bool *unsupported, struct arena *a)
{
  struct err e;
  err_clear(&e);
  bool ok = connect_query(str_c(text), a, get, unsupported, &e);
  assert_true(ok || e.code == CODE_INVALID_ARGUMENT || e.code == CODE_UNIMPLEMENTED);
  return ok;
}

static void test_queries(void **state)
{
  (void)state;
  struct arena a;
  arena_init(&a, 1 << 16);
  struct connect_get get;
  bool unsupported;
  assert_true(query("connect=v1&encoding=json&message=%7B%22a%22%3A%22+%2B%22%7D", &get, &unsupported, &a));
  assert_true(get.codec == CODEC_JSON && !get.gzip && str_eq(get.message, STR("{\"a\":\" +\"}")));
  assert_true(query("message=CgFh&base64=1&encoding=proto&compression=gzip&other=%", &get, &unsupported, &a));
  assert_true(get.codec == CODEC_PROTO && get.gzip && str_eq(get.message, STR("\n\1a")));
  assert_true(query("encoding=proto&message=%00%ff&base64=0&compression=identity", &get, &unsupported, &a));
  assert_int_equal(get.message.n, 2);
  assert_memory_equal(get.message.p, "\0\xff", 2);
  assert_true(query("encoding=json&message=", &get, &unsupported, &a) && get.message.n == 0);

  const char *const bad[] = {"",
                             "encoding=json",
                             "message={}",
                             "message={}&message={}&encoding=json",
                             "encoding=json&message=%7",
                             "encoding=json&message=%zz",
                             "encoding=json&message={}&connect=v2",
                             "encoding=json&message={}&compression=br",
                             "encoding=json&message=!&base64=1",
                             "encoding=json&message=e30&base64=yes"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    assert_true(!query(bad[i], &get, &unsupported, &a) && !unsupported);
  assert_true(!query("encoding=xml&message=x", &get, &unsupported, &a) && unsupported);
  arena_free(&a);
}

// --- ends ----------------------------------------------------------------------------------------------------------------------------------

static void expect(const struct buf *out, const char *text)
{
  assert_int_equal(out->n, strlen(text));
  assert_memory_equal(out->p, text, out->n);
}

struct ends {
  struct reactor r;
  struct metrics m;
  struct config *config;
};

static void finish(struct call *c, struct buf *out, const struct err *e)
{
  (void)c, (void)out, (void)e;
}

static void test_ends(void **state)
{
  struct ends *s = *state;
  static const struct call_front front = {.finish = finish};
  struct call *c = call_new(&s->r, &front, NULL);
  struct buf out = {0};
  assert_true(connect_end(c, NULL, &out));
  expect(&out, "{}");
  buf_free(&out);
  assert_true(grpc_web_trailers(c, NULL, &out));
  expect(&out, "grpc-status: 0\r\n");
  buf_free(&out);

  struct err e;
  err_set(&e, CODE_NOT_FOUND, REASON_SESSION_NOT_FOUND, "no \"x\"\n");
  assert_true(connect_error(c, &e, &out));
  expect(&out, "{\"code\":\"not_found\",\"message\":\"no \\\"x\\\"\\n\",\"details\":[{\"type\":\"google.rpc.ErrorInfo\",\"value\":"
               "\"ChFTRVNTSU9OX05PVF9GT1VORBIHZW52Z2F0ZQ\"}]}");
  buf_free(&out);

  assert_true(call_add_trailer(c, STR("x-a"), STR("1")) && call_add_trailer(c, STR("x-b"), STR("\"")) && call_add_trailer(c, STR("x-a"), STR("2")));
  assert_true(connect_end(c, NULL, &out));
  expect(&out, "{\"metadata\":{\"x-a\":[\"1\",\"2\"],\"x-b\":[\"\\\"\"]}}");
  buf_free(&out);
  err_set(&e, CODE_CANCELLED, NULL, "%s", "");
  assert_true(connect_end(c, &e, &out));
  expect(&out, "{\"error\":{\"code\":\"canceled\"},\"metadata\":{\"x-a\":[\"1\",\"2\"],\"x-b\":[\"\\\"\"]}}");
  buf_free(&out);
  assert_true(grpc_web_trailers(c, NULL, &out));
  expect(&out, "grpc-status: 0\r\nx-a: 1\r\nx-b: \"\r\nx-a: 2\r\n");
  buf_free(&out);

  // What a message says can't end the line that it is in.
  err_set(&e, CODE_INTERNAL, NULL, "a\r\nx: y");
  assert_true(grpc_web_trailers(c, &e, &out));
  assert_non_null(memmem(out.p, out.n, "grpc-message: a%0D%0Ax: y\r\n", 27));
  buf_free(&out);
  call_drop(c);
}

static void test_text(void **state)
{
  (void)state;
  static const char two[] = "AAAAAAEK/w==AAA="; // two encodings, each with its padding
  for (size_t cut = 0; cut < sizeof two; cut++) {
    struct grpc_web_text t = {0};
    struct buf out = {0};
    assert_true(grpc_web_text_decode(&t, (struct str){two, cut}, &out));
    assert_true(grpc_web_text_decode(&t, (struct str){two + cut, sizeof two - 1 - cut}, &out));
    assert_true(grpc_web_text_whole(&t));
    assert_int_equal(out.n, 9);
    assert_memory_equal(out.p, "\0\0\0\0\1\n\xff\0\0", 9);
    buf_free(&out);
  }
  struct grpc_web_text t = {0};
  struct buf out = {0};
  assert_false(grpc_web_text_decode(&t, STR("AA!A"), &out));
  t = (struct grpc_web_text){0};
  assert_true(grpc_web_text_decode(&t, STR("AAAAA"), &out) && !grpc_web_text_whole(&t));
  out.n = 0;
  assert_true(grpc_web_text_encode(STR("\0\0\0\0"), &out));
  expect(&out, "AAAAAA==");
  buf_free(&out);
}

static int set_up(void **state)
{
  struct ends *s = calloc(1, sizeof *s);
  static struct reactor *all[1];
  struct err e;
  *state = s;
  s->config = calloc(1, sizeof *s->config);
  s->config->max_message_bytes = 4096;
  all[0] = &s->r;
  if (!metrics_init(&s->m, envgate_api.method_count) || !reactor_init(&s->r, 0, all, 1, &e))
    return -1;
  s->r.metrics = &s->m;
  s->r.config = s->config;
  static const struct rpc_handler none[] = {{.path = NULL}};
  return rpc_init(&s->r, &envgate_api, none) ? 0 : -1;
}

static int tear_down(void **state)
{
  struct ends *s = *state;
  rpc_free(&s->r);
  reactor_free(&s->r);
  metrics_free(&s->m);
  free(s->config);
  free(s);
  return 0;
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_content_types), cmocka_unit_test(test_timeouts),
      cmocka_unit_test(test_queries),       cmocka_unit_test_setup_teardown(test_ends, set_up, tear_down),
      cmocka_unit_test(test_text),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
