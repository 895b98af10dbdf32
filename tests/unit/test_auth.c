// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "api/api.h"
#include "auth/auth.h"

#define HASH_A "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb" // SHA-256 of "a"
#define HASH_B "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d" // of "b"

static const struct quota_limits none = {0};

// --- the file ------------------------------------------------------------------------------------------------------------------------------

static struct credentials *good(const char *text)
{
  struct err e;
  const struct quota_limits defaults = {.sessions = 7, .calls = 8, .calls_per_s = 9};
  struct credentials *c = credentials_parse(str_c(text), &defaults, &e);
  if (!c)
    fail_msg("%s: %s", text, e.msg);
  return c;
}

static void bad(const char *text, const char *why)
{
  struct err e;
  if (credentials_parse(str_c(text), &none, &e))
    fail_msg("%s is taken", text);
  assert_int_equal(e.code, CODE_INVALID_ARGUMENT);
  if (!strstr(e.msg, why))
    fail_msg("%s: \"%s\" says nothing of \"%s\"", text, e.msg, why);
}

static void test_file(void **state)
{
  (void)state;
  struct credentials *c = good("# who is who\n\n"
                               "sha256:" HASH_B " principal=bob scope=agent\r\n"
                               "  sha256:" HASH_A "\tscope=admin   principal=al.i_c-e@x sessions=1 calls=0 calls_per_s=2.5 \n"
                               "uri:spiffe://example.org/a principal=bob scope=trainer\n"
                               "cn:bob principal=bob scope=trainer\n"
                               "dns:*.example.org principal=eve scope=trainer");
  assert_int_equal(c->n, 5);
  assert_int_equal(c->tokens, 2);
  const struct credential *a = credentials_token(c, STR("a")), *b = credentials_token(c, STR("b"));
  assert_non_null(a);
  assert_non_null(b);
  assert_string_equal(a->principal, "al.i_c-e@x");
  assert_int_equal(a->scopes, SCOPE_ADMIN | SCOPE_TRAINER | SCOPE_AGENT);
  assert_true(a->limits.sessions == 1 && a->limits.calls == 0 && a->limits.calls_per_s > 2.4 && a->limits.calls_per_s < 2.6);
  assert_int_equal(b->scopes, SCOPE_AGENT);
  assert_true(b->limits.sessions == 7 && b->limits.calls == 8);
  assert_null(credentials_token(c, STR("c")));
  assert_null(credentials_token(c, STR("")));
  assert_string_equal(credentials_name(c, "uri:spiffe://example.org/a")->principal, "bob");
  assert_string_equal(credentials_name(c, "dns:*.example.org")->principal, "eve");
  assert_int_equal(credentials_name(c, "cn:bob")->scopes, SCOPE_TRAINER | SCOPE_AGENT);
  assert_null(credentials_name(c, "dns:bob"));
  assert_null(credentials_name(c, "cn:eve"));
  credentials_free(c);

  c = good("");
  assert_null(credentials_token(c, STR("a")));
  assert_null(credentials_name(c, "cn:a"));
  credentials_free(c);
}

static void test_limits_are_the_principals(void **state)
{
  (void)state;
  struct credentials *c = good("cn:b principal=p scope=agent\ncn:c principal=p scope=admin calls=3\ncn:a principal=p scope=trainer");
  const char *const names[] = {"cn:a", "cn:b", "cn:c"};
  for (size_t i = 0; i < 3; i++)
    assert_int_equal(credentials_name(c, names[i])->limits.calls, 3);
  credentials_free(c);
}

static void test_mistakes(void **state)
{
  (void)state;
  bad("token principal=a scope=agent", "line 1: a line must begin with sha256:");
  bad("\n\nsha256:abc principal=a scope=agent", "line 3: sha256: must be followed by 64");
  bad("sha256:" HASH_A "0 principal=a scope=agent", "64");
  bad("cn: principal=a scope=agent", "1 to 512");
  bad("cn:\xc3\xa4 principal=a scope=agent", "ASCII");
  bad("cn:a principal=a", "both needed");
  bad("cn:a scope=agent", "both needed");
  bad("cn:a", "both needed");
  bad("cn:a principal= scope=agent", "principal must be");
  bad("cn:a principal=a/b scope=agent", "principal must be");
  bad("cn:a principal=a principal=a scope=agent", "principal must be given once");
  bad("cn:a principal=a scope=root", "scope must be");
  bad("cn:a principal=a scope=agent scope=admin", "scope must be given once");
  bad("cn:a principal=a scope=agent x", "KEY=VALUE");
  bad("cn:a principal=a scope=agent color=red", "only principal");
  bad("cn:a principal=a scope=agent calls=-1", "a number");
  bad("cn:a principal=a scope=agent calls=1.5", "a number");
  bad("cn:a principal=a scope=agent calls=", "a number");
  bad("cn:a principal=a scope=agent calls_per_s=1.2.3", "a number");
  bad("cn:a principal=a scope=agent calls_per_s=inf", "a number");
  bad("cn:a principal=a scope=agent\ncn:a principal=b scope=agent", "same credential");
  bad("sha256:" HASH_A " principal=a scope=agent\nsha256:" HASH_A " principal=a scope=admin", "same credential");
  bad("cn:a principal=a scope=agent calls=1\ncn:b principal=a scope=agent calls=1", "two lines");
  struct err e;
  assert_null(credentials_parse((struct str){"cn:a\0b principal=a scope=agent", 29}, &none, &e));
  // Mistakes never show a line's text.
  assert_null(credentials_parse(STR("envgate_secret principal=a scope=agent"), &none, &e));
  assert_null(strstr(e.msg, "secret"));
}

