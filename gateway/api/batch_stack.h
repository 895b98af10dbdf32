// SPDX-License-Identifier: Apache-2.0
// The observations of a batch's items in one tensor for each path (StackedResults). Each part of a batch has a stack of its own rows; at home they become one.
#ifndef ENVGATE_API_BATCH_STACK_H
#define ENVGATE_API_BATCH_STACK_H

#include "api/payload.h"
#include "envgate/v1/session_service.pb-c.h"

// One path's rows.
struct stack_path {
  int rank;
  int64_t shape[TENSOR_RANK_MAX]; // of a row
  size_t row;                     // bytes
  struct buf rows;                // those that were not added are not filled
};

struct batch_stack {
  const struct tensor_specs *specs;
  size_t n;   // rows
  bool begun; // a row was added, so the shapes are known
  struct stack_path *paths;
  struct tensor *tensors; // of the row that is being added
};

// Of tensors that have been checked, in the arena, for `n` rows. NULL: out of memory.
struct batch_stack *stack_new(Envgate__V1__TensorSpec *const *tensors, size_t n_tensors, size_t n, struct arena *a);

// Adds an observation as row `i`. *rest: what is left of it, in the scope's arena. *room: how many bytes it may still take. False: `e`, and the row is as if it had not been.
bool stack_add(struct batch_stack *s, size_t i, struct str json, const struct payload_scope *scope, size_t *room, struct str *rest, struct err *e);

// Whether a stack that has begun can become part of another one. False: TENSOR_MISMATCH for its rows.
bool stack_fits(const struct batch_stack *s, const struct batch_stack *whole, struct err *e);

// Makes an empty stack one that has room for rows like those of `like`, which has begun. False: out of memory.
bool stack_begin_like(struct batch_stack *s, const struct batch_stack *like);
// Copies row `from` of another one, of the same shapes.
void stack_copy(struct batch_stack *s, size_t i, const struct batch_stack *other, size_t from);
void stack_zero(struct batch_stack *s, size_t i);

// As messages that point into the stack. False: out of memory.
bool stack_messages(const struct batch_stack *s, Envgate__V1__StackedResults *m, struct arena *a);

// A vector of n elements without anything in it, and its data. NULL: out of memory.
Envgate__V1__Tensor *stack_vector(Envgate__V1__Dtype dtype, size_t n, struct arena *a);

// Gives the rows' memory back. NULL is fine. The pool is of this thread.
void stack_free(struct batch_stack *s, struct buf_pool *pool);

#endif
