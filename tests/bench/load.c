// SPDX-License-Identifier: Apache-2.0
// A load generator for Step calls. Unlike h2load and wrk it gives each caller a session of its own, which calls on one session being run one at a
// time makes necessary, and it looks at each reply: HTTP status 200 or grpc-status 0, and a whole message.
//
// Callers work in a closed loop: each sends its next call when its last is answered. A connection has one caller over HTTP/1.1, and as many as it has
// streams over gRPC. One thread, one epoll; a turn costs a connection one recv and one send.
//
// The processor time of other processes (--watch) is read at both ends of the measured time, so that it is of the very calls that are counted.
#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "histogram.h"

enum {
  READ_SIZE = 256 << 10,
  WRITE_SIZE = 64 << 10,
  HEAD_MAX = 8192,
  MAX_WATCHED = 64,
  EVENTS = 256,
  GRPC_PREFIX = 5,
  CONNECTION_WINDOW = 64 << 20,
  STREAM_WINDOW = 4 << 20,
  DRAIN_S = 5, // for the calls that run at the end
};

typedef uint64_t nsec;
#define NSEC_PER_S 1000000000ULL

struct bytes {
  char *p;
  size_t n;
};

// One that sends a call, waits for the reply and sends the next.
struct caller {
  struct conn *conn;
  struct bytes *requests; // HTTP: all of it; gRPC: the message with its prefix. One for each of its sessions, which take turns
  int next;
  struct bytes request; // that which runs
  nsec sent;
  bool waiting;
  // of the reply
  int status;                  // HTTP's
  bool grpc_ok;                // grpc-status is 0
  size_t got;                  // bytes of the body
  uint8_t prefix[GRPC_PREFIX]; // its first bytes
  char message[128];           // grpc-message
  char body[128];              // its beginning, behind the prefix
  size_t request_at;           // gRPC: how much of the request nghttp2 has
};

struct conn {
  struct load *load;
  int fd;
  bool dead, wants_write;
  struct caller *callers;
  char *out; // what the socket did not take
  size_t out_n, out_cap;
  nghttp2_session *h2;
  // HTTP/1.1
  char head[HEAD_MAX];
  size_t head_n;
  bool in_body;
  size_t body_left;
};

struct watched {
  long pid;
  nsec before, after;
};

enum mode { MODE_WORKER, MODE_REST, MODE_GRPC };
enum phase { WARMING_UP, MEASURING, DRAINING };

struct load {
  enum mode mode;
  const char *host_port, *action, *sessions_file;
  const char *path; // gRPC: another method than Step. NULL: Step. With it, sessions_file has the callers' messages.
  int connections, streams, rotate;
  bool crossing;           // with `environment`
  const char *environment; // gRPC: its sessions are made over the connections that they are used by; or, when crossing, over those of another reactor
  double seconds, warmup;
  struct watched watched[MAX_WATCHED];
  int watched_n;

  struct conn *conns;
  int alive, waiting;
  int epoll;
  nghttp2_session_callbacks *callbacks;
  enum phase phase;
  nsec now, began, ended;
  uint64_t errors, body_bytes;
  char first_error[256];
  struct histogram took; // of all calls that count
  char in[READ_SIZE], out[WRITE_SIZE];
};

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *fmt, ...)
{
  va_list ap;
  va_start(ap, fmt);
  fprintf(stderr, "load: ");
  vfprintf(stderr, fmt, ap);
  fputc('\n', stderr);
  va_end(ap);
  exit(1);
}

static void *must(void *p)
{
  if (!p)
    die("out of memory");
  return p;
}

static nsec now(void)
{
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (nsec)t.tv_sec * NSEC_PER_S + (nsec)t.tv_nsec;
}

// --- figures -------------------------------------------------------------------------------------------------------------------------------

// A call that failed; the first one's reason is told.
__attribute__((format(printf, 2, 3))) static void fail(struct load *l, const char *fmt, ...)
{
  l->errors++;
  if (l->first_error[0])
    return;
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(l->first_error, sizeof l->first_error, fmt, ap);
  va_end(ap);
}

