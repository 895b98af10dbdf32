// SPDX-License-Identifier: Apache-2.0
// What frames an HTTP/1 message, checked without I/O. Two readers that disagree on where a request ends are a way to smuggle one past the other (RFC 9112, section
// 11.2), so whatever is not plain is refused. docs/SECURITY.md says what libmicrohttpd lets be seen here.
#ifndef ENVGATE_FRONT_HTTP_STRICT_H
#define ENVGATE_FRONT_HTTP_STRICT_H

#include <stdbool.h>

#include "base/str.h"

// Zeroed, it is ready.
struct http_strict {
  int hosts, lengths, encodings;
  size_t length;     // Content-Length; 0: none
  bool asks;         // Expect: 100-continue
  const char *fault; // the first that was found, or NULL
};

// Takes a header field as it came.
void http_strict_field(struct http_strict *s, struct str name, struct str value);

// What is wrong with a request of these fields, for whoever sent it; NULL: nothing. `version` is as in the request line ("HTTP/1.1").
const char *http_strict_fault(struct http_strict *s, struct str verb, struct str target, struct str version);

#endif
