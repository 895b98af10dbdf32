// SPDX-License-Identifier: Apache-2.0
// The work of a session: its queue, its preconditions, and the replies that are kept for retries.
#include <inttypes.h>
#include <stdlib.h>

#include "base/id.h"
#include "base/json.h"
#include "session/session_private.h"

// --- outcomes ------------------------------------------------------------------------------------------------------------------------------

void outcome_unref(struct outcome *o)
{
  if (!o || --o->refs)
    return;
  shared_unref(o->bytes);
  shared_unref(o->episode);
  free(o->err);
  struct session_table *t = o->table;
  if (t->spare_outcomes < SPARES)
    t->spare_outcome[t->spare_outcomes++] = o;
  else
    free(o);
}

// As malloc gives it. NULL: out of memory.
static struct outcome *outcome_alloc(struct session_table *t)
{
  return t->spare_outcomes ? t->spare_outcome[--t->spare_outcomes] : malloc(sizeof(struct outcome));
}

void work_free_spares(struct session_table *t)
{
  while (t->spare_outcomes)
    free(t->spare_outcome[--t->spare_outcomes]);
  while (t->spare_works)
    free(t->spare_work[--t->spare_works]);
}

const char *session_episode(const struct session *s)
{
  return s->episode ? s->episode->buf.p : "";
}

// A name with a NUL behind it; NULL when out of memory.
static struct shared *name_new(struct str name)
{
  struct buf b = {0};
  struct shared *s = buf_str(&b, name) && buf_char(&b, '\0') ? shared_take(NULL, &b) : NULL;
  buf_free(&b);
  return s;
}

static size_t outcome_size(const struct outcome *o)
{
  return sizeof *o + (o->bytes ? o->bytes->buf.cap : 0) + (o->err ? sizeof *o->err : 0);
}

// The place is the oldest's, so what was there goes. The newest reply is kept whatever its size; older ones while all are within KEPT_BYTES.
static void keep(struct session *s, struct outcome *o)
{
  for (int i = 0; i < KEPT_REPLIES; i++) {
    struct outcome **oldest = &s->kept[(s->kept_at + i) % KEPT_REPLIES];
    if (i > 0 && s->kept_bytes + outcome_size(o) <= KEPT_BYTES)
      break;
    if (*oldest) {
      s->kept_bytes -= outcome_size(*oldest);
      outcome_unref(*oldest);
      *oldest = NULL;
    }
  }
  o->refs++;
  s->kept[s->kept_at] = o;
  s->kept_at = (s->kept_at + 1) % KEPT_REPLIES;
  s->kept_bytes += outcome_size(o);
}

void work_forget(struct session *s)
{
  for (int i = 0; i < KEPT_REPLIES; i++) {
    outcome_unref(s->kept[i]);
    s->kept[i] = NULL;
  }
  s->kept_bytes = 0;
}

// --- work ----------------------------------------------------------------------------------------------------------------------------------

static uint64_t hash_int(uint64_t hash, int64_t n)
{
  return hash_fnv(hash, (struct str){(const char *)&n, sizeof n});
}

// Tells a repeated request from another one under the same request_id.
static uint64_t request_hash(const struct waiter *w)
{
  const struct worker_request *q = &w->request;
  uint64_t h = hash_int(0, (int64_t)q->op);
  h = hash_fnv(hash_int(h, (int64_t)q->action.n), q->action);
  h = hash_int(hash_int(h, q->has_seed), q->has_seed ? q->seed : 0);
  h = hash_fnv(hash_int(h, (int64_t)q->episode_id.n), q->episode_id);
  h = hash_fnv(hash_int(h, (int64_t)q->options.n), q->options);
  h = hash_fnv(hash_int(h, (int64_t)q->words.n), q->words);
  h = hash_fnv(hash_int(h, (int64_t)w->episode_id.n), w->episode_id);
  return hash_int(hash_int(h, w->has_step_index), w->has_step_index ? w->step_index : 0);
}

// Takes it out of whatever line its reply waits in.
static void leave_line(struct work *work)
{
  flow_leave(work->wait);
  work->wait = NULL;
  work->asker = NULL;
}

static void work_free(struct work *work)
{
  struct session_table *t = work->session->reactor->sessions;
  bool waits = work->wait != NULL;
  leave_line(work);
  if (waits && work->session->line && work->session->dialect == DIALECT_HTTP) // its step goes on without the session
    link_resume(work->session->line);
  if (work->unwaited)
    flow_done(t->unwaited, (uintptr_t)work);
  free(work->request_id);
  shared_unref(work->episode);
  if (t->spare_works < SPARES)
    t->spare_work[t->spare_works++] = work;
  else
    free(work);
}

