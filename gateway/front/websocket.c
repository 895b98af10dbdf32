// SPDX-License-Identifier: Apache-2.0
// A message costs one recv and one send: what a turn's messages are answered with is gathered, small parts copied, large ones noted, and goes out at the
// turn's end. An idle socket has no buffers.
#include "front/websocket.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

#include "auth/auth.h"
#include "base/utf8.h"
#include "config/config.h"
#include "runtime/metrics.h"
#include "runtime/socket.h"
#include "upstream/ws_handshake.h"

enum {
  SCRATCH = 64 << 10, // read at once
  MAX_READ = 1 << 20, // in a turn, so that one socket does not hold the loop
  MAX_IOV = 16,
  SPLICE_MIN = 8 << 10,        // a smaller body is cheaper copied
  MAX_KEPT = 4 << 20,          // bytes that have gone are only let go of when all have: a stream that never quite drains stops here
  MAX_UNSENT_PONGS = 64 << 10, // a peer that floods us with pings and does not read gets no more pongs
  PING_S = 20,
};
#define PING_INTERVAL (PING_S * NSEC_PER_S)
#define CLOSE_TIMEOUT NSEC_PER_S

enum state {
  STATE_OPEN,
  STATE_CLOSING, // the owner knows it no more; our last bytes and the peer's close frame are awaited
  STATE_DEAD,    // freed at the end of the turn
};

struct websocket {
  struct list link; // in its front
  struct websocket_front *front;
  enum state state;
  const struct websocket_events *events;
  void *ctx;
  int fd;
  struct io *io;
  struct ws_frames frames;
  struct peer peer;
  char *authorization; // as it was shown at the upgrade; NULL: none
  struct buf held;     // read and not looked at, since it was paused
  // What is to be sent: own bytes, and pieces between them that lie elsewhere.
  struct buf own;
  struct splices pieces;
  struct splice_place at; // how far it has gone
  size_t unsent;
  bool full; // over WEBSOCKET_HIGH, and `drained` is owed
  bool paused;
  bool hung_up;  // the peer sends no more, and not all of what it sent may have been read
  bool heard_of; // closing: the peer's close frame is here
  bool told_off; // closing for a breach of the protocol: what it says further is not understood, so the end of our side is said by TCP
  bool pinged;   // a ping is out since last_heard
  nsec last_heard;
  struct timer timer; // open: the next ping; closing: the limit
  struct turn_end turn, freeing;
};

struct websocket_front {
  struct reactor *r;
  struct list all;
  int count, open;
  bool draining;
  struct ws_coders coders;
  char scratch[SCRATCH];
};

static struct reactor *reactor_of(const struct websocket *w)
{
  return w->front->r;
}

// --- ends ----------------------------------------------------------------------------------------------------------------------------------

static void free_now(struct turn_end *t)
{
  struct websocket *w = CONTAINER_OF(t, struct websocket, freeing);
  list_remove(&t->link);
  free(w);
}

// Lets go of everything but the struct, which whoever is up the stack may still look at.
static void die(struct websocket *w)
{
  if (w->state == STATE_DEAD)
    return;
  w->state = STATE_DEAD;
  list_remove(&w->link);
  list_remove(&w->turn.link);
  w->front->count--;
  metric_add(reactor_of(w)->metrics, METRIC_connections, -1);
  timer_unset(reactor_of(w), &w->timer);
  io_close(w->io);
  close(w->fd);
  ws_frames_free(&w->frames);
  buf_free(&w->held);
  buf_free(&w->own);
  splices_free(&w->pieces);
  peer_free(&w->peer);
  if (w->authorization)
    explicit_bzero(w->authorization, strlen(w->authorization));
  free(w->authorization);
  turn_end_add(reactor_of(w), &w->freeing);
}

// From here on the owner hears nothing.
static void part(struct websocket *w)
{
  w->state = STATE_CLOSING;
  w->front->open--;
  w->paused = false;
  buf_free(&w->held);
  metric_add(reactor_of(w)->metrics, METRIC_websockets, -1);
}

// The connection is over.
static void lose(struct websocket *w, int code)
{
  bool tell = w->state == STATE_OPEN;
  if (tell)
    part(w);
  die(w);
  if (tell)
    w->events->end(w->ctx, code);
}

