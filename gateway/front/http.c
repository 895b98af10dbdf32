// SPDX-License-Identifier: Apache-2.0
// The only file that knows libmicrohttpd.
//
// A connection has one request at a time, so the request lies in the connection and is used again. libmicrohttpd calls, for each request:
// on_target (the request line is there), on_request (headers; then each piece of the body; then the end), on_completed. A request whose answer is
// not there at its end waits, and on_request is called again: by each MHD_run at first, as most answers are there soon and taking a connection out
// of the daemon's epoll set and putting it back costs more than being asked a few times; later, as it is suspended, once the answer is there. One
// that waits alone is suspended at once: there is little to gain, and the timer for what is asked would wake the thread for it.
#include "front/http.h"

#include <limits.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <unistd.h>

#include "config/config.h"
#include "front/http_request.h"
#include "runtime/metrics.h"

enum {
  POOL_SLACK = 8192,       // of a connection's memory, beside a request's header: libmicrohttpd's own structures and the reply's header
  RUNS_IN_A_ROW = 64,      // before others get their turn
  ASKED_AT_MOST = 8,       // how often a request that waits is asked for its answer before it is suspended
  ASKED_FOR_MS = 1,        // a request that waits is suspended when nothing has happened for this long
  STREAM_BLOCK = 32 << 10, // a piece of a stream as libmicrohttpd sends it
  STREAM_MAX = 64 << 20,   // bytes of a stream that its caller has not taken; whoever sends it should have stopped long before
  SWALLOW_FACTOR = 4,      // a body that is too large is read and thrown away up to this many times the limit, so that its sender sees the answer
};

struct http_front {
  struct reactor *r;
  struct MHD_Daemon *daemon;
  bool (*ready)(struct reactor *r, struct buf *why);
  struct io *io;       // the daemon's epoll descriptor
  struct timer timer;  // the daemon's next timeout
  struct turn_end run; // runs the daemon at the turn's end
  struct list conns;
  struct list hung_up; // connections that libmicrohttpd must be told of
  int count;
  int waiting;      // requests without an answer, suspended or asked
  int asked;        // those of them that are asked
  bool more;        // the daemon has work that it does in its next run only
  bool suspend_all; // that are asked
  bool closing;
  bool draining;
};

enum stage { STAGE_IDLE, STAGE_TARGET, STAGE_BODY, STAGE_STARTED, STAGE_SENT };

struct conn {
  struct http_front *front;
  struct MHD_Connection *mhd;
  struct list link;
  int fd;
  struct io *hangup;
  struct list hung_up_link;
  bool hung_up;
  bool suspended;
  int asked;  // how often; 0: it does not wait, or is suspended
  bool close; // after the answer
  enum stage stage;
  char *target; // of the request line, a copy; kept for reuse
  size_t target_cap;
  size_t length; // Content-Length; 0: none
  size_t swallowed;
  struct http_request request;
};

static struct conn *conn_of(struct http_request *q)
{
  return CONTAINER_OF(q, struct conn, request);
}

// --- the daemon in the loop ----------------------------------------------------------------------------------------------------------------

// MHD_get_timeout says zero when there is work which the descriptor does not tell of, as after resuming; but requests that are asked count as
// such work, too. While there are any, `more` says what is known to be left, and the timer takes care of what is not, such as an error that
// libmicrohttpd answers by itself.
static void run(struct http_front *f)
{
  MHD_UNSIGNED_LONG_LONG ms = 0;
  bool waits = true;
  for (int i = 0; i < RUNS_IN_A_ROW; i++) {
    f->more = false;
    MHD_run(f->daemon);
    waits = MHD_get_timeout(f->daemon, &ms) == MHD_YES;
    if (!waits || ms)
      break;
    if (f->asked && !f->more) {
      ms = ASKED_FOR_MS;
      break;
    }
  }
  timer_set(f->r, &f->timer, waits ? nsec_add(clock_mono(), (nsec)ms * NSEC_PER_MS) : NSEC_NEVER);
}

// The daemon runs at the turn's end, when the answers that came in the turn are there, too.
static void on_epoll(void *ctx, int events)
{
  struct http_front *f = ctx;
  (void)events;
  turn_end_add(f->r, &f->run);
}

