// SPDX-License-Identifier: Apache-2.0
#include "api/episodes.h"

#include "api/forward.h"

// A call's piece of work, in its arena.
struct episode_call {
  struct waiter waiter;
  struct call *call;
  Envgate__V1__PayloadFormat format;
};

const char *episode_session_name(const struct call *c)
{
  const void *q = c->request;
  if (c->method->input == &envgate__v1__step_request__descriptor)
    return ((const Envgate__V1__StepRequest *)q)->session;
  if (c->method->input == &envgate__v1__reset_request__descriptor)
    return ((const Envgate__V1__ResetRequest *)q)->session;
  return ((const Envgate__V1__GetStateRequest *)q)->session;
}

bool request_id_check(struct str id, struct err *e)
{
  if (id.n <= REQUEST_ID_MAX)
    return true;
  return err_field(e, REASON_INVALID_REQUEST, "request_id", "request_id is %zu bytes long; at most %d are allowed", id.n, REQUEST_ID_MAX);
}

bool page_size_check(int32_t size, size_t *wanted, struct err *e)
{
  enum { DEFAULT = 100, MOST = 1000 };
  *wanted = size ? (size_t)size : DEFAULT;
  if (size >= 0 && size <= MOST)
    return true;
  return err_field(e, REASON_INVALID_REQUEST, "page_size", "page_size must be from 1 to %d, or 0 for %d", MOST, DEFAULT);
}

bool timeout_check(double timeout_s, struct err *e)
{
  if (timeout_s >= 0) // not NaN
    return true;
  return err_field(e, REASON_INVALID_REQUEST, "timeout_s", "timeout_s must be 0 (no limit) or more seconds");
}

bool timeout_apply(struct call *c, double timeout_s, struct err *e)
{
  if (!timeout_check(timeout_s, e))
    return false;
  if (timeout_s > 0)
    call_deadline(c, nsec_add(c->arrived, nsec_from_s(timeout_s)));
  return true;
}

// --- replies -------------------------------------------------------------------------------------------------------------------------------

static void reply_state(struct episode_call *ec, const struct outcome *o, const char *session)
{
  struct call *c = ec->call;
  struct err e;
  Envgate__V1__GetStateResponse reply;
  envgate__v1__get_state_response__init(&reply);
  Envgate__V1__Payload state;
  struct payload_scope scope = payload_scope(c);
  reply.session = unconst(session);
  call_lend(c, o->bytes);
  if (payload_write(&scope, o->state, ec->format, &state, &reply.state, &e))
    rpc_finish(c, &reply.base, NULL);
  else
    fail(c, &e);
}

bool step_reply_fill(struct step_reply *reply, const struct payload_scope *scope, Envgate__V1__PayloadFormat format, const char *session,
                     const struct outcome *o, const struct waiter *w, nsec arrived, struct err *e)
{
  Envgate__V1__StepResult *result = &reply->result;
  envgate__v1__step_result__init(result);
  envgate__v1__timings__init(&reply->timings);
  result->session = unconst(session);
  result->episode_id = unconst(o->episode_id);
  result->step_index = o->step_index;
  result->done = o->done;
  if (o->has_reward) {
    result->_reward_case = ENVGATE__V1__STEP_RESULT___REWARD_REWARD;
    result->reward = o->reward;
  }
  if (o->has_terminated) {
    result->_terminated_case = ENVGATE__V1__STEP_RESULT___TERMINATED_TERMINATED;
    result->terminated = o->terminated;
  }
  if (o->has_truncated) {
    result->_truncated_case = ENVGATE__V1__STEP_RESULT___TRUNCATED_TRUNCATED;
    result->truncated = o->truncated;
  }
  // A kept reply was not sent for this call: then all of its time was waiting.
  nsec sent = w->sent > arrived ? w->sent : arrived;
  reply->timings.queue_us = (int64_t)((sent - arrived) / NSEC_PER_US);
  reply->timings.worker_us = (int64_t)(o->worker_time / NSEC_PER_US);
  result->timings = &reply->timings;
  return payload_write(scope, o->observation, format, &reply->observation, &result->observation, e) &&
         payload_write(scope, o->metadata, format, &reply->metadata, &result->metadata, e);
}

