// SPDX-License-Identifier: Apache-2.0
// JSON to tensors. The text has been validated (json.h), so this only reads it: what a number is, where its digits end.
#include <endian.h>
#include <math.h>
#include <stdio.h>

#include "base/json.h"
#include "base/json_scan.h"
#include "transcode/decimal.h"
#include "transcode/tensors.h"

// --- one array -----------------------------------------------------------------------------------------------------------------------------

// What is being read of an array. The outermost dimension is the first.
struct array {
  const char *begin, *end; // of the text
  struct buf *data;
  const struct tensor_spec *spec;
  int depth, rank;                // how many brackets are open; -1: how many dimensions is not known yet
  int64_t count[TENSOR_RANK_MAX]; // of elements so far in each that is open
  int64_t *shape;                 // -1: not known yet
  const char *problem;            // a static text: what is wrong at count[]
  bool full;                      // or there is no room
};

static const char *wrong(struct array *a, const char *problem)
{
  a->problem = problem;
  return NULL;
}

static inline const char *pass_space(const char *p, const char *end)
{
  while (p < end && (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r'))
    p++;
  return p;
}

static inline bool is_digit(char c)
{
  return c >= '0' && c <= '9';
}

// Room for so many elements of a size; NULL: there is none.
static inline char *room_for(struct array *a, size_t n, size_t size)
{
  char *to = buf_reserve(a->data, n * size);
  a->full = !to;
  return to;
}

// The lowest bytes of `v`.
static inline void put(char *to, uint64_t v, size_t size)
{
  v = htole64(v);
  memcpy(to, &v, size);
}

// Appends an element.
static inline bool add(struct array *a, uint64_t v, size_t size)
{
  char *to = room_for(a, 1, size);
  if (!to)
    return false;
  put(to, v, size);
  a->data->n += size;
  return true;
}

static const char *no_number(struct array *a, const char *p)
{
  switch (p < a->end ? *p : '\0') {
  case '"':
    return wrong(a, "a string where a number is expected");
  case '{':
    return wrong(a, "an object where a number is expected");
  case '[':
    return wrong(a, "an array where a number is expected, as the array is ragged");
  case 'n':
    return wrong(a, "null where a number is expected, which only floats can be");
  default:
    return wrong(a, "a boolean where a number is expected");
  }
}

// An integer that is not just a few digits.
static __attribute__((noinline)) const char *read_long_integer(struct array *a, const char *p, uint64_t max, bool is_signed, uint64_t *v)
{
  struct decimal d;
  const char *behind = decimal_read(p, a->end, &d);
  int64_t out = 0;
  bool ok = is_signed ? int_from_text(d.text, -(int64_t)max - 1, (int64_t)max, &out) : uint_from_text(d.text, max, v);
  if (is_signed)
    *v = (uint64_t)out;
  return ok ? behind : wrong(a, "a number that is no integer of the dtype's range");
}

static inline const char *read_integer(struct array *a, const char *p, uint64_t max, bool is_signed, uint64_t *v)
{
  const char *end = a->end, *digits = p + (p < end && *p == '-'), *q = digits;
  uint64_t n = 0;
  for (; q < end && is_digit(*q); q++)
    n = n * 10 + (uint64_t)(*q - '0');
  if (q == digits)
    return no_number(a, p);
  bool negative = digits != p;
  if (q - digits > 18 || (q < end && (*q == '.' || (*q | 0x20) == 'e')) || n > max || (negative && !is_signed))
    return read_long_integer(a, p, max, is_signed, v);
  *v = negative ? 0 - n : n;
  return q;
}

static inline const char *read_float(struct array *a, const char *p, size_t size, uint64_t *v)
{
  struct decimal d;
  if (p == a->end || (*p != '-' && !is_digit(*p))) {
    if (p == a->end || *p != 'n')
      return no_number(a, p);
    *v = size == 8 ? UINT64_C(0x7FF8000000000000) : size == 4 ? 0x7FC00000 : 0x7E00;
    return p + 4;
  }
  p = decimal_read(p, a->end, &d);
  if (size == 8) {
    double f = decimal_float64(&d);
    memcpy(v, &f, sizeof f);
  } else if (size == 4) {
    float f = decimal_float32(&d);
    uint32_t bits;
    memcpy(&bits, &f, sizeof f);
    *v = bits;
  } else {
    *v = decimal_float16(&d);
  }
  return p;
}

static inline const char *read_bool(struct array *a, const char *p, uint64_t *v)
{
  if (p < a->end && (*p == 't' || *p == 'f')) {
    *v = *p == 't';
    return p + (*v ? 4 : 5);
  }
  const char *behind = read_integer(a, p, 1, false, v);
  return behind || *p == '"' || *p == '{' || *p == '[' ? behind : wrong(a, "what is neither a boolean nor 0 or 1");
}

// One element of a dtype, appended.
static inline __attribute__((always_inline)) const char *read_one(struct array *a, const char *p, Envgate__V1__Dtype dtype)
{
  uint64_t v = 0;
  size_t size = 0;
  switch (dtype) {
  case ENVGATE__V1__DTYPE__DTYPE_BOOL:
    p = read_bool(a, p, &v);
    size = 1;
    break;
  case ENVGATE__V1__DTYPE__DTYPE_INT8:
    p = read_integer(a, p, INT8_MAX, true, &v);
    size = 1;
    break;
  case ENVGATE__V1__DTYPE__DTYPE_INT16:
    p = read_integer(a, p, INT16_MAX, true, &v);
    size = 2;
    break;
  case ENVGATE__V1__DTYPE__DTYPE_INT32:
    p = read_integer(a, p, INT32_MAX, true, &v);
    size = 4;
    break;
  case ENVGATE__V1__DTYPE__DTYPE_INT64:
    p = read_integer(a, p, INT64_MAX, true, &v);
    size = 8;
    break;
  case ENVGATE__V1__DTYPE__DTYPE_UINT8:
    p = read_integer(a, p, UINT8_MAX, false, &v);
    size = 1;
    break;
  case ENVGATE__V1__DTYPE__DTYPE_UINT16:
    p = read_integer(a, p, UINT16_MAX, false, &v);
    size = 2;
    break;
  case ENVGATE__V1__DTYPE__DTYPE_UINT32:
    p = read_integer(a, p, UINT32_MAX, false, &v);
    size = 4;
    break;
  case ENVGATE__V1__DTYPE__DTYPE_UINT64:
    p = read_integer(a, p, UINT64_MAX, false, &v);
    size = 8;
    break;
  case ENVGATE__V1__DTYPE__DTYPE_FLOAT16:
    p = read_float(a, p, 2, &v);
    size = 2;
    break;
  case ENVGATE__V1__DTYPE__DTYPE_FLOAT32:
    p = read_float(a, p, 4, &v);
    size = 4;
    break;
  default:
    p = read_float(a, p, 8, &v);
    size = 8;
  }
  return p && add(a, v, size) ? p : NULL;
}

// With fewer in a block, looking for them together is not worth it.
enum { FEW = 4, LATER = 32 };

// `p` is at a digit, where an element begins. Appends the elements of the block there that are of at most eight digits and end in a comma, or none, and returns where
// another element begins. *n: how many they were.
static inline __attribute__((always_inline)) const char *read_block(struct array *a, const char *p, uint64_t max, size_t size, int *n)
{
  char *to = room_for(a, JSON_BLOCK / 2, size);
  *n = 0;
  if (!to)
    return NULL;
  uint64_t digit = json_digits_in(p), comma = json_places_in(p, ','), other = ~(digit | comma);
  if (other)
    other &= ~(json_places_in(p, ' ') & comma << 1);
  uint64_t good = other ? (other & -other) - 1 : UINT64_MAX;
  uint64_t starts = digit & ~(digit << 1) & good, ends = comma & good, high = 0;
  int count = 0;
  for (; ends; ends &= ends - 1, starts &= starts - 1, count++) {
    int last = __builtin_ctzll(ends), digits = last - __builtin_ctzll(starts);
    if (digits > 8)
      break;
    int before = 64 - 8 * digits; // bits that belong to what is before it
    uint64_t v = json_value8(json_load8(p + last - 8) >> before << before);
    high |= v;
    put(to + (size_t)count * size, v, size);
  }
  if (high & ~max) // one is too large: they are read again, one by one
    return p;
  a->data->n += (size_t)count * size;
  *n = count;
  return starts ? p + __builtin_ctzll(starts) : good == UINT64_MAX ? p + JSON_BLOCK : p + __builtin_ctzll(other);
}

// The elements of the innermost dimension, up to the bracket that closes it.
static inline __attribute__((always_inline)) const char *read_row_of(struct array *a, const char *p, Envgate__V1__Dtype dtype, uint64_t max,
                                                                     size_t size)
{
  int64_t *count = &a->count[a->depth - 1];
  const char *end = a->end;
  for (int wait = 0;; wait--) {
    p = pass_space(p, end);
    // A block is read from eight bytes before each number's end on.
    if (max && wait <= 0 && end - p >= JSON_BLOCK && p - a->begin >= 8 && is_digit(*p)) {
      int n;
      if (!(p = read_block(a, p, max, size, &n)))
        return NULL;
      *count += n;
      if (n < FEW)
        wait = LATER;
      p = pass_space(p, end);
    }
    if (!(p = read_one(a, p, dtype)))
      return NULL;
    ++*count;
    p = pass_space(p, end);
    if (p == end || *p != ',')
      return p;
    p++;
  }
}

static const char *read_row(struct array *a, const char *p)
{
  switch (a->spec->dtype) {
  case ENVGATE__V1__DTYPE__DTYPE_BOOL:
    return read_row_of(a, p, ENVGATE__V1__DTYPE__DTYPE_BOOL, 0, 1);
  case ENVGATE__V1__DTYPE__DTYPE_INT8:
    return read_row_of(a, p, ENVGATE__V1__DTYPE__DTYPE_INT8, INT8_MAX, 1);
  case ENVGATE__V1__DTYPE__DTYPE_INT16:
    return read_row_of(a, p, ENVGATE__V1__DTYPE__DTYPE_INT16, INT16_MAX, 2);
  case ENVGATE__V1__DTYPE__DTYPE_INT32:
    return read_row_of(a, p, ENVGATE__V1__DTYPE__DTYPE_INT32, INT32_MAX, 4);
  case ENVGATE__V1__DTYPE__DTYPE_INT64:
    return read_row_of(a, p, ENVGATE__V1__DTYPE__DTYPE_INT64, INT64_MAX, 8);
  case ENVGATE__V1__DTYPE__DTYPE_UINT8:
    return read_row_of(a, p, ENVGATE__V1__DTYPE__DTYPE_UINT8, UINT8_MAX, 1);
  case ENVGATE__V1__DTYPE__DTYPE_UINT16:
    return read_row_of(a, p, ENVGATE__V1__DTYPE__DTYPE_UINT16, UINT16_MAX, 2);
  case ENVGATE__V1__DTYPE__DTYPE_UINT32:
    return read_row_of(a, p, ENVGATE__V1__DTYPE__DTYPE_UINT32, UINT32_MAX, 4);
  case ENVGATE__V1__DTYPE__DTYPE_UINT64:
    return read_row_of(a, p, ENVGATE__V1__DTYPE__DTYPE_UINT64, UINT64_MAX, 8);
  case ENVGATE__V1__DTYPE__DTYPE_FLOAT16:
    return read_row_of(a, p, ENVGATE__V1__DTYPE__DTYPE_FLOAT16, 0, 2);
  case ENVGATE__V1__DTYPE__DTYPE_FLOAT32:
    return read_row_of(a, p, ENVGATE__V1__DTYPE__DTYPE_FLOAT32, 0, 4);
  default:
    return read_row_of(a, p, ENVGATE__V1__DTYPE__DTYPE_FLOAT64, 0, 8);
  }
}

// `p` is at a bracket that closes. Passes it and those behind it, and the comma before the next value; none is open when the array has ended.
static const char *close_dimensions(struct array *a, const char *p)
{
  do {
    if (p == a->end || *p != ']')
      return wrong(a, "the text is no JSON");
    int64_t n = a->count[a->depth - 1], *known = &a->shape[a->depth - 1];
    if (a->rank < 0)
      a->rank = a->depth;
    if (*known < 0)
      *known = n;
    a->depth--; // errors name the row
    if (*known != n)
      return wrong(a, n < *known ? "fewer elements than in the row before, as the array is ragged"
                                 : "more elements than in the row before, as the array is ragged");
    p++;
    if (!a->depth)
      return p;
    a->count[a->depth - 1]++;
    p = pass_space(p, a->end);
  } while (p == a->end || *p != ',');
  return p + 1;
}

// Any value. Returns what is behind it, or NULL.
static const char *read_array(struct array *a, const char *p)
{
  do {
    p = pass_space(p, a->end);
    if (p < a->end && *p == '[') {
      if (a->depth == TENSOR_RANK_MAX)
        return wrong(a, "more than 32 dimensions");
      if (a->rank >= 0 && a->depth == a->rank)
        return no_number(a, p);
      a->count[a->depth++] = 0;
      p = pass_space(p + 1, a->end);
      if (p == a->end || *p != ']')
        continue;
    } else {
      if (a->rank < 0)
        a->rank = a->depth;
      if (a->depth < a->rank)
        return wrong(a, "no array where one is expected, as the array is ragged");
      if (!a->depth)
        return read_one(a, p, a->spec->dtype);
      if (!(p = read_row(a, p)))
        return NULL;
    }
    if (!(p = close_dimensions(a, p)))
      return NULL;
  } while (a->depth);
  return p;
}

// --- the payload around it -----------------------------------------------------------------------------------------------------------------

struct reader {
  struct json j;
  const struct tensor_specs *specs;
  struct tensor *tensors;
  struct buf *data, *rest;
  struct err *e;
};

static bool out_of_room(struct reader *r, const struct buf *b, size_t more)
{
  if (b->max && more > b->max - b->n)
    return err_set(r->e, CODE_RESOURCE_EXHAUSTED, REASON_MESSAGE_TOO_LARGE,
                   "the payload is larger than %zu bytes in tensor form; the call was carried out, and the same request with the same request_id "
                   "collects its reply "
                   "in another payload_format",
                   b->max);
  return err_nomem(r->e);
}

static bool mismatch(struct reader *r, const struct array *a)
{
  char place[256];
  size_t n = 0;
  for (int i = 0; i < a->depth && n < sizeof place - 24; i++)
    n += (size_t)snprintf(place + n, sizeof place - n, "[%lld]", (long long)a->count[i]);
  place[n] = '\0';
  struct str path = a->spec->path;
  return err_field(r->e, REASON_TENSOR_MISMATCH, "tensors",
                   "tensors: \"%.*s\" is no tensor of %s: %s%s has %s; the call was carried out, and the same request with the same request_id "
                   "collects its reply in another "
                   "payload_format",
                   STR_ARG(path), dtype_name(a->spec->dtype), n ? "at " : "it", place, a->problem);
}

// Reads the value that comes next as the tensor of a path.
static bool read_tensor(struct reader *r, size_t index)
{
  struct tensor *t = &r->tensors[index];
  struct array a = {.begin = r->j.start, .end = r->j.end, .data = r->data, .spec = &r->specs->at[index], .rank = -1, .shape = t->shape};
  for (int i = 0; i < TENSOR_RANK_MAX; i++)
    t->shape[i] = -1;
  t->at = r->data->n;
  const char *behind = read_array(&a, r->j.p);
  if (!behind)
    return a.problem ? mismatch(r, &a) : out_of_room(r, r->data, dtype_size(a.spec->dtype) * JSON_BLOCK / 2);
  t->n = r->data->n - t->at;
  t->rank = a.rank;
  t->found = true;
  r->j.p = behind;
  return true;
}

// Which of `some` paths have this name at that level.
static uint64_t with_name(const struct reader *r, uint64_t some, size_t level, struct str raw)
{
  uint64_t found = 0;
  for (; some; some &= some - 1) {
    int i = __builtin_ctzll(some);
    if (json_raw_eq(raw, r->specs->at[i].names[level]))
      found |= UINT64_C(1) << i;
  }
  return found;
}

static bool keep(struct reader *r, const char *from, const char *to)
{
  size_t n = (size_t)(to - from);
  return buf_add(r->rest, from, n) || out_of_room(r, r->rest, n);
}

static bool keep_text(struct reader *r, struct str s)
{
  return keep(r, s.p, s.p + s.n);
}

static bool walk(struct reader *r, uint64_t paths, size_t level);

// The value that comes next, which all these paths name or lead through; `head` is what stands before it, and goes with it. *kept: something was.
static bool walk_value(struct reader *r, uint64_t paths, size_t level, struct str head, bool in_array, bool *kept)
{
  int first = __builtin_ctzll(paths);
  for (uint64_t some = paths; some; some &= some - 1) // of a member that comes twice the last one counts
    r->tensors[__builtin_ctzll(some)].found = false;
  *kept = true;
  if (r->specs->at[first].n_names == level) {
    *kept = in_array;
    return read_tensor(r, (size_t)first) && (!in_array || (keep_text(r, head) && keep_text(r, STR("null"))));
  }
  return keep_text(r, head) && walk(r, paths, level);
}

static bool walk_object(struct reader *r, uint64_t paths, size_t level)
{
  struct str key, value;
  bool any = false;
  if (!keep_text(r, STR("{")) || !json_enter_object(&r->j))
    return false;
  while (json_next_key(&r->j, &key)) {
    size_t before = r->rest->n;
    uint64_t some = with_name(r, paths, level, key);
    bool kept = true;
    if (any && !keep_text(r, STR(",")))
      return false;
    if (some) {
      struct str head = {key.p - 1, (size_t)(r->j.p - key.p) + 1};
      if (!walk_value(r, some, level + 1, head, false, &kept))
        return false;
    } else if (!json_skip(&r->j, &value) || !keep(r, key.p - 1, value.p + value.n)) {
      return false;
    }
    if (kept)
      any = true;
    else
      r->rest->n = before;
  }
  return keep_text(r, STR("}"));
}

static bool walk_array(struct reader *r, uint64_t paths, size_t level)
{
  struct str value;
  if (!keep_text(r, STR("[")) || !json_enter_array(&r->j))
    return false;
  for (size_t i = 0; json_next_item(&r->j); i++) {
    char index[24];
    int n = snprintf(index, sizeof index, "%zu", i);
    uint64_t some = with_name(r, paths, level, (struct str){index, (size_t)n});
    bool kept;
    if (i && !keep_text(r, STR(",")))
      return false;
    if (some) {
      if (!walk_value(r, some, level + 1, STR(""), true, &kept))
        return false;
    } else if (!json_skip(&r->j, &value) || !keep_text(r, value)) {
      return false;
    }
  }
  return keep_text(r, STR("]"));
}

// The value that comes next, through which these paths lead.
static bool walk(struct reader *r, uint64_t paths, size_t level)
{
  enum json_type type;
  struct str value;
  if (!json_peek(&r->j, &type))
    return false;
  if (type == JSON_OBJECT)
    return walk_object(r, paths, level);
  if (type == JSON_ARRAY)
    return walk_array(r, paths, level);
  return json_skip(&r->j, &value) && keep_text(r, value);
}

bool tensors_from_json(const struct tensor_specs *specs, struct str json, struct tensor *tensors, struct buf *data, struct buf *rest,
                       bool *rest_is_all, struct err *e)
{
  struct reader r = {.specs = specs, .tensors = tensors, .data = data, .rest = rest, .e = e};
  size_t before = rest->n;
  bool none = true;
  json_init(&r.j, json, JSON_DEPTH_MAX);
  for (size_t i = 0; i < specs->n; i++)
    tensors[i].found = false;
  *rest_is_all = false;
  if (specs->n && !specs->at[0].path.n) // the only one, then
    return read_tensor(&r, 0);
  if (!walk(&r, specs->n ? UINT64_MAX >> (64 - specs->n) : 0, 0) && !r.j.failed)
    return false;
  if (r.j.failed)
    return json_err(&r.j, "", e);
  for (size_t i = 0; i < specs->n; i++)
    none = none && !tensors[i].found;
  *rest_is_all = none;
  if (none || str_eq((struct str){rest->p + before, rest->n - before}, STR("{}")))
    rest->n = before;
  return true;
}
