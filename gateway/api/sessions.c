// SPDX-License-Identifier: Apache-2.0
// envgate.v1.SessionService: the life of sessions. Reset, Step and GetState are in episodes.c, StepBatch and ResetBatch in batch.c.
#include <stdlib.h>

#include "api/api.h"
#include "api/batch.h"
#include "api/control.h"
#include "api/episodes.h"
#include "api/forward.h"
#include "api/interact.h"
#include "api/mcp.h"
#include "api/payload.h"
#include "api/sessions.h"
#include "base/id.h"
#include "config/inline.h"
#include "envgate/v1/session_service.pb-c.h"
#include "session/session.h"

int reactor_of_name(const struct reactor *near, const char *name)
{
  if (near->count == 1)
    return near->index;
  struct str id;
  int index = resource_id(name, "sessions", false, "", &id, NULL) ? session_reactor(id, near->count) : -1;
  return index < 0 ? near->index : index;
}

struct session *session_of_name(struct reactor *r, struct identity who, const char *name, const char *field, struct err *e)
{
  struct str id;
  if (!resource_id(name, "sessions", false, field, &id, e))
    return NULL;
  struct session *s = session_find(r, id, who);
  if (!s)
    err_set(e, CODE_NOT_FOUND, REASON_SESSION_NOT_FOUND, "no session %.*s; it was closed or its lease ran out, or it never was", 64, name);
  return s;
}

struct session *call_session(struct call *c, const char *name, const char *field)
{
  struct err e;
  struct session *s = session_of_name(c->owner, c->who, name, field, &e);
  if (!s) {
    fail(c, &e);
    return NULL;
  }
  c->session = str_c(arena_dup(&c->arena, str_c(session_id(s))));
  c->worker = str_c(arena_dup(&c->arena, str_c(session_worker_id(s))));
  return s;
}

static Envgate__V1__LaunchProgress *progress_message(const struct launch_progress *p, struct arena *a)
{
  Envgate__V1__LaunchProgress *m = arena_alloc(a, sizeof *m);
  if (m)
    progress_fill(p, m);
  return m;
}

static bool tensors_message(const struct tensor_specs *specs, Envgate__V1__Session *m, struct arena *a)
{
  if (!specs)
    return true;
  m->tensors = arena_alloc(a, specs->n * sizeof *m->tensors);
  for (size_t i = 0; m->tensors && i < specs->n; i++) {
    Envgate__V1__TensorSpec *spec = m->tensors[i] = arena_alloc(a, sizeof *spec);
    if (!spec)
      return false;
    envgate__v1__tensor_spec__init(spec);
    spec->path = arena_dup(a, specs->at[i].path);
    spec->dtype = specs->at[i].dtype;
    m->n_tensors++;
    if (!spec->path)
      return false;
  }
  return m->tensors;
}

Envgate__V1__Session *session_message(const struct session *s, const struct standing *standing, struct arena *a)
{
  static const Envgate__V1__Session__State states[] = {
      [SESSION_PROVISIONING] = ENVGATE__V1__SESSION__STATE__STATE_PROVISIONING,
      [SESSION_READY] = ENVGATE__V1__SESSION__STATE__STATE_READY,
      [SESSION_BUSY] = ENVGATE__V1__SESSION__STATE__STATE_BUSY,
      [SESSION_LOST] = ENVGATE__V1__SESSION__STATE__STATE_LOST,
  };
  struct session_view v = session_view(s);
  Envgate__V1__Session *m = arena_alloc(a, sizeof *m);
  if (!m)
    return NULL;
  envgate__v1__session__init(m);
  m->name = arena_printf(a, "sessions/%s", v.id);
  m->environment = arena_printf(a, "environments/%s", v.env->name);
  m->state = states[v.state];
  m->create_time = timestamp_message(a, v.created_wall);
  m->expire_time = v.expires_wall == NSEC_NEVER ? NULL : timestamp_message(a, v.expires_wall);
  m->episode_id = arena_dup(a, str_c(v.episode_id));
  m->step_index = v.step_index;
  m->worker = arena_dup(a, str_c(v.worker_id));
  m->error = v.err ? rpc_status(v.err, a) : NULL;
  m->lease_s = v.lease_s;
  m->idle_timeout_s = v.idle_timeout_s;
  m->payload_format = (Envgate__V1__PayloadFormat)v.payload_format;
  bool launching = standing && standing->launching;
  m->launch_progress = launching ? progress_message(&standing->progress, a) : NULL;
  if (!tensors_message(v.tensors, m, a))
    return NULL;
  return (m->launch_progress || !launching) && m->name && m->environment && m->create_time && m->episode_id && m->worker && (m->error || !v.err)
             ? m
             : NULL;
}

