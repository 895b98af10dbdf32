// SPDX-License-Identifier: Apache-2.0
#include "api/batch_part.h"

#include <stdlib.h>

#include "api/api.h"
#include "config/config.h"

// --- items, where their sessions are -------------------------------------------------------------------------------------------------------

// One item less to wait for. With the last the part goes home and must not be touched any more.
static void part_let_go(struct batch_part *p)
{
  if (--p->left)
    return;
  metric_add(p->at->metrics, METRIC_batch_items_total, (int64_t)(p->n - p->pending));
  metric_add(p->at->metrics, METRIC_batch_items_failed_total, (int64_t)p->failed);
  metric_add(p->at->metrics, METRIC_batch_items_pending_total, (int64_t)p->pending);
  if (p->at == p->home) {
    batch_part_back(p->home, &p->go);
    return;
  }
  p->go.run = batch_part_back;
  reactor_post(p->home, &p->go);
}

// An item that was submitted has ended.
static void item_let_go(struct batch_item *item)
{
  struct batch_part *p = item->part;
  if (p->counted)
    batch_count(p->batch, 1);
  part_let_go(p);
}

static void item_fail(struct batch_item *item, const struct err *e)
{
  struct batch_part *p = item->part;
  struct err precise = *e;
  if (e->field[0])
    snprintf(precise.field, sizeof precise.field, "items[%zu].%.120s", item->index, e->field);
  item->message.result = NULL;
  item->message.status = rpc_status(&precise, &p->arena);
  p->nomem = p->nomem || !item->message.status;
  p->failed++;
}

// The result must live on when the outcome is gone.
static bool payload_copy(struct arena *a, Envgate__V1__Payload *payload)
{
  if (!payload)
    return true;
  // What else there is of the other forms lies in the part's own memory.
  ProtobufCBinaryData *json = payload->form_case == ENVGATE__V1__PAYLOAD__FORM_JSON      ? &payload->json
                              : payload->form_case == ENVGATE__V1__PAYLOAD__FORM_TENSORS ? &payload->tensors->json
                                                                                         : NULL;
  if (json)
    json->data = (uint8_t *)arena_dup(a, (struct str){(const char *)json->data, json->len});
  return !json || json->data;
}

static bool item_keep(struct batch_item *item, const struct outcome *o, struct err *e)
{
  struct batch_part *p = item->part;
  Envgate__V1__StepResult *result = &item->reply->result;
  bool crosses = p->at != p->home;
  if (!crosses)
    item->bytes = shared_ref(o->bytes);
  else if (!payload_copy(&p->arena, result->observation) || !payload_copy(&p->arena, result->metadata))
    return err_nomem(e);
  result->episode_id = arena_dup(&p->arena, str_c(o->episode_id));
  return result->episode_id || err_nomem(e);
}

// What is left of an observation whose tensors are in the stack, and the metadata.
static bool item_rest(struct batch_item *item, struct str rest, const struct outcome *o, struct err *e)
{
  struct batch_part *p = item->part;
  const Envgate__V1__PayloadFormat format = ENVGATE__V1__PAYLOAD_FORMAT__PAYLOAD_FORMAT_JSON;
  struct step_reply *left = arena_alloc(&p->arena, sizeof *left);
  Envgate__V1__Tensors *tensors = arena_alloc(&p->arena, sizeof *tensors);
  if (!left || !tensors)
    return err_nomem(e);
  envgate__v1__step_result__init(&left->result);
  if (!payload_write(&p->scope, o->metadata, format, &left->metadata, &left->result.metadata, e) ||
      !payload_write(&p->scope, rest, format, &left->observation, &left->result.observation, e))
    return false;
  if (rest.n && p->scope.codec == CODEC_PROTO) {
    envgate__v1__tensors__init(tensors);
    tensors->json = left->observation.json;
    left->observation.form_case = ENVGATE__V1__PAYLOAD__FORM_TENSORS;
    left->observation.tensors = tensors;
  }
  item->message.result = &left->result;
  return true;
}

static bool item_stack(struct batch_item *item, const struct outcome *o, struct err *e)
{
  struct batch_part *p = item->part;
  struct str rest;
  if (o->metadata.n > p->room)
    return err_set(e, CODE_RESOURCE_EXHAUSTED, REASON_MESSAGE_TOO_LARGE, "the batch's results are too large for one reply; make smaller batches");
  p->room -= o->metadata.n;
  if (!stack_add(p->stack, (size_t)(item - p->items), o->observation, &p->scope, &p->room, &rest, e))
    return false;
  step_result_fill(&item->reply->result, o);
  if ((rest.n || o->metadata.n) && !item_rest(item, rest, o, e))
    return false;
  if (p->at == p->home)
    item->bytes = shared_ref(o->bytes);
  else if (item->message.result && !payload_copy(&p->arena, item->message.result->metadata))
    return err_nomem(e);
  item->added = true;
  return true;
}

