// SPDX-License-Identifier: Apache-2.0
#include "providers/child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "providers/args.h"
#include "providers/proc.h"
#include "providers/supervise.h"

static const char *const always_kept[] = {"PATH", "HOME", "LANG", "TMPDIR", NULL};

// How often, and how many times, orphans are looked for.
#define SWEEP_PAUSE (5 * NSEC_PER_MS)
enum { SWEEPS_MAX = 400 };

struct child {
  struct reactor *reactor;
  uv_process_t process; // the supervisor; its handle stays open until child_stop
  uint64_t started;     // when the supervisor was, as /proc has it; 0: unknown
  struct io *output_io; // NULL once the output has ended
  int output;           // our end of the pipe, -1: closed
  struct io *mark_io;   // NULL: none, or it has come
  int mark;             // -1: closed
  int lifeline;         // closing it has the supervisor kill everything; -1: closed
  nsec grace;
  struct timer grace_timer;
  struct timer sweep_timer;
  int sweeps;
  bool exited; // and nothing is left
  int64_t exit_code;
  int signal;
  struct child_events events;
  void (*on_stopped)(void *ctx); // set: it is being stopped
  void *ctx;
  struct log_tail log;
};

// --- the environment -----------------------------------------------------------------------------------------------------------------------

static bool is_kept(struct str name, const char *const *keep)
{
  for (; keep && *keep; keep++)
    if (str_eq(name, str_c(*keep)))
      return true;
  return false;
}

static bool is_passed(struct str name, const struct strings *pass)
{
  for (size_t i = 0; i < pass->n; i++) {
    struct str p = str_c(pass->at[i]);
    if (str_ends(p, STR("*")) ? str_starts(name, (struct str){p.p, p.n - 1}) : str_eq(name, p))
      return true;
  }
  return false;
}

static bool is_in(struct str name, const struct pairs *pairs)
{
  for (size_t i = 0; i < pairs->n; i++)
    if (str_eq(name, str_c(pairs->at[i].name)))
      return true;
  return false;
}

static bool build_environment(const struct child_spec *spec, struct strings *env)
{
  for (char **v = environ; *v; v++) {
    const char *equals = strchr(*v, '=');
    if (!equals)
      continue;
    struct str name = {*v, (size_t)(equals - *v)};
    bool wanted = is_kept(name, always_kept) || is_kept(name, spec->keep) || is_passed(name, spec->pass);
    if (wanted && !is_in(name, spec->env_vars) && !args_add(env, *v))
      return false;
  }
  for (size_t i = 0; i < spec->env_vars->n; i++)
    if (!args_addf(env, "%s=%s", spec->env_vars->at[i].name, spec->env_vars->at[i].value))
      return false;
  return true;
}

static bool build_command(const struct child_spec *spec, struct strings *argv)
{
  return args_add(argv, spec->reactor->config->self) && args_add(argv, "supervise") && (!spec->mark || args_add(argv, "--mark")) &&
         (!spec->rlimit_data || (args_add(argv, "--data") && args_addf(argv, "%lld", (long long)spec->rlimit_data))) &&
         (!spec->rlimit_open_files || (args_add(argv, "--open-files") && args_addf(argv, "%lld", (long long)spec->rlimit_open_files))) &&
         args_add(argv, "--") && args_add_all(argv, spec->command);
}

// --- its output ----------------------------------------------------------------------------------------------------------------------------

static void close_output(struct child *c)
{
  io_close(c->output_io);
  c->output_io = NULL;
  if (c->output >= 0)
    close(c->output);
  c->output = -1;
}

// Reads what there is; at most `pieces` of it, so that a chatty worker does not hold up the loop.
static void read_output(struct child *c, int pieces)
{
  char bytes[LOG_TAIL_BYTES];
  while (c->output >= 0 && pieces-- > 0) {
    ssize_t n = read(c->output, bytes, sizeof bytes);
    if (n > 0) {
      struct str piece = {bytes, (size_t)n};
      log_tail_add(&c->log, piece);
      if (!c->on_stopped && c->events.output)
        c->events.output(c->ctx, piece);
    } else if (n < 0 && errno == EAGAIN)
      return;
    else if (n == 0 || errno != EINTR)
      close_output(c);
  }
}

static void on_output(void *ctx, int events)
{
  (void)events;
  read_output(ctx, 4);
}

static void close_mark(struct child *c)
{
  io_close(c->mark_io);
  c->mark_io = NULL;
  if (c->mark >= 0)
    close(c->mark);
  c->mark = -1;
}

static void on_mark(void *ctx, int events)
{
  (void)events;
  struct child *c = ctx;
  char byte;
  ssize_t n = read(c->mark, &byte, 1);
  if (n < 0 && (errno == EAGAIN || errno == EINTR))
    return;
  close_mark(c);
  if (n == 1 && !c->on_stopped && !c->exited && c->events.booting)
    c->events.booting(c->ctx);
}

