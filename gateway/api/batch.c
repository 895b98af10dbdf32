// SPDX-License-Identifier: Apache-2.0
// A batch is cut into parts, one for each reactor that has sessions of it. A part is a piece of memory of its own that travels: it is filled here, on
// the call's reactor; posted to where its sessions are; and posted back when all of its items have ended. Whoever has it works on it alone, so nothing is
// locked, and it does not matter that the call may have ended meanwhile. The part for the call's own reactor is the same without the travel.
//
// An item that ends leaves its result, ready to be encoded, in its part. Bytes of workers' messages are counted references, which are for one thread:
// parts that travel take copies, the own part takes references.
#include "api/batch.h"
#include "api/api.h"

#include <assert.h>
#include <stdlib.h>

#include "api/api.h"
#include "api/episodes.h"
#include "api/forward.h"
#include "config/config.h"

enum {
  ITEMS_MAX = 1024,            // as the .proto says
  REPLY_BYTES_MAX = 256 << 20, // of payloads in one reply, shared out among the parts
};

struct batch_item {
  struct waiter waiter;
  struct timer timer; // of its own timeout_s
  struct batch_part *part;
  size_t index; // in the request
  const char *session;
  Envgate__V1__PayloadFormat format;
  double timeout_s;
  bool waiting; // submitted to its session, which has not answered
  struct shared *bytes;
  struct step_reply reply;
  Envgate__V1__StepBatchItem message; // has a status or a result when the item has ended
};

struct batch_part {
  struct task go;   // to its reactor, and back with the results
  struct task stop; // the same way, when the batch ends early
  struct batch *batch;
  struct reactor *at;   // where its sessions are
  struct reactor *home; // the batch's
  struct identity who;
  bool back; // at home again

  // Whoever has the part:
  struct arena arena;
  struct payload_scope scope;
  struct forward headers; // of the call
  nsec arrived;
  struct flow *flow; // of the batch's call: a reference, as the part may outlive it
  struct batch_item *items;
  size_t n;
  size_t left; // items that have not ended, and one while the part is worked on
  size_t room; // bytes of payloads that its results may still have
  size_t failed;
  bool nomem; // an item could not even be given its error
};

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

// --- the end of a batch --------------------------------------------------------------------------------------------------------------------

static void part_free(struct batch_part *p)
{
  for (size_t i = 0; p->items && i < p->n; i++)
    shared_unref(p->items[i].bytes);
  arena_free(&p->arena);
  flow_unref(p->flow);
  free(p);
}

static void batch_free(struct batch *b)
{
  for (int i = 0; b->parts && i < b->home->count; i++)
    if (b->parts[i])
      part_free(b->parts[i]);
  arena_free(&b->arena);
  free(b);
}

static bool any_nomem(const struct batch *b)
{
  for (int i = 0; i < b->home->count; i++)
    if (b->parts[i] && b->parts[i]->nomem)
      return true;
  return false;
}