static void on_timer(struct timer *t)
{
  struct http_front *f = CONTAINER_OF(t, struct http_front, timer);
  f->suspend_all = true;
  run(f);
  f->suspend_all = false;
}

// libmicrohttpd takes a read that fills less than its buffer for the last there is, and so misses an end that came along with bytes. Once it has
// read those, shutting the reading half down makes the descriptor ready anew; what is still unread stays readable.
static void tell_of_hangups(struct http_front *f)
{
  struct list *node;
  while ((node = list_pop(&f->hung_up)))
    shutdown(CONTAINER_OF(node, struct conn, hung_up_link)->fd, SHUT_RD);
}

static void on_turn_end(struct turn_end *t)
{
  struct http_front *f = CONTAINER_OF(t, struct http_front, run);
  run(f);
  tell_of_hangups(f);
}

// --- answers -------------------------------------------------------------------------------------------------------------------------------

// False: it does not wait.
static bool end_wait(struct conn *conn)
{
  if (!conn->suspended && !conn->asked)
    return false;
  conn->front->waiting--;
  conn->front->asked -= conn->asked > 0;
  conn->suspended = false;
  conn->asked = 0;
  return true;
}

static void suspend(struct conn *conn)
{
  conn->front->asked -= conn->asked > 0;
  conn->asked = 0;
  conn->suspended = true;
  MHD_suspend_connection(conn->mhd);
}

static void answered(struct conn *conn)
{
  conn->request.answered = true;
  if (conn->suspended)
    MHD_resume_connection(conn->mhd);
  if (end_wait(conn))
    turn_end_add(conn->front->r, &conn->front->run);
}

void http_answer(struct http_request *q, int status, const char *content_type, struct buf *body)
{
  q->status = status;
  q->content_type = content_type;
  q->reply = *body;
  *body = (struct buf){.max = body->max};
  answered(conn_of(q));
}

void http_answer_static(struct http_request *q, int status, const char *content_type, struct str body)
{
  q->status = status;
  q->content_type = content_type;
  q->reply_static = body;
  answered(conn_of(q));
}

// --- answers that come in pieces -------------------------------------------------------------------------------------------------------------

static size_t unsent(const struct http_request *q)
{
  return q->reply.n - q->reply_at;
}

// A connection whose stream has nothing to send is suspended.
static void stream_wake(struct http_request *q)
{
  struct conn *conn = conn_of(q);
  if (conn->stage != STAGE_SENT || !conn->suspended)
    return;
  MHD_resume_connection(conn->mhd);
  end_wait(conn);
  turn_end_add(conn->front->r, &conn->front->run);
}

// libmicrohttpd asks for the next bytes.
static ssize_t on_stream_read(void *ctx, uint64_t at, char *to, size_t room)
{
  struct conn *conn = ctx;
  struct http_request *q = &conn->request;
  size_t n = unsent(q) < room ? unsent(q) : room;
  (void)at;
  if (!n && (q->stream_broken || conn->front->closing))
    return MHD_CONTENT_READER_END_WITH_ERROR;
  if (!n && q->stream_ended)
    return MHD_CONTENT_READER_END_OF_STREAM;
  if (!n) {
    conn->front->waiting++;
    suspend(conn);
    return 0;
  }
  memcpy(to, q->reply.p + q->reply_at, n);
  q->reply_at += n;
  if (!unsent(q)) {
    buf_free(&q->reply);
    q->reply_at = 0;
  }
  conn->front->more = true;
  http_rest_sent(q, unsent(q));
  return (ssize_t)n;
}

void http_stream(struct http_request *q, int status, const char *content_type)
{
  q->status = status;
  q->content_type = content_type;
  q->streams = true;
  answered(conn_of(q));
}

bool http_stream_add(struct http_request *q, struct buf *piece, size_t *waiting)
{
  bool ok = true;
  if (!unsent(q)) {
    buf_free(&q->reply);
    q->reply = *piece;
    q->reply_at = 0;
    *piece = (struct buf){.max = piece->max};
  } else {
    if (q->reply_at > q->reply.n / 2) { // not each time: it moves what is left
      buf_consume(&q->reply, q->reply_at);
      q->reply_at = 0;
    }
    q->reply.max = STREAM_MAX;
    ok = buf_add(&q->reply, piece->p, piece->n);
    piece->n = 0;
  }
  *waiting = unsent(q);
  stream_wake(q);
  return ok;
}

