// SPDX-License-Identifier: Apache-2.0
// Room for large replies, without a socket: callers and readers are calls of flow.h, on two reactors that this thread runs in turn.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/flow.h"

enum { MIB = 1 << 20, READERS = 8 };

// One who waits for room.
struct reader {
  struct fixture *f;
  struct flow_wait *wait;
  struct reactor *turn; // whose turn it was
  int told;             // its place among those who were told; 0: not yet
  bool room;
};

struct fixture {
  struct reactor home, other, *all[2], *turn;
  struct flow *flow;
  struct reader reader[READERS];
  int told;
  struct task nothing;
  struct timer timer;
  bool late;
};

static void on_answer(void *ctx, bool room)
{
  struct reader *reader = ctx;
  assert_int_equal(reader->told, 0);
  reader->told = ++reader->f->told;
  reader->room = room;
  reader->turn = reader->f->turn;
  reader->wait = NULL;
}

static void nothing(struct reactor *r, struct task *t)
{
  (void)r, (void)t;
}

// A turn that does what there is and does not sleep.
static void turn(struct fixture *f, struct reactor *r)
{
  f->nothing.run = nothing;
  f->turn = r;
  reactor_post(r, &f->nothing);
  reactor_turn(r);
  f->turn = NULL;
}

static void on_late(struct timer *t)
{
  CONTAINER_OF(t, struct fixture, timer)->late = true;
}

// Runs the home reactor until a reader is told, but for so long at most. Returns how long it was.
static nsec wait_for(struct fixture *f, const struct reader *reader, nsec most)
{
  nsec start = clock_mono();
  f->late = false;
  f->timer.fire = on_late;
  assert_true(timer_set(&f->home, &f->timer, start + most));
  f->turn = &f->home;
  while (!reader->told && !f->late)
    reactor_turn(&f->home);
  timer_unset(&f->home, &f->timer);
  return clock_mono() - start;
}

static struct fixture *start(nsec patience)
{
  struct fixture *f = calloc(1, sizeof *f);
  struct err e;
  assert_non_null(f);
  f->all[0] = &f->home;
  f->all[1] = &f->other;
  for (int i = 0; i < 2; i++)
    assert_true(reactor_init(f->all[i], i, f->all, 2, &e));
  for (int i = 0; i < READERS; i++)
    f->reader[i].f = f;
  turn(f, &f->home); // it knows the time
  f->flow = flow_new(&f->home, patience);
  assert_non_null(f->flow);
  return f;
}

static void end(struct fixture *f)
{
  if (f->flow)
    flow_close(f->flow);
  for (int i = 0; i < 2; i++)
    turn(f, f->all[i]);
  for (int i = 0; i < 2; i++)
    reactor_free(f->all[i]);
  free(f);
}

static bool ask_on(struct fixture *f, struct reactor *r, int reader, uint64_t key, size_t bytes)
{
  bool room = flow_ask(f->flow, r, key, bytes, on_answer, &f->reader[reader], &f->reader[reader].wait);
  assert_int_equal(f->reader[reader].told, 0); // never inside
  return room;
}

static bool ask(struct fixture *f, int reader, uint64_t key, size_t bytes)
{
  return ask_on(f, &f->home, reader, key, bytes);
}

static void assert_told(struct fixture *f, int reader, int place)
{
  assert_int_equal(f->reader[reader].told, place);
  assert_true(!place || f->reader[reader].room);
}

// --- room --------------------------------------------------------------------------------------------------------------------------------