static void batch_reply(struct batch *b)
{
  struct err e;
  Envgate__V1__StepBatchResponse reply;
  envgate__v1__step_batch_response__init(&reply);
  if (any_nomem(b)) {
    err_nomem(&e);
    fail(b->call, &e);
    return;
  }
  reply.n_items = b->n;
  reply.items = b->items;
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

static void on_part_back(struct reactor *r, struct task *t)
{
  struct batch_part *p = CONTAINER_OF(t, struct batch_part, go);
  (void)r;
  p->back = true;
  batch_let_go(p->batch);
}

// --- items, where their sessions are -------------------------------------------------------------------------------------------------------

// One item less to wait for. With the last the part goes home and must not be touched any more.
static void part_let_go(struct batch_part *p)
{
  if (--p->left)
    return;
  metric_add(p->at->metrics, METRIC_batch_items_total, (int64_t)p->n);
  metric_add(p->at->metrics, METRIC_batch_items_failed_total, (int64_t)p->failed);
  if (p->at == p->home) {
    on_part_back(p->home, &p->go);
    return;
  }
  p->go.run = on_part_back;
  reactor_post(p->home, &p->go);
}

static void item_fail(struct batch_item *item, const struct err *e)
{
  struct batch_part *p = item->part;
  struct err precise = *e;
  if (e->field[0])
    snprintf(precise.field, sizeof precise.field, "items[%zu].%.120s", item->index, e->field);
  item->message.status = rpc_status(&precise, &p->arena);
  p->nomem = p->nomem || !item->message.status;
  p->failed++;
}

// The result must live on when the outcome is gone.
static bool payload_copy(struct arena *a, Envgate__V1__Payload *payload)
{
  if (!payload || payload->form_case != ENVGATE__V1__PAYLOAD__FORM_JSON)
    return true;
  payload->json.data = (uint8_t *)arena_dup(a, (struct str){(const char *)payload->json.data, payload->json.len});
  return payload->json.data != NULL;
}

static bool item_keep(struct batch_item *item, const struct outcome *o, struct err *e)
{
  struct batch_part *p = item->part;
  Envgate__V1__StepResult *result = &item->reply.result;
  bool crosses = p->at != p->home;
  if (!crosses)
    item->bytes = shared_ref(o->bytes);
  else if (!payload_copy(&p->arena, result->observation) || !payload_copy(&p->arena, result->metadata))
    return err_nomem(e);
  result->episode_id = arena_dup(&p->arena, str_c(o->episode_id));
  return result->episode_id || err_nomem(e);
}

static bool item_result(struct batch_item *item, const struct outcome *o, struct err *e)
{
  struct batch_part *p = item->part;
  size_t bytes = o->observation.n + o->metadata.n;
  if (bytes > p->room)
    return err_set(
        e, CODE_RESOURCE_EXHAUSTED, REASON_MESSAGE_TOO_LARGE,
        "the batch's results are too large for one reply; the step was taken: collect it by Step with the same request_id, or make smaller batches");
  if (!step_reply_fill(&item->reply, &p->scope, item->format, item->session, o, &item->waiter, p->arrived, e) || !item_keep(item, o, e))
    return false;
  p->room -= bytes;
  item->message.result = &item->reply.result;
  return true;
}

static void on_done(struct waiter *w, const struct outcome *o, const struct err *e)
{
  struct batch_item *item = CONTAINER_OF(w, struct batch_item, waiter);
  struct batch_part *p = item->part;
  struct err failed;
  item->waiting = false;
  timer_unset(p->at, &item->timer);
  if (!e)
    e = o->err;
  if (!e && !item_result(item, o, &failed))
    e = &failed;
  if (e)
    item_fail(item, e);
  part_let_go(p);
}

// The caller waits for the item no longer.
static void item_leave(struct batch_item *item)
{
  struct batch_part *p = item->part;
  struct err e;
  item->waiting = false;
  timer_unset(p->at, &item->timer);
  step_overdue(session_leave(&item->waiter), item->waiter.request_id.n > 0, &e);
  item_fail(item, &e);
  part_let_go(p);
}

static void on_item_timeout(struct timer *t)
{
  item_leave(CONTAINER_OF(t, struct batch_item, timer));
}

static void item_submit(struct batch_item *item)
{
  struct batch_part *p = item->part;
  struct err e;
  struct session *s = session_of_name(p->at, p->who, item->session, "session", &e);
  if (s && item->timeout_s > 0 && !timer_set(p->at, &item->timer, nsec_add(p->arrived, nsec_from_s(item->timeout_s)))) {
    err_nomem(&e);
    s = NULL;
  }
  const struct env_config *env = s ? session_takes_headers(s) : NULL;
  if (env && !forward_to(&p->headers, env, &p->arena, &item->waiter.request.headers)) {
    err_nomem(&e);
    timer_unset(p->at, &item->timer);
    s = NULL;
  }
  if (!s) {
    item_fail(item, &e);
    return;
  }
  item->format = payload_format_choose(item->format, session_payload_format(s));
  item->waiting = true;
  p->left++;
  session_submit(s, &item->waiter);
}

static void part_begin(struct reactor *r, struct task *t)
{
  struct batch_part *p = CONTAINER_OF(t, struct batch_part, go);
  (void)r;
  for (size_t i = 0; i < p->n; i++)
    if (!p->items[i].message.status) // its request is good
      item_submit(&p->items[i]);
  part_let_go(p);
}

static void part_stop(struct batch_part *p)
{
  if (!p->left) // on its way home
    return;
  p->left++;
  for (size_t i = 0; i < p->n; i++)
    if (p->items[i].waiting)
      item_leave(&p->items[i]);
  part_let_go(p);
}

// --- the batch, where its call is ----------------------------------------------------------------------------------------------------------

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

// For a part that travels, since the request goes with the call.
static bool item_pack(struct batch_item *item, struct arena *a)
{
  struct waiter *w = &item->waiter;
  struct str *spans[] = {&w->request.action, &w->request_id, &w->episode_id};
  for (size_t i = 0; i < sizeof spans / sizeof *spans; i++) {
    spans[i]->p = arena_dup(a, *spans[i]);
    if (!spans[i]->p)
      return false;
  }
  item->session = arena_dup(a, str_c(item->session));
  return item->session != NULL;
}

// False when out of memory.
static bool item_fill(struct batch_part *p, size_t index, const Envgate__V1__StepBatchRequest *q)
{
  const Envgate__V1__StepRequest *request = q->items[index];
  struct batch_item *item = &p->items[p->n++];
  struct err e;
  envgate__v1__step_batch_item__init(&item->message);
  item->part = p;
  item->index = index;
  item->session = request->session;
  item->timeout_s = request->timeout_s;
  item->format = payload_format_choose(request->payload_format, (int)q->payload_format);
  item->waiter.done = on_done;
  item->waiter.flow = p->flow;
  item->waiter.flow_key = p->batch->call->flow_key;
  item->timer.fire = on_item_timeout;
  p->batch->items[index] = &item->message;
  if (!step_read(&p->scope, request, &item->waiter, &e)) {
    item_fail(item, &e);
    return !p->nomem;
  }
  return p->at == p->home || item_pack(item, &p->arena);
}

static struct batch_part *part_new(struct batch *b, struct reactor *at)
{
  struct call *c = b->call;
  struct batch_part *p = calloc(1, sizeof *p);
  if (!p)
    return NULL;
  p->batch = b;
  p->at = at;
  p->home = b->home;
  p->who = c->who;
  p->arrived = c->arrived;
  p->flow = flow_ref(c->flow);
  p->left = 1;
  // What a call may take for what its request becomes, and the results' copies.
  arena_init(&p->arena, 16 * (size_t)b->home->config->max_message_bytes + REPLY_BYTES_MAX);
  p->scope = payload_scope(c);
  p->scope.arena = &p->arena;
  p->headers = forward_all(c); // which is there until the part has begun
  if (at == b->home || forward_copy(c, &p->arena, &p->headers))
    return p;
  part_free(p);
  return NULL;
}

// Makes the parts, each with room for its items. `where` gets each item's reactor.
static bool parts_make(struct batch *b, const Envgate__V1__StepBatchRequest *q, int *where)
{
  for (size_t i = 0; i < b->n; i++) {
    int at = where[i] = reactor_of_name(b->home, q->items[i]->session);
    if (!b->parts[at] && !(b->parts[at] = part_new(b, b->home->all[at])))
      return false;
    b->parts[at]->n++;
  }
  assert(b->n > 0); // batch_check
  size_t share = REPLY_BYTES_MAX / b->n;
  for (int i = 0; i < b->home->count; i++) {
    struct batch_part *p = b->parts[i];
    if (!p)
      continue;
    p->room = share * p->n;
    p->items = arena_alloc(&p->arena, p->n * sizeof *p->items);
    p->n = 0;
    if (!p->items)
      return false;
  }
  return true;
}

static bool batch_fill(struct batch *b, const Envgate__V1__StepBatchRequest *q)
{
  int where[ITEMS_MAX];
  b->parts = arena_alloc(&b->arena, (size_t)b->home->count * sizeof(struct batch_part *));
  b->items = arena_alloc(&b->arena, b->n * sizeof(Envgate__V1__StepBatchItem *));
  if (!b->parts || !b->items || !parts_make(b, q, where))
    return false;
  for (size_t i = 0; i < b->n; i++)
    if (!item_fill(b->parts[where[i]], i, q))
      return false;
  return true;
}

static struct batch *batch_new(struct call *c, const Envgate__V1__StepBatchRequest *q)
{
  struct batch *b = calloc(1, sizeof *b);
  if (!b)
    return NULL;
  b->call = c;
  b->home = c->owner;
  b->n = q->n_items;
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

static bool batch_check(const Envgate__V1__StepBatchRequest *q, struct err *e)
{
  if (!q->n_items)
    return err_field(e, REASON_INVALID_REQUEST, "items", "items is required: 1 to %d steps", ITEMS_MAX);
  if (q->n_items > ITEMS_MAX)
    return err_field(e, REASON_INVALID_REQUEST, "items", "items has %zu steps; at most %d are allowed", q->n_items, ITEMS_MAX);
  if (q->wait != ENVGATE__V1__STEP_BATCH_REQUEST__WAIT__WAIT_UNSPECIFIED && q->wait != ENVGATE__V1__STEP_BATCH_REQUEST__WAIT__WAIT_ALL)
    return err_field(e, REASON_INVALID_REQUEST, "wait", "wait: %d is no way to wait; use WAIT_ALL", (int)q->wait);
  return payload_format_check(q->payload_format, e);
}

void batch_start(struct call *c)
{
  const Envgate__V1__StepBatchRequest *q = (const void *)c->request;
  struct err e;
  if (!batch_check(q, &e) || !timeout_apply(c, q->timeout_s, &e)) {
    fail(c, &e);
    return;
  }
  struct batch *b = batch_new(c, q);
  if (!b) {
    err_nomem(&e);
    fail(c, &e);
    return;
  }
  c->state = b;
  batch_go(b);
}

// A batch goes to where its first session is, since the others are likely to be there, too.
int batch_route(const struct call *c)
{
  const Envgate__V1__StepBatchRequest *q = (const void *)c->request;
  return q->n_items ? reactor_of_name(c->home, q->items[0]->session) : c->home->index;
}
