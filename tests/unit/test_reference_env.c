// SPDX-License-Identifier: Apache-2.0
// The reference worker's environments against numbers that NumPy 2.4.6 and Gymnasium 1.4.0 gave.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// cmocka needs those above
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "reference/env.h"
#include "reference/pcg64.h"

static void test_pcg64_is_numpys(void **state)
{
  (void)state;
  // np.random.default_rng(seed).uniform(-0.05, 0.05, 4)
  static const struct {
    uint64_t seed;
    double want[4];
  } golden[] = {
      {0u, {0.013696168732145436, -0.02302132862361297, -0.045902647606380534, -0.04834723644714709}},
      {1u, {0.0011821624700256717, 0.045046369632593536, -0.03558403872803663, 0.04486494471372439}},
      {42u, {0.027395604855596334, -0.006112156024794771, 0.03585979199113824, 0.019736802905936393}},
      {123456789012345u, {0.0030006967885416597, -0.04555579058704626, 0.02573609912250263, -0.00278975811425676}},
      {4294967296u, {0.03897387912781343, 0.005713805020622631, 0.03009080868919721, 0.04565138174753386}},
      {18446744073709551614u, {-0.02793064620433823, 0.021067239356613393, -0.024456480308626086, 0.025060930894872782}},
  };
  for (size_t i = 0; i < sizeof golden / sizeof *golden; i++) {
    struct pcg64 g;
    pcg64_seed(&g, golden[i].seed);
    for (int k = 0; k < 4; k++)
      assert_true(pcg64_uniform(&g, -0.05, 0.05) == golden[i].want[k]);
  }
}

// An environment with what its last call gave.
struct fixture {
  struct ref_env *env;
  struct ref_result result;
};

static void open_env(struct fixture *f, const char *name)
{
  *f = (struct fixture){.env = ref_env_make(ref_env_kind(name))};
  assert_non_null(f->env);
}

static void close_env(struct fixture *f)
{
  ref_env_destroy(f->env);
  buf_free(&f->result.fields);
  buf_free(&f->result.metadata);
}

static void empty(struct fixture *f)
{
  f->result.fields.n = f->result.metadata.n = 0;
  f->result.error = NULL;
  f->result.done = false;
}

static void reset(struct fixture *f, const uint64_t *seed)
{
  empty(f);
  assert_true(ref_env_reset(f->env, seed, (struct str){0}, &f->result));
}

static bool step(struct fixture *f, struct ref_action action)
{
  empty(f);
  return ref_env_step(f->env, &action, &f->result);
}

static bool say(struct fixture *f, const char *raw)
{
  return step(f, (struct ref_action){.raw = str_c(raw)});
}

// The text of a buffer; valid until the next call.
static const char *text(struct buf *b)
{
  assert_non_null(buf_reserve(b, 1));
  b->p[b->n] = '\0';
  return b->p;
}

static void read_state(struct fixture *f, double out[4])
{
  const char *p = strchr(text(&f->result.fields), '[');
  for (int i = 0; i < 4; i++) {
    char *end;
    out[i] = strtod(p + 1, &end);
    p = end;
  }
}

struct trajectory {
  uint64_t seed;
  int steps;
  double last[4];
};

// Plays an episode, balancing the pole or pushing from side to side, and compares its length and last observation.
static void play(const struct trajectory *t, bool balance, const char *flags)
{
  struct fixture f;
  double o[4];
  int steps = 0;
  open_env(&f, "cartpole");
  reset(&f, &t->seed);
  do {
    read_state(&f, o);
    int64_t action = balance ? 3 * o[2] + o[3] + 0.3 * o[0] + 0.3 * o[1] > 0 : steps % 2;
    assert_true(step(&f, (struct ref_action){.number = action}));
    assert_true(f.result.reward == 1);
    steps++;
  } while (!f.result.done);
  read_state(&f, o);
  assert_int_equal(steps, t->steps);
  for (int i = 0; i < 4; i++)
    assert_true(o[i] == t->last[i]);
  assert_string_equal(text(&f.result.metadata), flags);
  close_env(&f);
}

