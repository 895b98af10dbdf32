// SPDX-License-Identifier: Apache-2.0
// pixels: frames of 84×84 bytes of noise, as large as an Atari environment's. The seed, the step and the action decide each frame.
#include <math.h>
#include <stdlib.h>

#include "base/id.h"
#include "reference/env.h"

enum { SIDE = 84, ACTIONS = 18, STEPS_MAX = 1000, FRAME_TEXT_MAX = SIDE * (SIDE * 4 + 3) };

struct pixels {
  struct ref_env env;
  uint64_t seed;
};

static struct ref_env *pixels_make(void)
{
  struct pixels *p = calloc(1, sizeof *p);
  return p ? &p->env : NULL;
}

static void pixels_destroy(struct ref_env *env)
{
  free(env);
}

// SplitMix64: G. L. Steele, D. Lea, C. H. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
static uint64_t splitmix(uint64_t *state)
{
  uint64_t z = *state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

// Every byte's text, so that a frame is written without a branch a digit.
struct byte_text {
  char text[256][4]; // with a comma behind
  unsigned char n[256];
};

static void make_byte_text(struct byte_text *t)
{
  for (unsigned v = 0; v < 256; v++) {
    char *to = t->text[v];
    if (v >= 100)
      *to++ = (char)('0' + v / 100);
    if (v >= 10)
      *to++ = (char)('0' + v / 10 % 10);
    *to++ = (char)('0' + v % 10);
    *to++ = ',';
    t->n[v] = (unsigned char)(to - t->text[v]);
  }
}

static bool put_frame(struct buf *out, uint64_t state)
{
  struct byte_text bytes;
  make_byte_text(&bytes);
  char *start = buf_reserve(out, FRAME_TEXT_MAX), *to = start;
  if (!start)
    return false;
  uint64_t word = 0;
  unsigned i = 0;
  for (unsigned row = 0; row < SIDE; row++) {
    *to++ = '[';
    for (unsigned column = 0; column < SIDE; column++, i++) {
      if (i % 8 == 0)
        word = splitmix(&state);
      unsigned v = (unsigned)(word >> i % 8 * 8) & 0xFF;
      memcpy(to, bytes.text[v], sizeof bytes.text[v]);
      to += bytes.n[v];
    }
    to[-1] = ']';
    *to++ = ',';
  }
  out->n += (size_t)(to - start) - 1; // without the last comma
  return true;
}

static bool observe(const struct pixels *p, int64_t action, struct ref_result *result)
{
  uint64_t state = p->seed * 0x100000001b3u + p->env.step_count * ACTIONS + (uint64_t)action;
  return buf_str(&result->fields, STR("\"frame\":[")) && put_frame(&result->fields, state) && buf_str(&result->fields, STR("],\"shape\":[84,84]"));
}

static bool pixels_reset(struct ref_env *env, const uint64_t *seed, struct ref_result *result)
{
  struct pixels *p = (struct pixels *)(void *)env;
  if (seed)
    p->seed = *seed;
  else
    random_bytes(&p->seed, sizeof p->seed);
  result->reward = NAN;
  return observe(p, 0, result);
}

// A reward for the action that is the step's number modulo 18, so that there is something to learn.
static bool pixels_step(struct ref_env *env, const struct ref_action *action, struct ref_result *result)
{
  result->reward = (uint64_t)action->number == env->step_count % ACTIONS ? 1 : 0;
  result->done = env->step_count >= STEPS_MAX;
  return observe((struct pixels *)(void *)env, action->number, result);
}

static bool pixels_state(const struct ref_env *env, struct buf *out)
{
  (void)env;
  (void)out;
  return true;
}

const struct ref_env_kind ref_pixels = {
    .name = "pixels",
    .class_name = "PixelsEnvironment",
    .description = "Frames of 84x84 bytes of noise",
    .field = {.name = "action", .type = REF_FIELD_INT, .min = 0, .max = ACTIONS - 1},
    .action_schema = REF_ACTION_SCHEMA(
        "PixelsAction", "\"action\":{\"description\":\"Any of 18\",\"maximum\":17,\"minimum\":0,\"title\":\"Action\",\"type\":\"integer\"}",
        "\"action\""),
    .observation_schema = REF_OBSERVATION_SCHEMA(
        "PixelsObservation",
        "\"frame\":{\"description\":\"Rows of gray values from 0 to 255\",\"items\":{\"items\":{\"maximum\":255,\"minimum\":0,\"type\":"
        "\"integer\"},\"type\":\"array\"},\"title\":\"Frame\",\"type\":\"array\"},\"shape\":{\"items\":{\"type\":\"integer\"},\"title\":"
        "\"Shape\",\"type\":\"array\"}"),
    .state_schema = REF_STATE_SCHEMA("State", ""),
    .make = pixels_make,
    .destroy = pixels_destroy,
    .reset = pixels_reset,
    .step = pixels_step,
    .state = pixels_state,
};
