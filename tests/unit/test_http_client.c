// SPDX-License-Identifier: Apache-2.0
// The HTTP client against scripted peers, over real sockets.
#include "scripted_peer.h"

struct run {
  struct bench b;
  struct http_options o;
  int done, pieces, left; // `left`: requests still to send, one after the other
  struct http_request *kept;
  int status;
  bool sent, stop_at_piece;
  size_t body_size;
  char body[64], type[64];
  struct err err;
};

static void on_done(void *ctx, const struct http_reply *reply)
{
  struct run *t = ctx;
  t->done++;
  t->status = reply->status;
  t->sent = reply->sent;
  t->body_size = reply->body.n;
  snprintf(t->body, sizeof t->body, "%.*s", (int)(reply->body.n < 60 ? reply->body.n : 60), reply->body.n ? reply->body.p : "");
  snprintf(t->type, sizeof t->type, "%.*s", STR_ARG(reply->content_type));
  err_clear(&t->err);
  if (reply->err)
    t->err = *reply->err;
  assert_int_equal(reply->status == 0, reply->err != NULL);
  if (t->left-- > 0)
    assert_true(t->o.kept ? http_again(t->kept, t->o.path, t->o.body) : http_start(&t->b.r, &t->b.ep, &t->o) != NULL);
  else
    reactor_stop(&t->b.r);
}

static bool on_data(void *ctx, struct str piece)
{
  struct run *t = ctx;
  t->pieces++;
  t->body_size += piece.n;
  return !t->stop_at_piece;
}

static struct run run_at(const char *address, struct run t)
{
  bench_start(&t.b, address);
  t.o.done = on_done;
  t.o.ctx = &t;
  assert_non_null(t.kept = http_start(&t.b.r, &t.b.ep, &t.o));
  assert_int_equal(t.done, 0);
  bench_run(&t.b);
  bench_stop(&t.b);
  return t;
}

static struct run against(void (*serve)(struct peer *, int), int *requests, struct run t)
{
  struct peer p;
  peer_start(&p, serve, NULL);
  t = run_at(p.address, t);
  peer_stop(&p);
  if (requests)
    *requests = p.requests;
  return t;
}

#define POST                                                                              \
  {                                                                                       \
    .method = "POST", .path = "/x", .body = {"{}", 2}, .content_type = "application/json" \
  }
#define GET                       \
  {                               \
    .method = "GET", .path = "/x" \
  }

static void serve_echo(struct peer *p, int fd)
{
  while (peer_request(p, fd)) {
    char reply[64];
    snprintf(reply, sizeof reply, "%.*s", (int)strcspn(p->head, " "), p->head);
    PEER_EXPECT(p, !strstr(p->head, "Expect:") && !strstr(p->head, "Accept-Encoding"));
    peer_reply(fd, 200, reply);
  }
}

static void methods(void **state)
{
  (void)state;
  const struct http_options rows[] = {
      GET, POST, {.method = "DELETE", .path = "/x"}, {.method = "PUT", .path = "/x", .body = {"a", 1}, .content_type = "text/plain"}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    struct run t = against(serve_echo, NULL, (struct run){.o = rows[i]});
    assert_int_equal(t.status, 200);
    assert_string_equal(t.body, rows[i].method);
    assert_string_equal(t.type, "application/json");
    assert_true(t.sent);
  }
}

static void a_connection_is_reused(void **state)
{
  (void)state;
  struct peer p;
  char path[64];
  snprintf(path, sizeof path, "/tmp/envgate-http-%d.sock", (int)getpid());
  peer_start(&p, serve_echo, path);
  struct run t = run_at(p.address, (struct run){.o = POST, .left = 9});
  peer_stop(&p);
  unlink(path);
  assert_int_equal(t.done, 10);
  assert_int_equal(p.connections, 1);
  peer_start(&p, serve_echo, NULL);
  t = run_at(p.address, (struct run){.o = {.method = "GET", .path = "/x", .own_connection = true}, .left = 2});
  peer_stop(&p);
  assert_int_equal(p.connections, 3);
}

static void serve_and_close(struct peer *p, int fd)
{
  if (peer_request(p, fd))
    peer_reply(fd, 200, "once");
  usleep(1000);
}

static void later(struct timer *timer)
{
  struct bench *b = CONTAINER_OF(timer, struct bench, watchdog);
  reactor_stop(&b->r);
}

// A connection that the peer closed while it was idle is noticed before it is used.
static void an_idle_connection_that_was_closed(void **state)
{
  (void)state;
  struct peer p;
  peer_start(&p, serve_and_close, NULL);
  struct run t = {.o = POST};
  bench_start(&t.b, p.address);
  t.o.done = on_done;
  t.o.ctx = &t;
  for (int i = 0; i < 3; i++) {
    assert_non_null(http_start(&t.b.r, &t.b.ep, &t.o));
    bench_run(&t.b);
    assert_int_equal(t.status, 200);
    t.b.watchdog.fire = later; // let the peer's FIN come
    t.b.r.stopping = false;
    assert_true(timer_set(&t.b.r, &t.b.watchdog, clock_mono() + 30 * NSEC_PER_MS));
    reactor_run(&t.b.r);
  }
  bench_stop(&t.b);
  peer_stop(&p);
  assert_int_equal(p.requests, 3);
}

