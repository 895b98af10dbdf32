// SPDX-License-Identifier: Apache-2.0
<<<<<<< HEAD
// Who waits for workers, who is served, and what becomes of workers that end. How many there are is test_fleet.c's.
#include "pool_fixture.h"
=======
// The pools with real processes: this program is also the supervisor and the worker that they launch.
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <curl/curl.h>
#include <openssl/evp.h>

#include "pool/pool.h"
#include "providers/supervise.h"
#include "runtime/metrics.h"

// --- the worker ----------------------------------------------------------------------------------------------------------------------------

// What the worker does beside answering /health, as letters of its argument.
//   w  has a /ws            s  publishes a schema         x  exits with code 7 when asked for /schema
//   u  is unwell: the second /health is answered 500      l  comes up late, after 300 ms
//   d  dies slowly: asked for /schema, it hears nothing more, and exits with code 7 after 150 ms
static void reply(int fd, const char *status, const char *body)
{
  char text[512];
  int n = snprintf(text, sizeof text, "HTTP/1.1 %s\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s", status, strlen(body), body);
  if (write(fd, text, (size_t)n) < 0)
    _exit(1);
}

static void upgrade(int fd, const char *head)
{
  const char *key = strcasestr(head, "sec-websocket-key: ");
  char text[128], accept[64];
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned n;
  if (!key)
    _exit(1);
  snprintf(text, sizeof text, "%.24s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key + 19);
  EVP_Digest(text, strlen(text), digest, &n, EVP_sha1(), NULL);
  EVP_EncodeBlock((unsigned char *)accept, digest, (int)n);
  if (dprintf(fd, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept) < 0)
    _exit(1);
}

__attribute__((noreturn)) static void die_slowly(int listener, int fd)
{
  close(listener);
  close(fd);
  usleep(150000);
  _exit(7);
}

static void serve_one(int listener, int fd, const char *traits)
{
  static int healths;
  char head[4096];
  size_t n = 0;
  while (n < sizeof head - 1) {
    ssize_t got = read(fd, head + n, sizeof head - 1 - n);
    if (got <= 0)
      return;
    n += (size_t)got;
    head[n] = '\0';
    if (strstr(head, "\r\n\r\n"))
      break;
  }
  if (strncmp(head, "GET /health ", 12) == 0)
    reply(fd, strchr(traits, 'u') && healths++ ? "500 Unwell" : "200 OK", "{\"status\":\"healthy\"}");
  else if (strncmp(head, "GET /ws ", 8) == 0 && strchr(traits, 'w'))
    upgrade(fd, head);
  else if (strncmp(head, "GET /schema ", 12) == 0 && strchr(traits, 'x'))
    fprintf(stderr, "the schema was too much\n"), _exit(7);
  else if (strncmp(head, "GET /schema ", 12) == 0 && strchr(traits, 'd'))
    die_slowly(listener, fd);
  else if (strncmp(head, "GET /schema ", 12) == 0 && strchr(traits, 's'))
    reply(fd, "200 OK", "{\"action\":{}}");
  else
    reply(fd, "404 Not Found", "");
}

static int worker_main(const char *path, const char *traits)
{
  struct sockaddr_un a = {.sun_family = AF_UNIX};
  if (strchr(traits, 'l'))
    usleep(300000);
  snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
  int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 16))
    return 1;
  for (;;) {
    int c = accept(fd, NULL, NULL);
    if (c < 0)
      return 1;
    serve_one(fd, c, traits);
    close(c);
  }
}

// --- the frame -----------------------------------------------------------------------------------------------------------------------------

static char self[256];

struct fixture {
  struct reactor r;
  struct reactor *all[1];
  struct metrics metrics;
  struct config config;
  struct env_config env;
  char *args[6];
  char dir[64];
  struct timer guard;
  bool timed_out, stopped;
};

