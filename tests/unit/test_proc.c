// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// cmocka needs those above
#include <cmocka.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "providers/proc.h"

struct ended {
  pid_t pid;
  int fd;
};

// A child that has ended and is not reaped yet; by a signal, or with an exit code.
static struct ended end_child(int by_signal, int code)
{
  struct ended c = {.pid = fork()};
  siginfo_t info;
  assert_true(c.pid >= 0);
  if (!c.pid) {
    if (by_signal)
      raise(by_signal);
    _exit(code);
  }
  c.fd = (int)syscall(SYS_pidfd_open, c.pid, 0);
  assert_true(c.fd >= 0);
  assert_int_equal(waitid(P_PID, (id_t)c.pid, &info, WEXITED | WNOWAIT), 0);
  return c;
}

static void reap(const struct ended *c, int *status)
{
  assert_int_equal(waitpid(c->pid, status, 0), c->pid);
}

static void how_a_process_ended(void **state)
{
  (void)state;
  static const struct {
    int by_signal, code;
  } cases[] = {{SIGKILL, 0}, {SIGTERM, 0}, {0, 3}, {0, 255}, {0, 0}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct ended c = end_child(cases[i].by_signal, cases[i].code);
    int seen = -1, later = -1, status;
    bool known = proc_exit_status(c.fd, c.pid, &seen);
    assert_int_equal(known, cases[i].by_signal || cases[i].code); // a 0 may also be the kernel's way to say no
    reap(&c, &status);
    if (known)
      assert_int_equal(seen, status);
    if (proc_exit_status(c.fd, c.pid, &later)) // an older kernel has forgotten
      assert_int_equal(later, status);
    close(c.fd);
  }
}

static void what_runs_has_not_ended(void **state)
{
  (void)state;
  int status, fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
  assert_false(proc_exit_status(fd, getpid(), &status));
  assert_true(proc_in_cgroup(getpid(), ":/"));
  assert_false(proc_in_cgroup(getpid(), "0123456789abcdef"));
  assert_false(proc_in_cgroup(0, ":/"));
  assert_true(proc_started(getpid()) > 0);
  close(fd);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(how_a_process_ended),
      cmocka_unit_test(what_runs_has_not_ended),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
