// SPDX-License-Identifier: Apache-2.0
// An HTTP/2 connection: the socket, nghttp2's session, and what a peer may not do to us.
//
// One read a turn, of up to 64 KiB; all that it leads to, and all that calls answer meanwhile, is written at the turn's end, in one send if it fits.
// What the socket does not take waits in `out`, and until it is gone nghttp2 is asked for no more: so a peer that does not read holds at most that
// buffer and, by flow control, the replies of its own calls.
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "config/config.h"
#include "front/grpc_internal.h"

enum {
  // A stream's window: at 10 ms of round trip it lets 100 MB/s through, and nearly every message fits without waiting for an update.
  // It costs no memory by itself: bytes are taken as they come, up to max_message_bytes.
  STREAM_WINDOW = 1 << 20,
  CONNECTION_WINDOW = 4 << 20,
  // Frames a second that ask for nothing (PING, RST_STREAM, SETTINGS, empty DATA …): so many are free, and four more for each frame that
  // was sent for a call, since clients measure bandwidth by pings and update windows as they read.
  NOISE_FREE = 1000,
  NOISE_PER_WORK = 4,
  // Read, and written, in a turn: the other connections want theirs.
  MAX_READS = 16,
  TURN_MAX = 1 << 20,
  // A write: what the socket does not take of it is copied, and that shall be little.
  WRITE_MAX = 128 << 10,
  COPY_MAX = 1 << 10, // less of a frame is copied, as it is cheaper
  LAST_CALL_MS = 200, // between the notice of a GOAWAY and the GOAWAY: calls that cross it on the way still count
  PATIENCE_S = 15,    // for a caller to take some of its large replies: less than the 20 s between a worker's pings, which we don't read meanwhile
  LINGER_MS = 1000,   // for the peer to read the last bytes and close
};

static struct grpc_stream *stream_of(nghttp2_session *h2, int32_t id)
{
  return id ? nghttp2_session_get_stream_user_data(h2, id) : NULL;
}

void grpc_conn_touch(struct grpc_conn *c)
{
  turn_end_add(c->front->r, &c->flush);
}

static void arm(struct grpc_conn *c, nsec in)
{
  timer_set(c->front->r, &c->timer, nsec_add(c->front->r->now, in));
}

static int on_send_data(nghttp2_session *h2, nghttp2_frame *frame, const uint8_t *head, size_t n, nghttp2_data_source *source, void *ctx);

// --- nghttp2's callbacks. In them nothing may end the session or the connection. -------------------------------------------------------------

static bool is_noise(const nghttp2_frame_hd *hd)
{
  switch (hd->type) {
  case NGHTTP2_HEADERS:
    return false;
  case NGHTTP2_DATA:
    return hd->length == 0 && !(hd->flags & NGHTTP2_FLAG_END_STREAM);
  default:
    return true;
  }
}

static int on_begin_frame(nghttp2_session *h2, const nghttp2_frame_hd *hd, void *ctx)
{
  struct grpc_conn *c = ctx;
  if (!is_noise(hd))
    return 0;
  nsec now = c->front->r->now;
  if (now - c->second >= NSEC_PER_S) {
    c->second = now;
    c->noise = c->work = 0;
  }
  if (++c->noise > NOISE_FREE && c->noise - NOISE_FREE > (uint64_t)c->work * NOISE_PER_WORK)
    nghttp2_session_terminate_session(h2, NGHTTP2_ENHANCE_YOUR_CALM);
  return 0;
}

static int on_begin_headers(nghttp2_session *h2, const nghttp2_frame *frame, void *ctx)
{
  struct grpc_conn *c = ctx;
  if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
    return 0;
  struct grpc_stream *s = grpc_stream_open(c, frame->hd.stream_id);
  if (!s)
    return nghttp2_submit_rst_stream(h2, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_REFUSED_STREAM);
  c->active = c->front->r->now;
  c->head_of = s;
  c->head_since = c->front->r->now;
  return nghttp2_session_set_stream_user_data(h2, frame->hd.stream_id, s);
}