// --- out -----------------------------------------------------------------------------------------------------------------------------------

static void watch(struct websocket *w)
{
  io_events(w->io, IO_EDGE | (w->paused ? IO_HANGUP : IO_READ) | (w->unsent ? IO_WRITE : 0));
}

static void later(struct websocket *w)
{
  turn_end_add(reactor_of(w), &w->turn);
}

static bool put_frame(struct websocket *w, enum ws_opcode opcode, struct str payload)
{
  size_t before = w->own.n;
  bool ok = ws_frames_write(&w->front->coders, opcode, &payload, payload.n > 0, &w->own);
  w->unsent += w->own.n - before;
  later(w);
  return ok;
}

static void put_close(struct websocket *w, int code)
{
  size_t before = w->own.n;
  ws_frames_write_close(&w->front->coders, code, &w->own);
  w->unsent += w->own.n - before;
  later(w);
}

static int gather(const struct websocket *w, struct iovec iov[MAX_IOV])
{
  struct splice_place at = w->at;
  int n = 0;
  bool piece;
  for (struct str bytes; n < MAX_IOV && (bytes = splices_next(&w->pieces, buf_view(&w->own), &at, SIZE_MAX, &piece)).n; n++)
    iov[n] = (struct iovec){(void *)(uintptr_t)bytes.p, bytes.n};
  return n;
}

static void sent(struct websocket *w, size_t n)
{
  bool piece;
  w->unsent -= n;
  while (n)
    n -= splices_next(&w->pieces, buf_view(&w->own), &w->at, n, &piece).n;
  if (w->unsent)
    return;
  buf_return(&reactor_of(w)->bufs, &w->own);
  if (w->pieces.n_held)
    splices_free(&w->pieces);
  w->at = (struct splice_place){0};
}

// Errors are left to the reading side: the descriptor shows as readable then, and what the peer sent before it went is read first. False: no more can be sent.
static bool flush(struct websocket *w)
{
  while (w->unsent) {
    struct iovec iov[MAX_IOV];
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = (size_t)gather(w, iov)};
    ssize_t n = sendmsg(w->fd, &m, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0 && errno == EAGAIN)
      break;
    sent(w, n < 0 ? w->unsent : (size_t)n);
    if (n < 0)
      return false;
  }
  return true;
}

bool websocket_send(struct websocket *w, enum ws_opcode opcode, struct str head, struct shared *body, struct str tail)
{
  if (w->state != STATE_OPEN)
    return true;
  size_t n = body ? body->buf.n : 0, total = head.n + n + tail.n, before = w->own.n;
  if (!w->own.p)
    buf_lend(&reactor_of(w)->bufs, &w->own, total < SPLICE_MIN ? total + 16 : 64);
  bool ok = ws_frames_write_header(&w->front->coders, opcode, total, &w->own) && buf_str(&w->own, head);
  bool spliced = ok && n >= SPLICE_MIN && splices_hold(&w->pieces, body) && splices_add(&w->pieces, w->own.n, buf_view(&body->buf));
  ok = ok && (spliced || !n || buf_add(&w->own, body->buf.p, n)) && buf_str(&w->own, tail);
  if (ok) {
    w->unsent += w->own.n - before + (spliced ? n : 0);
    metric_add(reactor_of(w)->metrics, METRIC_websocket_messages_sent_total, 1);
    metric_add(reactor_of(w)->metrics, METRIC_sent_bytes_total, (int64_t)total);
  } else { // a part of the message may be out, so the peer never gets a whole one: the connection's end comes as an event
    shutdown(w->fd, SHUT_RDWR);
  }
  w->full = w->full || w->unsent > WEBSOCKET_HIGH || w->own.n > MAX_KEPT;
  later(w);
  return !w->full;
}

bool websocket_full(const struct websocket *w)
{
  return w->full;
}

void websocket_close(struct websocket *w, int code)
{
  if (!w || w->state != STATE_OPEN)
    return;
  part(w);
  put_close(w, code);
  watch(w);
  io_again(w->io); // what it has sent since it was paused
  if (!timer_set(reactor_of(w), &w->timer, nsec_add(reactor_of(w)->now, CLOSE_TIMEOUT)))
    die(w);
}