static void test_budget(void **state)
{
  (void)state;
  struct fixture *f = start(NSEC_PER_S);
  assert_true(ask(f, 0, 1, 10 * MIB));
  assert_true(ask(f, 1, 2, 6 * MIB)); // to the last byte
  assert_false(ask(f, 2, 3, 1));
  turn(f, &f->home);
  assert_told(f, 2, 0);
  flow_done(f->flow, 9); // nobody's
  turn(f, &f->home);
  assert_told(f, 2, 0);
  flow_done(f->flow, 2);
  assert_told(f, 2, 0); // not inside
  turn(f, &f->home);
  assert_told(f, 2, 1);
  flow_done(f->flow, 1);
  flow_done(f->flow, 3);
  assert_true(ask(f, 3, 4, FLOW_BUDGET)); // all is back
  flow_done(f->flow, 4);
  end(f);
}

static void test_one_may_be_larger(void **state)
{
  (void)state;
  struct fixture *f = start(NSEC_PER_S);
  assert_true(ask(f, 0, 1, 3 * (size_t)FLOW_BUDGET));
  assert_false(ask(f, 1, 2, FLOW_LARGE));
  assert_true(ask(f, 2, 1, FLOW_BUDGET)); // a batch: more for the same call, past the line
  flow_done(f->flow, 1);
  turn(f, &f->home);
  assert_told(f, 1, 1);
  assert_false(ask(f, 3, 3, 2 * (size_t)FLOW_BUDGET)); // not beside another
  flow_done(f->flow, 2);
  turn(f, &f->home);
  assert_told(f, 3, 2);
  flow_done(f->flow, 3);
  end(f);
}

static void test_order(void **state)
{
  (void)state;
  struct fixture *f = start(NSEC_PER_S);
  assert_true(ask(f, 0, 1, 16 * MIB));
  assert_false(ask(f, 1, 2, 10 * MIB));
  assert_false(ask(f, 2, 3, 10 * MIB));
  assert_false(ask(f, 3, 2, 10 * MIB)); // goes with the first of its call
  assert_false(ask(f, 4, 4, 1 * MIB));  // would fit, but others were there before
  flow_done(f->flow, 1);
  turn(f, &f->home);
  assert_told(f, 1, 1);
  assert_told(f, 3, 2);
  assert_told(f, 2, 0);
  assert_told(f, 4, 0);
  flow_done(f->flow, 2);
  turn(f, &f->home);
  assert_told(f, 2, 3);
  assert_told(f, 4, 4);
  flow_done(f->flow, 3);
  flow_done(f->flow, 4);
  end(f);
}

static void test_leaving(void **state)
{
  (void)state;
  struct fixture *f = start(NSEC_PER_S);
  assert_true(ask(f, 0, 1, 8 * MIB));
  assert_false(ask(f, 1, 2, 9 * MIB));
  assert_false(ask(f, 2, 3, 8 * MIB));
  flow_leave(f->reader[1].wait); // who is behind moves up
  turn(f, &f->home);
  assert_told(f, 2, 1);
  assert_told(f, 1, 0);
  assert_false(ask(f, 3, 4, 8 * MIB));
  flow_done(f->flow, 1);
  flow_leave(f->reader[3].wait); // the answer is under way already
  turn(f, &f->home);
  assert_told(f, 3, 0);
  assert_false(ask(f, 4, 5, 8 * MIB)); // its room is its call's until that is done
  flow_done(f->flow, 4);
  turn(f, &f->home);
  assert_told(f, 4, 2);
  flow_leave(NULL);
  end(f);
}

static void test_another_reactor(void **state)
{
  (void)state;
  struct fixture *f = start(NSEC_PER_S);
  assert_true(ask_on(f, &f->other, 0, 1, FLOW_BUDGET));
  assert_false(ask_on(f, &f->other, 1, 2, FLOW_LARGE));
  assert_false(ask(f, 2, 3, FLOW_LARGE));
  flow_done(f->flow, 1);
  turn(f, &f->home);
  assert_told(f, 2, 1);
  assert_told(f, 1, 0);
  turn(f, &f->other);
  assert_told(f, 1, 2);
  assert_ptr_equal(f->reader[1].turn, &f->other);
  assert_ptr_equal(f->reader[2].turn, &f->home);
  end(f);
}