static int on_header(nghttp2_session *h2, const nghttp2_frame *frame, const uint8_t *name, size_t name_n, const uint8_t *value, size_t value_n,
                     uint8_t flags, void *ctx)
{
  struct grpc_conn *c = ctx;
  (void)h2;
  (void)flags;
  if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
    return 0; // a caller's trailers say nothing in gRPC
  struct grpc_stream *s = c->head_of;
  if (s && s->id == frame->hd.stream_id)
    grpc_stream_header(s, (struct str){(const char *)name, name_n}, (struct str){(const char *)value, value_n});
  return 0;
}

static int on_data(nghttp2_session *h2, uint8_t flags, int32_t id, const uint8_t *p, size_t n, void *ctx)
{
  struct grpc_stream *s = stream_of(h2, id);
  (void)flags;
  (void)ctx;
  if (s)
    grpc_stream_data(s, (struct str){(const char *)p, n});
  else
    nghttp2_session_consume_connection(h2, n);
  return 0;
}

static int on_frame(nghttp2_session *h2, const nghttp2_frame *frame, void *ctx)
{
  (void)ctx;
  if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA)
    return 0;
  struct grpc_stream *s = stream_of(h2, frame->hd.stream_id);
  if (!s)
    return 0;
  if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
    s->conn->head_since = 0;
    grpc_stream_head(s);
  }
  if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM)
    grpc_stream_end(s);
  return 0;
}

// After the reply's end the rest of the request is of no use: RST_STREAM(NO_ERROR) says so (RFC 9113, section 8.1).
static int on_sent(nghttp2_session *h2, const nghttp2_frame *frame, void *ctx)
{
  struct grpc_conn *c = ctx;
  if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA)
    return 0;
  c->work++;
  if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) && nghttp2_session_get_stream_remote_close(h2, frame->hd.stream_id) == 0)
    nghttp2_submit_rst_stream(h2, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_NO_ERROR);
  return 0;
}

static int on_stream_close(nghttp2_session *h2, int32_t id, uint32_t error, void *ctx)
{
  struct grpc_stream *s = stream_of(h2, id);
  (void)error;
  (void)ctx;
  if (s) {
    struct grpc_conn *c = s->conn;
    c->head_of = c->head_of == s ? NULL : c->head_of;
    nghttp2_session_set_stream_user_data(h2, id, NULL);
    grpc_stream_close(s);
  }
  return 0;
}

static void *h2_malloc(size_t n, void *ctx)
{
  return blocks_malloc(ctx, n);
}
static void h2_free(void *p, void *ctx)
{
  blocks_free(ctx, p);
}
static void *h2_calloc(size_t n, size_t size, void *ctx)
{
  return blocks_calloc(ctx, n, size);
}
static void *h2_realloc(void *p, size_t n, void *ctx)
{
  return blocks_realloc(ctx, p, n);
}

bool grpc_conn_setup(struct grpc_front *f)
{
  f->memory = (nghttp2_mem){&f->blocks, h2_malloc, h2_free, h2_calloc, h2_realloc};
  if (nghttp2_session_callbacks_new(&f->callbacks) || nghttp2_option_new(&f->option))
    return false;
  nghttp2_session_callbacks *cb = f->callbacks;
  nghttp2_session_callbacks_set_on_begin_frame_callback(cb, on_begin_frame);
  nghttp2_session_callbacks_set_on_begin_headers_callback(cb, on_begin_headers);
  nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
  nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame);
  nghttp2_session_callbacks_set_on_frame_send_callback(cb, on_sent);
  nghttp2_session_callbacks_set_send_data_callback(cb, on_send_data);
  nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_stream_close);
  nghttp2_option_set_no_auto_window_update(f->option, 1);
  // Resets are counted here, with all else that is noise; nghttp2's own bound (33 a second) would hit a trainer that cancels a batch.
  nghttp2_option_set_stream_reset_rate_limit(f->option, UINT32_MAX, UINT32_MAX);
  return true;
}

