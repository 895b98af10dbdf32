// SPDX-License-Identifier: Apache-2.0
#include "serve.h"

#include <curl/curl.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "api/api.h"
#include "api/control.h"
#include "api/health.h"
#include "api/reflection.h"
#include "auth/auth.h"
#include "front/grpc.h"
#include "front/http.h"
#include "front/listener.h"
#include "front/tls.h"
#include "front/websocket.h"
#include "pool/pool.h"
#include "runtime/log.h"
#include "session/session.h"

enum { MAX_REACTORS = 256, DRAIN_POLL_MS = 20, LAST_BYTES_MS = 1000 };

struct gateway;

struct reactor_thread {
  struct reactor reactor;
  struct metrics metrics;
  struct log log;
  struct log_gather gather;
  struct gateway *gateway;
  pthread_t thread;
  bool running;
  struct task drain, hurry, drained, stop; // messages of the shutdown
  struct task health;                      // an environment's launches have begun or ceased to fail
  atomic_bool health_posted;
  struct timer drain_poll;
  bool counted_busy; // in gateway.busy
  nsec last_bytes;   // when connections that have not taken their last bytes are given up; 0: calls still run
};

struct gateway {
  const struct config *config;
  struct log log;
  struct rpc_handler *handlers;
  struct reactor_thread *threads;
  struct reactor **reactors;
  int count;
  uv_signal_t sigterm, sigint;
  bool draining;   // reactor 0
  atomic_int busy; // while it drains: reactors that have calls
  int undrained;   // reactor 0: reactors whose calls and sessions are not gone yet
};

// --- shutdown: reactor 0 tells each reactor to drain; each reports; then the pools stop; then the reactors -------------------------------------

static void stop_reactor(struct reactor *r, struct task *t)
{
  (void)t;
  reactor_stop(r);
}

static void on_pools_stopped(void *ctx)
{
  struct gateway *g = ctx;
  for (int i = 0; i < g->count; i++) {
    g->threads[i].stop.run = stop_reactor;
    reactor_post(g->reactors[i], &g->threads[i].stop);
  }
}

// On reactor 0.
static void on_drained(struct reactor *r, struct task *t)
{
  struct gateway *g = CONTAINER_OF(t, struct reactor_thread, drained)->gateway;
  if (--g->undrained == 0)
    pools_stop(r, on_pools_stopped, g);
}

// A session's calls may have other reactors as their home, so sessions stay until no reactor has calls.
static bool calls_anywhere(struct reactor_thread *rt)
{
  bool has = rpc_calls(&rt->reactor) > 0 || websockets_open(&rt->reactor) > 0;
  if (has != rt->counted_busy)
    atomic_fetch_add(&rt->gateway->busy, has ? 1 : -1);
  rt->counted_busy = has;
  return atomic_load(&rt->gateway->busy) > 0;
}

static void drain_poll(struct timer *t)
{
  struct reactor_thread *rt = CONTAINER_OF(t, struct reactor_thread, drain_poll);
  struct reactor *r = &rt->reactor;
  if (!calls_anywhere(rt) || r->now >= r->drain_end)
    sessions_close_all(r); // ends what still runs with SESSION_CLOSED
  bool quiet = rpc_calls(r) == 0 && sessions_gone(r);
  if (quiet && !rt->last_bytes)
    rt->last_bytes = r->now + LAST_BYTES_MS * NSEC_PER_MS;
  if (quiet && ((!http_front_count(r) && !grpc_front_count(r) && !websockets_count(r) && !tls_count(r)) || r->now >= rt->last_bytes)) {
    rt->drained.run = on_drained;
    reactor_post(r->all[0], &rt->drained);
    return;
  }
  timer_set(r, t, r->now + DRAIN_POLL_MS * NSEC_PER_MS);
}

// How long calls may run on: workers are to be stopped within the grace, too. One that takes longer than half of it is not waited for at the calls' cost.
static nsec patience(const struct config *c)
{
  double longest = c->inline_common.stop_grace_s, grace = c->shutdown_grace_s;
  for (size_t i = 0; i < c->n_envs; i++)
    longest = c->envs[i].stop_grace_s > longest ? c->envs[i].stop_grace_s : longest;
  longest += (double)LAST_BYTES_MS / 1e3;
  return nsec_from_s(grace - (longest < grace / 2 ? longest : grace / 2));
}

