// SPDX-License-Identifier: Apache-2.0
// One gRPC call on its HTTP/2 stream: the request's headers and messages into the call, the call's replies into frames.
//
// What goes wrong before the call begins, and the answer to it:
//   content-type is not gRPC                      HTTP 415 with a text
//   the verb is not POST                          HTTP 405 with a text
//   headers over max_header_bytes                 RESOURCE_EXHAUSTED, MESSAGE_TOO_LARGE
//   no "te: trailers", a malformed grpc-timeout   INVALID_ARGUMENT, INVALID_REQUEST
//   a grpc-encoding other than identity           UNIMPLEMENTED, INVALID_REQUEST, with grpc-accept-encoding
// and with its messages:
//   one over max_message_bytes                    RESOURCE_EXHAUSTED, MESSAGE_TOO_LARGE
//   its compressed flag set                       INTERNAL, INVALID_REQUEST (as gRPC's compression.md has it)
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
static void must(struct grpc_stream *s, int rv)
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

enum { MAX_TRAILERS = 3 };

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

// nghttp2 asks how many of up to `room` bytes go into the next frame; grpc_stream_next gives them.
static ssize_t on_read(nghttp2_session *h2, int32_t id, uint8_t *to, size_t room, uint32_t *flags, nghttp2_data_source *source, void *ctx)
{
  struct grpc_stream *s = source->ptr;
  (void)to;
  (void)ctx;
  size_t all = queued(s), n = all < room ? all : room;
  *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
  if (n < all)
    return (ssize_t)n;
  if (!s->ended)
    return n ? (ssize_t)n : NGHTTP2_ERR_DEFERRED;
  *flags |= NGHTTP2_DATA_FLAG_EOF;
  if (!s->http_status) {
    *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
    nghttp2_nv nv[MAX_TRAILERS];
    if (nghttp2_submit_trailer(h2, id, nv, put_trailers(s, nv)))
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
  if ((s->held.n && queued(s) < REPLIES_HIGH) || (s->piled && queued(s) < CALL_BACKLOG_LOW))
    s->conn->unheld = true;
  if (queued(s))
    return;
  buf_return(&s->conn->front->r->bufs, &s->out);
  grpc_conn_release(s->conn->front, &s->splices);
  s->at = (struct splice_place){0};
}

static size_t put_head(const struct grpc_stream *s, nghttp2_nv *nv)
{
  size_t n = 0;
  nv[n++] = NV_STATIC(":status", "200");
  nv[n++] = NV_STATIC("content-type", s->codec == CODEC_JSON ? "application/grpc+json" : "application/grpc");
  // Never the same twice, so it must not push others out of the header table.
  nv[n++] = NV_COPY("x-request-id", s->request_id, NGHTTP2_NV_FLAG_NO_INDEX);
  return n;
}

// Sees to it that what is queued goes out: headers first, if they have not.
static void send_replies(struct grpc_stream *s)
{
  if (s->headed) {
    nghttp2_session_resume_data(session(s), s->id); // fails when it does not wait for it: no matter
    grpc_conn_touch(s->conn);
    return;
  }
  s->headed = true;
  nghttp2_nv nv[3];
  nghttp2_data_provider from = {.source.ptr = s, .read_callback = on_read};
  must(s, nghttp2_submit_response(session(s), s->id, nv, put_head(s, nv), &from));
}

// An end without messages is one HEADERS frame.
static void send_trailers_only(struct grpc_stream *s)
{
  s->headed = true;
  nghttp2_nv nv[3 + 1 + MAX_TRAILERS];
  size_t n = put_head(s, nv);
  if (strcmp(s->status, "12") == 0)
    nv[n++] = NV_STATIC("grpc-accept-encoding", "identity"); // for UNIMPLEMENTED, which may be about it
  n += put_trailers(s, nv + n);
  must(s, nghttp2_submit_response(session(s), s->id, nv, n, NULL));
}

static void send_plain(struct grpc_stream *s, const struct err *e)
{
  s->prefix_at = GRPC_PREFIX;
  s->headed = s->ended = true;
  if (!buf_printf(&s->out, "%s\n", e->msg))
    buf_free(&s->out);
  s->left = s->out.n;
  char status[12];
  snprintf(status, sizeof status, "%d", s->http_status);
  nghttp2_nv nv[] = {
      NV_COPY(":status", status, 0), NV_STATIC("content-type", "text/plain; charset=utf-8"),
      NV_COPY("x-request-id", s->request_id, NGHTTP2_NV_FLAG_NO_INDEX), NV_STATIC("allow", "POST"), // the last, for 405 only
  };
  size_t n = sizeof nv / sizeof *nv - (s->http_status == 405 ? 0 : 1);
  nghttp2_data_provider from = {.source.ptr = s, .read_callback = on_read};
  must(s, nghttp2_submit_response(session(s), s->id, nv, n, &from));
}

// Takes the bytes of `out` and the pieces between them, when nothing is queued. False: it can't be sent.
static bool queue_first(struct grpc_stream *s, struct buf *out, struct splices *splices)
{
  if (!grpc_prefix(s->prefix, out->n + splices->bytes))
    return false;
  s->prefix_at = 0;
  size_t max = out->max;
  buf_free(&s->out);
  s->out = *out;
  s->out.max = 0;
  *out = (struct buf){.max = max};
  s->splices = *splices;
  *splices = (struct splices){0};
  s->at = (struct splice_place){0};
  s->left = s->out.n + s->splices.bytes;
  s->large = s->left >= FLOW_LARGE;
  return true;
}

// Queues a message; takes its bytes. False: it can't be sent.
static bool queue(struct grpc_stream *s, struct buf *out, struct splices *splices)
{
  if (!queued(s)) // the usual case: no copy
    return queue_first(s, out, splices);
  uint8_t prefix[GRPC_PREFIX]; // of a stream's message: it has no pieces
  if (!grpc_prefix(prefix, out->n))
    return false;
  if (queued(s) > REPLIES_MAX)
    return false;
  if (s->at.own > s->out.n / 2) { // not each time: it moves what is left
    buf_consume(&s->out, s->at.own);
    s->at.own = 0;
  }
  if (!buf_reserve(&s->out, sizeof prefix + out->n))
    return false;
  buf_add(&s->out, prefix, sizeof prefix);
  if (out->n)
    buf_add(&s->out, out->p, out->n);
  s->left += sizeof prefix + out->n;
  out->n = 0;
  return true;
}

// Not by call_cancel, as the handler is at work: it learns it when the stream closes.
static void give_up(struct grpc_stream *s, struct buf *out)
{
  out->n = 0;
  s->given_up = true;
  must(s, nghttp2_submit_rst_stream(session(s), NGHTTP2_FLAG_NONE, s->id, NGHTTP2_ENHANCE_YOUR_CALM));
}

static void on_call_message(struct call *c, struct buf *out)
{
  struct grpc_stream *s = c->front_ctx;
  if (!s->headed)
    memcpy(s->request_id, c->id, sizeof s->request_id);
  if (s->given_up) {
    out->n = 0;
  } else if (queue(s, out, &c->splices)) {
    send_replies(s);
    s->piled |= queued(s) >= CALL_BACKLOG_HIGH;
    call_backlog(c, queued(s));
  } else {
    give_up(s, out);
  }
}

static void set_status(struct grpc_stream *s, const struct err *e)
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
  if (rpc_status_pack(e, &packed))
    grpc_base64(buf_view(&packed), &s->details);
  buf_free(&packed);
}