static struct fixture *fixture_new(void)
{
  struct fixture *f = calloc(1, sizeof *f);
  assert_non_null(f);
  static char name[] = "test", process[] = "process", socket[] = "{socket}", worker[] = "fake-worker", traits[] = "ws";
  snprintf(f->dir, sizeof f->dir, "/tmp/envgate-test-pool-XXXXXX");
  assert_non_null(mkdtemp(f->dir));
  f->args[0] = self;
  f->args[1] = worker;
  f->args[2] = socket;
  f->args[3] = traits;
  f->env = (struct env_config){.name = name,
                               .provider = process,
                               .max_workers = 2,
                               .sessions_per_worker = 1,
                               .ready_timeout_s = 10,
                               .worker_idle_s = 60,
                               .stop_grace_s = 5,
                               .command = {f->args, 4}};
  f->config = (struct config){.self = self, .state_dir = f->dir, .envs = &f->env, .n_envs = 1};
  return f;
}

static void fixture_start(struct fixture *f)
{
  struct err e;
  f->all[0] = &f->r;
  assert_true(reactor_init(&f->r, 0, f->all, 1, &e));
  f->r.metrics = &f->metrics;
  f->r.config = &f->config;
  assert_true(metrics_init(&f->metrics, 1));
  assert_true(http_client_init(&f->r));
  assert_true(pools_init(&f->r, &e));
}

static struct pool *the_pool(struct fixture *f)
{
  struct pool *p = pool_find(&f->r, STR("test"));
  assert_non_null(p);
  return p;
}

static void on_guard(struct timer *t)
{
  CONTAINER_OF(t, struct fixture, guard)->timed_out = true;
}

// Runs the loop until `*until` or for so long; whether it came true.
static bool run_for(struct fixture *f, const bool *until, nsec time)
{
  f->timed_out = false;
  f->guard.fire = on_guard;
  assert_true(timer_set(&f->r, &f->guard, clock_mono() + time));
  while (!f->timed_out && !(until && *until))
    reactor_turn(&f->r);
  timer_unset(&f->r, &f->guard);
  return until && *until;
}

static void run_until(struct fixture *f, const bool *until)
{
  assert_true(run_for(f, until, 20 * NSEC_PER_S));
}

static void on_stopped(void *ctx)
{
  struct fixture *f = ctx;
  assert_false(f->stopped);
  f->stopped = true;
}

static void fixture_stop(struct fixture *f)
{
  pools_stop(&f->r, on_stopped, f);
  assert_false(f->stopped);
}

// Stops and frees it all, and looks whether anything is left.
// Who the gateway was is kept in it.
static void remove_dir(const char *dir)
{
  char path[300];
  snprintf(path, sizeof path, "%s/identity", dir);
  assert_int_equal(unlink(path), 0);
  assert_int_equal(rmdir(dir), 0);
}

static void fixture_free(struct fixture *f)
{
  if (!f->stopped)
    fixture_stop(f);
  run_until(f, &f->stopped);
  assert_int_equal(f->metrics.workers[METRIC_WORKER_starting] + f->metrics.workers[METRIC_WORKER_ready] + f->metrics.workers[METRIC_WORKER_stopping],
                   0);
  assert_int_equal(f->metrics.value[METRIC_worker_queue_length], 0);
  pools_free(&f->r);
  http_client_free(&f->r);
  reactor_free(&f->r);
  metrics_free(&f->metrics);
  assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
  assert_int_equal(errno, ECHILD);
  remove_dir(f->dir); // no socket is left
  free(f);
}

static int64_t count(struct fixture *f, enum metric which)
{
  return f->metrics.value[which];
}

static void run_until_count(struct fixture *f, enum metric which, int64_t n)
{
  for (int i = 0; i < 500 && count(f, which) < n; i++)
    run_for(f, NULL, 10 * NSEC_PER_MS);
  assert_int_equal(count(f, which), n);
}

// One who wants a slot.
struct wish {
  struct slot_request q;
  struct slot slot;
  struct err err;
  bool answered, granted;
  int *order, at;
};

static void on_granted(struct slot_request *q, const struct slot *slot, const struct err *e)
{
  struct wish *w = CONTAINER_OF(q, struct wish, q);
  assert_false(w->answered);
  w->answered = true;
  w->granted = slot != NULL;
  if (slot)
    w->slot = *slot;
  else
    w->err = *e;
  if (w->order)
    w->at = ++*w->order;
}

