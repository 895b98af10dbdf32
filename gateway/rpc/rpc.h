// SPDX-License-Identifier: Apache-2.0
// Calls: what a front (gRPC, HTTP) makes of a request, what a handler answers, and the one place where a call ends.
//
// This layer knows no service: the API (methods, types, descriptors) is a table that is generated from .proto files, handlers are another, and the caller of rpc_init gives both.
//
// A call is born on the reactor of its connection (home). It runs on the reactor that its handler's route() names (owner): the same, or it is passed there by
// mailbox and comes back when it ends. Between, home touches only `front` and the fields marked home; the owner touches the rest.
//
// The life of a call: call_new → (front fills method, headers, deadline) → call_begin → call_message … → call_end_of_messages → handler → rpc_finish → front->finish
// → call_free. rpc_finish is called exactly once for each call: by the handler, or by this layer for deadlines, cancellation and bad requests.
#ifndef ENVGATE_RPC_RPC_H
#define ENVGATE_RPC_RPC_H

#include <protobuf-c/protobuf-c.h>

#include "auth/peer.h"
#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/splice.h"
#include "rpc/descriptors.h"
#include "runtime/flow.h"
#include "runtime/metrics.h"
#include "runtime/reactor.h"
#include "transcode/transcode.h"

struct call;

// A method, from the .proto files.
struct rpc_method {
  const char *service; // "envgate.v1.SessionService"
  const char *name;    // "Step"
  const char *path;    // "/envgate.v1.SessionService/Step"
  const ProtobufCMessageDescriptor *input, *output;
  bool client_streaming, server_streaming;
  bool idempotent;                // option idempotency_level = NO_SIDE_EFFECTS, or an HTTP GET
  const char *http_verb;          // google.api.http; NULL: none
  const char *http_path;          // "/v1/{name=sessions/*}"
  const char *http_body;          // "*", a field's name, or NULL
  const char *http_response_body; // a field's name, or NULL
};

// What is generated of a set of .proto files (tools/gen_api.py): all that this layer and the fronts know of the services they serve.
struct rpc_api {
  const struct rpc_method *methods; // those of a service stand together
  int method_count;
  struct message_types types; // for google.protobuf.Any
  const char *error_domain;   // of the ErrorInfo in errors; NULL: errors have no details but a handler's own
  // for reflection
  const struct rpc_file *files; // each behind those that it imports
  int file_count;
  const struct rpc_symbol *symbols; // sorted by name in strcmp's order
  int symbol_count;
  const struct rpc_extension *extensions; // sorted by extended message, then number
  int extension_count;
};

// What serves a method. All on the owner's thread.
struct rpc_handler {
  const char *path;
  // The reactor that runs a call, by its request; NULL: the home reactor. Runs at home; looks at the request only. Not for client streams.
  int (*route)(const struct call *c);
  // Begins. For methods without client streaming the request is there (c->request). For client streaming, messages follow, which may be a while.
  void (*start)(struct call *c);
  // One message of a client stream; valid during the callback only.
  void (*message)(struct call *c, const ProtobufCMessage *m);
  // The caller has sent its last message. May be NULL.
  void (*half_close)(struct call *c);
  // A server stream's caller has taken most of what had piled up (call_full), and more may be sent. May be NULL.
  void (*drained)(struct call *c);
  // The deadline has passed, and the handler ends the call itself, at once or soon: for methods that then answer with what they have. NULL: the call ends
  // with DEADLINE_EXCEEDED, by way of cancel.
  void (*deadline)(struct call *c);
  // The call ends without the handler (deadline, cancellation): let go of it. `e` is what the caller will get; a handler may make it more precise. May be NULL.
  void (*cancel)(struct call *c, struct err *e);
  // The gateway shuts down; the call may be ended, and no other. For client streams only, once at most. May be NULL.
  void (*shutdown)(struct call *c);
};

// How messages are written.
enum codec {
  CODEC_PROTO,
  CODEC_JSON, // proto3 JSON, lowerCamelCase (Connect)
  CODEC_REST, // snake_case, OpenEnv-shaped, google.api.http's body and response_body
  // OpenEnv's own HTTP API: where a call asks a worker, the reply is what the worker said (rpc_finish_bytes); else as CODEC_REST.
  CODEC_OPENENV,
};

// How a front takes what a call answers. All run on the home reactor. `head` and `message` are for server streams only; a unary reply comes with finish.
// The bytes in `out` may be taken over (moved out), and so may c->splices, which go between those of a unary reply; what is left is freed.
// `message` tells by call_backlog how much waits for the caller now.
struct call_front {
  // The reply's headers are to go out now, before there is a message. Comes once at most, and before both others.
  void (*head)(struct call *c);
  void (*message)(struct call *c, struct buf *out);
  // The end. `e` is NULL on success, and then `out` is the encoded reply of a unary call. The front must not touch the call when it returns.
  void (*finish)(struct call *c, struct buf *out, const struct err *e);
};