void http_stream_end(struct http_request *q, bool broken)
{
  q->stream_ended = true;
  q->stream_broken |= broken;
  stream_wake(q);
}

// --- their sending ---------------------------------------------------------------------------------------------------------------------------

static bool add_headers(const struct conn *conn, struct MHD_Response *response)
{
  const struct http_request *q = &conn->request;
  char seconds[16];
  bool ok = MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, q->content_type);
  if (q->request_id[0])
    ok = ok && MHD_add_response_header(response, "x-request-id", q->request_id);
  if (q->allow[0])
    ok = ok && MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, q->allow);
  if (q->retry_after_s) {
    snprintf(seconds, sizeof seconds, "%u", q->retry_after_s);
    ok = ok && MHD_add_response_header(response, MHD_HTTP_HEADER_RETRY_AFTER, seconds);
  }
  if (conn->close || conn->front->draining)
    ok = ok && MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
  return ok;
}

// A reply whose pieces lie elsewhere, while it is sent.
struct spliced {
  struct buf own;
  struct splices splices;
};

static void free_spliced(void *ctx)
{
  struct spliced *s = ctx;
  buf_free(&s->own);
  splices_free(&s->splices);
  free(s);
}

static struct MHD_Response *spliced_response(struct http_request *q)
{
  size_t most = 2 * q->splices.n + 1;
  struct spliced *s = malloc(sizeof *s);
  struct MHD_IoVec *iov = malloc(most * sizeof *iov);
  struct MHD_Response *response = NULL;
  if (s && iov) {
    *s = (struct spliced){q->reply, q->splices};
    unsigned n = 0;
    bool piece;
    struct splice_place at = {0};
    for (struct str bytes; (bytes = splices_next(&s->splices, buf_view(&s->own), &at, SIZE_MAX, &piece)).n;)
      iov[n++] = (struct MHD_IoVec){bytes.p, bytes.n};
    response = MHD_create_response_from_iovec(iov, n, free_spliced, s);
  }
  free(iov); // libmicrohttpd has a copy
  if (!response) {
    free(s);
    return NULL;
  }
  q->reply = (struct buf){0};
  q->splices = (struct splices){0};
  return response;
}

// Hands the answer to libmicrohttpd, whose MHD_NO closes the connection.
static enum MHD_Result send_answer(struct conn *conn)
{
  struct http_request *q = &conn->request;
  struct MHD_Response *response;
  conn->stage = STAGE_SENT;
  conn->front->more = true;
  if (q->streams) {
    response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK, on_stream_read, conn, NULL);
  } else if (q->reply_static.n) {
    union { // what is persistent is not written to
      const char *from;
      char *to;
    } bytes = {q->reply_static.p};
    response = MHD_create_response_from_buffer(q->reply_static.n, bytes.to, MHD_RESPMEM_PERSISTENT);
  } else if (q->splices.n) {
    response = spliced_response(q);
  } else {
    response = MHD_create_response_from_buffer(q->reply.n, q->reply.p, MHD_RESPMEM_MUST_FREE);
    if (response)
      q->reply = (struct buf){0};
  }
  if (!response)
    return MHD_NO;
  enum MHD_Result result = add_headers(conn, response) ? MHD_queue_response(conn->mhd, (unsigned)q->status, response) : MHD_NO;
  MHD_destroy_response(response);
  return result;
}

// --- headers -------------------------------------------------------------------------------------------------------------------------------

struct header_copy {
  struct arena *arena;
  struct header *at;
  size_t n, cap;
};

static enum MHD_Result copy_header(void *ctx, enum MHD_ValueKind kind, const char *key, size_t key_size, const char *value, size_t value_size)
{
  struct header_copy *to = ctx;
  (void)kind;
  char *name = arena_dup(to->arena, (struct str){key, key_size});
  char *copy = arena_dup(to->arena, (struct str){value, value_size});
  if (!name || !copy || to->n == to->cap)
    return MHD_NO;
  for (size_t i = 0; i < key_size; i++)
    if (name[i] >= 'A' && name[i] <= 'Z')
      name[i] = (char)(name[i] - 'A' + 'a');
  to->at[to->n++] = (struct header){{name, key_size}, {copy, value_size}};
  return MHD_YES;
}

