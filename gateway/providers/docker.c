// SPDX-License-Identifier: Apache-2.0
// "docker": a container for each worker, by the Engine's API on its unix socket.
//
// A launch goes through the steps below, one request at a time. What creates, starts or removes a container is never cancelled: only its answer tells
// what there is. A stop that comes meanwhile waits for that answer. Beside the steps its output is streamed for as long as the container runs, and
// docker_host.h tells of its end.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "providers/docker_adopt.h"
#include "providers/docker_host.h"
#include "providers/docker_ports.h"
#include "providers/docker_process.h"
#include "providers/log_tail.h"
#include "providers/providers.h"

#define REQUEST_TIMEOUT (30 * NSEC_PER_S)
#define CREATE_TIMEOUT (120 * NSEC_PER_S) // an Engine under load is slow to create, start and remove
// A death is to be known within 100 ms. The Engine tells how it was some 50 ms after it, and the stream of the output ends some 10 ms later; on a busy machine
// all of that takes longer, and then what was learnt in this time has to do.
#define LAST_OUTPUT_TIMEOUT (80 * NSEC_PER_MS)
// But how it ended is worth a longer wait, if the kernel has not told.
#define EXIT_CODE_TIMEOUT NSEC_PER_S
#define RETRY_INTERVAL (500 * NSEC_PER_MS)
enum { REMOVE_TRIES = 20 };

enum step {
  STEP_CONNECT, // which API the Engine has
  STEP_IMAGE,   // which port it exposes, where that has to be known before
  STEP_PULL,    // the image was missing; then STEP_IMAGE or STEP_CREATE again
  STEP_CREATE,  // not cancelled
  STEP_START,   // not cancelled
  STEP_ADDRESS, // inspects the container for its address
  STEP_PORT,    // looks for the port that it answers at
  STEP_RUN,     // no request but the stream
  STEP_OUTPUT,  // it ended; its exit code and its last output may be on the way
  STEP_STOP,    // SIGTERM, and SIGKILL after the grace
  STEP_REMOVE,  // not cancelled
  STEP_GONE,    // nothing is left
};

struct docker_launch {
  struct launch launch;
  struct launch_spec spec; // worker_id and adopt are not kept
  struct launch_events events;
  void *ctx;
  char *worker_id;
  struct docker_host *host;

  enum step step;
  struct docker_waiter connect;
  struct docker_pull_waiter pull;
  struct docker_watch watch; // has the container's id; its name, where that is not known; "": there is none
  struct docker_process process;
  struct docker_exchange request; // this step's
  struct docker_exchange logs, look;
  struct docker_search search;
  struct timer timer; // STEP_OUTPUT: enough waited; STEP_REMOVE: try again
  bool exit_known;    // STEP_OUTPUT: `container` says how it ended
  int remove_tries;
  bool pulled;
  bool died; // while it was being started
  uint16_t ports[DOCKER_PORTS_MAX];
  int n_ports;
  struct launch_progress progress;
  struct docker_stream stream;
  struct log_tail log;
  struct docker_container container;
  struct err error; // why it ended
  bool told;        // `ended` was called

  struct task free_later;
  void (*stopped)(void *ctx); // set: stop was called
  void *stopped_ctx;
};

typedef void on_reply(void *ctx, const struct http_reply *reply);

static void prepare_create(struct docker_launch *l);

// --- requests ------------------------------------------------------------------------------------------------------------------------------

static bool begin(struct docker_launch *l, enum step step, const char *method, nsec timeout, on_reply *done, const char *suffix)
{
  l->step = step;
  return docker_host_send(l->host, &l->request, (struct http_options){.method = method, .timeout = timeout, .done = done}, l, "%s/containers/%s%s",
                          docker_host_api(l->host), l->watch.id, suffix);
}

static void tell_progress(struct docker_launch *l, enum launch_phase phase)
{
  l->progress.phase = phase;
  if (l->events.progress && !l->stopped)
    l->events.progress(l->ctx, &l->progress);
}

// --- the end -------------------------------------------------------------------------------------------------------------------------------

static void cancel_all(struct docker_launch *l)
{
  docker_host_cancel(&l->request);
  docker_host_cancel(&l->logs);
  docker_host_cancel(&l->look);
  docker_search_end(&l->search);
  docker_process_leave(&l->process);
  timer_unset(l->spec.reactor, &l->timer);
  docker_host_leave(l->host, &l->connect.link);
  docker_host_leave(l->host, &l->pull.link);
}

