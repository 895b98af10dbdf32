// SPDX-License-Identifier: Apache-2.0
// Messages from proto3 JSON.
#include "transcode/json_read.h"

// --- errors and spans ----------------------------------------------------------------------------------------------------------------------

bool read_failed(const struct reader *r, const struct path *at)
{
  char field[sizeof r->e->field];
  path_text(at, field, sizeof field);
  return json_err(&r->j, field, r->e);
}

bool read_expected(const struct reader *r, const struct path *at, const char *what)
{
  return path_err(at, r->e, REASON_INVALID_REQUEST, "expected %s", what);
}

static bool nomem(const struct reader *r)
{
  return err_nomem(r->e);
}

static bool unescape(struct reader *r, const struct path *at, struct str raw, struct str *text)
{
  *text = raw;
  if (!raw.n || !memchr(raw.p, '\\', raw.n))
    return true;
  struct buf out = {.p = arena_alloc(r->a, raw.n), .cap = raw.n, .max = raw.n};
  if (!out.p)
    return nomem(r);
  if (!json_unescape(raw, &out))
    return path_err(at, r->e, REASON_INVALID_REQUEST, "a string must not have an unpaired surrogate");
  *text = buf_view(&out);
  return true;
}

bool read_string(struct reader *r, const struct path *at, const char *what, struct str *text)
{
  enum json_type type;
  if (!json_peek(&r->j, &type))
    return read_failed(r, at);
  if (type != JSON_STRING)
    return read_expected(r, at, what);
  return json_string(&r->j, text) ? unescape(r, at, *text, text) : read_failed(r, at);
}

bool read_span(struct reader *r, const struct path *at, struct str *span)
{
  return json_skip(&r->j, span) || read_failed(r, at);
}

// --- values --------------------------------------------------------------------------------------------------------------------------------

// Whether JSON's null is a value of the field's type, and not the absence of one.
static bool null_is_value(const ProtobufCFieldDescriptor *f)
{
  return f->type == PROTOBUF_C_TYPE_MESSAGE ? message_kind(f->descriptor) == KIND_VALUE : field_is_null_value(f);
}

static bool takes_number(ProtobufCType type)
{
  return type != PROTOBUF_C_TYPE_STRING && type != PROTOBUF_C_TYPE_BYTES && type != PROTOBUF_C_TYPE_BOOL && type != PROTOBUF_C_TYPE_MESSAGE;
}

static bool read_scalar(struct reader *r, const struct path *at, const ProtobufCFieldDescriptor *f, void *slot)
{
  enum json_type type;
  struct str text = {0};
  if (!json_peek(&r->j, &type))
    return read_failed(r, at);
  if (type == JSON_NULL && field_is_null_value(f))
    return json_null(&r->j) || read_failed(r, at);
  if (f->type == PROTOBUF_C_TYPE_BOOL) {
    bool value;
    if (type != JSON_BOOL)
      return read_expected(r, at, scalar_words(f));
    if (!json_bool(&r->j, &value))
      return read_failed(r, at);
    *(protobuf_c_boolean *)slot = value;
    return true;
  }
  if (type == JSON_NUMBER && takes_number(f->type)) {
    if (!json_number(&r->j, &text))
      return read_failed(r, at);
  } else if (!read_string(r, at, scalar_words(f), &text)) {
    return false;
  }
  return scalar_from_text(r, at, f, text, slot);
}

bool read_value(struct reader *r, const struct path *at, const ProtobufCFieldDescriptor *f, void *slot)
{
  r->skipped = false;
  if (f->type != PROTOBUF_C_TYPE_MESSAGE)
    return read_scalar(r, at, f, slot);
  ProtobufCMessage *m = message_new(f->descriptor, r->a);
  if (!m)
    return nomem(r);
  *(ProtobufCMessage **)slot = m;
  bool ok = read_message(r, at, m);
  r->skipped = false; // that was about a field in it
  return ok;
}