static void reply_result(struct episode_call *ec, const struct outcome *o, const char *session)
{
  struct call *c = ec->call;
  struct err e;
  struct step_reply reply;
  struct payload_scope scope = payload_scope(c);
  call_lend(c, o->bytes);
  if (step_reply_fill(&reply, &scope, ec->format, session, o, &ec->waiter, c->arrived, &e))
    rpc_finish(c, &reply.result.base, NULL);
  else
    fail(c, &e);
}

static void on_done(struct waiter *w, const struct outcome *o, const struct err *e)
{
  struct episode_call *ec = CONTAINER_OF(w, struct episode_call, waiter);
  if (e || o->err)
    fail(ec->call, e ? e : o->err);
  else if (w->request.op == OP_STATE)
    reply_state(ec, o, episode_session_name(ec->call));
  else
    reply_result(ec, o, episode_session_name(ec->call));
}

void step_overdue(enum session_left left, bool has_request_id, struct err *e)
{
  if (left == LEFT_WAITING)
    err_set(e, CODE_DEADLINE_EXCEEDED, REASON_STEP_NOT_STARTED,
            "the deadline passed while earlier calls ran on the session; this one was not begun and will not be");
  else if (has_request_id)
    err_set(e, CODE_DEADLINE_EXCEEDED, REASON_STEP_IN_PROGRESS,
            "the deadline passed while the worker had the call; it goes on, and the same request with the same request_id collects its reply");
  else
    err_set(e, CODE_DEADLINE_EXCEEDED, REASON_STEP_IN_PROGRESS,
            "the deadline passed while the worker had the call; it goes on, but its reply will be dropped: give a request_id to collect it");
}

void episode_cancel(struct call *c, struct err *e)
{
  struct episode_call *ec = c->state;
  enum session_left left = session_leave(&ec->waiter);
  if (e->code == CODE_DEADLINE_EXCEEDED)
    step_overdue(left, ec->waiter.request_id.n > 0, e);
}

// --- requests ------------------------------------------------------------------------------------------------------------------------------

// Submits what has been checked.
static void submit(struct call *c, struct session *s, struct episode_call *ec, double timeout_s, Envgate__V1__PayloadFormat format)
{
  const struct env_config *env = session_takes_headers(s);
  const struct forward headers = forward_all(c);
  if (env && !forward_to(&headers, env, &c->arena, &ec->waiter.request.headers)) {
    struct err e;
    err_nomem(&e);
    fail(c, &e);
    return;
  }
  if (timeout_s > 0)
    call_deadline(c, nsec_add(c->arrived, nsec_from_s(timeout_s)));
  ec->call = c;
  ec->format = payload_format_choose(format, session_payload_format(s));
  ec->waiter.done = on_done;
  ec->waiter.flow = c->flow;
  ec->waiter.flow_key = c->flow_key;
  c->state = ec;
  session_submit(s, &ec->waiter);
}

// What every request has.
static bool terms_check(Envgate__V1__PayloadFormat format, struct str request_id, double timeout_s, struct err *e)
{
  return payload_format_check(format, e) && request_id_check(request_id, e) && timeout_check(timeout_s, e);
}

static struct episode_call *episode_new(struct call *c)
{
  struct episode_call *ec = arena_alloc(&c->arena, sizeof *ec);
  if (!ec) {
    struct err e;
    err_nomem(&e);
    fail(c, &e);
  }
  return ec;
}

