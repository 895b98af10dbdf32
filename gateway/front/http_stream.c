// SPDX-License-Identifier: Apache-2.0
// gRPC-Web's calls and Connect's streams: both are gRPC's frames in a body, with the end of the call in a last frame of its own, where gRPC has trailers.
//
// What HTTP sees is a good answer, whatever the call's end; but for a verb other than POST (405), and for Connect the content type of a stream for a method that is
// none (415).
#include "config/config.h"
#include "front/connect_wire.h"
#include "front/grpc_web_wire.h"
#include "front/http_request.h"

enum {
  // As gRPC has it (grpc_stream.c): with so many bytes of replies waiting the caller's requests are not looked at …
  REPLIES_HIGH = 256 << 10,
  // … and with so many the caller is given up.
  REPLIES_MAX = 64 << 20,
};

// Where the two differ.
struct http_dialect {
  const char *name;
  const char *type[2]; // of the reply: CODEC_PROTO, CODEC_JSON
  struct str timeout, encoding;
  const char *reply_encoding, *accept_encoding;
  bool (*read_timeout)(struct str value, nsec *timeout);
  const char *timeout_form;
  uint8_t end_flag;
  bool (*write_end)(const struct call *c, const struct err *e, struct buf *out);
};

static const struct http_dialect grpc_web = {
    .name = "grpc-web",
    .type = {"application/grpc-web+proto", "application/grpc-web+json"},
    .timeout = {"grpc-timeout", sizeof "grpc-timeout" - 1},
    .encoding = {"grpc-encoding", sizeof "grpc-encoding" - 1},
    .reply_encoding = "grpc-encoding",
    .accept_encoding = "grpc-accept-encoding",
    .read_timeout = grpc_timeout,
    .timeout_form = "1 to 8 digits and a unit out of H, M, S, m, u and n",
    .end_flag = GRPC_WEB_TRAILERS,
    .write_end = grpc_web_trailers,
};

static const struct http_dialect connect_stream = {
    .name = "connect",
    .type = {"application/connect+proto", "application/connect+json"},
    .timeout = {"connect-timeout-ms", sizeof "connect-timeout-ms" - 1},
    .encoding = {"connect-content-encoding", sizeof "connect-content-encoding" - 1},
    .reply_encoding = "connect-content-encoding",
    .accept_encoding = "connect-accept-encoding",
    .read_timeout = connect_timeout,
    .timeout_form = "1 to 10 digits",
    .end_flag = CONNECT_END,
    .write_end = connect_end,
};

// --- the reply -----------------------------------------------------------------------------------------------------------------------------

// Appends a frame.
static bool add_frame(struct buf *to, uint8_t flags, const struct buf *bytes)
{
  uint8_t prefix[GRPC_PREFIX];
  if (!grpc_prefix(prefix, flags, bytes->n) || !buf_reserve(to, sizeof prefix + bytes->n))
    return false;
  buf_add(to, prefix, sizeof prefix);
  if (bytes->n)
    buf_add(to, bytes->p, bytes->n);
  return true;
}

static bool add_message(const struct http_request *q, struct buf *to, struct buf *message)
{
  uint8_t flags = 0;
  if (q->gzip)
    grpc_zip(message, &flags);
  bool ok = add_frame(to, flags, message);
  message->n = 0;
  return ok;
}

static bool add_end(const struct http_request *q, const struct call *c, const struct err *e, struct buf *to)
{
  struct buf end = {0};
  bool ok = q->dialect->write_end(c, e, &end) && add_frame(to, q->dialect->end_flag, &end);
  buf_free(&end);
  return ok;
}

// Makes base64 of it where the caller wants that. False: out of memory.
static bool as_text(const struct http_request *q, struct buf *bytes)
{
  if (!q->text)
    return true;
  struct buf text = {0};
  bool ok = grpc_web_text_encode(buf_view(bytes), &text);
  buf_free(bytes);
  *bytes = text;
  return ok;
}

