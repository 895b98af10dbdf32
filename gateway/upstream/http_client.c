// SPDX-License-Identifier: Apache-2.0
// Exactly once. When a kept-alive connection ends before any byte of a reply, libcurl 7.88 sends the request again by itself, on another
// connection (Curl_retry_request in its transfer.c), whether or not the peer took the first one: a step would be done twice. It asks us
// before each sending (CURLOPT_PREREQFUNCTION), and CURLINFO_REQUEST_SIZE counts what the kernel has taken so far. So anything but GET and HEAD is
// refused its second sending unless nothing of the first was taken. Connections that were idle for 4 s are not reused (transfer.c), and
// libcurl looks at one for the peer's FIN before it reuses it; both make the case rare.
#include "upstream/http_client.h"

#include <limits.h>
#include <stdlib.h>

#include "runtime/flow.h"
#include "upstream/transfer.h"

enum { CONNECT_TIMEOUT_MS = 10000, MAX_BODY = 1 << 20 };

struct http_request {
  struct transfer t; // the first member
  struct http_options o;
  struct endpoint ep;
  struct buf url; // the whole; o.path points into it
  struct curl_slist *headers;
  char *post;      // a copy of the request's body
  struct buf body; // the reply's
  size_t max_body;
  size_t told;   // the body's size as the owner knows it
  bool sending;  // it got as far as sending
  bool distrust; // the connection will not be used again
  bool too_large, stopped;
};

static bool idempotent(const struct http_request *q)
{
  return !strcmp(q->o.method, "GET") || !strcmp(q->o.method, "HEAD");
}

static bool any_taken(const struct http_request *q)
{
  long bytes = 0;
  curl_easy_getinfo(q->t.easy, CURLINFO_REQUEST_SIZE, &bytes);
  // Of a request over TLS some records may be on their way before libcurl counts any.
  return q->sending && (bytes > 0 || !strncmp(q->ep.url, "https:", 6));
}

static int before_sending(void *ctx, char *remote_ip, char *local_ip, int remote_port, int local_port)
{
  (void)remote_ip, (void)local_ip, (void)remote_port, (void)local_port;
  struct http_request *q = ctx;
  if (!idempotent(q) && any_taken(q))
    return CURL_PREREQFUNC_ABORT;
  q->sending = q->t.keeps_socket = true;
  return CURL_PREREQFUNC_OK;
}

// uvicorn closes the connection after a 500 that an exception made, without announcing it. The next request would race with that.
static size_t on_header(char *line, size_t size, size_t n, void *ctx)
{
  struct http_request *q = ctx;
  n *= size;
  long status = 0;
  bool last = n && (line[0] == '\r' || line[0] == '\n');
  if (last && !curl_easy_getinfo(q->t.easy, CURLINFO_RESPONSE_CODE, &status) && status >= 500)
    q->distrust = !curl_easy_setopt(q->t.easy, CURLOPT_FORBID_REUSE, 1L);
  return n;
}

// Room for a reply of the announced length at once, if that is not too much to believe.
static bool make_room(struct http_request *q, size_t first_piece)
{
  curl_off_t announced = -1;
  curl_easy_getinfo(q->t.easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &announced);
  size_t want = announced > (curl_off_t)first_piece && announced < BUF_LARGE ? (size_t)announced : first_piece;
  buf_lend(&q->t.client->replies.memory, &q->body, want + 1);
  return buf_reserve(&q->body, want + 1) != NULL;
}

// Tells the owner of a large body: of all of it when its length was announced, else as it comes. False: it does not want more now.
static bool wanted(struct http_request *q, size_t n)
{
  curl_off_t announced = -1;
  curl_easy_getinfo(q->t.easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &announced);
  size_t told = q->told, coming = q->body.n + n;
  if (announced > 0 && (size_t)announced > coming)
    coming = (size_t)announced < q->max_body ? (size_t)announced : q->max_body;
  if (coming < FLOW_LARGE || coming <= told)
    return true;
  q->told = coming;
  return q->o.large(q->o.ctx, coming - told);
}

static size_t on_body(char *p, size_t size, size_t n, void *ctx)
{
  struct http_request *q = ctx;
  n *= size;
  if (!q->t.done)
    return 0; // cancelled in this turn
  if (q->o.data) {
    q->stopped = !q->o.data(q->o.ctx, (struct str){p, n});
    return q->stopped ? 0 : n;
  }
  if (n > q->max_body - q->body.n) {
    q->too_large = true;
    return 0;
  }
  if (q->o.large && !wanted(q, n))
    return CURL_WRITEFUNC_PAUSE; // the same bytes come again
  return (q->body.p || make_room(q, n)) && buf_add(&q->body, p, n) ? n : 0;
}

