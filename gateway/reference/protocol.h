// SPDX-License-Identifier: Apache-2.0
// OpenEnv's protocol as a server speaks it: a request's bytes in, what to answer out. No I/O; see shared/openenv-protocol.md for what was measured.
#ifndef ENVGATE_REFERENCE_PROTOCOL_H
#define ENVGATE_REFERENCE_PROTOCOL_H

#include "base/buf.h"
#include "reference/env.h"
#include "reference/options.h"
#include "reference/request.h"

// What becomes of a request.
enum ref_verdict {
  REF_SEND,        // `text`
  REF_SEND_TWICE,  // `text`, two times (HTTP: once)
  REF_SEND_BINARY, // `text` as a binary frame (HTTP: as application/octet-stream)
  REF_SEND_CLOSE,  // `text`, then the session's end with close 1000
  REF_CLOSE,       // no reply; the session's end with close `code` (HTTP: as REF_DROP)
  REF_DROP,        // no reply; the connection ends without another word. Also what becomes of a request when memory runs out
  REF_HANG,        // no reply ever
  REF_EXIT,        // the process ends with exit status `code`
};

struct ref_reply {
  enum ref_verdict verdict;
  int code;
  int status;        // HTTP
  uint32_t delay_ms; // before the verdict is carried out; the environment has done its part already
  struct buf text;   // the caller's: it is appended to, and the caller frees it
};

// What is needed to answer, for all sessions of a thread. ref_protocol_free frees the scratch memory.
struct ref_protocol {
  const struct ref_options *options;
  struct ref_result result;
  struct buf errors;
};

void ref_protocol_free(struct ref_protocol *p);

// Answers one WebSocket text message (valid UTF-8) on a session's environment.
void ref_ws_message(struct ref_protocol *p, struct ref_env *env, struct str message, struct ref_reply *reply);
// Answers what comes instead of a text message: a binary frame.
void ref_ws_binary(struct ref_reply *reply);
// What a new connection gets when all `capacity` sessions are taken.
void ref_ws_capacity(const struct ref_protocol *p, struct ref_reply *reply);

// The HTTP methods. `body` is empty where there was none; `env` is the process's own or one that lasts for this request.
void ref_http_reset(struct ref_protocol *p, struct ref_env *env, struct str body, struct ref_reply *reply);
void ref_http_step(struct ref_protocol *p, struct ref_env *env, struct str body, struct ref_reply *reply);
void ref_http_state(struct ref_protocol *p, struct ref_env *env, struct str body, struct ref_reply *reply);
void ref_http_mcp(struct ref_protocol *p, struct ref_env *env, struct str body, struct ref_reply *reply);
void ref_http_health(struct ref_protocol *p, struct ref_env *env, struct str body, struct ref_reply *reply);
void ref_http_schema(struct ref_protocol *p, struct ref_env *env, struct str body, struct ref_reply *reply);
void ref_http_metadata(struct ref_protocol *p, struct ref_env *env, struct str body, struct ref_reply *reply);

#endif