// --- in ------------------------------------------------------------------------------------------------------------------------------------

// The end comes from the other side, or for its fault: its owner learns it, and our own close frame goes out.
static void end(struct websocket *w, int code, bool heard_of)
{
  if (w->state == STATE_CLOSING) {
    w->heard_of = w->heard_of || heard_of;
    later(w);
    return;
  }
  websocket_close(w, code);
  w->heard_of = heard_of;
  w->events->end(w->ctx, code);
}

static void on_message(struct websocket *w, const struct ws_event *ev)
{
  const struct buf *b = &ev->message->buf;
  if (w->state != STATE_OPEN) {
    shared_unref(ev->message);
  } else if (!ev->binary && !utf8_valid(b->p, b->n)) {
    shared_unref(ev->message);
    end(w, WS_CODE_BAD_TEXT, false);
  } else {
    metric_add(reactor_of(w)->metrics, METRIC_websocket_messages_received_total, 1);
    metric_add(reactor_of(w)->metrics, METRIC_received_bytes_total, (int64_t)b->n);
    w->events->message(w->ctx, ev->message, ev->binary);
  }
}

static void on_event(struct websocket *w, enum ws_event_type type, const struct ws_event *ev)
{
  switch (type) {
  case WS_EVENT_NONE:
  case WS_EVENT_PONG:
    break;
  case WS_EVENT_MESSAGE:
    on_message(w, ev);
    break;
  case WS_EVENT_PING:
    if (w->state == STATE_OPEN && w->unsent < MAX_UNSENT_PONGS)
      put_frame(w, WS_PONG, ev->payload);
    break;
  case WS_EVENT_CLOSE:
    end(w, ev->code, true);
    break;
  case WS_EVENT_ERROR:
    end(w, ev->code, false);
    break;
  }
}

// Until all is read, or the owner wants no more: then the rest is held.
static void read_frames(struct websocket *w, struct str in)
{
  struct ws_event ev;
  enum ws_event_type type = WS_EVENT_PONG;
  while (type != WS_EVENT_NONE && w->state != STATE_DEAD && !w->paused) {
    type = ws_frames_read(&w->frames, &in, &ev);
    on_event(w, type, &ev);
  }
  if (w->state == STATE_OPEN && in.n && !buf_str(&w->held, in))
    lose(w, WS_CODE_LOST);
}

static void heard(struct websocket *w)
{
  w->last_heard = reactor_of(w)->now;
  w->pinged = false;
}

static void on_readable(struct websocket *w)
{
  for (size_t all = 0; w->state != STATE_DEAD && !w->paused;) {
    if (all >= MAX_READ) {
      io_again(w->io);
      return;
    }
    ssize_t n = recv(w->fd, w->front->scratch, SCRATCH, 0);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0 && errno == EAGAIN)
      return;
    if (n <= 0) {
      lose(w, WS_CODE_LOST);
      return;
    }
    heard(w);
    read_frames(w, (struct str){w->front->scratch, (size_t)n});
    all += (size_t)n;
    if (n < SCRATCH && !w->hung_up)
      return; // that was all
  }
}

static void on_ready(void *ctx, int events)
{
  struct websocket *w = ctx;
  if (events & IO_WRITE && w->unsent) {
    heard(w); // it has taken some
    later(w);
  }
  w->hung_up = w->hung_up || events & IO_HANGUP;
  if (w->paused && w->hung_up)
    lose(w, WS_CODE_LOST);
  else if (w->held.n)
    later(w); // that comes first
  else if (events & (IO_READ | IO_HANGUP))
    on_readable(w);
}

void websocket_pause(struct websocket *w)
{
  if (w->state != STATE_OPEN || w->paused)
    return;
  w->paused = true;
  later(w);
}

void websocket_resume(struct websocket *w)
{
  if (w->state != STATE_OPEN || !w->paused)
    return;
  w->paused = false;
  later(w);
}

// --- the turn's end ------------------------------------------------------------------------------------------------------------------------

static void read_held(struct websocket *w)
{
  struct buf held = w->held;
  w->held = (struct buf){0};
  read_frames(w, buf_view(&held));
  buf_free(&held);
}

