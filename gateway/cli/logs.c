// SPDX-License-Identifier: Apache-2.0
// logs: what a worker wrote, as it comes.
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "cli/plain.h"
#include "cli/remote.h"
#include "envgate/v1/worker_service.pb-c.h"

struct log_print {
  const struct remote_args *a;
  struct arena arena;
  struct buf out;
  struct plain plain;
  bool terminal;
  bool in_line; // the last line has no end yet
  bool failed;
};

// The text with the time before each line.
static bool add_stamped(struct log_print *p, const Google__Protobuf__Timestamp *t, struct str text)
{
  char stamp[48] = "";
  struct tm tm;
  time_t seconds = t ? (time_t)t->seconds : 0;
  if (t && gmtime_r(&seconds, &tm)) {
    size_t n = strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(stamp + n, sizeof stamp - n, ".%03dZ ", (int)(t->nanos / 1000000));
  }
  bool ok = true;
  for (size_t i = 0; ok && i < text.n; i++) {
    ok = (p->in_line || buf_str(&p->out, str_c(stamp))) && buf_char(&p->out, text.p[i]);
    p->in_line = text.p[i] != '\n';
  }
  return ok;
}

static bool print(struct log_print *p, const Envgate__V1__StreamLogsResponse *m)
{
  struct str data = {(const char *)m->data.data, m->data.len};
  struct buf clean = {0};
  if (m->skipped)
    fprintf(stderr, "envgate: %lld bytes before this are no longer kept\n", (long long)m->skipped);
  p->out.n = 0;
  bool ok = !p->terminal || plain_add(&p->plain, data, &clean);
  if (p->terminal)
    data = buf_view(&clean);
  if (ok && p->a->timestamps) {
    ok = add_stamped(p, m->time, data);
    data = buf_view(&p->out);
  }
  ok = ok && remote_write(data);
  buf_free(&clean);
  return ok;
}

static bool on_line(void *ctx, struct str line)
{
  struct log_print *p = ctx;
  struct err e;
  p->out.n = 0;
  if (p->a->json) {
    p->failed = !buf_str(&p->out, line) || !buf_char(&p->out, '\n') || !remote_write(buf_view(&p->out));
    return !p->failed;
  }
  const ProtobufCMessage *m = remote_decode(&envgate__v1__stream_logs_response__descriptor, line, &p->arena, &e);
  if (!m)
    fprintf(stderr, "envgate: %s\n", e.msg);
  p->failed = !m || !print(p, (const void *)m);
  arena_reset(&p->arena);
  return !p->failed;
}

// After the last line of one that was followed: why there are no more.
static void say_why(struct client *c, const char *worker)
{
  struct buf path = {0}, reply = {0}, text = {0};
  struct arena arena;
  struct err e;
  arena_init(&arena, 1 << 20);
  if (buf_str(&path, STR("/v1/workers/")) && client_escape(&path, worker) && buf_char(&path, '\0') &&
      client_call(c, &(struct client_request){.verb = "GET", .path = path.p}, &reply, &e) == CLIENT_DONE) {
    const Envgate__V1__Worker *w = (const void *)remote_decode(&envgate__v1__worker__descriptor, buf_view(&reply), &arena, &e);
    struct str message = w && w->error ? str_c(w->error->message) : STR("it has ended");
    message.n = strcspn(message.p, "\n");
    if (plain_add(&(struct plain){0}, message, &text))
      fprintf(stderr, "envgate: worker %s: %.*s\n", worker, STR_ARG(buf_view(&text)));
  }
  arena_free(&arena);
  buf_free(&path);
  buf_free(&reply);
  buf_free(&text);
}

int remote_logs(struct client *c, const struct remote_args *a)
{
  struct log_print p = {.a = a, .terminal = isatty(STDOUT_FILENO) != 0};
  struct buf path = {0};
  struct err e;
  enum client_result result = CLIENT_UNREACHED;
  arena_init(&p.arena, 64 << 20);
  err_nomem(&e);
  if (buf_str(&path, STR("/v1/workers/")) && client_escape(&path, a->what) && buf_printf(&path, "/logs?follow=%s", a->follow ? "true" : "false") &&
      (!*a->tail || buf_printf(&path, "&tail_lines=%s", a->tail)) && buf_char(&path, '\0'))
    result = client_call(c, &(struct client_request){.verb = "GET", .path = path.p, .line = on_line, .ctx = &p}, NULL, &e);
  if (result == CLIENT_DONE && !p.failed && a->follow && !a->json)
    say_why(c, a->what);
  buf_free(&path);
  buf_free(&p.out);
  arena_free(&p.arena);
  return p.failed ? EXIT_FAILED : remote_end(c, result, &e);
}