// --- the end -------------------------------------------------------------------------------------------------------------------------------

static void end_session(struct grpc_conn *c)
{
  struct list *node;
  while ((node = list_pop(&c->streams))) {
    struct grpc_stream *s = CONTAINER_OF(node, struct grpc_stream, link);
    nghttp2_session_set_stream_user_data(c->h2, s->id, NULL);
    grpc_stream_close(s);
  }
  nghttp2_session_del(c->h2);
  c->h2 = NULL;
}

void grpc_conn_close(struct grpc_conn *c)
{
  struct grpc_front *f = c->front;
  if (c->h2)
    end_session(c);
  io_close(c->io);
  tls_close(c->ssl);
  close(c->fd);
  peer_free(&c->peer);
  timer_unset(f->r, &c->timer);
  flow_close(c->flow);
  list_remove(&c->flush.link); // last, as ending calls may have queued it
  list_remove(&c->link);
  buf_free(&c->out);
  f->count--;
  metric_add(f->r->metrics, METRIC_connections, -1);
  free(c);
}

// All is said. Closing now could lose it: bytes of the peer that nobody read make the kernel reset the connection.
static void linger(struct grpc_conn *c)
{
  end_session(c);
  if (c->ssl)
    tls_end(c->ssl);
  shutdown(c->fd, SHUT_WR);
  io_events(c->io, IO_READ | IO_EDGE);
  arm(c, LINGER_MS * NSEC_PER_MS);
}

static void go(struct grpc_conn *c)
{
  c->state = CONN_GOING;
  nghttp2_submit_goaway(c->h2, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(c->h2), NGHTTP2_NO_ERROR, NULL, 0);
  grpc_conn_touch(c);
}

void grpc_conn_drain(struct grpc_conn *c)
{
  if (!c->h2 || c->state != CONN_OPEN)
    return;
  c->state = CONN_NOTICED;
  nghttp2_submit_shutdown_notice(c->h2);
  grpc_conn_touch(c);
  arm(c, LAST_CALL_MS * NSEC_PER_MS);
}

// --- time ----------------------------------------------------------------------------------------------------------------------------------

static bool busy(struct grpc_conn *c)
{
  LIST_EACH (node, &c->streams)
    if (grpc_stream_busy(CONTAINER_OF(node, struct grpc_stream, link)))
      return true;
  return false;
}

// How often the timer looks at what has a time limit of its own.
static nsec tick(const struct grpc_conn *c)
{
  const struct config *config = c->front->r->config;
  double least = config->header_timeout_s < config->body_timeout_s ? config->header_timeout_s : config->body_timeout_s;
  return nsec_from_s((least < config->idle_connection_s ? least : config->idle_connection_s) / 2);
}

// Its first frame, which is noise (SETTINGS), or a header is late.
static bool head_is_late(const struct grpc_conn *c, nsec now)
{
  nsec since = c->second ? c->head_since : c->active;
  return since && now - since >= nsec_from_s(c->front->r->config->header_timeout_s);
}

// One timer for all; it is not moved with each call, but looks when it fires.
static void on_timer(struct timer *t)
{
  struct grpc_conn *c = CONTAINER_OF(t, struct grpc_conn, timer);
  nsec now = c->front->r->now, idle = nsec_from_s(c->front->r->config->idle_connection_s);
  if (!c->h2) { // it has lingered
    grpc_conn_close(c);
    return;
  }
  if (c->state == CONN_NOTICED) {
    go(c);
    arm(c, tick(c));
    return;
  }
  if (head_is_late(c, now)) {
    grpc_conn_close(c);
    return;
  }
  LIST_EACH (node, &c->streams)
    grpc_stream_hurry(CONTAINER_OF(node, struct grpc_stream, link), now - nsec_from_s(c->front->r->config->body_timeout_s));
  nsec since = c->out.n ? c->progress : c->active;
  if (now < nsec_add(since, idle)) {
    nsec left = nsec_add(since, idle) - now;
    arm(c, left < tick(c) ? left : tick(c));
    return;
  }
  if (c->out.n || c->state == CONN_GOING) {
    // It does not read, or it had its GOAWAY: a call that is still being worked on is the only excuse.
    if (c->out.n || !busy(c))
      grpc_conn_close(c);
    else
      arm(c, tick(c));
    return;
  }
  if (busy(c))
    arm(c, tick(c));
  else
    grpc_conn_drain(c);
}

