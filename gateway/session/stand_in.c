// SPDX-License-Identifier: Apache-2.0
// Who waits in the place of a caller that has left and wants its work to go on: what has not begun is sent from what its first waiter points to, which is the
// caller's memory, so the stand-in has copies. It goes when the work begins, or with it.
#include <stdlib.h>

#include "session/session_private.h"

struct stand_in {
  struct waiter waiter;
  struct session *session;
  struct pairs headers;
  size_t size; // of all of it
  char text[]; // what the waiter's spans point to
};

static size_t pairs_size(const struct pairs *p)
{
  size_t n = 0;
  for (size_t i = 0; p && i < p->n; i++)
    n += sizeof *p->at + strlen(p->at[i].name) + strlen(p->at[i].value) + 2;
  return n;
}

static void stand_in_free(struct stand_in *s)
{
  s->session->stand_in_bytes -= s->size;
  pairs_free(&s->headers);
  free(s);
}

static void on_done(struct waiter *w, const struct outcome *o, const struct err *e)
{
  (void)o;
  (void)e;
  stand_in_free(CONTAINER_OF(w, struct stand_in, waiter));
}

static struct stand_in *stand_in_new(struct session *session, const struct waiter *w)
{
  struct waiter copy = {.request = w->request,
                        .request_id = w->request_id,
                        .episode_id = w->episode_id,
                        .has_step_index = w->has_step_index,
                        .step_index = w->step_index};
  struct str *texts[WAITER_TEXTS];
  size_t text = 0;
  waiter_texts(&copy, texts);
  for (size_t i = 0; i < WAITER_TEXTS; i++)
    text += texts[i]->n;
  size_t size = sizeof(struct stand_in) + text + pairs_size(w->request.headers);
  if (session->stand_in_bytes + size > KEPT_BYTES)
    return NULL;
  struct stand_in *s = malloc(sizeof *s + text);
  if (!s)
    return NULL;
  *s = (struct stand_in){.session = session, .size = size};
  char *to = s->text;
  for (size_t i = 0; i < WAITER_TEXTS; i++) {
    if (!texts[i]->n)
      continue;
    memcpy(to, texts[i]->p, texts[i]->n);
    texts[i]->p = to;
    to += texts[i]->n;
  }
  if (w->request.headers) {
    if (!pairs_add(&s->headers, w->request.headers)) {
      pairs_free(&s->headers);
      free(s);
      return NULL;
    }
    copy.request.headers = &s->headers;
  }
  s->waiter = copy;
  s->waiter.done = on_done;
  session->stand_in_bytes += size;
  return s;
}

bool stand_in_take(struct work *work, struct waiter *w)
{
  if (work->stand_in)
    return true;
  struct stand_in *s = stand_in_new(work->session, w);
  if (!s)
    return false;
  s->waiter.work = work;
  list_prepend(&w->link, &s->waiter.link);
  work->stand_in = s;
  return true;
}

void stand_in_go(struct work *work)
{
  if (!work->stand_in)
    return;
  list_remove(&work->stand_in->waiter.link);
  stand_in_free(work->stand_in);
  work->stand_in = NULL;
}
