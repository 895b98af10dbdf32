// SPDX-License-Identifier: Apache-2.0
#include "api/batch.h"

#include <assert.h>
#include <endian.h>
#include <math.h>
#include <stdlib.h>

#include "api/batch_part.h"
#include "config/config.h"

struct batch {
  struct call *call; // NULL once it has ended
  struct reactor *home;
  struct arena arena;
  struct batch_part **parts;          // by reactor; NULL: it has none of the sessions
  Envgate__V1__StepBatchItem **items; // in the order of the request; they lie in the parts
  size_t n;
  struct batch_stack *stack; // of the whole, where there are several parts
  int out;                   // tasks under way, and one while the batch is worked on
  bool stopped;

  // WAIT_ANY. The one number that threads share: how many items must still be done. Who brings it to 0 posts `enough`.
  bool any;
  bool enough_due; // `enough` has not run, and counts in `out`: it comes for certain
  _Atomic int64_t missing;
  struct task enough;
};

// --- the end -------------------------------------------------------------------------------------------------------------------------------

static void batch_free(struct batch *b)
{
  for (int i = 0; b->parts && i < b->home->count; i++)
    if (b->parts[i])
      part_free(b->parts[i]);
  stack_free(b->stack, &b->home->bufs);
  arena_free(&b->arena);
  free(b);
}

// Which items failed. False: out of memory.
static bool list_failed(struct batch *b, Envgate__V1__StepBatchResponse *reply)
{
  size_t n = 0;
  for (int i = 0; i < b->home->count; i++) {
    const struct batch_part *p = b->parts[i];
    if (p && p->nomem)
      return false;
    n += p ? p->failed : 0;
  }
  reply->failed = n ? arena_alloc(&b->arena, n * sizeof *reply->failed) : NULL;
  if (!reply->failed)
    return n == 0;
  for (size_t i = 0; i < b->n; i++)
    if (b->items[i]->status)
      reply->failed[reply->n_failed++] = (uint32_t)i;
  return true;
}

// --- stacked results -----------------------------------------------------------------------------------------------------------------------

static struct batch_item *item_of(const struct batch *b, size_t i)
{
  return CONTAINER_OF(b->items[i], struct batch_item, message);
}

// Parts whose observations are of other shapes than that of the first item that has one fail; the others' rows become one stack.
static bool join_parts(struct batch *b, const struct batch_stack *first)
{
  struct err e;
  for (int i = 0; i < b->home->count; i++) {
    struct batch_part *p = b->parts[i];
    if (p && p->stack->begun && !stack_fits(p->stack, first, &e))
      part_fail(p, &e);
  }
  if (!stack_begin_like(b->stack, first))
    return false;
  for (size_t i = 0; i < b->n; i++) {
    const struct batch_item *item = item_of(b, i);
    if (item->added)
      stack_copy(b->stack, i, item->part->stack, (size_t)(item - item->part->items));
  }
  return true;
}

static bool numbers_fill(struct batch *b, Envgate__V1__StackedResults *m)
{
  m->rewards = stack_vector(ENVGATE__V1__DTYPE__DTYPE_FLOAT64, b->n, &b->arena);
  m->done = stack_vector(ENVGATE__V1__DTYPE__DTYPE_BOOL, b->n, &b->arena);
  m->terminated = stack_vector(ENVGATE__V1__DTYPE__DTYPE_BOOL, b->n, &b->arena);
  m->truncated = stack_vector(ENVGATE__V1__DTYPE__DTYPE_BOOL, b->n, &b->arena);
  m->step_indices = stack_vector(ENVGATE__V1__DTYPE__DTYPE_INT64, b->n, &b->arena);
  if (!m->rewards || !m->done || !m->terminated || !m->truncated || !m->step_indices)
    return false;
  for (size_t i = 0; i < b->n; i++) {
    const struct batch_item *item = item_of(b, i);
    if (!item->added)
      continue;
    const Envgate__V1__StepResult *result = &item->reply->result;
    double reward = result->_reward_case == ENVGATE__V1__STEP_RESULT___REWARD_REWARD ? result->reward : (double)NAN;
    uint64_t bits, index = htole64((uint64_t)result->step_index);
    memcpy(&bits, &reward, sizeof bits);
    bits = htole64(bits);
    memcpy(m->rewards->data.data + i * sizeof bits, &bits, sizeof bits);
    memcpy(m->step_indices->data.data + i * sizeof index, &index, sizeof index);
    m->done->data.data[i] = result->done != 0;
    m->terminated->data.data[i] = result->terminated != 0; // false where it is not set
    m->truncated->data.data[i] = result->truncated != 0;
  }
  return true;
}

