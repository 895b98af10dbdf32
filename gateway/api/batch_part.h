// SPDX-License-Identifier: Apache-2.0
// What batch.c (the batch, where its call is) and batch_part.c (its items, where their sessions are) share.
//
// A batch is cut into parts, one for each reactor that has sessions of it. A part is a piece of memory of its own that travels: it is filled on the call's
// reactor; posted to where its sessions are; and posted back when all of its items have ended. Whoever has it works on it alone, so nothing is locked, and it
// does not matter that the call may have ended meanwhile. The part for the call's own reactor is the same without the travel.
//
// An item that ends leaves its result, ready to be encoded, in its part. Bytes of workers' messages are counted references, which are for one thread:
// parts that travel take copies, the own part takes references.
#ifndef ENVGATE_API_BATCH_PART_H
#define ENVGATE_API_BATCH_PART_H

#include "api/batch_stack.h"
#include "api/episodes.h"
#include "api/forward.h"

enum {
  ITEMS_MAX = 1024,            // as the .proto says
  REPLY_BYTES_MAX = 256 << 20, // of payloads in one reply, shared out among the parts
};

// What a StepBatchRequest and a ResetBatchRequest have in common.
struct batch_request {
  size_t n;
  bool reset;
  union {
    Envgate__V1__StepRequest *const *steps;
    Envgate__V1__ResetRequest *const *resets; // with `reset`
  };
  const Envgate__V1__StackedActions *actions; // instead of steps; NULL: none
  const struct tensor_writer *rows;           // of these, once they are checked
  bool stacked;
  Envgate__V1__TensorSpec *const *tensors;
  size_t n_tensors;
  double timeout_s;
  Envgate__V1__PayloadFormat format;
  Envgate__V1__StepBatchRequest__Wait wait;
  int32_t min_ready;
};

struct batch_item {
  struct waiter waiter;
  struct timer timer; // of its own timeout_s
  struct batch_part *part;
  size_t index; // in the request
  const char *session;
  struct payload_terms terms;
  double timeout_s;
  bool waiting; // submitted to its session, which has not answered
  bool filled;  // the result was begun at least
  bool added;   // its row is in the part's stack
  struct shared *bytes;
  struct step_reply *reply;           // the result; not zeroed
  Envgate__V1__StepBatchItem message; // has a status or a result when the item has ended, or is pending
};

struct batch_part {
  struct task go;   // to its reactor, and back with the results
  struct task stop; // the same way, when the batch ends early
  struct batch *batch;
  struct reactor *at;   // where its sessions are
  struct reactor *home; // the batch's
  struct identity who;
  bool back;    // at home again
  bool go_on;   // set with `stop`: what its items wait for goes on without them
  bool counted; // WAIT_ANY: it tells batch_count of items that are done

  // Whoever has the part:
  struct arena arena;
  struct payload_scope scope;
  struct forward headers; // of the call
  nsec arrived;
  struct flow *flow; // of the batch's call: a reference, as the part may outlive it
  uint64_t flow_key;
  struct batch_item *items;
  size_t n;
  struct payload_terms terms; // of items that don't say
  struct batch_stack *stack;  // of its items' observations, by their place in the part; NULL: they are not stacked
  size_t left;                // items that have not ended, and one while the part is worked on
  size_t room;                // bytes of payloads that its results may still have
  size_t failed, pending;
  bool nomem; // an item could not even be given its error
};

// --- at home -------------------------------------------------------------------------------------------------------------------------------

// A part for a call's sessions on `at`, without items. NULL: out of memory.
struct batch_part *part_new(struct batch *b, struct call *c, struct reactor *at);
// Makes room for p->n items, which are then added, with so many bytes of payloads for each. False: out of memory.
bool part_reserve(struct batch_part *p, size_t share, const struct batch_request *q);
// Reads one item of the request and adds it. What is wrong with it is in its status. NULL: out of memory.
struct batch_item *part_add(struct batch_part *p, size_t index, const struct batch_request *q);
void part_free(struct batch_part *p);
// Takes the results of all its items back, where the part is at home again.
void part_fail(struct batch_part *p, const struct err *e);

// batch.c: the part is at home again, by its task `go`.
void batch_part_back(struct reactor *home, struct task *go);
// batch.c: so many more items are done or waited for no longer. On any thread; the part that tells must not have gone home. Each of the parts' items is told of once.
void batch_count(struct batch *b, size_t n);

// --- where its sessions are ----------------------------------------------------------------------------------------------------------------

// Submits the items; for p->go.
void part_begin(struct reactor *r, struct task *go);
// Nobody waits for its items any more (see go_on). The part may be at home when this returns.
void part_stop(struct batch_part *p);

#endif