// --- bytes ---------------------------------------------------------------------------------------------------------------------------------

// Sends until the socket takes no more, which leaves the rest in `iov`. False: the connection is dead.
static bool send_some(struct grpc_conn *c, struct iovec **iov, int *n)
{
  while (*n) {
    struct msghdr message = {.msg_iov = *iov, .msg_iovlen = (size_t)*n};
    ssize_t sent = c->ssl    ? tls_send(c->ssl, (*iov)->iov_base, (*iov)->iov_len)
                   : *n == 1 ? send(c->fd, (*iov)->iov_base, (*iov)->iov_len, MSG_NOSIGNAL)
                             : sendmsg(c->fd, &message, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR)
      continue;
    if (sent < 0)
      return errno == EAGAIN;
    c->progress = c->front->r->now;
    for (size_t left = (size_t)sent; *n && left >= (*iov)->iov_len; ++*iov, --*n)
      left -= (*iov)->iov_len, sent = (ssize_t)left;
    if (*n) {
      (*iov)->iov_base = (char *)(*iov)->iov_base + sent;
      (*iov)->iov_len -= (size_t)sent;
    }
  }
  return true;
}

// Sends, or keeps what the socket does not take. False: the connection is dead or there is no memory.
static bool put(struct grpc_conn *c, struct iovec *iov, int n)
{
  if (n && !c->out.n && !send_some(c, &iov, &n))
    return false;
  if (n && !c->out.n)
    c->progress = c->front->r->now; // the wait begins
  for (int i = 0; i < n; i++)
    if (!buf_add(&c->out, iov[i].iov_base, iov[i].iov_len))
      return false;
  return true;
}

static bool put_rest(struct grpc_conn *c)
{
  struct iovec rest = {c->out.p + c->out_at, c->out.n - c->out_at}, *iov = &rest;
  int n = 1;
  if (!send_some(c, &iov, &n))
    return false;
  c->out_at = n ? c->out.n - rest.iov_len : 0;
  if (!n)
    buf_free(&c->out);
  return true;
}

// Forgets what has been gathered, for a connection that is dead.
static void drop_gathered(struct grpc_front *f)
{
  f->iov_n = 0;
  f->out_n = f->iov_bytes = 0;
  while (f->spent_n)
    splices_free(&f->spent[--f->spent_n]);
}

// Sends what has been gathered. False: the connection is dead.
static bool flush_gathered(struct grpc_conn *c)
{
  bool ok = put(c, c->front->iov, c->front->iov_n);
  drop_gathered(c->front);
  return ok;
}

void grpc_conn_release(struct grpc_front *f, struct splices *splices)
{
  if (f->iov_n && splices->n) {
    assert(f->spent_n < GRPC_SPENT); // make_room
    f->spent[f->spent_n++] = *splices;
    *splices = (struct splices){0};
  }
  splices_free(splices);
}

// Sees to room for `n` more bytes of our own (at most GRPC_SCRATCH) in as many pieces. False: the socket takes no more now, or the connection is dead.
static bool make_room(struct grpc_conn *c, size_t n, int pieces)
{
  struct grpc_front *f = c->front;
  bool room = n <= GRPC_SCRATCH - f->out_n && pieces <= GRPC_IOVECS - f->iov_n && f->iov_bytes < WRITE_MAX && f->spent_n < GRPC_SPENT / 2;
  return room || (flush_gathered(c) && !c->out.n);
}

