// SPDX-License-Identifier: Apache-2.0
#include "providers/docker_host.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "runtime/log.h"

#define REQUEST_TIMEOUT (30 * NSEC_PER_S)
#define REMOVE_TIMEOUT (120 * NSEC_PER_S) // an Engine under load is slow to remove
// From one try to reach an Engine that is away to the next.
#define FIRST_PAUSE (20 * NSEC_PER_MS)
#define LONGEST_PAUSE (2 * NSEC_PER_S)
#define PROGRESS_INTERVAL (100 * NSEC_PER_MS)
// How far back the first stream of events reaches: it may begin after the first container does.
#define FIRST_SINCE NSEC_PER_S
enum { MAX_REPLY = 32 << 20, REMOVALS = 4, SALT_DIGITS = 8 };

// A container that nobody here has.
struct stray {
  struct list link; // of strays
  struct docker_host *host;
  char id[DOCKER_REF_MAX];
  struct docker_exchange remove;
};

struct pull_job {
  struct list link; // of pulls
  struct docker_host *host;
  char *image;
  struct docker_exchange request;
  struct docker_pull pull;
  struct list waiters;
  nsec told; // when they were last told of its progress
};

struct docker_host {
  struct docker_host *next; // of the reactor's
  int refs;
  struct reactor *reactor;
  struct endpoint engine;
  char *instance, *key;
  char salt[SALT_DIGITS + 1];
  char api[DOCKER_VERSION_MAX]; // "": not known

  struct docker_exchange version, events, list;
  struct docker_lines lines; // of the events
  char since[DOCKER_TIME_MAX];
  bool was_away; // whoever watches has to look
  nsec pause;
  struct timer again;

  struct list waiters, watches, pulls, strays;
  struct docker_finder *finder;
  struct turn_end tidy; // ends what nobody waits for any more
};

// --- requests ------------------------------------------------------------------------------------------------------------------------------

__attribute__((format(printf, 5, 0))) static bool send_to(struct docker_host *h, struct docker_exchange *x, struct http_options o, void *ctx,
                                                          const char *path, va_list args)
{
  free(x->path);
  if (vasprintf(&x->path, path, args) < 0)
    x->path = NULL;
  o.path = x->path;
  o.ctx = ctx;
  o.max_body = MAX_REPLY;
  x->request = x->path ? http_start(h->reactor, &h->engine, &o) : NULL;
  return x->request != NULL;
}

bool docker_host_send(struct docker_host *h, struct docker_exchange *x, struct http_options o, void *ctx, const char *path, ...)
{
  va_list args;
  va_start(args, path);
  bool ok = send_to(h, x, o, ctx, path, args);
  va_end(args);
  return ok;
}

void docker_host_cancel(struct docker_exchange *x)
{
  if (x->request)
    http_cancel(x->request);
  x->request = NULL;
  free(x->path);
  x->path = NULL;
}

void docker_host_failure(const struct docker_host *h, const char *what, const struct http_reply *reply, struct err *e)
{
  if (reply->err) {
    err_set(e, CODE_UNAVAILABLE, REASON_WORKER_START_FAILED,
            "%s: no answer from the Docker Engine at unix://%s (%s). Does it run, may the gateway use its socket, and is the environment's \"host\" "
            "right?",
            what, h->engine.unix_path, reply->err->msg);
    return;
  }
  char message[DOCKER_MESSAGE_MAX];
  docker_message(reply->status, reply->body, message);
  err_set(e, CODE_FAILED_PRECONDITION, REASON_WORKER_START_FAILED, "%s: the Docker Engine says: %s", what, message);
}

// Sends to a path that was built, and frees that.
static bool send_built(struct docker_host *h, struct docker_exchange *x, struct http_options o, void *ctx, bool built, struct buf *path)
{
  bool ok = built && docker_host_send(h, x, o, ctx, "%s", path->p);
  buf_free(path);
  return ok;
}

// --- those who are told --------------------------------------------------------------------------------------------------------------------

// Moves all to another list, which is then worked off from its front: whoever is told may come, go, and end others.
static void take_all(struct list *from, struct list *to)
{
  list_init(to);
  struct list *node;
  while ((node = list_pop(from)))
    list_append(to, node);
}

static void tell_waiters(struct docker_host *h, const struct err *e)
{
  struct list told, *node;
  take_all(&h->waiters, &told);
  while ((node = list_pop(&told))) {
    struct docker_waiter *w = CONTAINER_OF(node, struct docker_waiter, link);
    w->done(w, e);
  }
}

