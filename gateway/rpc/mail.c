// SPDX-License-Identifier: Apache-2.0
#include "rpc/mail.h"

#include <stdlib.h>

enum { MAX_MAIL = 64 << 20 }; // bytes that a handler may have sent while the mail is away

// Encoded messages of a stream that has crossed. One task carries them home; it is with the owner, at home, or on its way between.
struct call_mail {
  struct task task;
  struct call *call;
  struct parcel *first, **last; // owner, and home once the call has finished: what waits for the task
  size_t bytes;                 // of those
  struct parcel *sent;          // what the task carries
  bool away;                    // owner: the task is not here
  bool lent;                    // home: the task is not here, and counts as an errand
  bool held;                    // home: the task stays until the caller has taken what there is
};

struct parcel {
  struct parcel *next;
  bool head; // it is the head, and no message
  struct buf message;
};

static void parcels_free(struct parcel *p)
{
  while (p) {
    struct parcel *next = p->next;
    buf_free(&p->message);
    free(p);
    p = next;
  }
}

void mail_free(struct call *c)
{
  if (!c->mail)
    return;
  parcels_free(c->mail->first);
  parcels_free(c->mail->sent);
  free(c->mail);
  c->mail = NULL;
}

// At home.
static void hand_over(struct call *c, struct parcel *first)
{
  for (struct parcel *p = first; p; p = p->next)
    if (p->head)
      c->front->head(c);
    else
      c->front->message(c, &p->message);
  parcels_free(first);
}

static void mail_at_owner(struct reactor *r, struct task *t);

static void mail_return(struct call *c)
{
  struct call_mail *mail = c->mail;
  mail->held = false;
  mail->lent = true;
  c->errands++;
  mail->task.run = mail_at_owner;
  reactor_post(c->owner, &mail->task);
}

static void mail_at_home(struct reactor *r, struct task *t)
{
  struct call_mail *mail = CONTAINER_OF(t, struct call_mail, task);
  struct call *c = mail->call;
  (void)r;
  if (mail->lent)
    c->errands--;
  mail->lent = false;
  struct parcel *sent = mail->sent;
  mail->sent = NULL;
  hand_over(c, sent);
  mail->held = c->backlog >= CALL_BACKLOG_HIGH;
  if (!mail->held)
    mail_return(c);
}

static void mail_is_back(struct reactor *r, struct task *t)
{
  (void)r;
  call_let_go(CONTAINER_OF(t, struct call_mail, task)->call);
}

static void mail_ship(struct call *c)
{
  struct call_mail *mail = c->mail;
  mail->sent = mail->first;
  mail->first = NULL;
  mail->last = &mail->first;
  mail->bytes = 0;
  mail->away = true;
  mail->task.run = mail_at_home;
  reactor_post(c->home, &mail->task);
}

static void mail_at_owner(struct reactor *r, struct task *t)
{
  struct call_mail *mail = CONTAINER_OF(t, struct call_mail, task);
  struct call *c = mail->call;
  (void)r;
  if (c->finished) {
    mail->task.run = mail_is_back;
    reactor_post(c->home, &mail->task);
    return;
  }
  bool was_full = call_full(c);
  mail->away = false;
  if (mail->first)
    mail_ship(c);
  if (was_full && c->handler->drained)
    c->handler->drained(c);
}

bool mail_send(struct call *c, bool head)
{
  struct call_mail *mail = c->mail;
  if (!mail) {
    mail = c->mail = calloc(1, sizeof *mail);
    if (!mail)
      return false;
    mail->call = c;
    mail->last = &mail->first;
  }
  struct parcel *p = mail->bytes + c->out.n <= MAX_MAIL ? calloc(1, sizeof *p) : NULL;
  if (!p)
    return false;
  p->head = head;
  p->message = c->out;
  c->out = (struct buf){.max = c->out.max};
  *mail->last = p;
  mail->last = &p->next;
  mail->bytes += p->message.n;
  if (!mail->away)
    mail_ship(c);
  return true;
}

void mail_finish(struct call *c)
{
  struct call_mail *mail = c->mail;
  struct parcel *first = mail->first;
  mail->first = NULL;
  hand_over(c, first);
  if (!mail->away && mail->lent) { // it stays with the owner, who has no use for it any more
    mail->lent = false;
    c->errands--;
  }
}

bool call_full(const struct call *c)
{
  return c->crossed ? c->mail && c->mail->bytes >= CALL_BACKLOG_HIGH : c->full;
}

void call_backlog(struct call *c, size_t bytes)
{
  bool low = bytes < CALL_BACKLOG_LOW;
  c->backlog = bytes;
  if (c->crossed) {
    if (low && c->mail && c->mail->held && !c->delivered)
      mail_return(c);
    return;
  }
  bool was_full = c->full;
  c->full = bytes >= CALL_BACKLOG_HIGH || (was_full && !low);
  if (was_full && !c->full && !c->finished && c->handler->drained)
    c->handler->drained(c);
}
