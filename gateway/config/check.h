// SPDX-License-Identifier: Apache-2.0
// The checks that need more than one setting.
#ifndef ENVGATE_CONFIG_CHECK_H
#define ENVGATE_CONFIG_CHECK_H

#include "config/options.h"
#include "config/report.h"

// What the file gave of an environment (right or not), so that one mistake is not reported twice.
struct given {
  bool setting[SETTINGS_COUNT];  // by its row
  bool provider[PROVIDER_COUNT]; // that there was a key of that name
  bool entered[PROVIDER_COUNT];  // and that it was an object
};

// Checks an environment that was read; sets the provider and max_workers where the file left them to the gateway. The report's path is the environment's.
void check_environment(struct env_config *env, const struct given *given, struct report *r);

// Checks what all inline sources have in common: it may have more than one provider's object, and says nothing of what is launched.
void check_inline_common(struct env_config *env, const struct given *given, struct report *r);

// Checks what was read as a whole.
void check_gateway(const struct config *c, struct report *r);

#endif
