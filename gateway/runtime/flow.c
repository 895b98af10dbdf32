// SPDX-License-Identifier: Apache-2.0
#include "runtime/flow.h"

#include <pthread.h>
#include <stdlib.h>

// How often it is looked whether the line stands still.
#define TICK (100 * NSEC_PER_MS)
// For so many ticks must a caller have had nothing to take before more is read for it than the budget allows: one that has never taken a large
// reply, or did not take what there was a moment ago, may be about to take none.
enum { TICKS_TRUSTED = 1, TICKS_ELSE = 10 };

struct room {
  uint64_t key;
  size_t bytes;
  bool complete;
};

struct flow_state {
  struct flow flow;
  struct reactor *home;
  nsec patience;
  atomic_int refs;

  pthread_mutex_t lock; // for what follows: readers are on several threads. Nobody takes it for small messages.
  struct room *rooms;
  size_t n, cap;
  size_t bytes;    // of all rooms
  size_t complete; // how many rooms have complete replies, which wait for the caller
  bool was_behind; // the caller has had something to take since the last tick
  bool trusted;    // it has taken a large reply whole, and has not been behind for a whole tick since
  int ticks;       // for how many it has had nothing to take while readers waited
  struct list line;
  bool closed, arming;
  nsec progress;

  struct task arm_task; // another reactor's wish for the timer; under way while `arming`
  struct timer timer;
};

// A reader in line. It goes to its reactor as a task and is freed there.
struct flow_wait {
  struct task task;
  struct list link; // in line; unlinked: told
  struct flow *flow;
  struct reactor *r;
  uint64_t key;
  size_t bytes;
  bool room;
  void (*answer)(void *ctx, bool room); // NULL: it has left
  void *ctx;
};

// --- life ------------------------------------------------------------------------------------------------------------------------------

static void on_tick(struct timer *t);

struct flow *flow_new(struct reactor *home, nsec patience)
{
  struct flow_state *s = calloc(1, sizeof *s);
  if (!s)
    return NULL;
  s->flow.state = s;
  s->home = home;
  s->patience = patience;
  s->timer.fire = on_tick;
  atomic_init(&s->refs, 1);
  pthread_mutex_init(&s->lock, NULL);
  list_init(&s->line);
  return &s->flow;
}

struct flow *flow_ref(struct flow *f)
{
  if (f)
    atomic_fetch_add_explicit(&f->state->refs, 1, memory_order_relaxed);
  return f;
}

void flow_unref(struct flow *f)
{
  if (!f || atomic_fetch_sub_explicit(&f->state->refs, 1, memory_order_acq_rel) != 1)
    return;
  pthread_mutex_destroy(&f->state->lock);
  free(f->state->rooms);
  free(f->state);
}

// --- rooms, all under the lock ---------------------------------------------------------------------------------------------------------

static struct room *find(struct flow_state *s, uint64_t key)
{
  for (size_t i = 0; i < s->n; i++)
    if (s->rooms[i].key == key)
      return &s->rooms[i];
  return NULL;
}

// Without memory for it the room is given all the same: it is about memory.
static void give(struct flow_state *s, uint64_t key, size_t bytes)
{
  struct room *room = find(s, key);
  if (!room && s->n == s->cap) {
    size_t cap = s->cap ? s->cap * 2 : 8;
    struct room *more = realloc(s->rooms, cap * sizeof *more);
    if (!more)
      return;
    s->rooms = more;
    s->cap = cap;
  }
  if (!room) {
    room = &s->rooms[s->n++];
    *room = (struct room){.key = key};
  }
  room->bytes += bytes;
  s->bytes += bytes;
  atomic_store_explicit(&s->flow.used, true, memory_order_relaxed);
}

static void tell(struct flow_wait *w, bool room)
{
  list_remove(&w->link);
  w->room = room;
  reactor_post(w->r, &w->task);
}

// The first in line gets room, and with it all who are there for the same call.
static void give_first(struct flow_state *s)
{
  uint64_t key = CONTAINER_OF(s->line.next, struct flow_wait, link)->key;
  s->ticks = 0;
  LIST_EACH (node, &s->line) {
    struct flow_wait *w = CONTAINER_OF(node, struct flow_wait, link);
    if (w->key != key)
      continue;
    give(s, key, w->bytes);
    tell(w, true);
  }
}

static bool fits(const struct flow_state *s, size_t bytes)
{
  return !s->bytes || (s->bytes < FLOW_BUDGET && bytes <= FLOW_BUDGET - s->bytes);
}

static void move_up(struct flow_state *s)
{
  while (!list_empty(&s->line) && fits(s, CONTAINER_OF(s->line.next, struct flow_wait, link)->bytes))
    give_first(s);
  atomic_store_explicit(&s->flow.used, s->n || !list_empty(&s->line), memory_order_relaxed);
}

// --- time ------------------------------------------------------------------------------------------------------------------------------