static void on_turn_end(struct turn_end *t)
{
  struct websocket *w = CONTAINER_OF(t, struct websocket, turn);
  if (w->held.n && !w->paused) {
    read_held(w);
    if (w->state != STATE_DEAD)
      io_again(w->io);
  }
  if (w->state == STATE_DEAD)
    return;
  if (!flush(w) && w->state == STATE_CLOSING) {
    die(w);
    return;
  }
  if (w->state == STATE_CLOSING && w->heard_of && !w->unsent) {
    die(w);
    return;
  }
  if (w->state == STATE_CLOSING && w->frames.over && !w->unsent && !w->told_off) {
    w->told_off = true;
    shutdown(w->fd, SHUT_WR);
  }
  if (w->state == STATE_OPEN && w->paused && w->hung_up) { // nobody would tell again
    lose(w, WS_CODE_LOST);
    return;
  }
  watch(w);
  if (w->full && !w->unsent) {
    w->full = false;
    if (w->state == STATE_OPEN && w->events->drained)
      w->events->drained(w->ctx);
  }
}

// --- pings ---------------------------------------------------------------------------------------------------------------------------------

static void on_timer(struct timer *t)
{
  struct websocket *w = CONTAINER_OF(t, struct websocket, timer);
  struct reactor *r = reactor_of(w);
  nsec due = nsec_add(w->last_heard, PING_INTERVAL);
  if (w->state == STATE_CLOSING) {
    die(w);
  } else if (r->now < due) { // it was heard of meanwhile; moving the timer at each message would cost more
    timer_set(r, t, due);
  } else if (w->pinged) {
    end(w, WS_CODE_INTERNAL, false);
  } else {
    // What a paused socket answers is not read. Its connection's end shows, and so does (TCP_USER_TIMEOUT) that nobody takes the ping.
    w->pinged = !w->paused || w->unsent > 0;
    put_frame(w, WS_PING, STR(""));
    w->last_heard = w->pinged ? w->last_heard : r->now;
    timer_set(r, t, nsec_add(r->now, PING_INTERVAL));
  }
}

// --- the life of a socket ------------------------------------------------------------------------------------------------------------------

// A connection on its way from its request to its reactor.
struct arrival {
  struct task task;
  struct websocket_options o;
  int fd;
  struct buf rest;
  struct peer peer;
  char *authorization;
};

static void arrival_free(struct arrival *a)
{
  if (a->fd >= 0)
    close(a->fd);
  buf_free(&a->rest);
  peer_free(&a->peer);
  if (a->authorization)
    explicit_bzero(a->authorization, strlen(a->authorization));
  free(a->authorization);
  free(a);
}

// Takes what it needs out of the arrival. NULL: out of memory.
static struct websocket *socket_new(struct websocket_front *f, struct arrival *a)
{
  struct websocket *w = calloc(1, sizeof *w);
  if (!w)
    return NULL;
  *w = (struct websocket){.front = f,
                          .events = a->o.events,
                          .ctx = a->o.ctx,
                          .fd = a->fd,
                          .frames = {.coders = &f->coders, .max_message = a->o.max_message, .takes_binary = a->o.binary},
                          .pieces.min = SPLICE_MIN,
                          .last_heard = clock_mono(),
                          .timer.fire = on_timer,
                          .turn.run = on_turn_end,
                          .freeing.run = free_now};
  list_init(&w->turn.link);
  list_init(&w->freeing.link);
  w->io = io_open(f->r, a->fd, IO_READ | IO_EDGE, on_ready, w);
  if (!w->io || !timer_set(f->r, &w->timer, nsec_add(w->last_heard, PING_INTERVAL))) {
    io_close(w->io);
    free(w);
    return NULL;
  }
  a->fd = -1;
  peer_move(&w->peer, &a->peer);
  w->authorization = a->authorization;
  a->authorization = NULL;
  list_append(&f->all, &w->link);
  f->count++;
  f->open++;
  metric_add(f->r->metrics, METRIC_connections, 1);
  metric_add(f->r->metrics, METRIC_websockets, 1);
  metric_add(f->r->metrics, METRIC_websockets_opened_total, 1);
  return w;
}