// --- scopes ------------------------------------------------------------------------------------------------------------------------------

// A new method must say who may call it, in gateway/auth/scopes.c.
static void test_every_method_has_scopes(void **state)
{
  (void)state;
  assert_true(envgate_api.method_count > 10);
  for (int i = 0; i < envgate_api.method_count; i++)
    if (!scopes_of_method(str_c(envgate_api.methods[i].path)))
      fail_msg("%s has no row in gateway/auth/scopes.c", envgate_api.methods[i].path);
  assert_int_equal(scopes_of_method(STR("/envgate.v1.SessionService/Nothing")), 0);
}

// Agents act in an episode, and can neither begin nor end one.
static void test_agents_have_tools_only(void **state)
{
  (void)state;
  unsigned agent = scope_parse(STR("agent"));
  for (int i = 0; i < envgate_api.method_count; i++) {
    bool tool = strcmp(envgate_api.methods[i].name, "CallTool") == 0 || strcmp(envgate_api.methods[i].name, "ListTools") == 0;
    assert_int_equal((scopes_of_method(str_c(envgate_api.methods[i].path)) & agent) != 0, tool);
  }
  assert_true(scopes_of_method(STR("/envgate.v1.SessionService/CallTool")) & agent);
  assert_true(scopes_of_method(STR("/envgate.v1.SessionService/ListTools")) & agent);
  assert_int_equal(scope_parse(STR("")), 0);
  assert_int_equal(scope_parse(STR("Admin")), 0);
}

static void test_owners(void **state)
{
  (void)state;
  struct principal a = {.name = "a"}, b = {.name = "b"};
  assert_true(auth_owns((struct identity){&a, SCOPE_TRAINER}, &a));
  assert_false(auth_owns((struct identity){&a, SCOPE_TRAINER}, &b));
  assert_false(auth_owns((struct identity){&a, SCOPE_TRAINER}, NULL));
  assert_true(auth_owns((struct identity){&a, SCOPE_ADMIN | SCOPE_TRAINER}, &b));
  assert_true(auth_owns((struct identity){0}, NULL));
}

// --- quotas ------------------------------------------------------------------------------------------------------------------------------

static void test_calls_at_a_time(void **state)
{
  (void)state;
  struct quota q = {0};
  struct err e;
  bool counted;
  assert_true(quota_take_call(&q, 1, &counted, &e));
  assert_false(counted); // no limit, nothing to count
  quota_limit(&q, &(struct quota_limits){.calls = 2});
  assert_true(quota_take_call(&q, 1, &counted, &e) && counted);
  assert_true(quota_take_call(&q, 1, &counted, &e) && counted);
  assert_false(quota_take_call(&q, 1, &counted, &e) || counted);
  assert_int_equal(e.code, CODE_RESOURCE_EXHAUSTED);
  assert_ptr_equal(e.reason, REASON_QUOTA_EXCEEDED);
  assert_true(e.retry_after_ms > 0);
  quota_give_call(&q);
  assert_true(quota_take_call(&q, 1, &counted, &e) && counted);
}

static int allowed_at(struct quota *q, nsec now, struct err *e)
{
  bool counted;
  int n = 0;
  while (n < 10000 && quota_take_call(q, now, &counted, e))
    n++;
  return n;
}

static void test_calls_a_second(void **state)
{
  (void)state;
  struct quota q = {0};
  struct err e;
  nsec t = 1000 * NSEC_PER_S;
  quota_limit(&q, &(struct quota_limits){.calls_per_s = 100});
  assert_int_equal(allowed_at(&q, t, &e), 100); // a second's worth at once
  assert_in_range(e.retry_after_ms, 1, 11);
  assert_int_equal(allowed_at(&q, t + 10 * NSEC_PER_MS, &e), 1);
  assert_int_equal(allowed_at(&q, t + 260 * NSEC_PER_MS, &e), 25);
  assert_int_equal(allowed_at(&q, t + 100 * NSEC_PER_S, &e), 100); // what was not used is not saved
  quota_limit(&q, &(struct quota_limits){.calls_per_s = 0.5});
  struct quota slow = {0};
  quota_limit(&slow, &(struct quota_limits){.calls_per_s = 0.5});
  assert_int_equal(allowed_at(&slow, t, &e), 1);
  assert_in_range(e.retry_after_ms, 1999, 2001);
  assert_int_equal(allowed_at(&slow, t + 1999 * NSEC_PER_MS, &e), 0);
  assert_int_equal(allowed_at(&slow, t + 2000 * NSEC_PER_MS, &e), 1);
}

static void test_sessions(void **state)
{
  (void)state;
  struct quota q = {0};
  struct err e;
  assert_true(quota_take_session(&q, &e)); // counted without a limit, too
  quota_limit(&q, &(struct quota_limits){.sessions = 2});
  assert_true(quota_take_session(&q, &e));
  assert_false(quota_take_session(&q, &e));
  assert_ptr_equal(e.reason, REASON_QUOTA_EXCEEDED);
  quota_give_session(&q);
  assert_true(quota_take_session(&q, &e));
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_file),
      cmocka_unit_test(test_limits_are_the_principals),
      cmocka_unit_test(test_mistakes),
      cmocka_unit_test(test_every_method_has_scopes),
      cmocka_unit_test(test_agents_have_tools_only),
      cmocka_unit_test(test_owners),
      cmocka_unit_test(test_calls_at_a_time),
      cmocka_unit_test(test_calls_a_second),
      cmocka_unit_test(test_sessions),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
