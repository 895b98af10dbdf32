// SPDX-License-Identifier: Apache-2.0
#include "providers/command.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "providers/args.h"
#include "providers/child.h"
#include "providers/ports.h"

static const char host[] = "127.0.0.1";

struct command_launch {
  struct launch launch;
  struct launch_spec spec; // worker_id is not kept
  struct launch_events events;
  void *ctx;

  struct strings args; // with their placeholders
  char *cwd;
  const char *const *keep;
  bool uses_port;
  uint16_t port;                                             // 0: none
  char socket[sizeof((struct sockaddr_un *)NULL)->sun_path]; // "": none

  struct child *child;  // NULL: none, or it is being freed
  bool freeing;         // a child is being stopped and freed; on_child_freed follows
  struct task announce; // calls `started`
  bool announcing;      // it is posted, and must run before the launch can be freed
  bool retried;         // it was launched anew because its port was taken
  bool ended;
  void (*stopped)(void *ctx); // set: stop was called
};

// --- placeholders --------------------------------------------------------------------------------------------------------------------------

enum { EXPANDED_MAX = 1 << 20 };

static bool mentions(const struct launch_spec *spec, const struct strings *args, const char *placeholder)
{
  for (size_t i = 0; i < args->n; i++)
    if (strstr(args->at[i], placeholder))
      return true;
  for (size_t i = 0; i < spec->env->env_vars.n; i++)
    if (strstr(spec->env->env_vars.at[i].value, placeholder))
      return true;
  return false;
}

// `text` with its placeholders replaced; NULL when out of memory.
static char *expand(const struct command_launch *l, const char *text)
{
  char port[8];
  snprintf(port, sizeof port, "%u", (unsigned)l->port);
  const struct {
    struct str name;
    const char *value;
  } placeholders[] = {{STR("{port}"), port}, {STR("{host}"), host}, {STR("{socket}"), l->socket}};
  struct buf out = {.max = EXPANDED_MAX};
  bool ok = true;
  while (ok && *text) {
    size_t i = 0, n = sizeof placeholders / sizeof *placeholders;
    while (i < n && !str_starts(str_c(text), placeholders[i].name))
      i++;
    if (i < n) {
      ok = buf_str(&out, str_c(placeholders[i].value));
      text += placeholders[i].name.n;
    } else {
      ok = buf_char(&out, *text++);
    }
  }
  if (ok && buf_char(&out, '\0'))
    return out.p;
  buf_free(&out);
  return NULL;
}

static bool expand_args(const struct command_launch *l, struct strings *out)
{
  for (size_t i = 0; i < l->args.n; i++) {
    char *text = expand(l, l->args.at[i]);
    bool ok = text && args_add(out, text);
    free(text);
    if (!ok)
      return false;
  }
  return true;
}

static void free_vars(struct pairs *vars)
{
  for (size_t i = 0; i < vars->n; i++)
    free(vars->at[i].value);
  free(vars->at);
}

// The names are borrowed from the configuration.
static bool expand_vars(const struct command_launch *l, struct pairs *out)
{
  const struct pairs *vars = &l->spec.env->env_vars;
  out->at = calloc(vars->n ? vars->n : 1, sizeof *out->at);
  if (!out->at)
    return false;
  for (; out->n < vars->n; out->n++) {
    out->at[out->n].name = vars->at[out->n].name;
    out->at[out->n].value = expand(l, vars->at[out->n].value);
    if (!out->at[out->n].value)
      return false;
  }
  return true;
}

// --- one child -----------------------------------------------------------------------------------------------------------------------------

static void announce(struct reactor *r, struct task *t);
static void on_child_exited(void *ctx);

static void give_back(struct command_launch *l)
{
  ports_give(l->spec.ports, l->port);
  l->port = 0;
  if (l->socket[0])
    unlink(l->socket);
}

static void post_announce(struct command_launch *l)
{
  if (l->announcing)
    return;
  l->announcing = true;
  l->announce.run = announce;
  reactor_post(l->spec.reactor, &l->announce);
}

static bool spawn(struct command_launch *l, struct err *e)
{
  if (l->uses_port && !(l->port = ports_take(l->spec.ports, e)))
    return false;
  struct strings args = {0};
  struct pairs vars = {0};
  if (expand_args(l, &args) && expand_vars(l, &vars)) {
    struct child_spec spec = {
        .reactor = l->spec.reactor,
        .command = &args,
        .env_vars = &vars,
        .keep = l->keep,
        .cwd = l->cwd,
        .stop_grace = nsec_from_s(l->spec.env->stop_grace_s),
    };
    l->child = child_start(&spec, on_child_exited, l, e);
  } else {
    err_nomem(e);
  }
  args_free(&args);
  free_vars(&vars);
  if (!l->child) {
    give_back(l);
    return false;
  }
  post_announce(l);
  return true;
}

