// SPDX-License-Identifier: Apache-2.0
// What every connection's socket is set to, whoever opened it.
#ifndef ENVGATE_RUNTIME_SOCKET_H
#define ENVGATE_RUNTIME_SOCKET_H

// Sets up a connected socket: no Nagle delay, peers that vanish without a word are noticed in two minutes, and no congestion control beyond the simplest
// where there is no network in between. Unix sockets need nothing. Best effort: what the kernel refuses is left as it was.
void socket_tune(int fd);

#endif
