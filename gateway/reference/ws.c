// SPDX-License-Identifier: Apache-2.0
// The WebSockets of the reference worker: RFC 6455 by wslay, one read and one write a turn.
//
// A slow step is a timer: the environment has done its part, and the reply is held. Meanwhile messages wait in order, pings are answered, and a
// connection that ends leaves its session (and the slot) behind until the step's time is up, as with OpenEnv's server.
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <wslay/wslay.h>

#include "reference/server.h"

#define MESSAGE_MAX ((uint64_t)16 << 20)
#define UNSENT_HIGH ((size_t)1 << 20)
#define PING_INTERVAL (20 * NSEC_PER_S)
#define CLOSE_TIMEOUT (1 * NSEC_PER_S)

struct message {
  struct list link;
  bool binary;
  size_t n;
  char p[];
};

struct socket {
  struct list link;
  struct ref_server *server;
  struct MHD_UpgradeResponseHandle *handle;
  int fd;
  struct io *io; // NULL: the connection is gone
  wslay_event_context_ptr frames;
  struct ref_env *env; // NULL: holds no slot (refused, or its session has ended)
  struct str feed;     // read and not yet taken by wslay
  struct buf unsent;   // from unsent_at on
  size_t unsent_at;
  struct list waiting; // messages that came during a step, or faster than their replies are taken
  size_t waiting_bytes;
  struct ref_reply held;    // of the step that runs
  struct timer step, alarm; // alarm: the next ping, or how long a close may take
  bool stepping, pinged, closing, dropped;
};

static void finish_turn(struct socket *s);

// --- sessions ------------------------------------------------------------------------------------------------------------------------------

static void end_session(struct socket *s)
{
  if (!s->env)
    return;
  ref_env_destroy(s->env);
  s->env = NULL;
  s->server->sessions--;
}

static void drop_waiting(struct socket *s)
{
  LIST_EACH (node, &s->waiting)
    free(CONTAINER_OF(node, struct message, link));
  list_init(&s->waiting);
  s->waiting_bytes = 0;
}

static void stop_if_done(struct ref_server *server)
{
  if (server->stopping && list_empty(&server->sockets))
    reactor_stop(&server->reactor);
}

static void free_socket(struct socket *s)
{
  struct ref_server *server = s->server;
  end_session(s);
  timer_unset(&server->reactor, &s->step);
  buf_free(&s->held.text);
  list_remove(&s->link);
  free(s);
  stop_if_done(server);
}

// Ends the connection. The rest goes with it, unless a step still runs. Not from inside wslay.
static void disconnect(struct socket *s)
{
  timer_unset(&s->server->reactor, &s->alarm);
  io_close(s->io);
  s->io = NULL;
  shutdown(s->fd, SHUT_RDWR); // libmicrohttpd closes it, later
  MHD_upgrade_action(s->handle, MHD_UPGRADE_ACTION_CLOSE);
  ref_http_wake(s->server);
  wslay_event_context_free(s->frames);
  drop_waiting(s);
  buf_free(&s->unsent);
  if (!s->stepping)
    free_socket(s);
}

static void set_alarm(struct socket *s, nsec after)
{
  timer_set(&s->server->reactor, &s->alarm, nsec_add(clock_mono(), after));
}

static size_t unsent(const struct socket *s)
{
  return s->unsent.n - s->unsent_at;
}

// --- frames out ----------------------------------------------------------------------------------------------------------------------------

static ssize_t on_send(wslay_event_context_ptr frames, const uint8_t *p, size_t n, int flags, void *ctx)
{
  (void)flags;
  struct socket *s = ctx;
  struct buf *out = s->unsent.n ? &s->unsent : &s->server->out;
  if (!buf_add(out, p, n)) {
    wslay_event_set_error(frames, WSLAY_ERR_CALLBACK_FAILURE);
    return -1;
  }
  return (ssize_t)n;
}

// Turns what is queued in wslay into bytes. Needed before a close frame, which wslay would send ahead of messages.
static void gather(struct socket *s)
{
  if (wslay_event_send(s->frames) != 0)
    s->dropped = true;
}

static void queue(struct socket *s, uint8_t opcode, struct str payload)
{
  struct wslay_event_msg msg = {opcode, (const uint8_t *)payload.p, payload.n};
  int rc = wslay_event_queue_msg(s->frames, &msg);
  if (rc == WSLAY_ERR_NOMEM)
    s->dropped = true;
}

// The closing handshake has begun: the session is over, except for a step that runs.
static void begin_closing(struct socket *s)
{
  s->closing = true;
  drop_waiting(s);
  if (!s->stepping)
    end_session(s);
  set_alarm(s, CLOSE_TIMEOUT);
}

static void say_close(struct socket *s, int code)
{
  if (s->closing)
    return;
  gather(s);
  if (wslay_event_queue_close(s->frames, (uint16_t)code, NULL, 0) != 0)
    s->dropped = true;
  begin_closing(s);
}

