// SPDX-License-Identifier: Apache-2.0
#include "reference/reference.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "reference/server.h"

// --- listening -----------------------------------------------------------------------------------------------------------------------------

static int fail(const char *listen_on, const char *why)
{
  fprintf(stderr, "envgate worker: cannot listen on %s: %s\n", listen_on, why);
  return -1;
}

static int bound(int fd, const struct sockaddr *address, socklen_t n, const char *listen_on)
{
  if (bind(fd, address, n) == 0 && listen(fd, 4096) == 0)
    return fd;
  int why = errno;
  close(fd);
  return fail(listen_on, strerror(why));
}

static const char unix_prefix[] = "unix:";

static bool is_unix(const char *listen_on)
{
  return strncmp(listen_on, unix_prefix, sizeof unix_prefix - 1) == 0;
}

static int listen_unix(const char *listen_on)
{
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  const char *path = listen_on + sizeof unix_prefix - 1;
  if (!*path || strlen(path) >= sizeof address.sun_path)
    return fail(listen_on, "the path must have 1 to 107 characters");
  memcpy(address.sun_path, path, strlen(path));
  struct stat st;
  if (stat(path, &st) == 0 && S_ISSOCK(st.st_mode))
    unlink(path); // a worker that crashed left it
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  return fd < 0 ? fail(listen_on, strerror(errno)) : bound(fd, (struct sockaddr *)&address, sizeof address, listen_on);
}

static int listen_tcp(const char *listen_on)
{
  char host[256];
  const char *colon = strrchr(listen_on, ':'), *from = listen_on, *to = colon;
  if (!colon || (size_t)(colon - listen_on) >= sizeof host)
    return fail(listen_on, "give HOST:PORT or unix:PATH");
  if (*from == '[' && to > from && to[-1] == ']') { // [::1]:8000
    from++;
    to--;
  }
  snprintf(host, sizeof host, "%.*s", (int)(to - from), from);
  struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM}, *found;
  int rc = getaddrinfo(*host ? host : NULL, colon + 1, &hints, &found);
  if (rc != 0)
    return fail(listen_on, gai_strerror(rc));
  int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd >= 0) {
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    fd = bound(fd, found->ai_addr, found->ai_addrlen, listen_on);
  } else {
    fail(listen_on, strerror(errno));
  }
  freeaddrinfo(found);
  return fd;
}

// The one line on stdout: callers wait for it, and learn the port from it.
static void announce(int fd, const char *listen_on)
{
  struct sockaddr_storage address;
  socklen_t n = sizeof address;
  char host[128] = "", port[16] = "";
  if (!is_unix(listen_on) && getsockname(fd, (struct sockaddr *)&address, &n) == 0 &&
      getnameinfo((struct sockaddr *)&address, n, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV) == 0)
    printf(strchr(host, ':') ? "listening on [%s]:%s\n" : "listening on %s:%s\n", host, port);
  else
    printf("listening on %s\n", listen_on);
  fflush(stdout);
}

// --- life ----------------------------------------------------------------------------------------------------------------------------------

// Each WebSocket is a descriptor, and the usual soft limit is 1024.
static void raise_descriptor_limit(void)
{
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
}

static void wait_ms(int64_t ms)
{
  struct timespec t = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
  while (nanosleep(&t, &t) != 0 && errno == EINTR)
    ;
}

struct lifetime {
  struct timer end;
  int exit_code;
};

static void on_lifetime_over(struct timer *t)
{
  exit(CONTAINER_OF(t, struct lifetime, end)->exit_code);
}

// The first signal asks; a second one, when a step does not end, insists.
static void on_signal(uv_signal_t *handle, int number)
{
  (void)number;
  struct ref_server *s = handle->data;
  if (s->stopping) {
    reactor_stop(&s->reactor);
    return;
  }
  s->stopping = true;
  ref_http_quiesce(s);
  ref_ws_stop(s);
}

static void watch_signals(struct ref_server *s, uv_signal_t handles[2])
{
  static const int numbers[2] = {SIGTERM, SIGINT};
  signal(SIGPIPE, SIG_IGN);
  for (int i = 0; i < 2; i++) {
    uv_signal_init(reactor_uv(&s->reactor), &handles[i]);
    handles[i].data = s;
    uv_signal_start(&handles[i], on_signal, numbers[i]);
  }
}

static bool run(struct ref_server *s, int listen_fd, nsec started)
{
  struct err e;
  struct reactor *all[1] = {&s->reactor};
  struct lifetime lifetime = {.end.fire = on_lifetime_over, .exit_code = s->options.exit_code};
  uv_signal_t signals[2];
  if (!reactor_init(&s->reactor, 0, all, 1, &e)) {
    fprintf(stderr, "envgate worker: %s\n", e.msg);
    return false;
  }
  watch_signals(s, signals);
  bool serves = ref_http_start(s, listen_fd);
  if (serves) {
    if (s->options.exit_after_ms >= 0)
      timer_set(&s->reactor, &lifetime.end, nsec_add(started, (nsec)s->options.exit_after_ms * NSEC_PER_MS));
    announce(listen_fd, s->options.listen);
    reactor_run(&s->reactor);
  } else {
    fprintf(stderr, "envgate worker: the HTTP server did not start\n");
  }
  ref_http_stop(s);
  for (int i = 0; i < 2; i++)
    uv_close((uv_handle_t *)&signals[i], NULL);
  reactor_free(&s->reactor);
  return serves;
}

static int serve(struct ref_server *s)
{
  const struct ref_options *o = &s->options;
  nsec started = clock_mono();
  bool dies_first = o->exit_after_ms >= 0 && o->exit_after_ms <= o->boot_ms;
  wait_ms(dies_first ? o->exit_after_ms : o->boot_ms);
  if (dies_first)
    return o->exit_code;
  raise_descriptor_limit();
  int fd = is_unix(o->listen) ? listen_unix(o->listen) : listen_tcp(o->listen);
  if (fd < 0)
    return EXIT_FAILURE;
  bool ok = run(s, fd, started);
  if (is_unix(o->listen))
    unlink(o->listen + sizeof unix_prefix - 1);
  return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

int reference_main(int argc, char **argv)
{
  struct ref_server *s = calloc(1, sizeof *s);
  if (!s)
    return EXIT_FAILURE;
  list_init(&s->sockets);
  s->protocol.options = &s->options;
  enum ref_parse parsed = ref_options_parse(&s->options, argc, argv);
  int status = parsed == REF_PARSED ? serve(s) : parsed == REF_HELP_SHOWN ? EXIT_SUCCESS : 2;
  ref_protocol_free(&s->protocol);
  buf_free(&s->reply.text);
  buf_free(&s->out);
  free(s);
  return status;
}
