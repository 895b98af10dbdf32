// SPDX-License-Identifier: Apache-2.0
// The folder of what must outlive the gateway, and who the gateway is. A lock there says that it lives: no two gateways are the same at a time, and one that is
// started where another was killed is that one, so it may take over what that one left.
#ifndef ENVGATE_POOL_STATE_DIR_H
#define ENVGATE_POOL_STATE_DIR_H

#include <stdbool.h>

#include "base/err.h"

enum { IDENTITY_DIGITS = 16 };

struct state_dir {
  char *path;                         // NULL: there is none, and nobody will ever be this gateway again
  bool own;                           // below $XDG_RUNTIME_DIR or /tmp; removed at the end
  int lock;                           // -1: none
  char instance[IDENTITY_DIGITS + 1]; // random hexadecimal digits
  char key[IDENTITY_DIGITS + 1];      // and some more, which are nobody else's to know
};

// Opens the configured folder, made if need be, with its lock. Without one (NULL): that of a gateway of this user that was killed, else a new one of its own; and
// where that can't be made, none at all unless `needed`.
bool state_dir_open(struct state_dir *d, const char *configured, bool needed, struct err *e);

// Lets go of it. `d` may be zeroed.
void state_dir_close(struct state_dir *d);

#endif
