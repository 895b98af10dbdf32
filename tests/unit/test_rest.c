// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "api/api.h"
#include "envgate/v1/environment_service.pb-c.h"
#include "envgate/v1/session_service.pb-c.h"
#include "rpc/rest.h"

// --- matching ------------------------------------------------------------------------------------------------------------------------------

static bool fits(const char *template, const char *path, struct rest_match *m)
{
  return rest_match_template(str_c(template), str_c(path), m);
}

static void assert_var(const struct rest_match *m, int i, const char *field, const char *text)
{
  assert_true(i < m->vars);
  assert_true(str_eq(m->var[i].field, str_c(field)));
  assert_true(str_eq(m->var[i].text, str_c(text)));
}

static void test_literals(void **state)
{
  (void)state;
  struct rest_match m;
  assert_true(fits("/v1/sessions", "/v1/sessions", &m));
  assert_int_equal(m.vars, 0);
  assert_false(fits("/v1/sessions", "/v1/sessions/", &m));
  assert_false(fits("/v1/sessions", "/v1/session", &m));
  assert_false(fits("/v1/sessions", "/v1/sessionss", &m));
  assert_false(fits("/v1/sessions", "", &m));
  assert_false(fits("/v1/sessions", "v1/sessions", &m));
}

static void test_variables(void **state)
{
  (void)state;
  struct rest_match m;
  assert_true(fits("/v1/{name=sessions/*}", "/v1/sessions/a", &m));
  assert_int_equal(m.vars, 1);
  assert_var(&m, 0, "name", "sessions/a");
  assert_false(m.var[0].whole);
  assert_false(fits("/v1/{name=sessions/*}", "/v1/sessions/", &m));
  assert_false(fits("/v1/{name=sessions/*}", "/v1/sessions", &m));
  assert_false(fits("/v1/{name=sessions/*}", "/v1/sessions/a/b", &m));
  assert_false(fits("/v1/{name=sessions/*}", "/v1/sessions//", &m));
  assert_true(fits("/v1/{session=sessions/*}/reset", "/v1/sessions/a/reset", &m));
  assert_var(&m, 0, "session", "sessions/a");
  assert_false(fits("/v1/{session=sessions/*}/reset", "/v1/sessions/a/reset/", &m));
  assert_false(fits("/v1/{session=sessions/*}/reset", "/v1/sessions/reset", &m));

  assert_true(fits("/v1/{a}/x/{b.c}", "/v1/1/x/2", &m));
  assert_int_equal(m.vars, 2);
  assert_var(&m, 0, "a", "1");
  assert_var(&m, 1, "b.c", "2");
  assert_true(m.var[0].whole);

  assert_true(fits("/v1/{path=files/**}", "/v1/files/a/b/c", &m));
  assert_var(&m, 0, "path", "files/a/b/c");
  assert_true(fits("/v1/*/b", "/v1/anything/b", &m));
  assert_int_equal(m.vars, 0);
}

static void test_custom_verbs(void **state)
{
  (void)state;
  struct rest_match m;
  assert_true(fits("/v1/sessions:stepBatch", "/v1/sessions:stepBatch", &m));
  assert_false(fits("/v1/sessions:stepBatch", "/v1/sessions", &m));
  assert_false(fits("/v1/sessions", "/v1/sessions:stepBatch", &m));
  assert_true(fits("/v1/{name=sessions/*}:close", "/v1/sessions/a:close", &m));
  assert_var(&m, 0, "name", "sessions/a");
  assert_false(fits("/v1/{name=sessions/*}:close", "/v1/sessions/:close", &m));
  assert_false(fits("/v1/{name=sessions/*}:close", ":close", &m));
}

static void test_too_many_variables(void **state)
{
  (void)state;
  struct rest_match m;
  assert_true(fits("/{a}/{b}/{c}/{d}/{e}/{f}/{g}/{h}", "/1/2/3/4/5/6/7/8", &m));
  assert_int_equal(m.vars, REST_MAX_VARS);
  assert_false(fits("/{a}/{b}/{c}/{d}/{e}/{f}/{g}/{h}/{i}", "/1/2/3/4/5/6/7/8/9", &m));
}

static void find(const char *verb, const char *path, const char *expect_method, const char *expect_allow)
{
  struct rest_match m;
  bool other_verb = true;
  struct buf allow = {0};
  bool found = rest_find(&envgate_api, str_c(verb), str_c(path), &m, &other_verb, &allow);
  assert_int_equal(found, expect_method != NULL);
  if (found)
    assert_string_equal(m.method->name, expect_method);
  assert_int_equal(other_verb, expect_allow != NULL);
  if (expect_allow)
    assert_true(str_eq(buf_view(&allow), str_c(expect_allow)));
  buf_free(&allow);
}