static void test_cartpole_falls_as_gymnasiums(void **state)
{
  (void)state;
  static const struct trajectory golden[] = {
      {0, 39, {-0.06701713800430298, -0.17472681403160095, -0.2252015322446823, -0.7306654453277588}},
      {7, 27, {-0.02258830890059471, -0.1883717179298401, 0.2185959815979004, 1.014653205871582}},
      {2024, 38, {-0.0828767940402031, -0.05931532010436058, 0.21788759529590607, 0.7242504954338074}},
  };
  for (size_t i = 0; i < sizeof golden / sizeof *golden; i++)
    play(&golden[i], false, "\"terminated\":true,\"truncated\":false");
}

// The pole multiplies an error of the last bit by e^39 over 500 steps: the observation is right only if every operation is.
static void test_cartpole_lasts_as_gymnasiums(void **state)
{
  (void)state;
  static const struct trajectory golden[] = {
      {0, 500, {0.11567404121160507, -0.02327677421271801, 0.0059995949268341064, -0.042658478021621704}},
      {7, 500, {0.12921711802482605, 0.04115397855639458, 0.003506107022985816, -0.059074364602565765}},
      {2024, 500, {-0.08815737813711166, -0.029093977063894272, 0.0017442228272557259, 0.04155275598168373}},
  };
  for (size_t i = 0; i < sizeof golden / sizeof *golden; i++)
    play(&golden[i], true, "\"terminated\":false,\"truncated\":true");
}

static void test_cartpole_resets(void **state)
{
  (void)state;
  static const double first[4] = {0.030500292778015137, 0.03079407848417759, 0.0015325561398640275, -0.021419862285256386};
  static const double second[4] = {-0.04460693150758743, -0.011663111858069897, -0.009152679704129696, -0.04547248035669327};
  struct fixture f;
  double o[4];
  open_env(&f, "cartpole");
  assert_false(step(&f, (struct ref_action){.number = 1}));
  assert_string_equal(f.result.error, "Call reset before using step method.");
  assert_int_equal(f.env->step_count, 0);

  reset(&f, &(uint64_t){5});
  read_state(&f, o);
  assert_memory_equal(o, first, sizeof o);
  reset(&f, NULL); // goes on with the generator
  read_state(&f, o);
  assert_memory_equal(o, second, sizeof o);
  close_env(&f);

  open_env(&f, "cartpole"); // unseeded from the start: another each time, and in bounds
  reset(&f, NULL);
  read_state(&f, o);
  for (int i = 0; i < 4; i++)
    assert_true(fabs(o[i]) <= 0.05);
  close_env(&f);
}

static void test_cartpole_pays_once_for_the_fall(void **state)
{
  (void)state;
  struct fixture f;
  open_env(&f, "cartpole");
  reset(&f, &(uint64_t){1});
  do
    assert_true(step(&f, (struct ref_action){.number = 1}));
  while (!f.result.done);
  assert_true(f.result.reward == 1);
  assert_true(step(&f, (struct ref_action){.number = 1}));
  assert_true(f.result.reward == 0 && f.result.done);
  close_env(&f);
}

static void test_echo_counts_executions(void **state)
{
  (void)state;
  struct fixture f;
  open_env(&f, "echo");
  assert_true(say(&f, "hi"));
  assert_string_equal(text(&f.result.fields), "\"echoed_message\":\"hi\",\"message_length\":2");
  assert_string_equal(text(&f.result.metadata), "\"original_message\":\"hi\",\"step\":1,\"executions\":1");
  assert_true(f.result.reward == 0.2);
  reset(&f, NULL);
  assert_true(say(&f, "hi")); // an episode later it has still been said
  assert_string_equal(text(&f.result.metadata), "\"original_message\":\"hi\",\"step\":1,\"executions\":2");

  struct buf out = {0};
  f.env->episode_id.n = 0;
  assert_true(ref_env_state(f.env, &out));
  assert_string_equal(text(&out), "{\"episode_id\":,\"step_count\":1,\"last_message\":\"hi\",\"total_steps\":2,\"repeated_steps\":1}");
  buf_free(&out);
  close_env(&f);
}

static void test_echo_remembers_many(void **state)
{
  (void)state;
  struct fixture f;
  char message[16];
  open_env(&f, "echo");
  for (int round = 1; round <= 2; round++)
    for (int i = 0; i < 1000; i++) {
      snprintf(message, sizeof message, "m%d", i);
      assert_true(say(&f, message));
      assert_non_null(strstr(text(&f.result.metadata), round == 1 ? "\"executions\":1" : "\"executions\":2"));
    }
  close_env(&f);
}

