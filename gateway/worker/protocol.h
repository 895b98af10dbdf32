// SPDX-License-Identifier: Apache-2.0
// OpenEnv's worker protocol, both dialects, as bytes: no I/O here (../../docs/ARCHITECTURE.md; facts in shared/openenv-protocol.md).
#ifndef ENVGATE_WORKER_PROTOCOL_H
#define ENVGATE_WORKER_PROTOCOL_H

#include "base/buf.h"
#include "base/err.h"
#include "base/str.h"

enum worker_dialect {
  DIALECT_WS,   // openenv >= 0.2: a WebSocket is a session
  DIALECT_HTTP, // openenv-core 0.1.x: the worker is one session, over plain HTTP
};

enum worker_op {
  OP_RESET,
  OP_STEP,
  OP_STATE,
  OP_MCP,
  OP_OTHER, // whatever the worker makes of it: only in a caller's own words (`words`)
};

// What a call asks of the worker.
struct worker_request {
  enum worker_op op;
  struct str action; // OP_STEP: one valid JSON value, sent as it is. OP_MCP: a JSON-RPC request, a valid JSON object; not for plain HTTP
  bool has_seed;     // OP_RESET …
  int64_t seed;
  struct str episode_id;       // "": the worker chooses
  struct str options;          // a valid JSON object, or "": its members go beside seed and episode_id
  const struct pairs *headers; // the caller's, for plain HTTP; NULL: none
  // The WebSocket message as a caller wrote it who speaks this protocol: it is sent as it is, whatever it is, in place of one made of the fields above, which a plain
  // HTTP worker gets. NULL: none; it may be empty.
  struct str words;
  bool words_only; // the fields can't say it, so that a plain HTTP worker can't be asked
};

// What came back. Spans point into the reply's bytes.
enum worker_reply_kind { REPLY_OBSERVATION, REPLY_STATE, REPLY_MCP, REPLY_OTHER, REPLY_ERROR };
struct worker_reply {
  enum worker_reply_kind kind;
  // What the worker said, whatever it is: a WebSocket message's `data`, or the whole body of an HTTP reply. Valid JSON, but for an error's body. "": a message
  // that made no sense. REPLY_MCP: a JSON-RPC response, an object.
  struct str raw;
  struct str observation, metadata; // JSON; metadata may be ""
  bool has_reward;
  double reward;
  bool done;
  bool has_terminated, terminated, has_truncated, truncated; // where the reply or its metadata has them as booleans
  struct str state;                                          // REPLY_STATE: JSON
  struct str episode_id;                                     // raw (escaped) string, where the reply, its metadata or its state has one; else ""
  struct err err;                                            // REPLY_ERROR: what the caller gets
  bool session_ended;   // REPLY_ERROR: the worker has given the session up (SESSION_ERROR, FACTORY_ERROR, CAPACITY_REACHED)
  bool capacity;        // REPLY_ERROR: CAPACITY_REACHED
  int64_t max_sessions; // with capacity: what the worker takes; 0: it did not say
};

enum { WORKER_REQUEST_PIECES = 3 };

// The WebSocket message as pieces: the caller's bytes lie between our own. `own` (empty, a max set) holds what we write; the pieces point into it and
// into the request. Returns the number of pieces, 0 when out of memory.
int protocol_ws_request(const struct worker_request *q, struct buf *own, struct str pieces[WORKER_REQUEST_PIECES]);

// The HTTP request: method, path and (for POST) the body appended to `body`. False when out of memory.
bool protocol_http_request(const struct worker_request *q, const char **method, const char **path, struct buf *body);

// Reads one WebSocket message as the reply to `op`, in one pass that validates all of it (syntax, UTF-8, depth). What is not a valid reply to op becomes
// REPLY_ERROR with WORKER_PROTOCOL and session_ended. Never fails otherwise.
void protocol_ws_reply(enum worker_op op, struct str message, int max_depth, struct worker_reply *reply);

// The same for an HTTP reply's status and body: 422 and validation errors are INVALID_ACTION with the field that the worker names, other 5xx ENV_EXCEPTION.
void protocol_http_reply(enum worker_op op, int status, struct str body, int max_depth, struct worker_reply *reply);

#endif
