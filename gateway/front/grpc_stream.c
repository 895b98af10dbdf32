// SPDX-License-Identifier: Apache-2.0
// One gRPC call on its HTTP/2 stream: the request's headers and messages into the call, the call's replies into frames.
//
// What goes wrong before the call begins, and the answer to it:
//   content-type is not gRPC                      it is a request of another protocol (grpc_http.c)
//   the verb is not POST                          HTTP 405 with an error as REST has it
//   headers over max_header_bytes                 RESOURCE_EXHAUSTED, MESSAGE_TOO_LARGE
//   no "te: trailers", a malformed grpc-timeout   INVALID_ARGUMENT, INVALID_REQUEST
//   a grpc-encoding other than gzip and identity  UNIMPLEMENTED, INVALID_REQUEST, with grpc-accept-encoding
// and with its messages:
//   one over max_message_bytes, decompressed      RESOURCE_EXHAUSTED, MESSAGE_TOO_LARGE
//   its compressed flag set without an encoding   INTERNAL, INVALID_REQUEST (as gRPC's compression.md has it)
//   the last one cut off                          INVALID_ARGUMENT, INVALID_REQUEST
#include <stdio.h>
#include <stdlib.h>

#include "config/config.h"
#include "front/grpc_internal.h"

enum {
  // Replies that wait for the peer's window: from this many bytes on, its requests are not looked at and their window is not given back …
  REPLIES_HIGH = CALL_BACKLOG_HIGH,
  // … and at this many, of a handler that answers all the same, the peer is given up.
  REPLIES_MAX = 64 << 20,
  // Clients refuse header lists over 8 KiB (grpc-core) and details need their part of it.
  MESSAGE_MAX = 4096,
};

#define NV(name, value, flags)                                                                                \
  ((nghttp2_nv){(uint8_t *)(uintptr_t)(name), (uint8_t *)(uintptr_t)(value), sizeof(name) - 1, strlen(value), \
                (uint8_t)(NGHTTP2_NV_FLAG_NO_COPY_NAME | (flags))})
// A header whose value lives forever, and one whose value nghttp2 must copy.
#define NV_STATIC(name, value) NV(name, value, NGHTTP2_NV_FLAG_NO_COPY_VALUE)
#define NV_COPY(name, value, flags) NV(name, value, flags)

static nghttp2_nv nv_buf(const char *name, const struct buf *value)
{
  return (nghttp2_nv){(uint8_t *)(uintptr_t)name, (uint8_t *)value->p, strlen(name), value->n,
                      NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_INDEX};
}

static nghttp2_session *session(struct grpc_stream *s)
{
  return s->conn->h2;
}

// A submit fails when out of memory only. Then the peer must not wait forever.
void grpc_stream_must(struct grpc_stream *s, int rv)
{
  if (rv)
    nghttp2_submit_rst_stream(session(s), NGHTTP2_FLAG_NONE, s->id, NGHTTP2_INTERNAL_ERROR);
  grpc_conn_touch(s->conn);
}

// --- the reply -----------------------------------------------------------------------------------------------------------------------------

static size_t queued(const struct grpc_stream *s)
{
  return (GRPC_PREFIX - s->prefix_at) + s->left;
}

// Fields that we put ourselves: of a head, and of trailers.
enum { MAX_HEAD = 5, MAX_TRAILERS = 3 };

static size_t put_trailers(const struct grpc_stream *s, nghttp2_nv *nv)
{
  size_t n = 0;
  nv[n++] = NV_COPY("grpc-status", s->status, 0);
  if (s->message.n)
    nv[n++] = nv_buf("grpc-message", &s->message);
  if (s->details.n)
    nv[n++] = nv_buf("grpc-status-details-bin", &s->details);
  return n;
}

static size_t put_own(const struct headers *h, nghttp2_nv *nv)
{
  for (size_t i = 0; i < h->n; i++)
    nv[i] = (nghttp2_nv){(uint8_t *)(uintptr_t)h->at[i].name.p, (uint8_t *)(uintptr_t)h->at[i].value.p, h->at[i].name.n, h->at[i].value.n,
                         NGHTTP2_NV_FLAG_NONE};
  return h->n;
}

