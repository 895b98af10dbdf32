// SPDX-License-Identifier: Apache-2.0
// The only file that knows libmicrohttpd.
//
// A connection has one request at a time, so the request lies in the connection and is used again. libmicrohttpd calls, for each request:
// on_target (the request line is there), on_request (headers; then each piece of the body; then the end), on_completed. A request whose answer is
// not there at its end waits, and on_request is called again: by each MHD_run at first, as most answers are there soon and taking a connection out
// of the daemon's epoll set and putting it back costs more than being asked a few times; later, as it is suspended, once the answer is there. One
// that waits alone is suspended at once: there is little to gain, and the timer for what is asked would wake the thread for it.
//
// An answer that comes in pieces is read by on_read, which suspends its connection while there is none. libmicrohttpd sends nothing before it has the
// whole request, so until then what is answered waits here.
#include "front/http.h"

#include <fcntl.h>
#include <limits.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <unistd.h>

#include "config/config.h"
#include "front/http_cors.h"
#include "front/http_request.h"
#include "front/http_strict.h"
#include "runtime/metrics.h"

enum {
  POOL_SLACK = 8192,     // of a connection's memory, beside a request's header: libmicrohttpd's own structures and the reply's header
  RUNS_IN_A_ROW = 64,    // before others get their turn
  ASKED_AT_MOST = 8,     // how often a request that waits is asked for its answer before it is suspended
  ASKED_FOR_MS = 1,      // a request that waits is suspended when nothing has happened for this long
  READ_BLOCK = 16 << 10, // of an answer in pieces, at a time
  SWALLOW_FACTOR = 4,    // a body that is too large is read and thrown away up to this many times the limit, so that its sender sees the answer
};

struct http_front {
  struct reactor *r;
  struct MHD_Daemon *daemon;
  const struct http_site *site;
  struct io *io;       // the daemon's epoll descriptor
  struct timer timer;  // the daemon's next timeout
  struct turn_end run; // runs the daemon at the turn's end
  struct list conns;
  struct list hung_up;  // connections that libmicrohttpd must be told of
  struct list arriving; // connections that libmicrohttpd has not told of
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
  int status;
  struct MHD_Response *response; // the answer, until it is queued
  struct http_takeover takeover; // it upgrades; `lost` is NULL when it does not, or has
  bool upgraded;                 // the socket is another's now
  struct buf pieces;             // of an answer that comes so, not yet sent
  size_t pieces_at;
  bool drained;       // suspended, as there are none
  struct timer timer; // looks whether a header is late
  nsec since;         // the connection, the last request's end or this one's first line
  bool served;        // a request has been
  bool ended;         // there will be no more
  bool aborted;
  enum stage stage;
  char *target; // of the request line, a copy; kept for reuse
  size_t target_cap;
  size_t length;    // Content-Length; 0: none
  size_t received;  // of the body
  size_t swallowed; // of it, to no use
  struct peer peer;
  struct http_request request;
};