bool http_headers(struct http_request *q, struct arena *a, const struct header **headers, size_t *n)
{
  struct conn *conn = conn_of(q);
  int count = MHD_get_connection_values_n(conn->mhd, MHD_HEADER_KIND, NULL, NULL);
  struct header_copy to = {.arena = a, .cap = count > 0 ? (size_t)count : 0};
  to.at = arena_alloc(a, to.cap * sizeof *to.at);
  if (!to.at)
    return false;
  MHD_get_connection_values_n(conn->mhd, MHD_HEADER_KIND, copy_header, &to);
  *headers = to.at;
  *n = to.n;
  return to.n == to.cap;
}

// What frames a message. libmicrohttpd passes doubtful framing on, and two readers that disagree on where a request ends are a way to smuggle one
// past the other (RFC 9112 section 11.2), so whatever is not plain is refused.
struct framing {
  int hosts, lengths, encodings;
  size_t length; // Content-Length; 0: none
  bool asks;     // Expect: 100-continue
  const char *fault;
};

static bool is_token(struct str s)
{
  for (size_t i = 0; i < s.n; i++) {
    char c = s.p[i], lower = (char)(c | 0x20);
    if ((lower >= 'a' && lower <= 'z') || c == '-')
      continue;
    if (c <= ' ' || c > '~' || strchr("(),/:;<=>?@[\\]{}\"", c))
      return false;
  }
  return s.n > 0;
}

static enum MHD_Result check_header(void *ctx, enum MHD_ValueKind kind, const char *key, size_t key_size, const char *value, size_t value_size)
{
  struct framing *f = ctx;
  struct str name = {key, key_size}, v = {value, value_size};
  (void)kind;
  if (v.n && (memchr(v.p, '\0', v.n) || memchr(v.p, '\r', v.n) || memchr(v.p, '\n', v.n)))
    f->fault = "a header field holds NUL, CR or LF";
  if (!is_token(name))
    f->fault = "a header field's name is not a token";
  if (str_ieq(name, STR("host")))
    f->hosts++;
  if (str_ieq(name, STR("content-length"))) {
    f->lengths++;
    if (!v.n || v.n > 18 || strspn(v.p, "0123456789") != v.n)
      f->fault = "Content-Length is not a plain number";
    else
      f->length = strtoull(v.p, NULL, 10);
  }
  if (str_ieq(name, STR("expect")))
    f->asks = true;
  if (str_ieq(name, STR("transfer-encoding"))) {
    f->encodings++;
    if (!str_ieq(v, STR("chunked")))
      f->fault = "Transfer-Encoding may only be chunked";
  }
  return MHD_YES;
}

// Strictness is left to this function: libmicrohttpd's own MHD_OPTION_STRICT_FOR_CLIENT (0.9.75) checks less, and its answer to a missing Host has
// its header twice.
static const char *request_fault(const struct conn *conn, const char *version, struct framing *f)
{
  for (const char *c = conn->target; *c; c++)
    if (*c <= ' ' || *c > '~')
      return "the request target holds a character that must be percent-encoded";
  MHD_get_connection_values_n(conn->mhd, MHD_HEADER_KIND, check_header, f);
  if (f->fault)
    return f->fault;
  if (f->hosts > 1)
    return "there is more than one Host";
  if (!f->hosts && strcmp(version, MHD_HTTP_VERSION_1_1) == 0)
    return "there is no Host";
  if (f->lengths > 1)
    return "there is more than one Content-Length";
  if (f->encodings > 1)
    return "there is more than one Transfer-Encoding";
  if (f->lengths && f->encodings)
    return "there are both Content-Length and Transfer-Encoding";
  return NULL;
}

// --- requests ------------------------------------------------------------------------------------------------------------------------------

// Makes the connection ready for its next request.
static void request_clear(struct conn *conn)
{
  struct http_request *q = &conn->request;
  end_wait(conn);
  http_rest_cancel(q);
  http_rest_detach(q);
  buf_free(&q->body);
  buf_free(&q->reply);
  splices_free(&q->splices);
  *q = (struct http_request){.r = conn->front->r, .ready = conn->front->ready};
  q->body.max = (size_t)conn->front->r->config->max_message_bytes;
  conn->stage = STAGE_IDLE;
  conn->swallowed = 0;
}