// The trailers that a handler added are kept, each as name and value with NUL behind, until the messages before them are gone.
static bool keep_trailers(struct grpc_stream *s, const struct call *c)
{
  const struct headers *own = &c->extra->trailers;
  for (size_t i = 0; i < own->n; i++)
    if (!buf_add(&s->trailers, own->at[i].name.p, own->at[i].name.n + 1) || !buf_add(&s->trailers, own->at[i].value.p, own->at[i].value.n + 1))
      return false;
  s->trailer_count = own->n;
  return true;
}

static int submit_trailers(nghttp2_session *h2, const struct grpc_stream *s)
{
  nghttp2_nv ours[MAX_TRAILERS], *nv = ours;
  if (s->trailer_count && !(nv = malloc((MAX_TRAILERS + s->trailer_count) * sizeof *nv)))
    return NGHTTP2_ERR_NOMEM;
  size_t n = put_trailers(s, nv);
  const char *p = s->trailers.p;
  for (size_t i = 0; i < s->trailer_count; i++) {
    size_t name = strlen(p), value = strlen(p + name + 1);
    nv[n++] = (nghttp2_nv){(uint8_t *)(uintptr_t)p, (uint8_t *)(uintptr_t)(p + name + 1), name, value, NGHTTP2_NV_FLAG_NONE};
    p += name + value + 2;
  }
  int rv = nghttp2_submit_trailer(h2, s->id, nv, n);
  if (nv != ours)
    free(nv);
  return rv;
}

// nghttp2 asks how many of up to `room` bytes go into the next frame; grpc_stream_next gives them.
static ssize_t on_read(nghttp2_session *h2, int32_t id, uint8_t *to, size_t room, uint32_t *flags, nghttp2_data_source *source, void *ctx)
{
  struct grpc_stream *s = source->ptr;
  (void)id;
  (void)to;
  (void)ctx;
  size_t all = queued(s), n = all < room ? all : room;
  *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
  if (n < all)
    return (ssize_t)n;
  if (!s->ended)
    return n ? (ssize_t)n : NGHTTP2_ERR_DEFERRED;
  *flags |= NGHTTP2_DATA_FLAG_EOF;
  if (!s->web) {
    *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
    if (submit_trailers(h2, s))
      return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE; // the stream is reset
  }
  return (ssize_t)n;
}

struct str grpc_stream_next(struct grpc_stream *s, size_t n, bool *lasting)
{
  size_t head = GRPC_PREFIX - s->prefix_at;
  if (head) {
    struct str prefix = {(const char *)s->prefix + s->prefix_at, head < n ? head : n};
    s->prefix_at += prefix.n;
    *lasting = false;
    return prefix;
  }
  struct str bytes = splices_next(&s->splices, buf_view(&s->out), &s->at, n, lasting);
  s->left -= bytes.n;
  return bytes;
}

void grpc_stream_taken(struct grpc_stream *s)
{
  s->conn->took_large = s->conn->took_large || s->large;
  bool held = s->held.n || (s->web && grpc_http_held(s));
  if ((held && queued(s) < REPLIES_HIGH) || (s->piled && queued(s) < CALL_BACKLOG_LOW))
    s->conn->unheld = true;
  if (queued(s))
    return;
  buf_return(&s->conn->front->r->bufs, &s->out);
  grpc_conn_release(s->conn->front, &s->splices);
  s->at = (struct splice_place){0};
}

static size_t put_head(const struct grpc_stream *s, const struct call *c, nghttp2_nv *nv)
{
  size_t n = 0;
  nv[n++] = NV_STATIC(":status", "200");
  nv[n++] = NV_STATIC("content-type", s->codec == CODEC_JSON ? "application/grpc+json" : "application/grpc");
  if (s->gzip)
    nv[n++] = NV_STATIC("grpc-encoding", "gzip");
  // Never the same twice, so it must not push others out of the header table.
  nv[n++] = NV_COPY("x-request-id", c->id, NGHTTP2_NV_FLAG_NO_INDEX);
  if (c->extra)
    n += put_own(&c->extra->head, nv + n);
  return n;
}