static void on_call_finish(struct call *c, struct buf *out, const struct err *e)
{
  struct grpc_stream *s = c->front_ctx;
  s->call = NULL;
  grpc_frames_free(&s->frames);
  buf_free(&s->held);
  memcpy(s->request_id, c->id, sizeof s->request_id);
  s->conn->active = s->conn->front->r->now;
  flow_complete(s->conn->flow, (uint64_t)s->id);
  if (s->http_status) {
    struct err none = {0};
    send_plain(s, e ? e : &none);
    return;
  }
  set_status(s, e);
  if (e && !s->headed) {
    send_trailers_only(s);
    return;
  }
  if (!e && !c->method->server_streaming && !queue(s, out, &c->splices)) {
    must(s, NGHTTP2_ERR_NOMEM);
    return;
  }
  s->ended = true;
  send_replies(s);
}

static const struct call_front front = {.message = on_call_message, .finish = on_call_finish};

// For calls that end after their stream.
static void nobody_message(struct call *c, struct buf *out)
{
  (void)c;
  out->n = 0;
}
static void nobody_finish(struct call *c, struct buf *out, const struct err *e)
{
  (void)c;
  (void)out;
  (void)e;
}
static const struct call_front nobody = {.message = nobody_message, .finish = nobody_finish};

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
  list_append(&c->streams, &s->link);
  return s;
}