// Answers the first request, takes the second whole and dies.
static void serve_crash(struct peer *p, int fd)
{
  while (peer_request(p, fd) && p->requests != 2)
    peer_reply(fd, 200, "ok");
}

static void a_post_is_never_sent_twice(void **state)
{
  (void)state;
  int requests;
  struct run t = against(serve_crash, &requests, (struct run){.o = POST, .left = 1});
  assert_int_equal(t.status, 0);
  assert_int_equal(t.err.code, CODE_UNAVAILABLE);
  assert_true(t.sent);
  assert_int_equal(requests, 2);
  t = against(serve_crash, &requests, (struct run){.o = GET, .left = 1});
  assert_int_equal(t.status, 200); // a GET may be repeated, and is
  assert_int_equal(requests, 3);
}

static void a_kept_post_is_never_sent_twice(void **state)
{
  (void)state;
  int requests;
  struct http_options o = POST;
  o.kept = true;
  struct run t = against(serve_crash, &requests, (struct run){.o = o, .left = 1});
  assert_int_equal(t.err.code, CODE_UNAVAILABLE);
  assert_true(t.sent);
  assert_int_equal(requests, 2);
  t = against(serve_crash, &requests, (struct run){.o = o, .left = 3}); // after the failure it still can be used
  assert_int_equal(t.status, 200);
  assert_int_equal(requests, 4);
}

// Answers with the request's path and length, and every third time with a 500.
static void serve_path(struct peer *p, int fd)
{
  while (peer_request(p, fd)) {
    char reply[64];
    const char *path = strchr(p->head, ' ') + 1, *length = strstr(p->head, "Content-Length: ");
    snprintf(reply, sizeof reply, "%.*s %d", (int)strcspn(path, " "), path, length ? (int)strtol(length + 16, NULL, 10) : -1);
    peer_reply(fd, p->requests % 3 == 0 ? 500 : 200, reply);
    if (p->requests % 3 == 0)
      return;
  }
}

static void on_kept(void *ctx, const struct http_reply *reply)
{
  struct run *t = ctx;
  assert_int_equal(reply->status, t->done % 3 == 2 ? 500 : 200);
  char expected[64];
  snprintf(expected, sizeof expected, "%s %d", t->o.path, (int)t->o.body.n);
  assert_string_equal(reply->body.p, expected); // with a NUL
  assert_ptr_equal(reply->bytes->buf.p, reply->body.p);
  if (++t->done == 9) {
    http_cancel(t->kept);
    reactor_stop(&t->b.r);
    return;
  }
  t->o.path = t->done & 2 ? "/a" : "/longer";
  t->o.body = (struct str){"0123456789", (size_t)t->done};
  assert_true(http_again(t->kept, t->o.path, t->o.body));
}

static void a_kept_request(void **state)
{
  (void)state;
  struct peer p;
  peer_start(&p, serve_path, NULL);
  struct run t = {.o = POST};
  bench_start(&t.b, p.address);
  t.o.kept = true;
  t.o.done = on_kept;
  t.o.ctx = &t;
  t.kept = http_start(&t.b.r, &t.b.ep, &t.o);
  assert_non_null(t.kept);
  bench_run(&t.b);
  bench_stop(&t.b);
  peer_stop(&p);
  assert_int_equal(t.done, 9);
  assert_int_equal(p.requests, 9);
  assert_int_equal(p.connections, 3);
}

static nsec cpu_time(void)
{
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return (nsec)t.tv_sec * NSEC_PER_S + (nsec)t.tv_nsec;
}

// An idle connection stays watched; that its peer has closed it must not wake the reactor over and over.
static void a_closed_idle_connection_is_quiet(void **state)
{
  (void)state;
  struct peer p;
  peer_start(&p, serve_and_close, NULL);
  struct run t = {.o = POST};
  bench_start(&t.b, p.address);
  t.o.done = on_done;
  t.o.ctx = &t;
  assert_non_null(http_start(&t.b.r, &t.b.ep, &t.o));
  bench_run(&t.b);
  t.b.watchdog.fire = later;
  t.b.r.stopping = false;
  assert_true(timer_set(&t.b.r, &t.b.watchdog, clock_mono() + 300 * NSEC_PER_MS));
  nsec before = cpu_time();
  reactor_run(&t.b.r);
  assert_true(cpu_time() - before < 60 * NSEC_PER_MS);
  bench_stop(&t.b);
  peer_stop(&p);
}

