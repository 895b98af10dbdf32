// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>

#include "transcode/tensor_paths.h"

size_t dtype_size(Envgate__V1__Dtype dtype)
{
  static const uint8_t sizes[] = {
      [ENVGATE__V1__DTYPE__DTYPE_BOOL] = 1,    [ENVGATE__V1__DTYPE__DTYPE_INT8] = 1,    [ENVGATE__V1__DTYPE__DTYPE_INT16] = 2,
      [ENVGATE__V1__DTYPE__DTYPE_INT32] = 4,   [ENVGATE__V1__DTYPE__DTYPE_INT64] = 8,   [ENVGATE__V1__DTYPE__DTYPE_UINT8] = 1,
      [ENVGATE__V1__DTYPE__DTYPE_UINT16] = 2,  [ENVGATE__V1__DTYPE__DTYPE_UINT32] = 4,  [ENVGATE__V1__DTYPE__DTYPE_UINT64] = 8,
      [ENVGATE__V1__DTYPE__DTYPE_FLOAT16] = 2, [ENVGATE__V1__DTYPE__DTYPE_FLOAT32] = 4, [ENVGATE__V1__DTYPE__DTYPE_FLOAT64] = 8,
  };
  return dtype > 0 && (size_t)dtype < sizeof sizes ? sizes[dtype] : 0;
}

const char *dtype_name(Envgate__V1__Dtype dtype)
{
  static const char *const names[] = {
      [ENVGATE__V1__DTYPE__DTYPE_BOOL] = "bool",       [ENVGATE__V1__DTYPE__DTYPE_INT8] = "int8",
      [ENVGATE__V1__DTYPE__DTYPE_INT16] = "int16",     [ENVGATE__V1__DTYPE__DTYPE_INT32] = "int32",
      [ENVGATE__V1__DTYPE__DTYPE_INT64] = "int64",     [ENVGATE__V1__DTYPE__DTYPE_UINT8] = "uint8",
      [ENVGATE__V1__DTYPE__DTYPE_UINT16] = "uint16",   [ENVGATE__V1__DTYPE__DTYPE_UINT32] = "uint32",
      [ENVGATE__V1__DTYPE__DTYPE_UINT64] = "uint64",   [ENVGATE__V1__DTYPE__DTYPE_FLOAT16] = "float16",
      [ENVGATE__V1__DTYPE__DTYPE_FLOAT32] = "float32", [ENVGATE__V1__DTYPE__DTYPE_FLOAT64] = "float64",
  };
  return dtype_size(dtype) ? names[dtype] : "nothing";
}

bool tensor_path_check(struct str path, const char *field, struct err *e)
{
  size_t names = 0;
  if (path.n > TENSOR_PATH_MAX)
    return err_field(e, REASON_INVALID_REQUEST, field, "%s has %zu bytes; at most %d are allowed", field, path.n, TENSOR_PATH_MAX);
  if (path.n && *path.p != '/')
    return err_field(e, REASON_INVALID_REQUEST, field, "%s must be a JSON Pointer (RFC 6901): \"\" for the whole payload, or it begins with \"/\"",
                     field);
  for (size_t i = 0; i < path.n; i++) {
    names += path.p[i] == '/';
    if (path.p[i] == '~' && (i + 1 == path.n || (path.p[i + 1] != '0' && path.p[i + 1] != '1')))
      return err_field(e, REASON_INVALID_REQUEST, field, "%s must be a JSON Pointer (RFC 6901): there, ~0 stands for \"~\" and ~1 for \"/\"", field);
  }
  if (names > TENSOR_NAMES_MAX)
    return err_field(e, REASON_INVALID_REQUEST, field, "%s has %zu names; at most %d are allowed", field, names, TENSOR_NAMES_MAX);
  return true;
}

bool tensor_path_within(struct str inner, struct str outer)
{
  return str_starts(inner, outer) && (inner.n == outer.n || inner.p[outer.n] == '/');
}

bool tensor_specs_check(Envgate__V1__TensorSpec *const *list, size_t n, const char *field, struct err *e)
{
  if (n > TENSORS_MAX)
    return err_field(e, REASON_INVALID_REQUEST, field, "%s has %zu paths; at most %d are allowed", field, n, TENSORS_MAX);
  for (size_t i = 0; i < n; i++) {
    char name[64];
    struct str path = str_c(list[i]->path);
    snprintf(name, sizeof name, "%s[%zu].path", field, i);
    if (!tensor_path_check(path, name, e))
      return false;
    for (size_t k = 0; k < i; k++) {
      struct str other = str_c(list[k]->path);
      if (str_eq(path, other))
        return err_field(e, REASON_INVALID_REQUEST, name, "%s is the same as that of %s[%zu]", name, field, k);
      if (tensor_path_within(path, other) || tensor_path_within(other, path))
        return err_field(e, REASON_INVALID_REQUEST, name, "%s and that of %s[%zu] name things of which one lies in the other", name, field, k);
    }
    snprintf(name, sizeof name, "%s[%zu].dtype", field, i);
    if (!dtype_size(list[i]->dtype))
      return err_field(e, REASON_INVALID_REQUEST, name, "%s: %d is no dtype; use one of DTYPE_BOOL to DTYPE_FLOAT64", name, (int)list[i]->dtype);
  }
  return true;
}

size_t tensor_path_names(struct str path)
{
  size_t n = 0;
  for (size_t i = 0; i < path.n; i++)
    n += path.p[i] == '/';
  return n;
}

size_t tensor_specs_size(Envgate__V1__TensorSpec *const *list, size_t n)
{
  size_t size = sizeof(struct tensor_specs) + n * sizeof(struct tensor_spec);
  for (size_t i = 0; i < n; i++) {
    struct str path = str_c(list[i]->path);
    size += tensor_path_names(path) * sizeof(struct str) + 2 * path.n;
  }
  return size;
}

char *tensor_path_split(struct str path, struct str *names, char *to)
{
  size_t n = 0;
  for (size_t i = 0; i < path.n; i++) {
    char c = path.p[i];
    if (c == '/') {
      names[n++] = (struct str){to, 0};
      continue;
    }
    if (c == '~')
      c = path.p[++i] == '0' ? '~' : '/';
    *to++ = c;
    names[n - 1].n++;
  }
  return to;
}

struct tensor_specs *tensor_specs_make(Envgate__V1__TensorSpec *const *list, size_t n, void *memory)
{
  struct tensor_specs *specs = memory;
  struct str *names = (struct str *)(void *)&specs->at[n];
  size_t all = 0;
  specs->n = n;
  for (size_t i = 0; i < n; i++)
    all += tensor_path_names(str_c(list[i]->path));
  char *text = (char *)(names + all);
  for (size_t i = 0; i < n; i++) {
    struct str path = str_c(list[i]->path);
    struct tensor_spec *spec = &specs->at[i];
    *spec = (struct tensor_spec){.path = {text, path.n}, .names = names, .n_names = tensor_path_names(path), .dtype = list[i]->dtype};
    if (path.n)
      memcpy(text, path.p, path.n);
    text = tensor_path_split(path, names, text + path.n);
    names += spec->n_names;
  }
  return specs;
}
