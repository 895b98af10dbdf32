// SPDX-License-Identifier: Apache-2.0
#include "api/batch_stack.h"

struct batch_stack *stack_new(Envgate__V1__TensorSpec *const *tensors, size_t n_tensors, size_t n, struct arena *a)
{
  struct batch_stack *s = arena_alloc(a, sizeof *s);
  void *memory = arena_alloc(a, tensor_specs_size(tensors, n_tensors));
  if (!s || !memory)
    return NULL;
  s->specs = tensor_specs_make(tensors, n_tensors, memory);
  s->n = n;
  s->paths = arena_alloc(a, n_tensors * sizeof *s->paths);
  s->tensors = arena_alloc(a, n_tensors * sizeof *s->tensors);
  return s->paths && s->tensors ? s : NULL;
}

// --- rows ----------------------------------------------------------------------------------------------------------------------------------

static bool same_shape(int rank, const int64_t *shape, int other_rank, const int64_t *other)
{
  return rank == other_rank && memcmp(shape, other, (size_t)rank * sizeof *shape) == 0;
}

static bool mismatch(const struct tensor_spec *spec, const char *what, struct err *e)
{
  return err_field(e, REASON_TENSOR_MISMATCH, "tensors",
                   "tensors: the observation %s at \"%.*s\", so it cannot be stacked; the call was carried out, and the same request with the same "
                   "request_id collects its "
                   "reply in a call without `stacked`",
                   what, STR_ARG(spec->path));
}

static const char another_shape[] = "has another shape than the one that came first";

// Every path is there, with the shape that its rows have.
static bool check(const struct batch_stack *s, struct err *e)
{
  for (size_t k = 0; k < s->specs->n; k++) {
    const struct tensor *t = &s->tensors[k];
    const struct stack_path *path = &s->paths[k];
    if (!t->found)
      return mismatch(&s->specs->at[k], "has nothing", e);
    if (s->begun && !same_shape(t->rank, t->shape, path->rank, path->shape))
      return mismatch(&s->specs->at[k], another_shape, e);
  }
  return true;
}

static bool reserve(struct stack_path *path, size_t n)
{
  if (path->row && !buf_reserve(&path->rows, n * path->row))
    return false;
  path->rows.n = n * path->row;
  return true;
}

// The first row decides.
static bool begin(struct batch_stack *s, size_t *room, struct err *e)
{
  size_t all = 0;
  for (size_t k = 0; k < s->specs->n; k++)
    all += s->tensors[k].n * s->n; // each less than the room of a payload
  if (all > *room)
    return err_set(e, CODE_RESOURCE_EXHAUSTED, REASON_MESSAGE_TOO_LARGE,
                   "the batch's results are too large for one reply; this one was carried out: collect it alone with the same request_id, or make "
                   "smaller batches");
  for (size_t k = 0; k < s->specs->n; k++) {
    const struct tensor *t = &s->tensors[k];
    struct stack_path *path = &s->paths[k];
    path->rank = t->rank;
    memcpy(path->shape, t->shape, (size_t)t->rank * sizeof *t->shape);
    path->row = t->n;
    if (!reserve(path, s->n))
      return err_nomem(e);
  }
  *room -= all;
  s->begun = true;
  return true;
}

static bool add(struct batch_stack *s, size_t i, struct str json, struct payload_bytes *bytes, struct arena *a, size_t *room, struct str *rest,
                struct err *e)
{
  bool rest_is_all;
  if (!tensors_from_json(s->specs, json, s->tensors, &bytes->data, &bytes->rest, &rest_is_all, e) || !check(s, e))
    return false;
  if (bytes->rest.n > *room)
    return err_set(e, CODE_RESOURCE_EXHAUSTED, REASON_MESSAGE_TOO_LARGE, "the batch's results are too large for one reply; make smaller batches");
  *rest = (struct str){arena_dup(a, buf_view(&bytes->rest)), bytes->rest.n};
  if (!rest->p)
    return err_nomem(e);
  *room -= rest->n;
  if (!s->begun && !begin(s, room, e))
    return false;
  for (size_t k = 0; k < s->specs->n; k++)
    if (s->tensors[k].n)
      memcpy(s->paths[k].rows.p + i * s->paths[k].row, bytes->data.p + s->tensors[k].at, s->tensors[k].n);
  return true;
}