static void test_find(void **state)
{
  (void)state;
  find("POST", "/v1/sessions", "CreateSession", NULL);
  find("GET", "/v1/sessions", "ListSessions", NULL);
  find("HEAD", "/v1/sessions", "ListSessions", NULL);
  find("GET", "/v1/sessions/a", "GetSession", NULL);
  find("DELETE", "/v1/sessions/a", "CloseSession", NULL);
  find("POST", "/v1/sessions/a/step", "Step", NULL);
  find("GET", "/v1/environments/e/schema", "GetSchema", NULL);
  find("GET", "/v1/nothing", NULL, NULL);
  find("GET", "/", NULL, NULL);
  find("GET", "", NULL, NULL);
  find("get", "/v1/sessions/a/step", NULL, "POST");
  find("PUT", "/v1/sessions/a", NULL, "GET, DELETE");
}

// --- requests ------------------------------------------------------------------------------------------------------------------------------

struct made {
  struct arena arena;
  struct err err;
  const void *message;
};

static void make(struct made *made, const char *verb, const char *path, const char *query, const char *body)
{
  struct rest_match m;
  bool other_verb;
  assert_true(rest_find(&envgate_api, str_c(verb), str_c(path), &m, &other_verb, NULL));
  arena_init(&made->arena, 1 << 20);
  err_clear(&made->err);
  made->message = rest_request(&m, str_c(query), str_c(body), 64, &made->arena, &made->err);
}

static void unmake(struct made *made)
{
  arena_free(&made->arena);
}

static void refused(const char *verb, const char *path, const char *query, const char *body, const char *field)
{
  struct made made;
  make(&made, verb, path, query, body);
  assert_null(made.message);
  assert_int_equal(made.err.code, CODE_INVALID_ARGUMENT);
  assert_string_equal(made.err.field, field);
  assert_true(made.err.msg[0] != '\0');
  unmake(&made);
}

static void assert_json(const Envgate__V1__Payload *payload, const char *json)
{
  assert_non_null(payload);
  assert_int_equal(payload->form_case, ENVGATE__V1__PAYLOAD__FORM_JSON);
  assert_int_equal(payload->json.len, strlen(json));
  assert_memory_equal(payload->json.data, json, strlen(json));
}

static void test_body_and_path(void **state)
{
  (void)state;
  struct made made;
  make(&made, "POST", "/v1/sessions/a/step", "", "{\"action\":{\"x\" : 1.0},\"timeout_s\":2.5}");
  const Envgate__V1__StepRequest *step = made.message;
  assert_non_null(step);
  assert_string_equal(step->session, "sessions/a");
  assert_json(step->action, "{\"x\" : 1.0}");
  assert_true(step->timeout_s > 2.4 && step->timeout_s < 2.6);
  unmake(&made);

  make(&made, "POST", "/v1/sessions/a/reset", "", ""); // no body is an empty one
  const Envgate__V1__ResetRequest *reset = made.message;
  assert_non_null(reset);
  assert_string_equal(reset->session, "sessions/a");
  unmake(&made);
}

static void test_query(void **state)
{
  (void)state;
  struct made made;
  make(&made, "GET", "/v1/sessions", "page_size=7&&pageToken=a%2Fb+c", "");
  const Envgate__V1__ListSessionsRequest *list = made.message;
  assert_non_null(list);
  assert_int_equal(list->page_size, 7);
  assert_string_equal(list->page_token, "a/b c");
  unmake(&made);

  make(&made, "GET", "/v1/sessions/a/state", "payload_format=PAYLOAD_FORMAT_VALUE", "");
  const Envgate__V1__GetStateRequest *get = made.message;
  assert_non_null(get);
  assert_int_equal(get->payload_format, ENVGATE__V1__PAYLOAD_FORMAT__PAYLOAD_FORMAT_VALUE);
  unmake(&made);

  refused("GET", "/v1/sessions", "nothing=1", "", "nothing");
  refused("GET", "/v1/sessions", "page_size=x", "", "page_size");
  refused("GET", "/v1/sessions", "page_size=1&page_size=2", "", "page_size");
  refused("GET", "/v1/sessions", "page_size=1&pageSize=2", "", "page_size");
  refused("GET", "/v1/sessions", "page_token=%zz", "", "page_token");
  refused("GET", "/v1/sessions", "page_token=%", "", "page_token");
  refused("GET", "/v1/sessions", "page_token=%4", "", "page_token");
  refused("GET", "/v1/sessions", "page_token=%00", "", "page_token");
  refused("GET", "/v1/sessions", "page_token=%ff", "", "page_token");
}