// Room for a head and what a handler added to it and to the trailers. NULL: out of memory.
static nghttp2_nv *room_for(struct call *c, nghttp2_nv *ours, size_t n)
{
  return c->extra ? arena_alloc(&c->arena, (n + c->extra->head.n + c->extra->trailers.n) * sizeof *ours) : ours;
}

void grpc_stream_respond(struct grpc_stream *s, const nghttp2_nv *nv, size_t n)
{
  s->headed = true;
  nghttp2_data_provider from = {.source.ptr = s, .read_callback = on_read};
  grpc_stream_must(s, nghttp2_submit_response(session(s), s->id, nv, n, &from));
}

void grpc_stream_go_on(struct grpc_stream *s)
{
  nghttp2_session_resume_data(session(s), s->id); // fails when it does not wait for it: no matter
  grpc_conn_touch(s->conn);
}

// Sees to it that what is queued goes out: headers first, if they have not.
static void send_replies(struct grpc_stream *s, struct call *c)
{
  if (s->headed) {
    grpc_stream_go_on(s);
    return;
  }
  nghttp2_nv ours[MAX_HEAD], *nv = room_for(c, ours, MAX_HEAD);
  if (nv)
    grpc_stream_respond(s, nv, put_head(s, c, nv));
  else
    grpc_stream_must(s, NGHTTP2_ERR_NOMEM);
}

// An end without messages is one HEADERS frame.
static void send_trailers_only(struct grpc_stream *s, struct call *c)
{
  s->headed = true;
  nghttp2_nv ours[MAX_HEAD + MAX_TRAILERS], *nv = room_for(c, ours, MAX_HEAD + MAX_TRAILERS);
  if (!nv) {
    grpc_stream_must(s, NGHTTP2_ERR_NOMEM);
    return;
  }
  size_t n = put_head(s, c, nv);
  if (strcmp(s->status, "12") == 0)
    nv[n++] = NV_STATIC("grpc-accept-encoding", "gzip,identity"); // for UNIMPLEMENTED, which may be about it
  n += put_trailers(s, nv + n);
  if (c->extra)
    n += put_own(&c->extra->trailers, nv + n);
  grpc_stream_must(s, nghttp2_submit_response(session(s), s->id, nv, n, NULL));
}

bool grpc_stream_queue(struct grpc_stream *s, const uint8_t *prefix, struct buf *out, struct splices *splices)
{
  if (!queued(s)) { // the usual case: no copy
    if (prefix) {
      memcpy(s->prefix, prefix, sizeof s->prefix);
      s->prefix_at = 0;
    }
    size_t max = out->max;
    buf_free(&s->out);
    s->out = *out;
    s->out.max = 0;
    *out = (struct buf){.max = max};
    if (splices) {
      s->splices = *splices;
      *splices = (struct splices){0};
    }
    s->at = (struct splice_place){0};
    s->left = s->out.n + s->splices.bytes;
    s->large = s->left >= FLOW_LARGE;
    return true;
  }
  if (queued(s) > REPLIES_MAX)
    return false;
  if (s->at.own > s->out.n / 2) { // not each time: it moves what is left
    buf_consume(&s->out, s->at.own);
    s->at.own = 0;
  }
  size_t head = prefix ? GRPC_PREFIX : 0;
  if (!buf_reserve(&s->out, head + out->n))
    return false;
  s->large = s->large || out->n >= FLOW_LARGE;
  if (prefix)
    buf_add(&s->out, prefix, GRPC_PREFIX);
  if (out->n)
    buf_add(&s->out, out->p, out->n);
  s->left += head + out->n;
  out->n = 0;
  return true;
}

// Queues a message; takes its bytes. False: it can't be sent.
static bool queue(struct grpc_stream *s, struct call *c, struct buf *out)
{
  uint8_t prefix[GRPC_PREFIX], flags = 0;
  if (s->gzip) {
    if (!splices_join(&c->splices, out))
      return false;
    grpc_zip(out, &flags);
  }
  return grpc_prefix(prefix, flags, out->n + c->splices.bytes) && grpc_stream_queue(s, prefix, out, &c->splices);
}