static void count_call(struct load *l, const struct caller *c)
{
  if (l->phase != MEASURING)
    return;
  histogram_add(&l->took, l->now - c->sent);
  l->body_bytes += c->got;
}

// The processor time of all threads, which are there now, of a process.
static nsec cpu_time(long pid)
{
  char path[300];
  snprintf(path, sizeof path, "/proc/%ld/task", pid);
  DIR *dir = opendir(path);
  nsec sum = 0;
  struct dirent *entry;
  while (dir && (entry = readdir(dir))) {
    if (!isdigit((unsigned char)entry->d_name[0]))
      continue;
    snprintf(path, sizeof path, "/proc/%ld/task/%s/schedstat", pid, entry->d_name);
    FILE *f = fopen(path, "r");
    uint64_t ns = 0;
    if (f && fscanf(f, "%" SCNu64, &ns) == 1)
      sum += ns;
    if (f)
      fclose(f);
  }
  if (dir)
    closedir(dir);
  return sum;
}

// --- the socket ----------------------------------------------------------------------------------------------------------------------------

static void watch(struct conn *c, bool write)
{
  if (c->wants_write == write)
    return;
  c->wants_write = write;
  struct epoll_event ev = {.events = EPOLLIN | (write ? EPOLLOUT : 0U), .data.ptr = c};
  epoll_ctl(c->load->epoll, EPOLL_CTL_MOD, c->fd, &ev);
}

static void bury(struct conn *c, const char *why)
{
  struct load *l = c->load;
  if (c->dead)
    return;
  c->dead = true;
  l->alive--;
  for (int i = 0; i < l->streams; i++) {
    if (!c->callers[i].waiting)
      continue;
    c->callers[i].waiting = false;
    l->waiting--;
    fail(l, "%s", why);
  }
  epoll_ctl(l->epoll, EPOLL_CTL_DEL, c->fd, NULL);
}

static void keep(struct conn *c, const char *p, size_t n)
{
  if (c->out_n + n > c->out_cap) {
    c->out_cap = (c->out_n + n) * 2;
    c->out = must(realloc(c->out, c->out_cap));
  }
  memcpy(c->out + c->out_n, p, n);
  c->out_n += n;
  watch(c, true);
}

static void put(struct conn *c, const char *p, size_t n)
{
  ssize_t sent = 0;
  if (!n || c->dead)
    return;
  if (!c->out_n) {
    sent = send(c->fd, p, n, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) {
      bury(c, strerror(errno));
      return;
    }
    sent = sent < 0 ? 0 : sent;
  }
  if ((size_t)sent < n)
    keep(c, p + sent, n - (size_t)sent);
}

static void flush(struct conn *c)
{
  ssize_t sent = send(c->fd, c->out, c->out_n, MSG_NOSIGNAL);
  if (sent < 0 && errno != EAGAIN)
    bury(c, strerror(errno));
  if (sent <= 0)
    return;
  c->out_n -= (size_t)sent;
  memmove(c->out, c->out + sent, c->out_n);
  watch(c, c->out_n > 0);
}

// --- HTTP/1.1 ------------------------------------------------------------------------------------------------------------------------------

static void mark_sent(struct caller *c)
{
  c->status = 0;
  c->grpc_ok = false;
  c->got = c->request_at = 0;
  c->request = c->requests[c->next];
  c->next = c->next + 1 < c->conn->load->rotate ? c->next + 1 : 0;
  c->sent = c->conn->load->now;
  c->waiting = true;
  c->conn->load->waiting++;
}

static void http_send(struct caller *c)
{
  mark_sent(c);
  put(c->conn, c->request.p, c->request.n);
}

static void http_answered(struct conn *c)
{
  struct load *l = c->load;
  struct caller *caller = &c->callers[0];
  caller->waiting = false;
  l->waiting--;
  c->head_n = 0;
  c->in_body = false;
  if (caller->status == 200 && caller->got)
    count_call(l, caller);
  else
    fail(l, "HTTP status %d with %zu bytes", caller->status, caller->got);
  if (l->phase != DRAINING)
    http_send(caller);
}

