// SPDX-License-Identifier: Apache-2.0
// Links and WebSockets against peers that misbehave on purpose, over real sockets.
#include "scripted_peer.h"

#include "worker/link.h"

#define OBSERVATION "{\"type\":\"observation\",\"data\":{\"observation\":{\"x\":1},\"reward\":1.5,\"done\":false}}"

// What a test does with its link, and what it saw.
struct run {
  struct bench b;
  struct env_config env;
  struct link *link;
  const enum worker_op *ops; // one after the other; after the last the link is closed
  int n_ops, sent;
  bool close_in_reply;
  int opened, replies, ends;
  enum worker_reply_kind kind;
  struct err reply_err, end_err;
  char observation[64];
  size_t reply_size;
  bool capacity;
  int64_t max_sessions;
};

static struct str big_action;

static void send_next(struct run *t)
{
  if (t->sent == t->n_ops) {
    link_close(t->link);
    reactor_stop(&t->b.r);
    return;
  }
  struct worker_request q = {.op = t->ops[t->sent++], .action = big_action.n ? big_action : STR("{\"a\":1}")};
  assert_true(link_send(t->link, &q));
}

static void on_open(void *ctx)
{
  struct run *t = ctx;
  t->opened++;
  if (t->n_ops)
    send_next(t);
}

static void on_reply(void *ctx, struct worker_reply *reply, struct shared *bytes)
{
  struct run *t = ctx;
  t->replies++;
  t->kind = reply->kind;
  t->reply_err = reply->err;
  t->reply_size = bytes->buf.n;
  snprintf(t->observation, sizeof t->observation, "%.*s", (int)(reply->observation.n < 60 ? reply->observation.n : 60),
           reply->observation.n ? reply->observation.p : "");
  assert_int_equal(bytes->buf.p[bytes->buf.n], 0);
  shared_unref(bytes);
  if (t->close_in_reply) {
    link_close(t->link);
    reactor_stop(&t->b.r);
  } else if (!reply->session_ended) {
    send_next(t);
  }
}

static void on_end(void *ctx, const struct link_end *end)
{
  struct run *t = ctx;
  t->ends++;
  t->end_err = *end->err;
  t->capacity = end->capacity;
  t->max_sessions = end->max_sessions;
  link_close(t->link); // allowed, and of no effect
  reactor_stop(&t->b.r);
}

static const struct link_events events = {.open = on_open, .reply = on_reply, .end = on_end};

static struct run run_at(const char *address, enum worker_dialect dialect, const enum worker_op *ops, int n_ops, struct run t)
{
  bench_start(&t.b, address);
  if (t.env.step_timeout_s <= 0)
    t.env.step_timeout_s = 5;
  if (!t.env.max_reply_bytes)
    t.env.max_reply_bytes = 8 << 20;
  struct err e;
  t.b.ep.headers = secrets_read("headers", &t.env.headers, &e);
  assert_non_null(t.b.ep.headers);
  t.ops = ops;
  t.n_ops = n_ops;
  t.link = link_open(&t.b.r, dialect, &t.b.ep, &t.env, NULL, 64, &events, &t);
  assert_non_null(t.link);
  assert_int_equal(t.opened + t.ends, 0);
  bench_run(&t.b);
  bench_stop(&t.b);
  return t;
}

static const enum worker_op step_only[] = {OP_STEP};
static const enum worker_op episode[] = {OP_RESET, OP_STEP, OP_STATE, OP_STEP};

// Runs against a peer with that script.
static struct run against(void (*serve)(struct peer *, int), enum worker_dialect dialect, const enum worker_op *ops, int n_ops)
{
  struct peer p;
  peer_start(&p, serve, NULL);
  struct run t = run_at(p.address, dialect, ops, n_ops, (struct run){0});
  peer_stop(&p);
  return t;
}

static void assert_lost(const struct run *t, const char *word)
{
  assert_int_equal(t->ends, 1);
  assert_int_equal(t->end_err.code, CODE_ABORTED);
  assert_string_equal(t->end_err.reason, "SESSION_LOST");
  if (!strstr(t->end_err.msg, word))
    fail_msg("'%s' is not in: %s", word, t->end_err.msg);
  assert_false(t->capacity);
}

