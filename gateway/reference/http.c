// SPDX-License-Identifier: Apache-2.0
// The HTTP side of the reference worker, by libmicrohttpd with its epoll descriptor nested in the reactor's.
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "reference/server.h"

enum {
  CONNECTION_MEMORY = 8192, // for a request's head and the piece of its body at hand
  IDLE_TIMEOUT_S = 5,       // uvicorn's
  BODY_MAX = 100 * 1024 * 1024,
};

// One HTTP request.
struct call {
  struct list link; // in http_waiting while suspended
  struct ref_server *server;
  struct MHD_Connection *connection;
  struct buf body;
  struct ref_reply reply;
  struct timer timer;
  const char *type; // of the reply's content
  const char *allow;
  bool answered, suspended;
};

enum { FROM_0_1 = 1, FROM_0_2 = 2 }; // what OpenEnv has had since when

static const struct route {
  const char *path, *method;
  int since;
  bool needs_env;
  void (*answer)(struct ref_protocol *p, struct ref_env *env, struct str body, struct ref_reply *reply);
} routes[] = {
    {"/step", "POST", FROM_0_1, true, ref_http_step},     {"/reset", "POST", FROM_0_1, true, ref_http_reset},
    {"/state", "GET", FROM_0_1, true, ref_http_state},    {"/health", "GET", FROM_0_1, false, ref_http_health},
    {"/schema", "GET", FROM_0_2, false, ref_http_schema}, {"/metadata", "GET", FROM_0_2, false, ref_http_metadata},
    {"/mcp", "POST", FROM_0_2, false, ref_http_mcp},
};

// --- the daemon's turn ---------------------------------------------------------------------------------------------------------------------

// libmicrohttpd 0.9.75 may have work left after a run without its epoll descriptor being readable; a timeout of 0 says so.
static void run(struct ref_server *s)
{
  MHD_UNSIGNED_LONG_LONG ms;
  bool timed;
  do {
    MHD_run(s->http);
    timed = MHD_get_timeout(s->http, &ms) == MHD_YES;
  } while (timed && ms == 0);
  timer_set(&s->reactor, &s->http_timer, timed ? nsec_add(clock_mono(), ms * NSEC_PER_MS) : NSEC_NEVER);
}

static void on_http(void *ctx, int events)
{
  (void)events;
  run(ctx);
}

static void on_http_timer(struct timer *t)
{
  run(CONTAINER_OF(t, struct ref_server, http_timer));
}

static void on_http_turn(struct turn_end *t)
{
  run(CONTAINER_OF(t, struct ref_server, http_turn));
}

void ref_http_wake(struct ref_server *s)
{
  turn_end_add(&s->reactor, &s->http_turn);
}

// --- the upgrade to /ws --------------------------------------------------------------------------------------------------------------------

static const char *header(struct MHD_Connection *c, const char *name)
{
  const char *v = MHD_lookup_connection_value(c, MHD_HEADER_KIND, name);
  return v ? v : "";
}

static void on_upgrade(void *cls, struct MHD_Connection *c, void *req, const char *extra, size_t extra_n, MHD_socket fd,
                       struct MHD_UpgradeResponseHandle *handle)
{
  (void)c;
  (void)req;
  ref_ws_open(cls, fd, handle, (struct str){extra, extra_n});
}