// The status and the body's length. False: it is no reply that we take.
static bool read_head(struct conn *c)
{
  const char *length = NULL;
  if (sscanf(c->head, "HTTP/1.1 %d", &c->callers[0].status) != 1)
    return false;
  for (char *line = strstr(c->head, "\r\n"); line; line = strstr(line + 2, "\r\n"))
    if (strncasecmp(line + 2, "content-length:", 15) == 0)
      length = line + 2 + 15;
  if (!length)
    return false;
  c->body_left = strtoul(length, NULL, 10);
  c->callers[0].got = c->body_left;
  c->in_body = true;
  return true;
}

// Takes the head's bytes off the front of `p`; what follows it is left there. False: it is not there whole.
static bool take_head(struct conn *c, char **p, size_t *n)
{
  size_t before = c->head_n, room = HEAD_MAX - 1 - before, add = *n < room ? *n : room;
  memcpy(c->head + before, *p, add);
  c->head[before + add] = '\0';
  char *end = strstr(c->head, "\r\n\r\n");
  if (!end) {
    c->head_n += add;
    *p += add;
    *n -= add;
    if (c->head_n == HEAD_MAX - 1)
      bury(c, "the reply's head is too long");
    return false;
  }
  size_t used = (size_t)(end + 4 - c->head) - before;
  end[2] = '\0';
  *p += used;
  *n -= used;
  return true;
}

static void http_read(struct conn *c, char *p, size_t n)
{
  while (n && !c->dead) {
    if (!c->callers[0].waiting) {
      bury(c, "bytes that nobody asked for");
      return;
    }
    if (!c->in_body) {
      if (!take_head(c, &p, &n))
        continue;
      if (!read_head(c)) {
        bury(c, "a reply without HTTP/1.1 or Content-Length");
        return;
      }
    }
    size_t body = n < c->body_left ? n : c->body_left;
    p += body;
    n -= body;
    c->body_left -= body;
    if (!c->body_left)
      http_answered(c);
  }
}

