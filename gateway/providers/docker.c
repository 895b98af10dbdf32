// SPDX-License-Identifier: Apache-2.0
// "docker": a container for each worker, by the Engine's API on its unix socket.
//
// A launch goes through the steps below, one request at a time. What creates, starts or removes a container is never cancelled: only its answer tells
// what there is. A stop that comes meanwhile waits for that answer. Beside the steps two streams last as long as the container runs: its
// output, and the wait for its end.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "providers/docker_engine.h"
#include "providers/providers.h"

#define REQUEST_TIMEOUT (30 * NSEC_PER_S)
#define CREATE_TIMEOUT (120 * NSEC_PER_S) // an Engine under load is slow to create, start and remove
#define LAST_OUTPUT_TIMEOUT NSEC_PER_S
#define RETRY_INTERVAL (500 * NSEC_PER_MS)
enum { REMOVE_TRIES = 20, MAX_REPLY = 4 << 20 };

enum step {
  STEP_VERSION, // which API the Engine has
  STEP_CREATE,  // not cancelled
  STEP_PULL,    // the image was missing; then STEP_CREATE again
  STEP_START,   // not cancelled
  STEP_ADDRESS, // inspects the container for its address
  STEP_RUN,     // no request but the streams
  STEP_OUTPUT,  // it ended; its last output may be on the way
  STEP_EXIT,    // inspects the container for how it ended
  STEP_STOP,    // SIGTERM, and SIGKILL after the grace
  STEP_REMOVE,  // not cancelled
  STEP_GONE,    // nothing is left; `ended` was called
};

// A request that may be under way.
struct exchange {
  struct http_request *request; // NULL: none
  char *path;                   // the request borrows it
};

struct docker_launch {
  struct launch launch;
  struct launch_spec spec; // worker_id is not kept
  struct launch_events events;
  void *ctx;
  char *worker_id;
  struct endpoint engine;

  enum step step;
  char api[DOCKER_VERSION_MAX];
  char ref[DOCKER_REF_MAX]; // the container's id (its name, where that is not known); "": there is none
  struct exchange request;  // this step's
  struct exchange logs, wait;
  struct timer timer; // STEP_RUN: watch again; STEP_OUTPUT: enough waited; STEP_REMOVE: try again
  int remove_tries;
  bool pulled;
  struct docker_pull pull;
  struct docker_stream stream;
  struct log_tail log;
  struct docker_container container;
  struct err error; // why it ended

  struct task free_later;
  void (*stopped)(void *ctx); // set: stop was called
  void *stopped_ctx;
};

static const char cannot_create[] = "the worker's container can't be created";

typedef void on_reply(void *ctx, const struct http_reply *reply);

static void create(struct docker_launch *l);

// --- requests ------------------------------------------------------------------------------------------------------------------------------

// The instance is part of it: a gateway that was killed may have left the same worker of the same environment.
static void container_name(const struct docker_launch *l, char name[DOCKER_REF_MAX])
{
  snprintf(name, DOCKER_REF_MAX, "envgate-%s-%s-%s", l->spec.env->name, l->worker_id, l->spec.instance);
}

static void cancel(struct exchange *x)
{
  if (x->request)
    http_cancel(x->request);
  x->request = NULL;
  free(x->path);
  x->path = NULL;
}

// Starts `o` on an exchange that has none under way. False when out of memory.
__attribute__((format(printf, 4, 5))) static bool send_request(struct docker_launch *l, struct exchange *x, struct http_options o, const char *path,
                                                               ...)
{
  va_list args;
  va_start(args, path);
  free(x->path);
  if (vasprintf(&x->path, path, args) < 0)
    x->path = NULL;
  va_end(args);
  o.path = x->path;
  o.ctx = l;
  o.max_body = MAX_REPLY;
  x->request = x->path ? http_start(l->spec.reactor, &l->engine, &o) : NULL;
  return x->request != NULL;
}