bool step_read(const struct payload_scope *scope, const Envgate__V1__StepRequest *q, struct waiter *w, struct err *e)
{
  enum json_type type;
  struct str *action = &w->request.action;
  w->request.op = OP_STEP;
  if (!payload_read(scope, q->action, "action", action, &type, e))
    return false;
  if (type != JSON_OBJECT)
    return err_field(e, REASON_INVALID_REQUEST, "action", action->n ? "action must be a JSON object" : "action is required: a JSON object");
  w->request_id = str_c(q->request_id);
  w->episode_id = str_c(q->episode_id);
  w->has_step_index = q->_step_index_case == ENVGATE__V1__STEP_REQUEST___STEP_INDEX_STEP_INDEX;
  w->step_index = q->step_index;
  return terms_check(q->payload_format, w->request_id, q->timeout_s, e);
}

void step_start(struct call *c)
{
  const Envgate__V1__StepRequest *q = (const void *)c->request;
  struct session *s = call_session(c, q->session, "session");
  struct episode_call *ec = s ? episode_new(c) : NULL;
  if (!ec)
    return;
  struct err e;
  struct payload_scope scope = payload_scope(c);
  if (step_read(&scope, q, &ec->waiter, &e))
    submit(c, s, ec, q->timeout_s, q->payload_format);
  else
    fail(c, &e);
}

// The worker gets the options beside seed and episode_id, so they must not say these again.
static bool options_check(const struct config *config, struct str options, struct err *e)
{
  struct json j;
  struct str key, skipped;
  json_init(&j, options, (int)config->max_json_depth);
  json_enter_object(&j);
  while (json_next_key(&j, &key) && json_skip(&j, &skipped))
    if (json_raw_eq(key, STR("seed")) || json_raw_eq(key, STR("episode_id")))
      return err_field(e, REASON_INVALID_REQUEST, "options", "options must not have \"seed\" or \"episode_id\"; the request's own fields say these");
  return true;
}

bool reset_read(const struct payload_scope *scope, const Envgate__V1__ResetRequest *q, struct waiter *w, struct err *e)
{
  enum json_type type;
  struct worker_request *request = &w->request;
  request->op = OP_RESET;
  if (!payload_read(scope, q->options, "options", &request->options, &type, e))
    return false;
  if (request->options.n && type != JSON_OBJECT)
    return err_field(e, REASON_INVALID_REQUEST, "options", "options must be a JSON object");
  if (request->options.n && !options_check(scope->config, request->options, e))
    return false;
  request->episode_id = str_c(q->episode_id);
  if (request->episode_id.n > EPISODE_ID_MAX)
    return err_field(e, REASON_INVALID_REQUEST, "episode_id", "episode_id is %zu bytes long; at most %d are allowed", request->episode_id.n,
                     EPISODE_ID_MAX);
  request->has_seed = q->_seed_case == ENVGATE__V1__RESET_REQUEST___SEED_SEED;
  request->seed = q->seed;
  w->request_id = str_c(q->request_id);
  return terms_check(q->payload_format, w->request_id, q->timeout_s, e);
}

void reset_start(struct call *c)
{
  const Envgate__V1__ResetRequest *q = (const void *)c->request;
  struct session *s = call_session(c, q->session, "session");
  struct episode_call *ec = s ? episode_new(c) : NULL;
  if (!ec)
    return;
  struct err e;
  struct payload_scope scope = payload_scope(c);
  if (reset_read(&scope, q, &ec->waiter, &e))
    submit(c, s, ec, q->timeout_s, q->payload_format);
  else
    fail(c, &e);
}

void get_state_start(struct call *c)
{
  const Envgate__V1__GetStateRequest *q = (const void *)c->request;
  struct session *s = call_session(c, q->session, "session");
  struct episode_call *ec = s ? episode_new(c) : NULL;
  if (!ec)
    return;
  struct err e;
  ec->waiter.request.op = OP_STATE;
  if (terms_check(q->payload_format, ec->waiter.request_id, q->timeout_s, &e))
    submit(c, s, ec, q->timeout_s, q->payload_format);
  else
    fail(c, &e);
}