static void drain_reactor(struct reactor *r, struct task *t)
{
  struct reactor_thread *rt = CONTAINER_OF(t, struct reactor_thread, drain);
  r->draining = true;
  listener_stop(r);
  tls_stop(r);
  health_set_serving(r, false);
  if (r->control)
    control_drain(r);
  rpc_drain(r);
  grpc_front_drain(r);
  http_front_drain(r);
  websockets_drain(r);
  r->drain_end = nsec_add(r->now, patience(r->config));
  r->kill_at = nsec_add(r->now, nsec_from_s(r->config->shutdown_grace_s));
  rt->drain_poll.fire = drain_poll;
  calls_anywhere(rt);
  timer_set(r, &rt->drain_poll, r->now + DRAIN_POLL_MS * NSEC_PER_MS); // by then every reactor has counted
}

static void hurry_reactor(struct reactor *r, struct task *t)
{
  (void)t;
  r->drain_end = r->now;
}

static void on_signal(uv_signal_t *handle, int signum)
{
  struct gateway *g = handle->data;
  log_event(&g->log, LOG_INFO, g->draining ? "gateway.hurry" : "gateway.draining", LF_INT("signal", signum));
  for (int i = 0; i < g->count; i++) {
    struct task *t = g->draining ? &g->threads[i].hurry : &g->threads[i].drain;
    t->run = g->draining ? hurry_reactor : drain_reactor;
    reactor_post(g->reactors[i], t);
  }
  if (g->draining) { // a third signal has nothing to add
    uv_signal_stop(&g->sigterm);
    uv_signal_stop(&g->sigint);
  }
  g->draining = true;
}

// --- start ---------------------------------------------------------------------------------------------------------------------------------

// What /readyz says: not ready when it drains, or when no environment is fit to make sessions. Those that are not are named either way.
static bool ready(struct reactor *r, struct buf *why)
{
  size_t broken = 0;
  for (size_t i = 0; i < r->config->n_envs; i++)
    broken += pool_broken(r, i);
  bool fit = !r->draining && broken < r->config->n_envs;
  buf_printf(why, "%s\n", fit ? "ready" : r->draining ? "shutting down" : "no environment can launch workers");
  for (size_t i = 0; broken && i < r->config->n_envs; i++)
    if (pool_broken(r, i))
      buf_printf(why, "launches fail: %s\n", r->config->envs[i].name);
  return fit;
}

static const struct http_site site = {.routes = http_routes, .sockets = http_sockets, .ready = ready};

// All services' handlers in one list.
static struct rpc_handler *join_handlers(void)
{
  const struct rpc_handler *const lists[] = {session_handlers, environment_handlers, worker_handlers, health_handlers, reflection_handlers};
  struct rpc_handler *all = calloc((size_t)envgate_api.method_count + 1, sizeof *all);
  int n = 0;
  for (size_t i = 0; all && i < sizeof lists / sizeof *lists; i++)
    for (const struct rpc_handler *h = lists[i]; h->path && n < envgate_api.method_count; h++)
      all[n++] = *h;
  return all;
}

static void look_at_health(struct reactor *r, struct task *t)
{
  atomic_store(&CONTAINER_OF(t, struct reactor_thread, health)->health_posted, false);
  health_changed(r);
}

// On reactor 0.
static void on_pools_changed(struct reactor *control)
{
  for (int i = 0; i < control->count; i++) {
    struct reactor_thread *rt = CONTAINER_OF(control->all[i], struct reactor_thread, reactor);
    if (!atomic_exchange(&rt->health_posted, true))
      reactor_post(&rt->reactor, &rt->health);
  }
}

