// SPDX-License-Identifier: Apache-2.0
#include "api/batch.h"

#include <assert.h>
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
  int out; // tasks under way, and one while the batch is worked on
  bool stopped;
};

// --- the end -------------------------------------------------------------------------------------------------------------------------------

static void batch_free(struct batch *b)
{
  for (int i = 0; b->parts && i < b->home->count; i++)
    if (b->parts[i])
      part_free(b->parts[i]);
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

static void batch_reply(struct batch *b)
{
  struct err e;
  Envgate__V1__StepBatchResponse reply;
  envgate__v1__step_batch_response__init(&reply);
  reply.n_items = b->n;
  reply.items = b->items;
  if (!list_failed(b, &reply)) {
    err_nomem(&e);
    fail(b->call, &e);
    return;
  }
  struct batch_part *own = b->parts[b->home->index];
  for (size_t i = 0; own && i < own->n; i++)
    if (own->items[i].bytes)
      call_lend(b->call, own->items[i].bytes);
  rpc_finish(b->call, &reply.base, NULL);
}

// One task less is under way. With the last the batch ends.
static void batch_let_go(struct batch *b)
{
  if (--b->out)
    return;
  if (b->call)
    batch_reply(b);
  batch_free(b);
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
    return (struct batch_request){.n = q->n_items, .steps = q->items, .timeout_s = q->timeout_s, .format = q->payload_format, .wait = q->wait};
  }
  const Envgate__V1__ResetBatchRequest *q = (const void *)c->request;
  return (struct batch_request){.n = q->n_items, .resets = q->items, .timeout_s = q->timeout_s, .format = q->payload_format, .wait = q->wait};
}

static const char *session_of_item(const struct batch_request *q, size_t i)
{
  return q->steps ? q->steps[i]->session : q->resets[i]->session;
}

static bool batch_check(const struct batch_request *q, struct err *e)
{
  const char *what = q->steps ? "steps" : "resets";
  if (!q->n)
    return err_field(e, REASON_INVALID_REQUEST, "items", "items is required: 1 to %d %s", ITEMS_MAX, what);
  if (q->n > ITEMS_MAX)
    return err_field(e, REASON_INVALID_REQUEST, "items", "items has %zu %s; at most %d are allowed", q->n, what, ITEMS_MAX);
  if (q->wait != ENVGATE__V1__STEP_BATCH_REQUEST__WAIT__WAIT_UNSPECIFIED && q->wait != ENVGATE__V1__STEP_BATCH_REQUEST__WAIT__WAIT_ALL)
    return err_field(e, REASON_INVALID_REQUEST, "wait", "wait: %d is no way to wait; use WAIT_ALL", (int)q->wait);
  return payload_format_check(q->format, e);
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
  }
  assert(b->n > 0); // batch_check
  size_t share = REPLY_BYTES_MAX / b->n;
  for (int i = 0; i < b->home->count; i++)
    if (b->parts[i] && !part_reserve(b->parts[i], share))
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
  return true;
}

static struct batch *batch_new(struct call *c, const struct batch_request *q)
{
  struct batch *b = calloc(1, sizeof *b);
  if (!b)
    return NULL;
  b->call = c;
  b->home = c->owner;
  b->n = q->n;
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
  b->out = 1;
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
  const struct batch_request q = request_of(c);
  struct err e;
  if (!batch_check(&q, &e) || !timeout_apply(c, q.timeout_s, &e)) {
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
