// SPDX-License-Identifier: Apache-2.0
// Errors: a gRPC status code, a stable reason and a message.
//
// A function that can fail takes a `struct err *` as its last parameter and returns false (or NULL). The fault is described once,
// where it is found; nobody on the way up adds to it. It is mapped to HTTP once, at the front. Whoever ends a call logs it.
// Messages are for callers: they name the field, the limit and the way out, and never hold a payload or a secret.
#ifndef ENVGATE_BASE_ERR_H
#define ENVGATE_BASE_ERR_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>

// https://grpc.github.io/grpc/core/md_doc_statuscodes.html
enum code {
  CODE_OK = 0,
  CODE_CANCELLED = 1,
  CODE_UNKNOWN = 2,
  CODE_INVALID_ARGUMENT = 3,
  CODE_DEADLINE_EXCEEDED = 4,
  CODE_NOT_FOUND = 5,
  CODE_ALREADY_EXISTS = 6,
  CODE_PERMISSION_DENIED = 7,
  CODE_RESOURCE_EXHAUSTED = 8,
  CODE_FAILED_PRECONDITION = 9,
  CODE_ABORTED = 10,
  CODE_OUT_OF_RANGE = 11,
  CODE_UNIMPLEMENTED = 12,
  CODE_INTERNAL = 13,
  CODE_UNAVAILABLE = 14,
  CODE_DATA_LOSS = 15,
  CODE_UNAUTHENTICATED = 16,
};

// Every reason there is: stable names for callers (google.rpc.ErrorInfo.reason), with what they mean. docs/API.md lists each;
// a test compares.
#define ERR_REASONS(X)                                                                                               \
  X(INVALID_REQUEST, "The request is malformed: its syntax, a field's type or value, an unknown field.")             \
  X(MESSAGE_TOO_LARGE, "A message is over its limit.")                                                               \
  X(JSON_TOO_DEEP, "A message or payload nests deeper than its limit.")                                              \
  X(INVALID_ACTION, "The environment refused the action or the arguments of reset; the session goes on.")            \
  X(TENSOR_MISMATCH, "What a reply has at a path of `tensors` is no array of that dtype. The call was carried out.") \
  X(METHOD_NOT_FOUND, "There is no such method or path.")                                                            \
  X(MEDIA_TYPE, "The request's content type is not one that the path takes.")                                        \
  X(ENVIRONMENT_NOT_FOUND, "No environment of that name is configured.")                                             \
  X(WORKER_NOT_FOUND, "There is no such worker: it never was, or ended too long ago.")                               \
  X(SESSION_NOT_FOUND, "There is no such session: it never was, was closed, or its lease ran out.")                  \
  X(CREDENTIALS_MISSING, "The call needs a credential and has none: a bearer token or a client certificate.")        \
  X(CREDENTIALS_UNKNOWN, "The token or the client certificate's names are not (any more) in auth_file.")             \
  X(SCOPE_DENIED, "The caller's scope does not allow the method.")                                                   \
  X(QUOTA_EXCEEDED, "The principal has its quota of sessions, of calls at a time or of calls a second.")             \
  X(SESSION_LOST, "The session's worker or the connection to it is gone, and the episode with it.")                  \
  X(SESSION_CLOSED, "The session was closed while the call waited or ran.")                                          \
  X(QUEUE_FULL, "Too many calls wait on the session.")                                                               \
  X(CREDIT_EXCEEDED, "More requests were sent on an Interact stream than it had granted.")                           \
  X(NO_CAPACITY, "Every worker is full and no more may be launched.")                                                \
  X(WORKER_START_FAILED, "The worker could not be launched, died at start, or was not ready in time.")               \
  X(WORKER_UNREACHABLE, "No connection to the worker.")                                                              \
  X(ENV_FACTORY_FAILED, "The worker could not make the environment.")                                                \
  X(ENV_EXCEPTION, "The environment raised an exception; the session goes on.")                                      \
  X(WORKER_PROTOCOL, "The worker sent what the protocol does not allow.")                                            \
  X(STEP_IN_PROGRESS, "The deadline passed while the call ran. It goes on; the same request_id collects its reply.") \
  X(STEP_NOT_STARTED, "The deadline passed before the call began. It will not run; send it again.")                  \
  X(REPLIES_UNREAD, "The caller took nothing of the large replies that wait for it.")                                \
  X(DEADLINE, "The deadline passed.")                                                                                \
  X(TOOLS_NOT_SUPPORTED, "The environment has no tools, or its worker's OpenEnv is older than 0.2.3.")               \
  X(TOOL_NOT_FOUND, "The environment has no tool of that name.")                                                     \
  X(TOOL_FAILED, "The worker answered the tool's call with a JSON-RPC error; ErrorInfo's metadata has its code.")    \
  X(CANCELLED, "The caller went away or cancelled.")                                                                 \
  X(EPISODE_MISMATCH, "The session is in another episode than episode_id says.")                                     \
  X(STEP_INDEX_MISMATCH, "The session's next step is another than step_index says.")                                 \
  X(REQUEST_ID_REUSED, "The request_id was used before, for another request.")                                       \
  X(SOURCE_NOT_ALLOWED, "The configuration does not allow sessions of that source (inline_sources).")                \
  X(SCHEMA_NOT_PUBLISHED, "The worker publishes no schemas, or no metadata.")                                        \
  X(DRAINING, "The gateway is shutting down and takes no new sessions.")                                             \
  X(OUT_OF_MEMORY, "The gateway could not allocate memory for the call.")                                            \
  X(INTERNAL, "A fault of the gateway's own.")

// REASON_X is the string "X".
#define X(name, help) extern const char REASON_##name[];
ERR_REASONS(X)
#undef X

struct err {
  enum code code;
  const char *reason;      // one of REASON_…; NULL: none
  uint32_t retry_after_ms; // for google.rpc.RetryInfo; 0: none
  int32_t jsonrpc_code;    // of a JSON-RPC error, for ErrorInfo's metadata; 0: none
  char field[160];         // for google.rpc.BadRequest: the path of the field; "": none
  char msg[2048];          // UTF-8
};

// Makes `e` no error. Cheaper than clearing the whole of it.
static inline void err_clear(struct err *e)
{
  e->code = CODE_OK;
  e->reason = (void *)0;
  e->retry_after_ms = 0;
  e->jsonrpc_code = 0;
  e->field[0] = e->msg[0] = '\0';
}

// Fills `e` (which may be NULL) and returns false, for `return err_set(…)`. What is too long is cut at a character's start.
bool err_set(struct err *e, enum code code, const char *reason, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

// The same for INVALID_ARGUMENT of one field: `field` is its path in the request, as in "action" or "options.x".
bool err_field(struct err *e, const char *reason, const char *field, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

// OUT_OF_MEMORY. Returns false.
bool err_nomem(struct err *e);

// "INVALID_ARGUMENT" and so on; "UNKNOWN" for what is none of them.
const char *code_name(enum code code);

// The HTTP status for a code, as google.rpc.Code's comments give it (499 for CANCELLED).
int code_http_status(enum code code);

#endif