static struct conn *conn_of_mhd(struct MHD_Connection *mhd)
{
  const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
  return info ? info->socket_context : NULL;
}

// The request target as it came: libmicrohttpd is about to decode it in place. NULL: out of memory.
static void *on_target(void *ctx, const char *target, struct MHD_Connection *mhd)
{
  (void)ctx;
  struct conn *conn = conn_of_mhd(mhd);
  if (!conn)
    return NULL;
  if (conn->stage != STAGE_IDLE) // the last one ended before on_request was called
    request_clear(conn);
  size_t n = strlen(target);
  if (n >= conn->target_cap) {
    char *p = realloc(conn->target, n + 1);
    if (!p)
      return NULL;
    conn->target = p;
    conn->target_cap = n + 1;
  }
  memcpy(conn->target, target, n + 1);
  conn->stage = STAGE_TARGET;
  return conn;
}

// Splits "/path?query", which may come as "http://host/path?query" (RFC 9112 section 3.2.2).
static void split_target(struct conn *conn)
{
  struct str target = str_c(conn->target);
  if (target.n > 7 && strncasecmp(target.p, "http://", 7) == 0) {
    const char *slash = memchr(target.p + 7, '/', target.n - 7);
    target = slash ? str_skip(target, (size_t)(slash - target.p)) : STR("/");
  }
  const char *mark = target.n ? memchr(target.p, '?', target.n) : NULL;
  size_t path = mark ? (size_t)(mark - target.p) : target.n;
  conn->request.path = (struct str){target.p, path};
  conn->request.query = mark ? str_skip(target, path + 1) : STR("");
}

static enum MHD_Result refuse(struct conn *conn, const struct err *e, int status)
{
  conn->close = true;
  http_rest_refuse(&conn->request, e, status);
  return send_answer(conn);
}

// The headers are there, the body is to come.
static enum MHD_Result on_headers(struct conn *conn, const char *method, const char *version)
{
  struct http_request *q = &conn->request;
  const struct config *config = q->r->config;
  conn->stage = STAGE_BODY;
  split_target(conn);
  q->method = str_c(method);

