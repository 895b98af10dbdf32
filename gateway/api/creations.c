// SPDX-License-Identifier: Apache-2.0
// CreateSessions: many CreateSessions with one end. Sessions that are ready are held until the last one is, so that their leases wait for the others.
#include "api/api.h"
#include "api/episodes.h"
#include "api/payload.h"
#include "api/sessions.h"
#include "config/inline.h"

enum { COUNT_MAX = 1024 }; // as the .proto says

struct member {
  struct session_waiter waiter; // until it is ready
  struct session_hold hold;     // from then on
  struct standing_waiter asker; // once the deadline has come
  bool asked;                   // and has not been told
  bool stands;                  // it was: `standing`
  struct standing standing;
  struct creations *all;
};

struct creations {
  struct call *call;
  struct member *at;
  size_t n;       // that were begun
  size_t waiting; // of these: not ready
  size_t asked;
  bool retryable; // there is a request_id
  bool over;      // the deadline has come: what is PROVISIONING is handed out
  bool busy;      // somebody walks over the members, and will settle it
  bool failed;
  struct err err;
};

// --- the end -------------------------------------------------------------------------------------------------------------------------------

// Lets go of a member's session, which the caller does not get. `close`: it must not stay, unless somebody else has its name.
static void member_drop(struct member *m, bool close)
{
  struct session *ready = m->hold.session;
  session_unask_standing(&m->asker);
  session_release(&m->hold);
  if (ready && close && !session_view(ready).handed_out)
    session_close(ready);
  else if (m->waiter.session && close)
    session_give_up(&m->waiter);
  else if (m->waiter.session)
    session_abandon(&m->waiter);
}

static void drop_all(struct creations *all, bool close)
{
  all->busy = true;
  for (size_t i = 0; i < all->n; i++)
    member_drop(&all->at[i], close);
}

static void end_with(struct creations *all, const struct err *e)
{
  drop_all(all, true);
  fail(all->call, e);
}

static void end_well(struct creations *all)
{
  struct call *c = all->call;
  struct err e;
  Envgate__V1__CreateSessionsResponse reply;
  envgate__v1__create_sessions_response__init(&reply);
  reply.sessions = arena_alloc(&c->arena, all->n * sizeof(Envgate__V1__Session *));
  if (!reply.sessions) {
    err_nomem(&e);
    end_with(all, &e);
    return;
  }
  for (size_t i = 0; i < all->n; i++) {
    struct member *m = &all->at[i];
    const struct session *s = m->hold.session ? m->hold.session : m->waiter.session;
    const struct err *lost = session_view(s).err; // it was ready, and its worker went while others were not
    if (lost) {
      end_with(all, lost);
      return;
    }
    reply.sessions[i] = session_message(s, m->stands ? &m->standing : NULL, &c->arena);
    if (!reply.sessions[i]) {
      err_nomem(&e);
      end_with(all, &e);
      return;
    }
  }
  for (size_t i = 0; i < all->n; i++) {
    struct member *m = &all->at[i];
    if (m->hold.session)
      session_name_known(m->hold.session);
    else
      session_hand_out(&m->waiter);
    session_release(&m->hold);
  }
  reply.n_sessions = all->n;
  rpc_finish(c, &reply.base, NULL);
}

// Ends the call if it is time.
static void settle(struct creations *all)
{
  if (all->busy)
    return;
  if (all->failed)
    end_with(all, &all->err);
  else if (!all->waiting || (all->over && !all->asked))
    end_well(all);
}

// The first error is the call's.
static void note_failure(struct creations *all, const struct err *e)
{
  if (!all->failed)
    all->err = *e;
  all->failed = true;
}

// --- while they come -----------------------------------------------------------------------------------------------------------------------

// One that was ready is closed, while others are not.
static void on_ended(struct session_hold *h, const struct err *e)
{
  struct creations *all = CONTAINER_OF(h, struct member, hold)->all;
  note_failure(all, e);
  settle(all);
}

static void on_created(struct session_waiter *w, struct session *s, const struct err *e)
{
  struct member *m = CONTAINER_OF(w, struct member, waiter);
  struct creations *all = m->all;
  session_unask_standing(&m->asker);
  all->asked -= m->asked;
  m->asked = false;
  all->waiting--;
  if (e)
    note_failure(all, e);
  else
    session_hold(s, &m->hold);
  settle(all);
}

