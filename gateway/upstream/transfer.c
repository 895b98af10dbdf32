// SPDX-License-Identifier: Apache-2.0
#include "upstream/transfer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
  MAX_IDLE_CONNECTIONS = 1024,
  // uvicorn closes a connection that was idle for 5 s. libcurl reuses one whose idle time in whole seconds is not over this: less than 4 s.
  MAX_IDLE_S = 3,
  RECEIVE_BUFFER = 32 << 10, // a connection's, while a reply comes
};

// A descriptor that libcurl has us watch, or a kept-alive connection's, which it had us watch for the last request and will for the next. To end
// and renew the watch between them would be six system calls a request.
struct watch {
  struct http_client *client;
  int fd, events; // what is watched
  bool wanted;    // libcurl wants it
  bool lasting;   // a connection's, until libcurl closes it
  struct io *io;
};

// --- libcurl's wishes ------------------------------------------------------------------------------------------------------------------

static void want_turn(struct http_client *c)
{
  turn_end_add(c->r, &c->turn);
}

static struct watch *find_watch(const struct http_client *c, int fd)
{
  return fd >= 0 && fd < c->n_watches ? c->watches[fd] : NULL;
}

static void watch_free(struct watch *w)
{
  if (!w)
    return;
  io_close(w->io);
  w->client->watches[w->fd] = NULL;
  free(w);
}

static void watch_events(struct watch *w, int events)
{
  w->events = events;
  io_events(w->io, events);
}

static struct transfer *transfer_of(CURL *easy)
{
  struct transfer *t = NULL;
  return curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&t) ? NULL : t;
}

static void tell_done(struct http_client *c)
{
  CURLMsg *m;
  int left;
  while ((m = curl_multi_info_read(c->multi, &left))) {
    struct transfer *t = transfer_of(m->easy_handle);
    CURLcode code = m->data.result; // `m` does not outlive the callback
    if (m->msg == CURLMSG_DONE && t && t->done)
      t->done(t, code);
  }
}

static void on_ready(void *ctx, int events)
{
  struct watch *w = ctx;
  struct http_client *c = w->client;
  if (!w->wanted) { // the peer closed an idle connection: libcurl sees that before it uses it
    watch_events(w, 0);
    return;
  }
  int running, mask = (events & IO_READ ? CURL_CSELECT_IN : 0) | (events & IO_WRITE ? CURL_CSELECT_OUT : 0);
  curl_multi_socket_action(c->multi, w->fd, mask, &running); // may free w
  tell_done(c);
}

static bool room_for_watch(struct http_client *c, int fd)
{
  if (fd < c->n_watches)
    return true;
  int n = fd < 32 ? 64 : fd * 2;
  struct watch **more = realloc(c->watches, (size_t)n * sizeof(struct watch *));
  if (!more)
    return false;
  memset(more + c->n_watches, 0, (size_t)(n - c->n_watches) * sizeof(struct watch *));
  c->watches = more;
  c->n_watches = n;
  return true;
}

static bool watch_new(struct http_client *c, int fd, int events)
{
  struct watch *w = room_for_watch(c, fd) ? malloc(sizeof *w) : NULL;
  if (!w)
    return false;
  *w = (struct watch){.client = c, .fd = fd, .events = events, .wanted = true, .io = io_open(c->r, fd, events, on_ready, w)};
  if (!w->io) {
    free(w);
    return false;
  }
  c->watches[fd] = w;
  return true;
}

// libcurl says when it closes an established connection (on_close), but not when it gives up one that it was still making.
static bool lasts(const struct watch *w, CURL *easy)
{
  if (w->lasting)
    return true;
  const struct transfer *t = transfer_of(easy);
  curl_socket_t active = CURL_SOCKET_BAD;
  return t && t->keeps_socket && !curl_easy_getinfo(easy, CURLINFO_ACTIVESOCKET, &active) && active == w->fd;
}

// libcurl is not interested any more.
static void unwant(struct watch *w, CURL *easy)
{
  if (!w)
    return;
  w->lasting = lasts(w, easy);
  w->wanted = false;
  if (!w->lasting)
    watch_free(w);
  else if (w->events != IO_READ)
    watch_events(w, IO_READ);
}

// To answer -1 would make libcurl refuse all transfers for good. Only the one that cannot be watched fails, at the end of the turn.
static void starve(struct http_client *c, CURL *easy)
{
  struct transfer *t = transfer_of(easy);
  if (!t)
    return;
  t->starved = c->starving = true;
  want_turn(c);
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *client, void *socket_ctx)
{
  (void)socket_ctx;
  struct http_client *c = client;
  struct watch *w = find_watch(c, fd);
  if (what == CURL_POLL_REMOVE) {
    unwant(w, easy);
    return 0;
  }
  int events = (what & CURL_POLL_IN ? IO_READ : 0) | (what & CURL_POLL_OUT ? IO_WRITE : 0);
  if (w) {
    w->wanted = true;
    watch_events(w, events);
  } else if (!watch_new(c, fd, events)) {
    starve(c, easy);
  }
  return 0;
}

