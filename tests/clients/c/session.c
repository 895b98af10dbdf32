// SPDX-License-Identifier: Apache-2.0
// The scripted session (tests/clients/README.md) in C, over Connect.
#include <envgate/v1/session_service.pb-c.h>
#include <envgate_connect.h>
#include <google/rpc/error_details.pb-c.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PAUSE_MS = 150 };

static struct envgate_client *client;

static const ProtobufCServiceDescriptor *service(void)
{
  return &envgate__v1__session_service__descriptor;
}

// A method's reply; a failure ends the program.
static void *must(const char *method, const ProtobufCMessage *request)
{
  void *reply = envgate_call(client, service(), method, request, 0);
  if (!reply) {
    fprintf(stderr, "%s: %s\n", method, envgate_message(client));
    exit(1);
  }
  return reply;
}

// The code with which it fails.
static int failure(const char *method, const ProtobufCMessage *request, long timeout_ms)
{
  if (envgate_call(client, service(), method, request, timeout_ms)) {
    fprintf(stderr, "%s did not fail\n", method);
    exit(1);
  }
  return (int)envgate_code(client);
}

static void done(void *reply)
{
  protobuf_c_message_free_unpacked(reply, NULL);
}

static void print_json(const char *before, const Envgate__V1__Payload *p)
{
  printf("%s%.*s\n", before, (int)p->json.len, (const char *)p->json.data);
}

static bool show(const char *what, Envgate__V1__StepResult *r)
{
  bool over = r->done;
  printf("%s %lld reward %.2f done %d ", what, (long long)r->step_index, r->reward, over);
  print_json("", r->observation);
  done(r);
  return over;
}

static Envgate__V1__Session *create(char *environment)
{
  Envgate__V1__CreateSessionRequest request = ENVGATE__V1__CREATE_SESSION_REQUEST__INIT;
  request.environment = environment;
  return must("CreateSession", &request.base);
}

static bool reset(char *session, int seed, char *episode)
{
  Envgate__V1__ResetRequest request = ENVGATE__V1__RESET_REQUEST__INIT;
  request.session = session;
  request._seed_case = ENVGATE__V1__RESET_REQUEST___SEED_SEED;
  request.seed = seed;
  request.episode_id = episode;
  return show("reset", must("Reset", &request.base));
}

// A Step request, which lives in the two that it is given.
static const ProtobufCMessage *step(Envgate__V1__StepRequest *request, Envgate__V1__Payload *payload, char *session, char *action, char *request_id)
{
  envgate__v1__step_request__init(request);
  envgate__v1__payload__init(payload);
  payload->form_case = ENVGATE__V1__PAYLOAD__FORM_JSON;
  payload->json = (ProtobufCBinaryData){strlen(action), (uint8_t *)action};
  request->session = session;
  request->action = payload;
  request->request_id = request_id;
  return &request->base;
}

static void collect(const ProtobufCMessage *request)
{
  Envgate__V1__StepResult *result = must("Step", request);
  print_json("collected ", result->metadata);
  done(result);
}

static void *cancel_soon(void *arg)
{
  (void)arg;
  nanosleep(&(struct timespec){0, PAUSE_MS * 1000000L}, NULL);
  envgate_cancel(client);
  return NULL;
}

static void late_and_cancelled(char *session)
{
  Envgate__V1__StepRequest request;
  Envgate__V1__Payload payload;
  pthread_t thread;
  char late[] = "{\"message\": \"late\"}", never[] = "{\"message\": \"never mind\"}";
  step(&request, &payload, session, late, (char[]){"late"});
  printf("deadline %d\n", failure("Step", &request.base, PAUSE_MS));
  collect(&request.base);
  step(&request, &payload, session, never, (char[]){"never"});
  if (pthread_create(&thread, NULL, cancel_soon, NULL) != 0)
    exit(1);
  printf("cancel %d\n", failure("Step", &request.base, 0));
  pthread_join(thread, NULL);
  collect(&request.base);
}

static void large(char *session)
{
  enum { SIZE = 3 << 20, HEAD = 64 };
  char *action = malloc(SIZE + HEAD);
  if (!action)
    exit(1);
  size_t n = (size_t)sprintf(action, "{\"message\": \"large\", \"data\": \"");
  for (int i = 0; i < SIZE; i++)
    action[n++] = (char)('a' + i % 26);
  strcpy(action + n, "\"}");
  Envgate__V1__StepRequest request;
  Envgate__V1__Payload payload;
  Envgate__V1__StepResult *result = must("Step", step(&request, &payload, session, action, (char[]){""}));
  const ProtobufCBinaryData *json = &result->observation->json;
  uint32_t hash = 2166136261;
  for (size_t i = 0; i < json->len; i++)
    hash = (hash ^ json->data[i]) * 16777619;
  printf("large %zu %08x\n", json->len, hash);
  done(result);
  free(action);
}

int main(int argc, char **argv)
{
  char url[128];
  if (argc != 2)
    return 2;
  snprintf(url, sizeof url, "http://%s", argv[1]);
  client = envgate_client_new(url, NULL);
  if (!client)
    return 1;

  Envgate__V1__Session *session = create((char[]){"cartpole"});
  printf("create %s %d\n", session->environment, (int)session->state);
  bool over = reset(session->name, 7, (char[]){"episode-1"});
  Envgate__V1__StepRequest request;
  Envgate__V1__Payload payload;
  for (int i = 0; i < 50; i++) {
    char action[32], id[32];
    if (over)
      reset(session->name, 8, (char[]){"episode-2"});
    snprintf(action, sizeof action, "{\"action\": %d}", i % 2);
    snprintf(id, sizeof id, "step-%d", i);
    over = show("step", must("Step", step(&request, &payload, session->name, action, id)));
  }
  Envgate__V1__GetStateRequest get_state = ENVGATE__V1__GET_STATE_REQUEST__INIT;
  get_state.session = session->name;
  Envgate__V1__GetStateResponse *state = must("GetState", &get_state.base);
  print_json("state ", state->state);
  done(state);

  int code = failure("Step", step(&request, &payload, session->name, (char[]){"{\"action\": 7}"}, (char[]){""}), 0);
  Google__Rpc__ErrorInfo *info = (void *)envgate_detail(client, &google__rpc__error_info__descriptor);
  Google__Rpc__BadRequest *bad = (void *)envgate_detail(client, &google__rpc__bad_request__descriptor);
  if (!info || !bad || !bad->n_field_violations)
    return 1;
  printf("invalid %d %s %s %s\n", code, info->reason, info->domain, bad->field_violations[0]->field);
  done(info);
  done(bad);

  Envgate__V1__Session *slow = create((char[]){"slow"}), *echo = create((char[]){"echo"});
  late_and_cancelled(slow->name);
  large(echo->name);

  Envgate__V1__Session *all[] = {session, slow, echo};
  for (int i = 0; i < 3; i++) {
    Envgate__V1__CloseSessionRequest close = ENVGATE__V1__CLOSE_SESSION_REQUEST__INIT;
    close.name = all[i]->name;
    done(must("CloseSession", &close.base));
  }
  Envgate__V1__GetSessionRequest get = ENVGATE__V1__GET_SESSION_REQUEST__INIT;
  get.name = session->name;
  code = failure("GetSession", &get.base, 0);
  info = (void *)envgate_detail(client, &google__rpc__error_info__descriptor);
  printf("closed %d %s\n", code, info ? info->reason : "");
  done(info);
  for (int i = 0; i < 3; i++)
    done(all[i]);
  envgate_client_free(client);
  return 0;
}