static void put_head(const struct http_request *q, const struct call *c, struct http_head *head)
{
  const struct http_dialect *d = q->dialect;
  *head = (struct http_head){.status = 200, .more = c->extra ? &c->extra->head : NULL};
  if (q->text)
    http_put(head, "content-type", q->codec == CODEC_JSON ? "application/grpc-web-text+json" : "application/grpc-web-text+proto");
  else
    http_put(head, "content-type", d->type[q->codec == CODEC_JSON]);
  http_put(head, "x-request-id", c->id);
  http_put(head, d->accept_encoding, "gzip,identity");
  if (q->gzip)
    http_put(head, d->reply_encoding, "gzip");
}

static void begin(struct http_request *q, const struct call *c)
{
  if (q->begun)
    return;
  q->begun = true;
  struct http_head head;
  put_head(q, c, &head);
  q->carrier->begin(q, &head);
}

// Not by call_cancel, as the handler may be at work: it learns it when the request is closed.
static void give_up(struct http_request *q)
{
  q->given_up = true;
  q->carrier->abort(q);
}

static void on_head(struct call *c)
{
  begin(c->front_ctx, c);
}

static void on_message(struct call *c, struct buf *out)
{
  struct http_request *q = c->front_ctx;
  struct buf piece = {0};
  if (!q->given_up) {
    begin(q, c);
    if (q->carrier->queued(q) > REPLIES_MAX || !add_message(q, &piece, out) || !as_text(q, &piece) || !q->carrier->piece(q, &piece))
      give_up(q);
    else
      call_backlog(c, q->carrier->queued(q));
  }
  out->n = 0;
  buf_free(&piece);
}

static void on_finish(struct call *c, struct buf *out, const struct err *e)
{
  struct http_request *q = c->front_ctx;
  q->call = NULL;
  q->protocol = NULL;
  buf_free(&q->held);
  grpc_frames_free(&q->frames);
  if (q->given_up)
    return;
  bool reply = !e && c->method && !c->method->server_streaming;
  struct buf rest = {0};
  bool ok = (!reply || (splices_join(&c->splices, out) && add_message(q, &rest, out))) && add_end(q, c, e, &rest) && as_text(q, &rest);
  if (!q->begun && ok) { // all of it is here
    struct http_head head;
    put_head(q, c, &head);
    q->carrier->answer(q, &head, &rest, NULL);
  } else {
    begin(q, c);
    if (ok && q->carrier->piece(q, &rest))
      q->carrier->end(q);
    else
      give_up(q);
  }
  buf_free(&rest);
}

static const struct call_front front = {.head = on_head, .message = on_message, .finish = on_finish};

// --- the request ---------------------------------------------------------------------------------------------------------------------------

// Hands over messages until none is whole or too many replies wait; what is left then is held. Returns how many bytes were looked at.
static size_t take(struct http_request *q, struct str bytes)
{
  size_t before = bytes.n;
  struct str message;
  struct err e;
  err_clear(&e);
  while (q->call && q->carrier->queued(q) < REPLIES_HIGH && grpc_next_message(&q->frames, &bytes, &message, &e))
    call_message(q->call, message);
  if (q->call && e.code == CODE_OK && bytes.n && !buf_add(&q->held, bytes.p, bytes.n))
    err_nomem(&e);
  if (q->call && e.code != CODE_OK)
    call_refuse(q->call, &e);
  return q->call ? before - bytes.n : before;
}

static void end_of_messages(struct http_request *q)
{
  struct err e;
  if (grpc_frames_whole(&q->frames) && grpc_web_text_whole(&q->decoder)) {
    call_end_of_messages(q->call);
    return;
  }
  err_set(&e, CODE_INVALID_ARGUMENT, REASON_INVALID_REQUEST, "the request ends in the middle of a message");
  call_refuse(q->call, &e);
}

