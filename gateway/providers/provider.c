// SPDX-License-Identifier: Apache-2.0
#include "providers/provider.h"

#include <string.h>

#include "providers/providers.h"

static const struct provider *const providers[] = {
    &provider_static, &provider_process, &provider_builtin, &provider_uv, &provider_docker,
};

const struct provider *provider_find(const char *name)
{
  for (size_t i = 0; i < sizeof providers / sizeof *providers; i++)
    if (strcmp(providers[i]->name, name) == 0)
      return providers[i];
  return NULL;
}