void grpc_stream_close(struct grpc_stream *s)
{
  struct grpc_front *f = s->conn->front;
  struct call *c = s->call;
  if (c) {
    s->call = NULL;
    c->front = &nobody;
    call_cancel(c);
  }
  flow_done(s->conn->flow, (uint64_t)s->id);
  s->conn->active = f->r->now;
  grpc_frames_free(&s->frames);
  buf_free(&s->held);
  buf_free(&s->out);
  grpc_conn_release(f, &s->splices);
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

// What HTTP has to say of the request before gRPC has. Sets http_status and `e`.
static bool check_http(struct grpc_stream *s, struct err *e)
{
  if (!grpc_content_type(call_header(s->call, STR("content-type")), &s->codec)) {
    s->http_status = 415;
    return err_set(e, CODE_INVALID_ARGUMENT, REASON_MEDIA_TYPE,
                   "HTTP/2 speaks gRPC here: content-type must be application/grpc, application/grpc+proto or application/grpc+json. "
                   "REST and Connect are served over HTTP/1.1.");
  }
  if (!str_eq(s->verb, STR("POST"))) {
    s->http_status = 405;
    return err_set(e, CODE_INVALID_ARGUMENT, REASON_INVALID_REQUEST, "gRPC calls are POST requests");
  }
  return true;
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
  if (!check_http(s, e))
    return false;
  if (!str_ieq(call_header(c, STR("te")), STR("trailers")))
    return err_field(e, REASON_INVALID_REQUEST, "te", "te must be \"trailers\"; a proxy in between may have dropped it");
  struct str encoding = call_header(c, STR("grpc-encoding"));
  if (encoding.n && !str_eq(encoding, STR("identity")))
    return err_set(e, CODE_UNIMPLEMENTED, REASON_INVALID_REQUEST, "grpc-encoding must be identity; no compression is supported");
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
  s->call->headers = s->headers;
  s->call->header_count = s->header_count;
  struct err e;
  err_clear(&e);
  if (!check_head(s, &e))
    refuse(s, &e);
}

static bool next_message(struct grpc_stream *s, struct str *bytes, struct str *message, struct err *e)
{
  switch (grpc_frames_next(&s->frames, bytes, message)) {
  case GRPC_FRAME_MESSAGE:
    return true;
  case GRPC_FRAME_NONE:
    return false;
  case GRPC_FRAME_TOO_LARGE:
    return err_set(e, CODE_RESOURCE_EXHAUSTED, REASON_MESSAGE_TOO_LARGE, "the request message is over max_message_bytes (%zu)", s->frames.max);
  case GRPC_FRAME_COMPRESSED:
    return err_set(e, CODE_INTERNAL, REASON_INVALID_REQUEST, "a message's compressed flag is set, though grpc-encoding is identity");
  case GRPC_FRAME_NOMEM:
    break;
  }
  return err_nomem(e);
}

// Hands over messages until none is whole or too many replies wait; what is left then is held.
static void take(struct grpc_stream *s, struct str bytes)
{
  size_t before = bytes.n;
  struct str m;
  struct err e;
  err_clear(&e);
  while (s->call && queued(s) < REPLIES_HIGH && next_message(s, &bytes, &m, &e))
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
  if (!s->call || !bytes.n)
    return; // answered already; what comes before the peer knows is dropped
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
  if (s->call && !s->held.n)
    end_of_messages(s);
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
  if (!s->held.n || queued(s) >= REPLIES_HIGH)
    return;
  struct buf held = s->held;
  s->held = (struct buf){0};
  take(s, buf_view(&held));
  buf_free(&held);
  if (s->call && s->request_done && !s->held.n)
    end_of_messages(s);
}