static bool begin(struct docker_launch *l, enum step step, const char *method, nsec timeout, on_reply *done, const char *suffix)
{
  l->step = step;
  return send_request(l, &l->request, (struct http_options){.method = method, .timeout = timeout, .done = done}, "%s/containers/%s%s", l->api, l->ref,
                      suffix);
}

// --- the end -------------------------------------------------------------------------------------------------------------------------------

static void cancel_all(struct docker_launch *l)
{
  cancel(&l->request);
  cancel(&l->logs);
  cancel(&l->wait);
  timer_unset(l->spec.reactor, &l->timer);
}

static void launch_free(struct docker_launch *l)
{
  cancel_all(l);
  docker_pull_end(&l->pull);
  endpoint_free(&l->engine);
  free(l->worker_id);
  free(l);
}

static void free_and_tell(struct reactor *r, struct task *t)
{
  (void)r;
  struct docker_launch *l = CONTAINER_OF(t, struct docker_launch, free_later);
  void (*stopped)(void *) = l->stopped;
  void *ctx = l->stopped_ctx;
  launch_free(l);
  stopped(ctx);
}

// Nothing is left of the container.
static void gone(struct docker_launch *l)
{
  cancel_all(l);
  l->step = STEP_GONE;
  if (!l->stopped) {
    l->events.ended(l->ctx, &l->error);
    return;
  }
  l->free_later.run = free_and_tell; // later, as this may be inside stop
  reactor_post(l->spec.reactor, &l->free_later);
}

static void retry_remove(struct docker_launch *l)
{
  bool set = ++l->remove_tries < REMOVE_TRIES && timer_set(l->spec.reactor, &l->timer, nsec_add(clock_mono(), RETRY_INTERVAL));
  if (set)
    return;
  log_event(l->spec.reactor->log, LOG_ERROR, "docker.not_removed", LF_C("environment", l->spec.env->name), LF_C("worker", l->worker_id),
            LF_C("container", l->ref));
  gone(l);
}

static void on_removed(void *ctx, const struct http_reply *reply)
{
  struct docker_launch *l = ctx;
  l->request.request = NULL;
  // 404: somebody else removed it. 409: somebody is about to.
  if (reply->status == 204 || reply->status == 404)
    gone(l);
  else
    retry_remove(l);
}

static void remove_container(struct docker_launch *l)
{
  cancel_all(l);
  if (!begin(l, STEP_REMOVE, "DELETE", CREATE_TIMEOUT, on_removed, "?force=1&v=1"))
    retry_remove(l);
}

// Ends the launch because of l->error.
static void give_up(struct docker_launch *l)
{
  if (l->ref[0])
    remove_container(l);
  else
    gone(l);
}

static void fail_nomem(struct docker_launch *l)
{
  err_nomem(&l->error);
  give_up(l);
}

// The Engine did not do what it was asked to: no answer, or an error.
static void fail(struct docker_launch *l, const char *what, const struct http_reply *reply)
{
  if (reply->err) {
    err_set(&l->error, CODE_UNAVAILABLE, REASON_WORKER_START_FAILED,
            "%s: no answer from the Docker Engine at %s (%s). Does it run, may the gateway use its socket, and is the environment's \"host\" right?",
            what, l->spec.env->docker_host, reply->err->msg);
  } else {
    char message[DOCKER_MESSAGE_MAX];
    docker_message(reply->status, reply->body, message);
    err_set(&l->error, CODE_FAILED_PRECONDITION, REASON_WORKER_START_FAILED, "%s: the Docker Engine says: %s", what, message);
  }
  give_up(l);
}

static void on_stopped(void *ctx, const struct http_reply *reply)
{
  struct docker_launch *l = ctx;
  (void)reply; // whatever it says: the removal kills what still runs
  l->request.request = NULL;
  remove_container(l);
}

