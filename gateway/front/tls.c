// SPDX-License-Identifier: Apache-2.0
#include "front/tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <unistd.h>

#include "front/grpc.h"
#include "front/grpc_wire.h"
#include "front/tls_internal.h"
#include "runtime/log.h"
#include "runtime/metrics.h"

// A connection until it has its front.
struct handshake {
  struct tls_front *f;
  struct list link; // f->handshakes or f->waiting
  int fd;
  SSL *ssl; // NULL: it waits
  struct io *io;
  struct timer timer;
  nsec give_up;
  bool done; // the handshake; only the first bytes are missing
  struct peer peer;
  struct sockaddr_storage address;
  socklen_t address_n;
};

// --- bytes ---------------------------------------------------------------------------------------------------------------------------------

// What SSL_read and SSL_write could not do, as recv(2) and send(2) say it.
static ssize_t failed(const SSL *ssl, int rv)
{
  int error = SSL_get_error(ssl, rv);
  if (error == SSL_ERROR_ZERO_RETURN)
    return 0;
  errno = error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? EAGAIN : EPROTO;
  ERR_clear_error();
  return -1;
}

static int at_most(size_t n)
{
  return n > TLS_SCRATCH ? TLS_SCRATCH : (int)n;
}

ssize_t tls_recv(SSL *ssl, void *p, size_t n)
{
  ERR_clear_error(); // SSL_get_error looks at the thread's queue
  int got = SSL_read(ssl, p, at_most(n));
  return got > 0 ? got : failed(ssl, got);
}

ssize_t tls_send(SSL *ssl, const void *p, size_t n)
{
  ERR_clear_error();
  int sent = SSL_write(ssl, p, at_most(n));
  if (sent > 0)
    return sent;
  return failed(ssl, sent) < 0 ? -1 : (errno = EPIPE, -1);
}

bool tls_holds(const SSL *ssl)
{
  return SSL_has_pending(ssl);
}

void tls_end(SSL *ssl)
{
  ERR_clear_error();
  SSL_shutdown(ssl);
  ERR_clear_error();
}

void tls_close(SSL *ssl)
{
  SSL_free(ssl);
}

// --- the end of a handshake ----------------------------------------------------------------------------------------------------------------

// Takes it off the loop and frees it; the descriptor, the SSL and the peer stay. At the turn's end one that waits may begin.
static void let_go(struct handshake *h)
{
  struct tls_front *f = h->f;
  if (h->ssl)
    f->under_way--;
  timer_unset(f->r, &h->timer);
  io_close(h->io);
  list_remove(&h->link);
  metric_add(f->r->metrics, METRIC_connections, -1); // the front counts it from here on
  free(h);
  if (!list_empty(&f->waiting))
    turn_end_add(f->r, &f->next);
}

static void drop(struct handshake *h)
{
  SSL *ssl = h->ssl;
  int fd = h->fd;
  peer_free(&h->peer);
  let_go(h);
  tls_close(ssl);
  close(fd);
}

// At most one line a second, as anybody can make them.
static void refuse(struct handshake *h, const char *why)
{
  struct tls_front *f = h->f;
  metric_add(f->r->metrics, METRIC_tls_handshakes_failed_total, 1);
  nsec now = f->r->now;
  if (!f->said || now - f->said >= NSEC_PER_S) {
    f->said = now;
    log_event(f->r->log, LOG_INFO, "tls.refused", LF_C("peer", h->peer.address), LF_C("reason", why));
  }
  // Bytes that nobody read would make the kernel reset the connection, and OpenSSL's alert be lost.
  shutdown(h->fd, SHUT_WR);
  while (recv(h->fd, f->scratch, sizeof f->scratch, 0) == (ssize_t)sizeof f->scratch)
    ;
  drop(h);
}

static void hand_over(struct handshake *h, bool http2)
{
  struct tls_front *f = h->f;
  int fd = h->fd;
  SSL *ssl = h->ssl;
  struct peer peer;
  struct sockaddr_storage address = h->address;
  socklen_t address_n = h->address_n;
  peer_move(&peer, &h->peer);
  let_go(h);
  if (http2)
    grpc_front_accept(f->r, fd, ssl, &peer);
  else
    tls_pump_open(f, fd, ssl, &peer, &address, address_n);
}

// --- on the way --------------------------------------------------------------------------------------------------------------------------

static void wait_for(struct handshake *h, int events)
{
  io_events(h->io, events);
  if (h->give_up <= h->f->r->now || !timer_set(h->f->r, &h->timer, h->give_up))
    refuse(h, "it took longer than tls_handshake_timeout_s");
}

// Without ALPN the first bytes decide.
static void look(struct handshake *h)
{
  char first[GRPC_SNIFF_MOST];
  ERR_clear_error();
  int n = SSL_peek(h->ssl, first, sizeof first);
  if (n <= 0) {
    if (failed(h->ssl, n) < 0 && errno == EAGAIN)
      wait_for(h, IO_READ);
    else
      drop(h);
    return;
  }
  // HTTP/2's preface comes in one piece; a record of a byte or two does not begin it.
  hand_over(h, grpc_sniff((struct str){first, (size_t)n}) == GRPC_SNIFF_HTTP2);
}

