// SPDX-License-Identifier: Apache-2.0
// Free TCP ports for workers on this machine. The kernel knows which ports are in use, but a worker binds its own seconds after it was chosen; so
// ports given out are remembered, and no two workers of a gateway get the same.
#ifndef ENVGATE_PROVIDERS_PORTS_H
#define ENVGATE_PROVIDERS_PORTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

// Zeroed: none is given out.
struct ports {
  uint64_t given[65536 / 64];
};

// A port of 127.0.0.1 that nobody uses and no other worker was given; 0 with `e` set when there is none.
uint16_t ports_take(struct ports *p, struct err *e);
// Gives it back. 0 is fine.
void ports_give(struct ports *p, uint16_t port);

// Whether a server could not listen on it now.
bool port_is_taken(uint16_t port);

#endif
