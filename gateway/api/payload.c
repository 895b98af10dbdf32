// SPDX-License-Identifier: Apache-2.0
#include "api/payload.h"

#include "config/config.h"
#include "transcode/transcode.h"

struct payload_scope payload_scope(struct call *c)
{
  const struct config *config = c->owner->config;
  return (struct payload_scope){
      .arena = &c->arena, .config = config, .codec = c->codec, .bufs = &c->owner->bufs, .room = 16 * (size_t)config->max_message_bytes};
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

static bool tensors_read(const struct payload_scope *scope, const Envgate__V1__Tensors *tensors, const char *field, struct str *json, struct err *e)
{
  const struct tensor_writer *w = tensor_writer_new(tensors, max_depth(scope), field, NULL, scope->arena, e);
  return w && payload_of_tensors(scope, w, 0, json, e);
}

bool payload_of_tensors(const struct payload_scope *scope, const struct tensor_writer *w, size_t row, struct str *json, struct err *e)
{
  struct buf out = {.max = 16 * (size_t)scope->config->max_message_bytes};
  buf_lend(scope->bufs, &out, BUF_LARGE);
  bool ok = tensor_writer_put(w, row, &out, e);
  if (ok) {
    *json = (struct str){arena_dup(scope->arena, buf_view(&out)), out.n};
    ok = json->p || err_nomem(e);
  }
  buf_return(scope->bufs, &out);
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
  } else if (p->form_case == ENVGATE__V1__PAYLOAD__FORM_TENSORS) {
    if (!tensors_read(scope, p->tensors, field, json, e))
      return false;
  } else {
    *json = (struct str){(const char *)p->json.data, p->json.len};
  }
  return json_check(*json, max_depth(scope), field, type, e);
}

bool payload_format_check(Envgate__V1__PayloadFormat format, struct err *e)
{
  if (format >= ENVGATE__V1__PAYLOAD_FORMAT__PAYLOAD_FORMAT_UNSPECIFIED && format <= ENVGATE__V1__PAYLOAD_FORMAT__PAYLOAD_FORMAT_TENSORS)
    return true;
  return err_field(e, REASON_INVALID_REQUEST, "payload_format",
                   "payload_format: %d is no format; use PAYLOAD_FORMAT_JSON, PAYLOAD_FORMAT_VALUE or PAYLOAD_FORMAT_TENSORS", (int)format);
}

bool payload_terms_read(struct arena *a, Envgate__V1__PayloadFormat format, Envgate__V1__TensorSpec *const *tensors, size_t n,
                        struct payload_terms *terms, struct err *e)
{
  *terms = (struct payload_terms){.format = format};
  if (!payload_format_check(format, e))
    return false;
  if (!n)
    return true;
  if (!tensor_specs_check(tensors, n, "tensors", e))
    return false;
  void *memory = arena_alloc(a, tensor_specs_size(tensors, n));
  if (!memory)
    return err_nomem(e);
  terms->tensors = tensor_specs_make(tensors, n, memory);
  return true;
}

Envgate__V1__PayloadFormat payload_format_choose(Envgate__V1__PayloadFormat wish, int fallback)
{
  return wish == ENVGATE__V1__PAYLOAD_FORMAT__PAYLOAD_FORMAT_UNSPECIFIED ? (Envgate__V1__PayloadFormat)fallback : wish;
}

struct payload_terms payload_terms_choose(struct payload_terms own, struct payload_terms fallback)
{
  return (struct payload_terms){payload_format_choose(own.format, (int)fallback.format), own.tensors ? own.tensors : fallback.tensors};
}

bool payload_terms_check(const struct payload_terms *terms, struct err *e)
{
  if (terms->format != ENVGATE__V1__PAYLOAD_FORMAT__PAYLOAD_FORMAT_TENSORS || terms->tensors)
    return true;
  return err_field(e, REASON_INVALID_REQUEST, "tensors",
                   "tensors is required with PAYLOAD_FORMAT_TENSORS: the paths of what is to be a tensor, of the session or of the call");
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

// What was read, as a message.
static bool tensors_message(const struct payload_scope *scope, const struct tensor_specs *specs, struct tensor *tensors,
                            const struct payload_bytes *bytes, struct str rest, Envgate__V1__Payload *p, struct err *e)
{
  struct made {
    Envgate__V1__Tensors__TensorsEntry entry;
    Envgate__V1__Tensor tensor;
  };
  struct arena *a = scope->arena;
  Envgate__V1__Tensors *m = arena_alloc(a, sizeof *m);
  struct made *made = arena_alloc(a, specs->n * sizeof *made);
  Envgate__V1__Tensors__TensorsEntry **entries = arena_alloc(a, specs->n * sizeof *entries);
  if (!m || !made || !entries)
    return err_nomem(e);
  envgate__v1__tensors__init(m);
  m->tensors = entries;
  m->json = (ProtobufCBinaryData){rest.n, (uint8_t *)unconst(rest.p)};
  for (size_t i = 0; i < specs->n; i++) {
    struct made *to = &made[m->n_tensors];
    if (!tensors[i].found)
      continue;
    envgate__v1__tensors__tensors_entry__init(&to->entry);
    envgate__v1__tensor__init(&to->tensor);
    to->entry.key = arena_dup(a, specs->at[i].path);
    to->entry.value = &to->tensor;
    to->tensor.dtype = specs->at[i].dtype;
    to->tensor.n_shape = (size_t)tensors[i].rank;
    to->tensor.shape = tensors[i].shape;
    if (tensors[i].n)
      to->tensor.data = (ProtobufCBinaryData){tensors[i].n, (uint8_t *)bytes->data.p + tensors[i].at};
    if (!to->entry.key)
      return err_nomem(e);
    entries[m->n_tensors++] = &to->entry;
  }
  p->form_case = ENVGATE__V1__PAYLOAD__FORM_TENSORS;
  p->tensors = m;
  return true;
}

bool payload_write_by(const struct payload_scope *scope, struct str json, const struct payload_terms *terms, Envgate__V1__Payload *p,
                      Envgate__V1__Payload **slot, struct payload_bytes *bytes, struct err *e)
{
  if (!json.n || terms->format != ENVGATE__V1__PAYLOAD_FORMAT__PAYLOAD_FORMAT_TENSORS || scope->codec != CODEC_PROTO)
    return payload_write(scope, json, terms->format, p, slot, e);
  const struct tensor_specs *specs = terms->tensors;
  struct tensor *tensors = arena_alloc(scope->arena, specs->n * sizeof *tensors);
  bool rest_is_all;
  *slot = NULL;
  if (!tensors)
    return err_nomem(e);
  bytes->data.max = bytes->rest.max = scope->room;
  buf_lend(scope->bufs, &bytes->data, json.n < BUF_LARGE ? json.n : BUF_LARGE);
  buf_lend(scope->bufs, &bytes->rest, 0);
  if (!tensors_from_json(specs, json, tensors, &bytes->data, &bytes->rest, &rest_is_all, e))
    return false;
  envgate__v1__payload__init(p);
  *slot = p;
  return tensors_message(scope, specs, tensors, bytes, rest_is_all ? json : buf_view(&bytes->rest), p, e);
}

void payload_bytes_return(struct buf_pool *pool, struct payload_bytes *bytes)
{
  buf_return(pool, &bytes->data);
  buf_return(pool, &bytes->rest);
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
