// SPDX-License-Identifier: Apache-2.0
// TCP ports for workers on this machine. A worker binds its port seconds after it was chosen, so the port is held until the worker has ended: a socket of ours
// is bound to it, which does not listen. The kernel gives it to nobody then who asks for any free port, be it another gateway or another program, and a server
// that sets SO_REUSEADDR, as every common one does, can still listen on it.
#ifndef ENVGATE_PROVIDERS_PORTS_H
#define ENVGATE_PROVIDERS_PORTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct port {
  uint16_t number; // 0: none
  int holder;      // -1: it is not held
};
#define NO_PORT ((struct port){0, -1})

// Takes port `wanted`, or any free one if that is 0. False with WORKER_START_FAILED in `e` when somebody listens on it, or there is none; `p` is NO_PORT then.
bool port_take(struct port *p, uint16_t wanted, struct err *e);

// Lets go of the socket but not of the number: for a server that does not set SO_REUSEADDR.
void port_unhold(struct port *p);

// Gives it back; NO_PORT is fine.
void port_give(struct port *p);

// Whether a server could not listen on it now.
bool port_is_taken(uint16_t number);

#endif
