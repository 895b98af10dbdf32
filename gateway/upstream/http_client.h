// SPDX-License-Identifier: Apache-2.0
// HTTP/1.1 requests to workers and to the Docker Engine, by libcurl's multi interface: kept alive, TCP, TLS or unix socket.
//
// One http_client a reactor. Everything is asynchronous; callbacks run on the reactor's thread and never inside the call that
// starts a request.
#ifndef ENVGATE_UPSTREAM_HTTP_CLIENT_H
#define ENVGATE_UPSTREAM_HTTP_CLIENT_H

#include <stdbool.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/str.h"
#include "config/secrets.h"
#include "runtime/reactor.h"

// Where a worker is. Copied by whoever keeps it (endpoint_copy).
struct endpoint {
  char *url;               // "http(s)://host:port[/base]", no slash at the end; with a unix socket its host is only for the Host header
  char *unix_path;         // NULL: TCP
  const char *ca_file;     // borrowed from the configuration; NULL: the system's CAs
  struct secrets *headers; // shared by all copies; NULL: none
};

// "http://h:1/x/" or "unix:/path" into an endpoint; ws and wss stand for http and https. False with INVALID_ARGUMENT for anything else.
bool endpoint_parse(struct endpoint *ep, const char *text, struct err *e);
bool endpoint_copy(struct endpoint *to, const struct endpoint *from); // false: out of memory
void endpoint_free(struct endpoint *ep);

struct http_client;
struct http_request;

struct http_reply {
  int status;              // 0: no reply, see err
  struct str body;         // at most max_body bytes; valid during the callback
  struct str content_type; // "" if none
  struct shared *bytes;    // what `body` lies in, with a NUL behind, for who keeps it (shared_ref). NULL: no reply, or `data` got it
  bool sent;               // at least one byte of the request may have reached the peer: a retry could do it twice
  const struct err *err; // why there is no (whole) reply: UNAVAILABLE, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED (body over max_body, or out of memory),
                         // CANCELLED (`data` said so); else NULL
};

struct http_options {
  const char *method;          // a literal: "GET", "POST", "DELETE" …
  const char *path;            // appended to the endpoint's url: "/reset"; copied
  struct str body;             // copied, unless the request is kept: then it must live until `done`, or until the turn of http_cancel ends
  const char *content_type;    // a literal; NULL: no body
  const struct pairs *headers; // beside the endpoint's; copied; NULL: none
  nsec timeout;                // for the whole exchange; 0: none
  nsec connect_timeout;        // 0: 10 s
  size_t max_body;             // 0: 1 MiB
  bool own_connection;         // do not share a kept-alive connection (for streams that last)
  bool kept;                   // after `done` the request waits for http_again, until http_cancel
  // Called exactly once, at the end (of a kept request: once each time).
  void (*done)(void *ctx, const struct http_reply *reply);
  // When set, the body goes here in pieces as it comes (max_body does not apply) and reply.body is empty. False ends the exchange.
  bool (*data)(void *ctx, struct str piece);
  // A large body (FLOW_LARGE) is coming in, and takes `more` bytes than was said before. False: no more is read until http_resume. Nothing may be cancelled or
  // resumed inside. NULL: all is read as it comes.
  bool (*large)(void *ctx, size_t more);
  void *ctx;
};

// Makes what HTTP and WebSockets (ws_client.h) need on this reactor. False when out of memory.
bool http_client_init(struct reactor *r);
// Cancels what runs (without callbacks) and frees.
void http_client_free(struct reactor *r);

// Starts a request. NULL: out of memory, and done is not called.
struct http_request *http_start(struct reactor *r, const struct endpoint *ep, const struct http_options *o);

// Starts a kept request anew, inside its `done` or later: all is as before but path and body. False: out of memory, and done is not called.
bool http_again(struct http_request *q, const char *path, struct str body);

// Reads on after `large` said no. Not from inside callbacks of this request.
void http_resume(struct http_request *q);

// Changes the headers that a kept request has beside the endpoint's, before http_again; copied. False: out of memory, and it must be cancelled.
bool http_set_headers(struct http_request *q, const struct pairs *headers);

// Ends a request; its callbacks are not called any more. Not from inside its own callbacks, but a kept one's `done` may.
void http_cancel(struct http_request *q);

#endif
