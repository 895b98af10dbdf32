// SPDX-License-Identifier: Apache-2.0
// HTTP/2 streams that carry other protocols than gRPC: what http_request.h needs of a carrier.
#include <stdio.h>
#include <stdlib.h>

#include "config/config.h"
#include "front/grpc_internal.h"
#include "front/http_cors.h"
#include "front/http_request.h"

struct grpc_http {
  struct http_request request;
  struct grpc_stream *s;
  char text[]; // the verb and the path, which outlive the call
};

static struct grpc_stream *stream_of(const struct http_request *q)
{
  const struct grpc_http *h = (const struct grpc_http *)(const void *)q; // its first member
  return h->s;
}

// The stream's call had them; one that is made after it does without.
static bool on_headers(struct http_request *q, struct arena *a, const struct header **headers, size_t *n)
{
  (void)q, (void)a;
  *headers = NULL;
  *n = 0;
  return true;
}

static nghttp2_nv field(const struct header *h)
{
  return (nghttp2_nv){(uint8_t *)(uintptr_t)h->name.p, (uint8_t *)(uintptr_t)h->value.p, h->name.n, h->value.n, NGHTTP2_NV_FLAG_NONE};
}

static void respond(const struct http_request *q, const struct http_head *head)
{
  struct grpc_stream *s = stream_of(q);
  char status[12];
  snprintf(status, sizeof status, "%d", head->status);
  size_t more = head->more ? head->more->n : 0, n = 0;
  struct header cors[CORS_HEADERS];
  size_t cors_n = http_cors_headers(q, cors);
  nghttp2_nv few[1 + CORS_HEADERS + HTTP_HEADERS], *nv = more ? malloc((1 + CORS_HEADERS + head->n + more) * sizeof *nv) : few;
  if (!nv) {
    grpc_stream_must(s, NGHTTP2_ERR_NOMEM);
    return;
  }
  nv[n++] = field(&(struct header){STR(":status"), str_c(status)});
  for (size_t i = 0; i < cors_n; i++)
    nv[n++] = field(&cors[i]);
  for (size_t i = 0; i < head->n; i++)
    nv[n++] = field(&head->header[i]);
  for (size_t i = 0; i < more; i++)
    nv[n++] = field(&head->more->at[i]);
  grpc_stream_respond(s, nv, n);
  if (nv != few)
    free(nv);
}

static void on_begin(struct http_request *q, const struct http_head *head)
{
  q->answered = true;
  respond(q, head);
}

static bool on_piece(struct http_request *q, struct buf *bytes)
{
  struct grpc_stream *s = stream_of(q);
  if (bytes->n && !grpc_stream_queue(s, NULL, bytes, NULL))
    return false;
  s->piled |= s->left >= CALL_BACKLOG_HIGH;
  grpc_stream_go_on(s);
  return true;
}

static void on_end(struct http_request *q)
{
  struct grpc_stream *s = stream_of(q);
  s->ended = true;
  flow_complete(s->conn->flow, (uint64_t)s->id);
  s->conn->active = s->conn->front->r->now;
  grpc_stream_go_on(s);
}

static void on_answer(struct http_request *q, const struct http_head *head, struct buf *body, struct splices *splices)
{
  struct grpc_stream *s = stream_of(q);
  if (!str_eq(q->method, STR("HEAD"))) {
    grpc_stream_queue(s, NULL, body, splices); // the first that is queued: nothing to fail
  } else {
    buf_free(body);
    if (splices)
      splices_free(splices);
  }
  on_begin(q, head);
  on_end(q);
}

static void on_answer_static(struct http_request *q, const struct http_head *head, struct str body)
{
  struct buf copy = {0};
  if (!buf_str(&copy, body))
    grpc_stream_must(stream_of(q), NGHTTP2_ERR_NOMEM);
  else
    on_answer(q, head, &copy, NULL);
  buf_free(&copy);
}