// Fills `m`, which points into *stack. False: out of memory.
static bool stacked_fill(struct batch *b, Envgate__V1__StackedResults *m, struct batch_stack **stack)
{
  const struct batch_part *first = item_of(b, 0)->part;
  struct batch_stack *s = first->stack;
  envgate__v1__stacked_results__init(m);
  for (size_t i = b->n; i-- > 0;)
    if (item_of(b, i)->added)
      s = item_of(b, i)->part->stack;
  if (s->begun && b->stack) {
    if (!join_parts(b, s))
      return false;
    s = b->stack;
  }
  for (size_t i = 0; s->begun && i < b->n; i++)
    if (!item_of(b, i)->added)
      stack_zero(s, i);
  *stack = s;
  return numbers_fill(b, m) && (!s->begun || stack_messages(s, m, &b->arena));
}

// Large ones are sent from where they are.
static void lend_rows(struct call *c, struct batch_stack *s, struct shared **lent)
{
  enum { LEND_MIN = 64 << 10 };
  for (size_t k = 0; k < s->specs->n; k++) {
    lent[k] = s->paths[k].rows.n >= LEND_MIN ? shared_take(NULL, &s->paths[k].rows) : NULL;
    if (lent[k])
      call_lend(c, lent[k]);
  }
}

// --- the reply -----------------------------------------------------------------------------------------------------------------------------

static void batch_reply(struct batch *b)
{
  struct err e;
  Envgate__V1__StepBatchResponse reply;
  Envgate__V1__StackedResults stacked;
  struct batch_stack *stack = NULL;
  struct shared *lent[TENSORS_MAX] = {0};
  envgate__v1__step_batch_response__init(&reply);
  reply.n_items = b->n;
  reply.items = b->items;
  bool ok = true;
  if (item_of(b, 0)->part->stack) {
    ok = stacked_fill(b, &stacked, &stack);
    reply.stacked = &stacked;
  }
  if (!ok || !list_failed(b, &reply)) {
    err_nomem(&e);
    fail(b->call, &e);
    return;
  }
  struct batch_part *own = b->parts[b->home->index];
  for (size_t i = 0; own && i < own->n; i++)
    if (own->items[i].bytes)
      call_lend(b->call, own->items[i].bytes);
  if (stack)
    lend_rows(b->call, stack, lent);
  rpc_finish(b->call, &reply.base, NULL);
  for (size_t k = 0; stack && k < stack->specs->n; k++)
    shared_unref(lent[k]);
}

// One task less is under way. With the last but `enough` the call ends, with that the batch.
static void batch_let_go(struct batch *b)
{
  if (--b->out > b->enough_due)
    return;
  if (b->call)
    batch_reply(b);
  b->call = NULL;
  if (!b->out)
    batch_free(b);
}

void batch_count(struct batch *b, size_t n)
{
  int64_t before = atomic_fetch_sub_explicit(&b->missing, (int64_t)n, memory_order_relaxed);
  if (before > 0 && before <= (int64_t)n)
    reactor_post(b->home, &b->enough);
}

void batch_part_back(struct reactor *home, struct task *go)
{
  struct batch_part *p = CONTAINER_OF(go, struct batch_part, go);
  (void)home;
  p->back = true;
  batch_let_go(p->batch);
}

static void on_stop_back(struct reactor *r, struct task *t)
{
  (void)r;
  batch_let_go(CONTAINER_OF(t, struct batch_part, stop)->batch);
}

static void stop_there(struct reactor *r, struct task *t)
{
  struct batch_part *p = CONTAINER_OF(t, struct batch_part, stop);
  (void)r;
  part_stop(p);
  p->stop.run = on_stop_back;
  reactor_post(p->home, &p->stop);
}

// Calls in what is still out. The batch ends when all of it is back: now, or in a moment.
static void batch_stop(struct batch *b)
{
  if (b->stopped)
    return;
  b->stopped = true;
  b->out++;
  for (int i = 0; i < b->home->count; i++) {
    struct batch_part *p = b->parts[i];
    if (!p || p->back)
      continue;
    p->go_on = b->any && b->call;
    if (p->at == b->home) {
      part_stop(p);
      continue;
    }
    b->out++;
    p->stop.run = stop_there;
    reactor_post(p->at, &p->stop);
  }
  batch_let_go(b);
}

// This turn has brought enough; what it has brought beyond that is in the parts, too.
static void on_enough(struct reactor *r, struct task *t)
{
  struct batch *b = CONTAINER_OF(t, struct batch, enough);
  (void)r;
  b->enough_due = false;
  batch_stop(b);
  batch_let_go(b);
}

void batch_deadline(struct call *c)
{
  batch_stop(c->state);
}

void batch_cancel(struct call *c, struct err *e)
{
  struct batch *b = c->state;
  (void)e;
  b->call = NULL;
  batch_stop(b);
}