bool stack_add(struct batch_stack *s, size_t i, struct str json, const struct payload_scope *scope, size_t *room, struct str *rest, struct err *e)
{
  struct payload_bytes bytes = {.data.max = *room, .rest.max = *room};
  buf_lend(scope->bufs, &bytes.data, json.n < BUF_LARGE ? json.n : BUF_LARGE);
  buf_lend(scope->bufs, &bytes.rest, 0);
  bool ok = add(s, i, json, &bytes, scope->arena, room, rest, e);
  payload_bytes_return(scope->bufs, &bytes);
  return ok;
}

// --- stacks --------------------------------------------------------------------------------------------------------------------------------

bool stack_fits(const struct batch_stack *s, const struct batch_stack *whole, struct err *e)
{
  for (size_t k = 0; k < s->specs->n; k++)
    if (!same_shape(s->paths[k].rank, s->paths[k].shape, whole->paths[k].rank, whole->paths[k].shape))
      return mismatch(&s->specs->at[k], another_shape, e);
  return true;
}

bool stack_begin_like(struct batch_stack *s, const struct batch_stack *like)
{
  for (size_t k = 0; k < s->specs->n; k++) {
    struct stack_path *path = &s->paths[k];
    const struct stack_path *from = &like->paths[k];
    path->rank = from->rank;
    path->row = from->row;
    memcpy(path->shape, from->shape, sizeof path->shape);
    if (!reserve(path, s->n))
      return false;
  }
  s->begun = true;
  return true;
}

void stack_copy(struct batch_stack *s, size_t i, const struct batch_stack *other, size_t from)
{
  for (size_t k = 0; k < s->specs->n; k++)
    if (s->paths[k].row)
      memcpy(s->paths[k].rows.p + i * s->paths[k].row, other->paths[k].rows.p + from * other->paths[k].row, s->paths[k].row);
}

void stack_zero(struct batch_stack *s, size_t i)
{
  for (size_t k = 0; k < s->specs->n; k++)
    if (s->paths[k].row)
      memset(s->paths[k].rows.p + i * s->paths[k].row, 0, s->paths[k].row);
}

void stack_free(struct batch_stack *s, struct buf_pool *pool)
{
  for (size_t k = 0; s && s->paths && k < s->specs->n; k++)
    buf_return(pool, &s->paths[k].rows);
}

// --- messages ------------------------------------------------------------------------------------------------------------------------------

bool stack_messages(const struct batch_stack *s, Envgate__V1__StackedResults *m, struct arena *a)
{
  m->observations = arena_alloc(a, s->specs->n * sizeof *m->observations);
  for (size_t k = 0; m->observations && k < s->specs->n; k++) {
    const struct stack_path *path = &s->paths[k];
    Envgate__V1__StackedResults__ObservationsEntry *entry = arena_alloc(a, sizeof *entry);
    Envgate__V1__Tensor *t = arena_alloc(a, sizeof *t);
    int64_t *shape = arena_alloc(a, ((size_t)path->rank + 1) * sizeof *shape);
    if (!entry || !t || !shape)
      return false;
    envgate__v1__stacked_results__observations_entry__init(entry);
    envgate__v1__tensor__init(t);
    entry->key = arena_dup(a, s->specs->at[k].path);
    entry->value = t;
    if (!entry->key)
      return false;
    shape[0] = (int64_t)s->n;
    memcpy(shape + 1, path->shape, (size_t)path->rank * sizeof *shape);
    t->dtype = s->specs->at[k].dtype;
    t->n_shape = (size_t)path->rank + 1;
    t->shape = shape;
    t->data = (ProtobufCBinaryData){path->rows.n, (uint8_t *)path->rows.p};
    m->observations[m->n_observations++] = entry;
  }
  return m->observations != NULL;
}

Envgate__V1__Tensor *stack_vector(Envgate__V1__Dtype dtype, size_t n, struct arena *a)
{
  Envgate__V1__Tensor *t = arena_alloc(a, sizeof *t);
  int64_t *shape = arena_alloc(a, sizeof *shape);
  size_t bytes = n * dtype_size(dtype);
  uint8_t *data = arena_alloc(a, bytes);
  if (!t || !shape || !data)
    return NULL;
  envgate__v1__tensor__init(t);
  *shape = (int64_t)n;
  t->dtype = dtype;
  t->n_shape = 1;
  t->shape = shape;
  t->data = (ProtobufCBinaryData){bytes, data};
  return t;
}
