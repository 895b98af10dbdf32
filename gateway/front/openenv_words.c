// SPDX-License-Identifier: Apache-2.0
#include "front/openenv_words.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/json.h"

const char OPENENV_INVALID_JSON[] = "INVALID_JSON", OPENENV_UNKNOWN_TYPE[] = "UNKNOWN_TYPE", OPENENV_VALIDATION_ERROR[] = "VALIDATION_ERROR",
           OPENENV_EXECUTION_ERROR[] = "EXECUTION_ERROR", OPENENV_CAPACITY_REACHED[] = "CAPACITY_REACHED", OPENENV_FACTORY_ERROR[] = "FACTORY_ERROR",
           OPENENV_SESSION_ERROR[] = "SESSION_ERROR";

// --- requests ------------------------------------------------------------------------------------------------------------------------------

struct parts {
  struct str data;
  enum json_type data_type;
  bool has_data, more; // more: members that no message has
};

static bool read_type(struct json *j, struct openenv_words *words)
{
  enum json_type type;
  struct str ignored;
  words->type = STR("");
  return json_peek(j, &type) && (type == JSON_STRING ? json_string(j, &words->type) : json_skip(j, &ignored));
}

// False: it is no JSON object; what has been seen of it stands.
static bool read_parts(struct json *j, struct openenv_words *words, struct parts *p)
{
  struct str key, ignored;
  if (!json_enter_object(j))
    return false;
  while (json_next_key(j, &key)) {
    bool ok;
    if (json_raw_eq(key, STR("type"))) {
      ok = read_type(j, words);
    } else if (json_raw_eq(key, STR("data"))) {
      p->has_data = true;
      ok = json_peek(j, &p->data_type) && json_skip(j, &p->data);
    } else {
      p->more = true;
      ok = json_skip(j, &ignored);
    }
    if (!ok)
      return false;
  }
  return !j->failed && json_end(j);
}

// The name that a reset gives its episode, if it is a plain one.
static struct str episode_of(struct str data, int max_depth)
{
  struct json j;
  struct str key, value = {0}, found = {0};
  json_init(&j, data, max_depth);
  json_enter_object(&j);
  while (json_next_key(&j, &key)) {
    if (!json_skip(&j, &value))
      break;
    if (json_raw_eq(key, STR("episode_id")))
      found = value;
  }
  bool plain = found.n > 2 && found.p[0] == '"' && !memchr(found.p, '\\', found.n);
  return plain ? (struct str){found.p + 1, found.n - 2} : STR("");
}

void openenv_words_read(struct str message, int max_depth, struct openenv_words *words, struct worker_request *q)
{
  struct json j;
  struct parts p = {0};
  enum json_type type;
  *words = (struct openenv_words){0};
  *q = (struct worker_request){.op = OP_OTHER, .words = message};
  json_init(&j, message, max_depth + 1);
  words->valid = json_peek(&j, &type) && (type == JSON_OBJECT ? read_parts(&j, words, &p) : json_skip(&j, NULL) && json_end(&j));
  bool object = !p.has_data || p.data_type == JSON_OBJECT;
  // What is no JSON to us may be to a worker in Python, as NaN is: then the type that has been seen says what its reply is a reply to.
  q->words_only = !words->valid || p.more || !object;
  if (json_raw_eq(words->type, STR("step"))) {
    q->op = OP_STEP;
    q->action = p.data;
    q->words_only = q->words_only || !p.has_data;
  } else if (json_raw_eq(words->type, STR("reset"))) {
    q->op = OP_RESET;
    q->options = object ? p.data : STR("");
    q->episode_id = words->valid && object && p.has_data ? episode_of(p.data, max_depth) : STR("");
  } else if (json_raw_eq(words->type, STR("state"))) {
    q->op = OP_STATE;
    q->words_only = q->words_only || p.has_data;
  } else {
    q->words_only = true;
    words->close = words->valid && !p.more && !p.has_data && json_raw_eq(words->type, STR("close"));
  }
}

// --- answers -------------------------------------------------------------------------------------------------------------------------------

static bool error_with(struct buf *out, const char *code, struct str message, const char *more)
{
  return buf_str(out, STR("{\"type\":\"error\",\"data\":{\"message\":")) && buf_json_string(out, message) &&
         buf_printf(out, ",\"code\":\"%s\"%s}}", code, more);
}

bool openenv_error(struct buf *out, const char *code, struct str message)
{
  return error_with(out, code, message, "");
}

bool openenv_full(struct buf *out, int64_t sessions)
{
  char text[160], more[96];
  snprintf(text, sizeof text, "Server at capacity: %" PRId64 "/%" PRId64 " sessions active. Cannot accept new connections.", sessions, sessions);
  snprintf(more, sizeof more, ",\"active_sessions\":%" PRId64 ",\"max_sessions\":%" PRId64, sessions, sessions);
  return error_with(out, OPENENV_CAPACITY_REACHED, str_c(text), more);
}

static bool unknown_type(struct str type, struct buf *text)
{
  const struct str says = STR("Unknown message type: ");
  if (buf_str(text, says) && json_unescape(type, text))
    return true;
  text->n = 0; // half of a surrogate pair can only be told as it came
  return buf_str(text, says) && buf_str(text, type);
}

bool openenv_cannot(struct buf *out, const struct openenv_words *words)
{
  struct buf text = {0};
  bool known = json_raw_eq(words->type, STR("reset")) || json_raw_eq(words->type, STR("step")) || json_raw_eq(words->type, STR("state")) ||
               json_raw_eq(words->type, STR("close"));
  bool ok;
  if (!words->valid)
    ok = openenv_error(out, OPENENV_INVALID_JSON, STR("Invalid JSON"));
  else if (known)
    ok = openenv_error(out, OPENENV_VALIDATION_ERROR, STR("Invalid message"));
  else
    ok = unknown_type(words->type, &text) && openenv_error(out, OPENENV_UNKNOWN_TYPE, buf_view(&text));
  buf_free(&text);
  return ok;
}

const char *openenv_code(const struct err *e)
{
  if (e->reason == REASON_INVALID_ACTION)
    return OPENENV_VALIDATION_ERROR;
  if (e->reason == REASON_ENV_FACTORY_FAILED)
    return OPENENV_FACTORY_ERROR;
  if (e->reason == REASON_NO_CAPACITY || e->reason == REASON_QUOTA_EXCEEDED)
    return OPENENV_CAPACITY_REACHED;
  if (e->reason == REASON_ENV_EXCEPTION || e->code == CODE_RESOURCE_EXHAUSTED)
    return OPENENV_EXECUTION_ERROR;
  return OPENENV_SESSION_ERROR;
}