static void unqueue(struct work *work)
{
  list_remove(&work->link);
  work->session->queued--;
  metric_add(work->session->reactor->metrics, METRIC_session_queue_length, -1);
}

// --- room for large replies ----------------------------------------------------------------------------------------------------------------

static void on_room(void *ctx, bool room);

// Asks for room in the name of the last who came, or of nobody, if nobody waits. False: there is none now.
static bool ask(struct work *work, size_t more)
{
  struct session *s = work->session;
  struct waiter *w = list_empty(&work->waiters) ? NULL : CONTAINER_OF(work->waiters.prev, struct waiter, link);
  struct flow *flow = w ? w->flow : s->reactor->sessions->unwaited;
  work->unwaited = work->unwaited || !w;
  if (!flow || flow_ask(flow, s->reactor, w ? w->flow_key : (uintptr_t)work, more, on_room, work, &work->wait))
    return true;
  work->asker = w;
  return false;
}

// Of a reply that waits for room already: in another's name.
static void ask_anew(struct work *work)
{
  leave_line(work);
  if (ask(work, work->coming))
    link_resume(work->session->line);
}

// The caller takes nothing, so its calls must not keep a worker waiting any longer: a worker that can't send has its pings unanswered.
static void give_up(struct work *work)
{
  struct flow *flow = work->asker ? work->asker->flow : NULL;
  work->asker = NULL;
  struct err e;
  err_set(&e, CODE_RESOURCE_EXHAUSTED, REASON_REPLIES_UNREAD,
          "the caller has taken nothing for a while of the large replies that wait on its connection, so this one of %zu bytes was not received for "
          "it; the "
          "call was carried out%s",
          work->coming, work->request_id ? ", and the same request with the same request_id collects its reply" : ", and its reply is dropped");
  bool more = flow != NULL;
  while (more) {
    more = false;
    LIST_EACH (node, &work->waiters) {
      struct waiter *w = CONTAINER_OF(node, struct waiter, link);
      if (w->flow != flow)
        continue;
      list_remove(node);
      w->work = NULL;
      w->done(w, NULL, &e);
      more = true;
      break; // others may have left meanwhile
    }
  }
}

static void on_room(void *ctx, bool room)
{
  struct work *work = ctx;
  work->wait = NULL;
  if (!room) {
    give_up(work);
    room = ask(work, work->coming);
  }
  if (room)
    link_resume(work->session->line);
}

bool work_large(struct session *s, size_t more)
{
  struct work *work = s->running;
  work->coming += more;
  if (ask(work, more))
    return true;
  metric_add(s->reactor->metrics, METRIC_replies_paused_total, 1);
  return false;
}

// --- the end of work -----------------------------------------------------------------------------------------------------------------------

// Answers all who wait for it, and frees it.
static void work_end(struct work *work, const struct outcome *o, const struct err *e)
{
  struct list *node;
  while ((node = list_pop(&work->waiters))) {
    struct waiter *w = CONTAINER_OF(node, struct waiter, link);
    w->work = NULL;
    w->done(w, o, e);
  }
  work_free(work);
}

static void join(struct work *work, struct waiter *w)
{
  w->work = work;
  list_append(&work->waiters, &w->link);
  if (work->wait)
    ask_anew(work); // a retry comes from a caller that waits for it, which the first may not do any more
}

static struct work *work_new(struct session *s, struct waiter *w, uint64_t hash)
{
  struct session_table *t = s->reactor->sessions;
  struct work *work = t->spare_works ? t->spare_work[--t->spare_works] : malloc(sizeof *work);
  if (!work)
    return NULL;
  *work = (struct work){.session = s, .op = w->request.op, .request_hash = hash};
  list_init(&work->link);
  list_init(&work->waiters);
  if (w->request_id.n) {
    work->request_id = strndup(w->request_id.p, w->request_id.n);
    if (!work->request_id) {
      work_free(work);
      return NULL;
    }
  }
  join(work, w);
  return work;
}

