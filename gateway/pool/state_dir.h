// SPDX-License-Identifier: Apache-2.0
// The folder of what may outlast the gateway: sockets of launched workers, and who the gateway is. It belongs to one gateway at a time, which holds a lock on the file
// "lock" in it for as long as it lives. So no two gateways are the same at a time, the next one knows a dead gateway's folder from a living one's, and one that gets a
// dead one's is that gateway and may take over what it left.
#ifndef ENVGATE_POOL_STATE_DIR_H
#define ENVGATE_POOL_STATE_DIR_H

#include <stdbool.h>

#include "base/err.h"

enum { IDENTITY_DIGITS = 16 };

struct state_dir {
  char *path; // NULL: none, and nobody will ever be this gateway again
  int lock;
  bool own;                           // it was made for a gateway and is removed at the end
  char instance[IDENTITY_DIGITS + 1]; // random hexadecimal digits
  char key[IDENTITY_DIGITS + 1];      // and some more, which are nobody else's to know
};

// Uses the configured folder, which is made if need be and emptied of what a dead gateway left but its identity; or, without one, that of a dead gateway of the same user
// below $XDG_RUNTIME_DIR or /tmp, or makes one there. False: FAILED_PRECONDITION, and `d` is zeroed. Where one can't be made and is not `needed`, there is none.
bool state_dir_open(struct state_dir *d, const char *configured, bool needed, struct err *e);

// Lets go of it. A zeroed one is fine.
void state_dir_close(struct state_dir *d);

#endif
