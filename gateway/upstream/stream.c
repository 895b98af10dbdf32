// SPDX-License-Identifier: Apache-2.0
#include "upstream/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/socket.h"
#include "upstream/transfer.h"

struct stream_connector {
  struct transfer t;     // the first member
  struct stream *stream; // NULL: given up
  struct endpoint ep;
  void (*done)(struct stream *s, const struct err *e);
};

static void on_release(struct transfer *t)
{
  struct stream_connector *c = CONTAINER_OF(t, struct stream_connector, t);
  endpoint_free(&c->ep);
  free(c);
}

static void give_up_connector(struct stream *s)
{
  if (s->connector) {
    s->connector->stream = NULL;
    transfer_end(&s->connector->t);
  }
  s->connector = NULL;
}

// Keeps the plain socket and lets libcurl's handle and connection go, which together cost some KiB.
static bool take_socket(struct stream *s, int fd)
{
  s->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  if (s->fd < 0)
    s->fd = 0;
  else
    socket_tune(s->fd);
  give_up_connector(s);
  return s->fd != 0;
}

static void on_done(struct transfer *t, CURLcode code)
{
  struct stream_connector *c = CONTAINER_OF(t, struct stream_connector, t);
  struct stream *s = c->stream;
  void (*done)(struct stream *, const struct err *) = c->done;
  curl_socket_t fd = CURL_SOCKET_BAD;
  if (!code && (curl_easy_getinfo(t->easy, CURLINFO_ACTIVESOCKET, &fd) || fd == CURL_SOCKET_BAD))
    code = CURLE_COULDNT_CONNECT;
  struct err e;
  if (code) {
    transfer_err(t, code, &c->ep, &e);
    give_up_connector(s);
    done(s, &e);
    return;
  }
  if (!strncmp(c->ep.url, "https:", 6)) {
    s->fd = fd;
  } else if (!take_socket(s, fd)) {
    err_set(&e, CODE_UNAVAILABLE, REASON_WORKER_UNREACHABLE, "no descriptor is left for a connection to the worker");
    done(s, &e);
    return;
  }
  done(s, NULL);
}

// What could not be written is offered again from another address, because it was moved to a buffer.
static CURLcode allow_moving(CURL *easy, void *ssl_ctx, void *ctx)
{
  (void)easy;
  (void)ctx;
  SSL_CTX_set_mode(ssl_ctx, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_ENABLE_PARTIAL_WRITE);
  return CURLE_OK;
}

static bool set_options(const struct stream_connector *c)
{
  CURL *easy = c->t.easy;
  bool tls = !strncmp(c->ep.url, "https:", 6);
  return !curl_easy_setopt(easy, CURLOPT_CONNECT_ONLY, 1L) && !curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, 1L) &&
         !curl_easy_setopt(easy, CURLOPT_FORBID_REUSE, 0L) && // else libcurl closes the connection before its socket can be taken
         !curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L) && !curl_easy_setopt(easy, CURLOPT_HTTPHEADER, NULL) &&
         !curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, 0L) && !curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, 0L) &&
         !curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, NULL) && (!tls || !curl_easy_setopt(easy, CURLOPT_SSL_CTX_FUNCTION, allow_moving));
}

bool stream_open(struct stream *s, struct reactor *r, const struct endpoint *ep, void (*done)(struct stream *s, const struct err *e))
{
  *s = (struct stream){0};
  struct stream_connector *c = calloc(1, sizeof *c);
  if (!c)
    return false;
  c->stream = s;
  c->done = done;
  c->t.done = on_done;
  c->t.release = on_release;
  if (!endpoint_copy(&c->ep, ep) || !transfer_init(&c->t, r, &c->ep, c->ep.url)) {
    endpoint_free(&c->ep);
    free(c);
    return false;
  }
  if (!set_options(c)) {
    transfer_end(&c->t);
    return false;
  }
  s->connector = c;
  transfer_start(&c->t);
  return true;
}

static ssize_t failure(void)
{
  return errno == EAGAIN ? STREAM_AGAIN : STREAM_FAILED;
}

ssize_t stream_recv(struct stream *s, void *p, size_t n)
{
  if (stream_is_tls(s)) {
    size_t got = 0;
    CURLcode code = curl_easy_recv(s->connector->t.easy, p, n, &got);
    return code == CURLE_OK ? (ssize_t)got : code == CURLE_AGAIN ? STREAM_AGAIN : STREAM_FAILED;
  }
  ssize_t got;
  do
    got = recv(s->fd, p, n, 0);
  while (got < 0 && errno == EINTR);
  return got >= 0 ? got : failure();
}

ssize_t stream_send(struct stream *s, const void *p, size_t n)
{
  if (stream_is_tls(s)) {
    size_t sent = 0;
    CURLcode code = curl_easy_send(s->connector->t.easy, p, n, &sent);
    return code == CURLE_OK ? (ssize_t)sent : code == CURLE_AGAIN ? STREAM_AGAIN : STREAM_FAILED;
  }
  ssize_t sent;
  do
    sent = send(s->fd, p, n, MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  return sent >= 0 ? sent : failure();
}

void stream_close(struct stream *s)
{
  if (!stream_is_tls(s) && s->fd)
    close(s->fd);
  give_up_connector(s);
  s->fd = 0;
}