// The connection goes before its calls do.
static void test_closed(void **state)
{
  (void)state;
  struct fixture *f = start(NSEC_PER_S);
  struct flow *ref = flow_ref(f->flow);
  assert_true(ask(f, 0, 1, FLOW_BUDGET));
  assert_false(ask_on(f, &f->other, 1, 2, FLOW_LARGE));
  assert_false(ask_on(f, &f->other, 2, 3, FLOW_LARGE));
  flow_close(f->flow);
  f->flow = NULL;
  flow_leave(f->reader[1].wait);
  flow_done(ref, 1);
  flow_leave(f->reader[2].wait);
  flow_done(ref, 3);
  turn(f, &f->other);
  turn(f, &f->home);
  assert_int_equal(f->told, 0);
  flow_unref(ref);
  flow_unref(NULL);
  end(f);
}

// --- time --------------------------------------------------------------------------------------------------------------------------------

// The caller takes nothing: who waits for it is told that there will be no room, but not while it takes something.
static void test_patience(void **state)
{
  (void)state;
  struct fixture *f = start(300 * NSEC_PER_MS);
  assert_true(ask(f, 0, 1, FLOW_BUDGET));
  assert_false(ask(f, 1, 2, FLOW_LARGE));
  assert_false(ask_on(f, &f->other, 2, 3, FLOW_LARGE));
  flow_complete(f->flow, 1);
  flow_complete(f->flow, 1);
  for (int i = 0; i < 4; i++) {
    wait_for(f, &f->reader[1], 150 * NSEC_PER_MS);
    assert_told(f, 1, 0);
    flow_progress(f->flow);
  }
  nsec took = wait_for(f, &f->reader[1], 10 * NSEC_PER_S);
  assert_int_equal(f->reader[1].told, 1);
  assert_false(f->reader[1].room);
  assert_true(took >= 290 * NSEC_PER_MS && took < 5 * NSEC_PER_S);
  turn(f, &f->other);
  assert_int_equal(f->reader[2].told, 2);
  assert_false(f->reader[2].room);
  assert_false(ask(f, 3, 4, FLOW_LARGE)); // what was taken is taken
  flow_done(f->flow, 1);
  turn(f, &f->home);
  assert_told(f, 3, 3);
  end(f);
}

// The caller has nothing to take, as workers are slow with what they have room for: one more is let in every second, and ten a second once the caller has taken a
// large reply.
static void test_slow_workers(void **state)
{
  (void)state;
  struct fixture *f = start(60 * NSEC_PER_S);
  assert_true(ask(f, 0, 1, FLOW_BUDGET));
  assert_false(ask_on(f, &f->other, 1, 2, FLOW_BUDGET));
  assert_false(ask(f, 2, 3, FLOW_BUDGET));
  turn(f, &f->home); // the other's wish for the timer
  nsec took = wait_for(f, &f->reader[2], 700 * NSEC_PER_MS);
  turn(f, &f->other);
  assert_told(f, 1, 0);
  took += wait_for(f, &f->reader[2], 10 * NSEC_PER_S);
  turn(f, &f->other);
  assert_told(f, 2, 1);
  assert_told(f, 1, 2); // it came first, on the other reactor, whose turn was later
  assert_true(took >= 1900 * NSEC_PER_MS);

  flow_complete(f->flow, 1);
  flow_done(f->flow, 1);
  assert_false(ask(f, 3, 4, FLOW_BUDGET));
  took = wait_for(f, &f->reader[3], 10 * NSEC_PER_S);
  assert_told(f, 3, 3);
  assert_true(took < 900 * NSEC_PER_MS);
  end(f);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_budget),   cmocka_unit_test(test_one_may_be_larger), cmocka_unit_test(test_order),
      cmocka_unit_test(test_leaving),  cmocka_unit_test(test_another_reactor),   cmocka_unit_test(test_closed),
      cmocka_unit_test(test_patience), cmocka_unit_test(test_slow_workers),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
