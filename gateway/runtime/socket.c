// SPDX-License-Identifier: Apache-2.0
#include "runtime/socket.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>

static bool is_loopback(const struct sockaddr_storage *addr)
{
  if (addr->ss_family == AF_INET)
    return ntohl(((const struct sockaddr_in *)addr)->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
  const struct in6_addr *in6 = &((const struct sockaddr_in6 *)addr)->sin6_addr;
  return IN6_IS_ADDR_LOOPBACK(in6) || (IN6_IS_ADDR_V4MAPPED(in6) && in6->s6_addr[12] == IN_LOOPBACKNET);
}

void socket_tune(int fd)
{
  struct sockaddr_storage peer = {0};
  socklen_t n = sizeof peer;
  if (getpeername(fd, (struct sockaddr *)&peer, &n) || (peer.ss_family != AF_INET && peer.ss_family != AF_INET6))
    return;
  const int on = 1, idle_s = 60, interval_s = 20, probes = 3;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
  // Where the machine's default is BBR, each send is paced by a timer, which a peer on this machine is no reason for: it is 6 % of a call
  // (docs/BENCHMARKS.md). Reno is built into every kernel.
  static const char simplest[] = "reno";
  if (is_loopback(&peer))
    setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, simplest, sizeof simplest - 1);
}