static bool start_reactor(struct gateway *g, int index, struct err *e)
{
  struct reactor_thread *rt = &g->threads[index];
  struct reactor *r = &rt->reactor;
  rt->gateway = g;
  rt->health.run = look_at_health;
  if (!reactor_init(r, index, g->reactors, g->count, e))
    return false;
  g->reactors[index] = r;
  rt->log = g->log;
  rt->log.gather = &rt->gather;
  r->log = &rt->log;
  r->metrics = &rt->metrics;
  r->config = g->config;
  r->busy_poll = (nsec)g->config->busy_poll_us * NSEC_PER_US;
  if (!metrics_init(&rt->metrics, envgate_api.method_count) || !http_client_init(r) || !sessions_init(r) || !rpc_init(r, &envgate_api, g->handlers) ||
      !http_front_init(r, &site) || !websockets_init(r) || !health_init(r))
    return err_nomem(e);
  if (index == 0 && !control_init(r))
    return err_nomem(e);
  if (index == 0 && !pools_init(r, e))
    return false;
  return auth_init(r, e) && tls_init(r, e) && grpc_front_init(r, &site, e) && listener_open(r, g->config->listen, e);
}

static void free_reactor(struct reactor_thread *rt)
{
  struct reactor *r = &rt->reactor;
  if (!r->all)
    return;
  listener_free(r);
  tls_stop(r);
  grpc_front_free(r);
  http_front_free(r);
  websockets_free(r);
  tls_free(r);
  health_free(r);
  control_free(r);
  if (r->rpc)
    rpc_free(r);
  if (r->pools)
    pools_free(r);
  if (r->sessions)
    sessions_free(r);
  if (r->http)
    http_client_free(r);
  auth_free(r);
  reactor_free(r);
  log_flush(&rt->log);
  buf_free(&rt->gather.lines);
  metrics_free(&rt->metrics);
}

static void *run_thread(void *arg)
{
  reactor_run(arg);
  return NULL;
}

// Threads other than the main one take no signals: libuv's handlers are reactor 0's.
static bool start_threads(struct gateway *g, struct err *e)
{
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, &before);
  int rc = 0;
  for (int i = 1; i < g->count && !rc; i++) {
    rc = pthread_create(&g->threads[i].thread, NULL, run_thread, g->reactors[i]);
    g->threads[i].running = !rc;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return !rc || err_set(e, CODE_RESOURCE_EXHAUSTED, REASON_INTERNAL, "can't start a thread: %s", strerror(rc));
}

static void stop_threads(struct gateway *g)
{
  for (int i = 1; i < g->count; i++) {
    if (!g->threads[i].running)
      continue;
    g->threads[i].stop.run = stop_reactor;
    reactor_post(g->reactors[i], &g->threads[i].stop);
  }
}

static void watch_signals(struct gateway *g)
{
  signal(SIGPIPE, SIG_IGN);
  uv_signal_init(reactor_uv(g->reactors[0]), &g->sigterm);
  uv_signal_init(reactor_uv(g->reactors[0]), &g->sigint);
  g->sigterm.data = g->sigint.data = g;
  uv_signal_start(&g->sigterm, on_signal, SIGTERM);
  uv_signal_start(&g->sigint, on_signal, SIGINT);
}

// Every session has a socket to its worker, so the soft limit of 1024 is soon reached.
static void raise_descriptor_limit(void)
{
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
}

static int reactors_wanted(const struct config *c)
{
  cpu_set_t allowed;
  int n = (int)c->threads;
  if (!n)
    n = sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? CPU_COUNT(&allowed) : 1;
  return n > MAX_REACTORS ? MAX_REACTORS : n;
}

static void say_hello(const struct gateway *g)
{
  const char *at = listener_address(g->reactors[0]);
  const struct config *c = g->config;
  const char *first = c->n_envs ? c->envs[0].name : "NAME";
  const char *s = c->tls_cert_file ? "s" : "";
  log_event(&g->log, LOG_INFO, "gateway.ready", LF_C("listen", at), LF_INT("reactors", g->count), LF_INT("environments", c->n_envs));
  printf("envgate %s serves on %s:", ENVGATE_VERSION, at);
  for (size_t i = 0; i < c->n_envs; i++)
    printf(" %s", c->envs[i].name);
  printf("\n\nTry, in another terminal:\n");
  if (strncmp(at, "unix:", 5) == 0)
    printf("  curl -s --unix-socket %s --json '{\"environment\": \"%s\"}' http%s://envgate/v1/sessions\n", at + 5, first, s);
  else
    printf("  curl -s --json '{\"environment\": \"%s\"}' http%s://%s/v1/sessions\n"
           "  curl -s --json '{}' http%s://%s/v1/sessions/ID/reset\n"
           "  grpcurl %s%s list\n",
           first, s, at, s, at, *s ? "" : "-plaintext ", at);
  printf("The API: docs/API.md, and /openapi.json.\n");
  fflush(stdout);
}