// Makes room for one more element behind `n` in an array that grows in the arena. NULL: out of memory.
static void *grow(struct arena *a, void *items, size_t n, size_t *cap, size_t size)
{
  if (n < *cap)
    return items;
  size_t more = *cap ? *cap * 2 : 4;
  void *p = arena_alloc(a, more * size);
  if (!p)
    return NULL;
  if (n)
    memcpy(p, items, n * size);
  *cap = more;
  return p;
}

static void set_repeated(ProtobufCMessage *m, const ProtobufCFieldDescriptor *f, void *items, size_t n)
{
  *(void **)field_slot(m, f) = items;
  *(size_t *)(void *)((char *)m + f->quantifier_offset) = n;
}

bool read_array(struct reader *r, const struct path *at, ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
  enum json_type type;
  if (!json_peek(&r->j, &type))
    return read_failed(r, at);
  if (type != JSON_ARRAY)
    return read_expected(r, at, "an array");
  if (!json_enter_array(&r->j))
    return read_failed(r, at);
  size_t size = value_size(f->type), n = 0, cap = 0;
  void *items = NULL;
  struct path here = *at;
  while (json_next_item(&r->j)) {
    here.index++;
    if (!(items = grow(r->a, items, n, &cap, size)))
      return nomem(r);
    if (!read_value(r, &here, f, (char *)items + n * size))
      return false;
    n += !r->skipped;
  }
  set_repeated(m, f, items, n);
  return !r->j.failed || read_failed(r, at);
}

bool read_map(struct reader *r, const struct path *at, ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
  enum json_type type;
  if (!json_peek(&r->j, &type))
    return read_failed(r, at);
  if (type != JSON_OBJECT)
    return read_expected(r, at, "an object");
  if (!json_enter_object(&r->j))
    return read_failed(r, at);
  const ProtobufCMessageDescriptor *desc = f->descriptor;
  size_t n = 0, cap = 0;
  ProtobufCMessage **entries = NULL;
  struct path here = *at;
  struct str key;
  while (json_next_key(&r->j, &key)) {
    here.index++;
    ProtobufCMessage *entry = message_new(desc, r->a);
    entries = grow(r->a, entries, n, &cap, sizeof(ProtobufCMessage *));
    if (!entry || !entries)
      return nomem(r);
    if (!unescape(r, &here, key, &key) || !scalar_from_text(r, &here, &desc->fields[0], key, field_slot(entry, &desc->fields[0])) ||
        !read_value(r, &here, &desc->fields[1], field_slot(entry, &desc->fields[1])))
      return false;
    entries[n] = entry;
    n += !r->skipped;
  }
  set_repeated(m, f, entries, n);
  return !r->j.failed || read_failed(r, at);
}

// --- fields --------------------------------------------------------------------------------------------------------------------------------

// Any field, repeated or not. Null leaves it as it is.
static bool read_field(struct reader *r, const struct path *at, ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
  enum json_type type;
  if (!json_peek(&r->j, &type))
    return read_failed(r, at);
  bool repeated = f->label == PROTOBUF_C_LABEL_REPEATED;
  if (type == JSON_NULL && (repeated || !null_is_value(f)))
    return json_null(&r->j) || read_failed(r, at);
  if (repeated)
    return field_is_map(m->descriptor, f) ? read_map(r, at, m, f) : read_array(r, at, m, f);
  if ((f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) && *(const uint32_t *)field_quantifier(m, f))
    return path_err(at, r->e, REASON_INVALID_REQUEST, "another field of the same oneof is there");
  union {
    uint64_t number;
    void *pointer;
    ProtobufCBinaryData bytes;
  } value;
  memset(&value, 0, sizeof value);
  if (!read_value(r, at, f, &value))
    return false;
  if (r->skipped)
    return true;
  memcpy(field_slot(m, f), &value, value_size(f->type));
  field_mark(m, f);
  return true;
}

// The members of the top-level object that are no fields, each as `"key": value`.
struct extras {
  struct buf members; // in the arena; one text, with commas
  const ProtobufCFieldDescriptor *field;
};

