// SPDX-License-Identifier: Apache-2.0
// What somebody may have meant by a key that does not exist.
#ifndef ENVGATE_CONFIG_SUGGEST_H
#define ENVGATE_CONFIG_SUGGEST_H

#include "config/options.h"

// Writes ", did you mean …?" for a near key of the same object, or where the key does belong. Writes "" when nothing is near.
void suggest(enum setting_scope scope, const char *provider, struct str key, char *hint, size_t size);

#endif