static void gather_piece(struct grpc_front *f, const char *p, size_t n)
{
  struct iovec *last = f->iov_n ? &f->iov[f->iov_n - 1] : NULL;
  if (last && (char *)last->iov_base + last->iov_len == p)
    last->iov_len += n;
  else
    f->iov[f->iov_n++] = (struct iovec){(void *)(uintptr_t)p, n};
  f->iov_bytes += n;
  f->out_total += n;
}

// Gathers a copy, for which there is room.
static void gather_copy(struct grpc_front *f, const void *p, size_t n)
{
  char *to = f->out + f->out_n;
  memcpy(to, p, n);
  f->out_n += n;
  gather_piece(f, to, n);
}

// A frame of a reply. Small parts are copied into what goes to the socket, large ones go from where they were received: either way at most one copy.
static int on_send_data(nghttp2_session *h2, nghttp2_frame *frame, const uint8_t *head, size_t n, nghttp2_data_source *source, void *ctx)
{
  enum { HEAD = 9, PIECES = 16 };
  struct grpc_conn *c = ctx;
  struct grpc_front *f = c->front;
  (void)h2;
  (void)frame;
  if (f->out_total >= TURN_MAX || !make_room(c, HEAD + n, PIECES))
    return NGHTTP2_ERR_WOULDBLOCK; // it is asked for again
  gather_copy(f, head, HEAD);
  while (n) {
    bool lasting;
    struct str bytes = grpc_stream_next(source->ptr, n, &lasting);
    if (lasting && !c->ssl && bytes.n >= COPY_MAX && f->iov_n < GRPC_IOVECS)
      gather_piece(f, bytes.p, bytes.n);
    else
      gather_copy(f, bytes.p, bytes.n);
    n -= bytes.n;
  }
  grpc_stream_taken(source->ptr);
  return 0;
}

// Sends what nghttp2 has, gathered into large writes, until it has no more, the socket is full, or it is enough for a turn, which sets *more.
// False: the connection is dead.
static bool pump(struct grpc_conn *c, bool *more)
{
  struct grpc_front *f = c->front;
  f->out_total = 0;
  if (c->out.n && !put_rest(c))
    return false;
  while (!c->out.n) {
    const uint8_t *p = NULL;
    ssize_t got = f->out_total < TURN_MAX ? nghttp2_session_mem_send(c->h2, &p) : 0;
    if (got < 0)
      return false;
    if (got == 0 && !c->out.n) {
      *more = f->out_total >= TURN_MAX;
      return flush_gathered(c);
    }
    if (!got)
      continue;
    // What nghttp2 gives must be taken, if only to be kept.
    if ((size_t)got <= GRPC_SCRATCH && make_room(c, (size_t)got, 1))
      gather_copy(f, p, (size_t)got);
    else if (!flush_gathered(c) || !put(c, &(struct iovec){(void *)(uintptr_t)p, (size_t)got}, 1))
      return false;
  }
  return true;
}

static void on_turn_end(struct turn_end *t)
{
  struct grpc_conn *c = CONTAINER_OF(t, struct grpc_conn, flush);
  if (!c->h2)
    return;
  bool more = false;
  if (!pump(c, &more)) {
    drop_gathered(c->front);
    grpc_conn_close(c);
    return;
  }
  if (c->took_large)
    flow_progress(c->flow);
  c->took_large = false;
  // What is left, and what becomes of the requests that were held, is for the next turn.
  bool again = more || c->unheld || c->unread;
  io_events(c->io, IO_READ | IO_EDGE | (c->out.n || again ? IO_WRITE : 0));
  if (again)
    io_again(c->io);
  if (!c->out.n && !more && !nghttp2_session_want_read(c->h2) && !nghttp2_session_want_write(c->h2))
    linger(c);
}

