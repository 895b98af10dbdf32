// SPDX-License-Identifier: Apache-2.0
#include "front/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "config/config.h"
#include "front/grpc.h"
#include "front/grpc_wire.h"
#include "front/http.h"
#include "front/tls.h"
#include "runtime/log.h"
#include "runtime/socket.h"

enum {
  BATCH = 64,          // connections accepted in a turn, so that those that are open get theirs
  SNIFF_AGAIN_MS = 10, // when one or two bytes came that may become "PRI"
  PAUSE_MS = 100,      // when no more connections can be had
};

struct listener {
  struct reactor *r;
  int fd; // -1: stopped
  struct io *io;
  struct timer resume;           // after a pause
  struct list pending;           // connections that have not said enough
  nsec warned;                   // the last time that the log was told that connections wait
  bool owns_path;                // reactor 0 with a unix socket
  struct sockaddr_storage bound; // shared with the other reactors
  socklen_t bound_n;
  char address[256];
};

// An accepted connection before it has a front.
struct pending {
  struct listener *l;
  struct list link;
  int fd;
  struct io *io;
  struct timer timer;
  nsec arrived, give_up;
  struct sockaddr_storage peer;
  socklen_t peer_n;
};

// --- a connection's first bytes ------------------------------------------------------------------------------------------------------------

// Takes it off the loop; the descriptor stays open.
static void pending_free(struct pending *p)
{
  timer_unset(p->l->r, &p->timer);
  io_close(p->io);
  list_remove(&p->link);
  metric_add(p->l->r->metrics, METRIC_connections, -1); // the front counts it from here on
  free(p);
}

static void pending_drop(struct pending *p)
{
  int fd = p->fd;
  pending_free(p);
  close(fd);
}

// What is closed with bytes unread is reset, and what was said to the peer before may be lost to it.
static void pending_refuse(struct pending *p)
{
  enum { PIECES = 16 };
  char bytes[1024];
  for (int i = 0; i < PIECES && recv(p->fd, bytes, sizeof bytes, 0) == (ssize_t)sizeof bytes; i++)
    ;
  pending_drop(p);
}

// To whom a connection goes, by its first bytes.
enum speaks { SPEAKS_HTTP1, SPEAKS_HTTP2, SPEAKS_TLS };

// The answer to plaintext where there must be TLS.
static void refuse_plaintext(int fd, enum speaks speaks)
{
  static const char http1[] = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 39\r\n\r\n"
                              "this port takes TLS only: use https://\n";
  static const char http2[] = "\0\0\0\x04\0\0\0\0\0" // SETTINGS, empty
                              "\0\0\x20\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0c"
                              "this port takes TLS only"; // GOAWAY, INADEQUATE_SECURITY
  char unread[4096];
  send(fd, speaks == SPEAKS_HTTP2 ? http2 : http1, (speaks == SPEAKS_HTTP2 ? sizeof http2 : sizeof http1) - 1, MSG_NOSIGNAL);
  shutdown(fd, SHUT_WR);
  while (recv(fd, unread, sizeof unread, 0) == (ssize_t)sizeof unread) // else the kernel resets the connection, and the answer is lost
    ;
  close(fd);
}

static bool plaintext_allowed(const struct reactor *r, const struct peer *peer)
{
  enum tls_plaintext rule = r->config->tls_plaintext;
  return !r->tls || rule == PLAINTEXT_ALLOW || (rule == PLAINTEXT_LOOPBACK && peer->local);
}