static bool keep_extra(struct reader *r, struct extras *x, struct str raw_key)
{
  struct str value;
  if (!read_span(r, NULL, &value))
    return false;
  const char *begin = raw_key.p - 1; // the quote
  struct str member = {begin, (size_t)(value.p + value.n - begin)};
  if (!x->members.p) {
    // All of them fit into as much as the text has.
    size_t room = (size_t)(r->j.end - r->j.start);
    x->members = (struct buf){.p = arena_alloc(r->a, room), .cap = room, .max = room};
    if (!x->members.p)
      return nomem(r);
  }
  return ((!x->members.n || buf_char(&x->members, ',')) && buf_str(&x->members, member)) || nomem(r);
}

static bool unknown_field(struct reader *r, const struct path *at, struct str key)
{
  enum { SHOWN = 64 };
  struct str cut = key;
  if (cut.n > SHOWN)
    for (cut.n = SHOWN; cut.n && ((unsigned char)key.p[cut.n] & 0xC0) == 0x80;)
      cut.n--;
  const char *name = arena_dup(r->a, cut);
  if (!name)
    return nomem(r);
  struct path here = {at, name, -1};
  return path_err(&here, r->e, REASON_INVALID_REQUEST, "there is no such field");
}

// Whether a field may still come: each once.
static bool check_first(struct reader *r, const struct path *at, const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f, uint8_t *seen)
{
  size_t i = (size_t)(f - m->descriptor->fields);
  if (seen[i / 8] & (1U << (i % 8)))
    return path_err(at, r->e, REASON_INVALID_REQUEST, "the field is there twice");
  seen[i / 8] |= (uint8_t)(1U << (i % 8));
  return true;
}

static bool read_members(struct reader *r, const struct path *at, ProtobufCMessage *m, bool any, struct extras *x)
{
  enum json_type type;
  if (!json_peek(&r->j, &type))
    return read_failed(r, at);
  if (type != JSON_OBJECT)
    return read_expected(r, at, "an object");
  uint8_t *seen = arena_alloc(r->a, m->descriptor->n_fields / 8 + 1);
  if (!seen)
    return nomem(r);
  if (!json_enter_object(&r->j))
    return read_failed(r, at);
  struct str raw, key;
  while (json_next_key(&r->j, &raw)) {
    if (!unescape(r, at, raw, &key))
      return false;
    const ProtobufCFieldDescriptor *f = field_find(m->descriptor, key);
    if (f) {
      struct path here = {at, f->name, -1};
      if (!check_first(r, &here, m, f, seen) || !read_field(r, &here, m, f))
        return false;
    } else if ((any && str_eq(key, STR("@type"))) || (!x && r->o->ignore_unknown)) {
      if (!json_skip(&r->j, NULL))
        return read_failed(r, at);
    } else if (x ? !keep_extra(r, x, raw) : !unknown_field(r, at, key)) {
      return false;
    }
  }
  return !r->j.failed || read_failed(r, at);
}

bool read_object(struct reader *r, const struct path *at, ProtobufCMessage *m, bool any)
{
  return read_members(r, at, m, any, NULL);
}

// --- entry points --------------------------------------------------------------------------------------------------------------------------

static bool read_top(struct reader *r, ProtobufCMessage *m)
{
  if (!r->o->extras_field || message_kind(m->descriptor) != KIND_PLAIN)
    return read_message(r, NULL, m);
  struct extras x = {.field = field_find(m->descriptor, str_c(r->o->extras_field))};
  if (!read_members(r, NULL, m, false, x.field ? &x : NULL))
    return false;
  if (!x.members.n)
    return true;
  struct path here = {NULL, x.field->name, -1};
  return payload_append(r, &here, m, x.field, buf_view(&x.members));
}

ProtobufCMessage *json_decode(const ProtobufCMessageDescriptor *desc, struct str text, const struct transcode_options *o, struct arena *a,
                              struct err *e)
{
  struct reader r = {.o = o, .a = a, .e = e};
  json_init(&r.j, text, o->max_depth);
  ProtobufCMessage *m = message_new(desc, a);
  if (!m) {
    err_nomem(e);
    return NULL;
  }
  if (!read_top(&r, m))
    return NULL;
  if (!json_end(&r.j)) {
    read_failed(&r, NULL);
    return NULL;
  }
  return m;
}

