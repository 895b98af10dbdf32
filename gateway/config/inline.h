// SPDX-License-Identifier: Apache-2.0
// Environments that a caller names in a request, as far as the configuration's inline_sources allow it.
//
// Equal sources have equal names, so that their callers share workers.
#ifndef ENVGATE_CONFIG_INLINE_H
#define ENVGATE_CONFIG_INLINE_H

#include "config/config.h"

enum source_kind { SOURCE_IMAGE, SOURCE_SPACE, SOURCE_SPACE_UV, SOURCE_PROJECT_URL, SOURCE_PATH };

struct inline_source {
  enum source_kind kind;
  const char *what;      // the image, space, URL or path
  const char *app;       // uv only; "": none
  int64_t port;          // docker only; 0: none
  struct pairs env_vars; // borrowed
};

// Makes its environment, with one hold. NULL with `e`: PERMISSION_DENIED (SOURCE_NOT_ALLOWED), INVALID_ARGUMENT, or out of memory. On any thread.
struct env_config *inline_env(const struct config *c, const struct inline_source *source, struct err *e);

// Another hold on it, and one less, on any thread; nothing for environments of the configuration.
void env_hold(const struct env_config *env);
void env_release(const struct env_config *env);
static inline bool env_is_inline(const struct env_config *env)
{
  return env->holds != NULL;
}

#endif
