// SPDX-License-Identifier: Apache-2.0
// A request between http.c, which knows libmicrohttpd, and what answers it.
#ifndef ENVGATE_FRONT_HTTP_REQUEST_H
#define ENVGATE_FRONT_HTTP_REQUEST_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/splice.h"
#include "rpc/rpc.h"

struct http_request {
  struct reactor *r;
  bool (*ready)(struct reactor *r, struct buf *why); // does the gateway take new sessions?
  struct str method, path, query;                    // as sent, still percent-encoded
  struct buf body;
  bool body_too_large; // it was thrown away

  // The answer. Exactly one of http_answer, http_answer_static and http_stream is called for each request, sooner or later.
  bool answered;
  int status;
  const char *content_type; // a literal
  struct buf reply;         // taken over by the sending; of a stream: what has not been taken yet, from reply_at on
  size_t reply_at;
  bool streams;            // the answer comes in pieces
  bool stream_ended;       // and the last has come
  bool stream_broken;      // and some are missing
  struct splices splices;  // pieces of it that lie elsewhere; taken over, too
  struct str reply_static; // used when not empty
  char allow[48];          // for 405; "" otherwise
  char request_id[28];     // "": none
  uint32_t retry_after_s;  // 0: none

  struct call *call; // that runs now, or NULL
};

// --- http.c --------------------------------------------------------------------------------------------------------------------------------

// Copies the header fields, names in lower case. False when out of memory.
bool http_headers(struct http_request *q, struct arena *a, const struct header **headers, size_t *n);

// Gives the answer: takes over the bytes of `body`.
void http_answer(struct http_request *q, int status, const char *content_type, struct buf *body);
// The same with bytes that stay.
void http_answer_static(struct http_request *q, int status, const char *content_type, struct str body);

// Begins an answer that comes in pieces (chunked).
void http_stream(struct http_request *q, int status, const char *content_type);
// Adds a piece; takes the bytes of `piece`. Sets *waiting to how many bytes have not been sent. False: out of memory, and the stream is over.
bool http_stream_add(struct http_request *q, struct buf *piece, size_t *waiting);
// No more will come. `broken`: something is missing, which the caller sees by the connection's end.
void http_stream_end(struct http_request *q, bool broken);

// --- http_routes.c -------------------------------------------------------------------------------------------------------------------------

// Answers when the path is one of the gateway's own. False: it is not.
bool http_routes_answer(struct http_request *q);

// --- http_rest.c ---------------------------------------------------------------------------------------------------------------------------

// Answers by a call, now or later.
void http_rest_start(struct http_request *q);

// Answers with an error that http.c found before the body came.
void http_rest_refuse(struct http_request *q, const struct err *e, int status);

// What a stream had added has been sent, but for so many bytes.
void http_rest_sent(struct http_request *q, size_t waiting);

// The caller is gone: cancels the call. The answer still comes, now or later, unless http_rest_detach is called.
void http_rest_cancel(struct http_request *q);

// The request is about to be freed: what its call answers goes nowhere.
void http_rest_detach(struct http_request *q);

// {"error": {"code": <HTTP status>, "message": …, "status": "NOT_FOUND", "details": […]}}, as https://google.aip.dev/193 has it. False when out
// of memory.
bool http_error_body(const struct err *e, int status, struct buf *out);

#endif