static void launch_free(struct docker_launch *l)
{
  if (l->host) {
    cancel_all(l);
    docker_host_leave(l->host, &l->watch.link);
    docker_host_put(l->host);
  }
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
  docker_host_leave(l->host, &l->watch.link);
  l->step = STEP_GONE;
  if (!l->stopped)
    return;
  l->free_later.run = free_and_tell; // later, as this may be inside stop
  reactor_post(l->spec.reactor, &l->free_later);
}

static void retry_remove(struct docker_launch *l)
{
  bool set = ++l->remove_tries < REMOVE_TRIES && timer_set(l->spec.reactor, &l->timer, nsec_add(clock_mono(), RETRY_INTERVAL));
  if (set)
    return;
  // docker_host removes it when the Engine answers again, or else the gateway's next life.
  log_event(l->spec.reactor->log, LOG_ERROR, "docker.not_removed", LF_C("environment", l->spec.env->name), LF_C("worker", l->worker_id),
            LF_C("container", l->watch.id));
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
  l->step = STEP_REMOVE;
  if (!begin(l, STEP_REMOVE, "DELETE", CREATE_TIMEOUT, on_removed, "?force=1&v=1"))
    retry_remove(l);
}

// Ends the launch because of l->error.
static void give_up(struct docker_launch *l)
{
  if (l->watch.id[0])
    remove_container(l);
  else
    gone(l);
  if (l->stopped || l->told)
    return;
  l->told = true;
  l->events.ended(l->ctx, &l->error);
}

static void fail_nomem(struct docker_launch *l)
{
  err_nomem(&l->error);
  give_up(l);
}

// The Engine did not do what it was asked to: no answer, or an error.
static void fail(struct docker_launch *l, const char *what, const struct http_reply *reply)
{
  docker_host_failure(l->host, what, reply, &l->error);
  give_up(l);
}

static void on_stopped(void *ctx, const struct http_reply *reply)
{
  struct docker_launch *l = ctx;
  (void)reply; // whatever it says, the removal is forced
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
  l->container.out_of_memory |= l->watch.out_of_memory;
  if (l->exit_known)
    docker_explain_exit(&l->container, l->spec.env, &l->error);
  else
    err_set(&l->error, CODE_FAILED_PRECONDITION, REASON_WORKER_START_FAILED, "the worker exited, and the Docker Engine does not say how");
  log_tail_explain(&l->log, &l->error);
  give_up(l);
}

// Waits for what is still to come, but not for long.
static void await_last(struct docker_launch *l)
{
  nsec timeout = l->exit_known ? LAST_OUTPUT_TIMEOUT : EXIT_CODE_TIMEOUT;
  if ((l->exit_known && !l->logs.request) || !timer_set(l->spec.reactor, &l->timer, nsec_add(clock_mono(), timeout)))
    explain(l);
}

static void container_ended(struct docker_launch *l, const struct docker_container *c, bool exit_known)
{
  l->container = *c;
  l->exit_known = exit_known;
  docker_host_cancel(&l->request); // STEP_ADDRESS
  docker_search_end(&l->search);
  docker_process_leave(&l->process);
  l->step = STEP_OUTPUT;
  await_last(l);
}

static bool may_end(const struct docker_launch *l)
{
  return l->step == STEP_ADDRESS || l->step == STEP_PORT || l->step == STEP_RUN;
}

static void on_died(struct docker_watch *w, int64_t exit_code)
{
  struct docker_launch *l = CONTAINER_OF(w, struct docker_launch, watch);
  const struct docker_container c = {.exit_code = exit_code};
  if (l->step == STEP_START) { // the answer to that is still to come, and may say more
    l->died = true;
    l->container = c;
  } else if (may_end(l)) {
    container_ended(l, &c, true);
  } else if (l->step == STEP_OUTPUT && !l->exit_known) {
    l->container = c;
    l->exit_known = true;
    await_last(l);
  }
}

static void on_process_ended(struct docker_process *p, int exit_code)
{
  struct docker_launch *l = CONTAINER_OF(p, struct docker_launch, process);
  if (may_end(l))
    container_ended(l, &(struct docker_container){.exit_code = exit_code}, exit_code >= 0);
}