static int on_timer_wish(CURLM *multi, long ms, void *client)
{
  (void)multi;
  struct http_client *c = client;
  if (ms < 0) {
    timer_unset(c->r, &c->timer);
  } else if (ms == 0 || !timer_set(c->r, &c->timer, nsec_add(clock_mono(), (nsec)ms * NSEC_PER_MS))) {
    c->due = true;
    want_turn(c);
  }
  return 0;
}

static void on_timer(struct timer *t)
{
  struct http_client *c = CONTAINER_OF(t, struct http_client, timer);
  c->due = true;
  want_turn(c);
}

// --- the turn's end --------------------------------------------------------------------------------------------------------------------

static void release(struct transfer *t)
{
  struct http_client *c = t->client;
  list_remove(&t->link);
  if (t->in_multi)
    curl_multi_remove_handle(c->multi, t->easy);
  curl_easy_setopt(t->easy, CURLOPT_ERRORBUFFER, NULL);
  if (c->n_kept < TRANSFER_EASY_KEPT && !t->own_ca)
    c->kept[c->n_kept++] = t->easy;
  else
    curl_easy_cleanup(t->easy);
  t->release(t);
}

static void start(struct transfer *t)
{
  struct http_client *c = t->client;
  list_remove(&t->link);
  list_append(&c->running, &t->link);
  t->in_multi = !curl_multi_add_handle(c->multi, t->easy);
  if (t->in_multi)
    c->due = true;
  else
    t->done(t, CURLE_OUT_OF_MEMORY);
}

static void release_all(struct list *l)
{
  while (!list_empty(l))
    release(CONTAINER_OF(l->next, struct transfer, link));
}

// The first one that starves; NULL if none does. Looked for from the start each time: `done` may change the list.
static struct transfer *find_starved(struct http_client *c)
{
  LIST_EACH (node, &c->running) {
    struct transfer *t = CONTAINER_OF(node, struct transfer, link);
    if (t->starved && t->done)
      return t;
  }
  return NULL;
}

static void fail_starved(struct http_client *c)
{
  struct transfer *t;
  while (c->starving && (t = find_starved(c))) {
    t->starved = false;
    t->done(t, CURLE_OUT_OF_MEMORY);
  }
  c->starving = false;
}

static void on_turn_end(struct turn_end *turn)
{
  struct http_client *c = CONTAINER_OF(turn, struct http_client, turn);
  fail_starved(c);
  release_all(&c->ended);
  while (!list_empty(&c->starting))
    start(CONTAINER_OF(c->starting.next, struct transfer, link));
  if (!c->due)
    return;
  c->due = false;
  int running;
  curl_multi_socket_action(c->multi, CURL_SOCKET_TIMEOUT, 0, &running);
  tell_done(c);
}

// --- for http_client.c and ws_client.c -------------------------------------------------------------------------------------------------

// Of a socket that libcurl closed while it was connecting, without a word, the watch is still there when the next address' socket gets its number,
// and libcurl does not ask again for what it believes it has.
static bool renew_watch(struct watch *w)
{
  io_close(w->io);
  w->io = io_open(w->client->r, w->fd, w->events, on_ready, w);
  w->lasting = false;
  return w->io != NULL;
}

// libcurl 7.88 makes sockets that a spawned worker would inherit; then nobody would notice that their owner is gone.
static curl_socket_t on_open(void *client, curlsocktype purpose, struct curl_sockaddr *a)
{
  (void)purpose;
  int fd = socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
  struct watch *namesake = find_watch(client, fd);
  if (!namesake || renew_watch(namesake))
    return fd;
  watch_free(namesake);
  close(fd);
  return CURL_SOCKET_BAD;
}

static int on_close(void *client, curl_socket_t fd)
{
  watch_free(find_watch(client, fd));
  return close(fd);
}

static CURL *easy_new(struct http_client *c)
{
  CURL *easy = curl_easy_init();
  if (!easy)
    return NULL;
  bool ok = !curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L) && !curl_easy_setopt(easy, CURLOPT_PROXY, "") &&
            !curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https") &&
            !curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1) &&
            !curl_easy_setopt(easy, CURLOPT_MAXAGE_CONN, (long)MAX_IDLE_S) &&
            // A peer that vanished without a word is noticed within two minutes, also while a step runs.
            !curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L) && !curl_easy_setopt(easy, CURLOPT_TCP_KEEPIDLE, 30L) &&
            !curl_easy_setopt(easy, CURLOPT_TCP_KEEPINTVL, 10L) && !curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L) &&
            !curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, (long)RECEIVE_BUFFER) && !curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, on_open) &&
            !curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, c) && !curl_easy_setopt(easy, CURLOPT_CLOSESOCKETFUNCTION, on_close) &&
            !curl_easy_setopt(easy, CURLOPT_CLOSESOCKETDATA, c);
  if (ok)
    return easy;
  curl_easy_cleanup(easy);
  return NULL;
}

