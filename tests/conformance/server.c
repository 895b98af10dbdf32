// SPDX-License-Identifier: Apache-2.0
// The gateway's RPC layer with other services on it than the gateway's own: those of the conformance suites. It listens on a free port of 127.0.0.1 and ends
// with SIGTERM.
//
// usage: server            as connectconformance wants it: reads a ServerCompatRequest from stdin and writes a ServerCompatResponse to stdout
//        server --plain    prints "127.0.0.1:PORT" only
#include "server.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "config/config.h"
#include "connectrpc/conformance/v1/server_compat.pb-c.h"
#include "front/grpc.h"
#include "front/http.h"
#include "front/listener.h"
#include "runtime/log.h"

typedef Connectrpc__Conformance__V1__ServerCompatRequest compat_request;
typedef Connectrpc__Conformance__V1__ServerCompatResponse compat_response;

enum { MESSAGE_MOST = 1 << 20, HANDLERS = 32 };

static void check(bool ok, const char *what)
{
  if (ok)
    return;
  fprintf(stderr, "server: %s failed\n", what);
  exit(1);
}

static compat_request *read_request(void)
{
  uint8_t head[4];
  check(fread(head, 1, sizeof head, stdin) == sizeof head, "reading the request's length");
  size_t n = (size_t)head[0] << 24 | (size_t)head[1] << 16 | (size_t)head[2] << 8 | head[3];
  check(n <= MESSAGE_MOST, "a request of sane length");
  uint8_t *bytes = malloc(n + 1);
  check(bytes && fread(bytes, 1, n, stdin) == n, "reading the request");
  compat_request *request = connectrpc__conformance__v1__server_compat_request__unpack(NULL, n, bytes);
  check(request != NULL, "decoding the request");
  free(bytes);
  return request;
}

static void write_response(const char *address)
{
  char host[256];
  compat_response response = CONNECTRPC__CONFORMANCE__V1__SERVER_COMPAT_RESPONSE__INIT;
  const char *colon = strrchr(address, ':');
  snprintf(host, sizeof host, "%.*s", (int)(colon - address), address);
  response.host = host;
  response.port = (uint32_t)strtoul(colon + 1, NULL, 10);
  uint8_t bytes[512], head[4] = {0};
  size_t n = connectrpc__conformance__v1__server_compat_response__pack(&response, bytes);
  head[2] = (uint8_t)(n >> 8);
  head[3] = (uint8_t)n;
  fwrite(head, 1, sizeof head, stdout);
  fwrite(bytes, 1, n, stdout);
  fflush(stdout);
}

static bool never_ready(struct reactor *r, struct buf *why)
{
  (void)r;
  (void)why;
  return false;
}

static void on_signal(uv_signal_t *handle, int signum)
{
  (void)signum;
  reactor_stop(handle->data);
}

static void gather(struct rpc_handler *to)
{
  const struct rpc_handler *from[] = {suite_handlers, interop_handlers};
  for (size_t i = 0; i < sizeof from / sizeof *from; i++)
    for (const struct rpc_handler *h = from[i]; h->path; h++)
      *to++ = *h;
}

int main(int argc, char **argv)
{
  bool plain = argc > 1 && strcmp(argv[1], "--plain") == 0;
  struct config config = {.max_message_bytes = 4 << 20,
                          .max_json_depth = 64,
                          .max_header_bytes = 16 << 10,
                          .max_streams = 128,
                          .max_connections = 1024,
                          .idle_connection_s = 300};
  if (!plain) {
    compat_request *request = read_request();
    if (request->message_receive_limit)
      config.max_message_bytes = request->message_receive_limit;
    check(!request->use_tls, "a request without TLS");
    connectrpc__conformance__v1__server_compat_request__free_unpacked(request, NULL);
  }
  const struct http_route no_routes[] = {{0}};
  const struct http_site site = {.routes = no_routes, .ready = never_ready};
  struct rpc_handler handlers[HANDLERS] = {0};
  struct log log = {.fd = 2, .level = LOG_WARN};
  struct reactor *r = calloc(1, sizeof *r), *all[] = {r};
  struct metrics *m = calloc(1, sizeof *m);
  struct err e;
  signal(SIGPIPE, SIG_IGN);
  check(r && m && metrics_init(m, conformance_api.method_count) && reactor_init(r, 0, all, 1, &e), "the reactor");
  r->config = &config;
  r->metrics = m;
  r->log = &log;
  gather(handlers);
  check(rpc_init(r, &conformance_api, handlers) && http_front_init(r, &site) && grpc_front_init(r, &site, &e) && listener_open(r, "127.0.0.1:0", &e),
        "listening");
  uv_signal_t end;
  uv_signal_init(reactor_uv(r), &end);
  end.data = r;
  uv_signal_start(&end, on_signal, SIGTERM);
  if (plain) {
    printf("%s\n", listener_address(r));
    fflush(stdout);
  } else {
    write_response(listener_address(r));
  }
  reactor_run(r);
  uv_close((uv_handle_t *)&end, NULL);
  listener_free(r);
  grpc_front_free(r);
  http_front_free(r);
  rpc_free(r);
  reactor_free(r);
  metrics_free(m);
  free(m);
  free(r);
  return 0;
}