// What http_front_accept knows of a connection and libmicrohttpd's callback for it does not; by its descriptor.
struct arrival {
  struct list link;
  int fd;
  struct peer peer;
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

// --- carrying: http_request.h's carrier ------------------------------------------------------------------------------------------------------

static void answered(struct conn *conn)
{
  conn->request.answered = true;
  if (conn->suspended)
    MHD_resume_connection(conn->mhd);
  if (end_wait(conn))
    turn_end_add(conn->front->r, &conn->front->run);
}

static bool add_field(struct MHD_Response *response, const struct header *h)
{
  return MHD_add_response_header(response, h->name.p, h->value.p) == MHD_YES;
}

// Takes over the response, which may be NULL: then the connection closes without an answer.
static void set_response(struct conn *conn, const struct http_head *head, struct MHD_Response *response)
{
  struct header cors[CORS_HEADERS];
  size_t n = http_cors_headers(&conn->request, cors);
  bool ok = response;
  for (size_t i = 0; ok && i < n; i++)
    ok = add_field(response, &cors[i]);
  for (size_t i = 0; ok && i < head->n; i++)
    ok = add_field(response, &head->header[i]);
  for (size_t i = 0; ok && head->more && i < head->more->n; i++)
    ok = add_field(response, &head->more->at[i]);
  if (response && !ok) {
    MHD_destroy_response(response);
    response = NULL;
  }
  conn->response = response;
  conn->status = head->status;
  answered(conn);
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

// Takes over both.
static struct MHD_Response *spliced_response(struct buf *own, struct splices *splices)
{
  size_t most = 2 * splices->n + 1;
  struct spliced *s = malloc(sizeof *s);
  struct MHD_IoVec *iov = malloc(most * sizeof *iov);
  struct MHD_Response *response = NULL;
  if (s && iov) {
    *s = (struct spliced){*own, *splices};
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
  *own = (struct buf){.max = own->max};
  *splices = (struct splices){0};
  return response;
}

static void on_answer(struct http_request *q, const struct http_head *head, struct buf *body, struct splices *splices)
{
  if (splices && splices->n) {
    set_response(conn_of(q), head, spliced_response(body, splices));
    return;
  }
  struct MHD_Response *response = MHD_create_response_from_buffer(body->n, body->p, MHD_RESPMEM_MUST_FREE);
  if (response)
    *body = (struct buf){.max = body->max};
  set_response(conn_of(q), head, response);
}

static void on_answer_static(struct http_request *q, const struct http_head *head, struct str body)
{
  union { // what is persistent is not written to
    const char *from;
    char *to;
  } bytes = {body.p};
  set_response(conn_of(q), head, MHD_create_response_from_buffer(body.n, bytes.to, MHD_RESPMEM_PERSISTENT));
}

// libmicrohttpd wants up to `room` bytes of the body.
static ssize_t on_read(void *ctx, uint64_t at, char *to, size_t room)
{
  struct conn *conn = ctx;
  (void)at;
  size_t left = conn->pieces.n - conn->pieces_at, n = left < room ? left : room;
  conn->front->more = true;
  if (conn->aborted || conn->front->closing)
    return MHD_CONTENT_READER_END_WITH_ERROR;
  if (n) {
    memcpy(to, conn->pieces.p + conn->pieces_at, n);
    conn->pieces_at += n;
    if (n == left) {
      buf_free(&conn->pieces);
      conn->pieces_at = 0;
      http_request_resume(&conn->request);
    }
    return (ssize_t)n;
  }
  if (conn->ended)
    return MHD_CONTENT_READER_END_OF_STREAM;
  conn->drained = true;
  MHD_suspend_connection(conn->mhd);
  return 0;
}

static void on_begin(struct http_request *q, const struct http_head *head)
{
  struct conn *conn = conn_of(q);
  set_response(conn, head, MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, READ_BLOCK, on_read, conn, NULL));
}

static void read_on(struct conn *conn)
{
  if (conn->drained)
    MHD_resume_connection(conn->mhd);
  conn->drained = false;
  turn_end_add(conn->front->r, &conn->front->run);
}

static bool on_piece(struct http_request *q, struct buf *bytes)
{
  struct conn *conn = conn_of(q);
  if (conn->pieces_at > conn->pieces.n / 2) { // not each time: it moves what is left
    buf_consume(&conn->pieces, conn->pieces_at);
    conn->pieces_at = 0;
  }
  if (!conn->pieces.n) {
    conn->pieces = *bytes;
    *bytes = (struct buf){.max = bytes->max};
  } else if (!buf_add(&conn->pieces, bytes->p, bytes->n)) {
    return false;
  }
  read_on(conn);
  return true;
}

static void on_end(struct http_request *q)
{
  conn_of(q)->ended = true;
  read_on(conn_of(q));
}

static void on_abort(struct http_request *q)
{
  conn_of(q)->aborted = true;
  read_on(conn_of(q));
}

// libmicrohttpd has sent the answer. It gets its descriptor back to close; the socket lives on under another, and all that libmicrohttpd keeps for a connection
// is freed.
static void on_upgraded(void *ctx, struct MHD_Connection *mhd, void *request_ctx, const char *rest, size_t n, MHD_socket fd,
                        struct MHD_UpgradeResponseHandle *handle)
{
  (void)mhd, (void)request_ctx;
  struct conn *conn = ctx;
  struct http_takeover to = conn->takeover;
  int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  io_close(conn->hangup);
  conn->hangup = NULL;
  list_remove(&conn->hung_up_link);
  timer_unset(conn->front->r, &conn->timer);
  conn->takeover.lost = NULL;
  conn->upgraded = true;
  conn->front->more = true;
  if (own >= 0)
    to.taken(to.ctx, own, (struct str){rest, n}, &conn->peer);
  else
    to.lost(to.ctx);
  MHD_upgrade_action(handle, MHD_UPGRADE_ACTION_CLOSE);
  turn_end_add(conn->front->r, &conn->front->run);
}

static void on_upgrade(struct http_request *q, const struct http_head *head, const struct http_takeover *to)
{
  struct conn *conn = conn_of(q);
  conn->takeover = *to;
  set_response(conn, head, MHD_create_response_for_upgrade(on_upgraded, conn));
}

// Before the request is whole nothing can be sent, and it must not wait for that.
static size_t on_queued(const struct http_request *q)
{
  const struct conn *conn = (const struct conn *)(const void *)((const char *)q - offsetof(struct conn, request));
  return q->whole ? conn->pieces.n - conn->pieces_at : 0;
}

static void on_consumed(struct http_request *q, size_t n)
{
  (void)q, (void)n;
}

// Hands the answer to libmicrohttpd, whose MHD_NO closes the connection.
static enum MHD_Result send_answer(struct conn *conn)
{
  struct MHD_Response *response = conn->response;
  conn->stage = STAGE_SENT;
  conn->front->more = true;
  conn->response = NULL;
  if (!response)
    return MHD_NO;
  bool ok = !(conn->close || conn->front->draining) || MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close") == MHD_YES;
  enum MHD_Result result = ok ? MHD_queue_response(conn->mhd, (unsigned)conn->status, response) : MHD_NO;
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

static bool on_copy_headers(struct http_request *q, struct arena *a, const struct header **headers, size_t *n)
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

static const struct http_carrier carrier = {
    .headers = on_copy_headers,
    .answer = on_answer,
    .answer_static = on_answer_static,
    .begin = on_begin,
    .piece = on_piece,
    .end = on_end,
    .abort = on_abort,
    .upgrade = on_upgrade,
    .queued = on_queued,
    .consumed = on_consumed,
};

static enum MHD_Result check_field(void *ctx, enum MHD_ValueKind kind, const char *key, size_t key_size, const char *value, size_t value_size)
{
  (void)kind;
  http_strict_field(ctx, (struct str){key, key_size}, (struct str){value, value_size});
  return MHD_YES;
}

// --- requests ------------------------------------------------------------------------------------------------------------------------------

// Makes the connection ready for its next request.
static void request_clear(struct conn *conn)
{
  struct http_request *q = &conn->request;
  end_wait(conn);
  http_request_close(q);
  if (conn->takeover.lost)
    conn->takeover.lost(conn->takeover.ctx);
  conn->takeover = (struct http_takeover){0};
  if (conn->response)
    MHD_destroy_response(conn->response);
  conn->response = NULL;
  buf_free(&conn->pieces);
  conn->pieces_at = 0;
  conn->drained = conn->ended = conn->aborted = false;
  *q = (struct http_request){.carrier = &carrier, .r = conn->front->r, .peer = &conn->peer, .site = conn->front->site};
  q->body.max = (size_t)conn->front->r->config->max_message_bytes;
  conn->stage = STAGE_IDLE;
  conn->received = conn->swallowed = 0;
}

// How long the connection may be silent.
static void be_patient(struct conn *conn, double seconds)
{
  double whole = seconds < 1 ? 1 : seconds;
  MHD_set_connection_option(conn->mhd, MHD_CONNECTION_OPTION_TIMEOUT, whole > INT_MAX ? (unsigned)INT_MAX : (unsigned)(whole + 0.5));
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
  conn->since = conn->front->r->now;
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
  http_request_refuse(&conn->request, e, status);
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
  struct http_strict f = {0};
  MHD_get_connection_values_n(conn->mhd, MHD_HEADER_KIND, check_field, &f);
  const char *fault = http_strict_fault(&f, q->method, str_c(conn->target), str_c(version));
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
  http_request_start(q);
  bool lasts = q->call && q->call->method && q->call->method->client_streaming;
  if ((f.length || f.encodings) && !lasts)
    be_patient(conn, config->body_timeout_s);
  if (f.asks && q->answered) { // no need to send the body
    conn->close = true;
    return send_answer(conn);
  }
  if (q->protocol && !q->protocol->data && f.length > most && (f.asks || f.length / SWALLOW_FACTOR > most)) {
    err_set(&e, CODE_RESOURCE_EXHAUSTED, REASON_MESSAGE_TOO_LARGE, "the body is over %zu bytes (max_message_bytes)", most);
    return refuse(conn, &e, MHD_HTTP_CONTENT_TOO_LARGE);
  }
  return MHD_YES;
}

static enum MHD_Result on_body(struct conn *conn, const char *bytes, size_t *n)
{
  struct http_request *q = &conn->request;
  http_request_data(q, (struct str){bytes, *n});
  // What nobody wants any more is read and thrown away, within limits.
  if (q->body_too_large || !q->protocol) {
    conn->swallowed += *n;
    if (conn->swallowed / SWALLOW_FACTOR > q->body.max)
      return MHD_NO;
  }
  conn->received += *n;
  conn->front->more |= q->body_too_large || !conn->length || conn->received < conn->length;
  *n = 0;
  return MHD_YES;
}

static void suspend(struct conn *conn)
{
  conn->front->asked -= conn->asked > 0;
  conn->asked = 0;
  conn->suspended = true;
  MHD_suspend_connection(conn->mhd);
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
  if (conn->length || conn->received)
    be_patient(conn, q->r->config->idle_connection_s);
  http_request_end(q);
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
    http_request_cancel(q);
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
  if (conn->upgraded)
    return;
  conn->served = true;
  conn->since = conn->front->r->now;
  be_patient(conn, conn->front->r->config->idle_connection_s);
  if (conn->front->draining)
    shutdown(conn->fd, SHUT_RDWR); // its answer may have been made before the draining began
}

// --- connections ---------------------------------------------------------------------------------------------------------------------------

// libmicrohttpd counts from the last byte, so a header that comes byte by byte would never be late.
static void on_look(struct timer *t)
{
  struct conn *conn = CONTAINER_OF(t, struct conn, timer);
  const struct config *config = conn->front->r->config;
  bool kept = conn->stage == STAGE_IDLE && conn->served; // alive, and no request has begun or its first line is not complete
  nsec limit = nsec_from_s(kept ? config->idle_connection_s : config->header_timeout_s);
  if ((conn->stage == STAGE_IDLE || conn->stage == STAGE_TARGET) && conn->front->r->now - conn->since >= limit)
    shutdown(conn->fd, SHUT_RDWR); // libmicrohttpd sees the end and closes it
  timer_set(conn->front->r, &conn->timer, nsec_add(conn->front->r->now, nsec_from_s(config->header_timeout_s / 2)));
}

// The caller closed its connection or its writing half.
static void on_hangup(void *ctx, int events)
{
  struct conn *conn = ctx;
  (void)events;
  conn->hung_up = true;
  io_events(conn->hangup, 0);
  conn->close = true;
  http_request_cancel(&conn->request);
  if (conn->stage != STAGE_STARTED) {
    list_append(&conn->front->hung_up, &conn->hung_up_link);
    turn_end_add(conn->front->r, &conn->front->run);
  }
}

// The connection's, or one that is nobody's.
static void take_peer(struct http_front *f, int fd, struct peer *peer)
{
  LIST_EACH (node, &f->arriving) {
    struct arrival *a = CONTAINER_OF(node, struct arrival, link);
    if (a->fd != fd)
      continue;
    list_remove(&a->link);
    peer_move(peer, &a->peer);
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
  conn->since = clock_mono();
  conn->timer.fire = on_look;
  timer_set(f->r, &conn->timer, nsec_add(conn->since, nsec_from_s(f->r->config->header_timeout_s / 2)));
  take_peer(f, conn->fd, &conn->peer);
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
  timer_unset(f->r, &conn->timer);
  request_clear(conn);
  peer_free(&conn->peer);
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

// 0.9.75's strictness toward clients checks less than http_strict.c, and its answer to a missing Host has its header twice; later releases see in the raw bytes
// what is gone when we look (docs/SECURITY.md).
#if MHD_VERSION >= 0x00097701
#define STRICT MHD_OPTION_CLIENT_DISCIPLINE_LVL, 1,
#else
#define STRICT
#endif

// Later releases take a connection in another thread's stead and so in the next run only, unless they are told that there is no other. 0.9.75 never does.
#if MHD_VERSION >= 0x00097707
#define ONE_THREAD MHD_USE_NO_THREAD_SAFETY
#else
#define ONE_THREAD 0
#endif

static struct MHD_Daemon *start_daemon(struct http_front *f)
{
  const struct config *c = f->r->config;
  double idle = c->idle_connection_s < 1 ? 1 : c->idle_connection_s;
  return MHD_start_daemon(MHD_USE_NO_LISTEN_SOCKET | MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_ALLOW_UPGRADE | ONE_THREAD, 0, NULL, NULL,
                          on_request, f, MHD_OPTION_CONNECTION_LIMIT, (unsigned)c->max_connections,                   //
                          MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)c->max_header_bytes + POOL_SLACK,               //
                          MHD_OPTION_CONNECTION_TIMEOUT, idle > INT_MAX ? (unsigned)INT_MAX : (unsigned)(idle + 0.5), //
                          STRICT                                                                                      //
                              MHD_OPTION_URI_LOG_CALLBACK,
                          on_target, f,                                      //
                          MHD_OPTION_UNESCAPE_CALLBACK, leave_escapes, NULL, //
                          MHD_OPTION_NOTIFY_CONNECTION, on_connection, f,    //
                          MHD_OPTION_NOTIFY_COMPLETED, on_completed, f,      //
                          MHD_OPTION_END);
}

bool http_front_init(struct reactor *r, const struct http_site *site)
{
  struct http_front *f = calloc(1, sizeof *f);
  if (!f)
    return false;
  r->http_front = f;
  f->r = r;
  f->site = site;
  f->timer.fire = on_timer;
  f->run.run = on_turn_end;
  list_init(&f->run.link);
  list_init(&f->conns);
  list_init(&f->hung_up);
  list_init(&f->arriving);
  f->daemon = start_daemon(f);
  if (!f->daemon)
    return false;
  const union MHD_DaemonInfo *info = MHD_get_daemon_info(f->daemon, MHD_DAEMON_INFO_EPOLL_FD);
  f->io = info ? io_open(r, info->epoll_fd, IO_READ, on_epoll, f) : NULL;
  return f->io != NULL;
}

bool http_front_accept(struct reactor *r, int fd, const struct sockaddr *addr, socklen_t len, struct peer *peer)
{
  struct http_front *f = r->http_front;
  struct arrival arrival = {.fd = fd};
  peer_move(&arrival.peer, peer);
  list_append(&f->arriving, &arrival.link);
  // libmicrohttpd closes the socket when this fails. Else it has called conn_opened when this returns, as its thread is ours.
  bool added = MHD_add_connection(f->daemon, fd, addr, len) == MHD_YES;
  list_remove(&arrival.link);
  peer_free(&arrival.peer);
  if (!added)
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
    if (conn->stage == STAGE_IDLE && !conn->upgraded)
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
    http_request_close(&conn->request);
    if (conn->suspended || conn->drained)
      MHD_resume_connection(conn->mhd);
    conn->suspended = conn->drained = false;
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
