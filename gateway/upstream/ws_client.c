// SPDX-License-Identifier: Apache-2.0
// A step costs one send and one recv: a message is written as soon as it is framed, from a buffer that all sockets of the reactor share,
// and only what the kernel does not take is kept. An idle socket has no buffer and no frame state: it is a struct ws and its watch.
#include "upstream/ws_client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "runtime/flow.h"
#include "upstream/stream.h"
#include "upstream/transfer.h"
#include "upstream/ws_frames.h"
#include "upstream/ws_handshake.h"

enum {
  SCRATCH = 64 << 10,           // read at once
  SCRATCH_OUT_KEPT = 256 << 10, // the buffer for what goes out is freed when it was larger
  MAX_READ = 1 << 20,           // in a turn, so that one socket does not hold the loop
  MAX_UNSENT = 16 << 20,
  MAX_UNSENT_PONGS = 64 << 10, // a peer that floods us with pings and does not read gets no more pongs
  MAX_MESSAGE = 104857600,
};
#define CONNECT_TIMEOUT (10 * NSEC_PER_S)
#define CLOSE_TIMEOUT NSEC_PER_S

enum ws_state {
  WS_CONNECTING,
  WS_UPGRADING, // connected; our upgrade request is out
  WS_OPEN,
  WS_CLOSING, // by ws_close: our close frame is out, and no callbacks come any more
  WS_DEAD,    // closed; freed at the end of the turn
};

// Of a ws that is not open yet.
struct upgrade {
  struct buf request, head;
  struct ws_accept accept;
};

// What each message reads stands first, in few cache lines: with thousands of sockets none of it is in a cache.
struct ws {
  struct ws_pool *pool;
  const struct ws_events *events;
  void *ctx;
  struct io *io;
  struct stream stream;
  enum ws_state state;
  int reading;       // what to watch for at least
  bool broken;       // what was half sent cannot be completed; ends when the loop comes round
  bool more_to_read; // TLS holds bytes that the descriptor does not show
  bool pinged;       // a ping is out since last_heard
  bool paused;       // until ws_resume
  uint64_t reads;
  nsec last_heard;
  struct ws_frames frames;
  size_t told;    // of the message that is coming in: its size as the owner knows it
  struct buf out; // not yet taken by the kernel, from out_at on
  size_t out_at;
  struct list link; // in its pool
  struct upgrade *upgrade;
  nsec ping_interval, connect_timeout;
  struct timer timer; // connecting: the limit; open: the next ping; closing: the limit
  struct turn_end freeing;
};

struct ws_pool {
  struct reactor *r;
  struct list all;
  struct ws_coders coders;
  struct buf out;
  char scratch[SCRATCH];
};

// --- ends ------------------------------------------------------------------------------------------------------------------------------

static void free_now(struct turn_end *t)
{
  struct ws *w = CONTAINER_OF(t, struct ws, freeing);
  list_remove(&t->link);
  free(w);
}

static void free_upgrade(struct ws *w)
{
  if (!w->upgrade)
    return;
  buf_free(&w->upgrade->request);
  buf_free(&w->upgrade->head);
  free(w->upgrade);
  w->upgrade = NULL;
}

// Lets go of everything but the struct, which whoever is up the stack may still look at.
static void kill_ws(struct ws *w)
{
  w->state = WS_DEAD;
  list_remove(&w->link);
  timer_unset(w->pool->r, &w->timer);
  io_close(w->io);
  w->io = NULL;
  stream_close(&w->stream);
  ws_frames_free(&w->frames);
  buf_free(&w->out);
  free_upgrade(w);
  turn_end_add(w->pool->r, &w->freeing);
}

static void end(struct ws *w, enum ws_end why, int code, const struct err *e)
{
  bool tell = w->state != WS_CLOSING;
  kill_ws(w);
  if (tell)
    w->events->end(w->ctx, why, code, e);
}

__attribute__((format(printf, 4, 5))) static void end_because(struct ws *w, enum ws_end why, int code, const char *fmt, ...)
{
  char text[256];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  struct err e;
  err_set(&e, CODE_UNAVAILABLE, REASON_WORKER_UNREACHABLE, "%s", text);
  end(w, why, code, &e);
}

