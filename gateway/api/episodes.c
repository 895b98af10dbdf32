// SPDX-License-Identifier: Apache-2.0
#include "api/episodes.h"

#include "api/forward.h"
#include "api/openenv.h"

// A call's piece of work, in its arena.
struct episode_call {
  struct waiter waiter;
  struct call *call;
  struct payload_terms terms;
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

// From so many bytes on it is worth it to send tensors from where they are.
enum { LEND_MIN = 64 << 10 };

// Ends the call with a reply that points into the outcome and `bytes`, which are given back.
static void reply_from(struct call *c, const ProtobufCMessage *m, struct payload_bytes *bytes, const struct err *e)
{
  struct reactor *r = c->owner;
  struct shared *large = bytes->data.n >= LEND_MIN ? shared_take(NULL, &bytes->data) : NULL;
  if (large)
    call_lend(c, large);
  rpc_finish(c, e ? NULL : m, e);
  shared_unref(large);
  payload_bytes_return(&r->bufs, bytes);
}

static void reply_state(struct episode_call *ec, const struct outcome *o, const char *session)
{
  struct call *c = ec->call;
  struct err e;
  struct payload_bytes bytes = {0};
  Envgate__V1__GetStateResponse reply;
  envgate__v1__get_state_response__init(&reply);
  Envgate__V1__Payload state;
  struct payload_scope scope = payload_scope(c);
  reply.session = unconst(session);
  call_lend(c, o->bytes);
  bool ok = payload_write_by(&scope, o->state, &ec->terms, &state, &reply.state, &bytes, &e);
  reply_from(c, &reply.base, &bytes, ok ? NULL : &e);
}

void step_result_fill(Envgate__V1__StepResult *result, const struct outcome *o)
{
  envgate__v1__step_result__init(result);
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
}

bool step_reply_fill(struct step_reply *reply, const struct payload_scope *scope, const struct payload_terms *terms, const char *session,
                     const struct outcome *o, const struct waiter *w, nsec arrived, struct err *e)
{
  Envgate__V1__StepResult *result = &reply->result;
  reply->bytes = (struct payload_bytes){0};
  step_result_fill(result, o);
  envgate__v1__timings__init(&reply->timings);
  result->session = unconst(session);
  result->episode_id = unconst(o->episode_id);
  // A kept reply was not sent for this call: then all of its time was waiting.
  nsec sent = w->sent > arrived ? w->sent : arrived;
  reply->timings.queue_us = (int64_t)((sent - arrived) / NSEC_PER_US);
  reply->timings.worker_us = (int64_t)(o->worker_time / NSEC_PER_US);
  result->timings = &reply->timings;
  return payload_write_by(scope, o->observation, terms, &reply->observation, &result->observation, &reply->bytes, e) &&
         payload_write(scope, o->metadata, terms->format, &reply->metadata, &result->metadata, e);
}

static void reply_result(struct episode_call *ec, const struct outcome *o, const char *session)
{
  struct call *c = ec->call;
  struct err e;
  struct step_reply reply;
  struct payload_scope scope = payload_scope(c);
  call_lend(c, o->bytes);
  bool ok = step_reply_fill(&reply, &scope, &ec->terms, session, o, &ec->waiter, c->arrived, &e);
  reply_from(c, &reply.result.base, &reply.bytes, ok ? NULL : &e);
}

static void on_done(struct waiter *w, const struct outcome *o, const struct err *e)
{
  struct episode_call *ec = CONTAINER_OF(w, struct episode_call, waiter);
  if (ec->call->codec == CODEC_OPENENV)
    openenv_finish(ec->call, o, e);
  else if (e || o->err)
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
  else if (left == LEFT_TO_GO_ON)
    err_set(
        e, CODE_DEADLINE_EXCEEDED, REASON_STEP_IN_PROGRESS,
        "the deadline passed while earlier calls ran on the session; as a batch left this one pending it goes on, and the same request with the same "
        "request_id collects its reply");
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

struct payload_terms session_terms(const struct session *s)
{
  return (struct payload_terms){(Envgate__V1__PayloadFormat)session_payload_format(s), session_tensors(s)};
}

// Submits what has been checked.
static void submit(struct call *c, struct session *s, struct episode_call *ec, double timeout_s)
{
  struct err e;
  ec->terms = payload_terms_choose(ec->terms, session_terms(s));
  if (!payload_terms_check(&ec->terms, &e)) {
    fail(c, &e);
    return;
  }
  const struct env_config *env = session_takes_headers(s);
  const struct forward headers = forward_all(c);
  if (env && !forward_to(&headers, env, &c->arena, &ec->waiter.request.headers)) {
    err_nomem(&e);
    fail(c, &e);
    return;
  }
  if (timeout_s > 0)
    call_deadline(c, nsec_add(c->arrived, nsec_from_s(timeout_s)));
  ec->call = c;
  ec->waiter.done = on_done;
  ec->waiter.flow = c->flow;
  ec->waiter.flow_key = c->flow_key;
  c->state = ec;
  session_submit(s, &ec->waiter);
}

// What every request has.
static bool limits_check(struct str request_id, double timeout_s, struct err *e)
{
  return request_id_check(request_id, e) && timeout_check(timeout_s, e);
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

bool step_read(const struct payload_scope *scope, const Envgate__V1__StepRequest *q, struct waiter *w, struct payload_terms *terms, struct err *e)
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
  return payload_terms_read(scope->arena, q->payload_format, q->tensors, q->n_tensors, terms, e) && limits_check(w->request_id, q->timeout_s, e);
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
  if (step_read(&scope, q, &ec->waiter, &ec->terms, &e))
    submit(c, s, ec, q->timeout_s);
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

bool reset_read(const struct payload_scope *scope, const Envgate__V1__ResetRequest *q, struct waiter *w, struct payload_terms *terms, struct err *e)
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
  return payload_terms_read(scope->arena, q->payload_format, q->tensors, q->n_tensors, terms, e) && limits_check(w->request_id, q->timeout_s, e);
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
  if (reset_read(&scope, q, &ec->waiter, &ec->terms, &e))
    submit(c, s, ec, q->timeout_s);
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
  if (payload_terms_read(&c->arena, q->payload_format, q->tensors, q->n_tensors, &ec->terms, &e) && timeout_check(q->timeout_s, &e))
    submit(c, s, ec, q->timeout_s);
  else
    fail(c, &e);
}
