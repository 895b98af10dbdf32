// SPDX-License-Identifier: Apache-2.0
// A client of envgate in C: protobuf-c messages, over the Connect protocol by libcurl.
//
// One client is one connection and makes one call at a time; several clients may be used by several threads. Call curl_global_init() before the
// first one where the program has threads.
#ifndef ENVGATE_CONNECT_H
#define ENVGATE_CONNECT_H

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

// google.rpc.Code. ENVGATE_UNAVAILABLE, too, when there is no connection.
enum envgate_code {
  ENVGATE_OK,
  ENVGATE_CANCELLED,
  ENVGATE_UNKNOWN,
  ENVGATE_INVALID_ARGUMENT,
  ENVGATE_DEADLINE_EXCEEDED,
  ENVGATE_NOT_FOUND,
  ENVGATE_ALREADY_EXISTS,
  ENVGATE_PERMISSION_DENIED,
  ENVGATE_RESOURCE_EXHAUSTED,
  ENVGATE_FAILED_PRECONDITION,
  ENVGATE_ABORTED,
  ENVGATE_OUT_OF_RANGE,
  ENVGATE_UNIMPLEMENTED,
  ENVGATE_INTERNAL,
  ENVGATE_UNAVAILABLE,
  ENVGATE_DATA_LOSS,
  ENVGATE_UNAUTHENTICATED,
};

struct envgate_client;

// A client of the gateway at `url` ("http://127.0.0.1:8080"). `authorization` becomes that header's value; NULL: none. NULL: out of memory.
struct envgate_client *envgate_client_new(const char *url, const char *authorization);
void envgate_client_free(struct envgate_client *c);

// Calls a unary method by its name ("Step") and returns its reply, for the caller to cast to the method's output and to free by
// protobuf_c_message_free_unpacked(). NULL: it failed; envgate_code() and what follows say why. timeout_ms: the call's deadline; 0: none.
ProtobufCMessage *envgate_call(struct envgate_client *c, const ProtobufCServiceDescriptor *service, const char *method,
                               const ProtobufCMessage *request, long timeout_ms);

// Cancels the call that runs; it fails with ENVGATE_CANCELLED. May be called by any thread. Without effect when none runs.
void envgate_cancel(struct envgate_client *c);

// How the last call ended. The texts are the client's, until its next call.
enum envgate_code envgate_code(const struct envgate_client *c);
const char *envgate_message(const struct envgate_client *c);

// A detail that the last error carries, of the type that is asked for, such as google__rpc__error_info__descriptor; to be freed as a reply is.
// NULL: none.
ProtobufCMessage *envgate_detail(const struct envgate_client *c, const ProtobufCMessageDescriptor *type);

#ifdef __cplusplus
}
#endif

#endif