static bool write_out(struct socket *s)
{
  struct buf *out = s->unsent.n ? &s->unsent : &s->server->out;
  if (!out->n)
    return true;
  ssize_t n = send(s->fd, out->p + s->unsent_at, out->n - s->unsent_at, MSG_NOSIGNAL);
  if (n < 0 && errno != EAGAIN && errno != EINTR)
    return false;
  size_t sent = n < 0 ? 0 : (size_t)n;
  if (out == &s->unsent) {
    s->unsent_at += sent;
    if (!unsent(s)) {
      buf_free(out);
      s->unsent_at = 0;
    }
    return true;
  }
  if (sent < out->n) {
    s->unsent = *out;
    s->unsent_at = sent;
    *out = (struct buf){0};
  }
  out->n = 0;
  if (out->cap > UNSENT_HIGH)
    buf_free(out);
  return true;
}

// --- replies -------------------------------------------------------------------------------------------------------------------------------

static void carry_out(struct socket *s, const struct ref_reply *reply)
{
  struct str text = buf_view(&reply->text);
  switch (reply->verdict) {
  case REF_SEND_TWICE:
    queue(s, WSLAY_TEXT_FRAME, text);
    queue(s, WSLAY_TEXT_FRAME, text);
    break;
  case REF_SEND:
    queue(s, WSLAY_TEXT_FRAME, text);
    break;
  case REF_SEND_BINARY:
    queue(s, WSLAY_BINARY_FRAME, text);
    break;
  case REF_SEND_CLOSE:
    queue(s, WSLAY_TEXT_FRAME, text);
    say_close(s, 1000);
    break;
  case REF_CLOSE:
    say_close(s, reply->code);
    break;
  case REF_DROP:
    s->dropped = true;
    break;
  case REF_HANG:
    s->stepping = true;
    break;
  case REF_EXIT:
    exit(reply->code);
  }
}

static void on_step_done(struct timer *t)
{
  struct socket *s = CONTAINER_OF(t, struct socket, step);
  s->stepping = false;
  if (s->io) {
    carry_out(s, &s->held);
    buf_free(&s->held.text);
    if (s->closing && !s->stepping)
      end_session(s);
    finish_turn(s);
    return;
  }
  if (s->held.verdict == REF_EXIT)
    exit(s->held.code);
  if (s->held.verdict != REF_HANG) // which holds its slot for ever
    free_socket(s);
}

static void answer(struct socket *s, bool binary, struct str text)
{
  struct ref_server *server = s->server;
  struct ref_reply *reply = &server->reply;
  if (binary)
    ref_ws_binary(reply);
  else
    ref_ws_message(&server->protocol, s->env, text, reply);
  if (!reply->delay_ms) {
    carry_out(s, reply);
    return;
  }
  s->held = *reply;
  reply->text = (struct buf){0};
  s->stepping = true;
  timer_set(&server->reactor, &s->step, nsec_add(clock_mono(), s->held.delay_ms * NSEC_PER_MS));
}

// --- frames in -----------------------------------------------------------------------------------------------------------------------------

static bool loaded(const struct socket *s)
{
  return s->stepping || unsent(s) + wslay_event_get_queued_msg_length(s->frames) > UNSENT_HIGH;
}

static void keep_for_later(struct socket *s, bool binary, struct str text)
{
  struct message *m = malloc(sizeof *m + text.n);
  if (!m) {
    s->dropped = true;
    return;
  }
  m->binary = binary;
  m->n = text.n;
  if (text.n)
    memcpy(m->p, text.p, text.n);
  list_append(&s->waiting, &m->link);
  s->waiting_bytes += text.n;
}

static void on_message(wslay_event_context_ptr frames, const struct wslay_event_on_msg_recv_arg *arg, void *ctx)
{
  (void)frames;
  struct socket *s = ctx;
  struct str text = {(const char *)arg->msg, arg->msg_length};
  bool binary = arg->opcode == WSLAY_BINARY_FRAME;
  if (arg->opcode == WSLAY_PONG) {
    s->pinged = false;
  } else if (arg->opcode == WSLAY_CONNECTION_CLOSE) { // wslay answers it
    begin_closing(s);
  } else if ((binary || arg->opcode == WSLAY_TEXT_FRAME) && !s->closing && !s->dropped) {
    if (loaded(s) || !list_empty(&s->waiting))
      keep_for_later(s, binary, text);
    else
      answer(s, binary, text);
  }
}

// wslay queues its answer to a close frame itself; what was said before must go first.
static void on_frame(wslay_event_context_ptr frames, const struct wslay_event_on_frame_recv_start_arg *arg, void *ctx)
{
  (void)frames;
  if (arg->opcode == WSLAY_CONNECTION_CLOSE)
    gather(ctx);
}

static ssize_t on_recv(wslay_event_context_ptr frames, uint8_t *p, size_t n, int flags, void *ctx)
{
  (void)flags;
  struct socket *s = ctx;
  if (!s->feed.n) {
    wslay_event_set_error(frames, WSLAY_ERR_WOULDBLOCK);
    return -1;
  }
  n = n < s->feed.n ? n : s->feed.n;
  memcpy(p, s->feed.p, n);
  s->feed = str_skip(s->feed, n);
  return (ssize_t)n;
}

