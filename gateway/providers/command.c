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

static const char loopback[] = "127.0.0.1";

struct command_launch {
  struct launch launch;
  struct launch_spec spec; // worker_id is not kept
  struct launch_events events;
  void *ctx;

  struct command command; // `args` with their placeholders; the other strings are borrowed
  char *command_cwd;      // its cwd
  bool uses_port;
  struct port port;
  char socket[sizeof((struct sockaddr_un *)NULL)->sun_path]; // "": none

  struct child *child;  // NULL: none, or it is being freed
  bool freeing;         // a child is being stopped and freed; on_child_freed follows
  struct task announce; // calls `started`
  bool announcing;      // it is posted, and must run before the launch can be freed
  bool booting;         // announced as such
  struct timer install; // runs while it installs
  bool overdue;         // it took too long
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
  for (size_t i = 0; i < spec->env_vars->n; i++)
    if (spec->env_vars->at[i].source == VALUE_PLAIN && strstr(spec->env_vars->at[i].value, placeholder))
      return true;
  return false;
}

// `text` with its placeholders replaced; NULL when out of memory.
static char *expand(const struct command_launch *l, const char *text)
{
  char port[8], host[256];
  bool v6 = l->command.host[0] == '['; // brackets are for URLs only
  snprintf(host, sizeof host, "%.*s", (int)strlen(l->command.host) - 2 * v6, l->command.host + v6);
  snprintf(port, sizeof port, "%u", (unsigned)l->port.number);
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
  for (size_t i = 0; i < l->command.args.n; i++) {
    char *text = expand(l, l->command.args.at[i]);
    bool ok = text && args_add(out, text);
    free(text);
    if (!ok)
      return false;
  }
  return true;
}

static void free_vars(struct pairs *vars)
{
  for (size_t i = 0; i < vars->n; i++) {
    explicit_bzero(vars->at[i].value, strlen(vars->at[i].value));
    free(vars->at[i].value);
  }
  free(vars->at);
}

// The names are borrowed from the spec.
static bool expand_vars(const struct command_launch *l, struct pairs *out)
{
  const struct pairs *vars = l->spec.env_vars;
  out->at = calloc(vars->n ? vars->n : 1, sizeof *out->at);
  if (!out->at)
    return false;
  for (size_t i = 0; i < vars->n; i++) {
    const struct pair *v = &vars->at[i];
    char *value = v->source == VALUE_PLAIN ? expand(l, v->value) : strdup(v->value);
    if (!value)
      return false;
    out->at[out->n++] = (struct pair){v->name, value, v->source};
  }
  return true;
}

// --- one child -----------------------------------------------------------------------------------------------------------------------------

static void announce(struct reactor *r, struct task *t);
static void on_child_exited(void *ctx);
static void on_child_output(void *ctx, struct str bytes);
static void on_child_booting(void *ctx);

static void give_back(struct command_launch *l)
{
  port_give(&l->port);
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
  static const struct child_events events = {on_child_exited, on_child_output, on_child_booting};
  const struct env_config *env = l->spec.env;
  if (l->uses_port && !port_take(&l->port, l->command.port, e))
    return false;
  if (l->retried)
    port_unhold(&l->port);
  l->booting = !l->command.install_timeout;
  struct strings args = {0};
  struct pairs vars = {0};
  if (expand_args(l, &args) && expand_vars(l, &vars)) {
    struct child_spec spec = {
        .reactor = l->spec.reactor,
        .command = &args,
        .env_vars = &vars,
        .keep = l->command.keep,
        .pass = &env->pass_env,
        .cwd = l->command.cwd,
        .rlimit_data = env->rlimit_data,
        .rlimit_open_files = env->rlimit_open_files,
        .stop_grace = nsec_from_s(env->stop_grace_s),
        .mark = l->command.install_timeout != 0,
    };
    l->child = child_start(&spec, &events, l, e);
  } else {
    err_nomem(e);
  }
  args_free(&args);
  free_vars(&vars);
  if (!l->child) {
    give_back(l);
    return false;
  }
  if (!l->booting)
    timer_set(l->spec.reactor, &l->install, nsec_add(clock_mono(), l->command.install_timeout)); // out of memory: it has no limit then
  post_announce(l);
  return true;
}