// Not by call_cancel, as the handler is at work: it learns it when the stream closes.
static void give_up(struct grpc_stream *s, struct buf *out)
{
  out->n = 0;
  s->given_up = true;
  grpc_stream_must(s, nghttp2_submit_rst_stream(session(s), NGHTTP2_FLAG_NONE, s->id, NGHTTP2_ENHANCE_YOUR_CALM));
}

static void on_call_head(struct call *c)
{
  struct grpc_stream *s = c->front_ctx;
  if (!s->given_up)
    send_replies(s, c);
}

static void on_call_message(struct call *c, struct buf *out)
{
  struct grpc_stream *s = c->front_ctx;
  if (s->given_up) {
    out->n = 0;
  } else if (queue(s, c, out)) {
    send_replies(s, c);
    s->piled |= queued(s) >= CALL_BACKLOG_HIGH;
    call_backlog(c, queued(s));
  } else {
    give_up(s, out);
  }
}

static void set_status(struct grpc_stream *s, const struct call *c, const struct err *e)
{
  unsigned code = e ? (unsigned)e->code % 100 : 0;
  char *to = s->status;
  if (code >= 10)
    *to++ = (char)('0' + code / 10);
  *to++ = (char)('0' + code % 10);
  *to = '\0';
  if (!e)
    return;
  s->message.max = MESSAGE_MAX;
  grpc_percent_encode(str_c(e->msg), &s->message); // without memory for it, the status alone must do
  struct buf packed = {0};
  if (call_status_pack(c, e, &packed))
    grpc_base64(buf_view(&packed), &s->details);
  buf_free(&packed);
}

static void on_call_finish(struct call *c, struct buf *out, const struct err *e)
{
  struct grpc_stream *s = c->front_ctx;
  s->call = NULL;
  grpc_frames_free(&s->frames);
  buf_free(&s->held);
  s->conn->active = s->conn->front->r->now;
  flow_complete(s->conn->flow, (uint64_t)s->id);
  set_status(s, c, e);
  // Clients look for headers where headers are: with some of the handler's own they go apart.
  if (e && !s->headed && !(c->extra && c->extra->head.n)) {
    send_trailers_only(s, c);
    return;
  }
  if ((!e && !c->method->server_streaming && !queue(s, c, out)) || (c->extra && !keep_trailers(s, c))) {
    grpc_stream_must(s, NGHTTP2_ERR_NOMEM);
    return;
  }
  s->ended = true;
  send_replies(s, c);
}

static const struct call_front front = {.head = on_call_head, .message = on_call_message, .finish = on_call_finish};

// --- the request ---------------------------------------------------------------------------------------------------------------------------

struct grpc_stream *grpc_stream_open(struct grpc_conn *c, int32_t id)
{
  struct grpc_front *f = c->front;
  struct list *node = list_pop(&f->spare);
  struct grpc_stream *s = node ? CONTAINER_OF(node, struct grpc_stream, link) : malloc(sizeof *s);
  if (!s)
    return NULL;
  f->spares -= node ? 1 : 0;
  *s = (struct grpc_stream){.conn = c, .id = id, .prefix_at = GRPC_PREFIX, .frames.max = (size_t)f->r->config->max_message_bytes};
  s->call = call_new(f->r, &front, s);
  if (!s->call) {
    free(s);
    return NULL;
  }
  s->call->protocol = "grpc";
  s->call->flow = c->flow;
  s->call->flow_key = (uint64_t)id;
  s->call->peer = &c->peer;
  list_append(&c->streams, &s->link);
  return s;
}

