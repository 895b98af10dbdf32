// SPDX-License-Identifier: Apache-2.0
#include "runtime/reactor.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "runtime/log.h"

// --- timers: a binary heap ---------------------------------------------------------------------------------

static void heap_put(struct timer_heap *h, uint32_t slot, struct timer *t)
{
  h->at[slot] = t;
  t->slot = slot;
}

static void heap_up(struct timer_heap *h, uint32_t slot, struct timer *t)
{
  while (slot > 1 && t->due < h->at[slot / 2]->due) {
    heap_put(h, slot, h->at[slot / 2]);
    slot /= 2;
  }
  heap_put(h, slot, t);
}

static void heap_down(struct timer_heap *h, uint32_t slot, struct timer *t)
{
  for (;;) {
    uint32_t child = slot * 2;
    if (child > h->n)
      break;
    if (child < h->n && h->at[child + 1]->due < h->at[child]->due)
      child++;
    if (t->due <= h->at[child]->due)
      break;
    heap_put(h, slot, h->at[child]);
    slot = child;
  }
  heap_put(h, slot, t);
}

static void heap_remove(struct timer_heap *h, struct timer *t)
{
  uint32_t slot = t->slot;
  struct timer *last = h->at[h->n--];
  t->slot = 0;
  if (last == t)
    return;
  if (slot > 1 && last->due < h->at[slot / 2]->due)
    heap_up(h, slot, last);
  else
    heap_down(h, slot, last);
}

static void run_timers(struct reactor *r)
{
  while (r->timers.n && r->timers.at[1]->due <= r->now) {
    struct timer *t = r->timers.at[1];
    heap_remove(&r->timers, t);
    t->fire(t);
  }
}

bool timer_set(struct reactor *r, struct timer *t, nsec due)
{
  if (due == NSEC_NEVER) {
    timer_unset(r, t);
    return true;
  }
  struct timer_heap *h = &r->timers;
  if (t->slot) {
    bool sooner = due < t->due;
    t->due = due;
    if (sooner)
      heap_up(h, t->slot, t);
    else
      heap_down(h, t->slot, t);
    return true;
  }
  if (h->n + 1 >= h->cap) {
    uint32_t cap = h->cap ? h->cap * 2 : 64;
    struct timer **at = realloc(h->at, cap * sizeof(struct timer *));
    if (!at)
      return false;
    h->at = at;
    h->cap = cap;
  }
  t->due = due;
  heap_up(h, ++h->n, t);
  return true;
}

void timer_unset(struct reactor *r, struct timer *t)
{
  if (t->slot)
    heap_remove(&r->timers, t);
}

// --- mailbox -------------------------------------------------------------------------------------------------------------------------------

static void run_mailbox(struct reactor *r)
{
  struct task *stack = atomic_exchange_explicit(&r->mailbox, NULL, memory_order_acquire), *queue = NULL;
  while (stack) {
    struct task *next = stack->next;
    stack->next = queue;
    queue = stack;
    stack = next;
  }
  while (queue) {
    struct task *t = queue;
    queue = t->next;
    t->run(r, t);
  }
}

void reactor_post(struct reactor *r, struct task *t)
{
  struct task *head = atomic_load_explicit(&r->mailbox, memory_order_relaxed);
  do {
    t->next = head;
  } while (!atomic_compare_exchange_weak_explicit(&r->mailbox, &head, t, memory_order_release, memory_order_relaxed));
  if (!head)
    eventfd_write(r->wake, 1);
}

// --- the turn ------------------------------------------------------------------------------------------------------------------------------

void turn_end_add(struct reactor *r, struct turn_end *t)
{
  if (list_empty(&t->link))
    list_append(&r->turn_ends, &t->link);
}

static void run_turn_ends(struct reactor *r)
{
  struct list *node;
  while ((node = list_pop(&r->turn_ends))) {
    struct turn_end *t = CONTAINER_OF(node, struct turn_end, link);
    t->run(t);
  }
}

// --- descriptors ---------------------------------------------------------------------------------------------------------------------------

struct io {
  struct list dead; // in its reactor's list, once it is closed
  struct reactor *reactor;
  int fd, events;
  bool watched, closed;
  io_callback *callback;
  void *ctx;
};

static bool watch(struct io *io)
{
  int e = io->events;
  bool edge = e & IO_EDGE;
  uint32_t wanted = (e & IO_READ ? (uint32_t)EPOLLIN : 0) | (e & IO_WRITE ? (uint32_t)EPOLLOUT : 0) |
                    (e & IO_HANGUP || edge ? (uint32_t)EPOLLRDHUP : 0) | (edge ? (uint32_t)EPOLLET : 0);
  struct epoll_event event = {.events = wanted, .data.ptr = io};
  if (epoll_ctl(io->reactor->epoll, io->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, io->fd, &event))
    return false;
  io->watched = true;
  return true;
}

static void unwatch(struct io *io)
{
  if (io->watched)
    epoll_ctl(io->reactor->epoll, EPOLL_CTL_DEL, io->fd, NULL); // fails when its owner has closed the descriptor already
  io->watched = false;
}

struct io *io_open(struct reactor *r, int fd, int events, io_callback *callback, void *ctx)
{
  struct io *io = malloc(sizeof *io);
  if (!io)
    return NULL;
  *io = (struct io){.reactor = r, .fd = fd, .events = events, .callback = callback, .ctx = ctx};
  list_init(&io->dead);
  if (events && !watch(io)) {
    free(io);
    return NULL;
  }
  return io;
}

