// SPDX-License-Identifier: Apache-2.0
#include "providers/supervise.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "providers/proc.h"

enum { LIFELINE = STDIN_FILENO, EXIT_CANNOT_RUN = 127 };

struct supervisor {
  int signals;          // a signalfd
  sigset_t mask_before; // the signal mask to give to the command
  pid_t command;
  int status;              // the command's, as waitpid gives it
  bool ended;              // the command has
  bool asked;              // SIGTERM was passed on
  bool mark;               // the command inherits MARK_FD
  rlim_t data, open_files; // limits for the command; 0: none
  char **argv;             // the command's
};

static int complain(const char *what)
{
  fprintf(stderr, "envgate: %s: %s\n", what, strerror(errno));
  return EXIT_CANNOT_RUN;
}

static bool limit(__rlimit_resource_t resource, rlim_t to)
{
  struct rlimit l;
  if (!to)
    return true;
  if (getrlimit(resource, &l))
    return false;
  if (l.rlim_max > to)
    l.rlim_max = to;
  l.rlim_cur = l.rlim_max;
  return setrlimit(resource, &l) == 0;
}

// In the forked child: becomes the command.
__attribute__((noreturn)) static void become_command(const struct supervisor *s, pid_t supervisor)
{
  // The parent may have died before prctl took effect.
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != supervisor)
    _exit(EXIT_CANNOT_RUN);
  int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (null < 0 || dup2(null, STDIN_FILENO) < 0)
    _exit(complain("/dev/null"));
  if (!limit(RLIMIT_DATA, s->data) || !limit(RLIMIT_NOFILE, s->open_files))
    _exit(complain("resource limits"));
  sigprocmask(SIG_SETMASK, &s->mask_before, NULL);
  execvp(s->argv[0], s->argv);
  _exit(complain(s->argv[0]));
}

static void kill_child(void *ctx, pid_t pid, uint64_t started)
{
  (void)ctx;
  (void)started;
  kill(pid, SIGKILL);
}

static void kill_children(const struct supervisor *s)
{
  if (!s->ended)
    kill(s->command, SIGKILL); // even where /proc is not to be read
  proc_children(kill_child, NULL);
}

// Reaps one child: true, or false when there is none (to reap).
static bool reap(struct supervisor *s, int flags)
{
  int status;
  pid_t pid;
  do {
    pid = waitpid(-1, &status, flags);
  } while (pid < 0 && errno == EINTR);
  if (pid <= 0)
    return false;
  if (pid == s->command) {
    s->ended = true;
    s->status = status;
  }
  return true;
}

// A killed child's own children become ours, so this goes on until there are none.
static void kill_all(struct supervisor *s)
{
  do {
    kill_children(s);
  } while (reap(s, 0));
}

static void take_signal(struct supervisor *s)
{
  struct signalfd_siginfo info;
  if (read(s->signals, &info, sizeof info) != sizeof info)
    return;
  if (info.ssi_signo == SIGCHLD) {
    while (reap(s, WNOHANG))
      ;
  } else if (!s->asked) {
    s->asked = true; // what comes back to ourselves is ignored
    kill(0, (int)info.ssi_signo);
  }
}

static void watch(struct supervisor *s)
{
  struct pollfd fds[] = {{.fd = LIFELINE, .events = POLLIN}, {.fd = s->signals, .events = POLLIN}};
  while (!s->ended) {
    if (poll(fds, 2, -1) < 0 && errno != EINTR)
      return;
    if (fds[0].revents)
      return;
    if (fds[1].revents)
      take_signal(s);
  }
}

// Ends as the command ended.
static int mirror(int status)
{
  if (!WIFSIGNALED(status))
    return WEXITSTATUS(status);
  int sig = WTERMSIG(status);
  prctl(PR_SET_DUMPABLE, 0); // the core is the command's to write
  signal(sig, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  raise(sig);
  return 128 + sig;
}

static int usage(const char *text)
{
  fprintf(stderr, "usage: envgate %s   (the gateway's own use)\n", text);
  return 2;
}

// Reads the options; false: they are wrong.
static bool read_options(struct supervisor *s, int argc, char **argv)
{
  int i = 2;
  for (; i < argc && strcmp(argv[i], "--") != 0; i++) {
    rlim_t *number = strcmp(argv[i], "--data") == 0 ? &s->data : strcmp(argv[i], "--open-files") == 0 ? &s->open_files : NULL;
    if (strcmp(argv[i], "--mark") == 0)
      s->mark = true;
    else if (number && i + 1 < argc)
      *number = strtoull(argv[++i], NULL, 10);
    else
      return false;
  }
  s->argv = argv + i + 1;
  return i + 1 < argc;
}

int supervise_main(int argc, char **argv)
{
  struct supervisor s = {.status = EXIT_CANNOT_RUN << 8};
  if (!read_options(&s, argc, argv))
    return usage("supervise [--mark] [--data BYTES] [--open-files N] -- COMMAND [ARGUMENT…]");
  close_range(s.mark ? MARK_FD + 1 : MARK_FD, ~0U, 0); // whatever the gateway, or who started it, forgot to mark
  sigset_t caught;
  sigemptyset(&caught);
  const int signals[] = {SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGQUIT};
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
    sigaddset(&caught, signals[i]);
  if (sigprocmask(SIG_BLOCK, &caught, &s.mask_before) || prctl(PR_SET_CHILD_SUBREAPER, 1))
    return complain("setup");
  s.signals = signalfd(-1, &caught, SFD_CLOEXEC | SFD_NONBLOCK);
  if (s.signals < 0)
    return complain("signalfd");
  pid_t self = getpid();
  s.command = fork();
  if (s.command < 0)
    return complain("fork");
  if (s.command == 0)
    become_command(&s, self);
  if (s.mark)
    close(MARK_FD);
  watch(&s);
  kill_all(&s);
  return mirror(s.status);
}

int booting_main(int argc, char **argv)
{
  if (argc < 4 || strcmp(argv[2], "--") != 0)
    return usage("booting -- COMMAND [ARGUMENT…]");
  signal(SIGPIPE, SIG_IGN);
  if (write(MARK_FD, "b", 1) != 1 && errno != EPIPE && errno != EBADF)
    return complain("mark");
  close(MARK_FD);
  signal(SIGPIPE, SIG_DFL);
  execvp(argv[3], argv + 3);
  return complain(argv[3]);
}