// --- its end -------------------------------------------------------------------------------------------------------------------------------

static void cut_lifeline(struct child *c)
{
  if (c->lifeline >= 0)
    close(c->lifeline);
  c->lifeline = -1;
}

static void on_grace_over(struct timer *t)
{
  cut_lifeline(CONTAINER_OF(t, struct child, grace_timer));
}

static void on_freed(uv_handle_t *handle)
{
  struct child *c = handle->data;
  void (*stopped)(void *) = c->on_stopped;
  void *ctx = c->ctx;
  free(c);
  if (stopped)
    stopped(ctx);
}

static void free_later(struct child *c)
{
  timer_unset(c->reactor, &c->grace_timer);
  timer_unset(c->reactor, &c->sweep_timer);
  close_output(c);
  close_mark(c);
  cut_lifeline(c);
  if (uv_handle_get_type((uv_handle_t *)&c->process) == UV_PROCESS)
    uv_close((uv_handle_t *)&c->process, on_freed);
  else
    free(c); // libuv has not seen the handle yet
}

static void finish_exit(struct child *c)
{
  c->exited = true;
  if (c->on_stopped) {
    free_later(c);
    return;
  }
  enum { PIPE_PIECES = 1 + (1 << 20) / LOG_TAIL_BYTES }; // as much as the largest pipe holds; all writers are gone
  read_output(c, PIPE_PIECES);
  close_output(c);
  close_mark(c);
  cut_lifeline(c);
  c->events.exited(c->ctx);
}

// --- orphans: what a supervisor that was itself killed has left. They are our children then, as we are a subreaper (see spawn) --------------------

struct sweep {
  struct child *c;
  int found;
};

struct search {
  pid_t pid;
  bool found;
};

static void compare_pid(uv_handle_t *handle, void *arg)
{
  struct search *s = arg;
  // A handle that is no longer active is a process that libuv has reaped.
  if (uv_handle_get_type(handle) == UV_PROCESS && uv_is_active(handle))
    s->found |= uv_process_get_pid((const uv_process_t *)(const void *)handle) == s->pid;
}

static void kill_orphan(void *ctx, pid_t pid, uint64_t started)
{
  struct sweep *sweep = ctx;
  struct search s = {.pid = pid};
  // What was ours before (a program that became the gateway may have left children) is older than any supervisor.
  if (!sweep->c->started || started < sweep->c->started)
    return;
  uv_walk(&sweep->c->reactor->uv, compare_pid, &s);
  if (s.found)
    return;
  kill(pid, SIGKILL);
  if (waitpid(pid, NULL, WNOHANG) != pid)
    sweep->found++;
}

// Goes on until a look finds none: those that an orphan leaves become ours only when it has died.
static void sweep_orphans(struct timer *t)
{
  struct child *c = CONTAINER_OF(t, struct child, sweep_timer);
  struct sweep sweep = {.c = c};
  proc_children(kill_orphan, &sweep);
  bool clean = sweep.found == 0 && c->sweeps > 0; // a first look may come before the kernel has handed them over
  if (!clean && ++c->sweeps < SWEEPS_MAX && timer_set(c->reactor, t, clock_mono() + SWEEP_PAUSE))
    return;
  finish_exit(c);
}

static void on_exit_status(uv_process_t *process, int64_t exit_code, int signal)
{
  struct child *c = process->data;
  c->exit_code = exit_code;
  c->signal = signal;
  timer_unset(c->reactor, &c->grace_timer);
  if (!signal) {
    finish_exit(c);
    return;
  }
  // It may be the supervisor itself that was killed. (A group that has members keeps its number from being used anew.)
  kill(-process->pid, SIGKILL);
  c->sweep_timer.fire = sweep_orphans;
  sweep_orphans(&c->sweep_timer);
}

// --- its start -----------------------------------------------------------------------------------------------------------------------------

static bool explain_spawn(const struct child_spec *spec, int rc, struct err *e)
{
  struct stat st;
  if (spec->cwd && (stat(spec->cwd, &st) || !S_ISDIR(st.st_mode)))
    return err_set(e, CODE_FAILED_PRECONDITION, REASON_WORKER_START_FAILED, "the worker's folder %s does not exist", spec->cwd);
  return err_set(e, CODE_FAILED_PRECONDITION, REASON_WORKER_START_FAILED, "the worker's process could not be started: %s", uv_strerror(rc));
}