static void launch_free(struct command_launch *l)
{
  args_free(&l->command.args);
  free(l->command_cwd);
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
  if (l->events.progress) {
    const struct launch_progress progress = {.phase = l->booting ? LAUNCH_BOOTING : LAUNCH_INSTALLING};
    l->events.progress(l->ctx, &progress);
  }
  if (!l->booting)
    return; // `started` comes when it is installed
  char url[512];
  if (l->socket[0])
    snprintf(url, sizeof url, "http://localhost");
  else
    snprintf(url, sizeof url, "http://%s:%u", l->command.connect_host, (unsigned)l->port.number);
  struct endpoint ep = {.url = url, .unix_path = l->socket[0] ? l->socket : NULL};
  l->events.started(l->ctx, &ep);
}

static bool is_over(const struct command_launch *l)
{
  return l->stopped || l->ended || l->freeing;
}

static void on_child_output(void *ctx, struct str bytes)
{
  const struct command_launch *l = ctx;
  if (!is_over(l) && l->events.output)
    l->events.output(l->ctx, bytes);
}

// All is installed, and the server begins.
static void on_child_booting(void *ctx)
{
  struct command_launch *l = ctx;
  if (is_over(l))
    return;
  timer_unset(l->spec.reactor, &l->install);
  l->booting = true;
  post_announce(l);
}

// Its child is gone because its port was taken, or because it is being stopped.
static void on_child_freed(void *ctx)
{
  struct command_launch *l = ctx;
  struct err e;
  l->freeing = false;
  if (l->stopped) {
    finish_stop(l);
  } else if (l->overdue) {
    l->ended = true;
    err_set(&e, CODE_FAILED_PRECONDITION, REASON_WORKER_START_FAILED, "the worker was not installed in time; install_timeout_s is %g",
            l->spec.env->uv_install_timeout_s);
    l->events.ended(l->ctx, &e);
  } else if (!spawn(l, &e)) {
    l->ended = true;
    l->events.ended(l->ctx, &e);
  }
}

static void free_child(struct command_launch *l)
{
  struct child *c = l->child;
  timer_unset(l->spec.reactor, &l->install);
  l->child = NULL;
  l->freeing = true;
  child_stop(c, on_child_freed, l);
}

static void on_install_timeout(struct timer *t)
{
  struct command_launch *l = CONTAINER_OF(t, struct command_launch, install);
  l->overdue = true;
  free_child(l);
}

// Whether it says that its port is in use: it does not set SO_REUSEADDR, and we hold the port. It may have another, which we do not hold.
static bool could_not_bind(const struct command_launch *l)
{
  char text[LOG_TAIL_BYTES];
  log_tail_text(child_log(l->child), text, sizeof text);
  return strcasestr(text, "already in use") || strstr(text, "EADDRINUSE");
}

static void on_child_exited(void *ctx)
{
  struct command_launch *l = ctx;
  // Everything of the child is gone, so whoever listens on its port is somebody else, who was faster.
  if (l->port.number && !l->command.port && !l->retried && (port_is_taken(l->port.number) || could_not_bind(l))) {
    l->retried = true;
    give_back(l);
    free_child(l);
    return;
  }
  give_back(l);
  timer_unset(l->spec.reactor, &l->install);
  l->ended = true;
  struct err e;
  child_explain(l->child, &e);
  l->events.ended(l->ctx, &e);
}

// --- the provider's three ------------------------------------------------------------------------------------------------------------------

static bool prepare(struct command_launch *l, const struct command *command, struct err *e)
{
  l->command = *command;
  l->command.args = (struct strings){0};
  l->command.cwd = NULL;
  if (command->cwd && !(l->command.cwd = l->command_cwd = strdup(command->cwd)))
    return err_nomem(e);
  if (!args_add_all(&l->command.args, &command->args))
    return err_nomem(e);
  if (!l->command.host)
    l->command.host = loopback;
  if (!l->command.connect_host)
    l->command.connect_host = l->command.host;
  if (mentions(&l->spec, &l->command.args, "{socket}")) {
    int n = snprintf(l->socket, sizeof l->socket, "%s/%s.sock", l->spec.state_dir, l->spec.worker_id);
    if (n < 0 || (size_t)n >= sizeof l->socket) {
      l->socket[0] = '\0';
      return err_set(e, CODE_FAILED_PRECONDITION, REASON_WORKER_START_FAILED,
                     "the path of the worker's socket, %s/%s.sock, is longer than the %zu bytes that a socket's may have; set a shorter state_dir",
                     l->spec.state_dir, l->spec.worker_id, sizeof l->socket - 1);
    }
    unlink(l->socket); // left by a gateway that was killed
  }
  l->uses_port = mentions(&l->spec, &l->command.args, "{port}");
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
  *l = (struct command_launch){
      .launch = {provider}, .spec = *spec, .events = *events, .ctx = ctx, .port = NO_PORT, .install.fire = on_install_timeout};
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
