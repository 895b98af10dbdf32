// SPDX-License-Identifier: Apache-2.0
// A WebSocket client (RFC 6455) for workers: libcurl connects (DNS, TLS, unix socket), wslay makes and reads the frames.
//
// Pings are answered. Fragments are joined. No extension is offered: permessage-deflate costs the worker more than it saves. Frames out are
// masked with unpredictable keys (RFC 6455 section 5.3). Callbacks run on the reactor's thread, never inside ws_open or ws_send.
#ifndef ENVGATE_UPSTREAM_WS_CLIENT_H
#define ENVGATE_UPSTREAM_WS_CLIENT_H

#include "upstream/http_client.h"

struct ws;

// Why a socket ended.
enum ws_end {
  WS_END_CLOSED,   // the peer sent a close frame; code and reason are its own (1005: it gave none)
  WS_END_LOST,     // TCP ended or failed with no close frame: a crash
  WS_END_SILENT,   // our pings were not answered: half open
  WS_END_PROTOCOL, // the peer broke the protocol or sent a message over max_message; or sent a binary frame
  WS_END_REFUSED,  // no connection, TLS failure, or the connect timeout
  WS_END_STATUS,   // the upgrade was answered by another status than 101; `code` is that status
};

struct ws_events {
  // The upgrade succeeded.
  void (*open)(void *ctx);
  // One whole text message, not yet validated as UTF-8. `msg` has one reference, which passes to the callee. Its bytes end in a NUL, which is not counted.
  void (*message)(void *ctx, struct shared *msg);
  // A large message (FLOW_LARGE) is coming in, and takes `more` bytes than was said before. False: no more is read until ws_resume, neither of it nor of what
  // is behind it; the peer may think that we are gone if that takes long. Nothing may be closed inside. NULL: all is read as it comes.
  bool (*large)(void *ctx, size_t more);
  // The end: called exactly once unless ws_close came first; the ws is freed when it returns. `e` says more (UNAVAILABLE and a message for callers).
  void (*end)(void *ctx, enum ws_end why, int code, const struct err *e);
};

struct ws_options {
  const char *path;            // "/ws"; copied
  const struct pairs *headers; // of the upgrade, beside the endpoint's; copied; NULL: none
  nsec connect_timeout;        // for connection, TLS and upgrade; 0: 10 s
  nsec ping_interval;          // after so much silence a ping goes out, and after as much again WS_END_SILENT; 0: no pings
  size_t max_message;          // 0: 104857600
};

// Starts to connect. NULL: out of memory, and no callback comes. `events` must outlive the ws.
struct ws *ws_open(struct reactor *r, const struct endpoint *ep, const struct ws_options *o, const struct ws_events *events, void *ctx);

// Sends one text message of `n` pieces (which are copied or written before it returns). Only after open. False: out of memory, or over 16 MiB unsent;
// nothing was sent then. A connection that fails shows as `end`.
bool ws_send(struct ws *w, const struct str *pieces, int n);

// How often it has read from its socket. A message that is handed over while this is what it was at ws_send was received before that, and so can't be its reply.
uint64_t ws_reads(const struct ws *w);

// Reads on after `large` said no. It does not look at the socket before it returns.
void ws_resume(struct ws *w);

// Sends a close frame (if open), closes when the peer has answered or after a second, and frees; no callback comes any more, from now on. May be called
// from inside any of its callbacks. NULL is fine.
void ws_close(struct ws *w, int code);

#endif