void grpc_stream_close(struct grpc_stream *s)
{
  struct grpc_front *f = s->conn->front;
  struct call *c = s->call;
  if (c) {
    s->call = NULL;
    call_abandon(c);
  }
  flow_done(s->conn->flow, (uint64_t)s->id);
  if (s->web)
    grpc_http_close(s);
  s->conn->active = f->r->now;
  grpc_frames_free(&s->frames);
  buf_free(&s->held);
  buf_free(&s->out);
  grpc_conn_release(f, &s->splices);
  buf_free(&s->trailers);
  buf_free(&s->message);
  buf_free(&s->details);
  list_remove(&s->link);
  if (f->spares == GRPC_SPARE_STREAMS) {
    free(s);
    return;
  }
  list_prepend(&f->spare, &s->link);
  f->spares++;
}

bool grpc_stream_busy(const struct grpc_stream *s)
{
  if (s->web)
    return grpc_http_busy(s);
  return s->call && s->call->method && (s->request_done || s->call->method->client_streaming);
}

static void refuse(struct grpc_stream *s, const struct err *e)
{
  call_refuse(s->call, e);
}

static bool add_header(struct grpc_stream *s, struct str name, struct str value)
{
  struct arena *a = &s->call->arena;
  if (s->header_count == s->header_room) {
    size_t room = s->header_room ? s->header_room * 2 : 16;
    struct header *headers = arena_alloc(a, room * sizeof *headers);
    if (!headers)
      return false;
    if (s->header_count)
      memcpy(headers, s->headers, s->header_count * sizeof *headers);
    s->headers = headers;
    s->header_room = room;
  }
  char *copy = arena_alloc(a, name.n + value.n + 2);
  if (!copy)
    return false;
  memcpy(copy, name.p, name.n);
  if (value.n)
    memcpy(copy + name.n + 1, value.p, value.n);
  s->headers[s->header_count++] = (struct header){{copy, name.n}, {copy + name.n + 1, value.n}};
  return true;
}

static bool set_pseudo(struct grpc_stream *s, struct str *to, struct str value)
{
  char *copy = arena_dup(&s->call->arena, value);
  *to = (struct str){copy, copy ? value.n : 0};
  return copy != NULL;
}

void grpc_stream_header(struct grpc_stream *s, struct str name, struct str value)
{
  s->header_bytes += name.n + value.n + 32; // RFC 9113, section 6.5.2
  if (!s->call || s->headers_lost || s->header_bytes > (size_t)s->conn->front->r->config->max_header_bytes)
    return;
  bool kept = true;
  if (!str_starts(name, STR(":")))
    kept = add_header(s, name, value);
  else if (str_eq(name, STR(":path")))
    kept = set_pseudo(s, &s->path, value);
  else if (str_eq(name, STR(":method")))
    kept = set_pseudo(s, &s->verb, value);
  s->headers_lost = !kept;
}

static bool check_head(struct grpc_stream *s, struct err *e)
{
  struct call *c = s->call;
  size_t max = (size_t)s->conn->front->r->config->max_header_bytes;
  if (s->header_bytes > max)
    return err_set(e, CODE_RESOURCE_EXHAUSTED, REASON_MESSAGE_TOO_LARGE, "the request's headers take %zu bytes; max_header_bytes is %zu",
                   s->header_bytes, max);
  if (s->headers_lost)
    return err_nomem(e);
  if (!str_ieq(call_header(c, STR("te")), STR("trailers")))
    return err_field(e, REASON_INVALID_REQUEST, "te", "te must be \"trailers\"; a proxy in between may have dropped it");
  struct str encoding = call_header(c, STR("grpc-encoding"));
  s->gzip = str_eq(encoding, STR("gzip"));
  s->frames.allowed = s->gzip ? GRPC_COMPRESSED : 0;
  if (encoding.n && !s->gzip && !str_eq(encoding, STR("identity")))
    return err_set(e, CODE_UNIMPLEMENTED, REASON_INVALID_REQUEST, "grpc-encoding must be gzip or identity");
  struct str timeout = call_header(c, STR("grpc-timeout"));
  nsec ns = NSEC_NEVER;
  if (timeout.n && !grpc_timeout(timeout, &ns))
    return err_field(e, REASON_INVALID_REQUEST, "grpc-timeout", "grpc-timeout must be 1 to 8 digits and a unit out of H, M, S, m, u and n");
  c->deadline = nsec_add(c->arrived, ns);
  c->codec = s->codec;
  return call_method(c, s->path, e);
}