// Reads until a read is short: that was all. With `ends` the peer's end is behind it and must be read, too. False: the connection is over.
static bool take(struct grpc_conn *c, bool ends)
{
  char *p = c->front->in;
  for (int i = 0; i < MAX_READS; i++) {
    ssize_t n = c->ssl ? tls_recv(c->ssl, p, GRPC_SCRATCH) : recv(c->fd, p, GRPC_SCRATCH, 0);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return errno == EAGAIN;
    if (n == 0)
      return false;
    if (c->h2 && nghttp2_session_mem_recv(c->h2, (const uint8_t *)p, (size_t)n) < 0)
      return false;
    if (n < GRPC_SCRATCH && !ends && !c->ssl) // of TLS a read is a record
      return true;
  }
  c->unread = c->ssl != NULL;
  io_again(c->io);
  return true;
}

static void look_at_held(struct grpc_conn *c)
{
  c->unheld = false;
  LIST_EACH (node, &c->streams)
    grpc_stream_resume(CONTAINER_OF(node, struct grpc_stream, link));
}

static void on_io(void *ctx, int events)
{
  struct grpc_conn *c = ctx;
  bool unread = c->unread;
  c->unread = false;
  if (((events & (IO_READ | IO_HANGUP)) || unread) && !take(c, events & IO_HANGUP)) {
    grpc_conn_close(c);
    return;
  }
  if (c->unheld && c->h2)
    look_at_held(c);
  grpc_conn_touch(c);
}

static bool open_session(struct grpc_conn *c)
{
  const struct config *config = c->front->r->config;
  if (nghttp2_session_server_new3(&c->h2, c->front->callbacks, c, c->front->option, &c->front->memory))
    return false;
  // Without RFC 7540's priorities nghttp2 would forget a stream when it closes, and frames that come on it still would go unseen; to remember costs some 300
  // instructions a call.
  nghttp2_settings_entry settings[] = {
      {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, (uint32_t)config->max_streams},
      {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, STREAM_WINDOW},
      {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, (uint32_t)config->max_header_bytes},
  };
  return !nghttp2_submit_settings(c->h2, NGHTTP2_FLAG_NONE, settings, sizeof settings / sizeof *settings) &&
         !nghttp2_session_set_local_window_size(c->h2, NGHTTP2_FLAG_NONE, 0, CONNECTION_WINDOW);
}

bool grpc_conn_open(struct grpc_front *f, int fd, struct ssl_st *ssl, struct peer *peer)
{
  struct grpc_conn *c = calloc(1, sizeof *c);
  double patience = f->r->config->idle_connection_s < PATIENCE_S ? f->r->config->idle_connection_s : PATIENCE_S;
  struct flow *flow = flow_new(f->r, nsec_from_s(patience));
  if (!c || !flow) {
    free(c);
    if (flow)
      flow_close(flow);
    return false;
  }
  nsec now = clock_mono();
  *c = (struct grpc_conn){.front = f, .fd = fd, .flow = flow, .flush.run = on_turn_end, .timer.fire = on_timer, .active = now, .progress = now};
  list_init(&c->link);
  list_init(&c->flush.link);
  list_init(&c->streams);
  if (!open_session(c) || !(c->io = io_open(f->r, fd, IO_READ | IO_EDGE, on_io, c)) || !timer_set(f->r, &c->timer, nsec_add(now, tick(c)))) {
    io_close(c->io);
    nghttp2_session_del(c->h2);
    flow_close(flow);
    free(c);
    return false;
  }
  c->ssl = ssl;
  c->unread = ssl != NULL; // the handshake's last read may have taken more
  peer_move(&c->peer, peer);
  list_append(&f->conns, &c->link);
  f->count++;
  metric_add(f->r->metrics, METRIC_connections_opened_total, 1);
  metric_add(f->r->metrics, METRIC_connections, 1);
  grpc_conn_touch(c);
  return true;
}
