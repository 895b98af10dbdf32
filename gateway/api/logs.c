// SPDX-License-Identifier: Apache-2.0
// StreamLogs: a reader's place in a worker's log, moved on as fast as the caller takes what is sent.
#include "api/control.h"
#include "api/payload.h"
#include "envgate/v1/worker_service.pb-c.h"
#include "pool/pool.h"

enum { MESSAGE_BYTES = 16 << 10 };

struct log_stream {
  struct control_stream stream;
  struct log_follower follower;
  struct worker_log *log;
  struct log_cursor at;
  uint64_t until; // where it ends; UINT64_MAX: with the worker
};

static void let_go(struct log_stream *s)
{
  list_remove(&s->stream.link);
  list_remove(&s->follower.link);
  worker_log_unref(s->log);
}

static void finish(struct log_stream *s, const struct err *e)
{
  let_go(s);
  rpc_finish(s->stream.call, NULL, e);
}

static bool send_piece(struct log_stream *s, const struct log_piece *piece, const char *data)
{
  Envgate__V1__StreamLogsResponse m;
  Google__Protobuf__Timestamp time = GOOGLE__PROTOBUF__TIMESTAMP__INIT;
  envgate__v1__stream_logs_response__init(&m);
  m.data = (ProtobufCBinaryData){piece->n, (uint8_t *)unconst(data)};
  m.offset = (int64_t)piece->offset;
  m.skipped = (int64_t)piece->skipped;
  time.seconds = (int64_t)(piece->wall / NSEC_PER_S);
  time.nanos = (int32_t)(piece->wall % NSEC_PER_S);
  m.time = piece->n ? &time : NULL;
  return call_send(s->stream.call, &m.base);
}

// Sends what there is, as much as the caller takes. May end the call. A piece that goes beyond `until` is sent whole: it is there.
static void pump(struct log_stream *s)
{
  char data[MESSAGE_BYTES];
  struct log_piece piece;
  bool sent = true, more = true;
  while (sent && more && !call_full(s->stream.call) && s->at.offset < s->until) {
    more = worker_log_read(s->log, &s->at, data, sizeof data, &piece);
    sent = !more || send_piece(s, &piece, data);
  }
  if (!sent) {
    struct err e;
    err_nomem(&e);
    finish(s, &e);
  } else if (s->at.offset >= s->until || (!more && (s->until != UINT64_MAX || worker_log_ended(s->log)))) {
    finish(s, NULL);
  }
}

static void on_news(struct log_follower *f)
{
  pump(CONTAINER_OF(f, struct log_stream, follower));
}

static void end(struct control_stream *s, const struct err *e)
{
  finish(CONTAINER_OF(s, struct log_stream, stream), e);
}

// Where to begin. False: `e`.
static bool begin_at(struct log_stream *s, const Envgate__V1__StreamLogsRequest *q, struct err *e)
{
  bool lines = q->_tail_lines_case == ENVGATE__V1__STREAM_LOGS_REQUEST___TAIL_LINES_TAIL_LINES;
  bool offset = q->_offset_case == ENVGATE__V1__STREAM_LOGS_REQUEST___OFFSET_OFFSET;
  uint64_t total = worker_log_total(s->log);
  if (lines && offset)
    return err_field(e, REASON_INVALID_REQUEST, "offset", "offset and tail_lines cannot both be given");
  if (lines && q->tail_lines < 0)
    return err_field(e, REASON_INVALID_REQUEST, "tail_lines", "tail_lines must be 0 or more");
  if (offset && (q->offset < 0 || (uint64_t)q->offset > total))
    return err_field(e, REASON_INVALID_REQUEST, "offset", "offset must be from 0 to the log's end, which is at %llu now", (unsigned long long)total);
  s->at = lines ? worker_log_tail(s->log, (size_t)q->tail_lines) : worker_log_at(s->log, offset ? (uint64_t)q->offset : 0);
  s->until = q->follow ? UINT64_MAX : total;
  return true;
}

void stream_logs_start(struct call *c)
{
  const Envgate__V1__StreamLogsRequest *q = (const void *)c->request;
  struct worker_view v;
  struct err e;
  struct log_stream *s = arena_alloc(&c->arena, sizeof *s);
  if (!s) {
    err_nomem(&e);
    fail(c, &e);
    return;
  }
  if (!worker_of_name(c, q->worker, "worker", &v, &e)) {
    fail(c, &e);
    return;
  }
  s->log = v.log;
  if (!begin_at(s, q, &e) || !control_add(&s->stream, c, end, &e)) {
    fail(c, &e);
    return;
  }
  worker_log_ref(s->log);
  list_init(&s->follower.link);
  s->follower.news = on_news;
  worker_log_follow(s->log, &s->follower);
  c->state = s;
  // So that the caller sees at once that the stream has begun, and where.
  struct log_piece none = {.offset = s->at.offset};
  if (s->at.offset < worker_log_total(s->log) || send_piece(s, &none, "")) {
    pump(s);
    return;
  }
  err_nomem(&e);
  finish(s, &e);
}

void stream_logs_drained(struct call *c)
{
  pump(c->state);
}

void stream_logs_cancel(struct call *c, struct err *e)
{
  (void)e;
  let_go(c->state);
}
