// SPDX-License-Identifier: Apache-2.0
#include "front/grpc.h"

#include <stdlib.h>
#include <unistd.h>

#include "front/grpc_internal.h"

bool grpc_front_init(struct reactor *r, const struct http_site *site, struct err *e)
{
  struct grpc_front *f = calloc(1, sizeof *f);
  if (!f)
    return err_nomem(e);
  f->r = r;
  f->site = site;
  list_init(&f->conns);
  list_init(&f->spare);
  r->grpc_front = f;
  if (!grpc_conn_setup(f)) {
    grpc_front_free(r);
    return err_nomem(e);
  }
  return true;
}

bool grpc_front_accept(struct reactor *r, int fd, struct ssl_st *ssl, struct peer *peer)
{
  struct grpc_front *f = r->grpc_front;
  if (!grpc_conn_open(f, fd, ssl, peer)) {
    peer_free(peer);
    tls_close(ssl);
    close(fd);
    return false;
  }
  if (f->draining)
    grpc_conn_drain(CONTAINER_OF(f->conns.prev, struct grpc_conn, link));
  return true;
}

void grpc_front_drain(struct reactor *r)
{
  struct grpc_front *f = r->grpc_front;
  f->draining = true;
  LIST_EACH (node, &f->conns)
    grpc_conn_drain(CONTAINER_OF(node, struct grpc_conn, link));
}

int grpc_front_count(const struct reactor *r)
{
  return r->grpc_front ? r->grpc_front->count : 0;
}

bool grpc_front_busy(const struct reactor *r)
{
  struct grpc_front *f = r->grpc_front;
  if (!f)
    return false;
  LIST_EACH (node, &f->conns) {
    const struct grpc_conn *c = CONTAINER_OF(node, struct grpc_conn, link);
    if (!list_empty(&c->streams) || c->out.n)
      return true;
  }
  return false;
}

void grpc_front_free(struct reactor *r)
{
  struct grpc_front *f = r->grpc_front;
  if (!f)
    return;
  while (!list_empty(&f->conns)) // not LIST_EACH: an ending call may end another's
    grpc_conn_close(CONTAINER_OF(f->conns.next, struct grpc_conn, link));
  LIST_EACH (node, &f->spare)
    free(CONTAINER_OF(node, struct grpc_stream, link));
  nghttp2_session_callbacks_del(f->callbacks);
  nghttp2_option_del(f->option);
  blocks_clear(&f->blocks);
  free(f);
  r->grpc_front = NULL;
}
