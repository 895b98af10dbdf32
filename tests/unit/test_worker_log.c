// SPDX-License-Identifier: Apache-2.0
// A worker's log against a model that keeps everything.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "pool/worker_log.h"

static struct reactor reactor;

static int setup(void **state)
{
  (void)state;
  static struct reactor *all[1] = {&reactor};
  struct err e;
  return reactor_init(&reactor, 0, all, 1, &e) ? 0 : -1;
}

static int teardown(void **state)
{
  (void)state;
  reactor_free(&reactor);
  return 0;
}

// The byte that the model's worker writes at a place; every 31st ends a line.
static char byte_at(uint64_t offset)
{
  return offset % 31 == 30 ? '\n' : (char)('a' + (offset * 7 + offset / 251) % 26);
}

static void write_some(struct worker_log *log, size_t n)
{
  char *p = malloc(n + 1);
  assert_non_null(p);
  for (size_t i = 0; i < n; i++)
    p[i] = byte_at(worker_log_total(log) + i);
  worker_log_add(log, (struct str){p, n});
  free(p);
}

// Reads one piece and holds it against the model. False: there is none.
static bool read_some(const struct worker_log *log, struct log_cursor *at, size_t room, struct log_piece *piece)
{
  char some[20000];
  uint64_t wanted = at->offset;
  if (!worker_log_read(log, at, some, room, piece))
    return false;
  assert_true(piece->n > 0 && piece->n <= room);
  assert_int_equal(piece->offset, wanted + piece->skipped);
  assert_int_equal(at->offset, piece->offset + piece->n);
  assert_true(at->offset <= worker_log_total(log));
  for (size_t i = 0; i < piece->n; i++)
    assert_int_equal(some[i], byte_at(piece->offset + i));
  return true;
}

static uint64_t drain(const struct worker_log *log, struct log_cursor *at)
{
  struct log_piece piece;
  uint64_t skipped = 0;
  while (read_some(log, at, 20000, &piece))
    skipped += piece.skipped;
  assert_int_equal(at->offset, worker_log_total(log));
  return skipped;
}

static void test_empty(void **state)
{
  (void)state;
  struct worker_log *log = worker_log_new(&reactor, 0);
  struct log_cursor at = worker_log_at(log, 0), tail = worker_log_tail(log, 3);
  struct log_piece piece;
  assert_false(read_some(log, &at, 10, &piece));
  assert_false(read_some(log, &tail, 10, &piece));
  write_some(log, 5);
  assert_int_equal(drain(log, &at), 0);
  assert_int_equal(drain(log, &tail), 0);
  assert_false(worker_log_ended(log));
  worker_log_end(log);
  assert_true(worker_log_ended(log));
  worker_log_unref(log);
  worker_log_unref(NULL);
}

static void test_keeps_nearly_its_size(void **state)
{
  (void)state;
  static const size_t sizes[] = {4096, 5000, 65536, 262144};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    struct worker_log *log = worker_log_new(&reactor, sizes[i]);
    for (int n = 0; n < 400; n++)
      write_some(log, 3000);
    struct log_cursor at = worker_log_at(log, 0);
    uint64_t kept = worker_log_total(log) - drain(log, &at);
    assert_true(kept <= sizes[i] && kept >= sizes[i] * 3 / 4);
    worker_log_unref(log);
  }
}

// A reader that was overtaken learns how much it lost, and gets the rest.
static void test_slow_reader(void **state)
{
  (void)state;
  struct worker_log *log = worker_log_new(&reactor, 8192);
  struct log_cursor at = worker_log_at(log, 0);
  struct log_piece piece;
  write_some(log, 100);
  assert_true(read_some(log, &at, 10, &piece));
  assert_int_equal(piece.skipped, 0);
  for (int i = 0; i < 100; i++)
    write_some(log, 1000);
  assert_true(read_some(log, &at, 20000, &piece));
  assert_true(piece.skipped > 90000 && piece.offset == 10 + piece.skipped);
  assert_int_equal(drain(log, &at), 0);
  worker_log_unref(log);
}

