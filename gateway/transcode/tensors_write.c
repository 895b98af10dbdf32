// SPDX-License-Identifier: Apache-2.0
// Tensors to JSON.
#include <endian.h>
#include <math.h>

#include "base/json.h"
#include "transcode/decimal.h"
#include "transcode/tensor_paths.h"

// Of a tensor without elements the arrays that hold none are written; their number is not bounded by its bytes.
enum { EMPTY_ARRAYS_MAX = 1 << 16 };

struct entry {
  struct str path;
  struct str *names;
  size_t n_names;
  const Envgate__V1__Tensor *tensor;
  size_t row; // bytes of one row, where rows are written
};

struct tensor_writer {
  struct str json; // an object, or ""
  const char *field;
  bool by_row;
  size_t n;
  struct entry at[];
};

// --- checks --------------------------------------------------------------------------------------------------------------------------------

static bool refuse(const char *field, struct str path, struct err *e, const char *what)
{
  return err_field(e, REASON_INVALID_REQUEST, field, "%s: the tensor at \"%.*s\" %s", field, (int)(path.n < 256 ? path.n : 256), path.p ? path.p : "",
                   what);
}

// Its dtype, rank, shape and length.
static bool check_tensor(const Envgate__V1__Tensor *t, const char *field, struct str path, struct err *e)
{
  if (!t || !dtype_size(t->dtype))
    return refuse(field, path, e, "has no dtype that there is: DTYPE_BOOL to DTYPE_FLOAT64");
  if (t->n_shape > TENSOR_RANK_MAX)
    return refuse(field, path, e, "has more than 32 dimensions");
  size_t bytes = dtype_size(t->dtype), arrays = 1;
  bool empty = false, overflow = false;
  for (size_t i = 0; i < t->n_shape; i++) {
    if (t->shape[i] < 0)
      return refuse(field, path, e, "has a negative number in its shape");
    empty = empty || t->shape[i] == 0;
    overflow = overflow || __builtin_mul_overflow(bytes, (size_t)t->shape[i], &bytes);
    if (!empty)
      overflow = overflow || __builtin_mul_overflow(arrays, (size_t)t->shape[i], &arrays);
  }
  if (empty && (overflow || arrays > EMPTY_ARRAYS_MAX))
    return refuse(field, path, e, "has no elements, but more than 65536 arrays around them");
  if (!empty && (overflow || bytes != t->data.len))
    return err_field(e, REASON_INVALID_REQUEST, field,
                     "%s: the tensor at \"%.*s\" has %zu bytes of data, which is not what its shape and dtype (%s) take", field,
                     (int)(path.n < 256 ? path.n : 256), path.p ? path.p : "", t->data.len, dtype_name(t->dtype));
  if (empty && t->data.len)
    return refuse(field, path, e, "has data, though by its shape it has no elements");
  return true;
}

static bool comes_again(const Envgate__V1__Tensors *t, size_t i)
{
  for (size_t k = i + 1; k < t->n_tensors; k++)
    if (str_eq(str_c(t->tensors[i]->key), str_c(t->tensors[k]->key)))
      return true;
  return false;
}

static bool add_entry(struct tensor_writer *w, const Envgate__V1__Tensors__TensorsEntry *from, size_t *rows, struct arena *a, struct err *e)
{
  struct entry *entry = &w->at[w->n];
  struct str path = str_c(from->key);
  const Envgate__V1__Tensor *t = from->value;
  if (!tensor_path_check(path, w->field, e) || !check_tensor(t, w->field, path, e))
    return false;
  for (size_t i = 0; i < w->n; i++)
    if (tensor_path_within(path, w->at[i].path) || tensor_path_within(w->at[i].path, path))
      return refuse(w->field, path, e, "and another one are at paths of which one lies in the other");
  if (rows && (!t->n_shape || (w->n && (size_t)t->shape[0] != *rows)))
    return refuse(w->field, path, e, w->n ? "has another number of rows than the first one" : "has no rows: its shape must begin with their number");
  *entry = (struct entry){.path = path, .n_names = tensor_path_names(path), .tensor = t};
  if (rows) {
    *rows = (size_t)t->shape[0];
    entry->row = *rows ? t->data.len / *rows : 0;
  }
  entry->names = arena_alloc(a, entry->n_names * sizeof *entry->names + path.n);
  if (!entry->names)
    return err_nomem(e);
  tensor_path_split(path, entry->names, (char *)(entry->names + entry->n_names));
  w->n++;
  return true;
}