static struct bytes http_request(const struct load *l, const char *session)
{
  char path[512] = "/step";
  if (l->mode == MODE_REST)
    snprintf(path, sizeof path, "/v1/%s/step", session);
  char *p;
  int n = asprintf(&p, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n{\"action\":%s}", path,
                   l->host_port, strlen(l->action) + sizeof "{\"action\":}" - 1, l->action);
  if (n < 0)
    die("out of memory");
  return (struct bytes){p, (size_t)n};
}

// --- gRPC ----------------------------------------------------------------------------------------------------------------------------------

static ssize_t on_request_bytes(nghttp2_session *h2, int32_t id, uint8_t *to, size_t room, uint32_t *flags, nghttp2_data_source *source, void *ctx)
{
  (void)h2, (void)id, (void)ctx;
  struct caller *c = source->ptr;
  size_t n = c->request.n - c->request_at;
  n = n < room ? n : room;
  memcpy(to, c->request.p + c->request_at, n);
  c->request_at += n;
  if (c->request_at == c->request.n)
    *flags |= NGHTTP2_DATA_FLAG_EOF;
  return (ssize_t)n;
}

#define NV(name, value)                                                                           \
  {                                                                                               \
    (uint8_t *)(uintptr_t)(name), (uint8_t *)(uintptr_t)(value), sizeof(name) - 1, strlen(value), \
        NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE                              \
  }

static void grpc_send(struct caller *c)
{
  struct load *l = c->conn->load;
  const nghttp2_nv nv[] = {
      NV(":method", "POST"),          NV(":scheme", "http"), NV(":path", l->path ? l->path : "/envgate.v1.SessionService/Step"),
      NV(":authority", l->host_port), NV("te", "trailers"),  NV("content-type", "application/grpc"),
  };
  nghttp2_data_provider from = {.source.ptr = c, .read_callback = on_request_bytes};
  mark_sent(c);
  if (nghttp2_submit_request(c->conn->h2, NULL, nv, sizeof nv / sizeof *nv, &from, c) < 0)
    bury(c->conn, "no stream is left");
}

static int on_header(nghttp2_session *h2, const nghttp2_frame *frame, const uint8_t *name, size_t name_n, const uint8_t *value, size_t value_n,
                     uint8_t flags, void *ctx)
{
  (void)flags, (void)ctx;
  struct caller *c = nghttp2_session_get_stream_user_data(h2, frame->hd.stream_id);
  if (!c)
    return 0;
  if (name_n == 7 && memcmp(name, ":status", 7) == 0)
    c->status = value_n == 3 && memcmp(value, "200", 3) == 0 ? 200 : 1;
  else if (name_n == 11 && memcmp(name, "grpc-status", 11) == 0)
    c->grpc_ok = value_n == 1 && value[0] == '0';
  else if (name_n == 12 && memcmp(name, "grpc-message", 12) == 0)
    snprintf(c->message, sizeof c->message, "%.*s", (int)value_n, (const char *)value);
  return 0;
}

static int on_data(nghttp2_session *h2, uint8_t flags, int32_t id, const uint8_t *p, size_t n, void *ctx)
{
  (void)flags, (void)ctx;
  struct caller *c = nghttp2_session_get_stream_user_data(h2, id);
  for (size_t i = 0; c && i < n && c->got + i < GRPC_PREFIX; i++)
    c->prefix[c->got + i] = p[i];
  if (c && c->got <= GRPC_PREFIX && c->got + n > GRPC_PREFIX) {
    size_t skip = GRPC_PREFIX - c->got, keep_n = n - skip < sizeof c->body ? n - skip : sizeof c->body;
    memcpy(c->body, p + skip, keep_n);
  }
  if (c)
    c->got += n;
  return 0;
}

// One whole message, and no more.
static bool whole_message(const struct caller *c)
{
  const uint8_t *p = c->prefix;
  size_t n = (size_t)p[1] << 24 | (size_t)p[2] << 16 | (size_t)p[3] << 8 | p[4];
  return c->got > GRPC_PREFIX && p[0] == 0 && c->got == GRPC_PREFIX + n;
}

static int on_stream_close(nghttp2_session *h2, int32_t id, uint32_t error, void *ctx)
{
  struct conn *conn = ctx;
  struct load *l = conn->load;
  struct caller *c = nghttp2_session_get_stream_user_data(h2, id);
  if (!c || !c->waiting)
    return 0;
  c->waiting = false;
  l->waiting--;
  if (!error && c->status == 200 && c->grpc_ok && whole_message(c))
    count_call(l, c);
  else
    fail(l, "gRPC: stream error %u, HTTP status %d, grpc-status %s 0, %zu bytes: %s", error, c->status, c->grpc_ok ? "is" : "is not", c->got,
         c->message);
  if (l->phase != DRAINING)
    grpc_send(c);
  return 0;
}

static void grpc_write(struct conn *c)
{
  size_t n = 0;
  while (!c->dead) {
    const uint8_t *p;
    ssize_t more = nghttp2_session_mem_send(c->h2, &p);
    if (more < 0)
      bury(c, nghttp2_strerror((int)more));
    if (more <= 0)
      break;
    if (n + (size_t)more > WRITE_SIZE) {
      put(c, c->load->out, n);
      n = 0;
    }
    memcpy(c->load->out + n, p, (size_t)more); // a frame has at most 16 KiB
    n += (size_t)more;
  }
  put(c, c->load->out, n);
}

static void grpc_open(struct conn *c)
{
  struct load *l = c->load;
  const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_ENABLE_PUSH, 0}, {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, STREAM_WINDOW}};
  if (nghttp2_session_client_new(&c->h2, l->callbacks, c) || nghttp2_submit_settings(c->h2, NGHTTP2_FLAG_NONE, settings, 2) ||
      nghttp2_session_set_local_window_size(c->h2, NGHTTP2_FLAG_NONE, 0, CONNECTION_WINDOW))
    die("out of memory");
}