static void stop_container(struct docker_launch *l)
{
  double grace = (double)reactor_grace(l->spec.reactor, nsec_from_s(l->spec.env->stop_grace_s)) / 1e9;
  long long seconds = (long long)grace;
  seconds += (double)seconds < grace;
  char suffix[40];
  snprintf(suffix, sizeof suffix, "/stop?t=%lld", seconds);
  cancel_all(l);
  if (!begin(l, STEP_STOP, "POST", nsec_add((nsec)seconds * NSEC_PER_S, REQUEST_TIMEOUT), on_stopped, suffix))
    remove_container(l);
}

// --- the exit ------------------------------------------------------------------------------------------------------------------------------

static void explain(struct docker_launch *l)
{
  docker_explain_exit(&l->container, l->spec.env, &l->error);
  log_tail_explain(&l->log, &l->error);
  remove_container(l);
}

static void on_exit_inspected(void *ctx, const struct http_reply *reply)
{
  struct docker_launch *l = ctx;
  l->request.request = NULL;
  struct docker_container c;
  if (reply->status == 200 && docker_container_parse(reply->body, l->spec.env, &c))
    l->container = c;
  explain(l);
}

static void inspect_exit(struct docker_launch *l)
{
  timer_unset(l->spec.reactor, &l->timer);
  cancel(&l->logs);
  if (!begin(l, STEP_EXIT, "GET", REQUEST_TIMEOUT, on_exit_inspected, "/json"))
    explain(l);
}

static void on_logs_done(void *ctx, const struct http_reply *reply)
{
  struct docker_launch *l = ctx;
  (void)reply;
  l->logs.request = NULL;
  if (l->step == STEP_OUTPUT)
    inspect_exit(l);
}

static void container_ended(struct docker_launch *l, int64_t code)
{
  l->container = (struct docker_container){.exit_code = code};
  cancel(&l->request); // STEP_ADDRESS
  l->step = STEP_OUTPUT;
  if (!l->logs.request || !timer_set(l->spec.reactor, &l->timer, nsec_add(clock_mono(), LAST_OUTPUT_TIMEOUT)))
    inspect_exit(l);
}

static void container_vanished(struct docker_launch *l)
{
  err_set(&l->error, CODE_FAILED_PRECONDITION, REASON_WORKER_START_FAILED, "the worker's container was removed by somebody else");
  log_tail_explain(&l->log, &l->error);
  remove_container(l);
}

// --- what lasts as long as the container runs ----------------------------------------------------------------------------------------------

static bool on_output(void *ctx, struct str piece)
{
  struct docker_launch *l = ctx;
  return docker_stream_feed(&l->stream, piece, &l->log);
}

static void on_wait_done(void *ctx, const struct http_reply *reply)
{
  struct docker_launch *l = ctx;
  l->wait.request = NULL;
  int64_t code;
  if (reply->status == 200 && docker_wait_code(reply->body, &code))
    container_ended(l, code);
  else if (reply->status == 404)
    container_vanished(l);
  else if (!timer_set(l->spec.reactor, &l->timer, nsec_add(clock_mono(), RETRY_INTERVAL)))
    fail_nomem(l);
  // else the Engine restarts, perhaps, and the container may live on: look again.
}

static void watch(struct docker_launch *l, bool again)
{
  struct http_options logs = {.method = "GET", .own_connection = true, .data = on_output, .done = on_logs_done};
  struct http_options wait = {.method = "POST", .own_connection = true, .done = on_wait_done};
  if (!l->logs.request) {
    l->stream = (struct docker_stream){0};
    // Without its output the worker does as well.
    send_request(l, &l->logs, logs, "%s/containers/%s/logs?follow=1&stdout=1&stderr=1&tail=%s", l->api, l->ref, again ? "0" : "all");
  }
  if (!send_request(l, &l->wait, wait, "%s/containers/%s/wait", l->api, l->ref))
    fail_nomem(l);
}

static void on_timer(struct timer *t)
{
  struct docker_launch *l = CONTAINER_OF(t, struct docker_launch, timer);
  if (l->step == STEP_REMOVE)
    remove_container(l);
  else if (l->step == STEP_OUTPUT)
    inspect_exit(l);
  else
    watch(l, true);
}