static void take_waiting(struct socket *s)
{
  struct list *node;
  while (!loaded(s) && !s->dropped && (node = list_pop(&s->waiting))) {
    struct message *m = CONTAINER_OF(node, struct message, link);
    s->waiting_bytes -= m->n;
    answer(s, m->binary, (struct str){m->p, m->n});
    free(m);
  }
}

// --- the turn ------------------------------------------------------------------------------------------------------------------------------

// Sends what there is and decides what to wait for. It may free the socket.
static void finish_turn(struct socket *s)
{
  bool more;
  do {
    take_waiting(s);
    gather(s);
    if (!write_out(s) || s->dropped) {
      s->server->out.n = 0;
      disconnect(s);
      return;
    }
    more = !list_empty(&s->waiting) && !loaded(s);
  } while (more);
  bool said = wslay_event_get_close_sent(s->frames), heard = wslay_event_get_close_received(s->frames);
  if (said && heard && !s->unsent.n) {
    disconnect(s);
    return;
  }
  bool read_on = unsent(s) <= UNSENT_HIGH && s->waiting_bytes <= MESSAGE_MAX;
  io_events(s->io, (read_on ? IO_READ : 0) | (s->unsent.n ? IO_WRITE : 0));
}

static void feed(struct socket *s, struct str bytes)
{
  s->feed = bytes;
  if (wslay_event_recv(s->frames) != 0)
    s->dropped = true;
  // wslay has queued a close frame of its own for what breaks the protocol or a limit, and reads no further.
  if (!wslay_event_get_read_enabled(s->frames) && !s->closing)
    begin_closing(s);
}

static void on_io(void *ctx, int events)
{
  struct socket *s = ctx;
  if (events & IO_READ) {
    char *in = s->server->in;
    ssize_t n = recv(s->fd, in, sizeof s->server->in, 0);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
      disconnect(s);
      return;
    }
    if (n > 0)
      feed(s, (struct str){in, (size_t)n});
  }
  finish_turn(s);
}

static void on_alarm(struct timer *t)
{
  struct socket *s = CONTAINER_OF(t, struct socket, alarm);
  if (s->closing) {
    disconnect(s);
    return;
  }
  if (s->pinged) {
    say_close(s, 1011);
  } else {
    s->pinged = true;
    queue(s, WSLAY_PING, STR(""));
    set_alarm(s, PING_INTERVAL);
  }
  finish_turn(s);
}

// --- opening and stopping ------------------------------------------------------------------------------------------------------------------

// Takes a slot, or tells the caller that there is none.
static void begin_session(struct socket *s)
{
  struct ref_server *server = s->server;
  if (server->sessions >= server->options.capacity) {
    ref_ws_capacity(&server->protocol, &server->reply);
    carry_out(s, &server->reply);
    return;
  }
  s->env = ref_env_make(server->options.kind);
  if (s->env)
    server->sessions++;
  else
    s->dropped = true;
}

static struct socket *make_socket(struct ref_server *server, int fd)
{
  static const struct wslay_event_callbacks callbacks = {
      .recv_callback = on_recv, .send_callback = on_send, .on_frame_recv_start_callback = on_frame, .on_msg_recv_callback = on_message};
  struct socket *s = calloc(1, sizeof *s);
  if (!s)
    return NULL;
  s->server = server;
  s->fd = fd;
  s->step.fire = on_step_done;
  s->alarm.fire = on_alarm;
  list_init(&s->link);
  list_init(&s->waiting);
  if (wslay_event_context_server_init(&s->frames, &callbacks, s) != 0) {
    free(s);
    return NULL;
  }
  wslay_event_config_set_max_recv_msg_length(s->frames, MESSAGE_MAX);
  s->io = io_open(&server->reactor, fd, IO_READ, on_io, s);
  if (s->io)
    return s;
  wslay_event_context_free(s->frames);
  free(s);
  return NULL;
}

void ref_ws_open(struct ref_server *server, int fd, struct MHD_UpgradeResponseHandle *handle, struct str already_read)
{
  struct socket *s = server->stopping ? NULL : make_socket(server, fd);
  if (!s) {
    MHD_upgrade_action(handle, MHD_UPGRADE_ACTION_CLOSE);
    ref_http_wake(server);
    return;
  }
  s->handle = handle;
  list_append(&server->sockets, &s->link);
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)); // fails on a unix socket, where there is no delay
  set_alarm(s, PING_INTERVAL);
  begin_session(s);
  if (already_read.n)
    feed(s, already_read);
  finish_turn(s);
}

void ref_ws_stop(struct ref_server *server)
{
  LIST_EACH (node, &server->sockets) {
    struct socket *s = CONTAINER_OF(node, struct socket, link);
    if (!s->io)
      continue;
    say_close(s, 1012);
    finish_turn(s);
  }
  stop_if_done(server);
}
