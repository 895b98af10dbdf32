// SPDX-License-Identifier: Apache-2.0
// Between an HTTP/1.1 client's TLS and libmicrohttpd: a socket pair, whose one end libmicrohttpd has, and a pump of plain bytes.
//
// Each way, what one side does not take stays here, and until it is gone the other side is not read: a read's worth of bytes, no more. Ends go through by themselves:
// the client's close_notify or FIN shuts down the pair's writing half, behind all that came before; when libmicrohttpd closes or shuts down its end, the client gets
// close_notify and a FIN behind the last bytes of the answer.
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "front/http.h"
#include "front/tls_internal.h"

enum {
  ROUNDS = 16,      // of reads each way in a turn: the other connections want theirs
  LINGER_MS = 1000, // for the client to read the last bytes and close
};

enum moved { MOVED_NOTHING, MOVED_SOME, MOVED_BROKEN };

// Bytes from one side to the other.
struct way {
  struct buf left; // what the receiver has not taken
  bool ended;      // its sender has
  bool told;       // its receiver knows
};

struct pump {
  struct tls_front *f;
  struct list link;
  SSL *ssl;
  int client, inside;
  struct io *client_io, *inside_io;
  struct way in, out; // from the client, to the client
  struct timer timer; // of the linger
};

static void pump_close(struct pump *p)
{
  struct tls_front *f = p->f;
  timer_unset(f->r, &p->timer);
  io_close(p->client_io);
  io_close(p->inside_io);
  tls_close(p->ssl);
  close(p->client);
  close(p->inside);
  buf_free(&p->in.left);
  buf_free(&p->out.left);
  list_remove(&p->link);
  f->pump_count--;
  free(p);
}

static ssize_t read_from(struct pump *p, const struct way *w, void *to, size_t n)
{
  return w == &p->in ? tls_recv(p->ssl, to, n) : recv(p->inside, to, n, 0);
}

static ssize_t write_to(struct pump *p, const struct way *w, const void *from, size_t n)
{
  if (w == &p->out)
    return tls_send(p->ssl, from, n);
  ssize_t sent = send(p->inside, from, n, MSG_NOSIGNAL);
  return sent < 0 && (errno == EPIPE || errno == ECONNRESET) ? (ssize_t)n : sent; // libmicrohttpd wants no more of it
}

// As much as the receiver takes. False: it is gone.
static bool put(struct pump *p, const struct way *w, const char *bytes, size_t n, size_t *taken)
{
  for (*taken = 0; *taken < n;) {
    ssize_t sent = write_to(p, w, bytes + *taken, n - *taken);
    if (sent < 0 && errno == EINTR)
      continue;
    if (sent < 0)
      return errno == EAGAIN;
    *taken += (size_t)sent;
  }
  return true;
}

// One read's worth.
static enum moved move(struct pump *p, struct way *w)
{
  size_t taken;
  if (w->left.n) {
    if (!put(p, w, w->left.p, w->left.n, &taken))
      return MOVED_BROKEN;
    if (taken == w->left.n)
      buf_free(&w->left);
    else
      buf_consume(&w->left, taken);
    return taken ? MOVED_SOME : MOVED_NOTHING;
  }
  if (w->ended)
    return MOVED_NOTHING;
  char *bytes = p->f->scratch;
  ssize_t n;
  do
    n = read_from(p, w, bytes, TLS_SCRATCH);
  while (n < 0 && errno == EINTR);
  if (n < 0)
    return errno == EAGAIN ? MOVED_NOTHING : MOVED_BROKEN;
  w->ended = n == 0;
  if (!put(p, w, bytes, (size_t)n, &taken) || (taken < (size_t)n && !buf_add(&w->left, bytes + taken, (size_t)n - taken)))
    return MOVED_BROKEN;
  return MOVED_SOME;
}

// Passes ends on, each behind the last byte. False: both have, and all is done.
static bool tell_ends(struct pump *p)
{
  if (p->in.ended && !p->in.left.n && !p->in.told) {
    p->in.told = true;
    shutdown(p->inside, SHUT_WR);
  }
  if (p->out.ended && !p->out.left.n && !p->out.told) {
    p->out.told = true;
    tls_end(p->ssl);
    shutdown(p->client, SHUT_WR);
    timer_set(p->f->r, &p->timer, nsec_add(p->f->r->now, LINGER_MS * NSEC_PER_MS));
  }
  return !p->out.told || !p->in.ended;
}

// A side is read while what it said last has been taken.
static int wanted(const struct way *from, const struct way *to)
{
  return (from->ended || from->left.n ? 0 : IO_READ) | (to->left.n ? IO_WRITE : 0);
}

static void work(struct pump *p)
{
  enum moved in = MOVED_SOME, out = MOVED_SOME;
  for (int i = 0; i < ROUNDS && (in == MOVED_SOME || out == MOVED_SOME); i++) {
    out = move(p, &p->out);
    in = out == MOVED_BROKEN ? MOVED_BROKEN : move(p, &p->in);
    if (in == MOVED_BROKEN || !tell_ends(p)) {
      pump_close(p);
      return;
    }
  }
  // The descriptor does not tell of what OpenSSL holds; the pair's, which can be written to, has this called again.
  bool more = !p->in.ended && !p->in.left.n && tls_holds(p->ssl);
  io_events(p->client_io, wanted(&p->in, &p->out));
  io_events(p->inside_io, wanted(&p->out, &p->in) | (more ? IO_WRITE : 0));
}

static void on_io(void *ctx, int events)
{
  (void)events;
  work(ctx);
}

static void on_linger(struct timer *t)
{
  pump_close(CONTAINER_OF(t, struct pump, timer));
}

static struct pump *pump_new(struct tls_front *f, int fd, SSL *ssl, int inside)
{
  struct pump *p = calloc(1, sizeof *p);
  if (!p)
    return NULL;
  *p = (struct pump){.f = f, .ssl = ssl, .client = fd, .inside = inside, .timer.fire = on_linger};
  p->client_io = io_open(f->r, fd, IO_READ, on_io, p);
  p->inside_io = io_open(f->r, inside, IO_READ | IO_WRITE, on_io, p); // what the handshake's last read took along is looked at in any case
  if (p->client_io && p->inside_io)
    return p;
  io_close(p->client_io);
  io_close(p->inside_io);
  free(p);
  return NULL;
}

void tls_pump_open(struct tls_front *f, int fd, SSL *ssl, struct peer *peer, const struct sockaddr_storage *address, socklen_t address_n)
{
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair)) {
    peer_free(peer);
    tls_close(ssl);
    close(fd);
    return;
  }
  struct pump *p = pump_new(f, fd, ssl, pair[0]);
  if (!p) {
    peer_free(peer);
    tls_close(ssl);
    close(fd);
    close(pair[0]);
    close(pair[1]);
    return;
  }
  list_append(&f->pumps, &p->link);
  f->pump_count++;
  http_front_accept(f->r, pair[1], (const struct sockaddr *)address, address_n, peer); // closes it where it fails, which ends the pump
}

void tls_pumps_free(struct tls_front *f)
{
  while (!list_empty(&f->pumps))
    pump_close(CONTAINER_OF(f->pumps.next, struct pump, link));
}
