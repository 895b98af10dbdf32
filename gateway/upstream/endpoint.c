// SPDX-License-Identifier: Apache-2.0
// Where a worker is: struct endpoint of http_client.h.
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "upstream/http_client.h"

static bool refuse(struct err *e, const char *why)
{
  return err_set(e, CODE_INVALID_ARGUMENT, REASON_INVALID_REQUEST, "the worker's address %s; it should look like http://host:port or unix:/path",
                 why);
}

static bool parse_unix(struct endpoint *ep, const char *path, struct err *e)
{
  if (path[0] != '/')
    return refuse(e, "has no absolute path behind unix:");
  if (strlen(path) >= sizeof((struct sockaddr_un *)0)->sun_path)
    return refuse(e, "has a path that is too long for a unix socket (107 bytes)");
  ep->url = strdup("http://localhost");
  ep->unix_path = strdup(path);
  if (ep->url && ep->unix_path)
    return true;
  endpoint_free(ep);
  return err_nomem(e);
}

static bool has(CURLU *u, CURLUPart part)
{
  char *text = NULL;
  bool there = !curl_url_get(u, part, &text, 0);
  curl_free(text);
  return there;
}

static const char *url_fault(CURLU *u, const char *text)
{
  if (curl_url_set(u, CURLUPART_URL, text, 0))
    return "is no URL";
  char *scheme = NULL;
  bool known = !curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) && (!strcmp(scheme, "http") || !strcmp(scheme, "https"));
  curl_free(scheme);
  if (!known)
    return "has another scheme than http, https, ws and wss";
  if (!has(u, CURLUPART_HOST))
    return "has no host";
  if (has(u, CURLUPART_USER) || has(u, CURLUPART_PASSWORD))
    return "has a user or password (set a header instead)";
  if (has(u, CURLUPART_QUERY) || has(u, CURLUPART_FRAGMENT))
    return "has a query or fragment";
  return NULL;
}

static bool parse_url(struct endpoint *ep, CURLU *u, const char *text, struct err *e)
{
  const char *fault = url_fault(u, text);
  if (fault)
    return refuse(e, fault);
  char *whole = NULL;
  if (curl_url_get(u, CURLUPART_URL, &whole, 0))
    return err_nomem(e);
  size_t n = strlen(whole);
  while (n && whole[n - 1] == '/')
    n--;
  ep->url = strndup(whole, n);
  curl_free(whole);
  return ep->url || err_nomem(e);
}

// A worker has HTTP and WebSocket on one port, so ws and wss are but other names of http and https. NULL: out of memory.
static char *as_http(const char *text)
{
  char *url = NULL;
  bool secure = !strncmp(text, "wss://", 6);
  if (!secure && strncmp(text, "ws://", 5) != 0)
    return strdup(text);
  return asprintf(&url, "http%s://%s", secure ? "s" : "", strchr(text, '/') + 2) < 0 ? NULL : url;
}

bool endpoint_parse(struct endpoint *ep, const char *text, struct err *e)
{
  *ep = (struct endpoint){0};
  if (!strncmp(text, "unix:", 5))
    return parse_unix(ep, text + 5, e);
  CURLU *u = curl_url();
  char *url = as_http(text);
  bool ok = u && url ? parse_url(ep, u, url, e) : err_nomem(e);
  free(url);
  curl_url_cleanup(u);
  return ok;
}

bool endpoint_copy(struct endpoint *to, const struct endpoint *from)
{
  *to = *from;
  to->url = strdup(from->url);
  to->unix_path = from->unix_path ? strdup(from->unix_path) : NULL;
  to->headers = secrets_ref(from->headers);
  if (to->url && !from->unix_path == !to->unix_path)
    return true;
  endpoint_free(to);
  return false;
}

void endpoint_free(struct endpoint *ep)
{
  free(ep->url);
  free(ep->unix_path);
  secrets_unref(ep->headers);
  *ep = (struct endpoint){0};
}
