// SPDX-License-Identifier: Apache-2.0
#include "api/payload.h"

#include "config/config.h"
#include "transcode/transcode.h"

struct payload_scope payload_scope(struct call *c)
{
  return (struct payload_scope){.arena = &c->arena, .config = c->owner->config, .codec = c->codec};
}

static int max_depth(const struct payload_scope *scope)
{
  return (int)scope->config->max_json_depth;
}

static bool value_read(const struct payload_scope *scope, const Google__Protobuf__Value *value, const char *field, struct str *json, struct err *e)
{
  struct transcode_options o = {.max_depth = max_depth(scope)};
  struct buf out = {.max = 16 * (size_t)scope->config->max_message_bytes};
  bool ok = json_encode(&value->base, &o, &out, e);
  if (ok) {
    char *copy = arena_dup(scope->arena, buf_view(&out));
    *json = (struct str){copy, out.n};
    ok = copy || err_nomem(e);
  } else if (e->code == CODE_INVALID_ARGUMENT) {
    char why[256];
    snprintf(why, sizeof why, "%.255s", e->msg);
    err_field(e, e->reason, field, "%s: %s", field, why);
  }
  buf_free(&out);
  return ok;
}

bool payload_read(const struct payload_scope *scope, const Envgate__V1__Payload *p, const char *field, struct str *json, enum json_type *type,
                  struct err *e)
{
  *json = STR("");
  *type = JSON_NULL;
  if (!p || p->form_case == ENVGATE__V1__PAYLOAD__FORM__NOT_SET)
    return true;
  if (p->form_case == ENVGATE__V1__PAYLOAD__FORM_VALUE) {
    if (!value_read(scope, p->value, field, json, e))
      return false;
  } else {
    *json = (struct str){(const char *)p->json.data, p->json.len};
  }
  return json_check(*json, max_depth(scope), field, type, e);
}

bool payload_format_check(Envgate__V1__PayloadFormat format, struct err *e)
{
  if (format >= ENVGATE__V1__PAYLOAD_FORMAT__PAYLOAD_FORMAT_UNSPECIFIED && format <= ENVGATE__V1__PAYLOAD_FORMAT__PAYLOAD_FORMAT_VALUE)
    return true;
  return err_field(e, REASON_INVALID_REQUEST, "payload_format", "payload_format: %d is no format; use PAYLOAD_FORMAT_JSON or PAYLOAD_FORMAT_VALUE",
                   (int)format);
}

Envgate__V1__PayloadFormat payload_format_choose(Envgate__V1__PayloadFormat wish, int fallback)
{
  return wish == ENVGATE__V1__PAYLOAD_FORMAT__PAYLOAD_FORMAT_UNSPECIFIED ? (Envgate__V1__PayloadFormat)fallback : wish;
}

bool payload_write(const struct payload_scope *scope, struct str json, Envgate__V1__PayloadFormat format, Envgate__V1__Payload *p,
                   Envgate__V1__Payload **slot, struct err *e)
{
  *slot = NULL;
  if (!json.n)
    return true;
  envgate__v1__payload__init(p);
  *slot = p;
  if (format == ENVGATE__V1__PAYLOAD_FORMAT__PAYLOAD_FORMAT_VALUE && scope->codec == CODEC_PROTO) {
    struct transcode_options o = {.max_depth = max_depth(scope)};
    ProtobufCMessage *value = json_decode(&google__protobuf__value__descriptor, json, &o, scope->arena, e);
    if (!value)
      return false;
    p->form_case = ENVGATE__V1__PAYLOAD__FORM_VALUE;
    p->value = (Google__Protobuf__Value *)(void *)value;
    return true;
  }
  p->form_case = ENVGATE__V1__PAYLOAD__FORM_JSON;
  p->json = (ProtobufCBinaryData){json.n, (uint8_t *)unconst(json.p)};
  return true;
}

bool resource_id(const char *name, const char *collection, bool bare, const char *field, struct str *id, struct err *e)
{
  struct str s = str_c(name), prefix = str_c(collection);
  bool prefixed = s.n > prefix.n + 1 && str_starts(s, prefix) && s.p[prefix.n] == '/';
  *id = prefixed ? str_skip(s, prefix.n + 1) : s;
  if (id->n && (prefixed || bare) && !memchr(id->p, '/', id->n))
    return true;
  if (!s.n)
    return err_field(e, REASON_INVALID_REQUEST, field, "%s is required: \"%s/{id}\"", field, collection);
  return err_field(e, REASON_INVALID_REQUEST, field, "%s must be \"%s/{id}\"", field, collection);
}

const struct env_config *environment_of_name(const struct config *config, const char *name, bool bare, const char *field, struct err *e)
{
  struct str id;
  if (!resource_id(name, "environments", bare, field, &id, e))
    return NULL;
  const struct env_config *env = config_env(config, id);
  if (!env)
    err_set(e, CODE_NOT_FOUND, REASON_ENVIRONMENT_NOT_FOUND, "no environment \"%.*s\" is configured; ListEnvironments names those that are",
            (int)(id.n < 64 ? id.n : 64), id.p);
  return env;
}

Google__Protobuf__Timestamp *timestamp_message(struct arena *a, nsec wall)
{
  Google__Protobuf__Timestamp *t = arena_alloc(a, sizeof *t);
  if (t) {
    google__protobuf__timestamp__init(t);
    t->seconds = (int64_t)(wall / NSEC_PER_S);
    t->nanos = (int32_t)(wall % NSEC_PER_S);
  }
  return t;
}

char *unconst(const char *s)
{
  union {
    const char *from;
    char *to;
  } u = {s};
  return u.to;
}

void fail(struct call *c, const struct err *e)
{
  rpc_finish(c, NULL, e);
}
