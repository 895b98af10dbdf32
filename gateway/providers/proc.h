// SPDX-License-Identifier: Apache-2.0
// What /proc says of processes.
#ifndef ENVGATE_PROVIDERS_PROC_H
#define ENVGATE_PROVIDERS_PROC_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

// Calls `each` for every child of the calling process, zombies included, with when it was started, in the kernel's clock ticks since boot.
void proc_children(void (*each)(void *ctx, pid_t pid, uint64_t started), void *ctx);

// When a process was started, in the same unit; 0: it is gone, or /proc is not to be read.
uint64_t proc_started(pid_t pid);

// How a process ended that is not our child, as wait(2) would tell its parent. False: it can't be known. Linux shows it until the parent has reaped it (but shows 0
// to those who may not see it, which is therefore no answer), and since 6.15 by its pidfd from then on.
bool proc_exit_status(int pidfd, pid_t pid, int *status);

// Whether a process is in a control group whose path has this in it.
bool proc_in_cgroup(pid_t pid, const char *part);

#endif