bool json_decode_field(ProtobufCMessage *m, const ProtobufCFieldDescriptor *f, struct str text, const struct transcode_options *o, struct arena *a,
                       struct err *e)
{
  struct reader r = {.o = o, .a = a, .e = e};
  struct path here = {NULL, f->name, -1};
  json_init(&r.j, text, o->max_depth);
  return read_field(&r, &here, m, f) && (json_end(&r.j) || read_failed(&r, &here));
}

// --- plain text ----------------------------------------------------------------------------------------------------------------------------

// One value of the field's type.
static bool leaf_from_text(struct reader *r, const struct path *at, const ProtobufCFieldDescriptor *f, struct str text, void *slot)
{
  if (f->type != PROTOBUF_C_TYPE_MESSAGE)
    return scalar_from_text(r, at, f, text, slot);
  ProtobufCMessage *m = message_new(f->descriptor, r->a);
  if (!m)
    return nomem(r);
  *(ProtobufCMessage **)slot = m;
  return message_from_text(r, at, m, text);
}

static bool append_from_text(struct reader *r, const struct path *at, ProtobufCMessage *m, const ProtobufCFieldDescriptor *f, struct str text)
{
  if (field_is_map(m->descriptor, f))
    return path_err(at, r->e, REASON_INVALID_REQUEST, "a map cannot be given as text");
  size_t n = field_count(m, f), size = value_size(f->type);
  char *items = arena_alloc(r->a, (n + 1) * size);
  if (!items)
    return nomem(r);
  if (n)
    memcpy(items, *(void *const *)field_value(m, f), n * size);
  if (!leaf_from_text(r, at, f, text, items + n * size))
    return false;
  set_repeated(m, f, items, n + 1);
  return true;
}

static bool set_from_text(struct reader *r, const struct path *at, ProtobufCMessage *m, const ProtobufCFieldDescriptor *f, struct str text)
{
  if (f->label == PROTOBUF_C_LABEL_REPEATED)
    return append_from_text(r, at, m, f, text);
  if (!leaf_from_text(r, at, f, text, field_slot(m, f)))
    return false;
  field_mark(m, f);
  return true;
}

// The message that a singular field has; made when it has none.
static ProtobufCMessage *enter_field(struct reader *r, ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
  if (field_present(m, f))
    return *(ProtobufCMessage **)field_slot(m, f);
  ProtobufCMessage *inner = message_new(f->descriptor, r->a);
  if (!inner)
    return NULL;
  *(ProtobufCMessage **)field_slot(m, f) = inner;
  field_mark(m, f);
  return inner;
}

bool text_decode_field(ProtobufCMessage *m, struct str path, struct str text, struct arena *a, struct err *e)
{
  enum { STEPS = 16 }; // more than any path has
  static const struct transcode_options options = {.max_depth = STEPS};
  struct reader r = {.o = &options, .a = a, .e = e};
  struct path steps[STEPS];
  for (int i = 0; i < STEPS; i++) {
    const struct path *up = i ? &steps[i - 1] : NULL;
    const char *dot = path.n ? memchr(path.p, '.', path.n) : NULL;
    struct str key = dot ? (struct str){path.p, (size_t)(dot - path.p)} : path;
    const ProtobufCFieldDescriptor *f = field_find(m->descriptor, key);
    if (!f)
      return unknown_field(&r, up, key);
    steps[i] = (struct path){up, f->name, -1};
    if (!dot)
      return set_from_text(&r, &steps[i], m, f, text);
    if (f->type != PROTOBUF_C_TYPE_MESSAGE || f->label == PROTOBUF_C_LABEL_REPEATED)
      return path_err(&steps[i], e, REASON_INVALID_REQUEST, "the field is no message, so it has no fields");
    if (!(m = enter_field(&r, m, f)))
      return nomem(&r);
    path = str_skip(path, key.n + 1);
  }
  return path_err(&steps[STEPS - 1], e, REASON_JSON_TOO_DEEP, "the path has more than %d steps", (int)STEPS);
}
