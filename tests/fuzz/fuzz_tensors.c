// SPDX-License-Identifier: Apache-2.0
// JSON to tensors and back, and hostile tensors to JSON. The first byte says which, and the dtype; a line with a path follows.
#include <stdint.h>
#include <stdlib.h>

#include "base/json.h"
#include "transcode/tensors.h"
#include "transcode/transcode.h"

enum { DEPTH = 40, OUT_MAX = 1 << 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool holds)
{
  if (!holds)
    abort();
}

// What was read is written, and read again as the same bytes; but JSON has no infinity and no NaN.
static void again(const struct tensor_specs *specs, const struct tensor *t, const struct buf *bytes, struct arena *a)
{
  Envgate__V1__Tensor tensor;
  Envgate__V1__Tensors__TensorsEntry entry, *entries[] = {&entry};
  Envgate__V1__Tensors all;
  struct buf json = {.max = OUT_MAX}, data = {.max = OUT_MAX}, rest = {.max = OUT_MAX};
  struct tensor second;
  struct err e = {0};
  bool rest_is_all;
  envgate__v1__tensor__init(&tensor);
  envgate__v1__tensors__tensors_entry__init(&entry);
  envgate__v1__tensors__init(&all);
  tensor.dtype = specs->at[0].dtype;
  tensor.n_shape = (size_t)t->rank;
  tensor.shape = arena_alloc(a, (size_t)t->rank * sizeof *tensor.shape);
  if (!tensor.shape)
    return;
  for (int i = 0; i < t->rank; i++) // dimensions behind an empty one are not known
    tensor.shape[i] = t->shape[i] < 0 ? 0 : t->shape[i];
  if (t->n)
    tensor.data = (ProtobufCBinaryData){t->n, (uint8_t *)bytes->p + t->at};
  entry.key = arena_dup(a, specs->at[0].path);
  entry.value = &tensor;
  all.n_tensors = 1;
  all.tensors = entries;
  const struct tensor_writer *w = tensor_writer_new(&all, DEPTH, "f", NULL, a, &e);
  if (w && tensor_writer_put(w, 0, &json, &e)) {
    check(json_check(buf_view(&json), JSON_DEPTH_MAX, "", NULL, &e));
    bool array_on_the_way = !tensors_from_json(specs, buf_view(&json), &second, &data, &rest, &rest_is_all, &e);
    check(!array_on_the_way && second.found && second.n == t->n && second.rank == t->rank);
    check(!t->n || memcmp(data.p + second.at, bytes->p + t->at, t->n) == 0);
  }
  buf_free(&json);
  buf_free(&data);
  buf_free(&rest);
}

static void from_json(Envgate__V1__Dtype dtype, struct str path, struct str text, struct arena *a)
{
  Envgate__V1__TensorSpec spec, *list[] = {&spec};
  struct buf data = {.max = OUT_MAX}, rest = {.max = OUT_MAX};
  struct tensor t;
  struct err e = {0};
  bool rest_is_all;
  envgate__v1__tensor_spec__init(&spec);
  spec.path = arena_dup(a, path);
  spec.dtype = dtype;
  void *memory = tensor_specs_check(list, 1, "tensors", &e) ? arena_alloc(a, tensor_specs_size(list, 1)) : NULL;
  if (!memory || !json_check(text, DEPTH, "", NULL, &e))
    return;
  const struct tensor_specs *specs = tensor_specs_make(list, 1, memory);
  if (tensors_from_json(specs, text, &t, &data, &rest, &rest_is_all, &e)) {
    if (rest.n)
      check(json_check(buf_view(&rest), DEPTH, "", NULL, &e));
    if (t.found)
      again(specs, &t, &data, a);
    else
      check(rest_is_all);
  } else {
    check(e.code != CODE_OK && e.msg[0]);
  }
  buf_free(&data);
  buf_free(&rest);
}

static void to_json(struct str message, struct arena *a)
{
  struct err e = {0};
  struct buf out = {.max = OUT_MAX};
  const Envgate__V1__Tensors *t = (const void *)proto_decode(&envgate__v1__tensors__descriptor, message, DEPTH, a, &e);
  for (int by_row = 0; t && by_row < 2; by_row++) {
    size_t rows;
    const struct tensor_writer *w = tensor_writer_new(t, DEPTH, "f", by_row ? &rows : NULL, a, &e);
    out.n = 0;
    if (w && (!by_row || rows) && tensor_writer_put(w, by_row ? rows - 1 : 0, &out, &e))
      check(json_check(buf_view(&out), JSON_DEPTH_MAX, "", NULL, &e));
  }
  buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  if (size < 2)
    return 0;
  struct str rest = {(const char *)data + 1, size - 1};
  struct arena a;
  arena_init(&a, 16 << 20);
  const char *line = memchr(rest.p, '\n', rest.n);
  if (data[0] == 'T') {
    to_json(rest, &a);
  } else if (line) {
    size_t n = (size_t)(line - rest.p);
    from_json((Envgate__V1__Dtype)(data[0] % 12 + 1), (struct str){rest.p, n}, str_skip(rest, n + 1), &a);
  }
  arena_free(&a);
  return 0;
}