static void assert_never_opened(const struct run *t, const char *word)
{
  assert_int_equal(t->opened, 0);
  assert_int_equal(t->ends, 1);
  assert_int_equal(t->end_err.code, CODE_UNAVAILABLE);
  assert_string_equal(t->end_err.reason, "WORKER_UNREACHABLE");
  if (!strstr(t->end_err.msg, word))
    fail_msg("'%s' is not in: %s", word, t->end_err.msg);
}

// --- a worker that works ---------------------------------------------------------------------------------------------------------------

static void serve_well(struct peer *p, int fd)
{
  struct buf in = {0};
  if (peer_upgrade(p, fd))
    while (peer_frame(fd, &in) == 1) {
      p->requests++;
      peer_send(fd, 0x89, "ping");
      PEER_EXPECT(p, peer_frame(fd, &in) == 10 && !strcmp(in.p, "ping")); // each ping is answered, with its payload
      if (p->requests == 3) {
        peer_send(fd, 0x81, "{\"type\":\"state\",\"data\":{\"step_count\":1}}");
      } else {
        peer_send(fd, 0x01, "{\"type\":\"observation\",\"data\":{\"obser");
        peer_send(fd, 0x89, "");
        peer_send(fd, 0x80, "vation\":{\"x\":1},\"reward\":1.5}}");
        PEER_EXPECT(p, peer_frame(fd, &in) == 10);
      }
    }
  buf_free(&in);
}

static void an_episode(void **state)
{
  (void)state;
  struct peer p;
  peer_start(&p, serve_well, NULL);
  struct pair token = {(char[]){"Authorization"}, (char[]){"Bearer x"}, VALUE_PLAIN};
  struct run t = run_at(p.address, DIALECT_WS, episode, 4, (struct run){.env.headers = {&token, 1}});
  assert_int_equal(t.replies, 4);
  assert_int_equal(t.ends, 0);
  assert_string_equal(t.observation, "{\"x\":1}");
  peer_stop(&p);
  assert_int_equal(p.requests, 4);
  assert_non_null(strstr(p.head, "GET /ws HTTP/1.1\r\nHost: 127.0.0.1:"));
  assert_non_null(strstr(p.head, "\r\nAuthorization: Bearer x\r\n"));
}

static void over_a_unix_socket(void **state)
{
  (void)state;
  struct peer p;
  char path[64];
  snprintf(path, sizeof path, "/tmp/envgate-test-%d.sock", (int)getpid());
  peer_start(&p, serve_well, path);
  struct run t = run_at(p.address, DIALECT_WS, episode, 4, (struct run){0});
  peer_stop(&p);
  unlink(path);
  assert_int_equal(t.replies, 4);
}

static void serve_big(struct peer *p, int fd)
{
  struct buf in = {0};
  if (peer_upgrade(p, fd)) {
    usleep(100000); // so that the client's socket fills up
    PEER_EXPECT(p, peer_frame(fd, &in) == 1 && in.n == big_action.n + 23 && in.p[in.n - 2] == 'x');
    static char text[60001];
    memset(text, ' ', 60000);
    for (int i = 0; i < 50; i++)
      peer_send(fd, i ? 0x00 : 0x01, text);
    peer_send(fd, 0x80, OBSERVATION);
    peer_frame(fd, &in);
  }
  buf_free(&in);
}

static void large_messages(void **state)
{
  (void)state;
  static char action[4 << 20];
  memset(action, 'x', sizeof action);
  big_action = (struct str){action, sizeof action};
  struct run t = against(serve_big, DIALECT_WS, step_only, 1);
  big_action = STR("");
  assert_int_equal(t.replies, 1);
  assert_int_equal(t.reply_size, 50 * 60000 + sizeof OBSERVATION - 1);
  assert_string_equal(t.observation, "{\"x\":1}");
}

static void serve_step(struct peer *p, int fd)
{
  struct buf in = {0};
  if (peer_upgrade(p, fd) && peer_frame(fd, &in) == 1)
    peer_send(fd, 0x81, OBSERVATION);
  int opcode = peer_frame(fd, &in);
  p->requests = opcode == 8 ? 1 : 0;
  buf_free(&in);
}

static void closed_inside_a_reply(void **state)
{
  (void)state;
  struct peer p;
  peer_start(&p, serve_step, NULL);
  struct run t = run_at(p.address, DIALECT_WS, step_only, 1, (struct run){.close_in_reply = true});
  peer_stop(&p);
  assert_int_equal(t.replies, 1);
  assert_int_equal(t.ends, 0);
  assert_int_equal(p.requests, 1); // it was told by a close frame
}

