// SPDX-License-Identifier: Apache-2.0
// Scalar fields from text.
#include "transcode/json_read.h"
#include "transcode/text.h"

const char *scalar_words(const ProtobufCFieldDescriptor *f)
{
  switch (f->type) {
  case PROTOBUF_C_TYPE_INT32:
  case PROTOBUF_C_TYPE_SINT32:
  case PROTOBUF_C_TYPE_SFIXED32:
    return "an integer from -2147483648 to 2147483647";
  case PROTOBUF_C_TYPE_INT64:
  case PROTOBUF_C_TYPE_SINT64:
  case PROTOBUF_C_TYPE_SFIXED64:
    return "an integer from -9223372036854775808 to 9223372036854775807";
  case PROTOBUF_C_TYPE_UINT32:
  case PROTOBUF_C_TYPE_FIXED32:
    return "an integer from 0 to 4294967295";
  case PROTOBUF_C_TYPE_UINT64:
  case PROTOBUF_C_TYPE_FIXED64:
    return "an integer from 0 to 18446744073709551615";
  case PROTOBUF_C_TYPE_FLOAT:
    return "a number in the range of a float";
  case PROTOBUF_C_TYPE_DOUBLE:
    return "a number in the range of a double";
  case PROTOBUF_C_TYPE_BOOL:
    return "true or false";
  case PROTOBUF_C_TYPE_ENUM:
    return "a name or number of the enum";
  case PROTOBUF_C_TYPE_STRING:
    return "a string";
  case PROTOBUF_C_TYPE_BYTES:
    return "a string of base64";
  case PROTOBUF_C_TYPE_MESSAGE:
    break;
  }
  return "an object";
}

static bool nomem(const struct reader *r)
{
  return err_nomem(r->e);
}

static bool string_from_text(struct reader *r, const struct path *at, struct str text, char **slot)
{
  if (text.n && memchr(text.p, '\0', text.n))
    return path_err(at, r->e, REASON_INVALID_REQUEST, "a string must not contain NUL");
  return (*slot = arena_dup(r->a, text)) || nomem(r);
}

static bool bytes_from_text(struct reader *r, const struct path *at, struct str text, ProtobufCBinaryData *slot)
{
  slot->data = arena_alloc(r->a, text.n / 4 * 3 + 3);
  if (!slot->data)
    return nomem(r);
  return base64_decode(text, slot->data, &slot->len) || read_expected(r, at, "a string of base64");
}

// By name or by number. Numbers without a name are kept: enums of proto3 are open.
static bool enum_from_text(struct reader *r, const struct path *at, const ProtobufCFieldDescriptor *f, struct str text, int *slot)
{
  const ProtobufCEnumDescriptor *type = f->descriptor;
  for (unsigned i = 0; i < type->n_value_names; i++) {
    if (str_eq(str_c(type->values_by_name[i].name), text)) {
      *slot = type->values[type->values_by_name[i].index].value;
      return true;
    }
  }
  int64_t number;
  if (int_from_text(text, INT32_MIN, INT32_MAX, &number)) {
    *slot = (int)number;
    return true;
  }
  r->skipped = r->o->ignore_unknown;
  return r->skipped || path_err(at, r->e, REASON_INVALID_REQUEST, "expected a name or number of the enum %s", type->name);
}

static bool int32_from_text(struct str text, int32_t *slot)
{
  int64_t wide;
  if (!int_from_text(text, INT32_MIN, INT32_MAX, &wide))
    return false;
  *slot = (int32_t)wide;
  return true;
}

static bool uint32_from_text(struct str text, uint32_t *slot)
{
  uint64_t wide;
  if (!uint_from_text(text, UINT32_MAX, &wide))
    return false;
  *slot = (uint32_t)wide;
  return true;
}

static bool bool_from_text(struct str text, protobuf_c_boolean *slot)
{
  *slot = str_eq(text, STR("true"));
  return *slot || str_eq(text, STR("false"));
}

static bool number_from_text(ProtobufCType type, struct str text, void *slot)
{
  switch (type) {
  case PROTOBUF_C_TYPE_INT32:
  case PROTOBUF_C_TYPE_SINT32:
  case PROTOBUF_C_TYPE_SFIXED32:
    return int32_from_text(text, slot);
  case PROTOBUF_C_TYPE_INT64:
  case PROTOBUF_C_TYPE_SINT64:
  case PROTOBUF_C_TYPE_SFIXED64:
    return int_from_text(text, INT64_MIN, INT64_MAX, slot);
  case PROTOBUF_C_TYPE_UINT32:
  case PROTOBUF_C_TYPE_FIXED32:
    return uint32_from_text(text, slot);
  case PROTOBUF_C_TYPE_UINT64:
  case PROTOBUF_C_TYPE_FIXED64:
    return uint_from_text(text, UINT64_MAX, slot);
  case PROTOBUF_C_TYPE_FLOAT:
    return float_from_text(text, slot);
  case PROTOBUF_C_TYPE_DOUBLE:
    return double_from_text(text, slot);
  case PROTOBUF_C_TYPE_BOOL:
    return bool_from_text(text, slot);
  case PROTOBUF_C_TYPE_ENUM:
  case PROTOBUF_C_TYPE_STRING:
  case PROTOBUF_C_TYPE_BYTES:
  case PROTOBUF_C_TYPE_MESSAGE:
    break;
  }
  return false;
}

bool scalar_from_text(struct reader *r, const struct path *at, const ProtobufCFieldDescriptor *f, struct str text, void *slot)
{
  if (f->type == PROTOBUF_C_TYPE_STRING)
    return string_from_text(r, at, text, slot);
  if (f->type == PROTOBUF_C_TYPE_BYTES)
    return bytes_from_text(r, at, text, slot);
  if (f->type == PROTOBUF_C_TYPE_ENUM)
    return enum_from_text(r, at, f, text, slot);
  return number_from_text(f->type, text, slot) || read_expected(r, at, scalar_words(f));
}
