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
#include "front/tls.h"
#include "runtime/log.h"

typedef Connectrpc__Conformance__V1__ServerCompatRequest compat_request;
typedef Connectrpc__Conformance__V1__ServerCompatResponse compat_response;

enum { MESSAGE_MOST = 1 << 20, HANDLERS = 32 };

// The files of a request for TLS, in a folder that ends with the server.
struct files {
  char folder[64], cert[80], key[80], client_ca[80];
};

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

static void write_file(const char *path, ProtobufCBinaryData pem)
{
  FILE *f = fopen(path, "w");
  check(f && fwrite(pem.data, 1, pem.len, f) == pem.len && fclose(f) == 0, path);
}

static void use_tls(struct config *c, struct files *files, const compat_request *request)
{
  check(request->server_creds != NULL, "a request for TLS with server_creds");
  const char *tmp = getenv("TMPDIR");
  int n = snprintf(files->folder, sizeof files->folder, "%s/conformance-XXXXXX", tmp ? tmp : "/tmp");
  check(n > 0 && (size_t)n < sizeof files->folder && mkdtemp(files->folder), "making a temporary folder");
  snprintf(files->cert, sizeof files->cert, "%s/cert.pem", files->folder);
  snprintf(files->key, sizeof files->key, "%s/key.pem", files->folder);
  write_file(files->cert, request->server_creds->cert);
  write_file(files->key, request->server_creds->key);
  c->tls_cert_file = files->cert;
  c->tls_key_file = files->key;
  c->tls_handshake_timeout_s = 10;
  c->tls_max_handshakes = 256;
  c->tls_plaintext = PLAINTEXT_REFUSE;
  if (!request->client_tls_cert.len)
    return;
  snprintf(files->client_ca, sizeof files->client_ca, "%s/client-ca.pem", files->folder);
  write_file(files->client_ca, request->client_tls_cert);
  c->tls_client_ca_file = files->client_ca;
  c->tls_client_cert = CLIENT_CERT_REQUIRED;
}

static void remove_files(const struct files *files)
{
  if (!*files->folder)
    return;
  unlink(files->cert);
  unlink(files->key);
  if (*files->client_ca)
    unlink(files->client_ca);
  rmdir(files->folder);
}

static void write_response(const char *address, const compat_request *request)
{
  char host[256];
  compat_response response;
  connectrpc__conformance__v1__server_compat_response__init(&response);
  const char *colon = strrchr(address, ':');
  snprintf(host, sizeof host, "%.*s", (int)(colon - address), address);
  response.host = host;
  response.port = (uint32_t)strtoul(colon + 1, NULL, 10);
  if (request->use_tls)
    response.pem_cert = request->server_creds->cert;
  size_t n = connectrpc__conformance__v1__server_compat_response__get_packed_size(&response);
  uint8_t *bytes = malloc(n), head[4] = {0};
  check(bytes && n <= UINT16_MAX, "a response of sane length");
  connectrpc__conformance__v1__server_compat_response__pack(&response, bytes);
  head[2] = (uint8_t)(n >> 8);
  head[3] = (uint8_t)n;
  fwrite(head, 1, sizeof head, stdout);
  fwrite(bytes, 1, n, stdout);
  fflush(stdout);
  free(bytes);
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
                          .header_timeout_s = 10,
                          .body_timeout_s = 30,
                          .idle_connection_s = 300};
  struct files files = {0};
  compat_request *request = plain ? NULL : read_request();
  if (request && request->message_receive_limit)
    config.max_message_bytes = request->message_receive_limit;
  if (request && request->use_tls)
    use_tls(&config, &files, request);
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
  check(rpc_init(r, &conformance_api, handlers) && http_front_init(r, &site) && tls_init(r, &e) && grpc_front_init(r, &site, &e) &&
            listener_open(r, "127.0.0.1:0", &e),
        "listening");
  uv_signal_t end;
  uv_signal_init(reactor_uv(r), &end);
  end.data = r;
  uv_signal_start(&end, on_signal, SIGTERM);
  if (!request) {
    printf("%s\n", listener_address(r));
    fflush(stdout);
  } else {
    write_response(listener_address(r), request);
    connectrpc__conformance__v1__server_compat_request__free_unpacked(request, NULL);
  }
  reactor_run(r);
  uv_close((uv_handle_t *)&end, NULL);
  listener_free(r);
  tls_stop(r);
  grpc_front_free(r);
  http_front_free(r);
  tls_free(r);
  rpc_free(r);
  reactor_free(r);
  metrics_free(m);
  free(m);
  free(r);
  remove_files(&files);
  return 0;
}