void io_events(struct io *io, int events)
{
  if (io->events == events)
    return;
  io->events = events;
  if (events & ~IO_EDGE)
    watch(io);
  else
    unwatch(io); // else errors would be told over and over
}

void io_again(struct io *io)
{
  if (io->watched)
    watch(io);
}

void io_close(struct io *io)
{
  if (!io)
    return;
  unwatch(io);
  io->closed = true;
  list_append(&io->reactor->dead, &io->dead); // events of this turn may still point to it
}

static void free_dead(struct reactor *r)
{
  struct list *node;
  while ((node = list_pop(&r->dead)))
    free(CONTAINER_OF(node, struct io, dead));
}

// An error or the end of both directions shows as all that is watched: the owner's read or write says what it is.
static void tell(struct io *io, uint32_t found)
{
  int events = (found & EPOLLIN ? IO_READ : 0) | (found & EPOLLOUT ? IO_WRITE : 0) | (found & EPOLLRDHUP ? IO_HANGUP : 0);
  if (found & (EPOLLERR | EPOLLHUP))
    events = (io->events & ~IO_EDGE) | (io->events & IO_EDGE ? IO_HANGUP : 0);
  if (events && !io->closed)
    io->callback(io->ctx, events);
}

// --- the turn ------------------------------------------------------------------------------------------------------------------------------

// libuv has children and signals only, so it is run when its descriptor says so or a handle was started or closed, not in each turn.
uv_loop_t *reactor_uv(struct reactor *r)
{
  r->uv_dirty = true;
  return &r->uv;
}

static bool uv_waits(const struct reactor *r)
{
  return r->uv_dirty || (uv_loop_alive(&r->uv) && uv_backend_timeout(&r->uv) == 0);
}

// How long epoll may sleep, in milliseconds; -1: for ever. Timers fire late by less than one, never early.
static int sleep_ms(const struct reactor *r)
{
  if (uv_waits(r) || r->stopping) // what was queued outside a turn may have ended it
    return 0;
  nsec due = r->timers.n ? r->timers.at[1]->due : NSEC_NEVER;
  if (due == NSEC_NEVER && !r->busy_poll)
    return -1;
  nsec now = clock_mono();
  if (due <= now || (r->busy_poll && now - r->last_event < r->busy_poll))
    return 0;
  if (due == NSEC_NEVER)
    return -1;
  nsec ms = (due - now + NSEC_PER_MS - 1) / NSEC_PER_MS;
  return ms < INT_MAX ? (int)ms : INT_MAX;
}

static bool add_own(struct reactor *r, int fd, void *mark)
{
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = mark};
  return epoll_ctl(r->epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

bool reactor_init(struct reactor *r, int index, struct reactor **all, int count, struct err *e)
{
  int rc = uv_loop_init(&r->uv);
  if (rc)
    return err_set(e, CODE_INTERNAL, REASON_INTERNAL, "event loop: %s", uv_strerror(rc));
  r->uv.data = r;
  r->index = index;
  r->all = all;
  r->count = count;
  r->now = clock_mono();
  list_init(&r->turn_ends);
  list_init(&r->dead);
  r->epoll = epoll_create1(EPOLL_CLOEXEC);
  r->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (r->epoll < 0 || r->wake < 0 || !add_own(r, r->wake, &r->wake) || !add_own(r, uv_backend_fd(&r->uv), &r->uv))
    return err_set(e, CODE_INTERNAL, REASON_INTERNAL, "event loop: %s", strerror(errno));
  return true;
}

void reactor_turn(struct reactor *r)
{
  enum { BATCH = 256 };
  struct epoll_event events[BATCH];
  run_turn_ends(r); // what was queued outside a turn
  int n = epoll_wait(r->epoll, events, BATCH, sleep_ms(r));
  bool mail = false, uv = uv_waits(r);
  r->now = clock_mono();
  if (n > 0)
    r->last_event = r->now;
  for (int i = 0; i < n; i++) {
    void *of = events[i].data.ptr;
    if (of == &r->wake)
      mail = true;
    else if (of == &r->uv)
      uv = true;
    else
      tell(of, events[i].events);
  }
  if (mail) {
    eventfd_t posts;
    eventfd_read(r->wake, &posts); // before the mailbox is emptied: what is posted meanwhile wakes again
    run_mailbox(r);
  }
  if (uv) {
    r->uv_dirty = false;
    uv_run(&r->uv, UV_RUN_NOWAIT);
  }
  run_timers(r);
  run_turn_ends(r);
  free_dead(r);
  if (r->log && r->log->gather)
    log_flush(r->log);
}

void reactor_run(struct reactor *r)
{
  while (!r->stopping)
    reactor_turn(r);
}

void reactor_stop(struct reactor *r)
{
  r->stopping = true;
}

void reactor_free(struct reactor *r)
{
  run_turn_ends(r);
  run_mailbox(r);
  while (uv_run(&r->uv, UV_RUN_NOWAIT))
    ;
  uv_loop_close(&r->uv);
  free_dead(r);
  close(r->epoll);
  close(r->wake);
  buf_pool_free(&r->bufs);
  free(r->timers.at);
  r->timers = (struct timer_heap){0};
}
