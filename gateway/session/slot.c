// SPDX-License-Identifier: Apache-2.0
#include "session/slot.h"

#include <stdlib.h>

#include "config/inline.h"

// How long a death may take to be known, and how often to look.
#define NEWS_TIME (150 * NSEC_PER_MS)
#define NEWS_STEP (5 * NSEC_PER_MS)

// `to_control` and `to_home` are never under way at once, so what they carry needs no lock; `withdraw` may cross `to_home`, and the ticket lives until it is back.
struct slot_ticket {
  struct slot_request q; // reactor 0
  struct reactor *home;
  const struct env_config *env;
  void (*granted)(void *ctx, const struct slot *slot, const struct err *e);
  void *ctx;
  int *count;
  struct task to_control, to_home, withdraw;
  struct slot slot;
  struct err *err;     // what the pool said, when it is an error; an idle session has no room for one
  bool ok;             // what the pool said: slot, or err
  bool answered;       // reactor 0: granted was called or the wish withdrawn
  bool held;           // home: the slot is the session's
  bool dropped;        // home: the session wants it no more
  bool done;           // home: nothing is held or will come
  int errands;         // home: withdraw, inquiry or question is under way
  struct task inquiry; // slot_ask_why; what follows is reactor 0's
  void (*told)(void *ctx, const struct err *why);
  struct timer look;
  nsec look_until;
  bool known;
  struct task question; // slot_ask_standing
  void (*stands)(void *ctx, const struct standing *s);
  struct standing standing;
  bool waits; // `standing` holds
  enum slot_return how;
  int64_t max_sessions;
};

static void free_if_done(struct slot_ticket *t)
{
  if (!t->done || t->errands)
    return;
  --*t->count;
  env_release(t->env);
  free(t->err);
  free(t);
}

static void released(struct reactor *r, struct task *task)
{
  struct slot_ticket *t = CONTAINER_OF(task, struct slot_ticket, to_home);
  (void)r;
  t->done = true;
  free_if_done(t);
}

static void release_at_control(struct reactor *r, struct task *task)
{
  struct slot_ticket *t = CONTAINER_OF(task, struct slot_ticket, to_control);
  pool_release(pool_find(r, str_c(t->env->name)), &t->slot, t->how, t->max_sessions);
  t->to_home.run = released;
  reactor_post(t->home, &t->to_home);
}

static void hand_back(struct slot_ticket *t)
{
  t->to_control.run = release_at_control;
  reactor_post(t->home->all[0], &t->to_control);
}

// At home: the pool has answered.
static void on_answer(struct reactor *r, struct task *task)
{
  struct slot_ticket *t = CONTAINER_OF(task, struct slot_ticket, to_home);
  (void)r;
  if (t->dropped) {
    if (t->ok) {
      hand_back(t);
    } else {
      t->done = true;
      free_if_done(t);
    }
    return;
  }
  if (t->ok) {
    t->held = true;
    t->granted(t->ctx, &t->slot, NULL);
    return;
  }
  struct err nomem;
  err_nomem(&nomem);
  t->dropped = true;
  t->granted(t->ctx, NULL, t->err ? t->err : &nomem);
  t->done = true;
  free_if_done(t);
}

// At reactor 0.
static void answer(struct slot_ticket *t)
{
  t->answered = true;
  t->to_home.run = on_answer;
  reactor_post(t->home, &t->to_home);
}

static void note(struct slot_ticket *t, const struct err *e)
{
  if (!t->err)
    t->err = malloc(sizeof *t->err);
  if (t->err)
    *t->err = *e;
}

static void on_granted(struct slot_request *q, const struct slot *slot, const struct err *e)
{
  struct slot_ticket *t = CONTAINER_OF(q, struct slot_ticket, q);
  t->ok = slot != NULL;
  if (slot)
    t->slot = *slot;
  else
    note(t, e);
  answer(t);
}

static void ask_at_control(struct reactor *r, struct task *task)
{
  struct slot_ticket *t = CONTAINER_OF(task, struct slot_ticket, to_control);
  struct err e;
  struct pool *p = pool_for(r, t->env, &e);
  if (p)
    pool_acquire(p, &t->q);
  else
    on_granted(&t->q, NULL, &e);
}

