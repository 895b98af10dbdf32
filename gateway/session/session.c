// SPDX-License-Identifier: Apache-2.0
// The life of a session: provisioning, its line to the worker, leases, the end.
#include "session/session.h"

#include <assert.h>
#include <stdlib.h>

#include "base/id.h"
#include "config/inline.h"
#include "runtime/log.h"
#include "session/session_private.h"

enum {
  ID_RANDOM = 24,     // characters of 5 bits
  MAX_ATTEMPTS = 100, // workers tried that answer CAPACITY_REACHED
  MAX_UNREACHED = 5,  // workers tried that can't be reached
};

// --- ids and the table ---------------------------------------------------------------------------------------------------------------------

// Two hexadecimal digits name the reactor; the rest can't be guessed.
static void make_id(struct session *s)
{
  static const char hex[] = "0123456789abcdef";
  s->id[0] = hex[(s->reactor->index >> 4) & 15];
  s->id[1] = hex[s->reactor->index & 15];
  id_random(NULL, s->id + 2, ID_RANDOM);
}

static int hex_digit(char c)
{
  return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int session_reactor(struct str id, int reactors)
{
  if (id.n != ID_RANDOM + 2)
    return -1;
  int high = hex_digit(id.p[0]), low = hex_digit(id.p[1]);
  if (high < 0 || low < 0)
    return -1;
  int index = high * 16 + low;
  return index < reactors ? index : -1;
}

bool sessions_init(struct reactor *r)
{
  struct session_table *t = calloc(1, sizeof *t);
  if (!t)
    return false;
  t->unwaited = flow_new(r, NSEC_NEVER);
  if (!t->unwaited) {
    free(t);
    return false;
  }
  list_init(&t->all);
  list_init(&t->lingering);
  r->sessions = t;
  return true;
}

bool sessions_gone(struct reactor *r)
{
  return !r->sessions->tickets && !r->sessions->unfreed && list_empty(&r->sessions->all);
}

void sessions_free(struct reactor *r)
{
  work_free_spares(r->sessions);
  flow_close(r->sessions->unwaited);
  free(r->sessions);
  r->sessions = NULL;
}

static void renew(struct session *s)
{
  s->lease_due = nsec_add(s->reactor->now, nsec_from_s(s->lease_s));
}

struct session *session_find(struct reactor *r, struct str id, struct identity who)
{
  struct session *s;
  HASH_FIND(hh, r->sessions->by_id, id.p, id.n, s);
  if (!s || !auth_owns(who, s->owner))
    return NULL;
  renew(s);
  return s;
}

struct session *session_next(struct reactor *r, uint64_t after)
{
  LIST_EACH (node, &r->sessions->all) {
    struct session *s = CONTAINER_OF(node, struct session, link);
    if (s->sequence > after)
      return s;
  }
  return NULL;
}

void session_set_state(struct session *s, enum session_state state)
{
  if (s->state == state)
    return;
  metric_session_state(s->reactor->metrics, (int)s->state, (int)state);
  s->state = state;
}

static void log_session(const struct session *s, const char *event, enum log_level level, const char *reason)
{
  if (s->reactor->log)
    log_event(s->reactor->log, level, event, LF_C("session", s->id), LF_C("environment", s->env->name), LF_C("worker", s->worker_id),
              LF_C("reason", reason), LF_NUM("ms", (double)(clock_mono() - s->created) / 1e6), LF_INT("step_index", s->step_index));
}

// --- the end -------------------------------------------------------------------------------------------------------------------------------

static void free_session(struct turn_end *t)
{
  struct session *s = CONTAINER_OF(t, struct session, freeing);
  s->reactor->sessions->unfreed--;
  work_forget(s);
  free(s->request_id);
  pairs_free(&s->headers);
  shared_unref(s->episode);
  shared_unref(s->last_words);
  shared_unref(s->tensors);
  free(s->err);
  env_release(s->env);
  free(s);
}

// Tells those who asked how it stands. Who asks out of a callback is not among them.
static void answer_askers(struct session *s, const struct standing *standing, const struct err *e)
{
  struct list askers;
  list_init(&askers);
  s->asking = false;
  struct list *node;
  while ((node = list_pop(&s->askers)))
    list_append(&askers, node);
  while ((node = list_pop(&askers))) {
    struct standing_waiter *w = CONTAINER_OF(node, struct standing_waiter, link);
    w->told(w, e ? NULL : s, standing, e);
  }
}

static void let_go_of_worker(struct session *s, enum slot_return how, int64_t max_sessions)
{
  struct slot_ticket *ticket = s->ticket;
  s->ticket = NULL;
  if (ticket)
    slot_return(ticket, how, max_sessions);
}

// The last step of a session's end: it is freed after the turn, since callbacks of its own may be on the stack.
static void part_with_worker(struct session *s, enum slot_return how)
{
  list_remove(&s->link);
  link_close(s->line);
  s->line = NULL;
  let_go_of_worker(s, how, 0);
  turn_end_add(s->reactor, &s->freeing);
}

// Takes it out of the table and ends all that waits for it.
static void end_session(struct session *s, const struct err *e)
{
  struct session_table *t = s->reactor->sessions;
  s->closed = true;
  HASH_DELETE(hh, t->by_id, s);
  if (s->request_id)
    HASH_DELETE(hh_request, t->by_request, s);
  list_remove(&s->link);
  timer_unset(s->reactor, &s->expiry);
  metric_session_state(s->reactor->metrics, (int)s->state, -1);
  // A plain HTTP worker is one session's as a whole: while it still runs a step, no other session may have it. A WebSocket's own environment ends with it.
  bool linger = s->running && s->line && s->dialect == DIALECT_HTTP && !s->reactor->draining;
  work_end_all(s, e);
  struct list *node;
  while ((node = list_pop(&s->creators))) {
    struct session_waiter *w = CONTAINER_OF(node, struct session_waiter, link);
    w->session = NULL;
    w->ready(w, NULL, e);
  }
  answer_askers(s, NULL, e);
  while ((node = list_pop(&s->holds))) {
    struct session_hold *h = CONTAINER_OF(node, struct session_hold, link);
    h->session = NULL;
    h->ended(h, e);
  }
  if (s->owner)
    quota_give_session(&s->owner->quota);
  t->unfreed++;
  list_init(&s->freeing.link);
  s->freeing.run = free_session;
  if (linger)
    list_append(&t->lingering, &s->link);
  else
    part_with_worker(s, SLOT_FREE);
}

void session_close(struct session *s)
{
  struct err e;
  err_set(&e, CODE_ABORTED, REASON_SESSION_CLOSED, "the session was closed%s", s->reactor->draining ? ": the gateway is shutting down" : "");
  metric_add(s->reactor->metrics, METRIC_sessions_closed_total, 1);
  log_session(s, "session.closed", LOG_INFO, NULL);
  end_session(s, &e);
}

struct closing {
  struct task task;
  char id[ID_RANDOM + 2];
};

static void close_there(struct reactor *r, struct task *t)
{
  struct closing *closing = CONTAINER_OF(t, struct closing, task);
  struct session *s;
  HASH_FIND(hh, r->sessions->by_id, closing->id, sizeof closing->id, s);
  if (s)
    session_close(s);
  free(closing);
}

void session_close_later(struct reactor *from, struct str id)
{
  int at = session_reactor(id, from->count);
  struct closing *closing = at < 0 ? NULL : calloc(1, sizeof *closing);
  if (!closing)
    return;
  memcpy(closing->id, id.p, sizeof closing->id);
  closing->task.run = close_there;
  reactor_post(from->all[at], &closing->task);
}

void sessions_close_all(struct reactor *r)
{
  while (!list_empty(&r->sessions->all))
    session_close(CONTAINER_OF(r->sessions->all.next, struct session, link));
  while (!list_empty(&r->sessions->lingering))
    part_with_worker(CONTAINER_OF(r->sessions->lingering.next, struct session, link), SLOT_FREE);
}

static bool keep_error(struct session *s, const struct err *e)
{
  assert(e);
  if (!s->err)
    s->err = malloc(sizeof *s->err);
  if (s->err && s->err != e)
    *s->err = *e;
  return s->err != NULL;
}

// Its worker is gone: it stays, so that callers learn why, until they close it or its lease runs out.
static void lose(struct session *s, const struct err *e)
{
  if (!keep_error(s, e)) {
    end_session(s, e);
    return;
  }
  metric_add(s->reactor->metrics, METRIC_sessions_lost_total, 1);
  log_session(s, "session.lost", LOG_WARN, e->reason);
  session_set_state(s, SESSION_LOST);
  let_go_of_worker(s, SLOT_LOST, 0);
  answer_askers(s, NULL, NULL);
  renew(s);
  work_end_all(s, e);
}

static void on_expiry(struct timer *timer)
{
  struct session *s = CONTAINER_OF(timer, struct session, expiry);
  nsec now = s->reactor->now;
  // Work that runs holds the lease; calls renew it without touching the timer, which looks again here.
  if (s->running || !list_empty(&s->creators)) {
    renew(s);
    if (s->idle_timeout_s > 0)
      s->idle_due = nsec_add(now, nsec_from_s(s->idle_timeout_s));
  } else if (s->keepers) {
    renew(s);
  }
  nsec due = s->lease_due < s->idle_due ? s->lease_due : s->idle_due;
  if (due > now) {
    timer_set(s->reactor, &s->expiry, due);
    return;
  }
  struct err e;
  err_set(&e, CODE_NOT_FOUND, REASON_SESSION_NOT_FOUND, "the session's %s ran out", s->idle_due <= now ? "idle timeout" : "lease");
  metric_add(s->reactor->metrics, METRIC_sessions_expired_total, 1);
  log_session(s, "session.expired", LOG_INFO, s->idle_due <= now ? "idle_timeout" : "lease");
  end_session(s, &e);
}

// --- provisioning --------------------------------------------------------------------------------------------------------------------------

static void ask_for_slot(struct session *s);

static void answer_creators(struct session *s, const struct err *e)
{
  struct list *node;
  while ((node = list_pop(&s->creators))) {
    struct session_waiter *w = CONTAINER_OF(node, struct session_waiter, link);
    w->session = NULL;
    w->ready(w, e ? NULL : s, e);
  }
}

// It will not become ready. Where somebody has its name already, it stays to tell why.
static void fail_provisioning(struct session *s, const struct err *e)
{
  if (!s->handed_out) {
    end_session(s, e);
    return;
  }
  link_close(s->line);
  s->line = NULL;
  answer_creators(s, e);
  lose(s, e);
}

static void become_ready(struct session *s)
{
  s->provisioned = true;
  session_set_state(s, SESSION_READY);
  metric_add(s->reactor->metrics, METRIC_sessions_created_total, 1);
  log_session(s, "session.created", LOG_INFO, NULL);
  renew(s);
  answer_creators(s, NULL);
  answer_askers(s, NULL, NULL);
  work_pump(s);
}

static void on_open(void *ctx)
{
  struct session *s = ctx;
  if (!s->confirming) { // plain HTTP: the whole worker is the session's
    become_ready(s);
    return;
  }
  // The upgrade succeeds even when the worker is full, and the refusal comes as a frame behind it. Asking for the state, which changes nothing, shows.
  struct worker_request q = {.op = OP_STATE};
  struct err e;
  if (!link_send(s->line, &q)) {
    err_nomem(&e);
    fail_provisioning(s, &e);
  }
}

static void on_reply(void *ctx, struct worker_reply *reply, struct shared *bytes)
{
  struct session *s = ctx;
  if (s->closed) {
    part_with_worker(s, SLOT_FREE);
  } else if (s->confirming) {
    if (!reply->session_ended) {
      s->confirming = false;
      become_ready(s);
    }
  } else if (!reply->session_ended) {
    work_reply(s, reply, bytes);
  } else if (s->dialect == DIALECT_WS && reply->err.reason != REASON_WORKER_PROTOCOL && !s->last_words) {
    s->last_words = shared_ref(bytes);
  }
  shared_unref(bytes); // with session_ended the end follows, and tells the callers
}

static bool on_large(void *ctx, size_t more)
{
  struct session *s = ctx;
  return !s->running || work_large(s, more);
}

static void on_news(void *ctx, const struct err *why)
{
  struct session *s = ctx;
  struct err e;
  if (why)
    err_set(&e, CODE_ABORTED, REASON_SESSION_LOST, "the session is lost with its worker: %s", why->msg);
  lose(s, why ? &e : s->err);
}

static void on_end(void *ctx, const struct link_end *end)
{
  struct session *s = ctx;
  const struct err *e = end->err;
  bool capacity = end->capacity;
  int64_t max_sessions = end->max_sessions;
  s->line = NULL;
  if (s->closed) {
    part_with_worker(s, SLOT_LOST);
    return;
  }
  if (s->state != SESSION_PROVISIONING) {
    if (end->cut && keep_error(s, e)) // the provider will soon know what happened; calls that come meanwhile wait
      slot_ask_why(s->ticket, on_news);
    else
      lose(s, e);
    return;
  }
  let_go_of_worker(s, capacity ? SLOT_FULL : SLOT_LOST, max_sessions);
  answer_askers(s, NULL, NULL);
  // Nothing has run yet, so another worker, or the same after its probe, will do.
  bool unreached = e->code == CODE_UNAVAILABLE && ++s->unreached < MAX_UNREACHED;
  if (unreached || (capacity && ++s->attempts < MAX_ATTEMPTS))
    ask_for_slot(s);
  else
    fail_provisioning(s, e);
}

static void on_standing(void *ctx, const struct standing *standing)
{
  answer_askers(ctx, standing, NULL);
}

static void on_slot(void *ctx, const struct slot *slot, const struct err *e)
{
  static const struct link_events events = {on_open, on_reply, on_large, on_end};
  struct session *s = ctx;
  if (!slot) {
    s->ticket = NULL;
    fail_provisioning(s, e);
    return;
  }
  memcpy(s->worker_id, slot->worker_id, sizeof s->worker_id);
  s->dialect = slot->dialect;
  s->confirming = slot->dialect == DIALECT_WS;
  s->line = link_open(s->reactor, slot->dialect, &slot->endpoint, s->env, &s->headers, (int)s->reactor->config->max_json_depth, &events, s);
  if (!s->line) {
    struct err nomem;
    err_nomem(&nomem);
    fail_provisioning(s, &nomem);
  }
}

static void ask_for_slot(struct session *s)
{
  s->ticket = slot_ask(s->reactor, s->env, s->created, &s->reactor->sessions->tickets, on_slot, s);
  if (!s->ticket) {
    struct err e;
    err_nomem(&e);
    fail_provisioning(s, &e);
  }
}

// What a creation is found again by. Another principal's request_id is another one.
struct creation_key {
  char text[PRINCIPAL_NAME_MAX + 1 + REQUEST_ID_MAX + 1];
};

static struct creation_key creation_key(const struct session_spec *spec)
{
  struct creation_key key;
  snprintf(key.text, sizeof key.text, "%s %.*s", spec->who.principal ? spec->who.principal->name : "", STR_ARG(spec->request_id));
  return key;
}

static struct session *session_new(struct reactor *r, const struct session_spec *spec)
{
  struct session *s = calloc(1, sizeof *s);
  if (!s)
    return NULL;
  s->reactor = r;
  s->env = spec->env;
  s->owner = spec->who.principal;
  s->payload_format = spec->payload_format;
  s->lease_s = spec->lease_s;
  s->idle_timeout_s = spec->idle_timeout_s;
  s->created = clock_mono();
  s->created_wall = clock_wall();
  s->idle_due = s->idle_timeout_s > 0 ? nsec_add(r->now, nsec_from_s(s->idle_timeout_s)) : NSEC_NEVER;
  list_init(&s->creators);
  list_init(&s->askers);
  list_init(&s->holds);
  list_init(&s->queue);
  s->expiry.fire = on_expiry;
  make_id(s);
  renew(s);
  if (spec->request_id.n)
    s->request_id = strdup(creation_key(spec).text);
  if (!pairs_add(&s->headers, spec->headers) || (spec->request_id.n && !s->request_id) ||
      !timer_set(r, &s->expiry, s->lease_due < s->idle_due ? s->lease_due : s->idle_due)) {
    free(s->request_id);
    pairs_free(&s->headers);
    free(s);
    return NULL;
  }
  env_hold(s->env);
  s->tensors = spec->tensors ? shared_ref(spec->tensors) : NULL;
  struct session_table *t = r->sessions;
  s->sequence = ++t->last_sequence;
  list_append(&t->all, &s->link);
  HASH_ADD(hh, t->by_id, id, ID_RANDOM + 2, s);
  if (s->request_id)
    HASH_ADD_KEYPTR(hh_request, t->by_request, s->request_id, strlen(s->request_id), s);
  metric_session_state(r->metrics, -1, SESSION_PROVISIONING);
  return s;
}

// A creation that was asked for before.
static void join_creation(struct session *s, const struct session_spec *spec, struct session_waiter *w)
{
  if (strcmp(s->env->name, spec->env->name) != 0) {
    struct err e;
    err_set(&e, CODE_FAILED_PRECONDITION, REASON_REQUEST_ID_REUSED,
            "request_id was used before for a session of environment %s; choose a new one for each session", s->env->name);
    w->ready(w, NULL, &e);
    return;
  }
  renew(s);
  if (s->state == SESSION_PROVISIONING) {
    w->session = s;
    list_append(&s->creators, &w->link);
  } else if (s->state == SESSION_LOST && !s->provisioned) { // told now; the next try begins anew
    struct err why = *s->err;
    end_session(s, &why);
    w->ready(w, NULL, &why);
  } else {
    w->ready(w, s, NULL);
  }
}

void session_create(struct reactor *r, const struct session_spec *spec, struct session_waiter *w)
{
  list_init(&w->link);
  w->session = NULL;
  struct session *s = NULL;
  if (spec->request_id.n) {
    struct creation_key key = creation_key(spec);
    HASH_FIND(hh_request, r->sessions->by_request, key.text, strlen(key.text), s);
  }
  if (s) {
    join_creation(s, spec, w);
    return;
  }
  struct err e;
  if (r->draining) {
    double left = r->drain_end > r->now ? (double)(r->drain_end - r->now) / 1e9 : 0;
    err_set(&e, CODE_UNAVAILABLE, REASON_DRAINING,
            "the gateway is shutting down and takes no new sessions; those that there are end within %.0f s, when no call runs any more", left);
    w->ready(w, NULL, &e);
    return;
  }
  struct principal *owner = spec->who.principal;
  if (owner && !quota_take_session(&owner->quota, &e)) {
    metric_add(r->metrics, METRIC_quota_refused_total, 1);
    w->ready(w, NULL, &e);
    return;
  }
  s = session_new(r, spec);
  if (!s) {
    if (owner)
      quota_give_session(&owner->quota);
    err_nomem(&e);
    w->ready(w, NULL, &e);
    return;
  }
  w->session = s;
  list_append(&s->creators, &w->link);
  ask_for_slot(s);
}

// The waiter leaves its session, which is returned; NULL: it has been told already.
static struct session *leave(struct session_waiter *w)
{
  struct session *s = w->session;
  list_remove(&w->link);
  w->session = NULL;
  return s;
}

// Nobody waits for it any more or has its name.
static bool is_forgotten(const struct session *s)
{
  return list_empty(&s->creators) && !s->handed_out && s->state == SESSION_PROVISIONING;
}

void session_abandon(struct session_waiter *w)
{
  struct session *s = leave(w);
  struct err e;
  err_set(&e, CODE_CANCELLED, REASON_CANCELLED, "the caller went away");
  if (s && is_forgotten(s) && !s->request_id)
    end_session(s, &e);
}

void session_give_up(struct session_waiter *w)
{
  struct session *s = leave(w);
  struct err e;
  err_set(&e, CODE_CANCELLED, REASON_CANCELLED, "there was no worker for the session in time");
  if (s && is_forgotten(s))
    end_session(s, &e);
}

void session_hand_out(struct session_waiter *w)
{
  struct session *s = leave(w);
  if (!s)
    return;
  s->handed_out = true;
  renew(s);
}

void session_hold(struct session *s, struct session_hold *h)
{
  h->session = s;
  list_append(&s->holds, &h->link);
  s->keepers += h->keeps;
}

void session_release(struct session_hold *h)
{
  if (!h->session)
    return;
  list_remove(&h->link);
  h->session->keepers -= h->keeps;
  h->session = NULL;
}

void session_name_known(struct session *s)
{
  s->handed_out = true;
}

void session_ask_standing(struct session *s, struct standing_waiter *w)
{
  list_init(&w->link);
  if (s->state != SESSION_PROVISIONING || !s->ticket || s->line) {
    w->told(w, s, NULL, NULL);
    return;
  }
  list_append(&s->askers, &w->link);
  if (!s->asking)
    slot_ask_standing(s->ticket, on_standing);
  s->asking = true;
}

void session_unask_standing(struct standing_waiter *w)
{
  list_remove(&w->link);
}

// --- views ---------------------------------------------------------------------------------------------------------------------------------

// NSEC_NEVER: not as long as its work runs.
static nsec expires(const struct session *s)
{
  nsec due = s->running ? NSEC_NEVER : s->lease_due < s->idle_due ? s->lease_due : s->idle_due;
  return s->reactor->draining && s->reactor->drain_end < due ? s->reactor->drain_end : due;
}

struct session_view session_view(const struct session *s)
{
  nsec due = expires(s);
  nsec now = clock_mono();
  return (struct session_view){
      .id = s->id,
      .sequence = s->sequence,
      .env = s->env,
      .owner = s->owner,
      .state = s->state,
      .created_wall = s->created_wall,
      .expires_wall = due == NSEC_NEVER ? NSEC_NEVER : clock_wall() + (due > now ? due - now : 0),
      .episode_id = session_episode(s),
      .step_index = s->step_index,
      .worker_id = s->worker_id,
      .err = s->err,
      .lease_s = s->lease_s,
      .idle_timeout_s = s->idle_timeout_s,
      .payload_format = s->payload_format,
      .tensors = session_tensors(s),
      .handed_out = s->handed_out,
  };
}

const struct env_config *session_takes_headers(const struct session *s)
{
  return s->dialect == DIALECT_HTTP ? s->env : NULL;
}

int session_payload_format(const struct session *s)
{
  return s->payload_format;
}

const void *session_tensors(const struct session *s)
{
  return s->tensors ? s->tensors->buf.p : NULL;
}

const char *session_id(const struct session *s)
{
  return s->id;
}

const char *session_worker_id(const struct session *s)
{
  return s->worker_id;
}

enum worker_dialect session_dialect(const struct session *s)
{
  return s->dialect;
}

const struct err *session_lost(const struct session *s)
{
  return s->state == SESSION_LOST ? s->err : NULL;
}

struct shared *session_last_words(const struct session *s)
{
  return s->last_words;
}
