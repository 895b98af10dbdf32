// SPDX-License-Identifier: Apache-2.0
#include "cli/client.h"

#include <curl/curl.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/json.h"

enum {
  REPLY_MAX = 256 << 20, // an answer, or a line of a stream
  CONNECT_S = 10,
  ANSWER_S = 120, // for an answer that is no stream
};

struct client {
  CURLM *multi;
  CURL *easy;
  struct curl_slist *headers;
  char *base;            // of every URL
  const char *named;     // as the user gave it
  const char *unix_path; // NULL: TCP
  int signals;
  char reason[64];

  // the request under way
  const struct client_request *q;
  struct buf in;   // what has come and is no whole line yet; or the whole answer
  bool failed;     // out of memory or over REPLY_MAX
  bool stopped;    // the line callback has had enough
  struct buf last; // a stream's last line, if it is an error
};

// --- its life ------------------------------------------------------------------------------------------------------------------------------

static size_t on_bytes(char *p, size_t size, size_t n, void *ctx);

static bool take_signals(struct client *c)
{
  sigset_t caught;
  sigemptyset(&caught);
  sigaddset(&caught, SIGINT);
  sigaddset(&caught, SIGTERM);
  if (sigprocmask(SIG_BLOCK, &caught, NULL))
    return false;
  c->signals = signalfd(-1, &caught, SFD_CLOEXEC | SFD_NONBLOCK);
  return c->signals >= 0;
}

static bool set_server(struct client *c, const char *server, struct err *e)
{
  struct str s = str_c(server);
  c->named = server;
  if (str_starts(s, STR("unix:/"))) {
    c->unix_path = server + strlen("unix:");
    c->base = strdup("http://envgate");
  } else if (str_starts(s, STR("http://")) || str_starts(s, STR("https://"))) {
    while (s.n && s.p[s.n - 1] == '/')
      s.n--;
    c->base = strndup(s.p, s.n);
  } else {
    return err_set(e, CODE_INVALID_ARGUMENT, NULL, "the server must be http://HOST:PORT, https://HOST:PORT or unix:/PATH, not %.100s", server);
  }
  return c->base || err_nomem(e);
}

// The header fields of every request. False: out of memory, or the token can't stand in one.
static bool set_headers(struct client *c, const char *token)
{
  struct buf line = {0};
  c->headers = curl_slist_append(NULL, "content-type: application/json");
  bool ok = c->headers;
  if (ok && token && *token) {
    ok = !strpbrk(token, "\r\n") && buf_printf(&line, "authorization: Bearer %s", token) && buf_char(&line, '\0');
    struct curl_slist *more = ok ? curl_slist_append(c->headers, line.p) : NULL;
    ok = more;
    c->headers = more ? more : c->headers;
  }
  if (line.p)
    explicit_bzero(line.p, line.n);
  buf_free(&line);
  return ok;
}

struct client *client_open(const char *server, const char *token, struct err *e)
{
  struct client *c = calloc(1, sizeof *c);
  if (!c) {
    err_nomem(e);
    return NULL;
  }
  c->signals = -1;
  if (!set_server(c, server, e)) {
    client_close(c);
    return NULL;
  }
  if (curl_global_init(CURL_GLOBAL_DEFAULT) || !(c->multi = curl_multi_init()) || !(c->easy = curl_easy_init()) || !set_headers(c, token) ||
      !take_signals(c)) {
    err_set(e, CODE_INTERNAL, NULL, "libcurl or the signals could not be set up");
    client_close(c);
    return NULL;
  }
  return c;
}

void client_close(struct client *c)
{
  if (!c)
    return;
  if (c->easy)
    curl_easy_cleanup(c->easy);
  if (c->multi)
    curl_multi_cleanup(c->multi);
  curl_slist_free_all(c->headers);
  if (c->signals >= 0)
    close(c->signals);
  free(c->base);
  free(c);
  curl_global_cleanup();
}

const char *client_reason(const struct client *c)
{
  return c->reason;
}

bool client_escape(struct buf *out, const char *text)
{
  char *escaped = curl_easy_escape(NULL, text, 0);
  bool ok = escaped && buf_str(out, str_c(escaped));
  curl_free(escaped);
  return ok;
}

// --- what comes ----------------------------------------------------------------------------------------------------------------------------

static bool is_error(struct str line)
{
  return str_starts(line, STR("{\"error\":"));
}

// A stream's line. An error is always the last, and is told when the stream has ended.
static bool take_line(struct client *c, struct str line)
{
  long status = 0;
  curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &status);
  if (status == 200 && !is_error(line)) {
    c->stopped = !c->q->line(c->q->ctx, line);
    return !c->stopped;
  }
  return buf_str(&c->last, line);
}

static bool take_lines(struct client *c)
{
  size_t at = 0;
  for (char *end; at < c->in.n && (end = memchr(c->in.p + at, '\n', c->in.n - at));) {
    size_t n = (size_t)(end - (c->in.p + at));
    if (!take_line(c, (struct str){c->in.p + at, n}))
      return false;
    at += n + 1;
  }
  buf_consume(&c->in, at);
  return true;
}

static size_t on_bytes(char *p, size_t size, size_t n, void *ctx)
{
  struct client *c = ctx;
  (void)size; // is 1
  bool ok = buf_add(&c->in, p, n);
  c->failed |= !ok;
  return ok && (!c->q->line || take_lines(c)) ? n : 0;
}

// --- errors --------------------------------------------------------------------------------------------------------------------------------