static void take_text(struct http_request *q, struct str text)
{
  struct buf bytes = {0};
  struct err e;
  if (grpc_web_text_decode(&q->decoder, text, &bytes)) {
    take(q, buf_view(&bytes));
  } else {
    err_set(&e, CODE_INVALID_ARGUMENT, REASON_INVALID_REQUEST, "the body is not base64, though the content type says so");
    call_refuse(q->call, &e);
  }
  buf_free(&bytes);
}

static void on_data(struct http_request *q, struct str bytes)
{
  struct err e;
  if (q->held.n) {
    if (!buf_add(&q->held, bytes.p, bytes.n)) {
      err_nomem(&e);
      call_refuse(q->call, &e);
    }
  } else if (q->text) {
    take_text(q, bytes);
    q->carrier->consumed(q, bytes.n);
  } else {
    q->carrier->consumed(q, take(q, bytes));
  }
}

static void on_end(struct http_request *q)
{
  if (!q->held.n)
    end_of_messages(q);
}

static void on_resume(struct http_request *q)
{
  if (q->call)
    call_backlog(q->call, q->carrier->queued(q));
  if (!q->held.n || q->carrier->queued(q) >= REPLIES_HIGH)
    return;
  struct buf held = q->held;
  q->held = (struct buf){0};
  size_t n = take(q, buf_view(&held));
  if (!q->text)
    q->carrier->consumed(q, n);
  buf_free(&held);
  if (q->call && q->whole && !q->held.n)
    end_of_messages(q);
}

static const struct http_protocol protocol = {.data = on_data, .end = on_end, .resume = on_resume};

static bool check(struct http_request *q, struct call *c, struct err *e)
{
  const struct http_dialect *d = q->dialect;
  struct str encoding = call_header(c, d->encoding);
  q->gzip = str_ieq(encoding, STR("gzip"));
  q->frames.allowed = q->gzip ? GRPC_COMPRESSED : 0;
  if (encoding.n && !q->gzip && !str_ieq(encoding, STR("identity")))
    return err_set(e, CODE_UNIMPLEMENTED, REASON_INVALID_REQUEST, "%s must be gzip or identity", d->encoding.p);
  struct str timeout = call_header(c, d->timeout);
  nsec ns = NSEC_NEVER;
  if (timeout.n && !d->read_timeout(timeout, &ns))
    return err_field(e, REASON_INVALID_REQUEST, d->timeout.p, "%s must be %s", d->timeout.p, d->timeout_form);
  c->deadline = nsec_add(c->arrived, ns);
  return call_method(c, q->path, e);
}

static int refusal(const struct http_request *q, struct err *e)
{
  const struct rpc_method *method = rpc_find(q->r, q->path, NULL);
  if (!str_eq(q->method, STR("POST"))) {
    err_set(e, CODE_UNIMPLEMENTED, REASON_METHOD_NOT_FOUND, "calls are POST requests");
    return 405;
  }
  if (q->dialect != &connect_stream || !method || method->client_streaming || method->server_streaming)
    return 0;
  err_set(e, CODE_INVALID_ARGUMENT, REASON_MEDIA_TYPE, "the method does not stream: the content type must be application/proto or application/json");
  return 415;
}

void http_stream_start(struct http_request *q)
{
  enum codec codec;
  bool text;
  struct err e;
  q->dialect = grpc_web_content_type(call_header(q->call, STR("content-type")), &text, &codec) ? &grpc_web : &connect_stream;
  int status = refusal(q, &e);
  if (status) {
    http_request_refuse(q, &e, status);
    return;
  }
  struct call *c = http_call(q, &front, q->codec, q->dialect->name);
  q->protocol = &protocol;
  q->frames.max = (size_t)q->r->config->max_message_bytes;
  if (check(q, c, &e))
    call_begin(c);
  else
    call_refuse(c, &e);
}
