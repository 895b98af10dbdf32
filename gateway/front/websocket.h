// SPDX-License-Identifier: Apache-2.0
// WebSockets of callers (RFC 6455), over HTTP/1.1, in plain text or behind TLS: the upgrade, frames, pings, the close handshake, limits and back-pressure. What
// the messages mean is their owner's: a row of http_sockets says who opens what at which path.
//
// An owner's `open` (http_site.h) is called with an upgrade request. It looks at what it needs, says who may (websocket_may), and answers: by websocket_upgrade, or
// by an HTTP error through the request's carrier. After the upgrade it gets a struct websocket, on the reactor that it named, and from then on events.
//
// A socket that is silent for 20 s is pinged, and one that does not answer for 20 s more has ended (close code 1011). No extension is ever accepted:
// permessage-deflate costs more than it saves. A browser's request from another origin is refused unless cors_allowed_origins has it, as it is not the page's
// user who asks.
#ifndef ENVGATE_FRONT_WEBSOCKET_H
#define ENVGATE_FRONT_WEBSOCKET_H

#include "base/arena.h"
#include "front/http_request.h"
#include "upstream/ws_frames.h" // WS_CODE_…

struct websocket;

// So many bytes unsent are plenty (websocket_send). The kernel has as much again, so that nobody waits when the owner goes on with none unsent.
enum { WEBSOCKET_HIGH = 256 << 10 };

// All run on the socket's reactor, never inside a function of this header. In each the owner may do anything, closing included.
struct websocket_events {
  // A whole message, not over max_message; a text is valid UTF-8. Its one reference passes to the callee. A NUL follows that is not counted.
  void (*message)(void *ctx, struct shared *message, bool binary);
  // All has been sent, after websocket_send had said that it was too much. NULL: nobody wants to know.
  void (*drained)(void *ctx);
  // The gateway shuts down: to be closed with WS_CODE_RESTART, now or as soon as what runs has been answered. Once.
  void (*shutdown)(void *ctx);
  // The end, whoever brought it: the peer's close frame, a lost or silent connection, a breach of the protocol (`code`: what the close frames say; WS_CODE_LOST
  // without any). Once, unless websocket_close came first; the socket must not be touched any more.
  void (*end)(void *ctx, int code);
};
enum { WS_CODE_LOST = 1006 };

// An upgrade request, while `open` runs.
struct websocket_request {
  struct http_request *q;
  struct str name; // what the path has for "*"
  const struct header *headers;
  size_t n;
  struct arena arena; // the headers lie in it; for more that lasts as long
};

// The value of a header (the first of that lower-case name), or "".
struct str websocket_header(const struct websocket_request *u, struct str name);

// Whether the caller may do what takes one of `scopes`. False: the request has been answered.
bool websocket_may(struct websocket_request *u, unsigned scopes, struct identity *who);

struct websocket_options {
  const struct websocket_events *events;
  const char *protocol; // the subprotocol that is agreed on, one of those offered (Sec-WebSocket-Protocol); NULL: none
  bool binary;          // binary messages are welcome; else one ends the socket with 1003
  size_t max_message;
  struct reactor *at; // where the socket is to live
  // The socket is there, on `at`; what came behind the request is read afterwards. Its ctx is the events' from now on.
  void (*opened)(void *ctx, struct websocket *w);
  // There will be none: the caller went away meanwhile, or out of memory. On the request's reactor or on `at`.
  void (*lost)(void *ctx);
  void *ctx;
};

// Answers the request by 101, and then calls `opened` or `lost`, once, later. False: it has been answered otherwise, as it is no proper upgrade or memory is out, and
// neither is called.
bool websocket_upgrade(struct websocket_request *u, const struct websocket_options *o);

// Sends a message whose payload is `head`, then all of `body` (NULL: nothing), then `tail`. Large bodies are sent from where they are, with a reference of its own. What
// is sent in a turn goes by one write at its end. False: too much waits now (WEBSOCKET_HIGH), and the owner should stop until `drained`. A socket that fails shows
// as `end`.
bool websocket_send(struct websocket *w, enum ws_opcode opcode, struct str head, struct shared *body, struct str tail);

// Whether websocket_send has said so, and `drained` is to come.
bool websocket_full(const struct websocket *w);

// Reads no more messages, from the one after this on, and reads on again. A socket that is not read still ends (`end`) when its connection does.
void websocket_pause(struct websocket *w);
void websocket_resume(struct websocket *w);

// Sends a close frame behind all that was sent, closes when the peer has answered or after a second, and frees. No callback comes any more. NULL is fine.
void websocket_close(struct websocket *w, int code);

// Asks for the caller what each call is asked in other protocols: is it still allowed `scopes`, and has it a call left in its quota? *counted: to be given back by
// quota_give_call(&who->principal->quota). False: `e`.
bool websocket_admit(struct websocket *w, unsigned scopes, struct identity *who, bool *counted, struct err *e);

// The peer, for calls that come by the socket; as long as that is there.
struct peer *websocket_caller(struct websocket *w);
// The peer's address, for the log.
const char *websocket_peer(const struct websocket *w);

// --- the reactor's part --------------------------------------------------------------------------------------------------------------------

bool websockets_init(struct reactor *r); // false: out of memory
// Tells every owner of the shutdown, and of those to come at once.
void websockets_drain(struct reactor *r);
// Sockets that their owners have not closed; with those whose last bytes are on their way.
int websockets_open(const struct reactor *r);
int websockets_count(const struct reactor *r);
// Ends every socket and frees. NULL parts are fine.
void websockets_free(struct reactor *r);

#endif