static void on_vanished(struct docker_watch *w)
{
  struct docker_launch *l = CONTAINER_OF(w, struct docker_launch, watch);
  if (!may_end(l))
    return;
  err_set(&l->error, CODE_FAILED_PRECONDITION, REASON_WORKER_START_FAILED, "the worker's container was removed by somebody else");
  log_tail_explain(&l->log, &l->error);
  give_up(l);
}

static void on_timer(struct timer *t)
{
  struct docker_launch *l = CONTAINER_OF(t, struct docker_launch, timer);
  if (l->step == STEP_REMOVE)
    remove_container(l);
  else if (l->step == STEP_OUTPUT)
    explain(l);
}

// --- what lasts as long as the container runs ----------------------------------------------------------------------------------------------

static bool on_output(void *ctx, struct str piece)
{
  struct docker_launch *l = ctx;
  struct str output;
  while (piece.n) {
    if (!docker_stream_next(&l->stream, &piece, &output))
      return false;
    log_tail_add(&l->log, output);
    if (output.n && l->events.output && !l->stopped)
      l->events.output(l->ctx, output);
  }
  return true;
}

static void on_logs_done(void *ctx, const struct http_reply *reply)
{
  struct docker_launch *l = ctx;
  (void)reply;
  l->logs.request = NULL;
  if (l->step == STEP_OUTPUT && l->exit_known)
    explain(l);
}

// Without its output the worker does as well.
static void follow_output(struct docker_launch *l, const char *lines)
{
  const struct http_options o = {.method = "GET", .own_connection = true, .data = on_output, .done = on_logs_done};
  l->stream = (struct docker_stream){0};
  docker_host_send(l->host, &l->logs, o, l, "%s/containers/%s/logs?follow=1&stdout=1&stderr=1&tail=%s", docker_host_api(l->host), l->watch.id, lines);
}

static void on_looked(void *ctx, const struct http_reply *reply)
{
  struct docker_launch *l = ctx;
  struct docker_container c;
  l->look.request = NULL;
  if (!may_end(l))
    return;
  if (reply->status == 404)
    on_vanished(&l->watch);
  else if (reply->status == 200 && docker_container_parse(reply->body, l->spec.env, &c) && !c.running)
    container_ended(l, &c, true);
  else if (reply->status == 200 && !l->logs.request)
    follow_output(l, "0");
}

static void on_look(struct docker_watch *w)
{
  struct docker_launch *l = CONTAINER_OF(w, struct docker_launch, watch);
  const struct http_options o = {.method = "GET", .timeout = REQUEST_TIMEOUT, .done = on_looked};
  if (may_end(l) && !l->look.request && !docker_host_send(l->host, &l->look, o, l, "%s/containers/%s/json", docker_host_api(l->host), l->watch.id))
    fail_nomem(l);
}

// --- the launch ----------------------------------------------------------------------------------------------------------------------------

static void tell_started(struct docker_launch *l, const struct endpoint *ep)
{
  l->step = STEP_RUN;
  l->events.started(l->ctx, ep);
}

static void on_port_found(struct docker_search *s, const struct endpoint *found)
{
  struct docker_launch *l = CONTAINER_OF(s, struct docker_launch, search);
  struct endpoint ep;
  if (found && endpoint_copy(&ep, found)) {
    docker_search_end(s);
    tell_started(l, &ep);
    endpoint_free(&ep);
    return;
  }
  err_set(&l->error, CODE_FAILED_PRECONDITION, REASON_WORKER_START_FAILED,
          "nothing in the worker's container answers at port 8000 or 7860, and its image exposes no port; set the environment's \"port\"; "
          "ready_timeout_s "
          "is %g",
          l->spec.env->ready_timeout_s);
  log_tail_explain(&l->log, &l->error);
  give_up(l);
}

static void reach_worker(struct docker_launch *l, const struct docker_container *c)
{
  tell_progress(l, LAUNCH_BOOTING);
  if (l->stopped)
    return;
  if (c->n_ports > 1) {
    l->step = STEP_PORT;
    if (!docker_search_start(&l->search, l->spec.reactor, c, nsec_add(clock_mono(), nsec_from_s(l->spec.env->ready_timeout_s)), on_port_found))
      fail_nomem(l);
    return;
  }
  char url[DOCKER_ADDRESS_MAX + 24];
  snprintf(url, sizeof url, "http://%s:%u", c->address, (unsigned)c->ports[0]);
  tell_started(l, &(struct endpoint){.url = url});
}