static void hand_over(struct pending *p, enum speaks speaks)
{
  struct reactor *r = p->l->r;
  int fd = p->fd;
  struct sockaddr_storage address = p->peer;
  socklen_t address_n = p->peer_n;
  nsec give_up = nsec_add(p->arrived, nsec_from_s(r->config->tls_handshake_timeout_s));
  struct peer peer;
  pending_free(p);
  peer_init(&peer, (const struct sockaddr *)&address);
  if (speaks == SPEAKS_TLS)
    tls_accept(r, fd, &peer, &address, address_n, give_up);
  else if (!plaintext_allowed(r, &peer))
    refuse_plaintext(fd, speaks);
  else if (speaks == SPEAKS_HTTP2)
    grpc_front_accept(r, fd, NULL, &peer);
  else
    http_front_accept(r, fd, (const struct sockaddr *)&address, address_n, &peer);
}

// Waits for the descriptor. With a byte or two there it would be readable at once, again and again: then the timer has another look.
static void wait_for_more(struct pending *p, bool some)
{
  nsec now = p->l->r->now, again = nsec_add(now, SNIFF_AGAIN_MS * NSEC_PER_MS);
  if (p->give_up <= now || !timer_set(p->l->r, &p->timer, some && again < p->give_up ? again : p->give_up)) {
    pending_drop(p);
    return;
  }
  io_events(p->io, some ? IO_HANGUP : IO_READ);
}

static void look(struct pending *p, bool left)
{
  char first[GRPC_SNIFF_MOST];
  ssize_t n = recv(p->fd, first, sizeof first, MSG_PEEK);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
    wait_for_more(p, false);
    return;
  }
  if (n <= 0) {
    pending_drop(p);
    return;
  }
  enum grpc_sniff is = grpc_sniff((struct str){first, (size_t)n});
  if (first[0] == TLS_FIRST_BYTE && p->l->r->tls)
    hand_over(p, SPEAKS_TLS);
  else if (is != GRPC_SNIFF_MORE && is != GRPC_SNIFF_NEITHER)
    hand_over(p, is == GRPC_SNIFF_HTTP2 ? SPEAKS_HTTP2 : SPEAKS_HTTP1);
  else if (is == GRPC_SNIFF_NEITHER)
    pending_refuse(p);
  else if (left)
    pending_drop(p);
  else
    wait_for_more(p, true);
}

static void on_pending(void *ctx, int events)
{
  look(ctx, events & IO_HANGUP);
}

static void on_pending_timer(struct timer *t)
{
  look(CONTAINER_OF(t, struct pending, timer), false);
}

// --- accepting -----------------------------------------------------------------------------------------------------------------------------

// At most one line a second.
static void warn(struct listener *l, const char *why)
{
  nsec now = clock_mono();
  if (l->warned && now - l->warned < NSEC_PER_S)
    return;
  l->warned = now;
  log_event(l->r->log, LOG_WARN, "connections.wait", LF_C("reason", why));
}

// The limit is the whole gateway's. Other reactors' counts may be a moment old; that is near enough.
static bool room(const struct listener *l)
{
  int64_t open = 0;
  for (int i = 0; i < l->r->count; i++)
    open += atomic_load_explicit(&l->r->all[i]->metrics->value[METRIC_connections], memory_order_relaxed);
  return open < l->r->config->max_connections;
}

static void welcome(struct listener *l, int fd, const struct sockaddr_storage *peer, socklen_t peer_n)
{
  struct pending *p = calloc(1, sizeof *p);
  if (!p) {
    warn(l, strerror(ENOMEM));
    close(fd);
    return;
  }
  *p = (struct pending){.l = l, .fd = fd, .timer.fire = on_pending_timer, .peer = *peer, .peer_n = peer_n};
  p->arrived = l->r->now;
  p->give_up = nsec_add(l->r->now, nsec_from_s(l->r->config->header_timeout_s));
  list_append(&l->pending, &p->link);
  metric_add(l->r->metrics, METRIC_connections, 1);
  socket_tune(fd);
  p->io = io_open(l->r, fd, 0, on_pending, p);
  if (p->io)
    look(p, false); // most have said something by now
  else
    pending_drop(p);
}

static void on_resume(struct timer *t)
{
  io_events(CONTAINER_OF(t, struct listener, resume)->io, IO_READ);
}

