// SPDX-License-Identifier: Apache-2.0
// The docker provider's part in adoption (providers/provider.h): which of the containers that an earlier life left fit the configuration.
#ifndef ENVGATE_PROVIDERS_DOCKER_ADOPT_H
#define ENVGATE_PROVIDERS_DOCKER_ADOPT_H

#include "providers/provider.h"

struct adoption *docker_adopt(struct reactor *r, const char *instance, const char *key, const struct adoption_events *events, void *ctx);
void docker_adopt_end(struct adoption *a);

#endif