// Whoever reaches the port may run code in the workers and stop them.
static void warn_if_exposed(const struct gateway *g)
{
  const struct config *c = g->config;
  bool mtls = c->tls_client_ca_file && c->tls_client_cert == CLIENT_CERT_REQUIRED;
  if (listener_is_local(g->reactors[0]))
    return;
  if (!c->auth_file && !mtls)
    log_event(&g->log, LOG_WARN, "gateway.exposed", LF_C("listen", listener_address(g->reactors[0])),
              LF_C("reason", "everybody who reaches this address may do everything: set auth_file, or tls_client_ca_file, or listen on 127.0.0.1"));
  if (c->auth_file && (!c->tls_cert_file || c->tls_plaintext == PLAINTEXT_ALLOW))
    log_event(&g->log, LOG_WARN, "gateway.exposed", LF_C("listen", listener_address(g->reactors[0])),
              LF_C("reason", "tokens may cross the network in plaintext: set tls_cert_file, and leave tls_plaintext at refuse"));
}

static bool start(struct gateway *g, struct err *e)
{
  g->count = reactors_wanted(g->config);
  g->threads = calloc((size_t)g->count, sizeof *g->threads);
  g->reactors = calloc((size_t)g->count, sizeof(struct reactor *));
  g->handlers = join_handlers();
  if (!g->threads || !g->reactors || !g->handlers)
    return err_nomem(e);
  for (int i = 0; i < g->count; i++)
    if (!start_reactor(g, i, e))
      return false;
  pools_on_change(g->reactors[0], on_pools_changed);
  return start_threads(g, e);
}

// Replies of some 10 KiB and more would otherwise make the heap shrink and grow with each call, and its pages be faulted in anew: a quarter of such a call's
// time.
static void keep_heap(void)
{
  mallopt(M_TRIM_THRESHOLD, 256 << 20);
  mallopt(M_TOP_PAD, 4 << 20);
  mallopt(M_MMAP_THRESHOLD, 4 << 20);
}

int serve(const struct config *c)
{
  struct gateway g = {.config = c, .log = {.fd = 2, .level = c->log_level, .format = c->log_format}};
  struct err e;
  raise_descriptor_limit();
  keep_heap();
  if (curl_global_init(CURL_GLOBAL_DEFAULT)) {
    fprintf(stderr, "envgate: libcurl does not start\n");
    return 1;
  }
  bool ok = start(&g, &e);
  if (ok) {
    g.undrained = g.count;
    watch_signals(&g);
    warn_if_exposed(&g);
    say_hello(&g);
    reactor_run(g.reactors[0]);
    signal(SIGTERM, SIG_IGN); // libuv puts back what was before, and one more signal must not end what ends anyway
    signal(SIGINT, SIG_IGN);
    uv_close((uv_handle_t *)&g.sigterm, NULL);
    uv_close((uv_handle_t *)&g.sigint, NULL);
  } else {
    fprintf(stderr, "envgate: %s\n", e.msg);
    stop_threads(&g);
  }
  for (int i = 1; i < g.count; i++)
    if (g.threads && g.threads[i].running)
      pthread_join(g.threads[i].thread, NULL);
  // From the last to the first: the pools are reactor 0's.
  for (int i = g.count; g.threads && i-- > 0;)
    free_reactor(&g.threads[i]);
  curl_global_cleanup();
  if (ok)
    log_event(&g.log, LOG_INFO, "gateway.stopped", LF_INT("reactors", g.count));
  free(g.handlers);
  free(g.threads);
  free(g.reactors);
  return ok ? 0 : 1;
}