// Spawns the supervisor with its three descriptors.
static bool spawn(struct child *c, const struct child_spec *spec, int lifeline, int output, int mark, struct err *e)
{
  struct strings argv = {0}, env = {0};
  bool ok = build_command(spec, &argv) && build_environment(spec, &env);
  if (ok && !env.n)
    ok = args_add(&env, "PATH=/usr/local/bin:/usr/bin:/bin"); // none at all would make libuv pass on everything
  if (!ok) {
    err_nomem(e);
  } else {
    uv_stdio_container_t stdio[] = {
        {.flags = UV_INHERIT_FD, .data.fd = lifeline},
        {.flags = UV_INHERIT_FD, .data.fd = output},
        {.flags = UV_INHERIT_FD, .data.fd = output},
        [MARK_FD] = {.flags = UV_INHERIT_FD, .data.fd = mark},
    };
    uv_process_options_t options = {
        .exit_cb = on_exit_status,
        .file = argv.at[0],
        .args = argv.at,
        .env = env.at,
        .cwd = spec->cwd,
        .flags = UV_PROCESS_DETACHED, // setsid: a session and a process group of its own
        .stdio_count = mark >= 0 ? MARK_FD + 1 : MARK_FD,
        .stdio = stdio,
    };
    prctl(PR_SET_CHILD_SUBREAPER, 1); // so that orphans come to us
    int rc = uv_spawn(reactor_uv(c->reactor), &c->process, &options);
    ok = rc == 0 || explain_spawn(spec, rc, e);
    if (ok)
      c->started = proc_started(c->process.pid);
  }
  args_free(&argv);
  args_free(&env);
  return ok;
}

static bool open_pipe(int ends[2], struct err *e)
{
  if (pipe2(ends, O_CLOEXEC) == 0)
    return true;
  ends[0] = ends[1] = -1;
  return err_set(e, CODE_UNAVAILABLE, REASON_WORKER_START_FAILED, "the worker's process could not be started: %s", strerror(errno));
}

static struct io *watch(struct child *c, int fd, io_callback *callback)
{
  fcntl(fd, F_SETFL, O_NONBLOCK);
  return io_open(c->reactor, fd, IO_READ, callback, c);
}

// Makes the pipes, hands the far ends to the supervisor and keeps ours.
static bool start(struct child *c, const struct child_spec *spec, struct err *e)
{
  int lifeline[2] = {-1, -1}, output[2] = {-1, -1}, mark[2] = {-1, -1};
  bool ok = open_pipe(lifeline, e) && open_pipe(output, e) && (!spec->mark || open_pipe(mark, e));
  c->lifeline = lifeline[1];
  c->output = output[0];
  c->mark = mark[0];
  if (ok) {
    c->output_io = watch(c, c->output, on_output);
    c->mark_io = c->mark >= 0 ? watch(c, c->mark, on_mark) : NULL;
    ok = c->output_io && (c->mark < 0 || c->mark_io) ? spawn(c, spec, lifeline[0], output[1], mark[1], e) : err_nomem(e);
  }
  const int theirs[] = {lifeline[0], output[1], mark[1]};
  for (size_t i = 0; i < sizeof theirs / sizeof *theirs; i++)
    if (theirs[i] >= 0)
      close(theirs[i]);
  return ok;
}

struct child *child_start(const struct child_spec *spec, const struct child_events *events, void *ctx, struct err *e)
{
  struct child *c = calloc(1, sizeof *c);
  if (!c) {
    err_nomem(e);
    return NULL;
  }
  c->reactor = spec->reactor;
  c->grace = spec->stop_grace;
  c->grace_timer.fire = on_grace_over;
  c->events = *events;
  c->ctx = ctx;
  c->process.data = c;
  if (start(c, spec, e))
    return c;
  free_later(c);
  return NULL;
}

const struct log_tail *child_log(const struct child *c)
{
  return &c->log;
}

void child_explain(const struct child *c, struct err *e)
{
  if (c->signal)
    err_set(e, CODE_FAILED_PRECONDITION, REASON_WORKER_START_FAILED, "the worker was killed by signal %d (%s)", c->signal, strsignal(c->signal));
  else
    err_set(e, CODE_FAILED_PRECONDITION, REASON_WORKER_START_FAILED, "the worker exited with code %d", (int)c->exit_code);
  log_tail_explain(&c->log, e);
}

void child_stop(struct child *c, void (*stopped)(void *ctx), void *ctx)
{
  c->on_stopped = stopped;
  c->ctx = ctx;
  if (c->exited) {
    free_later(c);
    return;
  }
  if (timer_is_set(&c->sweep_timer))
    return; // it has ended already, and its orphans are being ended
  uv_process_kill(&c->process, SIGTERM);
  if (!timer_set(c->reactor, &c->grace_timer, nsec_add(clock_mono(), reactor_grace(c->reactor, c->grace))))
    cut_lifeline(c);
}