struct header {
  struct str name, value; // name in lower case
};

// What a handler adds to a reply beside its messages; in the call's arena, each string ends in NUL.
struct headers {
  struct header *at;
  size_t n, room;
};
// Adds a copy. False: out of memory.
bool headers_add(struct headers *h, struct str name, struct str value, struct arena *a);

struct call_extra {
  struct headers head, trailers;
  struct call_detail {
    const char *type; // a type URL
    struct str value; // the packed message
  } * details;
  size_t detail_count, detail_room;
};

struct call {
  struct arena arena;  // the first member: it outlives the call in the spares
  struct call *within; // the stream's call of which it is a message (call_begin_within); NULL: it is a call of its own
  struct reactor *home, *owner;
  const struct rpc_method *method;
  const struct rpc_handler *handler;
  int method_index; // for metrics

  // filled by the front before the first message
  const struct call_front *front;
  void *front_ctx;   // home
  struct peer *peer; // the connection's; NULL: none is known. Looked at in call_method and call_refuse only
  enum codec codec;
  nsec deadline; // NSEC_NEVER: none
  nsec arrived;
  struct flow *flow; // of its connection, and its key there; NULL: none. A call that crosses has a reference, others need none
  uint64_t flow_key;
  const struct header *headers; // arena; pseudo headers left out
  size_t header_count;
  const char *protocol;    // "grpc", "http" … for the log
  bool by_get;             // Connect's: the request came in the query
  char id[64];             // the request id: the caller's x-request-id where it is sane, else made here
  char trace_id[33];       // from traceparent; "" if there is none
  struct identity who;     // the caller; set by call_method
  char from[PEER_ADDRESS]; // the peer's address, for the log

  ProtobufCMessage *request;  // decoded, in the arena
  struct str words;           // CODEC_OPENENV: what goes to the worker as it is, in the arena; "": the request says it
  struct arena *message;      // a client stream's, while its handler has a message: where that lies
  struct str session, worker; // for the log: what the call is about; in the arena; a handler sets them
  void *state;                // the handler's own, in the arena
  struct call_extra *extra;   // NULL: none

  // rpc.c's own
  struct timer deadline_timer; // on the owner once the call has begun, before that at home
  struct task to_owner, to_home, cancel_task;
  struct list link; // home: the calls under way
  struct buf out;
  struct splices splices; // pieces of workers' messages that belong into `out`
  struct call_mail *mail; // a server stream's that has crossed and sent something; else NULL
  size_t backlog;         // home: bytes that wait for the caller, as the front said last
  bool full;              // not crossed: they are too many
  struct err err;
  size_t received, sent;
  bool begun;     // home: handed to the owner
  bool started;   // owner: the handler has it
  bool finished;  // owner: rpc_finish was called
  bool failed;    // owner, then home: err holds the end
  bool crossed;   // home and owner are two
  bool counted;   // home: in its principal's quota of calls
  bool gone;      // home: the caller left
  bool delivered; // home: front->finish was called
  int errands;    // home: tasks and calls within it that point to this call, beside to_owner and to_home
};

struct rpc; // a reactor's part

// Sets up a reactor's part. Both tables must outlive it; `handlers` ends with a NULL path, and a method without a handler answers UNIMPLEMENTED. False when out
// of memory.
bool rpc_init(struct reactor *r, const struct rpc_api *api, const struct rpc_handler *handlers);
void rpc_free(struct reactor *r);

// What it serves.
const struct rpc_api *rpc_api(const struct reactor *r);

// Tells the client streams of this reactor that the gateway shuts down.
void rpc_drain(struct reactor *r);

// How many calls have this reactor as their home now.
int rpc_calls(struct reactor *r);

// The method of a gRPC path; NULL: none. `index` (may be NULL) gets its place in the API's methods.
const struct rpc_method *rpc_find(struct reactor *r, struct str path, int *index);

// A new call on its home reactor; its arena takes at most 16 × max_message_bytes + 64 KiB (a google.protobuf.Value is so much larger than its
// JSON). NULL: out of memory.
struct call *call_new(struct reactor *home, const struct call_front *front, void *front_ctx);

// Sets the method by its path, the handler, the request id and the trace id (from headers), and who the caller is (from headers and peer). False:
// METHOD_NOT_FOUND in `e` (UNIMPLEMENTED), or the caller may not call it (UNAUTHENTICATED, PERMISSION_DENIED, RESOURCE_EXHAUSTED for a quota).
bool call_method(struct call *c, struct str path, struct err *e);

// The header is complete and call_method was content: a client stream's handler begins. For other methods it does nothing.
void call_begin(struct call *c);