static bool may_begin(const struct session *s, const struct waiter *w, struct err *e)
{
  struct str episode = str_c(session_episode(s));
  if (w->request.op == OP_MCP && s->dialect == DIALECT_HTTP)
    return err_set(e, CODE_UNIMPLEMENTED, REASON_TOOLS_NOT_SUPPORTED,
                   "the worker has no MCP: it speaks plain HTTP (openenv-core 0.1); OpenEnv 0.2.3 and later have tools");
  if (w->episode_id.n && !str_eq(w->episode_id, episode))
    return err_set(e, CODE_FAILED_PRECONDITION, REASON_EPISODE_MISMATCH, "the session is in episode \"%.*s\", not in \"%.*s\"", STR_ARG(episode),
                   STR_ARG(w->episode_id));
  if (w->has_step_index && w->step_index != s->step_index + 1)
    return err_set(e, CODE_FAILED_PRECONDITION, REASON_STEP_INDEX_MISMATCH, "the episode's next step is %" PRId64 ", not %" PRId64, s->step_index + 1,
                   w->step_index);
  return true;
}

static bool send_work(struct session *s, struct work *work, struct waiter *w, struct err *e)
{
  struct worker_request q = w->request;
  if (q.words_only && s->dialect == DIALECT_HTTP)
    return err_set(e, CODE_UNIMPLEMENTED, REASON_WORKER_PROTOCOL, "the worker speaks OpenEnv 0.1's HTTP, which has no such request");
  if (q.op == OP_RESET) {
    char name[37];
    if (!q.episode_id.n) { // so that every episode has a name that the caller, the gateway and the worker share
      id_uuid(name);
      q.episode_id = str_c(name);
    }
    work->episode = name_new(q.episode_id);
    if (!work->episode)
      return err_nomem(e);
    q.episode_id = str_c(work->episode->buf.p);
  }
  if (!link_send(s->line, &q))
    return err_nomem(e);
  work->sent = clock_mono();
  LIST_EACH (node, &work->waiters) {
    CONTAINER_OF(node, struct waiter, link)->sent = work->sent;
  }
  return true;
}

void work_pump(struct session *s)
{
  while (!s->closed && s->line && s->state != SESSION_PROVISIONING && !s->running && !list_empty(&s->queue)) {
    struct work *work = CONTAINER_OF(s->queue.next, struct work, link);
    struct waiter *first = CONTAINER_OF(work->waiters.next, struct waiter, link);
    unqueue(work);
    struct err e;
    if (!may_begin(s, first, &e) || !send_work(s, work, first, &e)) {
      work_end(work, NULL, &e);
      continue;
    }
    stand_in_go(work);
    s->running = work;
    session_set_state(s, SESSION_BUSY);
  }
}

static struct outcome *outcome_new(const struct session *s, const struct work *work, const struct worker_reply *reply, struct shared *bytes)
{
  struct session_table *t = s->reactor->sessions;
  struct outcome *o = outcome_alloc(t);
  if (!o)
    return NULL;
  *o = (struct outcome){.refs = 1,
                        .table = t,
                        .worker_time = (s->reactor->now > work->sent ? s->reactor->now : clock_mono()) - work->sent,
                        .request_hash = work->request_hash,
                        .episode_id = ""};
  if (work->request_id)
    memcpy(o->request_id, work->request_id, strlen(work->request_id) + 1);
  if (reply->kind == REPLY_ERROR) {
    o->err = malloc(sizeof *o->err);
    if (!o->err) {
      outcome_unref(o);
      return NULL;
    }
    *o->err = reply->err;
  } else {
    o->observation = reply->observation;
    o->metadata = reply->metadata;
    o->state = reply->state;
    o->reward = reply->reward;
    o->has_reward = reply->has_reward;
    o->done = reply->done;
    o->has_terminated = reply->has_terminated;
    o->terminated = reply->terminated;
    o->has_truncated = reply->has_truncated;
    o->truncated = reply->truncated;
    o->step_index = s->step_index;
    if (s->episode) {
      o->episode = shared_ref(s->episode);
      o->episode_id = o->episode->buf.p;
    }
  }
  o->raw = reply->raw;
  o->bytes = shared_ref(bytes);
  return o;
}

// What a good reply says of the episode.
static void advance(struct session *s, struct work *work, const struct worker_reply *reply)
{
  if (work->op == OP_STEP) {
    s->step_index++;
    return;
  }
  if (work->op != OP_RESET)
    return;
  struct buf named = {.max = EPISODE_ID_MAX};
  if (reply->episode_id.n && json_unescape(reply->episode_id, &named) && !memchr(named.p, 0, named.n)) {
    struct shared *other = name_new(buf_view(&named));
    if (other) {
      shared_unref(work->episode);
      work->episode = other;
    }
  }
  buf_free(&named);
  shared_unref(s->episode);
  s->episode = work->episode;
  work->episode = NULL;
  s->step_index = 0;
}

