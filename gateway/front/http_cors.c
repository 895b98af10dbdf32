// SPDX-License-Identifier: Apache-2.0
#include "front/http_cors.h"

#include "config/config.h"

// What a page may read of an answer, beside what every page may: what Connect, gRPC-Web and REST say there.
#define EXPOSED                                                                                                         \
  "grpc-status, grpc-message, grpc-status-details-bin, grpc-encoding, grpc-accept-encoding, connect-content-encoding, " \
  "connect-accept-encoding, content-encoding, accept-encoding, x-request-id, retry-after, www-authenticate, allow"

// The option's item that allows the origin, or NULL. One that names it wins over "*", which gives less.
static const char *allowed(const struct strings *origins, struct str origin)
{
  const char *any = NULL;
  for (size_t i = 0; origin.n && i < origins->n; i++) {
    if (str_eq(str_c(origins->at[i]), origin))
      return origins->at[i];
    if (strcmp(origins->at[i], "*") == 0)
      any = origins->at[i];
  }
  return any;
}

// Which header fields a page sends is up to it and to forward_headers, so those that it asks for are allowed as they stand. The carriers let no line end into
// a field, and copy.
static void answer_preflight(struct http_request *q)
{
  struct http_head head = {.status = 204};
  struct str fields = call_header(q->call, STR("access-control-request-headers"));
  http_put(&head, "access-control-allow-methods", "GET, HEAD, POST, PUT, PATCH, DELETE");
  if (fields.n)
    http_put(&head, "access-control-allow-headers", fields.p);
  http_put(&head, "access-control-max-age", "7200"); // Chromium takes no more
  q->carrier->answer_static(q, &head, STR(""));
  call_drop(q->call);
  q->call = NULL;
}

bool http_cors_start(struct http_request *q)
{
  if (!q->r->config->cors_allowed_origins.n)
    return false;
  struct call *c = http_call(q, &http_rest_front, CODEC_REST, "http");
  if (!c)
    return true; // answered: out of memory
  q->allowed_origin = allowed(&q->r->config->cors_allowed_origins, call_header(c, STR("origin")));
  if (!q->allowed_origin || !str_eq(q->method, STR("OPTIONS")) || !call_header(c, STR("access-control-request-method")).n)
    return false;
  answer_preflight(q);
  return true;
}

size_t http_cors_headers(const struct http_request *q, struct header to[CORS_HEADERS])
{
  size_t n = 0;
  if (!q->r->config->cors_allowed_origins.n)
    return 0;
  to[n++] = (struct header){STR("vary"), STR("Origin")}; // also where there is none: caches must not give that answer to a page
  if (!q->allowed_origin)
    return n;
  bool any = strcmp(q->allowed_origin, "*") == 0;
  to[n++] = (struct header){STR("access-control-allow-origin"), str_c(q->allowed_origin)};
  to[n++] = (struct header){STR("access-control-expose-headers"), STR(EXPOSED)};
  if (!any) // cookies and client certificates
    to[n++] = (struct header){STR("access-control-allow-credentials"), STR("true")};
  return n;
}