// --- out -------------------------------------------------------------------------------------------------------------------------------

static void watch(struct ws *w)
{
  io_events(w->io, (w->paused ? 0 : w->reading) | (w->out.n || w->more_to_read || w->broken ? IO_WRITE : 0));
}

// Errors are left to the reading side: the descriptor shows as readable then, and what the peer sent before it went is read first.
static void flush(struct ws *w)
{
  while (w->out_at < w->out.n) {
    ssize_t n = stream_send(&w->stream, w->out.p + w->out_at, w->out.n - w->out_at);
    if (n == STREAM_AGAIN)
      return;
    w->out_at = n < 0 ? w->out.n : w->out_at + (size_t)n;
  }
  buf_free(&w->out);
  w->out_at = 0;
}

// Writes bytes that nothing is waiting before; keeps what is not taken. False when out of memory.
static bool write_or_keep(struct ws *w, struct str bytes)
{
  while (bytes.n) {
    ssize_t n = stream_send(&w->stream, bytes.p, bytes.n);
    if (n == STREAM_FAILED)
      return true;
    if (n == STREAM_AGAIN)
      break;
    bytes = str_skip(bytes, (size_t)n);
  }
  bool ok = buf_str(&w->out, bytes);
  watch(w);
  return ok;
}

// What a frame is put into: behind what waits, or the shared buffer.
static struct buf *frame_buffer(struct ws *w)
{
  return w->out.n ? &w->out : &w->pool->out;
}

static bool send_frame(struct ws *w, struct buf *at)
{
  if (at == &w->out)
    return true; // it goes when the descriptor is writable
  bool ok = write_or_keep(w, buf_view(at));
  at->n = 0;
  if (at->cap > SCRATCH_OUT_KEPT)
    buf_free(at);
  return ok;
}

bool ws_send(struct ws *w, const struct str *pieces, int n)
{
  if (w->state != WS_OPEN)
    return true; // it is about to end, and `end` tells
  struct buf *at = frame_buffer(w);
  if (!ws_frames_write(&w->pool->coders, WS_TEXT, pieces, n, at))
    return false;
  if (send_frame(w, at))
    return true;
  // A part of the frame may be out and there is no memory for the rest, so the peer never gets a whole message.
  w->broken = true;
  watch(w);
  return false;
}

static void send_control(struct ws *w, enum ws_opcode opcode, struct str payload)
{
  struct buf *at = frame_buffer(w);
  if (w->out.n < MAX_UNSENT_PONGS && ws_frames_write(&w->pool->coders, opcode, &payload, 1, at))
    send_frame(w, at);
}

static void send_close(struct ws *w, int code)
{
  struct buf *at = frame_buffer(w);
  if (ws_frames_write_close(&w->pool->coders, code, at))
    send_frame(w, at);
}

// --- in --------------------------------------------------------------------------------------------------------------------------------

// The peer's reason, if it is text that may be shown.
static const char *close_reason(struct str reason, char text[128])
{
  bool fine = reason.n && utf8_valid(reason.p, reason.n);
  for (size_t i = 0; i < reason.n; i++)
    fine = fine && (unsigned char)reason.p[i] >= 0x20 && reason.p[i] != 0x7F;
  snprintf(text, 128, "%s%.*s", fine ? ": " : "", fine ? (int)reason.n : 0, fine ? reason.p : "");
  return text;
}

static void on_peer_close(struct ws *w, const struct ws_event *ev)
{
  char reason[128];
  close_reason(ev->payload, reason);
  if (w->state == WS_OPEN)
    send_close(w, ev->code);
  end_because(w, WS_END_CLOSED, ev->code, "the worker closed the WebSocket with code %d%s", ev->code, reason);
}

