// SPDX-License-Identifier: Apache-2.0
// An environment's schemas and metadata, as its workers publish them.
#include <stdlib.h>

#include "base/json.h"
#include "pool/pools.h"

#define FETCH_TIMEOUT (10 * NSEC_PER_S)
enum { SCHEMA_MAX = 1 << 20 };

static const char *const paths[DOCUMENTS] = {[DOCUMENT_SCHEMA] = "/schema", [DOCUMENT_METADATA] = "/metadata"};

struct schema_waiter {
  struct schema_waiter *next;
  enum document which;
  void (*done)(void *ctx, struct str text, const struct err *e);
  void *ctx;
};

// Answers all who wait for a document, the first to come first; who comes out of a callback is not among them.
static void answer(struct pool *p, enum document which, struct str text, const struct err *e)
{
  struct schema_waiter *w, *wait = NULL, **wait_end = &wait, **at = &p->schema_waiters;
  while ((w = *at)) {
    if (w->which != which) {
      at = &w->next;
      continue;
    }
    *at = w->next;
    w->next = NULL;
    *wait_end = w;
    wait_end = &w->next;
  }
  while ((w = wait)) {
    wait = w->next;
    w->done(w->ctx, text, e);
    free(w);
  }
}

// Lets the worker go that was being asked.
static void end_fetch(struct pool *p)
{
  struct worker *w = p->schema_worker;
  p->schema_worker = NULL;
  p->schema_fetch = NULL;
  w->holds--;
  pool_let_go(p, w);
}

void schema_fail(struct pool *p, const struct err *e)
{
  if (p->schema_fetch) {
    http_cancel(p->schema_fetch);
    end_fetch(p);
  }
  for (enum document which = 0; which < DOCUMENTS; which++)
    answer(p, which, (struct str){0}, e);
}

// Keeps the reply's body if it is what it should be.
static bool keep(struct pool *p, enum document which, const struct http_reply *reply, struct err *e)
{
  const char *path = paths[which];
  if (!reply->status)
    return err_set(e, CODE_UNAVAILABLE, REASON_WORKER_UNREACHABLE, "the worker's %s: %s", path, reply->err ? reply->err->msg : "no reply");
  if (reply->status == 404)
    return err_set(e, CODE_UNIMPLEMENTED, REASON_SCHEMA_NOT_PUBLISHED, "the workers of %s publish no %s", p->env->name,
                   which == DOCUMENT_SCHEMA ? "schemas" : "metadata");
  if (reply->status != 200)
    return err_set(e, CODE_INTERNAL, REASON_WORKER_PROTOCOL, "the worker's %s answered %d", path, reply->status);
  enum json_type type;
  if (!json_check(reply->body, JSON_DEPTH, path, &type, NULL) || type != JSON_OBJECT)
    return err_set(e, CODE_INTERNAL, REASON_WORKER_PROTOCOL, "the worker's %s is no JSON object of at most %d levels", path, JSON_DEPTH);
  p->documents[which].max = SCHEMA_MAX;
  return buf_str(&p->documents[which], reply->body) || err_nomem(e);
}

static void on_fetched(void *ctx, const struct http_reply *reply)
{
  struct pool *p = ctx;
  struct err e;
  enum document which = p->schema_asked;
  bool ok = keep(p, which, reply, &e);
  end_fetch(p);
  answer(p, which, buf_view(&p->documents[which]), ok ? NULL : &e);
  pool_pump(p);
}

void schema_pump(struct pool *p, struct worker *ready)
{
  if (!p->schema_waiters || p->schema_fetch || ready->suspect)
    return;
  p->schema_asked = p->schema_waiters->which;
  const struct http_options o = {
      .method = "GET", .path = paths[p->schema_asked], .timeout = FETCH_TIMEOUT, .max_body = SCHEMA_MAX, .done = on_fetched, .ctx = p};
  p->schema_fetch = http_start(ready->reactor, &ready->endpoint, &o);
  if (!p->schema_fetch) {
    struct err e;
    err_nomem(&e);
    answer(p, p->schema_asked, (struct str){0}, &e);
    return;
  }
  p->schema_worker = ready;
  ready->holds++;
  timer_unset(ready->reactor, &ready->idle);
}

void pool_document(struct pool *p, enum document which, void (*done)(void *ctx, struct str text, const struct err *e), void *ctx)
{
  struct err e;
  struct schema_waiter *w = NULL;
  if (p->documents[which].n) {
    done(ctx, buf_view(&p->documents[which]), NULL);
  } else if (p->pools->draining) {
    err_set(&e, CODE_UNAVAILABLE, REASON_DRAINING, "the gateway is shutting down");
    done(ctx, (struct str){0}, &e);
  } else if (!(w = malloc(sizeof *w))) {
    err_nomem(&e);
    done(ctx, (struct str){0}, &e);
  } else {
    *w = (struct schema_waiter){.which = which, .done = done, .ctx = ctx};
    struct schema_waiter **end = &p->schema_waiters;
    while (*end)
      end = &(*end)->next;
    *end = w;
    pool_pump(p);
  }
}
