// SPDX-License-Identifier: Apache-2.0
#include "providers/child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "providers/args.h"

static const char *const always_kept[] = {"PATH", "HOME", "LANG", "TMPDIR", NULL};

struct child {
  struct reactor *reactor;
  uv_process_t process; // the supervisor; its handle stays open until child_stop
  struct io *output_io; // NULL once the output has ended
  int output;           // our end of the pipe, -1: closed
  int lifeline;         // closing it has the supervisor kill everything; -1: closed
  nsec grace;
  struct timer grace_timer;
  bool exited;
  int64_t exit_code;
  int signal;
  void (*on_exited)(void *ctx);
  void (*on_stopped)(void *ctx); // set: it is being stopped
  void *ctx;
  struct log_tail log;
};

// --- the environment -----------------------------------------------------------------------------------------------------------------------

static bool is_kept(struct str name, const char *const *keep)
{
  for (; keep && *keep; keep++) {
    struct str k = str_c(*keep);
    if (str_ends(k, STR("*")) ? str_starts(name, (struct str){k.p, k.n - 1}) : str_eq(name, k))
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
    if ((is_kept(name, always_kept) || is_kept(name, spec->keep)) && !is_in(name, spec->env_vars) && !args_add(env, *v))
      return false;
  }
  for (size_t i = 0; i < spec->env_vars->n; i++)
    if (!args_addf(env, "%s=%s", spec->env_vars->at[i].name, spec->env_vars->at[i].value))
      return false;
  return true;
}

static bool build_command(const struct child_spec *spec, struct strings *argv)
{
  return args_add(argv, spec->reactor->config->self) && args_add(argv, "supervise") && args_add(argv, "--") && args_add_all(argv, spec->command);
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
    if (n > 0)
      log_tail_add(&c->log, (struct str){bytes, (size_t)n});
    else if (n < 0 && errno == EAGAIN)
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
  close_output(c);
  cut_lifeline(c);
  if (uv_handle_get_type((uv_handle_t *)&c->process) == UV_PROCESS)
    uv_close((uv_handle_t *)&c->process, on_freed);
  else
    free(c); // libuv has not seen the handle yet
}

static void on_exit_status(uv_process_t *process, int64_t exit_code, int signal)
{
  struct child *c = process->data;
  // A supervisor that was itself killed could not clean up. (A group that has members keeps its number from being used anew.)
  if (signal == SIGKILL)
    kill(-process->pid, SIGKILL);
  c->exited = true;
  c->exit_code = exit_code;
  c->signal = signal;
  if (c->on_stopped) {
    free_later(c);
    return;
  }
  enum { PIPE_PIECES = 1 + (1 << 20) / LOG_TAIL_BYTES }; // as much as the largest pipe holds; all writers are gone
  read_output(c, PIPE_PIECES);
  close_output(c);
  cut_lifeline(c);
  c->on_exited(c->ctx);
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
static bool spawn(struct child *c, const struct child_spec *spec, int lifeline, int output, struct err *e)
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
    };
    uv_process_options_t options = {
        .exit_cb = on_exit_status,
        .file = argv.at[0],
        .args = argv.at,
        .env = env.at,
        .cwd = spec->cwd,
        .flags = UV_PROCESS_DETACHED, // setsid: a session and a process group of its own
        .stdio_count = sizeof stdio / sizeof *stdio,
        .stdio = stdio,
    };
    int rc = uv_spawn(reactor_uv(c->reactor), &c->process, &options);
    ok = rc == 0 || explain_spawn(spec, rc, e);
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

// Makes the pipes, hands the far ends to the supervisor and keeps ours.
static bool start(struct child *c, const struct child_spec *spec, struct err *e)
{
  int lifeline[2] = {-1, -1}, output[2] = {-1, -1};
  bool ok = open_pipe(lifeline, e) && open_pipe(output, e);
  c->lifeline = lifeline[1];
  c->output = output[0];
  if (ok) {
    fcntl(c->output, F_SETFL, O_NONBLOCK);
    c->output_io = io_open(c->reactor, c->output, IO_READ, on_output, c);
    ok = c->output_io ? spawn(c, spec, lifeline[0], output[1], e) : err_nomem(e);
  }
  if (lifeline[0] >= 0)
    close(lifeline[0]);
  if (output[1] >= 0)
    close(output[1]);
  return ok;
}

struct child *child_start(const struct child_spec *spec, void (*exited)(void *ctx), void *ctx, struct err *e)
{
  struct child *c = calloc(1, sizeof *c);
  if (!c) {
    err_nomem(e);
    return NULL;
  }
  c->reactor = spec->reactor;
  c->grace = spec->stop_grace;
  c->grace_timer.fire = on_grace_over;
  c->on_exited = exited;
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

bool child_was_killed(const struct child *c)
{
  return c->signal != 0;
}

void child_stop(struct child *c, void (*stopped)(void *ctx), void *ctx)
{
  c->on_stopped = stopped;
  c->ctx = ctx;
  if (c->exited) {
    free_later(c);
    return;
  }
  uv_process_kill(&c->process, SIGTERM);
  if (!timer_set(c->reactor, &c->grace_timer, nsec_add(clock_mono(), reactor_grace(c->reactor, c->grace))))
    cut_lifeline(c);
}