// --- workers that never open -----------------------------------------------------------------------------------------------------------

static void serve_403(struct peer *p, int fd)
{
  if (peer_head(p, fd))
    peer_say(fd, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
}

static void serve_wrong_accept(struct peer *p, int fd)
{
  if (peer_head(p, fd))
    peer_say(fd, "HTTP/1.1 101 Go\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n");
}

static void serve_half_head(struct peer *p, int fd)
{
  if (peer_head(p, fd))
    peer_say(fd, "HTTP/1.1 101 Go\r\nUpgr");
}

static void upgrades_that_fail(void **state)
{
  (void)state;
  struct run t = against(serve_403, DIALECT_WS, step_only, 1);
  assert_never_opened(&t, "403");
  t = against(serve_wrong_accept, DIALECT_WS, step_only, 1);
  assert_never_opened(&t, "Sec-WebSocket-Accept");
  t = against(serve_half_head, DIALECT_WS, step_only, 1);
  assert_never_opened(&t, "during the WebSocket upgrade");
}

static void nobody_listens(void **state)
{
  (void)state;
  struct peer p;
  peer_start(&p, serve_403, NULL);
  peer_stop(&p);
  struct run t = run_at(p.address, DIALECT_WS, step_only, 1, (struct run){0});
  assert_never_opened(&t, "Connection refused");
  t = run_at(p.address, DIALECT_HTTP, step_only, 1, (struct run){0});
  assert_never_opened(&t, "Connection refused");
}

// --- workers that refuse ---------------------------------------------------------------------------------------------------------------

// Says it and reads on till the client has closed: to close a socket with something unread resets it, and what was said may be lost.
static void refuse(struct peer *p, int fd, const char *words)
{
  struct buf in = {0};
  if (peer_upgrade(p, fd))
    peer_send(fd, 0x81, words);
  while (peer_frame(fd, &in) >= 0)
    ;
  buf_free(&in);
}

static void serve_full(struct peer *p, int fd)
{
  refuse(p, fd, "{\"type\":\"error\",\"data\":{\"message\":\"m\",\"code\":\"CAPACITY_REACHED\",\"active_sessions\":4,\"max_sessions\":4}}");
}

static void serve_no_factory(struct peer *p, int fd)
{
  refuse(p, fd, "{\"type\":\"error\",\"data\":{\"message\":\"no ROM\",\"code\":\"FACTORY_ERROR\"}}");
}

static void refusals(void **state)
{
  (void)state;
  for (int n_ops = 0; n_ops <= 1; n_ops++) { // with a request on its way already, and without
    struct run t = against(serve_full, DIALECT_WS, step_only, n_ops);
    assert_int_equal(t.ends, 1);
    assert_int_equal(t.replies, 0);
    assert_true(t.capacity);
    assert_int_equal(t.max_sessions, 4);
    assert_string_equal(t.end_err.reason, "NO_CAPACITY");
    t = against(serve_no_factory, DIALECT_WS, step_only, n_ops);
    assert_int_equal(t.ends, 1);
    assert_in_range(t.replies, 0, n_ops); // as a reply, or with the upgrade: either way the end tells
    assert_false(t.capacity);
    assert_int_equal(t.end_err.code, CODE_FAILED_PRECONDITION);
    assert_non_null(strstr(t.end_err.msg, "no ROM"));
  }
}

// --- workers that are lost -------------------------------------------------------------------------------------------------------------

static void serve_unasked(struct peer *p, int fd)
{
  struct buf in = {0};
  if (peer_upgrade(p, fd))
    peer_send(fd, 0x81, OBSERVATION);
  peer_frame(fd, &in);
  buf_free(&in);
}

static void serve_two_replies(struct peer *p, int fd)
{
  struct buf in = {0};
  if (peer_upgrade(p, fd) && peer_frame(fd, &in) == 1) {
    static const char twice[] = "\x81\x4F" OBSERVATION "\x81\x4F" OBSERVATION;
    _Static_assert(sizeof OBSERVATION - 1 == 0x4F, "the length in the frames' headers");
    peer_write(fd, twice, sizeof twice - 1);
    while (peer_frame(fd, &in) >= 0)
      ;
  }
  buf_free(&in);
}

static void what_nobody_asked_for(void **state)
{
  (void)state;
  struct run t = against(serve_unasked, DIALECT_WS, NULL, 0);
  assert_lost(&t, "nobody asked");
}

// A second reply in the same read as the first. The next request is running by then (sent from inside the reply): it must not get that reply.
static void two_replies_to_one_request(void **state)
{
  (void)state;
  static const enum worker_op steps[] = {OP_STEP, OP_STEP};
  struct run t = against(serve_two_replies, DIALECT_WS, steps, 2);
  assert_int_equal(t.replies, 1);
  assert_lost(&t, "nobody asked");
}

static void crash(struct peer *p, int fd, const char *last_words, size_t n)
{
  struct buf in = {0};
  if (peer_upgrade(p, fd) && peer_frame(fd, &in) == 1)
    peer_write(fd, last_words, n);
  buf_free(&in);
}

static void serve_crash(struct peer *p, int fd)
{
  crash(p, fd, "", 0);
}

static void serve_crash_in_frame(struct peer *p, int fd)
{
  crash(p, fd, "\x81\x50{\"type\":", 10);
}

static void serve_restart(struct peer *p, int fd)
{
  crash(p, fd, "\x88\x09\x03\xF4restart", 11);
}

static void serve_masked(struct peer *p, int fd)
{
  crash(p, fd, "\x81\x82\0\0\0\0{}", 8);
}

static void serve_binary(struct peer *p, int fd)
{
  crash(p, fd, "\x82\x02{}", 4);
}

static void serve_too_big(struct peer *p, int fd)
{
  crash(p, fd, "\x81\x7F\0\0\0\0\x01\0\0\0{", 11);
}

static void losses(void **state)
{
  (void)state;
  const struct {
    void (*serve)(struct peer *, int);
    const char *word;
  } rows[] = {{serve_crash, "without a close frame"},
              {serve_crash_in_frame, "without a close frame"},
              {serve_restart, "code 1012: restart"},
              {serve_masked, "masked"},
              {serve_binary, "binary"},
              {serve_too_big, "8388608 bytes (max_reply_bytes)"}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    struct run t = against(rows[i].serve, DIALECT_WS, step_only, 1);
    assert_int_equal(t.replies, 0);
    assert_lost(&t, rows[i].word);
  }
}

static void serve_garbage(struct peer *p, int fd)
{
  crash(p, fd, "\x81\x05hello", 7);
}

static void garbage_is_an_error_and_the_end(void **state)
{
  (void)state;
  struct run t = against(serve_garbage, DIALECT_WS, step_only, 1);
  assert_int_equal(t.replies, 1);
  assert_string_equal(t.reply_err.reason, "WORKER_PROTOCOL");
  assert_int_equal(t.ends, 1);
  assert_int_equal(t.end_err.code, CODE_ABORTED);
}

static void serve_nothing(struct peer *p, int fd)
{
  struct buf in = {0};
  if (peer_upgrade(p, fd))
    while (peer_frame(fd, &in) >= 0)
      p->requests++;
  buf_free(&in);
}

static void a_step_that_takes_too_long(void **state)
{
  (void)state;
  struct peer p;
  peer_start(&p, serve_nothing, NULL);
  struct run t = run_at(p.address, DIALECT_WS, step_only, 1, (struct run){.env.step_timeout_s = 0.1});
  peer_stop(&p);
  assert_lost(&t, "step_timeout_s");
}

// --- WebSocket timers ------------------------------------------------------------------------------------------------------------------

struct ended {
  struct reactor *r;
  enum ws_end why;
  char msg[128];
};

static void ws_opened(void *ctx)
{
  (void)ctx;
}

static void ws_message(void *ctx, struct shared *message)
{
  (void)ctx;
  shared_unref(message);
}

static void ws_ended(void *ctx, enum ws_end why, int code, const struct err *e)
{
  (void)code;
  struct ended *t = ctx;
  t->why = why;
  snprintf(t->msg, sizeof t->msg, "%.100s", e->msg);
  reactor_stop(t->r);
}

static struct ended ws_against(void (*serve)(struct peer *, int), const struct ws_options *o)
{
  static const struct ws_events ws_events = {.open = ws_opened, .message = ws_message, .end = ws_ended};
  struct peer p;
  struct bench b;
  peer_start(&p, serve, NULL);
  bench_start(&b, p.address);
  struct ended t = {.r = &b.r};
  assert_non_null(ws_open(&b.r, &b.ep, o, &ws_events, &t));
  bench_run(&b);
  bench_stop(&b);
  peer_stop(&p);
  return t;
}

static void serve_hang(struct peer *p, int fd)
{
  char c;
  peer_head(p, fd);
  while (peer_read(fd, &c, 1))
    ;
}

static void silence(void **state)
{
  (void)state;
  struct ended t = ws_against(serve_hang, &(struct ws_options){.path = "/ws", .connect_timeout = 50 * NSEC_PER_MS});
  assert_int_equal(t.why, WS_END_REFUSED);
  assert_non_null(strstr(t.msg, "0.05 s"));
  t = ws_against(serve_nothing, &(struct ws_options){.path = "/ws", .ping_interval = 50 * NSEC_PER_MS});
  assert_int_equal(t.why, WS_END_SILENT);
}

static void serve_pongs(struct peer *p, int fd)
{
  struct buf in = {0};
  if (peer_upgrade(p, fd))
    for (int i = 0; i < 5; i++) {
      PEER_EXPECT(p, peer_frame(fd, &in) == 9);
      peer_send(fd, 0x8A, "");
    }
  peer_send(fd, 0x88, "");
  buf_free(&in);
}

static void pongs_keep_it_alive(void **state)
{
  (void)state;
  struct ended t = ws_against(serve_pongs, &(struct ws_options){.path = "/ws", .ping_interval = 20 * NSEC_PER_MS});
  assert_int_equal(t.why, WS_END_CLOSED);
}

// --- HTTP ------------------------------------------------------------------------------------------------------------------------------

static void serve_http(struct peer *p, int fd)
{
  while (peer_request(p, fd)) {
    if (strstr(p->head, "/health"))
      peer_reply(fd, 200, "{\"status\":\"healthy\"}");
    else if (strstr(p->head, "/state"))
      peer_reply(fd, 200, "{\"step_count\":1}");
    else
      peer_reply(fd, 200, "{\"observation\":{\"x\":1},\"reward\":null,\"done\":true}");
  }
}

static void http_episode(void **state)
{
  (void)state;
  struct peer p;
  peer_start(&p, serve_http, NULL);
  struct run t = run_at(p.address, DIALECT_HTTP, episode, 4, (struct run){0});
  peer_stop(&p);
  assert_int_equal(t.replies, 4);
  assert_int_equal(t.ends, 0);
  assert_string_equal(t.observation, "{\"x\":1}");
  assert_int_equal(p.connections, 1); // kept alive
  assert_int_equal(p.requests, 5);    // with /health
}

// Takes a second step and dies: on a connection that was used before, libcurl would by itself send it again.
static void serve_http_crash(struct peer *p, int fd)
{
  while (peer_request(p, fd) && p->requests < 3)
    peer_reply(fd, 200, "{\"observation\":{}}");
}

static void http_steps_are_never_sent_twice(void **state)
{
  (void)state;
  struct peer p;
  peer_start(&p, serve_http_crash, NULL);
  static const enum worker_op steps[] = {OP_STEP, OP_STEP};
  struct run t = run_at(p.address, DIALECT_HTTP, steps, 2, (struct run){0});
  peer_stop(&p);
  assert_int_equal(t.replies, 1);
  assert_lost(&t, "sent already");
  assert_int_equal(p.requests, 3); // /health and two steps
}

static void http_health_fails(void **state)
{
  (void)state;
  struct run t = against(serve_403, DIALECT_HTTP, step_only, 1);
  assert_never_opened(&t, "403");
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(an_episode),
      cmocka_unit_test(over_a_unix_socket),
      cmocka_unit_test(large_messages),
      cmocka_unit_test(closed_inside_a_reply),
      cmocka_unit_test(upgrades_that_fail),
      cmocka_unit_test(nobody_listens),
      cmocka_unit_test(refusals),
      cmocka_unit_test(what_nobody_asked_for),
      cmocka_unit_test(two_replies_to_one_request),
      cmocka_unit_test(losses),
      cmocka_unit_test(garbage_is_an_error_and_the_end),
      cmocka_unit_test(a_step_that_takes_too_long),
      cmocka_unit_test(silence),
      cmocka_unit_test(pongs_keep_it_alive),
      cmocka_unit_test(http_episode),
      cmocka_unit_test(http_steps_are_never_sent_twice),
      cmocka_unit_test(http_health_fails),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