static void reply_session(struct call *c, const struct session *s, const struct standing *standing)
{
  const Envgate__V1__Session *m = session_message(s, standing, &c->arena);
  struct err e;
  if (m) {
    rpc_finish(c, &m->base, NULL);
  } else {
    err_nomem(&e);
    fail(c, &e);
  }
}

// --- CreateSession -------------------------------------------------------------------------------------------------------------------------

int create_route_by(const struct call *c, const char *request_id)
{
  return request_id[0] ? (int)(hash_fnv(0, str_c(request_id)) % (unsigned)c->home->count) : c->home->index;
}

static int create_route(const struct call *c)
{
  return create_route_by(c, ((const Envgate__V1__CreateSessionRequest *)(const void *)c->request)->request_id);
}

static void on_created(struct session_waiter *w, struct session *s, const struct err *e);
static void on_create_standing(struct standing_waiter *w, struct session *s, const struct standing *standing, const struct err *e);

struct creation {
  struct session_waiter waiter;
  struct standing_waiter asker; // once the deadline has come
  struct call *call;
};

#define ANSWER_MARGIN (100 * NSEC_PER_MS)

void answer_in_time(struct call *c)
{
  nsec now = clock_mono();
  if (c->deadline == NSEC_NEVER || c->deadline <= now)
    return;
  nsec tenth = (c->deadline - now) / 10;
  call_deadline(c, c->deadline - (tenth < ANSWER_MARGIN ? tenth : ANSWER_MARGIN));
}

static bool seconds_check(double s, bool zero_allowed, double most, const char *field, struct err *e)
{
  if ((zero_allowed ? s >= 0 : s > 0) && s <= most)
    return true;
  return err_field(e, REASON_INVALID_REQUEST, field, "%s must be %s 0 and at most %g seconds", field, zero_allowed ? "at least" : "above", most);
}

// What a source names, with strings and variables in the request or the arena.
static bool read_source(struct call *c, const Envgate__V1__EnvironmentSource *q, struct inline_source *to, struct err *e)
{
  bool uv = q->runtime == ENVGATE__V1__ENVIRONMENT_SOURCE__RUNTIME__RUNTIME_UV;
  *to = (struct inline_source){.app = q->app, .port = q->port};
  switch (q->source_case) {
  case ENVGATE__V1__ENVIRONMENT_SOURCE__SOURCE_IMAGE:
    to->kind = SOURCE_IMAGE;
    to->what = q->image;
    break;
  case ENVGATE__V1__ENVIRONMENT_SOURCE__SOURCE_SPACE:
    to->kind = uv ? SOURCE_SPACE_UV : SOURCE_SPACE;
    to->what = q->space;
    break;
  case ENVGATE__V1__ENVIRONMENT_SOURCE__SOURCE_PROJECT_URL:
    to->kind = SOURCE_PROJECT_URL;
    to->what = q->project_url;
    break;
  case ENVGATE__V1__ENVIRONMENT_SOURCE__SOURCE_PATH:
    to->kind = SOURCE_PATH;
    to->what = q->path;
    break;
  default:
    return err_field(e, REASON_INVALID_REQUEST, "source", "source must have one of image, space, project_url and path");
  }
  if (q->runtime && to->kind != SOURCE_SPACE && to->kind != SOURCE_SPACE_UV)
    return err_field(e, REASON_INVALID_REQUEST, "source.runtime", "source.runtime goes with a space only");
  if (q->runtime < 0 || q->runtime > ENVGATE__V1__ENVIRONMENT_SOURCE__RUNTIME__RUNTIME_UV)
    return err_field(e, REASON_INVALID_REQUEST, "source.runtime", "source.runtime must be RUNTIME_DOCKER or RUNTIME_UV");
  if (q->port < 0 || q->port > 65535)
    return err_field(e, REASON_INVALID_REQUEST, "source.port", "source.port must be from 1 to 65535");
  to->env_vars.at = arena_alloc(&c->arena, (q->n_env_vars + 1) * sizeof *to->env_vars.at);
  if (!to->env_vars.at)
    return err_nomem(e);
  for (; to->env_vars.n < q->n_env_vars; to->env_vars.n++) {
    const Envgate__V1__EnvironmentSource__EnvVarsEntry *entry = q->env_vars[to->env_vars.n];
    to->env_vars.at[to->env_vars.n] = (struct pair){entry->key ? entry->key : unconst(""), entry->value ? entry->value : unconst(""), VALUE_PLAIN};
  }
  return true;
}