void work_reply(struct session *s, struct worker_reply *reply, struct shared *bytes)
{
  struct work *work = s->running;
  s->running = NULL;
  session_set_state(s, SESSION_READY);
  if (reply->kind != REPLY_ERROR)
    advance(s, work, reply);
  struct outcome *o = outcome_new(s, work, reply, bytes);
  if (o && work->request_id)
    keep(s, o);
  else if (list_empty(&work->waiters))
    metric_add(s->reactor->metrics, METRIC_replies_dropped_total, 1);
  struct err e;
  if (!o)
    err_nomem(&e);
  work_end(work, o, o ? NULL : &e);
  outcome_unref(o);
  work_pump(s);
}

void work_end_all(struct session *s, const struct err *e)
{
  struct work *running = s->running;
  s->running = NULL;
  if (running)
    work_end(running, NULL, e);
  while (!list_empty(&s->queue)) {
    struct work *work = CONTAINER_OF(s->queue.next, struct work, link);
    unqueue(work);
    work_end(work, NULL, e);
  }
}

// --- callers -------------------------------------------------------------------------------------------------------------------------------

static bool same_request(struct waiter *w, uint64_t hash, uint64_t other)
{
  if (hash == other)
    return true;
  struct err e;
  err_set(&e, CODE_FAILED_PRECONDITION, REASON_REQUEST_ID_REUSED,
          "request_id was used before for another request of this session; choose a new one for each request");
  w->done(w, NULL, &e);
  return false;
}

static struct work *find_work(struct session *s, struct str request_id)
{
  if (s->running && s->running->request_id && str_eq(request_id, str_c(s->running->request_id)))
    return s->running;
  LIST_EACH (node, &s->queue) {
    struct work *work = CONTAINER_OF(node, struct work, link);
    if (work->request_id && str_eq(request_id, str_c(work->request_id)))
      return work;
  }
  return NULL;
}

// Answers or joins a retry. False: its request_id is new.
static bool retry(struct session *s, struct waiter *w, uint64_t hash)
{
  struct work *work = find_work(s, w->request_id);
  if (work) {
    if (same_request(w, hash, work->request_hash)) {
      metric_add(s->reactor->metrics, METRIC_replies_kept_served_total, 1);
      join(work, w);
    }
    return true;
  }
  for (int i = 0; i < KEPT_REPLIES; i++) {
    struct outcome *o = s->kept[i];
    if (!o || !str_eq(w->request_id, str_c(o->request_id)))
      continue;
    if (same_request(w, hash, o->request_hash)) {
      metric_add(s->reactor->metrics, METRIC_replies_kept_served_total, 1);
      o->refs++;
      w->done(w, o, NULL);
      outcome_unref(o);
    }
    return true;
  }
  return false;
}

void session_submit(struct session *s, struct waiter *w)
{
  struct err e;
  list_init(&w->link);
  w->work = NULL;
  w->submitted = s->reactor->now;
  w->sent = 0;
  s->idle_due = s->idle_timeout_s > 0 ? nsec_add(s->reactor->now, nsec_from_s(s->idle_timeout_s)) : NSEC_NEVER;
  uint64_t hash = w->request_id.n ? request_hash(w) : 0;
  if (w->request_id.n && retry(s, w, hash))
    return;
  if (s->state == SESSION_LOST) {
    w->done(w, NULL, s->err);
    return;
  }
  if (s->queued >= s->env->queue_limit && (s->running || s->state == SESSION_PROVISIONING)) {
    err_set(&e, CODE_RESOURCE_EXHAUSTED, REASON_QUEUE_FULL,
            "%d calls wait on the session already (queue_limit of environment %s); wait for replies before sending more", s->queued, s->env->name);
    e.retry_after_ms = 100;
    w->done(w, NULL, &e);
    return;
  }
  struct work *work = work_new(s, w, hash);
  if (!work) {
    err_nomem(&e);
    w->done(w, NULL, &e);
    return;
  }
  list_append(&s->queue, &work->link);
  s->queued++;
  metric_add(s->reactor->metrics, METRIC_session_queue_length, 1);
  work_pump(s);
}

void session_leave_to_go_on(struct waiter *w)
{
  if (w->work != w->work->session->running)
    stand_in_take(w->work, w);
  session_leave(w);
}

enum session_left session_leave(struct waiter *w)
{
  struct work *work = w->work;
  struct session *s = work->session;
  list_remove(&w->link);
  w->work = NULL;
  if (work->wait && work->asker == w)
    ask_anew(work);
  if (work == s->running)
    return LEFT_RUNNING;
  if (work->stand_in)
    return LEFT_TO_GO_ON;
  if (list_empty(&work->waiters)) {
    unqueue(work);
    work_free(work);
  }
  return LEFT_WAITING;
}