// Connections wait in the kernel's queue, and the listening socket stays readable all that time: leave it alone for a moment.
static void pause_accepting(struct listener *l, const char *why)
{
  warn(l, why);
  if (timer_set(l->r, &l->resume, nsec_add(clock_mono(), PAUSE_MS * NSEC_PER_MS)))
    io_events(l->io, 0);
}

static void on_accept(void *ctx, int events)
{
  struct listener *l = ctx;
  (void)events;
  for (int i = 0; i < BATCH; i++) {
    if (!room(l)) {
      pause_accepting(l, "max_connections is reached");
      return;
    }
    struct sockaddr_storage peer = {0};
    socklen_t n = sizeof peer;
    int fd = accept4(l->fd, (struct sockaddr *)&peer, &n, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
      welcome(l, fd, &peer, n);
      continue;
    }
    if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
      pause_accepting(l, strerror(errno));
    if (errno == ECONNABORTED || errno == EINTR)
      continue;
    return; // EAGAIN: none left
  }
}

// --- binding -------------------------------------------------------------------------------------------------------------------------------

static bool fail(struct err *e, const char *where, const char *what)
{
  return err_set(e, CODE_UNAVAILABLE, REASON_INTERNAL, "can't listen on %s: %s: %s", where, what, strerror(errno));
}