static void test_echo_counts_characters(void **state)
{
  (void)state;
  struct fixture f;
  open_env(&f, "echo");
  assert_true(say(&f, "h\xC3\xA9\\ud83d\\ude00\\n\\/"));
  assert_string_equal(text(&f.result.fields), "\"echoed_message\":\"h\xC3\xA9\xF0\x9F\x98\x80\\n/\",\"message_length\":5");
  assert_true(say(&f, ""));
  assert_string_equal(text(&f.result.fields), "\"echoed_message\":\"\",\"message_length\":0");
  assert_false(say(&f, "\\ud83d"));
  assert_non_null(f.result.error);
  close_env(&f);
}

static void test_pixels_are_valid_and_decided_by_the_seed(void **state)
{
  (void)state;
  struct fixture f;
  struct buf first = {0};
  open_env(&f, "pixels");
  reset(&f, &(uint64_t){3});
  assert_true(isnan(f.result.reward));
  assert_true(step(&f, (struct ref_action){.number = 1}));
  assert_true(f.result.reward == 1);
  struct err e;
  assert_true(buf_char(&first, '{') && buf_str(&first, buf_view(&f.result.fields)) && buf_char(&first, '}'));
  assert_true(json_check(buf_view(&first), JSON_DEPTH, "", NULL, &e));
  size_t commas = 0;
  for (size_t i = 0; i < first.n; i++)
    commas += first.p[i] == ',';
  assert_int_equal(commas, 84 * 84 - 1 + 2);

  reset(&f, &(uint64_t){3});
  assert_true(step(&f, (struct ref_action){.number = 1}));
  assert_int_equal(f.result.fields.n, first.n - 2);
  assert_memory_equal(f.result.fields.p, first.p + 1, first.n - 2);
  assert_true(step(&f, (struct ref_action){.number = 1}));
  assert_true(f.result.reward == 0);
  assert_true(f.result.fields.n != first.n - 2 || memcmp(f.result.fields.p, first.p + 1, first.n - 2) != 0);
  buf_free(&first);
  close_env(&f);
}

static void test_numbers_are_shortest(void **state)
{
  (void)state;
  static const struct {
    double v;
    const char *want;
  } cases[] = {
      {0, "0.0"},
      {-0.0, "-0.0"},
      {1, "1.0"},
      {0.1, "0.1"},
      {(double)0.1f, "0.10000000149011612"},
      {3 * 0.1, "0.30000000000000004"},
      {5e-324, "5e-324"},
      {1e300, "1e+300"},
      {0.013696168732145436, "0.013696168732145436"},
      {(double)NAN, "null"},
      {(double)INFINITY, "null"},
  };
  struct buf out = {0};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    out.n = 0;
    assert_true(ref_json_double(&out, cases[i].v));
    if (cases[i].v > 0 && cases[i].v < 1e-300)
      assert_true(strtod(text(&out), NULL) == cases[i].v);
    else
      assert_string_equal(text(&out), cases[i].want);
  }
  buf_free(&out);
}

static void test_schemas_are_json(void **state)
{
  (void)state;
  const struct ref_env_kind *kind;
  for (unsigned i = 0; (kind = ref_env_kind_at(i)); i++) {
    struct err e;
    enum json_type type;
    assert_true(json_check(str_c(kind->action_schema), JSON_DEPTH, "", &type, &e) && type == JSON_OBJECT);
    assert_true(json_check(str_c(kind->observation_schema), JSON_DEPTH, "", &type, &e) && type == JSON_OBJECT);
    assert_true(json_check(str_c(kind->state_schema), JSON_DEPTH, "", &type, &e) && type == JSON_OBJECT);
  }
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_pcg64_is_numpys),
      cmocka_unit_test(test_cartpole_falls_as_gymnasiums),
      cmocka_unit_test(test_cartpole_lasts_as_gymnasiums),
      cmocka_unit_test(test_cartpole_resets),
      cmocka_unit_test(test_cartpole_pays_once_for_the_fall),
      cmocka_unit_test(test_echo_counts_executions),
      cmocka_unit_test(test_echo_remembers_many),
      cmocka_unit_test(test_echo_counts_characters),
      cmocka_unit_test(test_pixels_are_valid_and_decided_by_the_seed),
      cmocka_unit_test(test_numbers_are_shortest),
      cmocka_unit_test(test_schemas_are_json),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