static void tell_to_look(struct docker_host *h)
{
  struct list told, *node;
  take_all(&h->watches, &told);
  while ((node = list_pop(&told))) {
    struct docker_watch *w = CONTAINER_OF(node, struct docker_watch, link);
    list_append(&h->watches, node);
    w->look(w);
  }
}

static struct docker_watch *find_watch(struct docker_host *h, const char *id, const char *name)
{
  LIST_EACH (node, &h->watches) {
    struct docker_watch *w = CONTAINER_OF(node, struct docker_watch, link);
    if (!strcmp(w->id, id) || (name && name[0] && !strcmp(w->name, name)))
      return w;
  }
  return NULL;
}

void docker_host_watch(struct docker_host *h, struct docker_watch *w)
{
  list_append(&h->watches, &w->link);
}

void docker_host_leave(struct docker_host *h, struct list *link)
{
  list_remove(link);
  turn_end_add(h->reactor, &h->tidy);
}

// --- containers that nobody has ------------------------------------------------------------------------------------------------------------

static void connect_later(struct docker_host *h);
static void remove_strays(struct docker_host *h);

static void stray_free(struct stray *s)
{
  docker_host_cancel(&s->remove);
  list_remove(&s->link);
  free(s);
}

static void on_stray_removed(void *ctx, const struct http_reply *reply)
{
  struct stray *s = ctx;
  struct docker_host *h = s->host;
  s->remove.request = NULL;
  bool ok = reply->status == 204 || reply->status == 404 || reply->status == 409;
  log_event(h->reactor->log, ok ? LOG_INFO : LOG_ERROR, ok ? "docker.orphan_removed" : "docker.not_removed", LF_C("container", s->id));
  stray_free(s); // one that is still there is seen by the next list
  remove_strays(h);
}

static void remove_strays(struct docker_host *h)
{
  const struct http_options o = {.method = "DELETE", .timeout = REMOVE_TIMEOUT, .done = on_stray_removed};
  int n = 0;
  LIST_EACH (node, &h->strays) {
    struct stray *s = CONTAINER_OF(node, struct stray, link);
    if (n++ == REMOVALS)
      return;
    if (!s->remove.request && !docker_host_send(h, &s->remove, o, s, "%s/containers/%s?force=1&v=1", h->api, s->id))
      stray_free(s);
  }
}

static bool is_stray(const struct docker_host *h, const char *id)
{
  LIST_EACH (node, &h->strays) {
    if (!strcmp(CONTAINER_OF(node, struct stray, link)->id, id))
      return true;
  }
  return false;
}

static void on_listed_container(void *ctx, const struct docker_listed *c)
{
  struct docker_host *h = ctx;
  if (find_watch(h, c->id, c->name) || is_stray(h, c->id) || (h->finder && c->running && h->finder->found(h->finder, h, c)))
    return;
  struct stray *s = calloc(1, sizeof *s);
  if (!s)
    return;
  s->host = h;
  snprintf(s->id, sizeof s->id, "%s", c->id);
  list_append(&h->strays, &s->link);
}

static void on_list(void *ctx, const struct http_reply *reply)
{
  struct docker_host *h = ctx;
  h->list.request = NULL;
  if (reply->status != 200 || !docker_list_parse(reply->body, on_listed_container, h)) {
    connect_later(h);
    return;
  }
  struct docker_finder *finder = h->finder;
  h->finder = NULL;
  remove_strays(h);
  if (finder)
    finder->listed(finder);
}

void docker_host_find(struct docker_host *h, struct docker_finder *f)
{
  h->finder = f;
}

// --- reaching the Engine -------------------------------------------------------------------------------------------------------------------

static void connect_later(struct docker_host *h)
{
  docker_host_cancel(&h->events);
  docker_host_cancel(&h->list);
  if (h->version.request)
    return;
  timer_set(h->reactor, &h->again, nsec_add(clock_mono(), h->pause)); // out of memory: whoever comes next tries
  h->pause = h->pause * 2 < LONGEST_PAUSE ? h->pause * 2 : LONGEST_PAUSE;
}

static void handle_event(struct docker_host *h, const struct docker_event *e)
{
  struct docker_watch *w = find_watch(h, e->id, NULL);
  if (e->time[0])
    memcpy(h->since, e->time, sizeof h->since);
  if (!w)
    return;
  if (e->kind == DOCKER_OOM)
    w->out_of_memory = true;
  else if (e->kind == DOCKER_DIE)
    w->died(w, e->exit_code);
  else if (e->kind == DOCKER_DESTROY)
    w->removed(w);
}

