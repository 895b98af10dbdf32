// SPDX-License-Identifier: Apache-2.0
// Which of a caller's headers go on to workers: the W3C trace context, and what the environment's forward_headers names. Never the Authorization, which
// `envgate check` refuses to forward.
#ifndef ENVGATE_API_FORWARD_H
#define ENVGATE_API_FORWARD_H

#include "config/config.h"
#include "rpc/rpc.h"

struct forward {
  const struct header *at;
  size_t n;
};

// A call's headers, as they are.
struct forward forward_all(const struct call *c);
// Copies of those that any environment may get, for who works on when the call has gone. False: out of memory.
bool forward_copy(const struct call *c, struct arena *a, struct forward *out);

// Those that `env` gets, in the arena; they point to the strings of `from`. NULL in *out: none. False: out of memory.
bool forward_to(const struct forward *from, const struct env_config *env, struct arena *a, const struct pairs **out);

#endif
