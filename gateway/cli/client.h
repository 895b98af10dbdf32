// SPDX-License-Identifier: Apache-2.0
// A client of a running gateway's REST API, for the subcommands that look after it. It ends at once, and cleanly, by SIGINT and SIGTERM.
#ifndef ENVGATE_CLI_CLIENT_H
#define ENVGATE_CLI_CLIENT_H

#include "base/buf.h"
#include "base/err.h"
#include "base/str.h"

struct client;

enum client_result {
  CLIENT_DONE,
  CLIENT_REFUSED,     // the gateway's answer was an error
  CLIENT_UNREACHED,   // there was no answer, or it broke off
  CLIENT_INTERRUPTED, // by a signal
};

struct client_request {
  const char *verb, *path; // "/v1/…", percent-encoded (client_path)
  struct str body;         // JSON; "": none
  // For a stream: each line as it comes. False ends it as if it had ended by itself. NULL: the answer is one piece.
  bool (*line)(void *ctx, struct str line);
  void *ctx;
};

// `server` is http://HOST:PORT, https://HOST:PORT or unix:/PATH. `token`, a bearer token, is sent with each request; NULL or "": none. From here on SIGINT and SIGTERM are this client's. NULL: `e`.
struct client *client_open(const char *server, const char *token, struct err *e);
void client_close(struct client *c);

// Does one request. `reply` gets the answer if it is no stream. On CLIENT_REFUSED and CLIENT_UNREACHED `e` has the message, and `reason` (of client_reason)
// the stable reason if there was one.
enum client_result client_call(struct client *c, const struct client_request *q, struct buf *reply, struct err *e);
const char *client_reason(const struct client *c);

// Appends `text` percent-encoded, for a path or a query. False: out of memory.
bool client_escape(struct buf *out, const char *text);

#endif