static void grpc_setup(struct load *l)
{
  if (nghttp2_session_callbacks_new(&l->callbacks))
    die("out of memory");
  nghttp2_session_callbacks_set_on_header_callback(l->callbacks, on_header);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(l->callbacks, on_data);
  nghttp2_session_callbacks_set_on_stream_close_callback(l->callbacks, on_stream_close);
}

static void put_varint(char **p, size_t v)
{
  for (; v >= 0x80; v >>= 7)
    *(*p)++ = (char)(v | 0x80);
  *(*p)++ = (char)v;
}

static void put_field(char **p, int tag, const char *bytes, size_t n)
{
  *(*p)++ = (char)tag;
  put_varint(p, n);
  memcpy(*p, bytes, n);
  *p += n;
}

// StepRequest {session = 1, action = 2 {json = 1}}, with gRPC's prefix before it.
static struct bytes grpc_request(const struct load *l, const char *session)
{
  size_t session_n = strlen(session), action_n = strlen(l->action);
  char *payload = must(malloc(action_n + 16)), *p = payload;
  put_field(&p, 0x0a, l->action, action_n);
  size_t payload_n = (size_t)(p - payload);
  char *request = must(malloc(GRPC_PREFIX + session_n + payload_n + 32));
  p = request + GRPC_PREFIX;
  put_field(&p, 0x0a, session, session_n);
  put_field(&p, 0x12, payload, payload_n);
  free(payload);
  size_t n = (size_t)(p - request) - GRPC_PREFIX;
  request[0] = 0;
  for (int i = 0; i < 4; i++)
    request[1 + i] = (char)(n >> (24 - 8 * i));
  return (struct bytes){request, n + GRPC_PREFIX};
}

// The next message of the file, which has them one after the other, each with gRPC's prefix.
static struct bytes next_message(FILE *file)
{
  uint8_t prefix[GRPC_PREFIX];
  if (fread(prefix, 1, GRPC_PREFIX, file) != GRPC_PREFIX)
    die("there are fewer messages than callers");
  size_t n = (size_t)prefix[1] << 24 | (size_t)prefix[2] << 16 | (size_t)prefix[3] << 8 | prefix[4];
  char *request = must(malloc(GRPC_PREFIX + n));
  memcpy(request, prefix, GRPC_PREFIX);
  if (fread(request + GRPC_PREFIX, 1, n, file) != n)
    die("a message is not whole");
  return (struct bytes){request, GRPC_PREFIX + n};
}

// --- the run -------------------------------------------------------------------------------------------------------------------------------

static void on_readable(struct conn *c)
{
  struct load *l = c->load;
  ssize_t n = recv(c->fd, l->in, READ_SIZE, 0);
  if (n < 0 && errno == EAGAIN)
    return;
  if (n <= 0) {
    bury(c, n ? strerror(errno) : "the connection was closed");
    return;
  }
  l->now = now();
  if (!c->h2) {
    http_read(c, l->in, (size_t)n);
    return;
  }
  ssize_t taken = nghttp2_session_mem_recv(c->h2, (const uint8_t *)l->in, (size_t)n);
  if (taken < 0)
    bury(c, nghttp2_strerror((int)taken));
  else
    grpc_write(c);
}

static int dial(const char *host_port)
{
  char host[64];
  const char *colon = strrchr(host_port, ':');
  if (!colon || (size_t)(colon - host_port) >= sizeof host)
    die("give the target as ADDRESS:PORT");
  snprintf(host, sizeof host, "%.*s", (int)(colon - host_port), host_port);
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)strtoul(colon + 1, NULL, 10))};
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
  if (fd < 0 || inet_pton(AF_INET, host, &to.sin_addr) != 1 || connect(fd, (struct sockaddr *)&to, sizeof to))
    die("%s: %s", host_port, strerror(errno));
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  return fd;
}

// The next session of the file, which has one name a line.
static const char *next_session(FILE *file, char *name, size_t size)
{
  if (!file)
    return "";
  if (!fgets(name, (int)size, file))
    die("there are fewer sessions than callers");
  name[strcspn(name, "\n")] = '\0';
  return name;
}