static bool item_result(struct batch_item *item, const struct outcome *o, struct err *e)
{
  struct batch_part *p = item->part;
  if (p->stack)
    return item_stack(item, o, e);
  bool tensors = item->terms.format == ENVGATE__V1__PAYLOAD_FORMAT__PAYLOAD_FORMAT_TENSORS;
  size_t bytes = (tensors ? 0 : o->observation.n) + o->metadata.n;
  if (bytes > p->room)
    return err_set(e, CODE_RESOURCE_EXHAUSTED, REASON_MESSAGE_TOO_LARGE,
                   "the batch's results are too large for one reply; this one was carried out: collect it alone with the same request_id, or make "
                   "smaller batches");
  p->scope.room = p->room - bytes;
  item->filled = true;
  if (!step_reply_fill(item->reply, &p->scope, &item->terms, item->session, o, &item->waiter, p->arrived, e) || !item_keep(item, o, e))
    return false;
  p->room -= bytes + item->reply->bytes.data.n + item->reply->bytes.rest.n;
  item->message.result = &item->reply->result;
  return true;
}

static void on_done(struct waiter *w, const struct outcome *o, const struct err *e)
{
  struct batch_item *item = CONTAINER_OF(w, struct batch_item, waiter);
  struct err failed;
  item->waiting = false;
  timer_unset(item->part->at, &item->timer);
  if (!e)
    e = o->err;
  if (!e && !item_result(item, o, &failed))
    e = &failed;
  if (e)
    item_fail(item, e);
  item_let_go(item);
}

// The caller waits for the item no longer.
static void item_leave(struct batch_item *item, bool go_on)
{
  struct batch_part *p = item->part;
  struct err e;
  item->waiting = false;
  timer_unset(p->at, &item->timer);
  if (go_on) {
    session_leave_to_go_on(&item->waiter);
    item->message.pending = true;
    p->pending++;
  } else {
    step_overdue(session_leave(&item->waiter), item->waiter.request_id.n > 0, &e);
    item_fail(item, &e);
  }
  item_let_go(item);
}

static void on_item_timeout(struct timer *t)
{
  item_leave(CONTAINER_OF(t, struct batch_item, timer), false);
}

// False: the item has ended, with its error.
static bool item_submit(struct batch_item *item)
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
    return false;
  }
  item->terms = payload_terms_choose(item->terms, session_terms(s));
  if (!p->stack && !payload_terms_check(&item->terms, &e)) {
    timer_unset(p->at, &item->timer);
    item_fail(item, &e);
    return false;
  }
  item->waiting = true;
  p->left++;
  session_submit(s, &item->waiter);
  return true;
}

void part_begin(struct reactor *r, struct task *t)
{
  struct batch_part *p = CONTAINER_OF(t, struct batch_part, go);
  size_t ended = 0;
  p->scope.bufs = &r->bufs;
  for (size_t i = 0; i < p->n; i++)
    ended += p->items[i].message.status || !item_submit(&p->items[i]); // where there is a status its request is wrong
  if (p->counted && ended)
    batch_count(p->batch, ended);
  part_let_go(p);
}

void part_stop(struct batch_part *p)
{
  if (!p->left) // on its way home
    return;
  p->left++;
  for (size_t i = 0; i < p->n; i++)
    if (p->items[i].waiting)
      item_leave(&p->items[i], p->go_on);
  part_let_go(p);
}

// --- at home -------------------------------------------------------------------------------------------------------------------------------

// For a part that travels, since the request goes with the call.
static bool item_pack(struct batch_item *item, struct arena *a)
{
  struct str *texts[WAITER_TEXTS];
  waiter_texts(&item->waiter, texts);
  for (size_t i = 0; i < WAITER_TEXTS; i++) {
    if (!texts[i]->n)
      continue;
    texts[i]->p = arena_dup(a, *texts[i]);
    if (!texts[i]->p)
      return false;
  }
  item->session = arena_dup(a, str_c(item->session));
  return item->session != NULL;
}

// A row of stacked actions.
static bool action_read(struct batch_item *item, const struct batch_request *q, struct err *e)
{
  struct waiter *w = &item->waiter;
  struct arena *a = &item->part->arena;
  const char *request_id = q->actions->request_id;
  item->session = q->actions->sessions[item->index];
  if (!payload_of_tensors(&item->part->scope, q->rows, item->index, &w->request.action, e))
    return false;
  if (request_id[0]) {
    w->request_id = str_c(arena_printf(a, "%s-%zu", request_id, item->index));
    if (!w->request_id.p)
      return err_nomem(e);
  }
  w->request.op = OP_STEP;
  item->terms = item->part->terms;
  return true;
}