static void on_address(void *ctx, const struct http_reply *reply)
{
  struct docker_launch *l = ctx;
  l->request.request = NULL;
  struct docker_container c;
  if (reply->status != 200 || !docker_container_parse(reply->body, l->spec.env, &c)) {
    fail(l, "the worker's container can't be inspected", reply);
  } else if (!c.running) {
    container_ended(l, &c, true);
  } else if (!c.address[0]) {
    err_set(&l->error, CODE_FAILED_PRECONDITION, REASON_WORKER_START_FAILED, "the worker's container has no address in network \"%s\" to reach it at",
            l->spec.env->network ? l->spec.env->network : "default");
    give_up(l);
  } else {
    docker_process_watch(&l->process, l->spec.reactor, c.pid, l->watch.id);
    reach_worker(l, &c);
  }
}

// It runs; `lines` of its output are to be told that were before.
static void find_address(struct docker_launch *l, const char *lines)
{
  if (!begin(l, STEP_ADDRESS, "GET", REQUEST_TIMEOUT, on_address, "/json")) {
    fail_nomem(l);
    return;
  }
  follow_output(l, lines);
  if (l->died)
    container_ended(l, &(struct docker_container){.exit_code = l->container.exit_code}, true);
}

static void on_started(void *ctx, const struct http_reply *reply)
{
  struct docker_launch *l = ctx;
  l->request.request = NULL;
  bool ok = reply->status == 204 || reply->status == 304;
  if (ok && l->stopped)
    stop_container(l);
  else if (!ok)
    fail(l, "the worker's container can't be started", reply);
  else
    find_address(l, "all");
}

static void copy_counts(struct docker_launch *l, const struct docker_pull *p)
{
  l->progress.layers = p->n_layers;
  l->progress.layers_done = p->layers_done;
  l->progress.bytes = p->bytes;
  l->progress.bytes_done = p->bytes_done;
}

static void on_pull_progress(struct docker_pull_waiter *w, const struct docker_pull *counts)
{
  struct docker_launch *l = CONTAINER_OF(w, struct docker_launch, pull);
  copy_counts(l, counts);
  tell_progress(l, LAUNCH_PULLING);
}

static void on_pulled(struct docker_pull_waiter *w, const struct docker_pull *counts, const char *error)
{
  struct docker_launch *l = CONTAINER_OF(w, struct docker_launch, pull);
  const struct env_config *env = l->spec.env;
  if (!error) {
    copy_counts(l, counts);
    prepare_create(l);
    return;
  }
  err_set(&l->error, CODE_FAILED_PRECONDITION, REASON_WORKER_START_FAILED,
          "the image \"%s\" is not on the Docker Engine at %s and can't be pulled: %s. Is the name right? Try: docker pull %s", env->image,
          env->docker_host, error, env->image);
  give_up(l);
}

static void pull(struct docker_launch *l)
{
  tell_progress(l, LAUNCH_PULLING);
  if (l->stopped)
    return;
  l->step = STEP_PULL;
  l->pulled = true;
  if (!docker_host_pull(l->host, l->spec.env->image, &l->pull))
    fail_nomem(l);
}

static bool image_missing(const struct http_reply *reply)
{
  char message[DOCKER_MESSAGE_MAX];
  docker_message(reply->status, reply->body, message);
  return reply->status == 404 && strcasestr(message, "no such image");
}

static void fail_create(struct docker_launch *l, const struct http_reply *reply)
{
  char what[DOCKER_MESSAGE_MAX];
  snprintf(what, sizeof what, "the worker's container can't be created from the image \"%s\"", l->spec.env->image);
  fail(l, what, reply);
}

static void on_created(void *ctx, const struct http_reply *reply)
{
  struct docker_launch *l = ctx;
  l->request.request = NULL;
  // An answer that got lost leaves open whether there is a container; then its name is what to remove it by.
  if ((reply->err && reply->sent) || (reply->status == 201 && !docker_created_id(reply->body, l->watch.id)))
    memcpy(l->watch.id, l->watch.name, sizeof l->watch.id);
  if (l->stopped)
    give_up(l);
  else if (reply->status == 201 && begin(l, STEP_START, "POST", CREATE_TIMEOUT, on_started, "/start"))
    return;
  else if (reply->status == 201)
    fail_nomem(l);
  else if (image_missing(reply) && !l->pulled)
    pull(l);
  else
    fail_create(l, reply);
}