static void on_bad_frame(struct ws *w, const struct ws_event *ev)
{
  if (w->state == WS_OPEN)
    send_close(w, ev->code);
  if (ev->code == WS_CODE_TOO_BIG)
    end_because(w, WS_END_PROTOCOL, ev->code, "the worker sent a message over %zu bytes (max_reply_bytes)", w->frames.max_message);
  else
    end_because(w, WS_END_PROTOCOL, ev->code, "the worker broke the WebSocket protocol: %s", ev->problem);
}

static void on_message(struct ws *w, struct shared *message)
{
  if (w->state == WS_OPEN)
    w->events->message(w->ctx, message);
  else
    shared_unref(message);
}

static void on_event(struct ws *w, enum ws_event_type type, struct ws_event *ev)
{
  switch (type) {
  case WS_EVENT_NONE:
  case WS_EVENT_PONG:
    break;
  case WS_EVENT_MESSAGE:
    on_message(w, ev->message);
    break;
  case WS_EVENT_PING:
    if (w->state == WS_OPEN)
      send_control(w, WS_PONG, ev->payload);
    break;
  case WS_EVENT_CLOSE:
    on_peer_close(w, ev);
    break;
  case WS_EVENT_ERROR:
    on_bad_frame(w, ev);
    break;
  }
}

static void read_frames(struct ws *w, struct str in)
{
  struct ws_event ev;
  enum ws_event_type type = WS_EVENT_PONG;
  while (type != WS_EVENT_NONE && (w->state == WS_OPEN || w->state == WS_CLOSING)) {
    type = ws_frames_read(&w->frames, &in, &ev);
    on_event(w, type, &ev);
  }
}

static void arm_ping(struct ws *w)
{
  if (w->ping_interval)
    timer_set(w->pool->r, &w->timer, nsec_add(w->last_heard, w->ping_interval));
  else
    timer_unset(w->pool->r, &w->timer);
}

static void on_upgraded(struct ws *w, struct str rest)
{
  // The head's buffer goes with the upgrade; what came behind the head is read after `open`.
  struct buf head = w->upgrade->head;
  w->upgrade->head = (struct buf){0};
  free_upgrade(w);
  w->state = WS_OPEN;
  arm_ping(w);
  w->events->open(w->ctx);
  read_frames(w, rest);
  buf_free(&head);
}

static void read_head(struct ws *w, struct str in)
{
  struct upgrade *u = w->upgrade;
  if (!buf_str(&u->head, in)) {
    end_because(w, WS_END_REFUSED, 0, "out of memory");
    return;
  }
  size_t head = 0;
  int status = 0;
  const char *problem = NULL;
  switch (ws_handshake_reply(buf_view(&u->head), &u->accept, &head, &status, &problem)) {
  case WS_HANDSHAKE_MORE:
    break;
  case WS_HANDSHAKE_OK:
    on_upgraded(w, str_skip(buf_view(&u->head), head));
    break;
  case WS_HANDSHAKE_STATUS:
    end_because(w, WS_END_STATUS, status, "the worker answered the WebSocket upgrade with HTTP status %d", status);
    break;
  case WS_HANDSHAKE_BAD:
    end_because(w, WS_END_PROTOCOL, 0, "%s", problem);
    break;
  }
}

static void heard(struct ws *w)
{
  w->reads++;
  w->last_heard = w->pool->r->now;
  w->pinged = false;
}

static void on_bytes(struct ws *w, struct str in)
{
  heard(w);
  if (w->state == WS_UPGRADING)
    read_head(w, in);
  else
    read_frames(w, in);
}

// Of a large message: they lie where they belong already.
static void on_payload(struct ws *w, size_t n)
{
  struct ws_event ev;
  heard(w);
  enum ws_event_type type = ws_frames_received(&w->frames, n, &ev);
  on_event(w, type, &ev);
}

// Tells the owner of a large message as soon as its size is announced. False: it does not want the rest now.
static bool wanted(struct ws *w)
{
  size_t coming = ws_frames_coming(&w->frames), told = w->told;
  if (coming < FLOW_LARGE) {
    w->told = 0;
    return true;
  }
  if (coming <= told || w->state != WS_OPEN || !w->events->large)
    return true;
  w->told = coming;
  w->paused = !w->events->large(w->ctx, coming - told);
  return !w->paused;
}

