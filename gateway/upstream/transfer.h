// SPDX-License-Identifier: Apache-2.0
// libcurl's multi interface on a reactor: what http_client.c and ws_client.c share, and nobody else includes.
//
// libcurl must not be called from inside its own callbacks. So a transfer is only queued by transfer_start and transfer_end, and a turn_end
// does the work.
#ifndef ENVGATE_UPSTREAM_TRANSFER_H
#define ENVGATE_UPSTREAM_TRANSFER_H

#include <curl/curl.h>

#include "base/list.h"
#include "runtime/reactor.h"
#include "upstream/http_client.h"

enum { TRANSFER_EASY_KEPT = 32 };

struct http_client {
  struct reactor *r;
  CURLM *multi;
  struct timer timer;                            // when libcurl wants to be called
  struct turn_end turn;                          // adds what starts, removes what ended, calls libcurl
  bool due;                                      // libcurl wants to be called this turn
  bool starving;                                 // some transfer is starved
  struct list starting, running, resting, ended; // struct transfer
  struct watch **watches;                        // by descriptor; NULL: not watched
  int n_watches;
  struct shared_pool replies;     // memory for HTTP replies
  struct ws_pool *ws;             // what WebSockets share: ws_client.c's own
  CURL *kept[TRANSFER_EASY_KEPT]; // handles that are not in use: one costs 5 KiB and some time to make
  int n_kept;
};

// The first member of whoever transfers. Its state is the list it is on.
struct transfer {
  struct list link;
  struct http_client *client;
  CURL *easy;
  bool in_multi;
  bool own_ca;                                     // the handle has a CA file of its own and no way back to the system's, so it is not kept
  bool starved;                                    // out of memory to watch its socket
  bool keeps_socket;                               // it has its connection, and only libcurl will ever watch that
  void (*done)(struct transfer *t, CURLcode code); // it is over, well or not; not after transfer_end
  void (*release)(struct transfer *t);             // after transfer_end: nobody uses it any more, and it may be freed
  char why[CURL_ERROR_SIZE];                       // libcurl's words for what failed; empty: it has none
};

// Prepares a transfer with a handle for `ep` at `url`: everything is set that does not depend on the kind of transfer. False when out of memory.
bool transfer_init(struct transfer *t, struct reactor *r, const struct endpoint *ep, const char *url);

// Starts it at the end of this turn, for the first time or anew after transfer_rest.
void transfer_start(struct transfer *t);

// Takes a transfer that is over from libcurl, so that its handle's options may be changed and it may be started anew. From `done` only.
void transfer_rest(struct transfer *t);

// Ends it: no `done` any more, `release` at the end of this turn (or, from http_client_free, at once). From anywhere, in any state, once.
void transfer_end(struct transfer *t);

// Fills `e` (UNAVAILABLE, WORKER_UNREACHABLE) with why `t` could not reach its peer.
void transfer_err(const struct transfer *t, CURLcode code, const struct endpoint *ep, struct err *e);

// For http_client_init and http_client_free. NULL: out of memory. To free it drops all WebSockets, without callbacks.
struct ws_pool *ws_pool_new(struct reactor *r);
void ws_pool_free(struct ws_pool *p);

#endif