// The environment of a new session, held: the configuration's or an inline source's. NULL: `e`.
static const struct env_config *create_environment(struct call *c, const Envgate__V1__CreateSessionRequest *q, struct err *e)
{
  const struct config *config = c->owner->config;
  struct inline_source source;
  if (q->source) {
    if (q->environment[0]) {
      err_field(e, REASON_INVALID_REQUEST, "source", "environment and source exclude each other");
      return NULL;
    }
    return read_source(c, q->source, &source, e) ? inline_env(config, &source, e) : NULL;
  }
  return environment_of_name(config, q->environment, true, "environment", e);
}

static bool create_check(struct call *c, const Envgate__V1__CreateSessionRequest *q, struct session_spec *spec, struct err *e)
{
  bool has_lease = q->_lease_s_case == ENVGATE__V1__CREATE_SESSION_REQUEST___LEASE_S_LEASE_S;
  bool has_idle = q->_idle_timeout_s_case == ENVGATE__V1__CREATE_SESSION_REQUEST___IDLE_TIMEOUT_S_IDLE_TIMEOUT_S;
  spec->lease_s = has_lease ? q->lease_s : spec->env->lease_s;
  spec->idle_timeout_s = has_idle ? q->idle_timeout_s : spec->env->idle_timeout_s;
  spec->payload_format = (int)q->payload_format;
  spec->request_id = str_c(q->request_id);
  spec->who = c->who;
  const struct forward headers = forward_all(c);
  if (!forward_to(&headers, spec->env, &c->arena, &spec->headers))
    return err_nomem(e);
  return seconds_check(spec->lease_s, false, spec->env->lease_s, "lease_s", e) &&
         seconds_check(spec->idle_timeout_s, true, 1e9, "idle_timeout_s", e) && request_id_check(spec->request_id, e) &&
         timeout_apply(c, q->timeout_s, e);
}

// The terms of the session's payloads, to be kept by it. *tensors: a reference, or NULL.
static bool create_terms(const Envgate__V1__CreateSessionRequest *q, struct arena *a, struct shared **tensors, struct err *e)
{
  struct payload_terms terms;
  struct buf memory = {0};
  *tensors = NULL;
  if (!payload_terms_read(a, q->payload_format, q->tensors, q->n_tensors, &terms, e) || !payload_terms_check(&terms, e))
    return false;
  if (!terms.tensors)
    return true;
  size_t size = tensor_specs_size(q->tensors, q->n_tensors);
  char *to = buf_reserve(&memory, size);
  if (to) {
    tensor_specs_make(q->tensors, q->n_tensors, to);
    memory.n = size;
    *tensors = shared_take(NULL, &memory);
  }
  buf_free(&memory);
  return *tensors || err_nomem(e);
}