// Sec-WebSocket-Accept: RFC 6455 section 4.2.2. base64 of 20 bytes takes 28 characters.
static bool accept_key(const char *key, char out[32])
{
  char text[64];
  unsigned char hash[EVP_MAX_MD_SIZE];
  unsigned n = 0;
  int len = snprintf(text, sizeof text, "%s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key);
  if (len < 0 || (size_t)len >= sizeof text || !EVP_Digest(text, (size_t)len, hash, &n, EVP_sha1(), NULL))
    return false;
  EVP_EncodeBlock((unsigned char *)out, hash, (int)n);
  return true;
}

static enum MHD_Result queue_and_forget(struct MHD_Connection *c, int status, struct MHD_Response *r)
{
  if (!r)
    return MHD_NO;
  enum MHD_Result rc = MHD_queue_response(c, (unsigned)status, r);
  MHD_destroy_response(r);
  return rc;
}

static enum MHD_Result refuse_upgrade(struct MHD_Connection *c)
{
  struct MHD_Response *r = MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
  if (r)
    MHD_add_response_header(r, "Sec-WebSocket-Version", "13");
  return queue_and_forget(c, MHD_HTTP_UPGRADE_REQUIRED, r);
}

static enum MHD_Result upgrade(struct ref_server *s, struct MHD_Connection *c)
{
  char accept[32];
  const char *key = header(c, "Sec-WebSocket-Key");
  if (strlen(key) != 24 || strcmp(header(c, "Sec-WebSocket-Version"), "13") != 0 || !accept_key(key, accept))
    return refuse_upgrade(c);
  struct MHD_Response *r = MHD_create_response_for_upgrade(on_upgrade, s);
  if (r) {
    MHD_add_response_header(r, "Upgrade", "websocket");
    MHD_add_response_header(r, "Sec-WebSocket-Accept", accept);
  }
  return queue_and_forget(c, MHD_HTTP_SWITCHING_PROTOCOLS, r);
}

static bool wants_upgrade(const struct ref_server *s, struct MHD_Connection *c, const char *url, const char *method)
{
  return s->options.dialect != REF_DIALECT_HTTP && strcmp(url, "/ws") == 0 && strcmp(method, "GET") == 0 &&
         strcasecmp(header(c, "Upgrade"), "websocket") == 0;
}

// --- requests ------------------------------------------------------------------------------------------------------------------------------

static void simple(struct call *call, int status, const char *text)
{
  call->reply.verdict = REF_SEND;
  call->reply.status = status;
  if (!buf_str(&call->reply.text, str_c(text)))
    call->reply.verdict = REF_DROP;
}

static const struct route *find_route(const struct ref_server *s, const char *url)
{
  int has = s->options.dialect == REF_DIALECT_HTTP ? FROM_0_1 : FROM_0_1 | FROM_0_2;
  for (size_t i = 0; i < sizeof routes / sizeof *routes; i++)
    if (routes[i].since & has && strcmp(routes[i].path, url) == 0)
      return &routes[i];
  return NULL;
}

// FastAPI reads a body as JSON only where the content type says so, and otherwise sees a string.
static bool body_as_json(struct call *call)
{
  const char *type = header(call->connection, "Content-Type");
  if (!call->body.n || strncasecmp(type, "application/json", strlen("application/json")) == 0)
    return true;
  struct buf text = {0};
  bool ok = buf_json_string(&text, buf_view(&call->body));
  buf_free(&call->body);
  call->body = text;
  return ok;
}

static void answer(struct call *call, const struct route *route)
{
  struct ref_server *s = call->server;
  struct ref_env *env = s->http_env, *own = NULL;
  if (route->needs_env && !env)
    env = own = ref_env_make(s->options.kind);
  if ((route->needs_env && !env) || !body_as_json(call))
    call->reply.verdict = REF_DROP;
  else
    route->answer(&s->protocol, env, buf_view(&call->body), &call->reply);
  ref_env_destroy(own);
}

static void on_waited(struct timer *t)
{
  struct call *call = CONTAINER_OF(t, struct call, timer);
  if (call->reply.verdict == REF_HANG)
    return;
  call->suspended = false;
  list_remove(&call->link);
  MHD_resume_connection(call->connection);
  ref_http_wake(call->server);
}

static void suspend(struct call *call)
{
  call->suspended = true;
  list_append(&call->server->http_waiting, &call->link);
  MHD_suspend_connection(call->connection);
  timer_set(&call->server->reactor, &call->timer, nsec_add(clock_mono(), call->reply.delay_ms * NSEC_PER_MS));
}

// Finds the answer; it may come later.
static void dispatch(struct call *call, const char *url, const char *method)
{
  const struct route *route = find_route(call->server, url);
  call->answered = true;
  call->type = "application/json";
  if (!route) {
    simple(call, 404, "{\"detail\":\"Not Found\"}");
  } else if (strcmp(method, route->method) != 0) {
    simple(call, 405, "{\"detail\":\"Method Not Allowed\"}");
    call->allow = route->method;
  } else {
    answer(call, route);
  }
  if (call->reply.status == 500)
    call->type = "text/plain; charset=utf-8";
  if (call->reply.verdict == REF_SEND_BINARY)
    call->type = "application/octet-stream";
  if (call->reply.delay_ms || call->reply.verdict == REF_HANG)
    suspend(call);
}

static enum MHD_Result respond(struct call *call)
{
  struct ref_reply *reply = &call->reply;
  switch (reply->verdict) {
  case REF_EXIT:
    exit(reply->code);
  case REF_CLOSE:
  case REF_DROP:
  case REF_HANG: // has hung until the worker was told to stop
    return MHD_NO;
  case REF_SEND:
  case REF_SEND_TWICE:
  case REF_SEND_BINARY:
  case REF_SEND_CLOSE:
    break;
  }
  struct MHD_Response *r = MHD_create_response_from_buffer(reply->text.n, reply->text.p, MHD_RESPMEM_MUST_FREE);
  if (!r)
    return MHD_NO;
  reply->text = (struct buf){0};
  MHD_add_response_header(r, "Content-Type", call->type);
  if (call->allow)
    MHD_add_response_header(r, "Allow", call->allow);
  return queue_and_forget(call->connection, reply->status, r);
}

// Called first with the head, then with each piece of the body, then at its end; and again when a suspended request goes on.
static enum MHD_Result on_request(void *cls, struct MHD_Connection *c, const char *url, const char *method, const char *version, const char *upload,
                                  size_t *upload_n, void **req)
{
  (void)version;
  struct ref_server *s = cls;
  struct call *call = *req;
  if (!call) {
    *req = call = calloc(1, sizeof *call);
    if (!call)
      return MHD_NO;
    call->server = s;
    call->connection = c;
    call->body.max = BODY_MAX;
    call->timer.fire = on_waited;
    list_init(&call->link);
    return MHD_YES;
  }
  if (*upload_n) {
    bool kept = buf_add(&call->body, upload, *upload_n);
    *upload_n = 0;
    return kept ? MHD_YES : MHD_NO;
  }
  if (!call->answered && wants_upgrade(s, c, url, method))
    return upgrade(s, c);
  if (!call->answered) {
    dispatch(call, url, method);
    if (call->suspended)
      return MHD_YES;
  }
  return respond(call);
}

static void on_completed(void *cls, struct MHD_Connection *c, void **req, enum MHD_RequestTerminationCode why)
{
  (void)cls;
  (void)c;
  (void)why;
  struct call *call = *req;
  if (!call)
    return;
  timer_unset(&call->server->reactor, &call->timer);
  list_remove(&call->link);
  buf_free(&call->body);
  buf_free(&call->reply.text);
  free(call);
  *req = NULL;
}

// --- start and stop ------------------------------------------------------------------------------------------------------------------------

static void ignore_log(void *cls, const char *format, va_list ap)
{
  (void)cls;
  (void)format;
  (void)ap;
}

// As many connections as the process may have descriptors, less a few for the loop and stdio.
static unsigned connection_limit(void)
{
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur <= 128)
    return 64;
  return limit.rlim_cur > 1000000 ? 1000000 : (unsigned)limit.rlim_cur - 64;
}