// --- the request ---------------------------------------------------------------------------------------------------------------------------

static struct batch_request request_of(const struct call *c)
{
  if (c->method->input == &envgate__v1__step_batch_request__descriptor) {
    const Envgate__V1__StepBatchRequest *q = (const void *)c->request;
    const Envgate__V1__StackedActions *actions = q->stacked_actions;
    return (struct batch_request){.n = actions ? actions->n_sessions : q->n_items,
                                  .steps = q->items,
                                  .actions = actions,
                                  .stacked = q->stacked,
                                  .tensors = q->tensors,
                                  .n_tensors = q->n_tensors,
                                  .timeout_s = q->timeout_s,
                                  .format = q->payload_format,
                                  .wait = q->wait,
                                  .min_ready = q->min_ready};
  }
  const Envgate__V1__ResetBatchRequest *q = (const void *)c->request;
  return (struct batch_request){.n = q->n_items,
                                .reset = true,
                                .resets = q->items,
                                .stacked = q->stacked,
                                .tensors = q->tensors,
                                .n_tensors = q->n_tensors,
                                .timeout_s = q->timeout_s,
                                .format = q->payload_format,
                                .wait = q->wait,
                                .min_ready = q->min_ready};
}

static const char *session_of_item(const struct batch_request *q, size_t i)
{
  return q->actions ? q->actions->sessions[i] : q->reset ? q->resets[i]->session : q->steps[i]->session;
}

static const char *request_id_of_item(const struct batch_request *q, size_t i)
{
  return q->actions ? q->actions->request_id : q->reset ? q->resets[i]->request_id : q->steps[i]->request_id;
}

static bool wait_check(const struct batch_request *q, struct err *e)
{
  bool any = q->wait == ENVGATE__V1__STEP_BATCH_REQUEST__WAIT__WAIT_ANY;
  if (q->wait < 0 || q->wait > ENVGATE__V1__STEP_BATCH_REQUEST__WAIT__WAIT_ANY)
    return err_field(e, REASON_INVALID_REQUEST, "wait", "wait: %d is no way to wait; use WAIT_ALL or WAIT_ANY", (int)q->wait);
  if (!any && q->min_ready)
    return err_field(e, REASON_INVALID_REQUEST, "min_ready", "min_ready goes with WAIT_ANY only");
  if (q->min_ready < 0 || (size_t)q->min_ready > q->n)
    return err_field(e, REASON_INVALID_REQUEST, "min_ready", "min_ready is %d; it must be from 1 to the number of items, %zu, or 0 for 1",
                     q->min_ready, q->n);
  for (size_t i = 0; any && i < q->n; i++) {
    if (request_id_of_item(q, i)[0])
      continue;
    char field[48];
    snprintf(field, sizeof field, "items[%zu].request_id", i);
    const char *blamed = q->actions ? "stacked_actions.request_id" : field;
    return err_field(e, REASON_INVALID_REQUEST, blamed, "%s is required with WAIT_ANY: it is what collects the item when it is pending", blamed);
  }
  return true;
}

// Stacked actions, made ready. False: `e`.
static bool actions_check(struct call *c, struct batch_request *q, struct err *e)
{
  enum { SUFFIX = 8 }; // "-1023" and a bit
  size_t rows;
  if (((const Envgate__V1__StepBatchRequest *)(const void *)c->request)->n_items)
    return err_field(e, REASON_INVALID_REQUEST, "stacked_actions", "items and stacked_actions exclude each other");
  if (!q->n || q->n > ITEMS_MAX)
    return err_field(e, REASON_INVALID_REQUEST, "stacked_actions.sessions", "stacked_actions.sessions has %zu sessions; 1 to %d are allowed", q->n,
                     ITEMS_MAX);
  if (strlen(q->actions->request_id) > REQUEST_ID_MAX - SUFFIX)
    return err_field(e, REASON_INVALID_REQUEST, "stacked_actions.request_id", "stacked_actions.request_id has %zu bytes; at most %d are allowed",
                     strlen(q->actions->request_id), REQUEST_ID_MAX - SUFFIX);
  if (!q->actions->actions || !q->actions->actions->n_tensors)
    return err_field(e, REASON_INVALID_REQUEST, "stacked_actions.actions", "stacked_actions.actions is required: at least one tensor");
  for (size_t i = 0; i < q->actions->actions->n_tensors; i++)
    if (!str_c(q->actions->actions->tensors[i]->key).n)
      return err_field(e, REASON_INVALID_REQUEST, "stacked_actions.actions",
                       "stacked_actions.actions: an action is a JSON object, so each tensor needs the path of a member");
  q->rows = tensor_writer_new(q->actions->actions, (int)c->owner->config->max_json_depth, "stacked_actions.actions", &rows, &c->arena, e);
  if (!q->rows)
    return false;
  return rows == q->n || err_field(e, REASON_INVALID_REQUEST, "stacked_actions.actions",
                                   "stacked_actions.actions: the tensors have %zu rows, and there are %zu sessions", rows, q->n);
}