bool create_spec(struct call *c, const Envgate__V1__CreateSessionRequest *q, struct session_spec *spec, struct err *e)
{
  *spec = (struct session_spec){0};
  if (!create_terms(q, &c->arena, &spec->tensors, e))
    return false;
  spec->env = create_environment(c, q, e);
  if (spec->env && create_check(c, q, spec, e))
    return true;
  if (spec->env)
    env_release(spec->env);
  shared_unref(spec->tensors);
  return false;
}

bool create_hopeless(struct session *s, const struct standing *standing, struct err *e)
{
  struct session_view v = session_view(s);
  if (!standing || !standing->hopeless || v.handed_out)
    return false;
  err_set(e, CODE_RESOURCE_EXHAUSTED, REASON_NO_CAPACITY,
          "no worker of %s became free before the deadline, and no more may be launched: max_workers is %lld, sessions_per_worker %lld", v.env->name,
          (long long)v.env->max_workers, (long long)v.env->sessions_per_worker);
  e->retry_after_ms = 1000;
  return true;
}

static void create_start(struct call *c)
{
  struct session_spec spec;
  struct err e;
  struct creation *creation = arena_alloc(&c->arena, sizeof *creation);
  if (!creation) {
    err_nomem(&e);
    fail(c, &e);
    return;
  }
  answer_in_time(c);
  if (!create_spec(c, (const void *)c->request, &spec, &e)) {
    fail(c, &e);
    return;
  }
  creation->call = c;
  creation->waiter.ready = on_created;
  creation->asker.told = on_create_standing;
  list_init(&creation->asker.link);
  c->state = creation;
  session_create(c->owner, &spec, &creation->waiter);
  env_release(spec.env); // the call may be over; the session has holds of its own
  shared_unref(spec.tensors);
}

static void note_session(struct call *c, const struct session *s)
{
  c->session = str_c(arena_dup(&c->arena, str_c(session_id(s))));
  c->worker = str_c(arena_dup(&c->arena, str_c(session_worker_id(s))));
}

static void on_created(struct session_waiter *w, struct session *s, const struct err *e)
{
  struct creation *creation = CONTAINER_OF(w, struct creation, waiter);
  struct call *c = creation->call;
  session_unask_standing(&creation->asker);
  if (e) {
    fail(c, e);
    return;
  }
  session_name_known(s);
  note_session(c, s);
  reply_session(c, s, NULL);
}

// The deadline has come. What is on its way is the caller's to wait for or not; what is not is refused.
static void create_deadline(struct call *c)
{
  struct creation *creation = c->state;
  session_ask_standing(creation->waiter.session, &creation->asker);
}

static void on_create_standing(struct standing_waiter *w, struct session *s, const struct standing *standing, const struct err *e)
{
  struct creation *creation = CONTAINER_OF(w, struct creation, asker);
  struct call *c = creation->call;
  if (e || !s)
    return; // on_created has told or tells the caller
  struct err full;
  if (create_hopeless(s, standing, &full)) {
    session_give_up(&creation->waiter);
    fail(c, &full);
    return;
  }
  session_hand_out(&creation->waiter);
  note_session(c, s);
  reply_session(c, s, standing);
}

static void create_cancel(struct call *c, struct err *e)
{
  struct creation *creation = c->state;
  (void)e;
  session_unask_standing(&creation->asker);
  session_abandon(&creation->waiter);
}

// --- Get, Close ----------------------------------------------------------------------------------------------------------------------------

static int get_route(const struct call *c)
{
  return reactor_of_name(c->home, ((const Envgate__V1__GetSessionRequest *)(const void *)c->request)->name);
}

struct get {
  struct standing_waiter asker;
  struct call *call;
};

static void on_get_standing(struct standing_waiter *w, struct session *s, const struct standing *standing, const struct err *e)
{
  struct call *c = CONTAINER_OF(w, struct get, asker)->call;
  if (e)
    fail(c, e);
  else
    reply_session(c, s, standing);
}

