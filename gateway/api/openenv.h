// SPDX-License-Identifier: Apache-2.0
// OpenEnv's own HTTP API (front/http_openenv.c): its bodies as messages, and what a worker said as the answer.
#ifndef ENVGATE_API_OPENENV_H
#define ENVGATE_API_OPENENV_H

#include "envgate/v1/session_service.pb-c.h"
#include "rpc/rpc.h"
#include "session/session.h"

// Where the bodies are read to. Everything lies in the arena or the body.
struct openenv_read {
  struct arena *arena;
  int max_depth;
  // Why a body is refused: the items of FastAPI's "detail", which is what OpenEnv's servers answer with; "" with a false return: out of memory.
  struct str problem;
};

// The body of POST /reset: an object, or nothing. The session's name is the caller's to set. False: r->problem.
bool openenv_reset_read(struct openenv_read *r, struct str body, Envgate__V1__ResetRequest *q);

// The body of POST /step. A request_id makes a retry safe, as in Step; members that no worker gets by WebSocket are left out.
bool openenv_step_read(struct openenv_read *r, struct str body, Envgate__V1__StepRequest *q);

// A JSON-RPC request, as far as the gateway looks at it.
struct openenv_rpc {
  bool valid;            // it is JSON, an object that nests no deeper than allowed
  struct str id;         // a JSON value: "null" if there is none
  struct str method;     // text; "": none
  struct str session_id; // params.session_id as text; "": none
};

// False: out of memory.
bool openenv_rpc_read(struct openenv_read *r, struct str body, struct openenv_rpc *q);

enum {
  JSONRPC_PARSE_ERROR = -32700,
  JSONRPC_INVALID_REQUEST = -32600,
  JSONRPC_INVALID_PARAMS = -32602,
  JSONRPC_INTERNAL = -32603,
  JSONRPC_SERVER = -32000
};

// Appends a JSON-RPC error in answer to a request; `reason` (may be NULL) goes into its data. False when out of memory.
bool openenv_rpc_error(const struct openenv_rpc *q, int code, struct str message, const char *reason, struct buf *out);
// The same for the result {"session_id": id}, and `more` members of it.
bool openenv_rpc_session(const struct openenv_rpc *q, struct str id, struct str more, struct buf *out);

// Ends a call of CODEC_OPENENV by what its work led to; one of the two may be NULL. In place of a message goes what the worker said. With an error that is the list of
// what was wrong with an action, if it is one, and nothing else.
void openenv_finish(struct call *c, const struct outcome *o, const struct err *e);

#endif
