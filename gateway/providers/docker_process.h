// SPDX-License-Identifier: Apache-2.0
// A container's first process as the kernel shows it, where it runs on this machine: its end is seen here at once, while the Engine, which takes the container's network
// and files apart first, tells of it some 50 ms later, and much later on a machine that is busy.
//
// Where the Engine's processes are not to be seen (the gateway has a pid namespace of its own, as in a container), its events alone have to do.
#ifndef ENVGATE_PROVIDERS_DOCKER_PROCESS_H
#define ENVGATE_PROVIDERS_DOCKER_PROCESS_H

#include "runtime/reactor.h"

struct docker_process {
  // It has ended, with this exit code as the Engine would show it (128 and the signal's number where one killed it); -1: it is not known how. The watch is over.
  void (*ended)(struct docker_process *p, int exit_code);
  struct io *io; // NULL: not watched
  int fd;
  pid_t pid;
};

// Watches the process that the Engine says is the first of a container; nothing happens when that can't be seen here. `ended` never runs inside.
void docker_process_watch(struct docker_process *p, struct reactor *r, int64_t pid, const char *container_id);
// Ends the watch; harmless when there is none.
void docker_process_leave(struct docker_process *p);

#endif