static void ask(struct fixture *f, struct wish *w)
{
  *w = (struct wish){.q.granted = on_granted, .order = w->order};
  list_init(&w->q.link);
  pool_acquire(the_pool(f), &w->q);
}

static void ask_and_get(struct fixture *f, struct wish *w)
{
  ask(f, w);
  run_until(f, &w->answered);
  assert_true(w->granted);
}

static void give_back(struct fixture *f, struct wish *w, enum slot_return how, int64_t max_sessions)
{
  pool_release(the_pool(f), &w->slot, how, max_sessions);
  assert_null(w->slot.endpoint.url);
}
>>>>>>> 1891630 (docker: an Engine's state is shared by its launches: events, pulls with progress, orphans; ports by EXPOSE; spaces; safer defaults)

// --- tests ---------------------------------------------------------------------------------------------------------------------------------

static void test_launches_on_demand(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  fixture_start(f);
  run_for(f, NULL, 20 * NSEC_PER_MS);
  assert_int_equal(count(f, METRIC_workers_started_total), 0);
  int order = 0;
  struct wish a = {.order = &order}, b = {.order = &order}, c = {.order = &order};
  ask(f, &a);
  ask(f, &b);
  ask(f, &c);
  struct pool_stats s = pool_stats(the_pool(f));
  assert_int_equal(s.starting, 2); // max_workers
  assert_int_equal(s.waiting, 3);
  run_until(f, &a.answered);
  run_until(f, &b.answered);
  assert_true(a.granted && b.granted);
  assert_int_equal(a.slot.dialect, DIALECT_WS);
  assert_non_null(a.slot.endpoint.unix_path);
  assert_string_not_equal(a.slot.worker_id, b.slot.worker_id);
  run_for(f, NULL, 100 * NSEC_PER_MS);
  assert_false(c.answered);
  s = pool_stats(the_pool(f));
  assert_int_equal(s.ready, 2);
  assert_int_equal(s.sessions, 2);
  assert_int_equal(s.waiting, 1);
  give_back(f, &b, SLOT_FREE, 0);
  assert_true(c.granted); // the slot passes on at once
  assert_int_equal(a.at, 1);
  assert_int_equal(b.at, 2);
  assert_int_equal(c.at, 3);
  assert_int_equal(count(f, METRIC_workers_started_total), 2);
  give_back(f, &a, SLOT_FREE, 0);
  give_back(f, &c, SLOT_FREE, 0);
  fixture_free(f);
}

static void test_serves_in_order_and_forgets_who_cancels(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  f->env.max_workers = 1;
  fixture_start(f);
  struct wish first, w[4];
  int order = 0;
  first.order = NULL;
  ask_and_get(f, &first);
  for (int i = 0; i < 4; i++) {
    w[i].order = &order;
    ask(f, &w[i]);
  }
  pool_cancel(&w[1].q);
  pool_cancel(&w[1].q); // harmless
  assert_int_equal(pool_stats(the_pool(f)).waiting, 3);
  give_back(f, &first, SLOT_FREE, 0);
  assert_true(w[0].granted && !w[2].answered);
  give_back(f, &w[0], SLOT_FREE, 0);
  give_back(f, &w[2], SLOT_FREE, 0);
  give_back(f, &w[3], SLOT_FREE, 0);
  assert_false(w[1].answered);
  assert_true(w[0].at == 1 && w[2].at == 2 && w[3].at == 3);
  fixture_free(f);
}

static void test_speaks_http_where_there_is_no_ws(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  static char traits[] = "l"; // and comes up late
  f->args[3] = traits;
  f->env.sessions_per_worker = 5;
  f->env.max_workers = 1;
  fixture_start(f);
  struct wish a = {0}, b = {0};
  ask_and_get(f, &a);
  assert_int_equal(a.slot.dialect, DIALECT_HTTP);
  ask(f, &b);
  run_for(f, NULL, 50 * NSEC_PER_MS);
  assert_false(b.answered); // one session is the whole worker
  give_back(f, &a, SLOT_FREE, 0);
  assert_true(b.granted);
  give_back(f, &b, SLOT_FREE, 0);
  fixture_free(f);
}

static void test_stops_idle_workers(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  f->env.worker_idle_s = 0.05;
  fixture_start(f);
  struct wish a = {0};
  ask_and_get(f, &a);
  run_for(f, NULL, 150 * NSEC_PER_MS);
  assert_int_equal(pool_stats(the_pool(f)).ready, 1); // it is in use
  give_back(f, &a, SLOT_FREE, 0);
  run_for(f, NULL, 300 * NSEC_PER_MS);
  struct pool_stats s = pool_stats(the_pool(f));
  assert_int_equal(s.ready + s.starting + s.stopping, 0);
  ask_and_get(f, &a);
  assert_int_equal(count(f, METRIC_workers_started_total), 2);
  assert_int_equal(count(f, METRIC_workers_exited_total), 0);
  give_back(f, &a, SLOT_FREE, 0);
  fixture_free(f);
}

static void test_learns_how_many_sessions_a_worker_takes(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  f->env.sessions_per_worker = 4;
  fixture_start(f);
  struct wish a = {0}, b = {0}, c = {0};
  ask_and_get(f, &a);
  ask_and_get(f, &b);
  assert_string_equal(a.slot.worker_id, b.slot.worker_id);
  give_back(f, &b, SLOT_FULL, 1);
  ask_and_get(f, &b);
  assert_string_not_equal(a.slot.worker_id, b.slot.worker_id); // another was launched
  ask(f, &c);
  run_for(f, NULL, 100 * NSEC_PER_MS);
  assert_false(c.answered);
  give_back(f, &a, SLOT_FREE, 0);
  assert_true(c.granted);
  give_back(f, &b, SLOT_FREE, 0);
  give_back(f, &c, SLOT_FREE, 0);
  fixture_free(f);
}

static void test_waits_for_a_slot_that_is_just_being_freed(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  f->env.max_workers = 1;
  fixture_start(f);
  struct wish a = {0};
  ask_and_get(f, &a);
  give_back(f, &a, SLOT_FULL, 1); // though nobody has it, by our account
  nsec before = clock_mono();
  ask(f, &a);
  assert_false(a.answered);
  run_until(f, &a.answered);
  assert_true(a.granted);
  nsec waited = clock_mono() - before;
  assert_true(waited >= 15 * NSEC_PER_MS && waited < 500 * NSEC_PER_MS);
  give_back(f, &a, SLOT_FREE, 0);
  fixture_free(f);
}

static void test_refuses_when_others_take_all(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  f->env.max_workers = 1;
  fixture_start(f);
  struct wish a = {0};
  int tries = 0;
  nsec before = clock_mono();
  for (;;) {
    ask(f, &a);
    run_until(f, &a.answered);
    if (!a.granted)
      break;
    assert_true(++tries < 20);
    give_back(f, &a, SLOT_FULL, 0);
  }
  assert_true(tries >= 5 && clock_mono() - before < 5 * NSEC_PER_S);
  assert_int_equal(a.err.code, CODE_RESOURCE_EXHAUSTED);
  assert_ptr_equal(a.err.reason, REASON_NO_CAPACITY);
  assert_in_range(a.err.retry_after_ms, 1, 1001);
  run_for(f, NULL, 1100 * NSEC_PER_MS);
  ask_and_get(f, &a); // it is tried again
  give_back(f, &a, SLOT_FREE, 0);
  ask(f, &a);
  assert_true(a.granted); // what worked once is trusted at once
  give_back(f, &a, SLOT_FREE, 0);
  fixture_free(f);
}

static void test_replaces_a_worker_that_does_not_answer(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  static char unwell[] = "wu";
  f->args[3] = unwell;
  f->env.max_workers = 1;
  fixture_start(f);
  struct wish a = {0}, b = {0};
  ask_and_get(f, &a);
  ask(f, &b);
  give_back(f, &a, SLOT_LOST, 0);
  assert_false(b.answered); // not before it was probed
  run_until(f, &b.answered);
  assert_true(b.granted);
  assert_string_not_equal(a.slot.worker_id, b.slot.worker_id);
  struct err e;
  assert_true(pool_worker_epitaph(&f->r, a.slot.worker_id, &e));
  assert_string_equal(e.msg, "the worker's /health answered 500");
  assert_int_equal(count(f, METRIC_workers_exited_total), 1);
  give_back(f, &b, SLOT_FREE, 0);
  fixture_free(f);
}

static void test_keeps_a_worker_that_is_well(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  f->env.max_workers = 1;
  fixture_start(f);
  struct wish a = {0}, b = {0};
  ask_and_get(f, &a);
  give_back(f, &a, SLOT_LOST, 0);
  ask_and_get(f, &b);
  assert_string_equal(a.slot.worker_id, b.slot.worker_id);
  struct err e;
  assert_false(pool_worker_epitaph(&f->r, a.slot.worker_id, &e));
  give_back(f, &b, SLOT_FREE, 0);
  fixture_free(f);
}

static void test_tells_why_a_launch_failed(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  static char script[] = "echo not today; echo 'no \033[1mlicence\033[0m' >&2; exit 3";
  use_shell(f, script);
  fixture_start(f);
  struct wish a = {0}, b = {0}, c = {0};
  ask(f, &a);
  ask(f, &b);
  ask(f, &c);
  run_until(f, &c.answered);
  assert_true(a.answered && b.answered);
  assert_int_equal(a.err.code, CODE_FAILED_PRECONDITION);
  assert_ptr_equal(a.err.reason, REASON_WORKER_START_FAILED);
  assert_string_equal(a.err.msg, "the worker exited with code 3\nIts last output:\nnot today\nno licence");
  assert_int_equal(count(f, METRIC_workers_failed_total), 2);
  // Launches that fail in a row wait longer and longer.
  nsec last = 0;
  for (int i = 0; i < 2; i++) {
    nsec before = clock_mono();
    ask(f, &a);
    run_until(f, &a.answered);
    nsec took = clock_mono() - before;
    assert_true(took > last + last / 2 && took < 2 * NSEC_PER_S);
    last = took;
  }
  assert_int_equal(count(f, METRIC_workers_started_total), 4);
  fixture_free(f);
}

static void test_one_failed_launch_does_not_fail_all(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  // The first to take the folder becomes a worker; the other fails.
  static char script[1024];
  snprintf(script, sizeof script, "if mkdir %s/first; then exec '%s' fake-worker \"$0\" w; fi; sleep 0.1; exit 1", f->dir, self);
  use_shell(f, script);
  fixture_start(f);
  struct wish a = {0}, b = {0};
  ask(f, &a);
  ask(f, &b);
  run_until(f, &a.answered);
  assert_true(a.granted);
  run_until(f, &b.answered);
  assert_false(b.granted);
  give_back(f, &a, SLOT_FREE, 0);
  char path[128];
  snprintf(path, sizeof path, "%s/first", f->dir);
  rmdir(path);
  fixture_free(f);
}

static void test_gives_up_on_a_worker_that_is_not_ready_in_time(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  static char script[] = "echo still loading; exec sleep 100";
  use_shell(f, script);
  f->env.ready_timeout_s = 0.3;
  fixture_start(f);
  struct wish a = {0};
  ask(f, &a);
  run_until(f, &a.answered);
  assert_false(a.granted);
  assert_int_equal(a.err.code, CODE_FAILED_PRECONDITION);
  assert_non_null(strstr(a.err.msg, "ready_timeout_s is 0.3\nIts last output:\nstill loading"));
  fixture_free(f);
}

static void test_kills_what_ignores_sigterm_with_all_descendants(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  // A grandchild in a session of its own, whose parent is gone, holds a file open for as long as it lives.
  static char script[1024];
  snprintf(script, sizeof script,
           "trap '' TERM; (setsid sh -c \"trap '' TERM; mkfifo %s/alive; echo; cat %s/alive\" &) ; exec '%s' fake-worker \"$0\" w", f->dir, f->dir,
           self);
  use_shell(f, script);
  f->env.stop_grace_s = 0.2;
  fixture_start(f);
  struct wish a = {0};
  ask_and_get(f, &a);
  give_back(f, &a, SLOT_FREE, 0);
  char path[128];
  snprintf(path, sizeof path, "%s/alive", f->dir);
  run_for(f, NULL, 200 * NSEC_PER_MS);
  assert_int_equal(access(path, F_OK), 0);
  nsec before = clock_mono();
  fixture_stop(f);
  run_until(f, &f->stopped);
  nsec took = clock_mono() - before;
  assert_true(took >= 190 * NSEC_PER_MS && took < 2 * NSEC_PER_S);
  // Nobody reads the fifo any more.
  assert_true(uv_fs_open(NULL, &(uv_fs_t){0}, path, O_WRONLY | O_NONBLOCK, 0, NULL) == UV_ENXIO);
  unlink(path);
  fixture_free(f);
}

struct schema_result {
  bool done;
  char text[64];
  struct err err;
};

static void on_schema(void *ctx, struct str schema, const struct err *e)
{
  struct schema_result *s = ctx;
  assert_false(s->done);
  s->done = true;
  if (e)
    s->err = *e;
  else
    snprintf(s->text, sizeof s->text, "%.*s", STR_ARG(schema));
}

static void test_fetches_the_schema_once(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  f->env.worker_idle_s = 0.05;
  fixture_start(f);
  struct schema_result a = {0}, b = {0}, c = {0};
  pool_schema(the_pool(f), on_schema, &a); // launches a worker
  pool_schema(the_pool(f), on_schema, &b);
  run_until(f, &a.done);
  assert_true(b.done);
  assert_string_equal(a.text, "{\"action\":{}}");
  assert_string_equal(b.text, "{\"action\":{}}");
  pool_schema(the_pool(f), on_schema, &c);
  assert_true(c.done);
  assert_string_equal(c.text, "{\"action\":{}}");
  assert_int_equal(count(f, METRIC_workers_started_total), 1);
  run_for(f, NULL, 300 * NSEC_PER_MS);
  struct pool_stats s = pool_stats(the_pool(f));
  assert_int_equal(s.ready + s.stopping, 0); // it was not left running
  fixture_free(f);
}

static void test_says_when_there_is_no_schema(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  static char traits[] = "w";
  f->args[3] = traits;
  fixture_start(f);
  struct schema_result a = {0};
  pool_schema(the_pool(f), on_schema, &a);
  run_until(f, &a.done);
  assert_int_equal(a.err.code, CODE_UNIMPLEMENTED);
  assert_ptr_equal(a.err.reason, REASON_SCHEMA_NOT_PUBLISHED);
  fixture_free(f);
}

static void test_remembers_how_a_worker_died(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  static char traits[] = "wx";
  f->args[3] = traits;
  fixture_start(f);
  struct wish a = {0};
  ask_and_get(f, &a);
  struct schema_result s = {0};
  pool_schema(the_pool(f), on_schema, &s);
  run_until(f, &s.done);
  assert_int_equal(s.err.code, CODE_UNAVAILABLE);
  run_until_count(f, METRIC_workers_exited_total, 1);
  struct err e;
  assert_true(pool_worker_epitaph(&f->r, a.slot.worker_id, &e));
  assert_string_equal(e.msg, "the worker exited with code 7\nIts last output:\nthe schema was too much");
  assert_false(pool_worker_epitaph(&f->r, "", &e));
  assert_int_equal(pool_stats(the_pool(f)).ready, 0);
  give_back(f, &a, SLOT_LOST, 0); // of a worker that is gone already
  ask_and_get(f, &a);
  give_back(f, &a, SLOT_FREE, 0);
  fixture_free(f);
}

// Its /health is refused well before its end is known, and yet its end is what is told.
static void test_waits_to_learn_how_a_worker_died(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  static char traits[] = "wd";
  f->args[3] = traits;
  f->env.max_workers = 1;
  fixture_start(f);
  struct wish a = {0}, b = {0};
  ask_and_get(f, &a);
  ask(f, &b);
  struct schema_result s = {0};
  pool_schema(the_pool(f), on_schema, &s);
  run_until(f, &s.done);
  give_back(f, &a, SLOT_LOST, 0);
  run_until(f, &b.answered);
  assert_true(b.granted);
  struct err e;
  assert_true(pool_worker_epitaph(&f->r, a.slot.worker_id, &e));
  assert_string_equal(e.msg, "the worker exited with code 7");
  give_back(f, &b, SLOT_FREE, 0);
  fixture_free(f);
}

static void test_static_workers(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  char path[100], url[128], none[128];
  snprintf(path, sizeof path, "%s/static", f->dir);
  snprintf(url, sizeof url, "unix:%s", path);
  snprintf(none, sizeof none, "unix:%s-none", path);
  static char traits[] = "w", provider[] = "static";
  char *urls[] = {none, url};
  pid_t pid = fork();
  if (pid == 0) {
    close_range(3, ~0U, 0);
    _exit(worker_main(path, traits));
  }
  f->env.provider = provider;
  f->env.urls = (struct strings){urls, 2};
  f->env.max_workers = 1; // the urls count, not this
  f->env.worker_idle_s = 0.01;
  fixture_start(f);
  struct wish a = {0};
  ask_and_get(f, &a); // by the one that is up
  assert_string_equal(a.slot.endpoint.unix_path, path);
  give_back(f, &a, SLOT_FREE, 0);
  run_for(f, NULL, 100 * NSEC_PER_MS);
  assert_int_equal(pool_stats(the_pool(f)).ready, 1); // never stopped
  kill(pid, SIGKILL);
  assert_int_equal(waitpid(pid, NULL, 0), pid);
  unlink(path);
  fixture_free(f);
}

static void test_refuses_while_it_drains(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  f->env.max_workers = 1;
  fixture_start(f);
  struct wish a = {0}, b = {0}, c = {0};
  ask_and_get(f, &a);
  ask(f, &b);
  fixture_stop(f);
  assert_true(b.answered && !b.granted);
  assert_ptr_equal(b.err.reason, REASON_DRAINING);
  ask(f, &c);
  assert_true(c.answered && !c.granted);
  assert_int_equal(c.err.code, CODE_UNAVAILABLE);
  run_until(f, &f->stopped);
  give_back(f, &a, SLOT_LOST, 0); // a session may be later than its worker
  fixture_free(f);
}

static void test_refuses_a_path_that_is_too_long(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  char dir[200];
  snprintf(dir, sizeof dir, "%s/%0100d", f->dir, 0);
  f->config.state_dir = dir;
  fixture_start(f);
  struct wish a = {0};
  ask(f, &a);
  assert_true(a.answered && !a.granted);
  assert_non_null(strstr(a.err.msg, "state_dir"));
  remove_dir(dir);
  fixture_free(f);
}

static int run(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_launches_on_demand),
      cmocka_unit_test(test_serves_in_order_and_forgets_who_cancels),
      cmocka_unit_test(test_speaks_http_where_there_is_no_ws),
      cmocka_unit_test(test_stops_idle_workers),
      cmocka_unit_test(test_learns_how_many_sessions_a_worker_takes),
      cmocka_unit_test(test_waits_for_a_slot_that_is_just_being_freed),
      cmocka_unit_test(test_refuses_when_others_take_all),
      cmocka_unit_test(test_replaces_a_worker_that_does_not_answer),
      cmocka_unit_test(test_keeps_a_worker_that_is_well),
      cmocka_unit_test(test_tells_why_a_launch_failed),
      cmocka_unit_test(test_one_failed_launch_does_not_fail_all),
      cmocka_unit_test(test_gives_up_on_a_worker_that_is_not_ready_in_time),
      cmocka_unit_test(test_kills_what_ignores_sigterm_with_all_descendants),
      cmocka_unit_test(test_fetches_the_schema_once),
      cmocka_unit_test(test_says_when_there_is_no_schema),
      cmocka_unit_test(test_remembers_how_a_worker_died),
      cmocka_unit_test(test_waits_to_learn_how_a_worker_died),
      cmocka_unit_test(test_static_workers),
      cmocka_unit_test(test_refuses_while_it_drains),
      cmocka_unit_test(test_refuses_a_path_that_is_too_long),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(int argc, char **argv)
{
  return fixture_main(argc, argv, run);
}
