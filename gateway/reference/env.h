// SPDX-License-Identifier: Apache-2.0
// An environment of the reference worker: a small simulation that knows nothing of sockets or of the protocol around it.
#ifndef ENVGATE_REFERENCE_ENV_H
#define ENVGATE_REFERENCE_ENV_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/str.h"

struct ref_env;

// The field that an action must have.
struct ref_field {
  const char *name;
  enum { REF_FIELD_STRING, REF_FIELD_INT } type;
  uint32_t min, max; // of an int
};

// A valid action.
struct ref_action {
  struct str raw;  // string: what is between the quotes, validated JSON with its escapes
  int64_t number;  // int
  struct str data; // p NULL: none
};

// What reset or step gives. The maker of the buffers empties them before.
struct ref_result {
  struct buf fields;   // the members of the observation as JSON: `"a":1,"b":2`
  struct buf metadata; // the members of its metadata; empty: none
  double reward;       // NAN: null
  bool done;
  const char *error; // when it failed: the exception's text; NULL: out of memory
};

struct ref_env_kind {
  const char *name, *class_name, *description;
  struct ref_field field;
  bool takes_data;                                               // an action may have a member `data`: any JSON
  const char *action_schema, *observation_schema, *state_schema; // JSON Schemas
  // A new instance, not reset. NULL: out of memory.
  struct ref_env *(*make)(void);
  void (*destroy)(struct ref_env *env);
  // Each fills `result` or returns false with result->error set. The caller keeps the episode's id and counts steps.
  bool (*reset)(struct ref_env *env, const uint64_t *seed, struct ref_result *result);
  bool (*step)(struct ref_env *env, const struct ref_action *action, struct ref_result *result);
  // Appends the state's members besides episode_id and step_count, each with a comma before it.
  bool (*state)(const struct ref_env *env, struct buf *out);
};

// The first member of every instance.
struct ref_env {
  const struct ref_env_kind *kind;
  struct buf episode_id; // as a JSON string
  uint64_t step_count;   // in this episode
};

// "echo", "cartpole", "pixels"; NULL for another.
const struct ref_env_kind *ref_env_kind(const char *name);
// The kinds one by one, NULL behind the last.
const struct ref_env_kind *ref_env_kind_at(unsigned i);

// Makes an instance with a fresh episode id. NULL: out of memory.
struct ref_env *ref_env_make(const struct ref_env_kind *kind);
// NULL is fine.
void ref_env_destroy(struct ref_env *env);

// reset, step and state with what all kinds share. `episode_id` is a raw JSON string; a NULL pointer in it: a random one.
bool ref_env_reset(struct ref_env *env, const uint64_t *seed, struct str episode_id, struct ref_result *result);
bool ref_env_step(struct ref_env *env, const struct ref_action *action, struct ref_result *result);
// Appends the whole state object.
bool ref_env_state(const struct ref_env *env, struct buf *out);

// Appends a number in the fewest digits that give the same double back, as Python prints it: 1.0, 0.1, 1e-07. NAN and infinity: null.
bool ref_json_double(struct buf *out, double v);

// The schemas' common parts, as pydantic writes them.
#define REF_PROPERTY(type, title, help) "{\"description\":\"" help "\",\"title\":\"" title "\",\"type\":\"" type "\"}"
#define REF_METADATA_PROPERTY(of) \
  "\"metadata\":{\"additionalProperties\":true,\"description\":\"Additional metadata for the " of "\",\"title\":\"Metadata\",\"type\":\"object\"}"
#define REF_ACTION_SCHEMA(title, properties, required)                                                                          \
  "{\"additionalProperties\":false,\"properties\":{" REF_METADATA_PROPERTY("action") "," properties "},\"required\":[" required \
                                                                                     "],\"title\":\"" title "\",\"type\":\"object\"}"
#define REF_OBSERVATION_SCHEMA(title, properties)                                                                                              \
  "{\"additionalProperties\":false,\"properties\":{\"done\":{\"default\":false,\"description\":\"Whether the episode has terminated\","        \
  "\"title\":\"Done\",\"type\":\"boolean\"},\"reward\":{\"anyOf\":[{\"type\":\"boolean\"},{\"type\":\"integer\"},{\"type\":\"number\"},"       \
  "{\"type\":\"null\"}],\"default\":null,\"description\":\"Reward signal from the last action\",\"title\":\"Reward\"}," REF_METADATA_PROPERTY( \
      "observation") "," properties "},\"title\":\"" title "\",\"type\":\"object\"}"
#define REF_STATE_SCHEMA(title, properties)                                                                                                  \
  "{\"additionalProperties\":true,\"properties\":{\"episode_id\":{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"null\"}],\"default\":null,"   \
  "\"description\":\"Unique identifier for the current episode\",\"title\":\"Episode Id\"},\"step_count\":{\"default\":0,"                   \
  "\"description\":\"Number of steps taken in the current episode\",\"minimum\":0,\"title\":\"Step Count\",\"type\":\"integer\"}" properties \
  "},\"title\":\"" title "\",\"type\":\"object\"}"

extern const struct ref_env_kind ref_echo, ref_cartpole, ref_pixels;

#endif