static void on_standing(struct standing_waiter *w, struct session *s, const struct standing *standing, const struct err *e)
{
  struct member *m = CONTAINER_OF(w, struct member, asker);
  struct creations *all = m->all;
  struct err hopeless;
  all->asked -= m->asked;
  m->asked = false;
  m->stands = standing != NULL;
  if (standing)
    m->standing = *standing;
  if (!e && create_hopeless(s, standing, &hopeless))
    note_failure(all, &hopeless);
  settle(all);
}

void creations_deadline(struct call *c)
{
  struct creations *all = c->state;
  all->over = all->busy = true;
  for (size_t i = 0; i < all->n; i++) {
    struct member *m = &all->at[i];
    if (!m->waiter.session)
      continue;
    m->asked = true;
    all->asked++;
    session_ask_standing(m->waiter.session, &m->asker);
  }
  all->busy = false;
  settle(all);
}

void creations_cancel(struct call *c, struct err *e)
{
  struct creations *all = c->state;
  (void)e;
  drop_all(all, !all->retryable); // a retry finds what it has a request_id for
}

// --- the beginning -------------------------------------------------------------------------------------------------------------------------

int creations_route(const struct call *c)
{
  const Envgate__V1__CreateSessionsRequest *q = (const void *)c->request;
  return q->session ? create_route_by(c, q->session->request_id) : c->home->index;
}

static bool creations_check(const Envgate__V1__CreateSessionsRequest *q, struct err *e)
{
  const int most = REQUEST_ID_MAX - (int)sizeof "-1023" + 1;
  if (q->count < 1 || q->count > COUNT_MAX)
    return err_field(e, REASON_INVALID_REQUEST, "count", "count is %d; it must be from 1 to %d", q->count, COUNT_MAX);
  if (!q->session)
    return err_field(e, REASON_INVALID_REQUEST, "session", "session is required: what each of the sessions is like");
  if (strlen(q->session->request_id) > (size_t)most)
    return err_field(e, REASON_INVALID_REQUEST, "session.request_id",
                     "session.request_id is %zu bytes long; at most %d are allowed here, since each session gets its number behind it",
                     strlen(q->session->request_id), most);
  return true;
}

static bool creations_spec(struct call *c, const Envgate__V1__CreateSessionsRequest *q, struct session_spec *spec, struct err *e)
{
  char field[sizeof e->field];
  if (!creations_check(q, e))
    return false;
  if (create_spec(c, q->session, spec, e))
    return true;
  snprintf(field, sizeof field, "session.%.120s", e->field);
  if (e->field[0])
    memcpy(e->field, field, sizeof field);
  return false;
}

static void create_one(struct creations *all, struct session_spec *spec, struct str request_id)
{
  char id[REQUEST_ID_MAX + 1];
  struct member *m = &all->at[all->n];
  int n = all->retryable ? snprintf(id, sizeof id, "%.*s-%zu", STR_ARG(request_id), all->n) : 0;
  spec->request_id = (struct str){id, (size_t)n};
  m->all = all;
  m->waiter.ready = on_created;
  m->hold.ended = on_ended;
  m->hold.keeps = true;
  list_init(&m->hold.link);
  m->asker.told = on_standing;
  list_init(&m->asker.link);
  all->n++;
  all->waiting++;
  session_create(all->call->owner, spec, &m->waiter);
}

void creations_start(struct call *c)
{
  const Envgate__V1__CreateSessionsRequest *q = (const void *)c->request;
  struct creations *all = arena_alloc(&c->arena, sizeof *all);
  struct session_spec spec;
  struct err e;
  answer_in_time(c);
  if (!creations_spec(c, q, &spec, &e)) {
    fail(c, &e);
    return;
  }
  if (all)
    all->at = arena_alloc(&c->arena, (size_t)q->count * sizeof *all->at);
  if (all && all->at) {
    const struct str request_id = spec.request_id;
    *all = (struct creations){.call = c, .at = all->at, .retryable = request_id.n > 0, .busy = true};
    c->state = all;
    while (!all->failed && all->n < (size_t)q->count)
      create_one(all, &spec, request_id);
    all->busy = false;
  }
  env_release(spec.env); // the sessions have holds of their own
  shared_unref(spec.tensors);
  if (all && all->at) {
    settle(all);
  } else {
    err_nomem(&e);
    fail(c, &e);
  }
}
