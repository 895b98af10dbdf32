// SPDX-License-Identifier: Apache-2.0
// What /proc says of processes.
#ifndef ENVGATE_PROVIDERS_PROC_H
#define ENVGATE_PROVIDERS_PROC_H

#include <stdint.h>
#include <sys/types.h>

// Calls `each` for every child of the calling process, zombies included, with when it was started, in the kernel's clock ticks since boot.
void proc_children(void (*each)(void *ctx, pid_t pid, uint64_t started), void *ctx);

// When a process was started, in the same unit; 0: it is gone, or /proc is not to be read.
uint64_t proc_started(pid_t pid);

#endif
