// SPDX-License-Identifier: Apache-2.0
#include "providers/supervise.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LIFELINE = STDIN_FILENO, EXIT_CANNOT_RUN = 127 };

struct supervisor {
  int signals;   // a signalfd
  sigset_t mask; // the signal mask to give to the command
  pid_t command;
  int status; // the command's, as waitpid gives it
  bool ended; // the command has
  bool asked; // SIGTERM was passed on
};

static int complain(const char *what)
{
  fprintf(stderr, "envgate supervise: %s: %s\n", what, strerror(errno));
  return EXIT_CANNOT_RUN;
}

// In the forked child: becomes the command.
__attribute__((noreturn)) static void become_command(const struct supervisor *s, pid_t supervisor, char **argv)
{
  // The parent may have died before prctl took effect.
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != supervisor)
    _exit(EXIT_CANNOT_RUN);
  int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (null < 0 || dup2(null, STDIN_FILENO) < 0)
    _exit(complain("/dev/null"));
  sigprocmask(SIG_SETMASK, &s->mask, NULL);
  execvp(argv[0], argv);
  _exit(complain(argv[0]));
}

// The parent of a process, from the text of /proc/PID/stat; 0: unknown. The name in it may hold any character, so the last ')' counts.
static pid_t parse_parent(const char *stat)
{
  const char *p = strrchr(stat, ')');
  return p && p[1] == ' ' && p[2] && p[3] == ' ' ? (pid_t)strtol(p + 4, NULL, 10) : 0;
}

static pid_t parent_of(const char *pid)
{
  char path[64], text[512];
  int n = snprintf(path, sizeof path, "/proc/%s/stat", pid);
  if (n < 0 || (size_t)n >= sizeof path)
    return 0;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return 0;
  ssize_t got = read(fd, text, sizeof text - 1);
  close(fd);
  text[got > 0 ? got : 0] = '\0';
  return parse_parent(text);
}

static void kill_children(const struct supervisor *s)
{
  pid_t self = getpid();
  if (!s->ended)
    kill(s->command, SIGKILL); // even where /proc is not to be read
  DIR *proc = opendir("/proc");
  if (!proc)
    return;
  for (struct dirent *d; (d = readdir(proc));)
    if (d->d_name[0] >= '1' && d->d_name[0] <= '9' && parent_of(d->d_name) == self)
      kill((pid_t)strtol(d->d_name, NULL, 10), SIGKILL);
  closedir(proc);
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

int supervise_main(int argc, char **argv)
{
  if (argc < 4 || strcmp(argv[2], "--") != 0) {
    fputs("usage: envgate supervise -- COMMAND [ARGUMENT…]   (the gateway's own use: it ends when standard input does)\n", stderr);
    return 2;
  }
  struct supervisor s = {.status = EXIT_CANNOT_RUN << 8};
  close_range(3, ~0U, 0); // whatever the gateway, or who started it, forgot to mark
  sigset_t caught;
  sigemptyset(&caught);
  const int signals[] = {SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGQUIT};
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
    sigaddset(&caught, signals[i]);
  if (sigprocmask(SIG_BLOCK, &caught, &s.mask) || prctl(PR_SET_CHILD_SUBREAPER, 1))
    return complain("setup");
  s.signals = signalfd(-1, &caught, SFD_CLOEXEC | SFD_NONBLOCK);
  if (s.signals < 0)
    return complain("signalfd");
  pid_t self = getpid();
  s.command = fork();
  if (s.command < 0)
    return complain("fork");
  if (s.command == 0)
    become_command(&s, self, argv + 3);
  watch(&s);
  kill_all(&s);
  return mirror(s.status);
}
