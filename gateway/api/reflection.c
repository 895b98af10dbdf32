// SPDX-License-Identifier: Apache-2.0
// The two versions differ in their package's name only, so replies are built of v1's messages for both: on the wire they are the same.
#include "api/reflection.h"

#include <stdlib.h>

#include "grpc/reflection/v1/reflection.pb-c.h"
#include "grpc/reflection/v1alpha/reflection.pb-c.h"

typedef Grpc__Reflection__V1__ServerReflectionRequest request;
typedef Grpc__Reflection__V1alpha__ServerReflectionRequest request_alpha;
typedef Grpc__Reflection__V1__ExtensionRequest extension_request;
typedef Grpc__Reflection__V1__ServerReflectionResponse response;

#define ASKS(what) GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_##what
#define ASKS_ALPHA(what) GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_##what
#define ANSWERS(what) GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_##what

enum { REPLY_MAX = 1 << 20 }; // memory for one reply's structs; the files themselves are not copied

// A call's state: which files its caller has.
struct files_sent {
  const struct rpc_api *api;
  bool *file; // by place in its files
};

// protobuf-c's members are not const, and it never writes to what it packs.
#define UNCONST(type, p) ((type *)(uintptr_t)(p))

// --- answers: each fills `to` or returns false when out of memory ----------------------------------------------------------------------------

static bool answer_error(response *to, enum code code, const char *text, struct arena *a)
{
  Grpc__Reflection__V1__ErrorResponse *error = arena_alloc(a, sizeof *error);
  if (!error)
    return false;
  grpc__reflection__v1__error_response__init(error);
  error->error_code = (int32_t)code;
  error->error_message = UNCONST(char, text);
  to->message_response_case = ANSWERS(ERROR_RESPONSE);
  to->error_response = error;
  return true;
}

// The file, and those that it imports as far as the caller does not have them.
static bool answer_file(response *to, int file, struct files_sent *sent, struct arena *a)
{
  if (file < 0)
    return answer_error(to, CODE_NOT_FOUND, "there is no such file, symbol or extension here", a);
  const struct rpc_api *api = sent->api;
  Grpc__Reflection__V1__FileDescriptorResponse *files = arena_alloc(a, sizeof *files);
  bool *wanted = arena_alloc(a, (size_t)api->file_count * sizeof *wanted);
  ProtobufCBinaryData *bytes = arena_alloc(a, (size_t)api->file_count * sizeof *bytes);
  if (!files || !wanted || !bytes)
    return false;
  grpc__reflection__v1__file_descriptor_response__init(files);
  files->file_descriptor_proto = bytes;
  wanted[file] = true;
  // Imports stand before their importers.
  for (int i = file; i >= 0; i--) {
    if (!wanted[i])
      continue;
    for (int k = 0; k < api->files[i].import_count; k++)
      wanted[api->files[i].imports[k]] = true;
    if (i != file && sent->file[i])
      continue;
    sent->file[i] = true;
    bytes[files->n_file_descriptor_proto++] = (ProtobufCBinaryData){api->files[i].n, UNCONST(uint8_t, api->files[i].bytes)};
  }
  to->message_response_case = ANSWERS(FILE_DESCRIPTOR_RESPONSE);
  to->file_descriptor_response = files;
  return true;
}

static int file_by_name(const struct rpc_api *api, const char *name)
{
  for (int i = 0; i < api->file_count; i++)
    if (strcmp(api->files[i].name, name) == 0)
      return i;
  return -1;
}

static int by_name(const void *name, const void *symbol)
{
  return strcmp(name, ((const struct rpc_symbol *)symbol)->name);
}

static int file_by_symbol(const struct rpc_api *api, const char *name)
{
  const struct rpc_symbol *found = bsearch(name, api->symbols, (size_t)api->symbol_count, sizeof *api->symbols, by_name);
  return found ? found->file : -1;
}

static int file_by_extension(const struct rpc_api *api, const extension_request *ask)
{
  for (int i = 0; i < api->extension_count; i++)
    if (api->extensions[i].number == ask->extension_number && strcmp(api->extensions[i].extended, ask->containing_type) == 0)
      return api->extensions[i].file;
  return -1;
}

static bool answer_extensions(response *to, const struct rpc_api *api, const char *type, struct arena *a)
{
  if (file_by_symbol(api, type) < 0)
    return answer_error(to, CODE_NOT_FOUND, "there is no such type here", a);
  Grpc__Reflection__V1__ExtensionNumberResponse *numbers = arena_alloc(a, sizeof *numbers);
  int32_t *number = arena_alloc(a, ((size_t)api->extension_count + 1) * sizeof *number);
  if (!numbers || !number)
    return false;
  grpc__reflection__v1__extension_number_response__init(numbers);
  numbers->base_type_name = UNCONST(char, type);
  numbers->extension_number = number;
  for (int i = 0; i < api->extension_count; i++)
    if (strcmp(api->extensions[i].extended, type) == 0)
      number[numbers->n_extension_number++] = api->extensions[i].number;
  to->message_response_case = ANSWERS(ALL_EXTENSION_NUMBERS_RESPONSE);
  to->all_extension_numbers_response = numbers;
  return true;
}