static void take_reason(struct client *c, struct json *j)
{
  struct str key, value;
  if (!json_enter_array(j))
    return;
  while (json_next_item(j)) {
    if (!json_enter_object(j))
      return;
    while (json_next_key(j, &key)) {
      bool reason = json_raw_eq(key, STR("reason"));
      if (!json_skip(j, &value))
        return;
      if (reason && value.n > 2 && value.n - 2 < sizeof c->reason)
        snprintf(c->reason, sizeof c->reason, "%.*s", (int)(value.n - 2), value.p + 1);
    }
  }
}

// {"error": {"code": 404, "message": …, "details": [{…, "reason": …}]}}
static bool take_error(struct client *c, struct str body, struct err *e)
{
  struct json j;
  struct str key, raw;
  struct buf text = {0};
  json_init(&j, body, JSON_DEPTH);
  if (!json_enter_object(&j) || !json_next_key(&j, &key) || !json_raw_eq(key, STR("error")) || !json_enter_object(&j))
    return false;
  while (json_next_key(&j, &key)) {
    if (json_raw_eq(key, STR("message"))) {
      if (!json_string(&j, &raw) || !json_unescape(raw, &text))
        break;
    } else if (json_raw_eq(key, STR("details"))) {
      take_reason(c, &j);
    } else if (!json_skip(&j, NULL)) {
      break;
    }
  }
  err_set(e, CODE_UNKNOWN, NULL, "%.*s", STR_ARG(buf_view(&text)));
  bool any = text.n > 0;
  buf_free(&text);
  return any;
}

static enum client_result judge(struct client *c, CURLcode rc, struct err *e)
{
  long status = 0;
  curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &status);
  struct str error = c->q->line ? buf_view(&c->last) : buf_view(&c->in);
  if (c->stopped)
    return CLIENT_DONE;
  if (c->failed) {
    err_set(e, CODE_RESOURCE_EXHAUSTED, NULL, "out of memory, or the answer is over %d bytes", REPLY_MAX);
    return CLIENT_UNREACHED;
  }
  if (!status || (rc && !error.n)) {
    err_set(e, CODE_UNAVAILABLE, NULL, "%s: %s", c->named, curl_easy_strerror(rc));
    return CLIENT_UNREACHED;
  }
  if (status == 200 && !(c->q->line && error.n)) {
    if (!c->q->line || !c->in.n) // every line of a stream has an end
      return CLIENT_DONE;
    err_set(e, CODE_INTERNAL, NULL, "the answer is none of a gateway's");
    return CLIENT_REFUSED;
  }
  if (!error.n && c->q->line)
    error = buf_view(&c->in); // without a line's end
  if (!take_error(c, error, e))
    err_set(e, CODE_UNKNOWN, NULL, "%s answered with HTTP status %ld; is it an envgate gateway?", c->named, status);
  return CLIENT_REFUSED;
}

// --- requests ------------------------------------------------------------------------------------------------------------------------------

static bool set_up(struct client *c, const char *url)
{
  CURL *h = c->easy;
  const struct client_request *q = c->q;
  curl_easy_reset(h);
  bool ok = !curl_easy_setopt(h, CURLOPT_URL, url) && !curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, q->verb) &&
            !curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "http,https") && !curl_easy_setopt(h, CURLOPT_PROXY, "") &&
            !curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L) && !curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_S) &&
            !curl_easy_setopt(h, CURLOPT_TIMEOUT, q->line ? 0L : (long)ANSWER_S) && !curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_bytes) &&
            !curl_easy_setopt(h, CURLOPT_WRITEDATA, c) && !curl_easy_setopt(h, CURLOPT_HTTPHEADER, c->headers);
  if (ok && c->unix_path)
    ok = !curl_easy_setopt(h, CURLOPT_UNIX_SOCKET_PATH, c->unix_path);
  if (ok && q->body.n)
    ok = !curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE, (long)q->body.n) && !curl_easy_setopt(h, CURLOPT_COPYPOSTFIELDS, q->body.p);
  return ok;
}

// Until the transfer has ended, which *rc tells of, or a signal came: false.
static bool run(struct client *c, CURLcode *rc)
{
  struct curl_waitfd signals = {.fd = c->signals, .events = CURL_WAIT_POLLIN};
  *rc = CURLE_OUT_OF_MEMORY;
  if (curl_multi_add_handle(c->multi, c->easy))
    return true;
  bool interrupted = false;
  int running = 1;
  while (running && !interrupted && !curl_multi_perform(c->multi, &running)) {
    struct signalfd_siginfo info;
    if (running && curl_multi_poll(c->multi, &signals, 1, 1000, NULL))
      break;
    interrupted = read(c->signals, &info, sizeof info) == sizeof info;
  }
  int left;
  for (const CURLMsg *m; (m = curl_multi_info_read(c->multi, &left));)
    if (m->msg == CURLMSG_DONE)
      *rc = m->data.result;
  curl_multi_remove_handle(c->multi, c->easy);
  return !interrupted;
}

enum client_result client_call(struct client *c, const struct client_request *q, struct buf *reply, struct err *e)
{
  struct buf url = {0};
  enum client_result result = CLIENT_UNREACHED;
  CURLcode rc;
  c->q = q;
  c->in.max = REPLY_MAX;
  c->failed = c->stopped = false;
  c->reason[0] = '\0';
  if (!buf_str(&url, str_c(c->base)) || !buf_str(&url, str_c(q->path)) || !buf_char(&url, '\0') || !set_up(c, url.p))
    err_nomem(e);
  else if (!run(c, &rc))
    result = CLIENT_INTERRUPTED;
  else
    result = judge(c, rc, e);
  buf_free(&url);
  buf_free(&c->last);
  if (result == CLIENT_DONE && reply) {
    *reply = c->in;
    c->in = (struct buf){0};
  }
  buf_free(&c->in);
  return result;
}