static void test_tail(void **state)
{
  (void)state;
  struct worker_log *log = worker_log_new(&reactor, 8192);
  write_some(log, 31 * 10 + 4); // ten lines and an unfinished one
  static const struct {
    size_t lines;
    uint64_t offset;
  } cases[] = {{0, 314}, {1, 310}, {2, 279}, {10, 31}, {11, 0}, {12, 0}, {1000000, 0}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    assert_int_equal(worker_log_tail(log, cases[i].lines).offset, cases[i].offset);
  write_some(log, 27); // the eleventh ends
  assert_int_equal(worker_log_tail(log, 1).offset, 310);
  for (int i = 0; i < 30; i++)
    write_some(log, 1000);
  struct log_cursor at = worker_log_tail(log, 3), all = worker_log_tail(log, 1000000);
  assert_int_equal(at.offset % 31, 0);
  assert_true(worker_log_total(log) - at.offset <= 93 && worker_log_total(log) - at.offset > 62);
  assert_int_equal(drain(log, &at), 0);
  assert_int_equal(drain(log, &all), 0); // what is gone was not asked for
  worker_log_unref(log);
}

static void test_random(void **state)
{
  (void)state;
  enum { READERS = 5 };
  unsigned seed = 7;
  for (int round = 0; round < 40; round++) {
    struct worker_log *log = worker_log_new(&reactor, 4096 + (size_t)rand_r(&seed) % 30000);
    struct log_cursor at[READERS];
    for (int i = 0; i < READERS; i++)
      at[i] = worker_log_at(log, 0);
    for (int step = 0; step < 500; step++) {
      struct log_piece piece;
      if (rand_r(&seed) % 2)
        write_some(log, (size_t)rand_r(&seed) % (rand_r(&seed) % 20 ? 200 : 9000));
      else
        read_some(log, &at[rand_r(&seed) % READERS], 1 + (size_t)rand_r(&seed) % 3000, &piece);
      if (rand_r(&seed) % 50 == 0)
        at[0] = worker_log_tail(log, (size_t)rand_r(&seed) % 100);
    }
    for (int i = 0; i < READERS; i++)
      drain(log, &at[i]);
    worker_log_unref(log);
  }
}

// --- followers -----------------------------------------------------------------------------------------------------------------------------

struct follower {
  struct log_follower f;
  struct worker_log *log;
  int told, leave_after;
};

static void on_news(struct log_follower *f)
{
  struct follower *me = CONTAINER_OF(f, struct follower, f);
  if (++me->told == me->leave_after) {
    list_remove(&f->link);
    worker_log_unref(me->log);
  }
}

static void follow(struct follower *me, struct worker_log *log, int leave_after)
{
  *me = (struct follower){.f.news = on_news, .log = worker_log_ref(log), .leave_after = leave_after};
  list_init(&me->f.link);
  worker_log_follow(log, &me->f);
}

static void wake(struct reactor *r, struct task *t)
{
  (void)r, (void)t;
}

static void turn(void)
{
  struct task t = {.run = wake};
  reactor_post(&reactor, &t);
  reactor_turn(&reactor);
}

static void test_followers(void **state)
{
  (void)state;
  struct worker_log *log = worker_log_new(&reactor, 4096);
  struct follower a, b;
  write_some(log, 10);
  follow(&a, log, 2);
  follow(&b, log, 3);
  turn();
  assert_int_equal(a.told, 0);
  write_some(log, 10);
  write_some(log, 10);
  turn();
  assert_true(a.told == 1 && b.told == 1); // once a turn
  write_some(log, 10);
  turn();
  assert_true(a.told == 2 && b.told == 2);
  worker_log_end(log);
  worker_log_unref(log); // the follower's reference is the last
  turn();
  assert_true(a.told == 2 && b.told == 3);
}

// Dropped while its followers were about to be told.
static void test_end_before_the_turn_does(void **state)
{
  (void)state;
  struct worker_log *log = worker_log_new(&reactor, 4096);
  struct follower a;
  follow(&a, log, 9);
  write_some(log, 10);
  list_remove(&a.f.link);
  worker_log_unref(log);
  worker_log_unref(log);
  turn();
  assert_int_equal(a.told, 0);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_empty),
      cmocka_unit_test(test_keeps_nearly_its_size),
      cmocka_unit_test(test_slow_reader),
      cmocka_unit_test(test_tail),
      cmocka_unit_test(test_random),
      cmocka_unit_test(test_followers),
      cmocka_unit_test(test_end_before_the_turn_does),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
