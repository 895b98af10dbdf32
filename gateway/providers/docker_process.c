// SPDX-License-Identifier: Apache-2.0
#include "providers/docker_process.h"

#include <limits.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "providers/proc.h"

void docker_process_leave(struct docker_process *p)
{
  if (!p->io)
    return;
  io_close(p->io);
  close(p->fd);
  p->io = NULL;
}

static void on_end(void *ctx, int events)
{
  enum { SIGNALLED = 128 };
  struct docker_process *p = ctx;
  (void)events;
  int status, code = -1;
  if (proc_exit_status(p->fd, p->pid, &status))
    code = WIFSIGNALED(status) ? SIGNALLED + WTERMSIG(status) : WEXITSTATUS(status);
  docker_process_leave(p);
  p->ended(p, code);
}

void docker_process_watch(struct docker_process *p, struct reactor *r, int64_t pid, const char *container_id)
{
  docker_process_leave(p);
  if (pid <= 0 || pid > INT_MAX)
    return;
  p->pid = (pid_t)pid;
  p->fd = (int)syscall(SYS_pidfd_open, p->pid, 0);
  if (p->fd < 0)
    return;
  // The number may mean another process here, or have been given to another one meanwhile.
  p->io = proc_in_cgroup(p->pid, container_id) ? io_open(r, p->fd, IO_READ, on_end, p) : NULL;
  if (!p->io)
    close(p->fd);
}
