// SPDX-License-Identifier: Apache-2.0
// echo: says back what it is told, and keeps count of what it was told, so that a test can prove that each step ran exactly once.
//
// A message is known by its hash; `executions` in the metadata says how often it has been stepped in this session (across its
// episodes), and the state's `repeated_steps` how many steps said what an earlier one had said. With messages that differ, a caller that sees
// repeated_steps 0 and total_steps N has had N steps run once each.
//
// An action's `data` comes back in the observation with not a byte changed, which proves as much of the bytes' way.
#include <stdlib.h>

#include "base/id.h"
#include "base/json.h"
#include "reference/env.h"

// Messages past so many different ones are not remembered and count as new.
enum { REMEMBERED_MAX = 65536, REMEMBERED_MIN = 16 };

struct seen {
  uint64_t hash; // 0: free
  uint64_t times;
};

struct echo {
  struct ref_env env;
  struct seen *seen; // an open-addressed table of a power of two
  size_t seen_cap, seen_n;
  struct buf last_message; // as a JSON string; empty: none
  uint64_t total_steps, repeated_steps;
};

static struct echo *echo_of(struct ref_env *env)
{
  return (struct echo *)(void *)env;
}

static struct seen *find(struct seen *table, size_t cap, uint64_t hash)
{
  size_t i = (size_t)hash & (cap - 1);
  while (table[i].hash && table[i].hash != hash)
    i = (i + 1) & (cap - 1);
  return &table[i];
}

// Keeps the table at most half full.
static bool grow(struct echo *e)
{
  if (e->seen_n * 2 < e->seen_cap)
    return true;
  size_t cap = e->seen_cap ? e->seen_cap * 2 : REMEMBERED_MIN;
  struct seen *table = calloc(cap, sizeof *table);
  if (!table)
    return false;
  for (size_t i = 0; i < e->seen_cap; i++)
    if (e->seen[i].hash)
      *find(table, cap, e->seen[i].hash) = e->seen[i];
  free(e->seen);
  e->seen = table;
  e->seen_cap = cap;
  return true;
}

// Counts the message; 0 when out of memory.
static uint64_t count(struct echo *e, struct str message)
{
  if (!grow(e))
    return 0;
  uint64_t hash = hash_fnv(0, message);
  struct seen *s = find(e->seen, e->seen_cap, hash ? hash : 1);
  if (!s->hash) {
    if (e->seen_n == REMEMBERED_MAX)
      return 1;
    s->hash = hash ? hash : 1;
    e->seen_n++;
  }
  return ++s->times;
}

static struct ref_env *echo_make(void)
{
  struct echo *e = calloc(1, sizeof *e);
  return e ? &e->env : NULL;
}

static void echo_destroy(struct ref_env *env)
{
  struct echo *e = echo_of(env);
  free(e->seen);
  buf_free(&e->last_message);
  free(e);
}

static bool echo_reset(struct ref_env *env, const uint64_t *seed, struct ref_result *result)
{
  (void)env;
  (void)seed;
  result->reward = 0;
  return buf_str(&result->fields, STR("\"echoed_message\":\"Echo environment ready!\",\"message_length\":0"));
}

// In Unicode characters, as Python's len().
static size_t characters(struct str utf8)
{
  size_t n = 0;
  for (size_t i = 0; i < utf8.n; i++)
    n += ((unsigned char)utf8.p[i] & 0xC0) != 0x80;
  return n;
}

// Keeps the message as last_message, in the spelling of JSON that a worker would give it, and says how long it is.
static bool keep_message(struct echo *e, struct str raw, size_t *length)
{
  struct buf *last = &e->last_message;
  last->n = 0;
  if (!raw.n || !memchr(raw.p, '\\', raw.n)) {
    *length = characters(raw);
    return buf_char(last, '"') && buf_str(last, raw) && buf_char(last, '"');
  }
  struct buf plain = {0};
  bool ok = json_unescape(raw, &plain) && buf_json_string(last, buf_view(&plain));
  *length = characters(buf_view(&plain));
  buf_free(&plain);
  return ok;
}

static bool put_observation(struct buf *out, struct str message, size_t length, struct str data)
{
  return buf_str(out, STR("\"echoed_message\":")) && buf_str(out, message) && buf_printf(out, ",\"message_length\":%zu", length) &&
         (!data.p || (buf_str(out, STR(",\"data\":")) && buf_str(out, data)));
}

static bool echo_step(struct ref_env *env, const struct ref_action *action, struct ref_result *result)
{
  struct echo *e = echo_of(env);
  size_t length;
  if (!keep_message(e, action->raw, &length)) {
    result->error = "the message is not valid Unicode";
    return false;
  }
  struct str message = buf_view(&e->last_message);
  uint64_t executions = count(e, message);
  if (!executions)
    return false;
  e->total_steps++;
  e->repeated_steps += executions > 1;
  result->reward = (double)length * 0.1;
  return put_observation(&result->fields, message, length, action->data) && buf_str(&result->metadata, STR("\"original_message\":")) &&
         buf_str(&result->metadata, message) &&
         buf_printf(&result->metadata, ",\"step\":%llu,\"executions\":%llu", (unsigned long long)env->step_count, (unsigned long long)executions);
}

static bool echo_state(const struct ref_env *env, struct buf *out)
{
  const struct echo *e = (const struct echo *)(const void *)env;
  struct str last = e->last_message.n ? buf_view(&e->last_message) : STR("null");
  return buf_str(out, STR(",\"last_message\":")) && buf_str(out, last) &&
         buf_printf(out, ",\"total_steps\":%llu,\"repeated_steps\":%llu", (unsigned long long)e->total_steps, (unsigned long long)e->repeated_steps);
}

#define DATA_PROPERTY(help) "\"data\":{\"default\":null,\"description\":\"" help "\",\"title\":\"Data\"}"

const struct ref_env_kind ref_echo = {
    .name = "echo",
    .class_name = "EchoEnvironment",
    .description = "Says back each message, and any JSON in data; the reward is a tenth of the message's length",
    .field = {.name = "message", .type = REF_FIELD_STRING},
    .takes_data = true,
    .action_schema = REF_ACTION_SCHEMA(
        "EchoAction", "\"message\":" REF_PROPERTY("string", "Message", "Message to echo back") "," DATA_PROPERTY("Any JSON to echo back"),
        "\"message\""),
    .observation_schema = REF_OBSERVATION_SCHEMA(
        "EchoObservation", "\"echoed_message\":{\"default\":\"\",\"description\":\"The echoed message\",\"title\":"
                           "\"Echoed Message\",\"type\":\"string\"},\"message_length\":{\"default\":0,"
                           "\"description\":\"Length of the echoed message\",\"title\":\"Message Length\","
                           "\"type\":\"integer\"}," DATA_PROPERTY(
                               "The action's data, byte for byte") ",\"filler\":{\"default\":\"\",\"description\":\"Makes the reply as "
                                                                   "large as asked\",\"title\":\"Filler\",\"type\":\"string\"}"),
    .state_schema = REF_STATE_SCHEMA(
        "EchoState",
        ",\"last_message\":{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"null\"}],\"default\":null,"
        "\"title\":\"Last Message\"},\"total_steps\":" REF_PROPERTY(
            "integer", "Total Steps", "Steps taken in this session") ","
                                                                     "\"repeated_steps\":" REF_PROPERTY(
                                                                         "integer", "Repeated Steps", "Steps whose message had been stepped before")),
    .make = echo_make,
    .destroy = echo_destroy,
    .reset = echo_reset,
    .step = echo_step,
    .state = echo_state,
};