// Hands over one request message in the call's codec (CODEC_PROTO, CODEC_JSON). Checked (depth, UTF-8, unknown JSON fields), decoded into the arena. For unary methods the
// handler runs at call_end_of_messages, with exactly one message (UNIMPLEMENTED otherwise, as gRPC has it).
void call_message(struct call *c, struct str bytes);
// Hands over an already decoded request (REST), which lies in the arena.
void call_request(struct call *c, ProtobufCMessage *m, size_t bytes);
void call_end_of_messages(struct call *c);
// Each of these, and call_begin, may end the call, so that front->finish runs inside and the call is gone.

// The caller is gone or has reset its stream: ends the call with CANCELLED; front->finish still comes, inside or later, with nothing to be written.
void call_cancel(struct call *c);

// The front is going: cancels the call, whose end, now or later, goes nowhere.
void call_abandon(struct call *c);

// Ends a call before it has a method or with a fault that the front found.
void call_refuse(struct call *c, const struct err *e);

// How many bytes of what a server stream has sent wait in the front for the caller to take them. To be told in front->message, and again once they have
// become less than CALL_BACKLOG_LOW after having been CALL_BACKLOG_HIGH or more; not inside a callback of the front's library that must not be called back.
// The handler may send more or end the call inside.
enum { CALL_BACKLOG_HIGH = 256 << 10, CALL_BACKLOG_LOW = 64 << 10 };
void call_backlog(struct call *c, size_t bytes);

// Takes back a call that has no method: the request was none. Nobody hears of it; `c` is gone.
void call_drop(struct call *c);

// --- for handlers, on the owner's thread ---------------------------------------------------------------------------------------------------

// Makes the call's deadline earlier, never later.
void call_deadline(struct call *c, nsec deadline);

// Adds a header of the reply (before the first message), or a trailer, which goes with its end. `name` is in lower case and no name of HTTP's or the
// protocols' own; `value` is printable ASCII, and base64 for names that end in "-bin". Both are copied. False: out of memory.
bool call_add_header(struct call *c, struct str name, struct str value);
bool call_add_trailer(struct call *c, struct str name, struct str value);
// Adds a detail to the error that the call will end with. Copied. False: out of memory.
bool call_add_detail(struct call *c, struct str type_url, struct str value);

// Sends the headers of a server stream's reply now.
void call_send_head(struct call *c);

// Sends one message of a server stream. The message may go right after. False: out of memory or over the limit; finish the call.
bool call_send(struct call *c, const ProtobufCMessage *m);

// The unary reply to come may point into `bytes`: large payloads that lie there are then not copied, but sent from there. Takes a reference of its own.
void call_lend(struct call *c, struct shared *bytes);
// Whether so much of what was sent waits for the caller that no more should be sent before `drained`. What is sent all the same is kept, up to a limit.
bool call_full(const struct call *c);

// The same for a client stream, of a message that is encoded already, in the call's codec. The bytes are taken over, or left to be dropped.
void call_send_encoded(struct call *c, struct buf *message);
// Encodes a message as the call's are, behind what `out` has. False: `e`.
bool call_encode(const struct call *c, const ProtobufCMessage *m, struct buf *out, struct err *e);

// Begins `c` (from call_new, at the stream's home, where its handler runs) in place of a message of a client stream, while the stream's handler has that: as a call of the
// unary method at `path`, by the stream's caller, with its headers, codec, ids and flow, but for the key in that. `m` is the message or a part of it, and `bytes` its size. The call takes over all
// of the message's memory. It is checked, runs and ends as any other; front->finish comes, inside or later.
void call_begin_within(struct call *c, struct call *stream, struct str path, ProtobufCMessage *m, size_t bytes, uint64_t flow_key);

// Ends the call: with a reply (unary), with NULL and NULL (a stream's good end), or with an error. The reply is encoded before it returns and may go right
// after; `c` must not be touched any more. The only place where a call ends: it counts, logs and frees.
void rpc_finish(struct call *c, const ProtobufCMessage *reply, const struct err *e);

// The same with bytes in place of a message, for CODEC_OPENENV: what a worker said, also where that is an error. They may lie in what was lent; else they
// are copied.
void rpc_finish_bytes(struct call *c, struct str bytes, const struct err *e);

// The value of a header (the first of that lower-case name), or "".
struct str call_header(const struct call *c, struct str name);

// A google.rpc.Status of `e` in the arena, with ErrorInfo, RetryInfo and BadRequest as `e` has them, unless `domain` is NULL. NULL when out of memory.
struct Google__Rpc__Status *rpc_status_in(const char *domain, const struct err *e, struct arena *a);
// The same of the end of a call, whose own details go first, in its API's domain.
struct Google__Rpc__Status *call_status(const struct call *c, const struct err *e, struct arena *a);
// Packed, behind what `out` has. False when out of memory.
bool call_status_pack(const struct call *c, const struct err *e, struct buf *out);

#endif
