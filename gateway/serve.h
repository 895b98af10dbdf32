// SPDX-License-Identifier: Apache-2.0
// `envgate serve`: the reactors, from their start to the drain.
#ifndef ENVGATE_SERVE_H
#define ENVGATE_SERVE_H

#include "config/config.h"

// Serves until SIGTERM or SIGINT, then drains; a second signal ends the drain's patience. Returns the exit code: 0 after a drain, 1 when it could not start (the
// reason is on standard error).
int serve(const struct config *c);

#endif