static void on_abort(struct http_request *q)
{
  struct grpc_stream *s = stream_of(q);
  nghttp2_submit_rst_stream(s->conn->h2, NGHTTP2_FLAG_NONE, s->id, NGHTTP2_ENHANCE_YOUR_CALM);
  grpc_conn_touch(s->conn);
}

static size_t on_queued(const struct http_request *q)
{
  const struct grpc_stream *s = stream_of(q);
  return s->left;
}

static void on_consumed(struct http_request *q, size_t n)
{
  struct grpc_stream *s = stream_of(q);
  nghttp2_session_consume_stream(s->conn->h2, s->id, n);
  grpc_conn_touch(s->conn);
}

static const struct http_carrier carrier = {
    .headers = on_headers,
    .answer = on_answer,
    .answer_static = on_answer_static,
    .begin = on_begin,
    .piece = on_piece,
    .end = on_end,
    .abort = on_abort,
    .queued = on_queued,
    .consumed = on_consumed,
};

// Makes the request of the stream. False: out of memory, and the stream is reset.
static bool make(struct grpc_stream *s)
{
  struct grpc_http *h = calloc(1, sizeof *h + s->verb.n + s->path.n);
  if (!h) {
    grpc_stream_must(s, NGHTTP2_ERR_NOMEM);
    return false;
  }
  struct grpc_front *f = s->conn->front;
  struct http_request *q = &h->request;
  struct str verb = {h->text, s->verb.n}, path = {h->text + s->verb.n, s->path.n};
  if (verb.n)
    memcpy(h->text, s->verb.p, verb.n);
  if (path.n)
    memcpy(h->text + verb.n, s->path.p, path.n);
  const char *mark = path.n ? memchr(path.p, '?', path.n) : NULL;
  h->s = s;
  s->web = h;
  *q = (struct http_request){.carrier = &carrier, .r = f->r, .site = f->site, .peer = &s->conn->peer, .method = verb, .path = path, .call = s->call};
  if (mark) {
    q->path.n = (size_t)(mark - path.p);
    q->query = str_skip(path, q->path.n + 1);
  }
  q->body.max = (size_t)f->r->config->max_message_bytes;
  s->call = NULL; // it is the request's now
  return true;
}

void grpc_http_head(struct grpc_stream *s)
{
  size_t max = (size_t)s->conn->front->r->config->max_header_bytes;
  struct err e;
  if (!make(s))
    return;
  if (s->header_bytes > max) {
    err_set(&e, CODE_RESOURCE_EXHAUSTED, REASON_MESSAGE_TOO_LARGE, "the request's headers take %zu bytes; max_header_bytes is %zu", s->header_bytes,
            max);
    http_request_refuse(&s->web->request, &e, 431);
  } else if (s->headers_lost) {
    err_nomem(&e);
    http_request_refuse(&s->web->request, &e, 503);
  } else {
    http_request_start(&s->web->request);
  }
}

void grpc_http_refuse(struct grpc_stream *s, const struct err *e, int status)
{
  if (!make(s))
    return;
  s->web->request.rpc = true;
  http_request_refuse(&s->web->request, e, status);
}

void grpc_http_data(struct grpc_stream *s, struct str bytes)
{
  s->conn->active = s->conn->front->r->now;
  http_request_data(&s->web->request, bytes);
}

void grpc_http_end(struct grpc_stream *s)
{
  http_request_end(&s->web->request);
}

void grpc_http_resume(struct grpc_stream *s)
{
  http_request_resume(&s->web->request);
}

void grpc_http_close(struct grpc_stream *s)
{
  http_request_close(&s->web->request);
  free(s->web);
  s->web = NULL;
}

void grpc_http_hurry(struct grpc_stream *s)
{
  http_request_hurry(&s->web->request);
}

bool grpc_http_held(const struct grpc_stream *s)
{
  return s->web->request.held.n > 0;
}

bool grpc_http_busy(const struct grpc_stream *s)
{
  const struct http_request *q = &s->web->request;
  return q->call && q->call->method && (q->whole || q->call->method->client_streaming);
}