bool ref_http_start(struct ref_server *s, int listen_fd)
{
  list_init(&s->http_waiting);
  list_init(&s->http_turn.link);
  s->http_turn.run = on_http_turn;
  s->http_timer.fire = on_http_timer;
  if (s->options.dialect != REF_DIALECT_WS && !(s->http_env = ref_env_make(s->options.kind)))
    return false;
  s->http = MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_UPGRADE | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, on_request, s, MHD_OPTION_LISTEN_SOCKET,
                             listen_fd, MHD_OPTION_CONNECTION_LIMIT, connection_limit(), MHD_OPTION_CONNECTION_MEMORY_LIMIT,
                             (size_t)CONNECTION_MEMORY, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_TIMEOUT_S, MHD_OPTION_NOTIFY_COMPLETED,
                             on_completed, NULL, MHD_OPTION_EXTERNAL_LOGGER, ignore_log, NULL, MHD_OPTION_END);
  if (!s->http)
    return false;
  const union MHD_DaemonInfo *info = MHD_get_daemon_info(s->http, MHD_DAEMON_INFO_EPOLL_FD);
  s->http_io = info ? io_open(&s->reactor, info->epoll_fd, IO_READ, on_http, s) : NULL;
  return s->http_io != NULL;
}

void ref_http_quiesce(struct ref_server *s)
{
  int listen_fd = MHD_quiesce_daemon(s->http);
  if (listen_fd >= 0)
    close(listen_fd);
}

void ref_http_stop(struct ref_server *s)
{
  if (!s->http)
    return;
  io_close(s->http_io);
  timer_unset(&s->reactor, &s->http_timer);
  struct list *node; // libmicrohttpd must not be stopped with suspended requests
  while ((node = list_pop(&s->http_waiting)))
    MHD_resume_connection(CONTAINER_OF(node, struct call, link)->connection);
  MHD_run(s->http);
  MHD_stop_daemon(s->http);
  s->http = NULL;
  ref_env_destroy(s->http_env);
}