// On the socket's reactor.
static void arrive(struct reactor *r, struct task *t)
{
  struct arrival *a = CONTAINER_OF(t, struct arrival, task);
  const unsigned unanswered_ms = 2 * PING_S * 1000;
  // Both fail on what is no TCP socket (unix, or the pair behind TLS), and there is no need. libmicrohttpd leaves TCP_CORK and TCP_NODELAY as it last had them.
  setsockopt(a->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unanswered_ms, sizeof unanswered_ms);
  socket_tune(a->fd);
  struct websocket *w = socket_new(r->websockets, a);
  if (!w) {
    a->o.lost(a->o.ctx);
    arrival_free(a);
    return;
  }
  w->held = a->rest;
  a->rest = (struct buf){0};
  later(w);
  bool draining = w->front->draining;
  void (*opened)(void *ctx, struct websocket *w) = a->o.opened;
  arrival_free(a);
  opened(w->ctx, w);
  if (draining && w->state == STATE_OPEN)
    w->events->shutdown(w->ctx);
}

static void on_taken(void *ctx, int fd, struct str rest, struct peer *peer)
{
  struct arrival *a = ctx;
  a->fd = fd;
  peer_move(&a->peer, peer);
  if (!buf_str(&a->rest, rest)) {
    a->o.lost(a->o.ctx);
    arrival_free(a);
    return;
  }
  a->task.run = arrive;
  reactor_post(a->o.at, &a->task);
}

static void on_lost(void *ctx)
{
  struct arrival *a = ctx;
  a->o.lost(a->o.ctx);
  arrival_free(a);
}

// --- the upgrade ---------------------------------------------------------------------------------------------------------------------------

struct str websocket_header(const struct websocket_request *u, struct str name)
{
  for (size_t i = 0; i < u->n; i++)
    if (str_eq(u->headers[i].name, name))
      return u->headers[i].value;
  return STR("");
}

bool websocket_may(struct websocket_request *u, unsigned scopes, struct identity *who)
{
  return http_may(u->q, u->headers, u->n, scopes, who);
}

static bool answer_426(struct http_request *q)
{
  struct http_head head = {.status = 426};
  http_put(&head, "content-type", "text/plain; charset=utf-8");
  http_put(&head, "upgrade", "websocket");
  http_put(&head, "sec-websocket-version", "13");
  q->carrier->answer_static(q, &head, STR("the path takes WebSockets only: an upgrade request over HTTP/1.1, of version 13\n"));
  return false;
}

static bool answer_wrong(struct http_request *q, enum code code, const char *reason, const char *why)
{
  struct err e;
  err_set(&e, code, reason, "%s", why);
  http_answer_error(q, NULL, &e);
  return false;
}

// A browser says whose page asks, and it does so for every page that is open in it: without this one of them could use a gateway that only this machine reaches.
// CORS does not hold for WebSockets, but whom cors_allowed_origins has may open them, too.
static bool from_elsewhere(const struct websocket_request *u)
{
  struct str origin = websocket_header(u, STR("origin")), host = websocket_header(u, STR("host"));
  if (!origin.n || u->q->allowed_origin)
    return false;
  const char *slashes = memmem(origin.p, origin.n, "://", 3);
  return !slashes || !str_ieq(str_skip(origin, (size_t)(slashes - origin.p) + 3), host);
}

static struct arrival *arrival_new(const struct websocket_request *u, const struct websocket_options *o)
{
  struct arrival *a = calloc(1, sizeof *a);
  if (!a)
    return NULL;
  a->o = *o;
  a->fd = -1;
  struct str authorization = websocket_header(u, STR("authorization"));
  if (!u->q->r->auth || !authorization.n)
    return a;
  a->authorization = strndup(authorization.p, authorization.n);
  if (a->authorization)
    return a;
  arrival_free(a);
  return NULL;
}

