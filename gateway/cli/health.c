// SPDX-License-Identifier: Apache-2.0
// `envgate health`: for probes in images without a shell or curl.
#include <curl/curl.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "upstream/http_client.h"

#define PATIENCE (5 * NSEC_PER_S)

struct question {
  struct reactor r;
  const char *url, *path;
  bool well;
};

static void on_answer(void *ctx, const struct http_reply *reply)
{
  struct question *q = ctx;
  q->well = reply->status == 200;
  if (!q->well && reply->status)
    fprintf(stderr, "envgate health: %s%s answered %d: %.*s\n", q->url, q->path, reply->status, STR_ARG(reply->body));
  else if (!q->well)
    fprintf(stderr, "envgate health: %s\n", reply->err->msg);
  reactor_stop(&q->r);
}

static void ask(struct question *q, struct err *e)
{
  struct endpoint ep;
  if (!endpoint_parse(&ep, q->url, e))
    return;
  const struct http_options o = {.method = "GET", .path = q->path, .timeout = PATIENCE, .done = on_answer, .ctx = q};
  if (http_start(&q->r, &ep, &o))
    reactor_run(&q->r);
  else
    err_nomem(e);
  endpoint_free(&ep);
}

int cli_health(int argc, char **argv)
{
  struct question q = {.url = "http://127.0.0.1:8080", .path = "/readyz"};
  struct err e = {0};
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
      return cli_help("health");
    if (strcmp(argv[i], "--live") == 0)
      q.path = "/healthz";
    else if (argv[i][0] == '-' || i + 1 < argc)
      return cli_usage("health", "takes --live and one URL");
    else
      q.url = argv[i];
  }
  if (curl_global_init(CURL_GLOBAL_DEFAULT) || !reactor_init(&q.r, 0, NULL, 1, &e))
    return EXIT_FAILED;
  if (!http_client_init(&q.r))
    err_nomem(&e);
  else
    ask(&q, &e);
  if (e.code)
    fprintf(stderr, "envgate health: %s\n", e.msg);
  http_client_free(&q.r);
  reactor_free(&q.r);
  curl_global_cleanup();
  return q.well ? EXIT_OK : EXIT_FAILED;
}