// --- the launch ----------------------------------------------------------------------------------------------------------------------------

static void on_address(void *ctx, const struct http_reply *reply)
{
  struct docker_launch *l = ctx;
  l->request.request = NULL;
  l->step = STEP_RUN;
  struct docker_container c;
  if (reply->status != 200 || !docker_container_parse(reply->body, l->spec.env, &c)) {
    fail(l, "the worker's container can't be inspected", reply);
  } else if (c.running && !c.address[0]) {
    err_set(&l->error, CODE_FAILED_PRECONDITION, REASON_WORKER_START_FAILED, "the worker's container has no address in network \"%s\" to reach it at",
            l->spec.env->network ? l->spec.env->network : "default");
    give_up(l);
  } else if (c.running) {
    char url[DOCKER_ADDRESS_MAX + 24];
    snprintf(url, sizeof url, "http://%s:%u", c.address, (unsigned)c.port);
    l->events.started(l->ctx, &(struct endpoint){.url = url});
  }
  // else it has ended already, and the wait says so any moment.
}

static void on_started(void *ctx, const struct http_reply *reply)
{
  struct docker_launch *l = ctx;
  l->request.request = NULL;
  bool ok = reply->status == 204 || reply->status == 304;
  if (ok && l->stopped) {
    stop_container(l);
  } else if (!ok) {
    fail(l, "the worker's container can't be started", reply);
  } else if (begin(l, STEP_ADDRESS, "GET", REQUEST_TIMEOUT, on_address, "/json")) {
    watch(l, false);
  } else {
    fail_nomem(l);
  }
}

static bool on_pull_output(void *ctx, struct str piece)
{
  struct docker_launch *l = ctx;
  return docker_pull_feed(&l->pull, piece);
}

static void on_pulled(void *ctx, const struct http_reply *reply)
{
  struct docker_launch *l = ctx;
  const struct env_config *env = l->spec.env;
  l->request.request = NULL;
  docker_pull_end(&l->pull);
  if (reply->status == 200 && !l->pull.error[0]) {
    create(l);
    return;
  }
  err_set(&l->error, CODE_FAILED_PRECONDITION, REASON_WORKER_START_FAILED,
          "the image \"%s\" is not on the Docker Engine at %s and can't be pulled: %s. Is the name right? Try: docker pull %s", env->image,
          env->docker_host,
          l->pull.error[0] ? l->pull.error
          : reply->err     ? reply->err->msg
                           : "no reason given",
          env->image);
  give_up(l);
}

static void pull(struct docker_launch *l)
{
  l->step = STEP_PULL;
  l->pulled = true;
  docker_pull_init(&l->pull);
  // No time limit of its own: it ends when whoever asked for the worker gives up.
  struct http_options o = {.method = "POST", .own_connection = true, .data = on_pull_output, .done = on_pulled};
  struct buf path = {0};
  bool ok = docker_pull_path(l->api, l->spec.env->image, &path) && send_request(l, &l->request, o, "%s", path.p);
  buf_free(&path);
  if (!ok)
    fail_nomem(l);
}

static bool image_missing(const struct http_reply *reply)
{
  char message[DOCKER_MESSAGE_MAX];
  docker_message(reply->status, reply->body, message);
  return reply->status == 404 && strcasestr(message, "no such image");
}

static void on_created(void *ctx, const struct http_reply *reply)
{
  struct docker_launch *l = ctx;
  l->request.request = NULL;
  // An answer that got lost leaves open whether there is a container; then its name is what to remove it by.
  if ((reply->err && reply->sent) || (reply->status == 201 && !docker_created_id(reply->body, l->ref)))
    container_name(l, l->ref);
  if (l->stopped)
    give_up(l);
  else if (reply->status == 201 && begin(l, STEP_START, "POST", CREATE_TIMEOUT, on_started, "/start"))
    return;
  else if (reply->status == 201)
    fail_nomem(l);
  else if (image_missing(reply) && !l->pulled)
    pull(l);
  else
    fail(l, cannot_create, reply);
}

