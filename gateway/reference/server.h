// SPDX-License-Identifier: Apache-2.0
// The reference worker's one thread: its sockets and what they share. Private to reference/.
#ifndef ENVGATE_REFERENCE_SERVER_H
#define ENVGATE_REFERENCE_SERVER_H

#include <microhttpd.h>

#include "base/list.h"
#include "reference/protocol.h"
#include "runtime/reactor.h"

struct ref_server {
  struct reactor reactor;
  struct ref_options options;
  struct ref_protocol protocol;

  struct list sockets;    // every WebSocket connection, and sessions whose step outlives theirs
  uint32_t sessions;      // slots taken
  struct ref_reply reply; // scratch for what is answered at once
  struct buf out;         // scratch: a turn's frames for one socket
  char in[65536];         // scratch: what was read from one socket

  struct MHD_Daemon *http;
  struct io *http_io;
  struct timer http_timer;
  struct turn_end http_turn;
  struct list http_waiting; // requests whose step takes time
  struct ref_env *http_env; // what plain HTTP drives; NULL: a new one for each request

  bool stopping;
};

// ws.c: takes over an upgraded connection with what has been read from it already.
void ref_ws_open(struct ref_server *s, int fd, struct MHD_UpgradeResponseHandle *handle, struct str already_read);
// Says goodbye to every WebSocket (1012). reactor_stop follows when all have gone and no step runs.
void ref_ws_stop(struct ref_server *s);

// http.c: serves the listening socket, which it takes over.
bool ref_http_start(struct ref_server *s, int listen_fd);
// Has libmicrohttpd go on after something outside its sockets has changed.
void ref_http_wake(struct ref_server *s);
// Takes no more connections.
void ref_http_quiesce(struct ref_server *s);
void ref_http_stop(struct ref_server *s);

#endif