static void get_start(struct call *c)
{
  struct session *s = call_session(c, ((const Envgate__V1__GetSessionRequest *)(const void *)c->request)->name, "name");
  if (!s)
    return;
  struct get *get = arena_alloc(&c->arena, sizeof *get);
  if (!get) {
    struct err e;
    err_nomem(&e);
    fail(c, &e);
    return;
  }
  get->call = c;
  get->asker.told = on_get_standing;
  c->state = get;
  session_ask_standing(s, &get->asker);
}

static void get_cancel(struct call *c, struct err *e)
{
  (void)e;
  session_unask_standing(&((struct get *)c->state)->asker);
}

static int close_route(const struct call *c)
{
  return reactor_of_name(c->home, ((const Envgate__V1__CloseSessionRequest *)(const void *)c->request)->name);
}

static void close_start(struct call *c)
{
  struct session *s = call_session(c, ((const Envgate__V1__CloseSessionRequest *)(const void *)c->request)->name, "name");
  if (!s)
    return;
  session_close(s);
  Envgate__V1__CloseSessionResponse reply;
  envgate__v1__close_session_response__init(&reply);
  rpc_finish(c, &reply.base, NULL);
}

// --- ListSessions: a walk over the reactors, one after another ------------------------------------------------------------------------------

// The walk has memory of its own, since it is on other threads while the call may end.
struct listing {
  struct task task;
  struct call *call; // NULL once the call has ended
  struct reactor *home;
  struct arena arena;
  struct identity who;
  const char *env; // in the arena; NULL: all
  int reactor;     // where the walk is
  uint64_t after;  // behind which session there
  size_t wanted;
  Envgate__V1__ListSessionsResponse reply;
  bool nomem, more;
};

static void list_here(struct listing *l, struct reactor *r)
{
  for (;;) {
    const struct session *s = session_next(r, l->after);
    if (!s)
      return;
    struct session_view v = session_view(s);
    if ((!l->env || strcmp(v.env->name, l->env) == 0) && auth_owns(l->who, v.owner)) {
      if (l->reply.n_sessions == l->wanted) {
        l->more = true;
        return;
      }
      Envgate__V1__Session *m = session_message(s, NULL, &l->arena);
      if (!m) {
        l->nomem = true;
        return;
      }
      l->reply.sessions[l->reply.n_sessions++] = m;
    }
    l->after = v.sequence;
  }
}

static void list_finish(struct reactor *r, struct task *t)
{
  struct listing *l = CONTAINER_OF(t, struct listing, task);
  (void)r;
  if (l->call) {
    struct err e;
    if (l->more) {
      l->reply.next_page_token = arena_printf(&l->arena, "%d.%llu", l->reactor, (unsigned long long)l->after);
      l->nomem = l->nomem || !l->reply.next_page_token;
    }
    if (l->nomem)
      err_nomem(&e);
    rpc_finish(l->call, l->nomem ? NULL : &l->reply.base, l->nomem ? &e : NULL);
  }
  arena_free(&l->arena);
  free(l);
}

static void list_step(struct reactor *r, struct task *t)
{
  struct listing *l = CONTAINER_OF(t, struct listing, task);
  list_here(l, r);
  if (l->more || l->nomem || l->reactor + 1 == r->count) {
    l->task.run = list_finish;
    reactor_post(l->home, &l->task);
    return;
  }
  l->reactor++;
  l->after = 0;
  reactor_post(r->all[l->reactor], &l->task);
}

static bool list_token(const char *token, int reactors, int *reactor, uint64_t *after, struct err *e)
{
  *reactor = 0;
  *after = 0;
  if (!token[0])
    return true;
  char *end;
  long index = strtol(token, &end, 10);
  if (end != token && *end == '.' && index >= 0 && index < reactors) {
    const char *second = end + 1;
    unsigned long long n = strtoull(second, &end, 10);
    if (end != second && !*end && *second != '-') {
      *reactor = (int)index;
      *after = n;
      return true;
    }
  }
  return err_field(e, REASON_INVALID_REQUEST, "page_token", "page_token must be the next_page_token of the page before, unchanged");
}