static void create(struct docker_launch *l)
{
  l->step = STEP_CREATE;
  char name[DOCKER_REF_MAX];
  container_name(l, name);
  char *body = docker_create_body(l->spec.env, l->spec.env_vars, l->worker_id, l->spec.instance);
  struct http_options o = {.method = "POST", .body = str_c(body), .content_type = "application/json", .timeout = CREATE_TIMEOUT, .done = on_created};
  bool ok = body && send_request(l, &l->request, o, "%s/containers/create?name=%s", l->api, name);
  free(body);
  if (!ok)
    fail_nomem(l);
}

static void on_version(void *ctx, const struct http_reply *reply)
{
  struct docker_launch *l = ctx;
  l->request.request = NULL;
  if (reply->status != 200) {
    fail(l, cannot_create, reply);
  } else if (docker_api_version(reply->body, l->api)) {
    create(l);
  } else {
    err_set(&l->error, CODE_FAILED_PRECONDITION, REASON_WORKER_START_FAILED, "%s: what answers at %s is no Docker Engine with an API of version 1",
            cannot_create, l->spec.env->docker_host);
    give_up(l);
  }
}

// --- the provider's three ------------------------------------------------------------------------------------------------------------------

static bool prepare(struct docker_launch *l, const char *worker_id, const char *socket, struct err *e)
{
  l->worker_id = strdup(worker_id);
  l->engine = (struct endpoint){.url = strdup("http://docker"), .unix_path = strdup(socket)};
  const struct http_options o = {.method = "GET", .timeout = REQUEST_TIMEOUT, .done = on_version};
  return (l->worker_id && l->engine.url && l->engine.unix_path && send_request(l, &l->request, o, "/version")) || err_nomem(e);
}

static struct launch *docker_start(const struct launch_spec *spec, const struct launch_events *events, void *ctx, struct err *e)
{
  const char *socket = docker_socket_path(spec->env->docker_host);
  if (!socket) {
    err_set(e, CODE_FAILED_PRECONDITION, REASON_WORKER_START_FAILED, "the environment's \"host\" must be unix:///PATH, the Docker Engine's socket");
    return NULL;
  }
  struct docker_launch *l = calloc(1, sizeof *l);
  if (!l) {
    err_nomem(e);
    return NULL;
  }
  l->launch.provider = &provider_docker;
  l->spec = *spec;
  l->spec.worker_id = NULL;
  l->events = *events;
  l->ctx = ctx;
  l->timer.fire = on_timer;
  if (prepare(l, spec->worker_id, socket, e))
    return &l->launch;
  launch_free(l);
  return NULL;
}

static void docker_log_tail(struct launch *launch, char *text, size_t max)
{
  log_tail_text(&CONTAINER_OF(launch, struct docker_launch, launch)->log, text, max);
}

static void docker_stop(struct launch *launch, void (*stopped)(void *ctx), void *ctx)
{
  struct docker_launch *l = CONTAINER_OF(launch, struct docker_launch, launch);
  l->stopped = stopped;
  l->stopped_ctx = ctx;
  switch (l->step) {
  case STEP_VERSION:
  case STEP_PULL:
  case STEP_GONE:
    gone(l);
    break;
  case STEP_ADDRESS:
  case STEP_RUN:
    stop_container(l);
    break;
  case STEP_OUTPUT:
  case STEP_EXIT:
    remove_container(l);
    break;
  case STEP_CREATE:
  case STEP_START:
  case STEP_STOP:
  case STEP_REMOVE:
    break; // what follows its answer sees l->stopped
  }
}

const struct provider provider_docker = {
    .name = "docker",
    .start = docker_start,
    .log_tail = docker_log_tail,
    .stop = docker_stop,
};