struct slot_ticket *slot_ask(struct reactor *r, const struct env_config *env, nsec since, int *count,
                             void (*granted)(void *ctx, const struct slot *slot, const struct err *e), void *ctx)
{
  struct slot_ticket *t = calloc(1, sizeof *t);
  if (!t)
    return NULL;
  list_init(&t->q.link);
  t->q.granted = on_granted;
  t->q.asked = since;
  t->home = r;
  t->env = env;
  env_hold(env);
  t->granted = granted;
  t->ctx = ctx;
  t->count = count;
  ++*count;
  t->to_control.run = ask_at_control;
  reactor_post(r->all[0], &t->to_control);
  return t;
}

static void inquiry_back(struct reactor *r, struct task *task)
{
  struct slot_ticket *t = CONTAINER_OF(task, struct slot_ticket, inquiry);
  (void)r;
  t->errands--;
  if (!t->dropped)
    t->told(t->ctx, t->known ? t->err : NULL);
  free_if_done(t);
}

static void look(struct timer *timer)
{
  struct slot_ticket *t = CONTAINER_OF(timer, struct slot_ticket, look);
  struct reactor *control = t->home->all[0];
  nsec now = clock_mono();
  struct err why;
  t->known = pool_worker_epitaph(control, t->slot.worker_id, &why);
  if (t->known)
    note(t, &why);
  if (!t->known && now < t->look_until && timer_set(control, timer, now + NEWS_STEP))
    return;
  t->inquiry.run = inquiry_back;
  reactor_post(t->home, &t->inquiry);
}

static void inquire_at_control(struct reactor *r, struct task *task)
{
  struct slot_ticket *t = CONTAINER_OF(task, struct slot_ticket, inquiry);
  (void)r;
  t->look.fire = look;
  t->look_until = clock_mono() + NEWS_TIME;
  look(&t->look);
}

void slot_ask_why(struct slot_ticket *t, void (*told)(void *ctx, const struct err *why))
{
  t->errands++;
  t->told = told;
  t->inquiry.run = inquire_at_control;
  reactor_post(t->home->all[0], &t->inquiry);
}

static void question_back(struct reactor *r, struct task *task)
{
  struct slot_ticket *t = CONTAINER_OF(task, struct slot_ticket, question);
  (void)r;
  t->errands--;
  if (!t->dropped)
    t->stands(t->ctx, t->waits ? &t->standing : NULL);
  free_if_done(t);
}

static void question_at_control(struct reactor *r, struct task *task)
{
  struct slot_ticket *t = CONTAINER_OF(task, struct slot_ticket, question);
  (void)r;
  t->waits = !t->answered;
  if (t->waits)
    t->standing = pool_standing(&t->q);
  t->question.run = question_back;
  reactor_post(t->home, &t->question);
}

void slot_ask_standing(struct slot_ticket *t, void (*told)(void *ctx, const struct standing *s))
{
  t->errands++;
  t->stands = told;
  t->question.run = question_at_control;
  reactor_post(t->home->all[0], &t->question);
}

static void withdrawn(struct reactor *r, struct task *task)
{
  struct slot_ticket *t = CONTAINER_OF(task, struct slot_ticket, withdraw);
  (void)r;
  t->errands--;
  free_if_done(t);
}

static void withdraw_at_control(struct reactor *r, struct task *task)
{
  struct slot_ticket *t = CONTAINER_OF(task, struct slot_ticket, withdraw);
  (void)r;
  if (!t->answered) {
    pool_cancel(&t->q);
    answer(t);
  }
  t->withdraw.run = withdrawn;
  reactor_post(t->home, &t->withdraw);
}

void slot_return(struct slot_ticket *t, enum slot_return how, int64_t max_sessions)
{
  t->dropped = true;
  t->how = how;
  t->max_sessions = max_sessions;
  if (t->held) {
    hand_back(t);
    return;
  }
  t->errands++;
  t->withdraw.run = withdraw_at_control;
  reactor_post(t->home->all[0], &t->withdraw);
}