static void launch_free(struct command_launch *l)
{
  args_free(&l->args);
  free(l->cwd);
  free(l);
}

static void finish_stop(struct command_launch *l)
{
  if (l->announcing || l->freeing)
    return; // whichever of the two callbacks comes last gets past here
  give_back(l);
  void (*stopped)(void *) = l->stopped;
  void *ctx = l->ctx;
  launch_free(l);
  stopped(ctx);
}

static void announce(struct reactor *r, struct task *t)
{
  (void)r;
  struct command_launch *l = CONTAINER_OF(t, struct command_launch, announce);
  l->announcing = false;
  if (l->stopped) {
    finish_stop(l);
    return;
  }
  if (!l->child || l->ended)
    return;
  char url[64];
  if (l->socket[0])
    snprintf(url, sizeof url, "http://localhost");
  else
    snprintf(url, sizeof url, "http://%s:%u", host, (unsigned)l->port);
  struct endpoint ep = {.url = url, .unix_path = l->socket[0] ? l->socket : NULL};
  l->events.started(l->ctx, &ep);
}

// Its child is gone because its port was taken, or because it is being stopped.
static void on_child_freed(void *ctx)
{
  struct command_launch *l = ctx;
  struct err e;
  l->freeing = false;
  if (l->stopped) {
    finish_stop(l);
  } else if (!spawn(l, &e)) {
    l->ended = true;
    l->events.ended(l->ctx, &e);
  }
}

static void free_child(struct command_launch *l)
{
  struct child *c = l->child;
  l->child = NULL;
  l->freeing = true;
  child_stop(c, on_child_freed, l);
}

static void on_child_exited(void *ctx)
{
  struct command_launch *l = ctx;
  // Everything of the child is gone, so whoever holds its port is somebody else, who was faster.
  if (l->port && !l->retried && !child_was_killed(l->child) && port_is_taken(l->port)) {
    l->retried = true;
    give_back(l);
    free_child(l);
    return;
  }
  give_back(l);
  l->ended = true;
  struct err e;
  child_explain(l->child, &e);
  l->events.ended(l->ctx, &e);
}

// --- the provider's three ------------------------------------------------------------------------------------------------------------------

static bool prepare(struct command_launch *l, const struct command *command, struct err *e)
{
  if (command->cwd && !(l->cwd = strdup(command->cwd)))
    return err_nomem(e);
  if (!args_add_all(&l->args, &command->args))
    return err_nomem(e);
  if (mentions(&l->spec, &l->args, "{socket}")) {
    int n = snprintf(l->socket, sizeof l->socket, "%s/%s.sock", l->spec.state_dir, l->spec.worker_id);
    if (n < 0 || (size_t)n >= sizeof l->socket) {
      l->socket[0] = '\0';
      return err_set(e, CODE_FAILED_PRECONDITION, REASON_WORKER_START_FAILED,
                     "the path of the worker's socket, %s/%s.sock, is longer than the %zu bytes that a socket's may have; set a shorter state_dir",
                     l->spec.state_dir, l->spec.worker_id, sizeof l->socket - 1);
    }
    unlink(l->socket); // left by a gateway that was killed
  }
  l->uses_port = mentions(&l->spec, &l->args, "{port}");
  if (!l->uses_port && !l->socket[0])
    return err_set(e, CODE_FAILED_PRECONDITION, REASON_WORKER_START_FAILED,
                   "neither {port} nor {socket} appears in the command or in env_vars, so the worker cannot be told where to listen");
  l->spec.worker_id = NULL;
  return true;
}

struct launch *command_start(const struct launch_spec *spec, const struct provider *provider, const struct command *command,
                             const struct launch_events *events, void *ctx, struct err *e)
{
  struct command_launch *l = calloc(1, sizeof *l);
  if (!l) {
    err_nomem(e);
    return NULL;
  }
  *l = (struct command_launch){.launch = {provider}, .spec = *spec, .events = *events, .ctx = ctx, .keep = command->keep};
  if (prepare(l, command, e) && spawn(l, e))
    return &l->launch;
  launch_free(l);
  return NULL;
}

void command_log_tail(struct launch *launch, char *text, size_t max)
{
  struct command_launch *l = CONTAINER_OF(launch, struct command_launch, launch);
  if (l->child)
    log_tail_text(child_log(l->child), text, max);
  else if (max)
    text[0] = '\0';
}

void command_stop(struct launch *launch, void (*stopped)(void *ctx), void *ctx)
{
  struct command_launch *l = CONTAINER_OF(launch, struct command_launch, launch);
  l->stopped = stopped;
  l->ctx = ctx;
  if (l->child)
    free_child(l);
  else if (!l->freeing)
    post_announce(l); // which only finishes the stop
}