// Where the caller has taken all that there was and yet nobody moves up, workers are slow with what they have room for. They must not hold up the
// others, so one more is let in at a time: the budget is against slow callers.
static void on_tick(struct timer *t)
{
  struct flow_state *s = CONTAINER_OF(t, struct flow_state, timer);
  nsec now = s->home->now;
  pthread_mutex_lock(&s->lock);
  bool behind = s->complete > 0;
  s->trusted = s->trusted && !(behind && s->was_behind);
  s->ticks = behind || s->was_behind ? 0 : s->ticks + 1;
  if (s->ticks >= (s->trusted ? TICKS_TRUSTED : TICKS_ELSE) && !list_empty(&s->line))
    give_first(s);
  else if (behind && now >= nsec_add(s->progress, s->patience))
    while (!list_empty(&s->line))
      tell(CONTAINER_OF(s->line.next, struct flow_wait, link), false);
  s->was_behind = behind;
  bool more = !list_empty(&s->line);
  pthread_mutex_unlock(&s->lock);
  if (more)
    timer_set(s->home, t, nsec_add(now, TICK));
}

static void arm(struct flow_state *s)
{
  pthread_mutex_lock(&s->lock);
  bool wanted = !s->closed && !list_empty(&s->line);
  pthread_mutex_unlock(&s->lock);
  if (wanted && !timer_is_set(&s->timer))
    timer_set(s->home, &s->timer, nsec_add(s->home->now, TICK));
}

static void on_arm(struct reactor *r, struct task *t)
{
  (void)r;
  struct flow_state *s = CONTAINER_OF(t, struct flow_state, arm_task);
  pthread_mutex_lock(&s->lock);
  s->arming = false;
  pthread_mutex_unlock(&s->lock);
  arm(s);
  flow_unref(&s->flow);
}

void flow_close(struct flow *f)
{
  struct flow_state *s = f->state;
  timer_unset(s->home, &s->timer);
  pthread_mutex_lock(&s->lock);
  s->closed = true;
  pthread_mutex_unlock(&s->lock);
  flow_unref(f);
}

// --- readers ---------------------------------------------------------------------------------------------------------------------------

static void on_told(struct reactor *r, struct task *t)
{
  (void)r;
  struct flow_wait *w = CONTAINER_OF(t, struct flow_wait, task);
  if (w->answer)
    w->answer(w->ctx, w->room);
  flow_unref(w->flow);
  free(w);
}

bool flow_ask(struct flow *f, struct reactor *r, uint64_t key, size_t bytes, void (*answer)(void *ctx, bool room), void *ctx, struct flow_wait **wait)
{
  struct flow_state *s = f->state;
  pthread_mutex_lock(&s->lock);
  struct flow_wait *w = NULL;
  bool room = find(s, key) || (list_empty(&s->line) && fits(s, bytes)) || !(w = calloc(1, sizeof *w));
  bool post = false;
  if (room) {
    give(s, key, bytes);
  } else {
    *w = (struct flow_wait){.task.run = on_told, .flow = flow_ref(f), .r = r, .key = key, .bytes = bytes, .answer = answer, .ctx = ctx};
    list_append(&s->line, &w->link);
    *wait = w;
    atomic_store_explicit(&f->used, true, memory_order_relaxed);
    post = !s->arming && r != s->home;
    s->arming = s->arming || post;
  }
  pthread_mutex_unlock(&s->lock);
  if (room)
    return true;
  if (r == s->home) {
    arm(s);
  } else if (post) {
    flow_ref(f);
    s->arm_task.run = on_arm;
    reactor_post(s->home, &s->arm_task);
  }
  return false;
}

void flow_leave(struct flow_wait *w)
{
  if (!w)
    return;
  struct flow_state *s = w->flow->state;
  pthread_mutex_lock(&s->lock);
  bool told = list_empty(&w->link);
  list_remove(&w->link);
  move_up(s);
  pthread_mutex_unlock(&s->lock);
  w->answer = NULL;
  if (told)
    return; // the answer is under way
  flow_unref(w->flow);
  free(w);
}

// --- callers ---------------------------------------------------------------------------------------------------------------------------

static bool unused(const struct flow *f)
{
  return !f || !atomic_load_explicit(&f->used, memory_order_relaxed);
}

void flow_complete(struct flow *f, uint64_t key)
{
  if (unused(f))
    return;
  struct flow_state *s = f->state;
  pthread_mutex_lock(&s->lock);
  struct room *room = find(s, key);
  if (room && !room->complete) {
    room->complete = true;
    if (!s->complete++)
      s->progress = s->home->now; // the wait begins
    s->was_behind = true;
  }
  pthread_mutex_unlock(&s->lock);
}

void flow_done(struct flow *f, uint64_t key)
{
  if (unused(f))
    return;
  struct flow_state *s = f->state;
  pthread_mutex_lock(&s->lock);
  struct room *room = find(s, key);
  if (room) {
    s->bytes -= room->bytes;
    s->complete -= room->complete;
    s->trusted = s->trusted || room->complete;
    s->progress = clock_mono();
    *room = s->rooms[--s->n];
    move_up(s);
  }
  pthread_mutex_unlock(&s->lock);
}

void flow_progress(struct flow *f)
{
  if (unused(f))
    return;
  pthread_mutex_lock(&f->state->lock);
  f->state->progress = f->state->home->now;
  pthread_mutex_unlock(&f->state->lock);
}
