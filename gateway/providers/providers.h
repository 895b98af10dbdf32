// SPDX-License-Identifier: Apache-2.0
// Every provider there is. A new one gets a row in provider.c.
#ifndef ENVGATE_PROVIDERS_PROVIDERS_H
#define ENVGATE_PROVIDERS_PROVIDERS_H

#include "providers/provider.h"

extern const struct provider provider_static, provider_process, provider_builtin, provider_uv, provider_docker;

#endif