static bool answer_services(response *to, const struct rpc_api *api, struct arena *a)
{
  Grpc__Reflection__V1__ListServiceResponse *services = arena_alloc(a, sizeof *services);
  Grpc__Reflection__V1__ServiceResponse **all = arena_alloc(a, (size_t)api->method_count * sizeof *all);
  if (!services || !all)
    return false;
  grpc__reflection__v1__list_service_response__init(services);
  services->service = all;
  for (int i = 0; i < api->method_count; i++) {
    if (i > 0 && strcmp(api->methods[i].service, api->methods[i - 1].service) == 0)
      continue; // methods of a service stand together
    Grpc__Reflection__V1__ServiceResponse *service = arena_alloc(a, sizeof *service);
    if (!service)
      return false;
    grpc__reflection__v1__service_response__init(service);
    service->name = UNCONST(char, api->methods[i].service);
    all[services->n_service++] = service;
  }
  to->message_response_case = ANSWERS(LIST_SERVICES_RESPONSE);
  to->list_services_response = services;
  return true;
}

static bool answer(response *to, const request *ask, struct files_sent *sent, struct arena *a)
{
  switch (ask->message_request_case) {
  case ASKS(FILE_BY_FILENAME):
    return answer_file(to, file_by_name(sent->api, ask->file_by_filename), sent, a);
  case ASKS(FILE_CONTAINING_SYMBOL):
    return answer_file(to, file_by_symbol(sent->api, ask->file_containing_symbol), sent, a);
  case ASKS(FILE_CONTAINING_EXTENSION):
    return answer_file(to, file_by_extension(sent->api, ask->file_containing_extension), sent, a);
  case ASKS(ALL_EXTENSION_NUMBERS_OF_TYPE):
    return answer_extensions(to, sent->api, ask->all_extension_numbers_of_type, a);
  case ASKS(LIST_SERVICES):
    return answer_services(to, sent->api, a);
  case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST__NOT_SET:
  default:
    return answer_error(to, CODE_INVALID_ARGUMENT, "message_request is not set", a);
  }
}

// --- the calls -----------------------------------------------------------------------------------------------------------------------------

static void fail_nomem(struct call *c)
{
  struct err e;
  err_nomem(&e);
  rpc_finish(c, NULL, &e);
}

static void start(struct call *c)
{
  struct files_sent *sent = arena_alloc(&c->arena, sizeof *sent);
  if (sent) {
    sent->api = rpc_api(c->owner);
    sent->file = arena_alloc(&c->arena, (size_t)sent->api->file_count * sizeof *sent->file);
  }
  c->state = sent;
  if (!sent || !sent->file)
    fail_nomem(c);
}

static void reply(struct call *c, request *ask)
{
  struct arena a;
  arena_init(&a, REPLY_MAX);
  response to;
  grpc__reflection__v1__server_reflection_response__init(&to);
  to.valid_host = ask->host;
  to.original_request = ask;
  bool ok = answer(&to, ask, c->state, &a) && call_send(c, &to.base);
  arena_free(&a);
  if (!ok)
    fail_nomem(c);
}

static void message(struct call *c, const ProtobufCMessage *m)
{
  reply(c, UNCONST(request, m));
}

static void message_alpha(struct call *c, const ProtobufCMessage *m)
{
  const request_alpha *from = (const request_alpha *)(const void *)m;
  request to;
  extension_request extension;
  grpc__reflection__v1__server_reflection_request__init(&to);
  grpc__reflection__v1__extension_request__init(&extension);
  to.host = from->host;
  switch (from->message_request_case) {
  case ASKS_ALPHA(FILE_BY_FILENAME):
    to.message_request_case = ASKS(FILE_BY_FILENAME);
    to.file_by_filename = from->file_by_filename;
    break;
  case ASKS_ALPHA(FILE_CONTAINING_SYMBOL):
    to.message_request_case = ASKS(FILE_CONTAINING_SYMBOL);
    to.file_containing_symbol = from->file_containing_symbol;
    break;
  case ASKS_ALPHA(FILE_CONTAINING_EXTENSION):
    extension.containing_type = from->file_containing_extension->containing_type;
    extension.extension_number = from->file_containing_extension->extension_number;
    to.message_request_case = ASKS(FILE_CONTAINING_EXTENSION);
    to.file_containing_extension = &extension;
    break;
  case ASKS_ALPHA(ALL_EXTENSION_NUMBERS_OF_TYPE):
    to.message_request_case = ASKS(ALL_EXTENSION_NUMBERS_OF_TYPE);
    to.all_extension_numbers_of_type = from->all_extension_numbers_of_type;
    break;
  case ASKS_ALPHA(LIST_SERVICES):
    to.message_request_case = ASKS(LIST_SERVICES);
    to.list_services = from->list_services;
    break;
  case GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST__NOT_SET:
  default:
    break;
  }
  reply(c, &to);
}

static void half_close(struct call *c)
{
  rpc_finish(c, NULL, NULL);
}

const struct rpc_handler reflection_handlers[] = {
    {.path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", .start = start, .message = message, .half_close = half_close},
    {.path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", .start = start, .message = message_alpha, .half_close = half_close},
    {.path = NULL},
};