bool websocket_upgrade(struct websocket_request *u, const struct websocket_options *o)
{
  struct http_request *q = u->q;
  struct ws_accept accept;
  if (!q->carrier->upgrade || !str_eq(q->method, STR("GET")) || !ws_handshake_lists(websocket_header(u, STR("upgrade")), STR("websocket")) ||
      !ws_handshake_lists(websocket_header(u, STR("connection")), STR("upgrade")) ||
      !str_eq(websocket_header(u, STR("sec-websocket-version")), STR("13")))
    return answer_426(q);
  if (!ws_handshake_accept(websocket_header(u, STR("sec-websocket-key")), &accept))
    return answer_wrong(q, CODE_INVALID_ARGUMENT, REASON_INVALID_REQUEST, "Sec-WebSocket-Key must be 16 bytes in base64");
  if (from_elsewhere(u))
    return answer_wrong(q, CODE_PERMISSION_DENIED, REASON_INVALID_REQUEST,
                        "a page of another origin (Origin) may not open a WebSocket here; cors_allowed_origins has those that may");
  struct arrival *a = arrival_new(u, o);
  if (!a) {
    struct err e;
    err_nomem(&e);
    http_answer_error(q, NULL, &e);
    return false;
  }
  const struct http_takeover to = {.taken = on_taken, .lost = on_lost, .ctx = a};
  struct http_head head = {.status = 101};
  http_put(&head, "Upgrade", "websocket");
  http_put(&head, "Sec-WebSocket-Accept", accept.text);
  if (o->protocol)
    http_put(&head, "Sec-WebSocket-Protocol", o->protocol);
  q->carrier->upgrade(q, &head, &to);
  return true;
}

// --- the way to an owner -------------------------------------------------------------------------------------------------------------------

static void socket_end(struct http_request *q)
{
  struct websocket_request u = {.q = q};
  arena_init(&u.arena, 16 * (size_t)q->r->config->max_header_bytes + 65536);
  http_path_matches(q->socket->path, q->path, &u.name);
  if (q->carrier->headers(q, &u.arena, &u.headers, &u.n)) {
    q->socket->open(&u);
  } else {
    struct err e;
    err_nomem(&e);
    http_answer_error(q, NULL, &e);
  }
  arena_free(&u.arena);
}

bool http_socket_start(struct http_request *q)
{
  static const struct http_protocol protocol = {.end = socket_end};
  struct str name;
  const struct http_socket *s = q->site->sockets;
  while (s && s->path && !http_path_matches(s->path, q->path, &name))
    s++;
  if (!s || !s->path)
    return false;
  if (q->call)
    call_drop(q->call);
  q->call = NULL;
  q->socket = s;
  q->protocol = &protocol;
  return true;
}

// --- callers -------------------------------------------------------------------------------------------------------------------------------

bool websocket_admit(struct websocket *w, unsigned scopes, struct identity *who, bool *counted, struct err *e)
{
  struct reactor *r = reactor_of(w);
  *counted = false;
  if (!auth_check(r, &w->peer, str_c(w->authorization), scopes, who, e))
    return false;
  if (!who->principal || quota_take_call(&who->principal->quota, r->now, counted, e))
    return true;
  metric_add(r->metrics, METRIC_quota_refused_total, 1);
  return false;
}

struct peer *websocket_caller(struct websocket *w)
{
  return &w->peer;
}

const char *websocket_peer(const struct websocket *w)
{
  return w->peer.address;
}

// --- the reactor's part --------------------------------------------------------------------------------------------------------------------

bool websockets_init(struct reactor *r)
{
  struct websocket_front *f = calloc(1, sizeof *f);
  if (!f)
    return false;
  if (!ws_coders_init(&f->coders)) {
    free(f);
    return false;
  }
  f->coders.server = true;
  f->r = r;
  list_init(&f->all);
  r->websockets = f;
  return true;
}

void websockets_drain(struct reactor *r)
{
  struct websocket_front *f = r->websockets;
  f->draining = true;
  LIST_EACH (node, &f->all) {
    struct websocket *w = CONTAINER_OF(node, struct websocket, link);
    if (w->state == STATE_OPEN)
      w->events->shutdown(w->ctx);
  }
}

int websockets_open(const struct reactor *r)
{
  return r->websockets->open;
}

int websockets_count(const struct reactor *r)
{
  return r->websockets->count;
}

void websockets_free(struct reactor *r)
{
  struct websocket_front *f = r->websockets;
  if (!f)
    return;
  while (!list_empty(&f->all)) {
    struct websocket *w = CONTAINER_OF(f->all.next, struct websocket, link);
    lose(w, WS_CODE_LOST);
    free_now(&w->freeing);
  }
  ws_coders_free(&f->coders);
  free(f);
  r->websockets = NULL;
}
