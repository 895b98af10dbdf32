// SPDX-License-Identifier: Apache-2.0
// A server on a thread of its own that does what a test's script says, on plain blocking sockets: also what no decent server would do.
#ifndef ENVGATE_TESTS_SCRIPTED_PEER_H
#define ENVGATE_TESTS_SCRIPTED_PEER_H

#include <arpa/inet.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buf.h"
#include "runtime/reactor.h"
#include "upstream/http_client.h"

struct peer {
  int listener;
  char address[128]; // for endpoint_parse
  pthread_t thread;
  void (*serve)(struct peer *p, int fd); // one connection; the caller closes it
  atomic_int connections, requests;
  atomic_bool stopping;
  atomic_int complaint; // a line of the script where what the client sent was not as expected
  char head[2048];      // the last request's, or the upgrade's
};

static void *peer_main(void *ctx)
{
  struct peer *p = ctx;
  for (;;) {
    int fd = accept(p->listener, NULL, NULL);
    if (fd < 0 || p->stopping) {
      if (fd >= 0)
        close(fd);
      return NULL;
    }
    p->connections++;
    p->serve(p, fd);
    close(fd);
  }
}

// Listens on loopback, or with `path` on a unix socket.
static void peer_start(struct peer *p, void (*serve)(struct peer *p, int fd), const char *path)
{
  memset(p, 0, sizeof *p);
  p->serve = serve;
  struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct sockaddr_un un = {.sun_family = AF_UNIX};
  p->listener = socket(path ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_true(p->listener >= 0);
  if (path) {
    snprintf(un.sun_path, sizeof un.sun_path, "%s", path);
    unlink(path);
    assert_int_equal(bind(p->listener, (struct sockaddr *)&un, sizeof un), 0);
    snprintf(p->address, sizeof p->address, "unix:%s", path);
  } else {
    socklen_t n = sizeof in;
    assert_int_equal(bind(p->listener, (struct sockaddr *)&in, sizeof in), 0);
    assert_int_equal(getsockname(p->listener, (struct sockaddr *)&in, &n), 0);
    snprintf(p->address, sizeof p->address, "http://127.0.0.1:%d/", ntohs(in.sin_port));
  }
  assert_int_equal(listen(p->listener, 16), 0);
  assert_int_equal(pthread_create(&p->thread, NULL, peer_main, p), 0);
}

// cmocka's assertions work on the test's own thread only.
#define PEER_EXPECT(p, truth) ((truth) ? (void)0 : (void)((p)->complaint = __LINE__))

static void peer_stop(struct peer *p)
{
  p->stopping = true;
  shutdown(p->listener, SHUT_RDWR);
  pthread_join(p->thread, NULL);
  close(p->listener);
  assert_int_equal(p->complaint, 0);
}

static bool peer_read(int fd, void *to, size_t n)
{
  for (char *at = to; n;) {
    ssize_t got = recv(fd, at, n, 0);
    if (got <= 0)
      return false;
    at += got;
    n -= (size_t)got;
  }
  return true;
}

static void peer_write(int fd, const void *from, size_t n)
{
  for (const char *at = from; n;) {
    ssize_t put = send(fd, at, n, MSG_NOSIGNAL);
    if (put <= 0)
      return;
    at += put;
    n -= (size_t)put;
  }
}

static void peer_say(int fd, const char *text)
{
  peer_write(fd, text, strlen(text));
}

// Reads a head up to its blank line into p->head. False at the end.
static bool peer_head(struct peer *p, int fd)
{
  size_t n = 0;
  while (n < sizeof p->head - 1 && peer_read(fd, p->head + n, 1)) {
    p->head[++n] = '\0';
    if (n >= 4 && !memcmp(p->head + n - 4, "\r\n\r\n", 4))
      return true;
  }
  return false;
}

// --- HTTP ------------------------------------------------------------------------------------------------------------------------------

// Reads one whole request and counts it.
__attribute__((unused)) static bool peer_request(struct peer *p, int fd)
{
  char body[4096];
  if (!peer_head(p, fd))
    return false;
  const char *length = strstr(p->head, "Content-Length: ");
  size_t n = length ? (size_t)strtoul(length + 16, NULL, 10) : 0;
  if (n > sizeof body || !peer_read(fd, body, n))
    return false;
  p->requests++;
  return true;
}

__attribute__((unused)) static void peer_reply(int fd, int status, const char *body)
{
  char head[256];
  snprintf(head, sizeof head, "HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", status, strlen(body));
  peer_say(fd, head);
  peer_say(fd, body);
}

// --- WebSocket -------------------------------------------------------------------------------------------------------------------------

__attribute__((unused)) static bool peer_upgrade(struct peer *p, int fd)
{
  static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
  if (!peer_head(p, fd))
    return false;
  const char *key = strstr(p->head, "Sec-WebSocket-Key: ");
  char text[128], accept_text[64], reply[256];
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned n = 0;
  if (!key)
    return false;
  snprintf(text, sizeof text, "%.24s%s", key + 19, guid);
  EVP_Digest(text, strlen(text), digest, &n, EVP_sha1(), NULL);
  EVP_EncodeBlock((unsigned char *)accept_text, digest, (int)n);
  snprintf(reply, sizeof reply, "HTTP/1.1 101 Go\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept_text);
  peer_say(fd, reply);
  return true;
}

// Reads one frame into `payload`, unmasked. The opcode; -1 at the end.
__attribute__((unused)) static int peer_frame(int fd, struct buf *payload)
{
  unsigned char h[2], more[8], key[4];
  payload->n = 0;
  if (!peer_read(fd, h, 2) || !(h[1] & 0x80))
    return -1;
  size_t n = h[1] & 0x7F, extra = n == 126 ? 2 : n == 127 ? 8 : 0;
  if (!peer_read(fd, more, extra) || !peer_read(fd, key, 4))
    return -1;
  if (extra)
    n = 0;
  for (size_t i = 0; i < extra; i++)
    n = n << 8 | more[i];
  char *to = buf_reserve(payload, n + 1);
  if (!to || !peer_read(fd, to, n))
    return -1;
  for (size_t i = 0; i < n; i++)
    to[i] = (char)(to[i] ^ (char)key[i % 4]);
  to[n] = '\0';
  payload->n = n;
  return h[0] & 0xF;
}

// Sends one frame of at most 65535 bytes; `first` is its first byte (0x81: a whole text message).
__attribute__((unused)) static void peer_send(int fd, unsigned char first, const char *text)
{
  size_t n = strlen(text);
  unsigned char h[4] = {first, (unsigned char)(n < 126 ? n : 126), (unsigned char)(n >> 8), (unsigned char)n};
  peer_write(fd, h, n < 126 ? 2 : 4);
  peer_write(fd, text, n);
}

// --- the reactor under test ------------------------------------------------------------------------------------------------------------

struct bench {
  struct reactor r;
  struct endpoint ep;
  struct timer watchdog;
  bool late;
};

static void bench_late(struct timer *t)
{
  struct bench *b = CONTAINER_OF(t, struct bench, watchdog);
  b->late = true;
  reactor_stop(&b->r);
}

static void bench_start(struct bench *b, const char *address)
{
  struct err e;
  memset(b, 0, sizeof *b);
  assert_true(reactor_init(&b->r, 0, NULL, 1, &e));
  assert_true(http_client_init(&b->r));
  assert_true(endpoint_parse(&b->ep, address, &e));
}

// Runs until reactor_stop, and fails after 10 s.
static void bench_run(struct bench *b)
{
  b->watchdog.fire = bench_late;
  b->r.stopping = false;
  assert_true(timer_set(&b->r, &b->watchdog, clock_mono() + 10 * NSEC_PER_S));
  reactor_run(&b->r);
  timer_unset(&b->r, &b->watchdog);
  assert_false(b->late);
}

static void bench_stop(struct bench *b)
{
  http_client_free(&b->r);
  reactor_free(&b->r);
  endpoint_free(&b->ep);
}

#endif