static void create(struct docker_launch *l)
{
  tell_progress(l, LAUNCH_STARTING);
  if (l->stopped)
    return;
  l->step = STEP_CREATE;
  char hash[DOCKER_HASH_MAX];
  struct docker_spec spec = {.env = l->spec.env,
                             .env_vars = l->spec.env_vars,
                             .worker_id = l->worker_id,
                             .instance = l->spec.instance,
                             .config = hash,
                             .ports = l->ports,
                             .n_ports = l->n_ports};
  char *body = docker_config_hash(spec.env, spec.env_vars, docker_host_key(l->host), hash) ? docker_create_body(&spec) : NULL;
  struct http_options o = {.method = "POST", .body = str_c(body), .content_type = "application/json", .timeout = CREATE_TIMEOUT, .done = on_created};
  bool ok = body && docker_host_send(l->host, &l->request, o, l, "%s/containers/create?name=%s", docker_host_api(l->host), l->watch.name);
  free(body);
  if (!ok)
    fail_nomem(l);
}

static void on_image(void *ctx, const struct http_reply *reply)
{
  struct docker_launch *l = ctx;
  l->request.request = NULL;
  if (reply->status == 404 && !l->pulled) {
    pull(l);
  } else if (reply->status != 200) {
    fail(l, "the worker's image can't be inspected", reply);
  } else {
    l->n_ports = docker_ports(0, reply->body, l->ports);
    create(l);
  }
}

// A port that is published has to be known before; else what the image exposes is seen when the container is inspected.
static void prepare_create(struct docker_launch *l)
{
  const struct env_config *env = l->spec.env;
  const struct http_options o = {.method = "GET", .timeout = REQUEST_TIMEOUT, .done = on_image};
  if (env->port)
    l->n_ports = docker_ports(env->port, STR(""), l->ports);
  if (env->port || !env->publish) {
    create(l);
    return;
  }
  l->step = STEP_IMAGE;
  struct buf path = {0};
  bool ok = docker_image_path(docker_host_api(l->host), env->image, &path) && docker_host_send(l->host, &l->request, o, l, "%s", path.p);
  buf_free(&path);
  if (!ok)
    fail_nomem(l);
}

static void on_connected(struct docker_waiter *w, const struct err *e)
{
  struct docker_launch *l = CONTAINER_OF(w, struct docker_launch, connect);
  if (e) {
    l->error = *e;
    give_up(l);
  } else if (l->watch.id[0]) {
    find_address(l, "100");
  } else {
    prepare_create(l);
  }
}

// --- what the provider is --------------------------------------------------------------------------------------------------------------------

static bool prepare(struct docker_launch *l, const struct launch_spec *spec, const char *socket)
{
  l->launch.provider = &provider_docker;
  l->spec = *spec;
  l->spec.worker_id = l->spec.adopt = NULL;
  l->timer.fire = on_timer;
  l->connect.done = on_connected;
  l->pull.progress = on_pull_progress;
  l->pull.done = on_pulled;
  l->process.ended = on_process_ended;
  l->watch.died = on_died;
  l->watch.removed = on_vanished;
  l->watch.look = on_look;
  list_init(&l->connect.link);
  list_init(&l->pull.link);
  list_init(&l->watch.link);
  l->worker_id = strdup(spec->worker_id);
  l->host = docker_host_get(spec->reactor, socket, spec->instance, spec->key);
  if (!l->worker_id || !l->host)
    return false;
  if (spec->adopt)
    snprintf(l->watch.id, sizeof l->watch.id, "%s", spec->adopt);
  else
    snprintf(l->watch.name, sizeof l->watch.name, "envgate-%s-%s-%s", spec->env->name, l->worker_id, docker_host_salt(l->host));
  docker_host_watch(l->host, &l->watch);
  docker_host_wait(l->host, &l->connect);
  return true;
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
  l->events = *events;
  l->ctx = ctx;
  if (prepare(l, spec, socket))
    return &l->launch;
  launch_free(l);
  err_nomem(e);
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
  case STEP_CONNECT:
    if (l->watch.id[0])
      remove_container(l);
    else
      gone(l);
    break;
  case STEP_IMAGE:
  case STEP_PULL:
  case STEP_GONE:
    gone(l);
    break;
  case STEP_ADDRESS:
  case STEP_PORT:
  case STEP_RUN:
    stop_container(l);
    break;
  case STEP_OUTPUT:
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
    .adopt = docker_adopt,
    .adopt_end = docker_adopt_end,
};