static bool batch_check(struct call *c, struct batch_request *q, struct err *e)
{
  const char *what = q->reset ? "resets" : "steps";
  if (q->actions) {
    if (!actions_check(c, q, e))
      return false;
  } else {
    if (!q->n)
      return err_field(e, REASON_INVALID_REQUEST, "items", "items is required: 1 to %d %s", ITEMS_MAX, what);
    if (q->n > ITEMS_MAX)
      return err_field(e, REASON_INVALID_REQUEST, "items", "items has %zu %s; at most %d are allowed", q->n, what, ITEMS_MAX);
  }
  if (q->stacked && !q->n_tensors)
    return err_field(e, REASON_INVALID_REQUEST, "tensors", "tensors is required with stacked: the paths of what is to be stacked");
  return wait_check(q, e) && tensor_specs_check(q->tensors, q->n_tensors, "tensors", e) && payload_format_check(q->format, e);
}

// A batch goes to where its first session is, since the others are likely to be there, too.
int batch_route(const struct call *c)
{
  const struct batch_request q = request_of(c);
  return q.n ? reactor_of_name(c->home, session_of_item(&q, 0)) : c->home->index;
}

// --- the beginning -------------------------------------------------------------------------------------------------------------------------

// Makes the parts, each with room for its items. `where` gets each item's reactor.
static bool parts_make(struct batch *b, const struct batch_request *q, int *where)
{
  for (size_t i = 0; i < b->n; i++) {
    int at = where[i] = reactor_of_name(b->home, session_of_item(q, i));
    if (!b->parts[at] && !(b->parts[at] = part_new(b, b->call, b->home->all[at])))
      return false;
    b->parts[at]->n++;
    b->parts[at]->counted = b->any;
  }
  assert(b->n > 0); // batch_check
  size_t share = REPLY_BYTES_MAX / b->n;
  for (int i = 0; i < b->home->count; i++)
    if (b->parts[i] && !part_reserve(b->parts[i], share, q))
      return false;
  return true;
}

static bool batch_fill(struct batch *b, const struct batch_request *q)
{
  int where[ITEMS_MAX];
  b->parts = arena_alloc(&b->arena, (size_t)b->home->count * sizeof(struct batch_part *));
  b->items = arena_alloc(&b->arena, b->n * sizeof(Envgate__V1__StepBatchItem *));
  if (!b->parts || !b->items || !parts_make(b, q, where))
    return false;
  for (size_t i = 0; i < b->n; i++) {
    struct batch_item *item = part_add(b->parts[where[i]], i, q);
    if (!item)
      return false;
    b->items[i] = &item->message;
  }
  if (!q->stacked || item_of(b, 0)->part->n == b->n)
    return true;
  b->stack = stack_new(q->tensors, q->n_tensors, b->n, &b->arena);
  return b->stack;
}

static struct batch *batch_new(struct call *c, const struct batch_request *q)
{
  struct batch *b = calloc(1, sizeof *b);
  if (!b)
    return NULL;
  b->call = c;
  b->home = c->owner;
  b->n = q->n;
  b->any = q->wait == ENVGATE__V1__STEP_BATCH_REQUEST__WAIT__WAIT_ANY;
  b->enough.run = on_enough;
  atomic_init(&b->missing, q->min_ready ? q->min_ready : 1);
  arena_init(&b->arena, 1 << 20);
  if (batch_fill(b, q))
    return b;
  batch_free(b);
  return NULL;
}

// The others first, so that they work while this reactor does.
static void batch_go(struct batch *b)
{
  struct batch_part *own = b->parts[b->home->index];
  b->enough_due = b->any;
  b->out = 1 + b->enough_due;
  for (int i = 0; i < b->home->count; i++) {
    struct batch_part *p = b->parts[i];
    if (!p)
      continue;
    b->out++;
    p->go.run = part_begin;
    if (p != own)
      reactor_post(p->at, &p->go);
  }
  if (own)
    part_begin(b->home, &own->go);
  batch_let_go(b);
}

void batch_start(struct call *c)
{
  struct batch_request q = request_of(c);
  struct err e;
  if (!batch_check(c, &q, &e) || !timeout_apply(c, q.timeout_s, &e)) {
    fail(c, &e);
    return;
  }
  struct batch *b = batch_new(c, &q);
  if (!b) {
    err_nomem(&e);
    fail(c, &e);
    return;
  }
  c->state = b;
  batch_go(b);
}
