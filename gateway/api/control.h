// SPDX-License-Identifier: Apache-2.0
// What looks after workers: WorkerService, and Preload of EnvironmentService. It asks the pools, so all of it runs on reactor 0.
#ifndef ENVGATE_API_CONTROL_H
#define ENVGATE_API_CONTROL_H

#include "envgate/v1/launch.pb-c.h"
#include "pool/pool.h"
#include "rpc/rpc.h"

// Sets up reactor 0's part, and frees it after the calls' end. False: out of memory.
bool control_init(struct reactor *r);
void control_free(struct reactor *r);

// Ends the streams that would else last as long as the caller likes: UNAVAILABLE (DRAINING). None begins any more.
void control_drain(struct reactor *r);

// A stream that control_drain ends. Lies in the call's own state; list_remove when the call has ended.
struct control_stream {
  struct list link;
  struct call *call;
  void (*end)(struct control_stream *s, const struct err *e);
};
// Takes it up. False with `e` set: the gateway drains.
bool control_add(struct control_stream *s, struct call *c, void (*end)(struct control_stream *s, const struct err *e), struct err *e);

// For rpc_handler.route.
int control_route(const struct call *c);

// The environment that a request names; NULL: the call has been ended.
const struct env_config *call_environment(struct call *c, const char *name, const char *field);

// The worker that a request names; it goes to the call's log line, too. False: `e`.
bool worker_of_name(struct call *c, const char *name, const char *field, struct worker_view *v, struct err *e);

void progress_fill(const struct launch_progress *p, Envgate__V1__LaunchProgress *m);

void preload_start(struct call *c);
void preload_cancel(struct call *c, struct err *e);

void stream_logs_start(struct call *c);
void stream_logs_drained(struct call *c);
void stream_logs_cancel(struct call *c, struct err *e);

#endif