  struct err e;
  struct framing f = {0};
  const char *fault = request_fault(conn, version, &f);
  if (fault) {
    err_set(&e, CODE_INVALID_ARGUMENT, REASON_INVALID_REQUEST, "%s", fault);
    return refuse(conn, &e, 400);
  }
  const union MHD_ConnectionInfo *info = MHD_get_connection_info(conn->mhd, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
  if (info && info->header_size > (size_t)config->max_header_bytes) {
    err_set(&e, CODE_RESOURCE_EXHAUSTED, REASON_MESSAGE_TOO_LARGE, "the header fields are over %lld bytes (max_header_bytes)",
            (long long)config->max_header_bytes);
    return refuse(conn, &e, MHD_HTTP_REQUEST_HEADER_FIELDS_TOO_LARGE);
  }
  // Where the caller waits for a word before it sends the body, or the body is no honest mistake, the answer comes now.
  conn->length = f.length;
  conn->front->more |= f.asks; // 100 (Continue) is to be sent
  size_t most = (size_t)config->max_message_bytes;
  if (f.length > most && (f.asks || f.length / SWALLOW_FACTOR > most)) {
    err_set(&e, CODE_RESOURCE_EXHAUSTED, REASON_MESSAGE_TOO_LARGE, "the body is over %zu bytes (max_message_bytes)", most);
    return refuse(conn, &e, MHD_HTTP_CONTENT_TOO_LARGE);
  }
  return MHD_YES;
}

static enum MHD_Result on_body(struct conn *conn, const char *bytes, size_t *n)
{
  struct http_request *q = &conn->request;
  if (!q->body_too_large && !buf_add(&q->body, bytes, *n)) {
    if (q->body.n + *n <= q->body.max)
      return MHD_NO; // out of memory
    q->body_too_large = true;
    conn->swallowed = q->body.n;
    buf_free(&q->body);
  }
  if (q->body_too_large) {
    conn->swallowed += *n;
    if (conn->swallowed / SWALLOW_FACTOR > q->body.max)
      return MHD_NO;
  }
  conn->front->more |= q->body_too_large || !conn->length || q->body.n < conn->length;
  *n = 0;
  return MHD_YES;
}

// libmicrohttpd asks for the answer, or the request was resumed.
static enum MHD_Result on_asked(struct conn *conn)
{
  struct http_front *f = conn->front;
  if (conn->request.answered)
    return send_answer(conn);
  if (f->closing)
    return MHD_NO;
  if (f->suspend_all || conn->asked == ASKED_AT_MOST)
    suspend(conn);
  else
    conn->asked++;
  return MHD_YES;
}

static enum MHD_Result on_whole_request(struct conn *conn)
{
  struct http_request *q = &conn->request;
  conn->stage = STAGE_STARTED;
  if (!http_routes_answer(q))
    http_rest_start(q);
  if (q->answered)
    return send_answer(conn);
  if (conn->front->waiting++ == 0) {
    suspend(conn);
  } else {
    conn->asked = 1;
    conn->front->asked++;
  }
  if (conn->hung_up) {
    conn->close = true;
    http_rest_cancel(q);
  }
  return MHD_YES;
}

static enum MHD_Result on_request(void *ctx, struct MHD_Connection *mhd, const char *url, const char *method, const char *version, const char *bytes,
                                  size_t *n, void **request_ctx)
{
  (void)ctx, (void)url, (void)mhd;
  struct conn *conn = *request_ctx;
  if (!conn)
    return MHD_NO; // out of memory
  switch (conn->stage) {
  case STAGE_TARGET:
    return on_headers(conn, method, version);
  case STAGE_BODY:
    return *n ? on_body(conn, bytes, n) : on_whole_request(conn);
  case STAGE_STARTED:
    return on_asked(conn);
  case STAGE_IDLE:
  case STAGE_SENT:
    break;
  }
  *n = 0; // the rest of a body whose answer is already on its way
  return MHD_YES;
}

static void on_completed(void *ctx, struct MHD_Connection *mhd, void **request_ctx, enum MHD_RequestTerminationCode why)
{
  (void)ctx, (void)mhd, (void)why;
  struct conn *conn = *request_ctx;
  if (!conn)
    return;
  request_clear(conn);
  if (conn->front->draining)
    shutdown(conn->fd, SHUT_RDWR); // its answer may have been made before the draining began
}

// --- connections ---------------------------------------------------------------------------------------------------------------------------

// The caller closed its connection or its writing half.
static void on_hangup(void *ctx, int events)
{
  struct conn *conn = ctx;
  (void)events;
  conn->hung_up = true;
  io_events(conn->hangup, 0);
  if (conn->stage == STAGE_STARTED || (conn->stage == STAGE_SENT && conn->request.streams)) {
    conn->close = true;
    http_rest_cancel(&conn->request);
  } else {
    list_append(&conn->front->hung_up, &conn->hung_up_link);
    turn_end_add(conn->front->r, &conn->front->run);
  }
}

static void conn_opened(struct http_front *f, struct MHD_Connection *mhd, void **socket_ctx)
{
  const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
  struct conn *conn = calloc(1, sizeof *conn);
  struct io *hangup = conn ? io_open(f->r, info->connect_fd, IO_HANGUP, on_hangup, conn) : NULL;
  if (!hangup) {
    free(conn);
    return; // without one every request is refused
  }
  *socket_ctx = conn;
  conn->front = f;
  conn->mhd = mhd;
  conn->fd = info->connect_fd;
  conn->hangup = hangup;
  list_append(&f->conns, &conn->link);
  list_init(&conn->hung_up_link);
  request_clear(conn);
  f->count++;
  metric_add(f->r->metrics, METRIC_connections_opened_total, 1);
  metric_add(f->r->metrics, METRIC_connections, 1);
}

static void conn_closed(struct conn *conn)
{
  struct http_front *f = conn->front;
  list_remove(&conn->link);
  list_remove(&conn->hung_up_link);
  io_close(conn->hangup);
  request_clear(conn);
  free(conn->target);
  free(conn);
  f->count--;
  metric_add(f->r->metrics, METRIC_connections, -1);
}

static void on_connection(void *ctx, struct MHD_Connection *mhd, void **socket_ctx, enum MHD_ConnectionNotificationCode what)
{
  if (what == MHD_CONNECTION_NOTIFY_STARTED)
    conn_opened(ctx, mhd, socket_ctx);
  else if (*socket_ctx)
    conn_closed(*socket_ctx);
}

// Text stays as it came: rest.c decodes it, and tells what is wrong with it.
static size_t leave_escapes(void *ctx, struct MHD_Connection *mhd, char *text)
{
  (void)ctx, (void)mhd;
  return strlen(text);
}

// --- the front -----------------------------------------------------------------------------------------------------------------------------

static struct MHD_Daemon *start_daemon(struct http_front *f)
{
  const struct config *c = f->r->config;
  double idle = c->idle_connection_s < 1 ? 1 : c->idle_connection_s;
  return MHD_start_daemon(MHD_USE_NO_LISTEN_SOCKET | MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, on_request, f,
                          MHD_OPTION_CONNECTION_LIMIT, (unsigned)c->max_connections,                                  //
                          MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)c->max_header_bytes + POOL_SLACK,               //
                          MHD_OPTION_CONNECTION_TIMEOUT, idle > INT_MAX ? (unsigned)INT_MAX : (unsigned)(idle + 0.5), //
                          MHD_OPTION_URI_LOG_CALLBACK, on_target, f,                                                  //
                          MHD_OPTION_UNESCAPE_CALLBACK, leave_escapes, NULL,                                          //
                          MHD_OPTION_NOTIFY_CONNECTION, on_connection, f,                                             //
                          MHD_OPTION_NOTIFY_COMPLETED, on_completed, f,                                               //
                          MHD_OPTION_END);
}

