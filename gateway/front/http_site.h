// SPDX-License-Identifier: Apache-2.0
// What a gateway has on its port beside its API: a few paths of its own.
#ifndef ENVGATE_FRONT_HTTP_SITE_H
#define ENVGATE_FRONT_HTTP_SITE_H

#include "base/buf.h"
#include "runtime/reactor.h"

struct http_request;

struct http_route {
  const char *path;                       // a segment may be "*", which stands for any
  void (*answer)(struct http_request *q); // once the request is whole; now or later
  bool post;                              // it takes POST in place of GET and HEAD
};

struct websocket_request;

// A path that callers open a WebSocket at (websocket.h).
struct http_socket {
  const char *path; // a segment may be "*", which stands for a name
  // Once the request is whole. Answers it: by websocket_upgrade or otherwise.
  void (*open)(struct websocket_request *u);
};

struct http_site {
  const struct http_route *routes;                   // ends with a NULL path
  const struct http_socket *sockets;                 // the same; NULL: none
  bool (*ready)(struct reactor *r, struct buf *why); // does the gateway take new sessions? Appends what /readyz tells of that
};

// The gateway's own (http_routes.c).
extern const struct http_route http_routes[];
extern const struct http_socket http_sockets[];

#endif