static struct bytes next_request(const struct load *l, FILE *file)
{
  char name[256];
  if (l->path)
    return next_message(file);
  const char *session = next_session(file, name, sizeof name);
  return l->mode == MODE_GRPC ? grpc_request(l, session) : http_request(l, session);
}

static void connect_all(struct load *l)
{
  FILE *sessions = l->sessions_file ? fopen(l->sessions_file, "r") : NULL;
  if (l->sessions_file && !sessions)
    die("%s: %s", l->sessions_file, strerror(errno));
  l->conns = must(calloc((size_t)l->connections, sizeof *l->conns));
  for (int i = 0; i < l->connections; i++) {
    struct conn *c = &l->conns[i];
    c->load = l;
    c->fd = dial(l->host_port);
    c->callers = must(calloc((size_t)l->streams, sizeof *c->callers));
    l->alive++;
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(l->epoll, EPOLL_CTL_ADD, c->fd, &ev))
      die("epoll: %s", strerror(errno));
    if (l->mode == MODE_GRPC)
      grpc_open(c);
    for (int k = 0; k < l->streams; k++) {
      struct caller *caller = &c->callers[k];
      caller->conn = c;
      caller->requests = must(calloc((size_t)l->rotate, sizeof *caller->requests));
      for (int i_session = 0; sessions && i_session < l->rotate; i_session++)
        caller->requests[i_session] = next_request(l, sessions);
      if (!sessions && l->mode == MODE_WORKER)
        caller->requests[0] = next_request(l, NULL);
    }
  }
  if (sessions)
    fclose(sessions);
}

static void send_first(struct load *l)
{
  for (int i = 0; i < l->connections; i++) {
    struct conn *c = &l->conns[i];
    l->now = now();
    for (int k = 0; k < l->streams; k++)
      if (c->h2)
        grpc_send(&c->callers[k]);
      else
        http_send(&c->callers[k]);
    if (c->h2)
      grpc_write(c);
  }
}

static void hang_up(struct load *l)
{
  for (int i = 0; i < l->connections; i++) {
    struct conn *c = &l->conns[i];
    for (int k = 0; k < l->streams; k++) {
      for (int n = 0; n < l->rotate; n++)
        free(c->callers[k].requests[n].p);
      free(c->callers[k].requests);
    }
    nghttp2_session_del(c->h2);
    close(c->fd);
    free(c->callers);
    free(c->out);
  }
  nghttp2_session_callbacks_del(l->callbacks);
  close(l->epoll);
  free(l->conns);
}