static void describe(const struct http_request *q, CURLcode code, struct err *e)
{
  if (q->too_large)
    err_set(e, CODE_RESOURCE_EXHAUSTED, REASON_MESSAGE_TOO_LARGE, "the reply to %s is over %zu bytes", q->o.path, q->max_body);
  else if (q->stopped)
    err_set(e, CODE_CANCELLED, REASON_CANCELLED, "the reply's receiver ended the exchange");
  else if (code == CURLE_OUT_OF_MEMORY)
    err_nomem(e);
  else if (code == CURLE_OPERATION_TIMEDOUT && q->sending)
    err_set(e, CODE_DEADLINE_EXCEEDED, REASON_DEADLINE, "no reply to %s within %.3g s", q->o.path, (double)q->o.timeout / 1e9);
  else if (code == CURLE_ABORTED_BY_CALLBACK)
    err_set(e, CODE_UNAVAILABLE, REASON_WORKER_UNREACHABLE, "the connection ended before any reply to %s, which was sent already", q->o.path);
  else
    transfer_err(&q->t, code, &q->ep, e);
}

static struct shared *take_body(struct http_request *q)
{
  if (!q->body.p && !make_room(q, 0))
    return NULL;
  if (!buf_char(&q->body, '\0'))
    return NULL;
  q->body.n--;
  return shared_take(&q->t.client->replies, &q->body);
}

static void fill_reply(struct http_request *q, struct http_reply *reply)
{
  long status = 0;
  char *type = NULL;
  curl_easy_getinfo(q->t.easy, CURLINFO_RESPONSE_CODE, &status);
  curl_easy_getinfo(q->t.easy, CURLINFO_CONTENT_TYPE, &type);
  reply->status = (int)status;
  reply->content_type = type ? str_c(type) : STR("");
  if (reply->bytes)
    reply->body = buf_view(&reply->bytes->buf);
}

static void on_done(struct transfer *t, CURLcode code)
{
  struct http_request *q = CONTAINER_OF(t, struct http_request, t);
  struct http_reply reply = {.sent = any_taken(q)};
  struct err e;
  if (!code && !q->o.data && !(reply.bytes = take_body(q)))
    code = CURLE_OUT_OF_MEMORY;
  if (code) {
    describe(q, code, &e);
    reply.err = &e;
  } else {
    fill_reply(q, &reply);
  }
  if (q->o.kept)
    transfer_rest(t);
  else
    transfer_end(t);
  q->o.done(q->o.ctx, &reply); // which may cancel or repeat a kept one; it lives until the end of the turn in any case
  shared_unref(reply.bytes);
}

static void free_request(struct http_request *q)
{
  curl_slist_free_all(q->headers);
  endpoint_free(&q->ep);
  buf_free(&q->url);
  buf_free(&q->body);
  free(q->post);
  free(q);
}

static void on_release(struct transfer *t)
{
  free_request(CONTAINER_OF(t, struct http_request, t));
}

static bool add_header(struct http_request *q, const char *name, const char *value)
{
  struct buf line = {0};
  // libcurl leaves a header without value out unless it is written with a semicolon.
  bool ok = (value[0] ? buf_printf(&line, "%s: %s", name, value) : buf_printf(&line, "%s;", name)) && buf_char(&line, '\0');
  struct curl_slist *more = ok ? curl_slist_append(q->headers, line.p) : NULL;
  buf_free(&line);
  if (more)
    q->headers = more;
  return more != NULL;
}

static bool add_pairs(struct http_request *q, const struct pairs *headers)
{
  for (size_t i = 0; headers && i < headers->n; i++)
    if (!add_header(q, headers->at[i].name, headers->at[i].value))
      return false;
  return true;
}

static bool add_headers(struct http_request *q, const struct pairs *more_headers)
{
  if (!add_pairs(q, q->ep.headers ? &q->ep.headers->pairs : NULL) || !add_pairs(q, more_headers))
    return false;
  // "Expect:" leaves out the 100-continue round trip that libcurl asks for with large bodies.
  struct curl_slist *more = curl_slist_append(q->headers, "Expect:");
  if (!more)
    return false;
  q->headers = more;
  return !q->o.content_type || add_header(q, "Content-Type", q->o.content_type);
}

static long to_ms(nsec t)
{
  nsec ms = (t + NSEC_PER_MS - 1) / NSEC_PER_MS;
  return ms > LONG_MAX ? LONG_MAX : (long)ms;
}

