// SPDX-License-Identifier: Apache-2.0
#include "providers/ports.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { TRIES = 64 };

static bool is_given(const struct ports *p, uint16_t port)
{
  return p->given[port / 64] >> (port % 64) & 1;
}

// Binds `port` (0: any) as servers do and lets go of it again. Returns the port that it was, or 0 with errno set.
static uint16_t try_bind(uint16_t port)
{
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return 0;
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t len = sizeof a;
  // Connections that a former server left in TIME_WAIT do not count; every common server sets this.
  int one = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  bool ok = bind(fd, (struct sockaddr *)&a, sizeof a) == 0 && getsockname(fd, (struct sockaddr *)&a, &len) == 0;
  int cause = errno;
  close(fd);
  errno = cause;
  return ok ? ntohs(a.sin_port) : 0;
}

uint16_t ports_take(struct ports *p, struct err *e)
{
  for (int i = 0; i < TRIES; i++) {
    uint16_t port = try_bind(0);
    if (!port) {
      err_set(e, CODE_UNAVAILABLE, REASON_WORKER_START_FAILED, "no free port for the worker: %s", strerror(errno));
      return 0;
    }
    if (!is_given(p, port)) {
      p->given[port / 64] |= UINT64_C(1) << (port % 64);
      return port;
    }
  }
  err_set(e, CODE_UNAVAILABLE, REASON_WORKER_START_FAILED, "no free port for the worker: all that were tried belong to other workers");
  return 0;
}

void ports_give(struct ports *p, uint16_t port)
{
  if (port)
    p->given[port / 64] &= ~(UINT64_C(1) << (port % 64));
}

bool port_is_taken(uint16_t port)
{
  return !try_bind(port) && errno == EADDRINUSE;
}