void grpc_stream_head(struct grpc_stream *s)
{
  if (!s->call)
    return;
  s->heard = s->conn->front->r->now;
  s->call->headers = s->headers;
  s->call->header_count = s->header_count;
  if (!grpc_content_type(call_header(s->call, STR("content-type")), &s->codec)) {
    grpc_http_head(s);
    return;
  }
  struct err e;
  err_clear(&e);
  if (!str_eq(s->verb, STR("POST"))) {
    err_set(&e, CODE_INVALID_ARGUMENT, REASON_INVALID_REQUEST, "gRPC calls are POST requests");
    grpc_http_refuse(s, &e, 405);
  } else if (check_head(s, &e)) {
    call_begin(s->call);
  } else {
    refuse(s, &e);
  }
}

// Hands over messages until none is whole or too many replies wait; what is left then is held.
static void take(struct grpc_stream *s, struct str bytes)
{
  size_t before = bytes.n;
  struct str m;
  struct err e;
  err_clear(&e);
  while (s->call && queued(s) < REPLIES_HIGH && grpc_next_message(&s->frames, &bytes, &m, &e))
    call_message(s->call, m);
  if (s->call && e.code == CODE_OK && bytes.n && !buf_add(&s->held, bytes.p, bytes.n))
    err_nomem(&e);
  if (s->call && e.code != CODE_OK)
    refuse(s, &e);
  nghttp2_session_consume_stream(session(s), s->id, before - bytes.n);
  grpc_conn_touch(s->conn);
}

static void end_of_messages(struct grpc_stream *s)
{
  if (grpc_frames_whole(&s->frames)) {
    call_end_of_messages(s->call);
    return;
  }
  struct err e;
  err_set(&e, CODE_INVALID_ARGUMENT, REASON_INVALID_REQUEST, "the request ends in the middle of a message");
  refuse(s, &e);
}

void grpc_stream_data(struct grpc_stream *s, struct str bytes)
{
  nghttp2_session_consume_connection(session(s), bytes.n);
  s->heard = s->conn->front->r->now;
  if (!s->call || !bytes.n) {
    if (s->web && bytes.n)
      grpc_http_data(s, bytes);
    return; // answered already; what comes before the peer knows is dropped
  }
  s->conn->active = s->conn->front->r->now;
  if (!s->held.n)
    take(s, bytes);
  else if (!buf_add(&s->held, bytes.p, bytes.n)) {
    struct err e;
    err_nomem(&e);
    refuse(s, &e);
  }
}

void grpc_stream_end(struct grpc_stream *s)
{
  s->request_done = true;
  if (s->web)
    grpc_http_end(s);
  else if (s->call && !s->held.n)
    end_of_messages(s);
}

void grpc_stream_hurry(struct grpc_stream *s, nsec since)
{
  if (s->request_done || s->held.n || s->heard > since)
    return;
  if (s->web) {
    grpc_http_hurry(s);
    return;
  }
  if (!s->call || !s->call->method || s->call->method->client_streaming)
    return;
  struct err e;
  err_set(&e, CODE_DEADLINE_EXCEEDED, REASON_DEADLINE, "the rest of the request did not come within body_timeout_s");
  refuse(s, &e);
}

static void tell_drained(struct grpc_stream *s)
{
  if (!s->piled || queued(s) >= CALL_BACKLOG_LOW)
    return;
  s->piled = false;
  if (s->call)
    call_backlog(s->call, queued(s));
}

void grpc_stream_resume(struct grpc_stream *s)
{
  tell_drained(s);
  if (s->web) {
    grpc_http_resume(s);
    return;
  }
  if (!s->held.n || queued(s) >= REPLIES_HIGH)
    return;
  struct buf held = s->held;
  s->held = (struct buf){0};
  take(s, buf_view(&held));
  buf_free(&held);
  if (s->call && s->request_done && !s->held.n)
    end_of_messages(s);
}