static void nothing_was_sent(void **state)
{
  (void)state;
  struct peer p;
  peer_start(&p, serve_echo, NULL);
  peer_stop(&p);
  struct run t = run_at(p.address, (struct run){.o = POST});
  assert_int_equal(t.err.code, CODE_UNAVAILABLE);
  assert_string_equal(t.err.reason, "WORKER_UNREACHABLE");
  assert_false(t.sent);
}

// The name may have an IPv6 address, too, at which nobody listens.
static void a_peer_by_name(void **state)
{
  (void)state;
  struct peer p;
  peer_start(&p, serve_echo, NULL);
  char address[64];
  snprintf(address, sizeof address, "http://localhost%s", strrchr(p.address, ':'));
  struct http_options o = POST;
  o.timeout = NSEC_PER_S;
  struct run t = run_at(address, (struct run){.o = o, .left = 2});
  peer_stop(&p);
  assert_int_equal(t.status, 200);
  assert_int_equal(p.connections, 1);
}

static void serve_long(struct peer *p, int fd)
{
  static char text[20001];
  memset(text, 'x', 20000);
  if (peer_request(p, fd))
    peer_reply(fd, 200, text);
}

static void body_limit(void **state)
{
  (void)state;
  struct http_options o = GET;
  o.max_body = 20000;
  struct run t = against(serve_long, NULL, (struct run){.o = o});
  assert_int_equal(t.body_size, 20000);
  o.max_body = 19999;
  t = against(serve_long, NULL, (struct run){.o = o});
  assert_int_equal(t.err.code, CODE_RESOURCE_EXHAUSTED);
  assert_int_equal(t.body_size, 0);
}

static void streams(void **state)
{
  (void)state;
  struct http_options o = GET;
  o.data = on_data;
  o.max_body = 10; // does not apply
  struct run t = against(serve_long, NULL, (struct run){.o = o});
  assert_int_equal(t.status, 200);
  assert_in_range(t.pieces, 1, 100);
  t = against(serve_long, NULL, (struct run){.o = o, .stop_at_piece = true});
  assert_int_equal(t.err.code, CODE_CANCELLED);
  assert_int_equal(t.pieces, 1);
}

static void serve_nothing(struct peer *p, int fd)
{
  char c;
  if (peer_request(p, fd))
    while (peer_read(fd, &c, 1))
      ;
}

static void timeouts(void **state)
{
  (void)state;
  struct http_options o = POST;
  o.timeout = 50 * NSEC_PER_MS;
  struct run t = against(serve_nothing, NULL, (struct run){.o = o});
  assert_int_equal(t.err.code, CODE_DEADLINE_EXCEEDED);
  assert_true(t.sent);
}

static void cancelled(void **state)
{
  (void)state;
  struct peer p;
  peer_start(&p, serve_nothing, NULL);
  struct run t = {.o = POST};
  bench_start(&t.b, p.address);
  t.o.done = on_done;
  t.o.ctx = &t;
  struct http_request *before = http_start(&t.b.r, &t.b.ep, &t.o), *running = http_start(&t.b.r, &t.b.ep, &t.o);
  assert_non_null(before);
  assert_non_null(running);
  http_cancel(before); // not even begun
  t.b.watchdog.fire = later;
  assert_true(timer_set(&t.b.r, &t.b.watchdog, clock_mono() + 50 * NSEC_PER_MS));
  reactor_run(&t.b.r);
  assert_int_equal(p.requests, 1);
  http_cancel(running);
  assert_non_null(http_start(&t.b.r, &t.b.ep, &t.o)); // and one that is never cancelled: http_client_free takes it
  bench_stop(&t.b);
  peer_stop(&p);
  assert_int_equal(t.done, 0);
}

static void serve_garbage(struct peer *p, int fd)
{
  if (peer_request(p, fd))
    peer_say(fd, "SSH-2.0-nonsense\r\n\r\n");
}

static void serve_redirect(struct peer *p, int fd)
{
  if (peer_request(p, fd))
    peer_say(fd, "HTTP/1.1 302 X\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n");
}

static void strange_replies(void **state)
{
  (void)state;
  int requests;
  struct run t = against(serve_garbage, NULL, (struct run){.o = POST});
  assert_int_equal(t.err.code, CODE_UNAVAILABLE);
  t = against(serve_redirect, &requests, (struct run){.o = GET});
  assert_int_equal(t.status, 302); // not followed
  assert_int_equal(requests, 1);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(methods),
      cmocka_unit_test(a_connection_is_reused),
      cmocka_unit_test(an_idle_connection_that_was_closed),
      cmocka_unit_test(a_post_is_never_sent_twice),
      cmocka_unit_test(a_kept_post_is_never_sent_twice),
      cmocka_unit_test(a_kept_request),
      cmocka_unit_test(a_closed_idle_connection_is_quiet),
      cmocka_unit_test(nothing_was_sent),
      cmocka_unit_test(a_peer_by_name),
      cmocka_unit_test(body_limit),
      cmocka_unit_test(streams),
      cmocka_unit_test(timeouts),
      cmocka_unit_test(cancelled),
      cmocka_unit_test(strange_replies),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