bool transfer_init(struct transfer *t, struct reactor *r, const struct endpoint *ep, const char *url)
{
  struct http_client *c = r->http;
  t->client = c;
  t->in_multi = t->starved = t->keeps_socket = false;
  t->own_ca = ep->ca_file != NULL;
  t->why[0] = '\0';
  list_init(&t->link);
  t->easy = c->n_kept ? c->kept[--c->n_kept] : easy_new(c);
  if (!t->easy)
    return false;
  // A kept handle still has what was set last, so each option that differs between transfers is set for each.
  if (!curl_easy_setopt(t->easy, CURLOPT_PRIVATE, (char *)t) && !curl_easy_setopt(t->easy, CURLOPT_ERRORBUFFER, t->why) &&
      !curl_easy_setopt(t->easy, CURLOPT_URL, url) && !curl_easy_setopt(t->easy, CURLOPT_UNIX_SOCKET_PATH, ep->unix_path) &&
      (!ep->ca_file || !curl_easy_setopt(t->easy, CURLOPT_CAINFO, ep->ca_file)))
    return true;
  curl_easy_cleanup(t->easy);
  return false;
}

void transfer_start(struct transfer *t)
{
  list_remove(&t->link);
  list_append(&t->client->starting, &t->link);
  want_turn(t->client);
}

void transfer_rest(struct transfer *t)
{
  list_remove(&t->link);
  list_append(&t->client->resting, &t->link);
  if (t->in_multi)
    curl_multi_remove_handle(t->client->multi, t->easy);
  t->in_multi = t->starved = t->keeps_socket = false;
  t->why[0] = '\0';
}

void transfer_end(struct transfer *t)
{
  t->done = NULL;
  list_remove(&t->link);
  list_append(&t->client->ended, &t->link);
  want_turn(t->client);
}

void transfer_err(const struct transfer *t, CURLcode code, const struct endpoint *ep, struct err *e)
{
  long number = 0;
  curl_easy_getinfo(t->easy, CURLINFO_OS_ERRNO, &number);
  char text[128] = "";
  const char *reason = number ? strerror_r((int)number, text, sizeof text) : "";
  // What is wrong with a certificate is only in libcurl's longer words.
  bool tls = t->why[0] && (code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CONNECT_ERROR || code == CURLE_SSL_CACERT_BADFILE);
  err_set(e, CODE_UNAVAILABLE, REASON_WORKER_UNREACHABLE, "%s%s: %s%s%s%s%s", ep->unix_path ? "unix:" : "", ep->unix_path ? ep->unix_path : ep->url,
          curl_easy_strerror(code), number ? ": " : "", reason, tls ? ": " : "", tls ? t->why : "");
}

// --- life ------------------------------------------------------------------------------------------------------------------------------

bool http_client_init(struct reactor *r)
{
  struct http_client *c = calloc(1, sizeof *c);
  if (!c)
    return false;
  c->r = r;
  c->timer.fire = on_timer;
  c->turn.run = on_turn_end;
  list_init(&c->turn.link);
  list_init(&c->starting);
  list_init(&c->running);
  list_init(&c->ended);
  list_init(&c->resting);
  c->multi = curl_global_init(CURL_GLOBAL_DEFAULT) ? NULL : curl_multi_init();
  c->ws = ws_pool_new(r);
  if (!c->multi || !c->ws) {
    ws_pool_free(c->ws);
    curl_multi_cleanup(c->multi);
    free(c);
    return false;
  }
  curl_multi_setopt(c->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
  curl_multi_setopt(c->multi, CURLMOPT_SOCKETDATA, c);
  curl_multi_setopt(c->multi, CURLMOPT_TIMERFUNCTION, on_timer_wish);
  curl_multi_setopt(c->multi, CURLMOPT_TIMERDATA, c);
  curl_multi_setopt(c->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_NOTHING);
  curl_multi_setopt(c->multi, CURLMOPT_MAXCONNECTS, (long)MAX_IDLE_CONNECTIONS);
  r->http = c;
  return true;
}

void http_client_free(struct reactor *r)
{
  struct http_client *c = r->http;
  if (!c)
    return;
  ws_pool_free(c->ws);
  release_all(&c->starting);
  release_all(&c->running);
  release_all(&c->resting);
  release_all(&c->ended);
  while (c->n_kept)
    curl_easy_cleanup(c->kept[--c->n_kept]);
  curl_multi_cleanup(c->multi);
  for (int fd = 0; fd < c->n_watches; fd++)
    watch_free(c->watches[fd]);
  free(c->watches);
  shared_pool_free(&c->replies);
  timer_unset(r, &c->timer);
  list_remove(&c->turn.link);
  free(c);
  r->http = NULL;
}
