// SPDX-License-Identifier: Apache-2.0
// What each method asks of its caller. A method that is missing here can't be called once there are credentials (tests/unit/test_auth.c sees to it that none is).
#include "auth/credentials.h"

#define SESSION(method) "/envgate.v1.SessionService/" method
#define ENVIRONMENT(method) "/envgate.v1.EnvironmentService/" method
#define WORKER(method) "/envgate.v1.WorkerService/" method

static const struct {
  const char *path;
  unsigned scopes;
} methods[] = {
    {SESSION("CreateSession"), SCOPE_TRAINER},
    {SESSION("CreateSessions"), SCOPE_TRAINER},
    {SESSION("GetSession"), SCOPE_TRAINER},
    {SESSION("ListSessions"), SCOPE_TRAINER},
    {SESSION("CloseSession"), SCOPE_TRAINER},
    {SESSION("Reset"), SCOPE_TRAINER},
    {SESSION("Step"), SCOPE_TRAINER},
    {SESSION("StepBatch"), SCOPE_TRAINER},
    {SESSION("ResetBatch"), SCOPE_TRAINER},
    {SESSION("GetState"), SCOPE_TRAINER},
    {SESSION("Interact"), SCOPE_TRAINER},
    // OpenEnv's rule: an agent acts in the episode by tools, and can neither begin nor end one.
    {SESSION("CallTool"), SCOPE_AGENT},
    {SESSION("ListTools"), SCOPE_AGENT},
    {ENVIRONMENT("ListEnvironments"), SCOPE_TRAINER},
    {ENVIRONMENT("GetEnvironment"), SCOPE_TRAINER},
    {ENVIRONMENT("GetSchema"), SCOPE_TRAINER},
    {ENVIRONMENT("GetMetadata"), SCOPE_TRAINER},
    {ENVIRONMENT("GetProto"), SCOPE_TRAINER},
    {ENVIRONMENT("Preload"), SCOPE_ADMIN},
    {WORKER("ListWorkers"), SCOPE_ADMIN},
    {WORKER("GetWorker"), SCOPE_ADMIN},
    {WORKER("DrainWorker"), SCOPE_ADMIN},
    {WORKER("StopWorker"), SCOPE_ADMIN},
    {WORKER("StreamLogs"), SCOPE_ADMIN},
    // Probes and tools that learn the API have no credentials, and learn nothing that is not public.
    {"/grpc.health.v1.Health/Check", SCOPE_ANYONE},
    {"/grpc.health.v1.Health/List", SCOPE_ANYONE},
    {"/grpc.health.v1.Health/Watch", SCOPE_ANYONE},
    {"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", SCOPE_ANYONE},
    {"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", SCOPE_ANYONE},
};

unsigned scopes_of_method(struct str path)
{
  for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
    if (str_eq(path, str_c(methods[i].path)))
      return methods[i].scopes;
  return 0;
}

unsigned scope_parse(struct str name)
{
  if (str_eq(name, STR("agent")))
    return SCOPE_AGENT;
  if (str_eq(name, STR("trainer")))
    return SCOPE_TRAINER | SCOPE_AGENT;
  if (str_eq(name, STR("admin")))
    return SCOPE_ADMIN | SCOPE_TRAINER | SCOPE_AGENT;
  return 0;
}
