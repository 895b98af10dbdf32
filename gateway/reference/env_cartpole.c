// SPDX-License-Identifier: Apache-2.0
// cartpole: Gymnasium's CartPole-v1 with its defaults, number for number: the same seed and actions give the same observations.
//
// The dynamics: A. G. Barto, R. S. Sutton, C. W. Anderson, "Neuronlike adaptive elements that can solve difficult learning control problems",
// IEEE Transactions on Systems, Man, and Cybernetics 13 (1983); corrected by R. V. Florian, "Correct equations for the dynamics of the
// cart-pole system" (2005). The pole amplifies a last-bit difference about e^4 times a second, so the order of operations matters, and
// no multiplication may be fused with an addition, as gcc does by default where the processor can.
#include <math.h>
#include <stdlib.h>

#include "base/id.h"
#include "reference/env.h"
#include "reference/pcg64.h"

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC optimize("fp-contract=off")
#endif

enum { STEPS_MAX = 500, X = 0, X_DOT, THETA, THETA_DOT };

struct cartpole {
  struct ref_env env;
  bool ready; // reset has been called
  bool fallen;
  struct pcg64 rng; // lasts across episodes, as in Gymnasium: a reset without seed goes on with it
  bool seeded;
  double state[4];
};

static struct cartpole *cartpole_of(struct ref_env *env)
{
  return (struct cartpole *)(void *)env;
}

static struct ref_env *cartpole_make(void)
{
  struct cartpole *c = aligned_alloc(_Alignof(struct cartpole), sizeof *c);
  if (!c)
    return NULL;
  *c = (struct cartpole){0};
  return &c->env;
}

static void cartpole_destroy(struct ref_env *env)
{
  free(env);
}

static const char *json_bool_name(bool v)
{
  return v ? "true" : "false";
}

// The observation: the state rounded to float32, as Gymnasium gives it, widened again as Python does when it makes JSON.
static bool observe(const struct cartpole *c, bool terminated, bool truncated, struct ref_result *result)
{
  struct buf *out = &result->fields;
  bool ok = buf_str(out, STR("\"state\":["));
  for (int i = 0; ok && i < 4; i++)
    ok = (i == 0 || buf_char(out, ',')) && ref_json_double(out, (double)(float)c->state[i]);
  result->done = terminated || truncated;
  return ok && buf_str(out, STR("],\"legal_actions\":[0,1],\"terminated\":")) && buf_str(out, str_c(json_bool_name(terminated))) &&
         buf_str(out, STR(",\"truncated\":")) && buf_str(out, str_c(json_bool_name(truncated)));
}

static bool cartpole_reset(struct ref_env *env, const uint64_t *seed, struct ref_result *result)
{
  struct cartpole *c = cartpole_of(env);
  if (seed) {
    pcg64_seed(&c->rng, *seed);
  } else if (!c->seeded) {
    uint64_t random;
    random_bytes(&random, sizeof random);
    pcg64_seed(&c->rng, random);
  }
  c->seeded = c->ready = true;
  c->fallen = false;
  for (int i = 0; i < 4; i++)
    c->state[i] = pcg64_uniform(&c->rng, -0.05, 0.05);
  result->reward = 0;
  return observe(c, false, false, result);
}

static void move_on(double s[4], int64_t action)
{
  const double gravity = 9.8, masspole = 0.1, total_mass = masspole + 1.0, length = 0.5, polemass_length = masspole * length, tau = 0.02;
  double force = action == 1 ? 10.0 : -10.0, costheta = cos(s[THETA]), sintheta = sin(s[THETA]);
  double temp = (force + polemass_length * (s[THETA_DOT] * s[THETA_DOT]) * sintheta) / total_mass;
  double thetaacc = (gravity * sintheta - costheta * temp) / (length * (4.0 / 3.0 - masspole * (costheta * costheta) / total_mass));
  double xacc = temp - polemass_length * thetaacc * costheta / total_mass;
  s[X] += tau * s[X_DOT];
  s[X_DOT] += tau * xacc;
  s[THETA] += tau * s[THETA_DOT];
  s[THETA_DOT] += tau * thetaacc;
}

static bool cartpole_step(struct ref_env *env, const struct ref_action *action, struct ref_result *result)
{
  struct cartpole *c = cartpole_of(env);
  if (!c->ready) {
    result->error = "Call reset before using step method.";
    return false;
  }
  move_on(c->state, action->number);
  const double theta_threshold = 12 * 2 * M_PI / 360;
  bool terminated = fabs(c->state[X]) > 2.4 || fabs(c->state[THETA]) > theta_threshold;
  bool truncated = env->step_count >= STEPS_MAX;
  result->reward = terminated && c->fallen ? 0 : 1;
  c->fallen = c->fallen || terminated;
  const char *t = json_bool_name(terminated), *u = json_bool_name(truncated);
  return observe(c, terminated, truncated, result) && buf_str(&result->metadata, STR("\"terminated\":")) && buf_str(&result->metadata, str_c(t)) &&
         buf_str(&result->metadata, STR(",\"truncated\":")) && buf_str(&result->metadata, str_c(u));
}

static bool cartpole_state(const struct ref_env *env, struct buf *out)
{
  (void)env;
  (void)out;
  return true;
}

const struct ref_env_kind ref_cartpole = {
    .name = "cartpole",
    .class_name = "CartPoleEnvironment",
    .description = "Gymnasium's CartPole-v1",
    .field = {.name = "action", .type = REF_FIELD_INT, .min = 0, .max = 1},
    .action_schema = REF_ACTION_SCHEMA("CartPoleAction",
                                       "\"action\":{\"description\":\"0 pushes the cart to the left, 1 to the right\",\"maximum\":1,"
                                       "\"minimum\":0,\"title\":\"Action\",\"type\":\"integer\"}",
                                       "\"action\""),
    .observation_schema = REF_OBSERVATION_SCHEMA(
        "CartPoleObservation",
        "\"state\":{\"description\":\"Cart position, cart velocity, pole angle (rad), pole angular velocity\",\"items\":{\"type\":"
        "\"number\"},\"maxItems\":4,\"minItems\":4,\"title\":\"State\",\"type\":\"array\"},\"legal_actions\":{\"items\":{\"type\":"
        "\"integer\"},\"title\":\"Legal Actions\",\"type\":\"array\"},\"terminated\":" REF_PROPERTY(
            "boolean", "Terminated",
            "The pole fell or "
            "the cart left the track") ",\"truncated\":" REF_PROPERTY("boolean", "Truncated", "500 steps have been taken")),
    .state_schema = REF_STATE_SCHEMA("State", ""),
    .make = cartpole_make,
    .destroy = cartpole_destroy,
    .reset = cartpole_reset,
    .step = cartpole_step,
    .state = cartpole_state,
};