static void test_path_escapes(void **state)
{
  (void)state;
  struct made made;
  make(&made, "GET", "/v1/sessions/a%2Fb%20c%2f+", "", "");
  const Envgate__V1__GetSessionRequest *get = made.message;
  assert_non_null(get);
  assert_string_equal(get->name, "sessions/a%2Fb c%2f+"); // the slash would name another resource, so it stays escaped
  unmake(&made);

  refused("GET", "/v1/sessions/%", "", "", "name");
  refused("GET", "/v1/sessions/%G0", "", "", "name");
  refused("GET", "/v1/sessions/%00", "", "", "name");
  refused("GET", "/v1/sessions/%C0%AF", "", "", "name");
}

static void test_given_twice(void **state)
{
  (void)state;
  refused("POST", "/v1/sessions/a/step", "", "{\"session\":\"sessions/b\",\"action\":{}}", "session");
  refused("GET", "/v1/sessions/a", "name=sessions/b", "", "name");
  refused("POST", "/v1/sessions/a/step", "step_index=1", "{\"step_index\":0,\"action\":{}}", "step_index");
  refused("POST", "/v1/sessions/a/step", "timeout_s=1", "{\"timeout_s\":2,\"action\":{}}", "timeout_s");
}

static void test_extras(void **state)
{
  (void)state;
  struct made made;
  make(&made, "POST", "/v1/sessions/a/reset", "", "{\"seed\":7,\"difficulty\":\"hard\"}");
  const Envgate__V1__ResetRequest *reset = made.message;
  assert_non_null(reset);
  assert_int_equal(reset->seed, 7);
  assert_json(reset->options, "{\"difficulty\":\"hard\"}");
  unmake(&made);
  refused("POST", "/v1/sessions/a/step", "", "{\"action\":{},\"difficulty\":\"hard\"}", "difficulty"); // reset only
}

static void test_no_body_taken(void **state)
{
  (void)state;
  refused("GET", "/v1/sessions/a", "", "{}", "");
  refused("DELETE", "/v1/sessions/a", "", "{}", "");
}

static void test_out_of_memory(void **state)
{
  (void)state;
  struct rest_match m;
  bool other_verb;
  assert_true(rest_find(&envgate_api, STR("GET"), STR("/v1/sessions/abcdefgh"), &m, &other_verb, NULL));
  struct arena a;
  arena_init(&a, 16);
  struct err e;
  assert_null(rest_request(&m, STR(""), STR(""), 64, &a, &e));
  assert_string_equal(e.reason, REASON_OUT_OF_MEMORY);
  arena_free(&a);
}

// --- replies -------------------------------------------------------------------------------------------------------------------------------

static void test_replies(void **state)
{
  (void)state;
  struct rest_match m;
  bool other_verb;
  struct err e;
  struct buf out = {0};
  uint8_t json[] = "{\"a\" : 1}";

  Envgate__V1__Payload payload;
  envgate__v1__payload__init(&payload);
  payload.form_case = ENVGATE__V1__PAYLOAD__FORM_JSON;
  payload.json = (ProtobufCBinaryData){sizeof json - 1, json};
  Envgate__V1__GetStateResponse got;
  envgate__v1__get_state_response__init(&got);
  got.state = &payload;
  assert_true(rest_find(&envgate_api, STR("GET"), STR("/v1/sessions/a/state"), &m, &other_verb, NULL));
  assert_true(rest_reply(&envgate_api, m.method, &got.base, NULL, &out, &e));
  assert_true(str_eq(buf_view(&out), STR("{\"a\" : 1}"))); // response_body: the state itself, its bytes untouched
  buf_free(&out);

  Envgate__V1__StepResult result;
  envgate__v1__step_result__init(&result);
  result.observation = &payload;
  assert_true(rest_find(&envgate_api, STR("POST"), STR("/v1/sessions/a/step"), &m, &other_verb, NULL));
  assert_true(rest_reply(&envgate_api, m.method, &result.base, NULL, &out, &e));
  assert_true(buf_char(&out, '\0'));
  assert_non_null(strstr(out.p, "\"observation\":{\"a\" : 1}"));
  assert_non_null(strstr(out.p, "\"done\":false")); // OpenEnv's clients need it, though proto3 leaves defaults out
  assert_non_null(strstr(out.p, "\"step_index\":\"0\""));
  assert_null(strstr(out.p, "reward")); // has presence, and is not set
  buf_free(&out);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_literals),      cmocka_unit_test(test_variables),
      cmocka_unit_test(test_custom_verbs),  cmocka_unit_test(test_too_many_variables),
      cmocka_unit_test(test_find),          cmocka_unit_test(test_body_and_path),
      cmocka_unit_test(test_query),         cmocka_unit_test(test_path_escapes),
      cmocka_unit_test(test_given_twice),   cmocka_unit_test(test_extras),
      cmocka_unit_test(test_no_body_taken), cmocka_unit_test(test_out_of_memory),
      cmocka_unit_test(test_replies),
  };
  return cmocka_run_group_tests_name("rest", tests, NULL, NULL);
}