static bool item_read(struct batch_item *item, const struct batch_request *q, struct err *e)
{
  const struct payload_scope *scope = &item->part->scope;
  struct payload_terms own;
  bool ok;
  if (q->actions)
    return action_read(item, q, e);
  if (q->reset) {
    const Envgate__V1__ResetRequest *reset = q->resets[item->index];
    item->session = reset->session;
    item->timeout_s = reset->timeout_s;
    ok = reset_read(scope, reset, &item->waiter, &own, e);
  } else {
    const Envgate__V1__StepRequest *step = q->steps[item->index];
    item->session = step->session;
    item->timeout_s = step->timeout_s;
    ok = step_read(scope, step, &item->waiter, &own, e);
  }
  if (ok)
    item->terms = payload_terms_choose(own, item->part->terms);
  return ok;
}

struct batch_item *part_add(struct batch_part *p, size_t index, const struct batch_request *q)
{
  struct batch_item *item = &p->items[p->n++];
  struct err e;
  envgate__v1__step_batch_item__init(&item->message);
  item->part = p;
  item->index = index;
  item->waiter.done = on_done;
  item->waiter.flow = p->flow;
  item->waiter.flow_key = p->flow_key;
  item->timer.fire = on_item_timeout;
  if (!item_read(item, q, &e)) {
    item_fail(item, &e);
    return p->nomem ? NULL : item;
  }
  return p->at == p->home || item_pack(item, &p->arena) ? item : NULL;
}

// What holds for all items. False: out of memory.
static bool terms_fill(struct batch_part *p, const struct batch_request *q)
{
  p->terms.format = q->format;
  if (q->stacked) {
    p->stack = stack_new(q->tensors, q->n_tensors, p->n, &p->arena);
    return p->stack;
  }
  void *memory = q->n_tensors ? arena_alloc(&p->arena, tensor_specs_size(q->tensors, q->n_tensors)) : NULL;
  p->terms.tensors = memory ? tensor_specs_make(q->tensors, q->n_tensors, memory) : NULL;
  return memory || !q->n_tensors;
}

bool part_reserve(struct batch_part *p, size_t share, const struct batch_request *q)
{
  p->room = share * p->n;
  if (!terms_fill(p, q))
    return false;
  p->items = arena_alloc(&p->arena, p->n * sizeof *p->items);
  struct step_reply *replies = p->items ? arena_alloc_raw(&p->arena, p->n * sizeof *replies) : NULL;
  for (size_t i = 0; replies && i < p->n; i++)
    p->items[i].reply = &replies[i];
  p->n = 0;
  return replies != NULL;
}

struct batch_part *part_new(struct batch *b, struct call *c, struct reactor *at)
{
  struct reactor *home = c->owner;
  struct batch_part *p = calloc(1, sizeof *p);
  if (!p)
    return NULL;
  p->batch = b;
  p->at = at;
  p->home = home;
  p->who = c->who;
  p->arrived = c->arrived;
  p->flow = flow_ref(c->flow);
  p->flow_key = c->flow_key;
  p->left = 1;
  // What a call may take for what its request becomes, and the results' copies.
  arena_init(&p->arena, 16 * (size_t)home->config->max_message_bytes + REPLY_BYTES_MAX);
  p->scope = payload_scope(c);
  p->scope.arena = &p->arena;
  p->headers = forward_all(c); // which is there until the part has begun
  if (at == home || forward_copy(c, &p->arena, &p->headers))
    return p;
  part_free(p);
  return NULL;
}

void part_fail(struct batch_part *p, const struct err *e)
{
  size_t before = p->failed;
  for (size_t i = 0; i < p->n; i++) {
    if (!p->items[i].added)
      continue;
    p->items[i].added = false;
    item_fail(&p->items[i], e);
  }
  metric_add(p->home->metrics, METRIC_batch_items_failed_total, (int64_t)(p->failed - before));
}

void part_free(struct batch_part *p)
{
  for (size_t i = 0; p->items && i < p->n; i++) {
    shared_unref(p->items[i].bytes);
    if (p->items[i].filled)
      payload_bytes_return(&p->home->bufs, &p->items[i].reply->bytes);
  }
  stack_free(p->stack, &p->home->bufs);
  arena_free(&p->arena);
  flow_unref(p->flow);
  free(p);
}