bool http_front_init(struct reactor *r, bool (*ready)(struct reactor *r, struct buf *why))
{
  struct http_front *f = calloc(1, sizeof *f);
  if (!f)
    return false;
  r->http_front = f;
  f->r = r;
  f->ready = ready;
  f->timer.fire = on_timer;
  f->run.run = on_turn_end;
  list_init(&f->run.link);
  list_init(&f->conns);
  list_init(&f->hung_up);
  f->daemon = start_daemon(f);
  if (!f->daemon)
    return false;
  const union MHD_DaemonInfo *info = MHD_get_daemon_info(f->daemon, MHD_DAEMON_INFO_EPOLL_FD);
  f->io = info ? io_open(r, info->epoll_fd, IO_READ, on_epoll, f) : NULL;
  return f->io != NULL;
}

bool http_front_accept(struct reactor *r, int fd, const struct sockaddr *addr, socklen_t len)
{
  struct http_front *f = r->http_front;
  // libmicrohttpd closes the socket when this fails.
  if (MHD_add_connection(f->daemon, fd, addr, len) != MHD_YES)
    return false;
  turn_end_add(r, &f->run);
  return true;
}

int http_front_count(const struct reactor *r)
{
  return r->http_front->count;
}

void http_front_drain(struct reactor *r)
{
  struct http_front *f = r->http_front;
  f->draining = true;
  LIST_EACH (node, &f->conns) {
    const struct conn *conn = CONTAINER_OF(node, struct conn, link);
    if (conn->stage == STAGE_IDLE)
      shutdown(conn->fd, SHUT_RDWR); // libmicrohttpd sees the end and closes it
  }
}

void http_front_free(struct reactor *r)
{
  struct http_front *f = r->http_front;
  if (!f)
    return;
  // libmicrohttpd does not stop while requests are suspended.
  f->closing = true;
  LIST_EACH (node, &f->conns) {
    struct conn *conn = CONTAINER_OF(node, struct conn, link);
    http_rest_detach(&conn->request);
    if (conn->suspended)
      MHD_resume_connection(conn->mhd);
    conn->suspended = false;
  }
  if (f->daemon) {
    MHD_run(f->daemon);
    io_close(f->io);
    MHD_stop_daemon(f->daemon);
  }
  timer_unset(r, &f->timer);
  list_remove(&f->run.link);
  free(f);
  r->http_front = NULL;
}
