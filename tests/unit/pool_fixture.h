// SPDX-License-Identifier: Apache-2.0
// A gateway's pools with real processes: the test's program is also the supervisor and the worker that they launch.
#ifndef ENVGATE_TESTS_POOL_FIXTURE_H
#define ENVGATE_TESTS_POOL_FIXTURE_H

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
//   b  is busy: from the second /health on it takes 6 s   h  hangs on /ws: accepts, and never answers
//   d  dies slowly: asked for /schema, it hears nothing more, and exits with code 7 after 150 ms
static void reply(int fd, const char *status, const char *body)
{
  char text[512];
  int n = snprintf(text, sizeof text, "HTTP/1.1 %s\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s", status, strlen(body), body);
  if (write(fd, text, (size_t)n) < 0)
    return; // whoever asked has given up
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

// From the second /health on: as a worker that steps on its event loop, it hears nothing meanwhile.
static void be_busy(const char *traits, int healths)
{
  if (strchr(traits, 'b') && healths)
    usleep(6000000);
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
  bool health = strncmp(head, "GET /health ", 12) == 0;
  if (health)
    be_busy(traits, healths);
  if (health)
    reply(fd, healths++ && strchr(traits, 'u') ? "500 Unwell" : "200 OK", "{\"status\":\"healthy\"}");
  else if (strncmp(head, "GET /ws ", 8) == 0 && strchr(traits, 'h'))
    usleep(100000);
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
  signal(SIGPIPE, SIG_IGN);
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
  f->config = (struct config){.self = self, .state_dir = f->dir, .max_launches = 8, .envs = &f->env, .n_envs = 1};
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

// Who the gateway was may be kept in it.
static void remove_dir(const char *dir)
{
  char path[300];
  snprintf(path, sizeof path, "%s/lock", dir);
  unlink(path);
  assert_int_equal(rmdir(dir), 0);
}

// Stops and frees it all, and looks whether anything is left.
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
  *w = (struct wish){.q = {.granted = on_granted, .asked = clock_mono()}, .order = w->order};
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

static void use_shell(struct fixture *f, char *script)
{
  static char sh[] = "/bin/sh", c[] = "-c", socket[] = "{socket}";
  f->args[0] = sh;
  f->args[1] = c;
  f->args[2] = script;
  f->args[3] = socket;
}

// What a test's main does; `run` runs its group.
static int fixture_main(int argc, char **argv, int (*run)(void))
{
  if (argc > 1 && strcmp(argv[1], "supervise") == 0)
    return supervise_main(argc, argv);
  if (argc == 4 && strcmp(argv[1], "fake-worker") == 0)
    return worker_main(argv[2], argv[3]);
  ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
  if (n <= 0 || curl_global_init(CURL_GLOBAL_DEFAULT))
    return 1;
  int failed = run();
  curl_global_cleanup();
  return failed;
}

#endif
