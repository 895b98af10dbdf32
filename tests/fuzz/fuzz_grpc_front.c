// SPDX-License-Identifier: Apache-2.0
// A peer's bytes on an HTTP/2 connection, over a real socket, against the front, the call machinery and the health and reflection services.
// The input follows the client's preface; its first byte cuts it into pieces.
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/api.h"
#include "api/health.h"
#include "api/reflection.h"
#include "config/config.h"
#include "front/grpc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ROWS = 16 };

static void check(bool ok)
{
  if (!ok)
    abort();
}

static void gather(struct rpc_handler *to)
{
  const struct rpc_handler *from[] = {health_handlers, reflection_handlers};
  for (size_t i = 0; i < 2; i++)
    for (const struct rpc_handler *h = from[i]; h->path; h++)
      *to++ = *h;
}

static void turns(struct reactor *r)
{
  r->busy_poll = NSEC_PER_S; // no sleep
  for (int i = 0; i < 3; i++) {
    r->last_event = clock_mono();
    reactor_turn(r);
  }
}

static void drain(int fd)
{
  char bytes[4096];
  while (recv(fd, bytes, sizeof bytes, MSG_DONTWAIT) > 0)
    ;
}

static void talk(struct reactor *r, int fd, const uint8_t *data, size_t size)
{
  static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
  check(send(fd, preface, sizeof preface - 1, MSG_NOSIGNAL) > 0);
  size_t step = data[0] ? (size_t)data[0] * 16 : size;
  for (size_t at = 1; at < size; at += step) {
    if (send(fd, data + at, step < size - at ? step : size - at, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
      break;
    turns(r);
    drain(fd);
  }
  turns(r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  if (!size)
    return 0;
  struct config config = {.max_message_bytes = 4096,
                          .max_json_depth = 8,
                          .max_header_bytes = 1024,
                          .max_streams = 4,
                          .header_timeout_s = 10,
                          .body_timeout_s = 30,
                          .idle_connection_s = 1};
  const struct http_route no_routes[] = {{0}};
  const struct http_site site = {.routes = no_routes};
  struct rpc_handler handlers[ROWS] = {0};
  struct reactor *r = calloc(1, sizeof *r), *all[] = {r};
  struct metrics *m = calloc(1, sizeof *m);
  struct err e;
  int pair[2];
  struct peer peer = {0};
  check(r && m && metrics_init(m, envgate_api.method_count) && reactor_init(r, 0, all, 1, &e));
  r->config = &config;
  r->metrics = m;
  gather(handlers);
  check(rpc_init(r, &envgate_api, handlers) && health_init(r) && grpc_front_init(r, &site, &e));
  check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0 && grpc_front_accept(r, pair[0], NULL, &peer));
  talk(r, pair[1], data, size);
  health_set_serving(r, false);
  turns(r);
  close(pair[1]);
  turns(r);
  grpc_front_free(r);
  check(rpc_calls(r) == 0); // every call has ended
  rpc_free(r);
  health_free(r);
  reactor_free(r);
  metrics_free(m);
  free(m);
  free(r);
  return 0;
}