static void finish(struct handshake *h)
{
  metric_add(h->f->r->metrics, METRIC_tls_handshakes_total, 1);
  h->done = true;
  const unsigned char *chosen;
  unsigned n;
  SSL_get0_alpn_selected(h->ssl, &chosen, &n);
  if (!peer_take_names(&h->peer, h->ssl))
    drop(h);
  else if (n)
    hand_over(h, n == 2); // "h2"
  else
    look(h);
}

static void go_on(struct handshake *h)
{
  if (h->done) {
    look(h);
    return;
  }
  ERR_clear_error();
  int rv = SSL_accept(h->ssl);
  if (rv == 1) {
    finish(h);
    return;
  }
  int error = SSL_get_error(h->ssl, rv);
  if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
    wait_for(h, error == SSL_ERROR_WANT_READ ? IO_READ : IO_WRITE);
    return;
  }
  bool cut = error == SSL_ERROR_SYSCALL || error == SSL_ERROR_ZERO_RETURN;
  const char *why = tls_why();
  refuse(h, cut ? "the connection ended in the handshake" : why);
}

static void on_io(void *ctx, int events)
{
  (void)events;
  go_on(ctx);
}

static void on_timer(struct timer *t)
{
  refuse(CONTAINER_OF(t, struct handshake, timer), "it took longer than tls_handshake_timeout_s");
}

static void begin(struct handshake *h)
{
  struct tls_front *f = h->f;
  h->ssl = SSL_new(f->context);
  if (h->ssl) {
    list_append(&f->handshakes, &h->link);
    f->under_way++;
    if (!h->io)
      h->io = io_open(f->r, h->fd, IO_READ, on_io, h);
  }
  if (!h->io || SSL_set_fd(h->ssl, h->fd) != 1) {
    drop(h);
    return;
  }
  go_on(h);
}

static void on_next(struct turn_end *t)
{
  struct tls_front *f = CONTAINER_OF(t, struct tls_front, next);
  struct list *node;
  while (f->under_way < f->most && (node = list_pop(&f->waiting)))
    begin(CONTAINER_OF(node, struct handshake, link));
}

void tls_accept(struct reactor *r, int fd, struct peer *peer, const struct sockaddr_storage *address, socklen_t address_n, nsec give_up)
{
  struct tls_front *f = r->tls;
  struct handshake *h = f->stopped ? NULL : calloc(1, sizeof *h);
  if (!h) {
    peer_free(peer);
    close(fd);
    return;
  }
  *h = (struct handshake){.f = f, .fd = fd, .timer.fire = on_timer, .give_up = give_up, .address = *address, .address_n = address_n};
  peer_move(&h->peer, peer);
  list_init(&h->link);
  metric_add(r->metrics, METRIC_connections, 1);
  if (f->under_way < f->most) {
    begin(h);
    return;
  }
  list_append(&f->waiting, &h->link);
  h->io = io_open(r, fd, 0, on_io, h);
  if (h->io)
    wait_for(h, 0);
  else
    drop(h);
}

// --- the front -----------------------------------------------------------------------------------------------------------------------------

bool tls_init(struct reactor *r, struct err *e)
{
  const struct config *c = r->config;
  if (!c->tls_cert_file)
    return true;
  struct tls_front *f = calloc(1, sizeof *f);
  if (!f)
    return err_nomem(e);
  r->tls = f;
  f->r = r;
  f->most = (int)(c->tls_max_handshakes / r->count > 0 ? c->tls_max_handshakes / r->count : 1);
  list_init(&f->handshakes);
  list_init(&f->waiting);
  list_init(&f->pumps);
  list_init(&f->next.link);
  f->next.run = on_next;
  if (r->index > 0) {
    f->context = r->all[0]->tls->context;
    SSL_CTX_up_ref(f->context);
    return true;
  }
  if (!tls_context_watch(f))
    return err_nomem(e);
  f->context = tls_context_new(c, e);
  return f->context != NULL;
}

static void drop_all(struct list *all)
{
  while (!list_empty(all))
    drop(CONTAINER_OF(all->next, struct handshake, link));
}

void tls_stop(struct reactor *r)
{
  struct tls_front *f = r->tls;
  if (!f)
    return;
  f->stopped = true;
  drop_all(&f->waiting);
  drop_all(&f->handshakes);
}

int tls_count(const struct reactor *r)
{
  return r->tls ? r->tls->under_way + r->tls->pump_count : 0;
}

void tls_free(struct reactor *r)
{
  struct tls_front *f = r->tls;
  if (!f)
    return;
  tls_stop(r);
  tls_pumps_free(f);
  list_remove(&f->next.link);
  reload_stop(&f->reload);
  SSL_CTX_free(f->context);
  free(f);
  r->tls = NULL;
}
