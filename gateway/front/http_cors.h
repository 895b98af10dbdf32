// SPDX-License-Identifier: Apache-2.0
// Browsers' requests from pages of another origin (the CORS protocol, https://fetch.spec.whatwg.org/#http-cors-protocol): a page may call the gateway when
// cors_allowed_origins has its origin. The carriers put what is said here into every answer, errors, too, so that the page can read them.
#ifndef ENVGATE_FRONT_HTTP_CORS_H
#define ENVGATE_FRONT_HTTP_CORS_H

#include "front/http_request.h"

enum { CORS_HEADERS = 4 };

// Looks at a request whose header is there. A preflight of an allowed origin is answered at once, as it shows no credential: then true.
bool http_cors_start(struct http_request *q);

// Puts the fields of its answer into `to`; returns their number, which is 0 without the option. Their strings stay.
size_t http_cors_headers(const struct http_request *q, struct header to[CORS_HEADERS]);

#endif
