// SPDX-License-Identifier: Apache-2.0
// The folder where sockets of launched workers lie. It belongs to one gateway at a time, which holds a lock on the file "lock" in it for as long as it lives, so
// that the next one knows a dead gateway's folder from a living one's.
#ifndef ENVGATE_POOL_STATE_DIR_H
#define ENVGATE_POOL_STATE_DIR_H

#include <stdbool.h>

#include "base/err.h"

struct state_dir {
  char *path; // NULL: none
  int lock;
  bool own; // it was made for this gateway and is removed at the end
};

// Uses the configured folder, which is made if need be and emptied of what a dead gateway left; or, without one, makes one below $XDG_RUNTIME_DIR or /tmp and
// removes those that dead gateways of the same user left there. False: FAILED_PRECONDITION, and `d` is zeroed.
bool state_dir_open(struct state_dir *d, const char *configured, struct err *e);

// Lets go of it. A zeroed one is fine.
void state_dir_close(struct state_dir *d);

#endif