static bool set_body(CURL *easy, struct str body)
{
  return !curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body.n) &&
         !curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body.n ? body.p : "");
}

static bool set_method(CURL *easy, const struct http_request *q)
{
  bool has_body = q->o.content_type != NULL, head = !strcmp(q->o.method, "HEAD");
  if (curl_easy_setopt(easy, CURLOPT_NOBODY, (long)head))
    return false;
  if (head)
    return !curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, NULL);
  if (!has_body)
    return !curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L) && !curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, q->o.method);
  return !curl_easy_setopt(easy, CURLOPT_POST, 1L) && !curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, q->o.method) &&
         set_body(easy, q->o.kept ? q->o.body : (struct str){q->post, q->o.body.n});
}

static bool set_options(struct http_request *q)
{
  CURL *easy = q->t.easy;
  long fresh = q->o.own_connection;
  return set_method(easy, q) && !curl_easy_setopt(easy, CURLOPT_CONNECT_ONLY, 0L) && !curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, fresh) &&
         !curl_easy_setopt(easy, CURLOPT_FORBID_REUSE, fresh) && !curl_easy_setopt(easy, CURLOPT_HTTPHEADER, q->headers) &&
         !curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body) && !curl_easy_setopt(easy, CURLOPT_WRITEDATA, q) &&
         !curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header) && !curl_easy_setopt(easy, CURLOPT_HEADERDATA, q) &&
         !curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, before_sending) && !curl_easy_setopt(easy, CURLOPT_PREREQDATA, q) &&
         !curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, to_ms(q->o.timeout)) &&
         !curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, q->o.connect_timeout ? to_ms(q->o.connect_timeout) : (long)CONNECT_TIMEOUT_MS);
}

static bool make_url(struct http_request *q, const char *path)
{
  struct buf url = {0};
  if (!buf_str(&url, str_c(q->ep.url)) || !buf_str(&url, str_c(path)) || !buf_char(&url, '\0')) {
    buf_free(&url);
    return false;
  }
  buf_free(&q->url);
  q->url = url;
  q->o.path = q->url.p + strlen(q->ep.url);
  return true;
}

static bool prepare(struct http_request *q, struct reactor *r)
{
  if (q->o.content_type && !q->o.kept && q->o.body.n) {
    q->post = malloc(q->o.body.n);
    if (!q->post)
      return false;
    memcpy(q->post, q->o.body.p, q->o.body.n);
  }
  return make_url(q, q->o.path) && add_headers(q, q->o.headers) && transfer_init(&q->t, r, &q->ep, q->url.p);
}

struct http_request *http_start(struct reactor *r, const struct endpoint *ep, const struct http_options *o)
{
  struct http_request *q = calloc(1, sizeof *q);
  if (!q)
    return NULL;
  q->o = *o;
  q->max_body = o->max_body ? o->max_body : MAX_BODY;
  q->t.done = on_done;
  q->t.release = on_release;
  if (!endpoint_copy(&q->ep, ep) || !prepare(q, r)) {
    free_request(q);
    return NULL;
  }
  if (!set_options(q)) {
    transfer_end(&q->t); // it releases handle and request
    return NULL;
  }
  transfer_start(&q->t);
  return q;
}

static bool change_path(struct http_request *q, const char *path)
{
  return !strcmp(path, q->o.path) || (make_url(q, path) && !curl_easy_setopt(q->t.easy, CURLOPT_URL, q->url.p));
}

bool http_again(struct http_request *q, const char *path, struct str body)
{
  CURL *easy = q->t.easy;
  if (!change_path(q, path) || (q->o.content_type && !set_body(easy, body)) ||
      (q->distrust && curl_easy_setopt(easy, CURLOPT_FORBID_REUSE, (long)q->o.own_connection)))
    return false;
  buf_free(&q->body); // of a reply that was cut
  q->o.body = body;
  q->told = 0;
  q->sending = q->distrust = q->too_large = q->stopped = false;
  transfer_start(&q->t);
  return true;
}

void http_resume(struct http_request *q)
{
  curl_easy_pause(q->t.easy, CURLPAUSE_CONT);
}

bool http_set_headers(struct http_request *q, const struct pairs *headers)
{
  curl_easy_setopt(q->t.easy, CURLOPT_HTTPHEADER, NULL);
  curl_slist_free_all(q->headers);
  q->headers = NULL;
  return add_headers(q, headers) && !curl_easy_setopt(q->t.easy, CURLOPT_HTTPHEADER, q->headers);
}

void http_cancel(struct http_request *q)
{
  transfer_end(&q->t);
}
