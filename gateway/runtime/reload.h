// SPDX-License-Identifier: Apache-2.0
// Files that are taken up anew when they change: keys, certificates, tokens. They are looked at once a second, a stat(2) each, which sees every way of changing
// them: written over, renamed over, a symbolic link turned (as Kubernetes does with mounted secrets).
#ifndef ENVGATE_RUNTIME_RELOAD_H
#define ENVGATE_RUNTIME_RELOAD_H

#include <sys/types.h>

#include "runtime/reactor.h"

enum { RELOAD_FILES = 3 };

// Lies in its owner.
struct reload {
  const char *paths[RELOAD_FILES]; // set by the owner, and stay; NULL: none
  // One of the files has changed: read them all. On the reactor's thread.
  void (*changed)(struct reload *l);

  struct reactor *r;
  struct timer timer;
  struct file_stamp {
    dev_t dev;
    ino_t ino;
    off_t size;
    struct timespec modified, changed;
  } seen[RELOAD_FILES];
};

// Begins. To be called before the files are first read, so that no change between is missed. False: out of memory.
bool reload_start(struct reload *l, struct reactor *r);
// Ends; harmless when it has not begun.
void reload_stop(struct reload *l);

#endif
