// SPDX-License-Identifier: Apache-2.0
// An HTTP request between what carries it (http.c: HTTP/1 by libmicrohttpd; grpc_http.c: an HTTP/2 stream) and what answers it: the gateway's own paths
// (http_routes.c), REST (http_rest.c), Connect's unary calls (http_connect.c), gRPC-Web and Connect's streams (http_stream.c). gRPC itself is not among them:
// it needs HTTP/2's trailers and has a way of its own (grpc_stream.c).
//
// The carrier makes the request, sets what is its, and calls http_request_start once the header is there, http_request_data for each piece of the body, http_request_end behind the
// last, http_request_resume when answers have gone, and http_request_close before it frees the request. In each the answer may begin.
#ifndef ENVGATE_FRONT_HTTP_REQUEST_H
#define ENVGATE_FRONT_HTTP_REQUEST_H

#include "auth/peer.h"
#include "base/arena.h"
#include "base/buf.h"
#include "base/splice.h"
#include "front/grpc_web_wire.h"
#include "front/grpc_wire.h"
#include "front/http_site.h"
#include "rpc/rpc.h"

struct http_request;

// The head of an answer. Strings end in NUL; the carrier copies them.
enum { HTTP_HEADERS = 8 };
struct http_head {
  int status;
  struct header header[HTTP_HEADERS];
  size_t n;
  const struct headers *more; // NULL: none
};

// Who takes a connection over that has been upgraded. Exactly one of the two is called, never inside upgrade().
struct http_takeover {
  // The socket, which is the callee's to close, what has been read of it already (valid until it returns), and the peer, which is moved out of.
  void (*taken)(void *ctx, int fd, struct str rest, struct peer *peer);
  void (*lost)(void *ctx); // the caller is gone, or out of memory
  void *ctx;
};

struct http_carrier {
  // Copies the request's header fields, names in lower case. False when out of memory.
  bool (*headers)(struct http_request *q, struct arena *a, const struct header **headers, size_t *n);
  // The whole answer; takes over the bytes of `body` and the pieces between them (may be NULL).
  void (*answer)(struct http_request *q, const struct http_head *head, struct buf *body, struct splices *splices);
  // The same with bytes that stay.
  void (*answer_static)(struct http_request *q, const struct http_head *head, struct str body);
  // An answer that comes in pieces: its head, each piece (whose bytes are taken over), its end. A piece is refused (false) when out of memory.
  void (*begin)(struct http_request *q, const struct http_head *head);
  bool (*piece)(struct http_request *q, struct buf *bytes);
  void (*end)(struct http_request *q);
  // The answer can't go on: ends it so that its reader sees it is not whole.
  void (*abort)(struct http_request *q);
  // Answers with 101 and lets go of the connection. NULL: this carrier can't.
  void (*upgrade)(struct http_request *q, const struct http_head *head, const struct http_takeover *to);
  // How many bytes of the answer wait to be sent.
  size_t (*queued)(const struct http_request *q);
  // So many bytes of the body have been taken care of, and as many more may come.
  void (*consumed)(struct http_request *q, size_t n);
};

// What answers. `data` NULL: the body is gathered in q->body.
struct http_protocol {
  void (*data)(struct http_request *q, struct str bytes);
  void (*end)(struct http_request *q);
  void (*resume)(struct http_request *q); // may be NULL
};

struct http_request {
  // the carrier's
  const struct http_carrier *carrier;
  struct reactor *r;
  const struct http_site *site;
  struct peer *peer;              // the connection's
  struct str method, path, query; // as sent, still percent-encoded
  struct call *call;              // that runs now, or NULL; the carrier may have made it

  const struct http_protocol *protocol; // NULL: the answer has been given, and what comes is dropped
  const struct http_route *route;
  const struct http_socket *socket;
  bool rpc;      // it speaks an RPC protocol, or tries: what HTTP has to say of it is a plain text, which none of them takes for an error of its own
  bool answered; // or the answer has begun

  struct buf body;     // as far as it has come, when it is gathered; max is set by the carrier
  bool body_too_large; // it was thrown away

  int status;                 // 0, or the HTTP status of an error, whatever its code's own is
  const char *allowed_origin; // http_cors.c: the configuration's item that allows the Origin; NULL: none

  struct http_openenv *openenv; // http_openenv.c's; NULL: none

  // of an RPC
  enum codec codec;
  bool gzip; // its messages may be compressed, and so are its replies
  const struct http_dialect *dialect;
  struct grpc_frames frames;
  struct buf held; // bytes not looked at, as the caller lets its replies pile up
  bool begun;      // the answer's head is out
  bool whole;      // the request is
  bool given_up;   // the answer was aborted
  bool text;       // gRPC-Web in base64
  struct grpc_web_text decoder;
};

// --- http_request.c: for carriers ----------------------------------------------------------------------------------------------------------

// The header is there.
void http_request_start(struct http_request *q);
void http_request_data(struct http_request *q, struct str bytes);
void http_request_end(struct http_request *q);
void http_request_resume(struct http_request *q);
// Nothing of the body has come for too long: gives the request up, unless it is a client stream's.
void http_request_hurry(struct http_request *q);
// The caller is gone: cancels the call. The answer may still come, now or later, unless http_request_close is called.
void http_request_cancel(struct http_request *q);
// The request is about to be freed: what its call answers goes nowhere. Frees what it holds.
void http_request_close(struct http_request *q);
// Answers with an error that the carrier found, in place of http_request_start or of what would follow it. `status` is HTTP's.
void http_request_refuse(struct http_request *q, const struct err *e, int status);

// --- http_request.c: for protocols ---------------------------------------------------------------------------------------------------------

// Has the request's call answer by `front`, in a codec and under a name for the log; makes the call when the carrier has not. NULL: the answer has been given
// (out of memory).
struct call *http_call(struct http_request *q, const struct call_front *front, enum codec codec, const char *protocol);

// Whether a path is that of a pattern, in which one segment may be "*": `name` gets what stands there.
bool http_path_matches(const char *pattern, struct str path, struct str *name);

// Adds a header field; what is over HTTP_HEADERS is a bug.
void http_put(struct http_head *head, const char *name, const char *value);

// Answers with what a failed call says: as google.aip.dev/193 has it, or as a plain text (q->rpc).
void http_answer_error(struct http_request *q, const struct call *c, const struct err *e);

// Whether the caller may do what takes one of `scopes`, by the request's headers; nobody in `who` without auth. False: the answer has been given.
bool http_may(struct http_request *q, const struct header *headers, size_t n, unsigned scopes, struct identity *who);

// Whether the request's body, or that it has none, is of the type that the gateway's own JSON takes.
bool http_takes_json(const struct http_request *q, const struct call *c);

// Answers with bytes that stay.
void http_answer_text(struct http_request *q, int status, const char *content_type, struct str body);

// {"error": {"code": <HTTP status>, "message": …, "status": "NOT_FOUND", "details": […]}}, as https://google.aip.dev/193 has it. False when out of memory.
bool http_error_body(const struct rpc_api *api, const struct call *c, const struct err *e, int status, struct buf *out);

extern const struct call_front http_rest_front; // errors as REST has them

// Each begins to answer: sets q->protocol, or gives the answer.
void http_rest_start(struct http_request *q);
void http_connect_start(struct http_request *q);
void http_stream_start(struct http_request *q);
// websocket.c. False: the path is none of a WebSocket's, and nothing has been done.
bool http_socket_start(struct http_request *q);

#endif