// Opens the listening socket for `bound`. With SO_REUSEPORT a second gateway would share the port unnoticed, so the first try is without.
static int open_tcp(const struct sockaddr *addr, socklen_t n, bool shared)
{
  int fd = socket(addr->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  const int on = 1;
  if (fd < 0)
    return -1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (shared)
    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
  if (bind(fd, addr, n) == 0 && (!shared || listen(fd, SOMAXCONN) == 0))
    return fd;
  int error = errno;
  close(fd);
  errno = error;
  return -1;
}

static bool set_bound(struct listener *l)
{
  l->bound_n = sizeof l->bound;
  if (getsockname(l->fd, (struct sockaddr *)&l->bound, &l->bound_n))
    return false;
  char host[NI_MAXHOST], port[NI_MAXSERV];
  if (getnameinfo((struct sockaddr *)&l->bound, l->bound_n, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV))
    return false;
  snprintf(l->address, sizeof l->address, l->bound.ss_family == AF_INET6 ? "[%.200s]:%s" : "%.200s:%s", host, port);
  return true;
}

// "HOST:PORT" or "[HOST]:PORT", resolved. Host "" is every address.
static struct addrinfo *resolve(const char *where, struct err *e)
{
  const char *colon = strrchr(where, ':');
  size_t n = colon ? (size_t)(colon - where) : 0;
  char host[256];
  if (!colon || !colon[1] || n >= sizeof host) {
    err_set(e, CODE_INVALID_ARGUMENT, REASON_INVALID_REQUEST, "listen: \"%.200s\" is neither HOST:PORT nor unix:PATH", where);
    return NULL;
  }
  bool brackets = n >= 2 && where[0] == '[' && where[n - 1] == ']';
  snprintf(host, sizeof host, "%.*s", (int)(brackets ? n - 2 : n), brackets ? where + 1 : where);
  const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
  struct addrinfo *found = NULL;
  int rc = getaddrinfo(host[0] ? host : NULL, colon + 1, &hints, &found);
  if (!rc)
    return found;
  err_set(e, CODE_INVALID_ARGUMENT, REASON_INVALID_REQUEST, "listen: \"%.200s\": %s", where, gai_strerror(rc));
  return NULL;
}

static bool bind_tcp(struct listener *l, const char *where, struct err *e)
{
  struct addrinfo *to = resolve(where, e);
  if (!to)
    return false;
  int probe = open_tcp(to->ai_addr, to->ai_addrlen, false);
  if (probe >= 0) {
    close(probe);
    l->fd = open_tcp(to->ai_addr, to->ai_addrlen, true);
  }
  freeaddrinfo(to);
  return (l->fd >= 0 && set_bound(l)) || fail(e, where, "bind");
}

// True when nobody listens on the socket file (any more), which is then removed, or there is none.
static bool clear_path(const struct sockaddr_un *addr)
{
  struct stat st;
  if (lstat(addr->sun_path, &st))
    return errno == ENOENT;
  if (!S_ISSOCK(st.st_mode)) {
    errno = EEXIST;
    return false;
  }
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return false;
  bool stale = connect(fd, (const struct sockaddr *)addr, sizeof *addr) && errno == ECONNREFUSED;
  close(fd);
  if (stale)
    return unlink(addr->sun_path) == 0;
  errno = EADDRINUSE;
  return false;
}

static bool bind_unix(struct listener *l, const char *where, struct err *e)
{
  const char *path = where + strlen("unix:");
  struct sockaddr_un addr = {.sun_family = AF_UNIX};
  if (!path[0] || strlen(path) >= sizeof addr.sun_path)
    return err_set(e, CODE_INVALID_ARGUMENT, REASON_INVALID_REQUEST, "listen: a unix socket's path has 1 to %zu bytes", sizeof addr.sun_path - 1);
  snprintf(addr.sun_path, sizeof addr.sun_path, "%s", path);
  if (!clear_path(&addr))
    return fail(e, where, "bind");
  l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (l->fd < 0 || bind(l->fd, (const struct sockaddr *)&addr, sizeof addr))
    return fail(e, where, "bind");
  snprintf(l->address, sizeof l->address, "unix:%s", path);
  l->owns_path = true;
  return listen(l->fd, SOMAXCONN) == 0 || fail(e, where, "listen");
}

// The others take what reactor 0 has.
static bool join(struct listener *l, const struct listener *first, struct err *e)
{
  memcpy(l->address, first->address, sizeof l->address);
  // A dup shares the queue of a unix socket: whoever wakes first takes the connection, the others find none.
  l->fd = first->bound_n ? open_tcp((const struct sockaddr *)&first->bound, first->bound_n, true) : fcntl(first->fd, F_DUPFD_CLOEXEC, 0);
  return l->fd >= 0 || fail(e, l->address, "bind");
}

bool listener_open(struct reactor *r, const char *where, struct err *e)
{
  struct listener *l = calloc(1, sizeof *l);
  if (!l)
    return err_nomem(e);
  l->r = r;
  l->fd = -1;
  l->resume.fire = on_resume;
  list_init(&l->pending);
  r->listener = l;
  bool ok;
  if (r->index > 0)
    ok = join(l, r->all[0]->listener, e);
  else if (str_starts(str_c(where), STR("unix:")))
    ok = bind_unix(l, where, e);
  else
    ok = bind_tcp(l, where, e);
  if (ok) {
    l->io = io_open(r, l->fd, IO_READ, on_accept, l);
    ok = l->io || err_nomem(e);
  }
  if (!ok)
    listener_free(r);
  return ok;
}

const char *listener_address(const struct reactor *r)
{
  return r->listener->address;
}

bool listener_is_local(const struct reactor *r)
{
  struct peer here;
  peer_init(&here, (const struct sockaddr *)&r->listener->bound); // zeroed for a unix socket
  return here.local;
}

void listener_stop(struct reactor *r)
{
  struct listener *l = r->listener;
  if (!l || l->fd < 0)
    return;
  timer_unset(r, &l->resume);
  io_close(l->io);
  l->io = NULL;
  close(l->fd);
  l->fd = -1;
  LIST_EACH (node, &l->pending)
    pending_drop(CONTAINER_OF(node, struct pending, link));
}

void listener_free(struct reactor *r)
{
  struct listener *l = r->listener;
  if (!l)
    return;
  listener_stop(r);
  if (l->owns_path)
    unlink(l->address + strlen("unix:"));
  free(l);
  r->listener = NULL;
}
