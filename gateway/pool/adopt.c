// SPDX-License-Identifier: Apache-2.0
// Taking over the workers that an earlier life of the gateway left running as it was killed.
#include <stdlib.h>

#include "pool/pools.h"
#include "runtime/log.h"

// The number in a worker's id as fleet.c makes it; 0: it is none.
static uint64_t number_of(const char *id)
{
  char *end = NULL;
  unsigned long long n = id[0] == 'w' && id[1] >= '1' && id[1] <= '9' ? strtoull(id + 1, &end, 10) : 0;
  return end && !*end && n < UINT64_MAX / 2 ? n : 0;
}

static bool on_found(void *ctx, const struct env_config *env, const char *worker_id, const char *handle)
{
  struct pools *ps = ctx;
  uint64_t number = number_of(worker_id);
  struct pool *p = pool_find(ps->reactor, str_c(env->name));
  if (!number || !p || !fleet_adopt(p, number, handle))
    return false;
  if (number > ps->workers_named)
    ps->workers_named = number;
  log_event(ps->reactor->log, LOG_INFO, "worker.adopted", LF_C("environment", env->name), LF_C("worker", worker_id), LF_C("handle", handle));
  return true;
}

static void on_listed(void *ctx)
{
  struct pools *ps = ctx;
  ps->listing = false;
  LIST_EACH (node, &ps->all) {
    pool_pump(pool_of(node));
  }
}

void pools_adopt(struct pools *ps)
{
  static const struct adoption_events events = {.found = on_found, .listed = on_listed};
  for (size_t i = 0; i < ps->n && !ps->adopter; i++)
    if (ps->at[i].provider->adopt)
      ps->adopter = ps->at[i].provider;
  if (ps->adopter)
    ps->adoption = ps->adopter->adopt(ps->reactor, ps->state.instance, ps->state.key, &events, ps);
  ps->listing = ps->adoption != NULL;
}

void pools_adopt_end(struct pools *ps)
{
  if (ps->adoption)
    ps->adopter->adopt_end(ps->adoption);
  ps->adoption = NULL;
  ps->listing = false;
}