struct tensor_writer *tensor_writer_new(const Envgate__V1__Tensors *t, int max_depth, const char *field, size_t *rows, struct arena *a, struct err *e)
{
  enum json_type type;
  if (t->n_tensors > TENSORS_MAX) {
    err_field(e, REASON_INVALID_REQUEST, field, "%s: there are %zu tensors; at most %d are allowed", field, t->n_tensors, TENSORS_MAX);
    return NULL;
  }
  struct tensor_writer *w = arena_alloc(a, sizeof *w + t->n_tensors * sizeof *w->at);
  if (!w) {
    err_nomem(e);
    return NULL;
  }
  w->field = field;
  w->by_row = rows != NULL;
  w->json = (struct str){(const char *)t->json.data, t->json.len};
  if (rows)
    *rows = 0;
  for (size_t i = 0; i < t->n_tensors; i++)
    if (!comes_again(t, i) && !add_entry(w, t->tensors[i], rows, a, e))
      return NULL;
  if (!w->json.n)
    return w;
  if (!json_check(w->json, max_depth, field, &type, e))
    return NULL;
  if (type != JSON_OBJECT && w->n) {
    err_field(e, REASON_INVALID_REQUEST, field, "%s: json must be a JSON object, as the tensors become members of it", field);
    return NULL;
  }
  return w;
}

// --- arrays --------------------------------------------------------------------------------------------------------------------------------

struct output {
  const struct tensor_writer *w;
  struct buf *out;
  struct err *e;
  size_t row;
};

static bool full(struct output *o, size_t more)
{
  if (o->out->max && more > o->out->max - o->out->n)
    return err_set(o->e, CODE_RESOURCE_EXHAUSTED, REASON_MESSAGE_TOO_LARGE, "%s: the tensors have more than %zu bytes as JSON", o->w->field,
                   o->out->max);
  return err_nomem(o->e);
}

static bool put(struct output *o, struct str s)
{
  return buf_str(o->out, s) || full(o, s.n);
}

static uint64_t load(const uint8_t *p, size_t size)
{
  uint64_t v = 0;
  memcpy(&v, p, size);
  return le64toh(v);
}

// Prints one element; 0 for a number that JSON has not.
static size_t print(Envgate__V1__Dtype dtype, uint64_t v, char out[TEXT_MAX])
{
  uint32_t low = (uint32_t)v;
  float f;
  double d;
  switch (dtype) {
  case ENVGATE__V1__DTYPE__DTYPE_BOOL:
    memcpy(out, v ? "true" : "false", 5);
    return v ? 4 : 5;
  case ENVGATE__V1__DTYPE__DTYPE_INT8:
    return int_text((int8_t)v, out);
  case ENVGATE__V1__DTYPE__DTYPE_INT16:
    return int_text((int16_t)v, out);
  case ENVGATE__V1__DTYPE__DTYPE_INT32:
    return int_text((int32_t)v, out);
  case ENVGATE__V1__DTYPE__DTYPE_INT64:
    return int_text((int64_t)v, out);
  case ENVGATE__V1__DTYPE__DTYPE_FLOAT16:
    return isfinite(float16_value((uint16_t)v)) ? float16_repr((uint16_t)v, out) : 0;
  case ENVGATE__V1__DTYPE__DTYPE_FLOAT32:
    memcpy(&f, &low, sizeof f);
    return isfinite(f) ? float32_repr(f, out) : 0;
  case ENVGATE__V1__DTYPE__DTYPE_FLOAT64:
    memcpy(&d, &v, sizeof d);
    return isfinite(d) ? float64_repr(d, out) : 0;
  default:
    return uint_text(v, out);
  }
}

static bool put_element(struct output *o, const struct entry *entry, const uint8_t *data)
{
  const Envgate__V1__Tensor *t = entry->tensor;
  size_t size = dtype_size(t->dtype);
  char *to = buf_reserve(o->out, TEXT_MAX), text[TEXT_MAX];
  size_t n = print(t->dtype, load(data, size), to ? to : text);
  if (!n)
    return err_field(o->e, REASON_INVALID_REQUEST, o->w->field,
                     "%s: the tensor at \"%.*s\" has NaN or an infinity, which JSON has not, as its element %zu in row-major order", o->w->field,
                     (int)(entry->path.n < 256 ? entry->path.n : 256), entry->path.p ? entry->path.p : "", (size_t)(data - t->data.data) / size);
  if (to)
    o->out->n += n;
  return to ? true : put(o, (struct str){text, n}); // there may be room for less
}

