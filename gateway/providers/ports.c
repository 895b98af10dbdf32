// SPDX-License-Identifier: Apache-2.0
#include "providers/ports.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

// A socket bound to `number` (0: any) as servers bind theirs. -1 with errno set.
static int bind_to(uint32_t address, uint16_t *number)
{
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return -1;
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(*number), .sin_addr = {htonl(address)}};
  socklen_t len = sizeof a;
  // Connections that a former server left in TIME_WAIT do not count, nor does a socket that is bound and does not listen.
  int one = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(fd, (struct sockaddr *)&a, sizeof a) == 0 && getsockname(fd, (struct sockaddr *)&a, &len) == 0) {
    *number = ntohs(a.sin_port);
    return fd;
  }
  int cause = errno;
  close(fd);
  errno = cause;
  return -1;
}

bool port_take(struct port *p, uint16_t wanted, struct err *e)
{
  *p = (struct port){.number = wanted};
  p->holder = bind_to(INADDR_ANY, &p->number);
  if (p->holder >= 0)
    return true;
  *p = NO_PORT;
  if (wanted)
    return err_set(e, CODE_FAILED_PRECONDITION, REASON_WORKER_START_FAILED, "the worker's port %u: %s", (unsigned)wanted, strerror(errno));
  return err_set(e, CODE_UNAVAILABLE, REASON_WORKER_START_FAILED, "no free port for the worker: %s", strerror(errno));
}

void port_unhold(struct port *p)
{
  if (p->holder >= 0)
    close(p->holder);
  p->holder = -1;
}

void port_give(struct port *p)
{
  port_unhold(p);
  *p = NO_PORT;
}

bool port_is_taken(uint16_t number)
{
  int fd = bind_to(INADDR_LOOPBACK, &number);
  if (fd < 0)
    return errno == EADDRINUSE;
  close(fd);
  return false;
}