static bool list_parse(struct listing *l, const Envgate__V1__ListSessionsRequest *q, struct err *e)
{
  if (!list_token(q->page_token, l->home->count, &l->reactor, &l->after, e) || !page_size_check(q->page_size, &l->wanted, e))
    return false;
  if (q->environment[0]) {
    struct str name;
    if (!resource_id(q->environment, "environments", true, "environment", &name, e))
      return false;
    // Environments of inline sources come and go; without sessions they have none to list.
    if (!config_env(l->home->config, name) && !str_starts(name, STR("inline_")))
      return err_set(e, CODE_NOT_FOUND, REASON_ENVIRONMENT_NOT_FOUND, "no environment \"%.*s\" is configured", (int)(name.n < 64 ? name.n : 64),
                     name.p);
    l->env = arena_dup(&l->arena, name);
    if (!l->env)
      return err_nomem(e);
  }
  l->reply.sessions = arena_alloc(&l->arena, l->wanted * sizeof(Envgate__V1__Session *));
  return l->reply.sessions || err_nomem(e);
}

static void list_start(struct call *c)
{
  struct err e;
  struct listing *l = calloc(1, sizeof *l);
  if (!l) {
    err_nomem(&e);
    fail(c, &e);
    return;
  }
  arena_init(&l->arena, 64 << 20);
  l->home = c->owner;
  l->who = c->who;
  envgate__v1__list_sessions_response__init(&l->reply);
  if (!list_parse(l, (const void *)c->request, &e)) {
    arena_free(&l->arena);
    free(l);
    fail(c, &e);
    return;
  }
  l->call = c;
  c->state = l;
  l->task.run = list_step;
  reactor_post(c->owner->all[l->reactor], &l->task);
}

static void list_cancel(struct call *c, struct err *e)
{
  (void)e;
  ((struct listing *)c->state)->call = NULL;
}

static int episode_route(const struct call *c)
{
  return reactor_of_name(c->home, episode_session_name(c));
}

#define PATH(method) "/envgate.v1.SessionService/" method
const struct rpc_handler session_handlers[] = {
    {.path = PATH("CreateSession"), .route = create_route, .start = create_start, .deadline = create_deadline, .cancel = create_cancel},
    {.path = PATH("CreateSessions"), .route = creations_route, .start = creations_start, .deadline = creations_deadline, .cancel = creations_cancel},
    {.path = PATH("GetSession"), .route = get_route, .start = get_start, .cancel = get_cancel},
    {.path = PATH("ListSessions"), .start = list_start, .cancel = list_cancel},
    {.path = PATH("CloseSession"), .route = close_route, .start = close_start},
    {.path = PATH("Reset"), .route = episode_route, .start = reset_start, .cancel = episode_cancel},
    {.path = PATH("Step"), .route = episode_route, .start = step_start, .cancel = episode_cancel},
    {.path = PATH("StepBatch"), .route = batch_route, .start = batch_start, .deadline = batch_deadline, .cancel = batch_cancel},
    {.path = PATH("ResetBatch"), .route = batch_route, .start = batch_start, .deadline = batch_deadline, .cancel = batch_cancel},
    {.path = PATH("Interact"),
     .start = interact_start,
     .message = interact_message,
     .half_close = interact_half_close,
     .drained = interact_drained,
     .cancel = interact_cancel,
     .shutdown = interact_shutdown},
    {.path = PATH("GetState"), .route = episode_route, .start = get_state_start, .cancel = episode_cancel},
    {.path = PATH("ListTools"), .route = mcp_route, .start = list_tools_start, .cancel = mcp_cancel},
    {.path = PATH("CallTool"), .route = mcp_route, .start = call_tool_start, .cancel = mcp_cancel},
    {.path = NULL},
};