static bool on_events(void *ctx, struct str piece)
{
  struct docker_host *h = ctx;
  struct str line;
  while (docker_lines_next(&h->lines, &piece, &line)) {
    struct docker_event e;
    if (docker_event_parse(line, &e))
      handle_event(h, &e);
  }
  return !piece.n;
}

static void on_events_end(void *ctx, const struct http_reply *reply)
{
  struct docker_host *h = ctx;
  (void)reply;
  h->events.request = NULL;
  h->was_away = true;
  log_event(h->reactor->log, LOG_WARN, "docker.events_lost", LF_C("engine", h->engine.unix_path));
  connect_later(h);
}

// Out of memory: all begins anew after a while.
static void listen_and_list(struct docker_host *h)
{
  struct http_options events = {.method = "GET", .own_connection = true, .data = on_events, .done = on_events_end};
  struct http_options list = {.method = "GET", .timeout = REQUEST_TIMEOUT, .done = on_list};
  struct buf path = {0};
  docker_lines_free(&h->lines);
  if (!send_built(h, &h->events, events, h, docker_events_path(h->api, h->instance, h->since, &path), &path) ||
      !send_built(h, &h->list, list, h, docker_list_path(h->api, h->instance, &path), &path))
    connect_later(h);
}

static void on_version(void *ctx, const struct http_reply *reply)
{
  struct docker_host *h = ctx;
  h->version.request = NULL;
  if (reply->status != 200 || !docker_api_version(reply->body, h->api)) {
    struct err e;
    docker_host_failure(h, "the worker's container can't be created", reply, &e);
    if (reply->status == 200)
      err_set(&e, CODE_FAILED_PRECONDITION, REASON_WORKER_START_FAILED, "what answers at unix://%s is no Docker Engine with an API of version 1",
              h->engine.unix_path);
    if (h->was_away || h->finder || !list_empty(&h->watches))
      connect_later(h);
    tell_waiters(h, &e);
    return;
  }
  bool back = h->was_away;
  h->was_away = false;
  h->pause = FIRST_PAUSE;
  listen_and_list(h);
  if (back)
    tell_to_look(h);
  tell_waiters(h, NULL);
}

static void reach(struct docker_host *h)
{
  const struct http_options o = {.method = "GET", .timeout = REQUEST_TIMEOUT, .done = on_version};
  timer_unset(h->reactor, &h->again);
  if (h->events.request)
    tell_waiters(h, NULL);
  if (h->version.request || h->events.request || docker_host_send(h, &h->version, o, h, "/version"))
    return;
  struct err e;
  err_nomem(&e);
  tell_waiters(h, &e);
  connect_later(h);
}

static void on_again(struct timer *t)
{
  reach(CONTAINER_OF(t, struct docker_host, again));
}

void docker_host_wait(struct docker_host *h, struct docker_waiter *w)
{
  list_append(&h->waiters, &w->link);
  if (!h->version.request)
    timer_set(h->reactor, &h->again, h->reactor->now); // at once, but not inside
}

// --- pulls ---------------------------------------------------------------------------------------------------------------------------------

static void job_free(struct pull_job *j)
{
  docker_host_cancel(&j->request);
  docker_pull_end(&j->pull);
  list_remove(&j->link);
  free(j->image);
  free(j);
}

static bool on_pull_output(void *ctx, struct str piece)
{
  struct pull_job *j = ctx;
  bool ok = docker_pull_feed(&j->pull, piece);
  nsec now = clock_mono();
  if (now < j->told + PROGRESS_INTERVAL)
    return ok;
  j->told = now;
  struct list told, *node;
  take_all(&j->waiters, &told);
  while ((node = list_pop(&told))) {
    struct docker_pull_waiter *w = CONTAINER_OF(node, struct docker_pull_waiter, link);
    list_append(&j->waiters, node);
    w->progress(w, &j->pull);
  }
  return ok;
}

static void on_pulled(void *ctx, const struct http_reply *reply)
{
  struct pull_job *j = ctx;
  j->request.request = NULL;
  docker_pull_end(&j->pull);
  const char *error = j->pull.error[0] ? j->pull.error : reply->err ? reply->err->msg : reply->status != 200 ? "no reason given" : NULL;
  log_event(j->host->reactor->log, error ? LOG_WARN : LOG_INFO, error ? "docker.pull_failed" : "docker.pulled", LF_C("image", j->image),
            LF_INT("layers", j->pull.n_layers), LF_INT("bytes", j->pull.bytes), LF_C("cause", error));
  list_remove(&j->link); // who asks again from now on starts another
  struct list *node;
  while ((node = list_pop(&j->waiters))) {
    struct docker_pull_waiter *w = CONTAINER_OF(node, struct docker_pull_waiter, link);
    w->done(w, &j->pull, error);
  }
  job_free(j);
}