static void on_line_end(struct ws *w)
{
  if (w->state == WS_UPGRADING)
    end_because(w, WS_END_REFUSED, 0, "the worker closed the connection during the WebSocket upgrade");
  else
    end_because(w, WS_END_LOST, 0, "the connection to the worker ended without a close frame");
}

// With `ends` the peer's end is behind what can be read and must be read, too.
static void on_readable(struct ws *w, bool ends)
{
  bool tls = stream_is_tls(&w->stream);
  w->more_to_read = false;
  for (size_t all = 0; w->state != WS_DEAD;) {
    if (all >= MAX_READ) {
      w->more_to_read = tls;
      io_again(w->io);
      return;
    }
    char *to = NULL;
    size_t direct = ws_frames_room(&w->frames, &to), room = direct ? direct : SCRATCH;
    room = room < MAX_READ ? room : MAX_READ;
    ssize_t n = stream_recv(&w->stream, direct ? to : w->pool->scratch, room);
    if (n == STREAM_AGAIN)
      return;
    if (n <= 0) {
      on_line_end(w);
      return;
    }
    if (direct)
      on_payload(w, (size_t)n);
    else
      on_bytes(w, (struct str){w->pool->scratch, (size_t)n});
    all += (size_t)n;
    if (w->state == WS_DEAD || !wanted(w))
      return;
    if ((size_t)n < room && !tls && !ends)
      return; // that was all
  }
}

static void on_ready(void *ctx, int events)
{
  struct ws *w = ctx;
  if (w->broken) {
    end_because(w, WS_END_LOST, 0, "out of memory for what the worker's socket did not take");
    return;
  }
  if (events & IO_WRITE)
    flush(w);
  if (!w->paused && (events & (IO_READ | IO_HANGUP) || w->more_to_read))
    on_readable(w, events & IO_HANGUP);
  if (w->state != WS_DEAD)
    watch(w);
}

// --- opening ---------------------------------------------------------------------------------------------------------------------------

static void on_connected(struct stream *s, const struct err *e)
{
  struct ws *w = CONTAINER_OF(s, struct ws, stream);
  if (e) {
    end(w, WS_END_REFUSED, 0, e);
    return;
  }
  w->reading = stream_is_tls(s) ? IO_READ : IO_READ | IO_EDGE; // libcurl may leave some of a TLS record's bytes unread
  w->io = io_open(w->pool->r, s->fd, w->reading, on_ready, w);
  w->state = WS_UPGRADING;
  if (!w->io || !write_or_keep(w, buf_view(&w->upgrade->request)))
    end_because(w, WS_END_REFUSED, 0, "out of memory");
}

static void on_timer(struct timer *t)
{
  struct ws *w = CONTAINER_OF(t, struct ws, timer);
  struct reactor *r = w->pool->r;
  if (w->state == WS_CONNECTING || w->state == WS_UPGRADING) {
    end_because(w, WS_END_REFUSED, 0, "the worker did not %s within %.3g s",
                w->state == WS_CONNECTING ? "take the connection" : "answer the WebSocket upgrade", (double)w->connect_timeout / 1e9);
  } else if (w->state == WS_CLOSING) {
    kill_ws(w);
  } else if (r->now < nsec_add(w->last_heard, w->ping_interval)) {
    arm_ping(w); // it was heard of meanwhile; moving the timer at each message would cost more
  } else if (w->paused) {
    timer_set(r, t, nsec_add(r->now, w->ping_interval)); // whatever it says is not read
  } else if (w->pinged) {
    end_because(w, WS_END_SILENT, 0, "the worker did not answer a ping within %.3g s", (double)w->ping_interval / 1e9);
  } else {
    send_control(w, WS_PING, STR(""));
    w->pinged = true;
    timer_set(r, t, nsec_add(r->now, w->ping_interval));
  }
}

static bool append_part(CURLU *u, CURLUPart part, const char *before, struct buf *out)
{
  char *text = NULL;
  if (curl_url_get(u, part, &text, 0))
    return true; // it has none
  bool ok = buf_str(out, str_c(before)) && buf_str(out, str_c(text));
  curl_free(text);
  return ok;
}