// The dimensions from `first` on. *data goes on behind what was written.
static bool put_arrays(struct output *o, const struct entry *entry, size_t first, const uint8_t **data)
{
  const Envgate__V1__Tensor *t = entry->tensor;
  if (first == t->n_shape) {
    if (!put_element(o, entry, *data))
      return false;
    *data += dtype_size(t->dtype);
    return true;
  }
  if (!put(o, STR("[")))
    return false;
  for (int64_t i = 0; i < t->shape[first]; i++)
    if ((i && !put(o, STR(","))) || !put_arrays(o, entry, first + 1, data))
      return false;
  return put(o, STR("]"));
}

static bool put_tensor(struct output *o, const struct entry *entry)
{
  static const uint8_t none[8]; // a tensor without elements has no data
  const uint8_t *data = entry->tensor->data.len ? entry->tensor->data.data + o->row * entry->row : none;
  return put_arrays(o, entry, o->w->by_row, &data);
}

// --- the payload around them ---------------------------------------------------------------------------------------------------------------

// Which of `some` entries have this name at that level. `raw`: as JSON has it.
static uint64_t with_name(const struct tensor_writer *w, uint64_t some, size_t level, struct str name, bool raw)
{
  uint64_t found = 0;
  for (; some; some &= some - 1) {
    int i = __builtin_ctzll(some);
    struct str own = w->at[i].names[level];
    if (raw ? json_raw_eq(name, own) : str_eq(name, own))
      found |= UINT64_C(1) << i;
  }
  return found;
}

static bool put_object(struct output *o, struct json *base, uint64_t some, size_t level);

// What is already there and has tensors in it, from the key on.
static bool put_base(struct output *o, struct json *base, struct str key, uint64_t some, size_t level)
{
  const struct entry *entry = &o->w->at[__builtin_ctzll(some)];
  enum json_type type;
  if (entry->n_names == level)
    return refuse(o->w->field, entry->path, o->e, "is of a member that json has, too");
  if (!json_peek(base, &type) || type != JSON_OBJECT)
    return refuse(o->w->field, entry->path, o->e, "lies in what json has as no object");
  return put(o, (struct str){key.p - 1, (size_t)(base->p - key.p) + 1}) && put_object(o, base, some, level);
}

// An object with these tensors: the one that comes next in `base`, with them, or (NULL) a new one.
static bool put_object(struct output *o, struct json *base, uint64_t some, size_t level)
{
  const struct tensor_writer *w = o->w;
  struct str key, value;
  bool any = false;
  uint64_t there = 0;
  if (!put(o, STR("{")))
    return false;
  if (base && json_enter_object(base)) {
    while (json_next_key(base, &key)) {
      uint64_t here = with_name(w, some, level, key, true);
      if (any && !put(o, STR(",")))
        return false;
      any = true;
      if (here) {
        there |= here;
        if (!put_base(o, base, key, here, level + 1))
          return false;
      } else if (!json_skip(base, &value) || !put(o, (struct str){key.p - 1, (size_t)(value.p - key.p) + value.n + 1})) {
        return false;
      }
    }
  }
  some &= ~there;
  while (some) {
    const struct entry *entry = &w->at[__builtin_ctzll(some)];
    struct str name = entry->names[level];
    uint64_t here = with_name(w, some, level, name, false);
    some &= ~here;
    if (any && !put(o, STR(",")))
      return false;
    any = true;
    if ((!buf_json_string(o->out, name) && !full(o, 6 * name.n + 2)) || !put(o, STR(":")))
      return false;
    if (!(entry->n_names == level + 1 ? put_tensor(o, entry) : put_object(o, NULL, here, level + 1)))
      return false;
  }
  return put(o, STR("}"));
}

bool tensor_writer_put(const struct tensor_writer *w, size_t row, struct buf *out, struct err *e)
{
  struct output o = {.w = w, .out = out, .e = e, .row = row};
  struct json base;
  if (w->n && !w->at[0].path.n) // the only one, then
    return w->json.n ? refuse(w->field, w->at[0].path, e, "is the whole payload, so json must be empty") : put_tensor(&o, &w->at[0]);
  if (!w->n)
    return put(&o, w->json.n ? w->json : STR("{}"));
  json_init(&base, w->json, JSON_DEPTH_MAX);
  return put_object(&o, w->json.n ? &base : NULL, UINT64_MAX >> (64 - w->n), 0);
}