static struct pull_job *find_job(struct docker_host *h, const char *image)
{
  LIST_EACH (node, &h->pulls) {
    struct pull_job *j = CONTAINER_OF(node, struct pull_job, link);
    if (!strcmp(j->image, image))
      return j;
  }
  return NULL;
}

static struct pull_job *job_new(struct docker_host *h, const char *image)
{
  struct pull_job *j = calloc(1, sizeof *j);
  if (!j)
    return NULL;
  j->host = h;
  j->image = strdup(image);
  list_init(&j->waiters);
  list_append(&h->pulls, &j->link);
  // No time limit of its own: it ends when nobody waits for it any more.
  const struct http_options o = {.method = "POST", .own_connection = true, .data = on_pull_output, .done = on_pulled};
  struct buf path = {0};
  if (j->image && send_built(h, &j->request, o, j, docker_pull_path(h->api, image, &path), &path))
    return j;
  buf_free(&path);
  job_free(j);
  return NULL;
}

bool docker_host_pull(struct docker_host *h, const char *image, struct docker_pull_waiter *w)
{
  struct pull_job *j = find_job(h, image);
  if (!j)
    j = job_new(h, image);
  if (j)
    list_append(&j->waiters, &w->link);
  return j != NULL;
}

// --- its life ------------------------------------------------------------------------------------------------------------------------------

static void tidy(struct turn_end *t)
{
  struct docker_host *h = CONTAINER_OF(t, struct docker_host, tidy);
  LIST_EACH (node, &h->pulls) {
    struct pull_job *j = CONTAINER_OF(node, struct pull_job, link);
    if (list_empty(&j->waiters))
      job_free(j);
  }
}

const char *docker_host_socket(const struct docker_host *h)
{
  return h->engine.unix_path;
}

const char *docker_host_key(const struct docker_host *h)
{
  return h->key;
}

const char *docker_host_salt(const struct docker_host *h)
{
  return h->salt;
}

const char *docker_host_api(const struct docker_host *h)
{
  return h->api;
}

static void host_free(struct docker_host *h)
{
  docker_host_cancel(&h->version);
  docker_host_cancel(&h->events);
  docker_host_cancel(&h->list);
  docker_lines_free(&h->lines);
  timer_unset(h->reactor, &h->again);
  list_remove(&h->tidy.link);
  LIST_EACH (node, &h->strays) {
    struct stray *s = CONTAINER_OF(node, struct stray, link);
    stray_free(s);
  }
  LIST_EACH (node, &h->pulls) {
    struct pull_job *j = CONTAINER_OF(node, struct pull_job, link);
    job_free(j);
  }
  endpoint_free(&h->engine);
  free(h->instance);
  free(h->key);
  free(h);
}

static struct docker_host *host_new(struct reactor *r, const char *socket, const char *instance, const char *key)
{
  struct docker_host *h = calloc(1, sizeof *h);
  uint32_t salt = 0;
  if (!h)
    return NULL;
  h->reactor = r;
  h->engine = (struct endpoint){.url = strdup("http://docker"), .unix_path = strdup(socket)};
  h->instance = strdup(instance);
  h->key = strdup(key);
  h->pause = FIRST_PAUSE;
  h->again.fire = on_again;
  h->tidy.run = tidy;
  list_init(&h->tidy.link);
  list_init(&h->waiters);
  list_init(&h->watches);
  list_init(&h->pulls);
  list_init(&h->strays);
  docker_time((int64_t)(clock_wall() - FIRST_SINCE), h->since);
  if (h->engine.url && h->engine.unix_path && h->instance && h->key && getrandom(&salt, sizeof salt, 0) == sizeof salt) {
    snprintf(h->salt, sizeof h->salt, "%08x", salt);
    return h;
  }
  host_free(h);
  return NULL;
}

struct docker_host *docker_host_get(struct reactor *r, const char *socket, const char *instance, const char *key)
{
  struct docker_host *h = r->docker_hosts;
  while (h && (strcmp(h->engine.unix_path, socket) != 0 || strcmp(h->instance, instance) != 0))
    h = h->next;
  if (!h) {
    h = host_new(r, socket, instance, key);
    if (!h)
      return NULL;
    h->next = r->docker_hosts;
    r->docker_hosts = h;
  }
  h->refs++;
  return h;
}

void docker_host_put(struct docker_host *h)
{
  if (--h->refs)
    return;
  struct docker_host **at = &h->reactor->docker_hosts;
  while (*at != h)
    at = &(*at)->next;
  *at = h->next;
  host_free(h);
}