static void turn(struct load *l, nsec until)
{
  struct epoll_event events[EVENTS];
  nsec t = now();
  int ms = until <= t ? 0 : (int)((until - t) / 1000000) + 1;
  int n = epoll_wait(l->epoll, events, EVENTS, ms);
  for (int i = 0; i < n; i++) {
    struct conn *c = events[i].data.ptr;
    if (!c->dead && events[i].events & EPOLLOUT)
      flush(c);
    if (!c->dead && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
      on_readable(c);
  }
}

static void run_until(struct load *l, nsec until)
{
  while (l->alive && now() < until && (l->phase != DRAINING || l->waiting))
    turn(l, until);
}

static nsec after(nsec t, double seconds)
{
  return t + (nsec)(seconds * 1e9);
}

// --- sessions over the connections that use them -------------------------------------------------------------------------------------------

// CreateSessionRequest {environment = 1}, with gRPC's prefix.
static struct bytes create_request(const char *environment)
{
  size_t n = strlen(environment);
  char *request = must(malloc(GRPC_PREFIX + n + 16)), *p = request + GRPC_PREFIX;
  put_field(&p, 0x0a, environment, n);
  memset(request, 0, GRPC_PREFIX);
  request[GRPC_PREFIX - 1] = (char)(p - request - GRPC_PREFIX);
  return (struct bytes){request, (size_t)(p - request)};
}

// The name of a new session, made over a connection. The reply begins with it: Session {name = 1}.
static void create_over(struct conn *c, char name[64])
{
  struct load *l = c->load;
  struct caller *caller = &c->callers[0];
  l->path = "/envgate.v1.SessionService/CreateSession";
  l->phase = DRAINING; // no call follows
  caller->requests[0] = create_request(l->environment);
  caller->next = 0;
  grpc_send(caller);
  grpc_write(c);
  run_until(l, after(now(), DRAIN_S));
  free(caller->requests[0].p);
  if (l->errors || caller->body[0] != 0x0a || (unsigned char)caller->body[1] >= 64)
    die("CreateSession: %s", l->errors ? l->first_error : "no session's name came");
  snprintf(name, 64, "%.*s", (unsigned char)caller->body[1], caller->body + 2);
  caller->next = 0;
  l->path = NULL;
  l->phase = WARMING_UP;
}

// The connection over which the sessions of the i-th are made: itself, or when crossing one of another reactor.
static struct conn *place_of(struct load *l, int i, char (*first)[64])
{
  for (int k = 1; l->crossing && k < l->connections; k++) {
    int other = (i + k) % l->connections;
    if (strncmp(first[i], first[other], sizeof "sessions/00" - 1) != 0) // the id's first two characters name the reactor
      return &l->conns[other];
  }
  if (l->crossing)
    die("all connections are one reactor's");
  return &l->conns[i];
}

static void place_sessions(struct load *l)
{
  int each = l->streams * l->rotate;
  char(*first)[64] = must(calloc((size_t)l->connections, sizeof *first));
  struct bytes *made = must(calloc((size_t)(l->connections * each), sizeof *made));
  for (int i = 0; i < l->connections; i++)
    create_over(&l->conns[i], first[i]);
  for (int i = 0; i < l->connections; i++)
    for (int k = 0; k < each; k++) {
      char name[64];
      create_over(place_of(l, i, first), name);
      made[i * each + k] = grpc_request(l, name);
    }
  for (int i = 0; i < l->connections * each; i++)
    l->conns[i / each].callers[i % each / l->rotate].requests[i % l->rotate] = made[i];
  free(made);
  free(first);
}

// --- the whole -----------------------------------------------------------------------------------------------------------------------------

static void run(struct load *l)
{
  if (l->environment)
    place_sessions(l);
  send_first(l);
  run_until(l, after(now(), l->warmup));
  for (int i = 0; i < l->watched_n; i++)
    l->watched[i].before = cpu_time(l->watched[i].pid);
  l->phase = MEASURING;
  l->began = now();
  run_until(l, after(l->began, l->seconds));
  l->ended = now();
  for (int i = 0; i < l->watched_n; i++)
    l->watched[i].after = cpu_time(l->watched[i].pid);
  l->phase = DRAINING;
  run_until(l, after(now(), DRAIN_S));
  for (int i = 0; i < l->waiting; i++)
    fail(l, "no reply %d s after the end", DRAIN_S);
}

static void print_quoted(const char *s)
{
  putchar('"');
  for (; *s; s++)
    if (*s == '"' || *s == '\\')
      printf("\\%c", *s);
    else if ((unsigned char)*s >= 0x20 && (unsigned char)*s < 0x7F)
      putchar(*s);
  putchar('"');
}

static void report(const struct load *l)
{
  double seconds = (double)(l->ended - l->began) / 1e9, calls = l->took.count ? (double)l->took.count : 1;
  printf("{\"calls\":%" PRIu64 ",\"errors\":%" PRIu64 ",\"first_error\":", l->took.count, l->errors);
  print_quoted(l->first_error);
  printf(",\"seconds\":%.6f,\"calls_per_s\":%.1f,\"p50_us\":%.2f,\"p99_us\":%.2f,\"max_us\":%.2f,\"reply_bytes\":%.1f,\"cpu_us\":{", seconds,
         (double)l->took.count / seconds, histogram_percentile_us(&l->took, 0.5), histogram_percentile_us(&l->took, 0.99), (double)l->took.max / 1e3,
         (double)l->body_bytes / calls);
  for (int i = 0; i < l->watched_n; i++)
    printf("%s\"%ld\":%.1f", i ? "," : "", l->watched[i].pid, (double)(l->watched[i].after - l->watched[i].before) / 1e3);
  printf("},\"histogram_us\":[");
  for (unsigned i = 0, n = 0; i < HISTOGRAM_BUCKETS; i++)
    if (l->took.buckets[i])
      printf("%s[%.2f,%" PRIu64 "]", n++ ? "," : "", histogram_us(i), l->took.buckets[i]);
  printf("]}\n");
}

__attribute__((noreturn)) static void usage(void)
{
  fprintf(stderr,
          "usage: load worker|rest|grpc ADDRESS:PORT [--connections N] [--streams N] [--seconds S] [--warmup S] [--action JSON]\n"
          "            [--sessions FILE [--rotate N]] [--path METHOD] [--environment NAME [--crossing]] [--watch PID]…\n"
          "worker: POST /step of a worker; rest: POST /v1/sessions/ID/step; grpc: SessionService/Step,\n"
          "or with --path another method, FILE then having each caller's message with gRPC's prefix; --rotate: each caller has so many sessions,\n"
          "which take turns; --environment: the sessions are made over the connections that use them, or --crossing over another reactor's\n");
  exit(2);
}

static void parse(struct load *l, int argc, char **argv)
{
  static const struct option options[] = {{"connections", 1, NULL, 'c'}, {"streams", 1, NULL, 'm'},  {"seconds", 1, NULL, 's'},
                                          {"warmup", 1, NULL, 'w'},      {"action", 1, NULL, 'a'},   {"sessions", 1, NULL, 'f'},
                                          {"watch", 1, NULL, 'p'},       {"path", 1, NULL, 'P'},     {"rotate", 1, NULL, 'r'},
                                          {"environment", 1, NULL, 'e'}, {"crossing", 0, NULL, 'x'}, {NULL, 0, NULL, 0}};
  static const char *const modes[] = {[MODE_WORKER] = "worker", [MODE_REST] = "rest", [MODE_GRPC] = "grpc"};
  int o;
  while ((o = getopt_long(argc, argv, "", options, NULL)) != -1)
    switch (o) {
    case 'c':
      l->connections = (int)strtol(optarg, NULL, 10);
      break;
    case 'm':
      l->streams = (int)strtol(optarg, NULL, 10);
      break;
    case 's':
      l->seconds = strtod(optarg, NULL);
      break;
    case 'w':
      l->warmup = strtod(optarg, NULL);
      break;
    case 'a':
      l->action = optarg;
      break;
    case 'f':
      l->sessions_file = optarg;
      break;
    case 'P':
      l->path = optarg;
      break;
    case 'r':
      l->rotate = (int)strtol(optarg, NULL, 10);
      break;
    case 'e':
      l->environment = optarg;
      break;
    case 'x':
      l->crossing = true;
      break;
    case 'p':
      if (l->watched_n == MAX_WATCHED)
        usage();
      l->watched[l->watched_n++].pid = strtol(optarg, NULL, 10);
      break;
    default:
      usage();
    }
  if (argc - optind != 2)
    usage();
  int mode = 0;
  while (mode < 3 && strcmp(argv[optind], modes[mode]) != 0)
    mode++;
  l->mode = (enum mode)mode;
  l->host_port = argv[optind + 1];
  if (mode == 3 || l->connections < 1 || l->streams < 1 || (mode != MODE_GRPC && l->streams > 1) ||
      (mode != MODE_WORKER && !l->sessions_file && !l->environment) || l->rotate < 1 || (mode != MODE_GRPC && (l->path || l->environment)))
    usage();
}

int main(int argc, char **argv)
{
  struct load *l = must(calloc(1, sizeof *l));
  l->connections = l->streams = l->rotate = 1;
  l->seconds = 1;
  l->warmup = 0.2;
  l->action = "{\"message\":\"hello\"}";
  parse(l, argc, argv);
  l->epoll = epoll_create1(EPOLL_CLOEXEC);
  if (l->mode == MODE_GRPC)
    grpc_setup(l);
  connect_all(l);
  run(l);
  report(l);
  hang_up(l);
  free(l);
  return 0;
}
