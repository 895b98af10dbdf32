// SPDX-License-Identifier: Apache-2.0
// JSON arrays of numbers as tensors (envgate.v1.Tensor) and back: little-endian, row-major.
#ifndef ENVGATE_TRANSCODE_TENSORS_H
#define ENVGATE_TRANSCODE_TENSORS_H

#include <envgate/v1/payload.pb-c.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"

// As many dimensions as NumPy takes; how many tensors a payload may have; the longest path; how many names it may have.
enum { TENSOR_RANK_MAX = 32, TENSORS_MAX = 64, TENSOR_PATH_MAX = 1024, TENSOR_NAMES_MAX = 64 };

// How many bytes an element takes; 0: that is no dtype.
size_t dtype_size(Envgate__V1__Dtype dtype);
// "uint8"
const char *dtype_name(Envgate__V1__Dtype dtype);

// --- which members of a payload are tensors ------------------------------------------------------------------------------------------------

struct tensor_spec {
  struct str path; // JSON Pointer; "" is the whole payload
  const struct str *names;
  size_t n_names; // of the path, without escapes
  Envgate__V1__Dtype dtype;
};

struct tensor_specs {
  size_t n;
  struct tensor_spec at[];
};

// Checks what a request says: INVALID_ARGUMENT for "field[1].path" and so on. `field` is the list's name.
bool tensor_specs_check(Envgate__V1__TensorSpec *const *list, size_t n, const char *field, struct err *e);
// How many bytes of memory those that are good take, and the making in so many, with alignment for any type. It points to nothing else.
size_t tensor_specs_size(Envgate__V1__TensorSpec *const *list, size_t n);
struct tensor_specs *tensor_specs_make(Envgate__V1__TensorSpec *const *list, size_t n, void *memory);

// --- JSON to tensors -----------------------------------------------------------------------------------------------------------------------

struct tensor {
  bool found;
  int rank;
  int64_t shape[TENSOR_RANK_MAX];
  size_t at, n; // its bytes in `data`
};

// One pass over `json`, which is valid. Appends the bytes of what the paths name to `data`, and to `rest` the JSON without these members (an element of an array becomes
// null); nothing where nothing is left. `tensors` gets one for each spec; what is not in the JSON is not found. Where none is, *rest_is_all, and nothing is appended to `rest`.
//
// Integers are exact: 3.0 and 1e3 are integers, 3.5 is none, and none is cut. Floats are rounded once from the decimal to the nearest (to ±infinity, if they are too large);
// null is NaN. bool takes true, false, 1 and 0. Of members that come twice the last one counts. False: INVALID_ARGUMENT (TENSOR_MISMATCH), which names the path and the place;
// RESOURCE_EXHAUSTED, as data->max or rest->max is reached (MESSAGE_TOO_LARGE) or memory is out. Then `data` and `rest` are half filled.
bool tensors_from_json(const struct tensor_specs *specs, struct str json, struct tensor *tensors, struct buf *data, struct buf *rest,
                       bool *rest_is_all, struct err *e);

// --- tensors to JSON -----------------------------------------------------------------------------------------------------------------------

// Tensors of a request, checked and ready to be written.
struct tensor_writer;

// Checks all of it, as hostile: paths, dtypes, shapes, lengths, and that `t->json` is an object where it is given. With `rows` every shape must begin with the same number, which
// *rows gets: each row is to be written for itself. What the result points to must live on. NULL: INVALID_ARGUMENT for `field`, or out of memory.
struct tensor_writer *tensor_writer_new(const Envgate__V1__Tensors *t, int max_depth, const char *field, size_t *rows, struct arena *a,
                                        struct err *e);

// Appends the JSON that they stand for: each tensor, or its row of that number, as nested arrays at its path, among the members of `json`; objects on the way are made. Integers are
// exact, floats as Python's repr writes them. False: INVALID_ARGUMENT (a number that JSON has not, a member that is there already), or over out->max or out of memory.
bool tensor_writer_put(const struct tensor_writer *w, size_t row, struct buf *out, struct err *e);

#endif