// The Host header's value of a URL ("host:port"), and its path without a slash at the end; each with a NUL.
static bool split_url(const char *url, struct buf *host, struct buf *base)
{
  CURLU *u = curl_url();
  bool ok = u && !curl_url_set(u, CURLUPART_URL, url, 0) && append_part(u, CURLUPART_HOST, "", host) && append_part(u, CURLUPART_PORT, ":", host) &&
            append_part(u, CURLUPART_PATH, "", base);
  curl_url_cleanup(u);
  while (base->n && base->p[base->n - 1] == '/')
    base->n--;
  return ok && buf_char(host, '\0') && buf_char(base, '\0');
}

static bool prepare_upgrade(struct ws *w, const struct endpoint *ep, const struct ws_options *o)
{
  struct upgrade *u = w->upgrade = calloc(1, sizeof *u);
  if (!u)
    return false;
  struct buf host = {0}, base = {0};
  bool ok = split_url(ep->url, &host, &base) &&
            ws_handshake_request(&u->request, host.p, base.p, o->path, ep->headers ? &ep->headers->pairs : NULL, o->headers, &u->accept);
  buf_free(&host);
  buf_free(&base);
  return ok;
}

struct ws *ws_open(struct reactor *r, const struct endpoint *ep, const struct ws_options *o, const struct ws_events *events, void *ctx)
{
  struct ws_pool *pool = r->http->ws;
  struct ws *w = calloc(1, sizeof *w);
  if (!w)
    return NULL;
  *w = (struct ws){.pool = pool,
                   .events = events,
                   .ctx = ctx,
                   .ping_interval = o->ping_interval,
                   .connect_timeout = o->connect_timeout ? o->connect_timeout : CONNECT_TIMEOUT,
                   .frames = {.coders = &pool->coders, .max_message = o->max_message ? o->max_message : MAX_MESSAGE},
                   .out.max = MAX_UNSENT,
                   .timer.fire = on_timer,
                   .freeing.run = free_now,
                   .last_heard = r->now};
  list_init(&w->freeing.link);
  list_append(&pool->all, &w->link);
  if (prepare_upgrade(w, ep, o) && timer_set(r, &w->timer, nsec_add(clock_mono(), w->connect_timeout)) &&
      stream_open(&w->stream, r, ep, on_connected))
    return w;
  kill_ws(w);
  return NULL;
}

void ws_resume(struct ws *w)
{
  if (!w->paused)
    return;
  w->paused = false;
  w->last_heard = w->pool->r->now;
  w->more_to_read = stream_is_tls(&w->stream);
  watch(w);
}

uint64_t ws_reads(const struct ws *w)
{
  return w->reads;
}

void ws_close(struct ws *w, int code)
{
  if (!w || w->state == WS_DEAD || w->state == WS_CLOSING)
    return;
  if (w->state != WS_OPEN || w->paused) { // the peer's answer would come behind what is not read
    kill_ws(w);
    return;
  }
  w->state = WS_CLOSING;
  send_close(w, code);
  if (!timer_set(w->pool->r, &w->timer, nsec_add(w->pool->r->now, CLOSE_TIMEOUT)))
    kill_ws(w);
}

// --- the reactor's pool ----------------------------------------------------------------------------------------------------------------

struct ws_pool *ws_pool_new(struct reactor *r)
{
  struct ws_pool *p = calloc(1, sizeof *p);
  if (!p)
    return NULL;
  if (!ws_coders_init(&p->coders)) {
    free(p);
    return NULL;
  }
  p->r = r;
  p->out.max = MAX_UNSENT;
  list_init(&p->all);
  return p;
}

void ws_pool_free(struct ws_pool *p)
{
  if (!p)
    return;
  while (!list_empty(&p->all)) {
    struct ws *w = CONTAINER_OF(p->all.next, struct ws, link);
    kill_ws(w);
    free_now(&w->freeing);
  }
  ws_coders_free(&p->coders);
  buf_free(&p->out);
  free(p);
}
