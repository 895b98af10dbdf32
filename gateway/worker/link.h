// SPDX-License-Identifier: Apache-2.0
// A session's line to its worker, whatever the dialect: one request at a time, and one reply or one end for each.
//
// Replies carry no ids, so order is all that ties them to requests. A link therefore never takes a second request before the first is answered, and
// whatever comes unasked ends it.
#ifndef ENVGATE_WORKER_LINK_H
#define ENVGATE_WORKER_LINK_H

#include "upstream/ws_client.h"
#include "worker/protocol.h"

struct link;

// How a link ended.
struct link_end {
  // What callers get: ABORTED (SESSION_LOST), FAILED_PRECONDITION (ENV_FACTORY_FAILED), UNAVAILABLE (WORKER_UNREACHABLE: it never opened).
  const struct err *err;
  bool capacity;        // the worker was full; nothing was run
  int64_t max_sessions; // with capacity: what it takes; 0: unknown
  bool cut;             // the connection ended without a word: the worker may have died
};

struct link_events {
  // It can take a request. For DIALECT_WS after the upgrade; the worker may still refuse by CAPACITY_REACHED, which comes as `end`.
  void (*open)(void *ctx);
  // The reply to the running request. Spans in `reply` lie in `bytes`, of which the callee gets one reference. For replies with session_ended, `end` follows.
  void (*reply)(void *ctx, struct worker_reply *reply, struct shared *bytes);
  // The running request's reply is large (FLOW_LARGE) and takes `more` bytes than was said before. False: it is not read on until link_resume, and that time
  // does not count as the worker's. Nothing may be closed or sent inside. NULL: all is read.
  bool (*large)(void *ctx, size_t more);
  // The link is gone, and with it the running request. Called once, unless link_close came first; the link is freed when it returns.
  void (*end)(void *ctx, const struct link_end *end);
};

// Opens a link. `headers` (NULL: none) go with a WebSocket's upgrade, beside the endpoint's. NULL: out of memory. Callbacks never run inside.
struct link *link_open(struct reactor *r, enum worker_dialect dialect, const struct endpoint *ep, const struct env_config *env,
                       const struct pairs *headers, int max_depth, const struct link_events *events, void *ctx);

// Sends a request; its bytes are copied or written before it returns. Only when open and none runs. False: out of memory; nothing was sent then.
bool link_send(struct link *l, const struct worker_request *q);

// Reads on after `large` said no; harmless otherwise. Not inside callbacks.
void link_resume(struct link *l);

// Gives the link up, and its running request: no callback comes any more. The worker is told (close frame). NULL is fine. May be called inside callbacks.
void link_close(struct link *l);

#endif
