// SPDX-License-Identifier: Apache-2.0
// How many workers an environment has: kept warm, replaced, launched in turn, and not launched again and again in vain.
#include "pool_fixture.h"

static void run_until_ready(struct fixture *f, int n)
{
  for (int i = 0; i < 1000 && pool_stats(the_pool(f)).ready != n; i++)
    run_for(f, NULL, 10 * NSEC_PER_MS);
  assert_int_equal(pool_stats(the_pool(f)).ready, n);
}

static void run_a_while(struct fixture *f, int ms)
{
  run_for(f, NULL, (nsec)ms * NSEC_PER_MS);
}

// The id of the only worker that serves.
static void serving(struct fixture *f, char id[40])
{
  struct worker_view v;
  int n = 0;
  for (uint64_t at = 0; pool_next_worker(&f->r, at, false, &v); at = v.sequence)
    if (v.state == WORKER_READY && !v.draining) {
      snprintf(id, 40, "%s", v.id);
      n++;
    }
  assert_int_equal(n, 1);
}

// --- warm workers --------------------------------------------------------------------------------------------------------------------------

static void test_keeps_the_least_ready(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  f->env.min_workers = 2;
  f->env.max_workers = 3;
  f->env.worker_idle_s = 0.02;
  fixture_start(f);
  run_until_ready(f, 2); // though nobody asked
  run_a_while(f, 200);
  assert_int_equal(count(f, METRIC_workers_started_total), 2); // nor were they stopped for being idle
  struct wish a = {0}, b = {0}, c = {0};
  nsec before = clock_mono();
  ask(f, &a);
  ask(f, &b);
  assert_true(a.granted && b.granted); // at once
  assert_true(clock_mono() - before < 5 * NSEC_PER_MS);
  ask_and_get(f, &c); // beyond the least
  give_back(f, &a, SLOT_FREE, 0);
  give_back(f, &b, SLOT_FREE, 0);
  give_back(f, &c, SLOT_FREE, 0);
  run_until_ready(f, 2); // the third is stopped again, and it alone
  run_a_while(f, 200);
  assert_int_equal(pool_stats(the_pool(f)).ready, 2);
  assert_int_equal(count(f, METRIC_workers_started_total), 3);
  fixture_free(f);
}

static void test_refills_after_a_loss(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  f->env.min_workers = 1;
  f->env.max_workers = 1;
  fixture_start(f);
  run_until_ready(f, 1);
  char first[40], second[40];
  serving(f, first);
  assert_true(pool_stop_worker(&f->r, str_c(first)));
  assert_false(pool_stop_worker(&f->r, STR("w99")));
  run_until_ready(f, 0);
  run_until_ready(f, 1);
  serving(f, second);
  assert_string_not_equal(first, second);
  struct err e;
  assert_true(pool_worker_epitaph(&f->r, first, &e));
  fixture_free(f);
}

struct warm {
  struct warm_request q;
  bool done, failed;
  struct err err;
  int told;
};

static void on_warm_progress(struct warm_request *q)
{
  CONTAINER_OF(q, struct warm, q)->told++;
}

static void on_warm(struct warm_request *q, const struct err *e)
{
  struct warm *w = CONTAINER_OF(q, struct warm, q);
  assert_false(w->done);
  w->done = true;
  w->failed = e != NULL;
  if (e)
    w->err = *e;
}

static struct warm warm_for(int64_t n)
{
  return (struct warm){.q = {.workers = n, .progress = on_warm_progress, .done = on_warm}};
}

static void test_warms_on_request(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  f->env.worker_idle_s = 0.05;
  fixture_start(f);
  struct warm w = warm_for(2), more = warm_for(100), left = warm_for(2);
  pool_warm(the_pool(f), &w.q);
  pool_warm(the_pool(f), &more.q); // max_workers is all that it can mean
  pool_warm(the_pool(f), &left.q);
  pool_warm_cancel(&left.q);
  struct launch_progress p;
  assert_true(pool_progress(the_pool(f), &p) && p.phase >= LAUNCH_STARTING);
  run_until(f, &w.done);
  assert_true(more.done && !left.done && !w.failed && w.told > 0);
  assert_int_equal(pool_stats(the_pool(f)).ready, 2);
  assert_false(pool_progress(the_pool(f), &p));
  struct warm again = warm_for(1);
  pool_warm(the_pool(f), &again.q);
  assert_true(again.done && !again.failed); // it is so already
  run_until_ready(f, 0);                    // and then they idle as any
  fixture_free(f);
}

static void test_tells_who_warms_why_it_failed(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  static char script[] = "echo no; exit 4";
  use_shell(f, script);
  fixture_start(f);
  struct warm w = warm_for(1);
  pool_warm(the_pool(f), &w.q);
  run_until(f, &w.done);
  assert_true(w.failed);
  assert_string_equal(w.err.msg, "the worker exited with code 4\nIts last output:\nno");
  struct warm drained = warm_for(1), late = warm_for(1);
  pool_warm(the_pool(f), &drained.q);
  fixture_stop(f);
  pool_warm(the_pool(f), &late.q);
  assert_true(drained.failed && late.failed);
  assert_ptr_equal(late.err.reason, REASON_DRAINING);
  fixture_free(f);
}

// --- replacement ---------------------------------------------------------------------------------------------------------------------------

static void test_replaces_a_worker_after_its_sessions(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  f->env.max_worker_sessions = 2;
  f->env.sessions_per_worker = 8;
  f->env.max_workers = 1;
  fixture_start(f);
  struct wish a = {0}, b = {0}, c = {0};
  ask_and_get(f, &a);
  ask_and_get(f, &b);
  assert_string_equal(a.slot.worker_id, b.slot.worker_id);
  ask(f, &c);
  give_back(f, &a, SLOT_FREE, 0);
  run_a_while(f, 100);
  assert_false(c.answered); // it has had its two, and one of them still runs
  assert_int_equal(pool_stats(the_pool(f)).ready, 1);
  give_back(f, &b, SLOT_FREE, 0);
  run_until(f, &c.answered);
  assert_true(c.granted);
  assert_string_not_equal(b.slot.worker_id, c.slot.worker_id);
  assert_int_equal(count(f, METRIC_workers_retired_total), 1);
  assert_int_equal(count(f, METRIC_workers_exited_total), 0);
  give_back(f, &c, SLOT_FREE, 0);
  fixture_free(f);
}

static void test_has_the_next_worker_warm_for_each_session(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  f->env.max_worker_sessions = 1;
  f->env.min_workers = 1;
  fixture_start(f);
  run_until_ready(f, 1);
  struct wish a = {0}, b = {0};
  ask(f, &a);
  assert_true(a.granted);
  run_until_ready(f, 2); // while the first session still runs
  ask(f, &b);
  assert_true(b.granted);
  assert_string_not_equal(a.slot.worker_id, b.slot.worker_id);
  give_back(f, &a, SLOT_FREE, 0);
  give_back(f, &b, SLOT_FREE, 0);
  run_until_ready(f, 0);
  run_until_ready(f, 1);
  assert_int_equal(count(f, METRIC_workers_retired_total), 2);
  fixture_free(f);
}

static void test_replaces_an_old_worker_once_another_is_ready(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  static char late[] = "wl";
  f->args[3] = late;
  f->env.min_workers = 1;
  f->env.max_workers = 2;
  f->env.max_worker_age_s = 0.5;
  fixture_start(f);
  run_until_ready(f, 1);
  char first[40], second[40];
  serving(f, first);
  // There is always one that serves, though each takes 300 ms to come.
  nsec until = clock_mono() + 1500 * NSEC_PER_MS;
  while (clock_mono() < until) {
    assert_true(pool_stats(the_pool(f)).ready >= 1);
    run_a_while(f, 10);
  }
  assert_in_range(count(f, METRIC_workers_retired_total), 1, 3);
  run_until_ready(f, 1);
  serving(f, second);
  assert_string_not_equal(first, second);
  fixture_free(f);
}

static void test_replaces_old_workers_one_by_one_where_there_is_no_room(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  f->env.min_workers = 2;
  f->env.max_workers = 2;
  f->env.max_worker_age_s = 0.6;
  fixture_start(f);
  run_until_ready(f, 2);
  nsec until = clock_mono() + 2 * NSEC_PER_S;
  while (clock_mono() < until) {
    struct pool_stats s = pool_stats(the_pool(f));
    assert_true(s.ready >= 1 && s.ready + s.starting + s.stopping <= 2);
    run_a_while(f, 5);
  }
  assert_true(count(f, METRIC_workers_retired_total) >= 2);
  fixture_free(f);
}

static void test_an_old_worker_keeps_its_session(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  f->env.max_workers = 1;
  f->env.max_worker_age_s = 0.1;
  fixture_start(f);
  struct wish a = {0}, b = {0};
  ask_and_get(f, &a);
  ask(f, &b);
  run_a_while(f, 300);
  assert_int_equal(pool_stats(the_pool(f)).ready, 1);
  assert_false(b.answered);
  give_back(f, &a, SLOT_FREE, 0);
  run_until(f, &b.answered);
  assert_true(b.granted);
  assert_string_not_equal(a.slot.worker_id, b.slot.worker_id);
  give_back(f, &b, SLOT_FREE, 0);
  fixture_free(f);
}

// Someone who follows a worker's log.
struct watch {
  struct log_follower f;
  struct worker_log *log;
  bool ended;
};

static void on_news(struct log_follower *f)
{
  struct watch *w = CONTAINER_OF(f, struct watch, f);
  w->ended = worker_log_ended(w->log);
}

static void test_drains_a_worker_on_request(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  fixture_start(f);
  struct wish a = {0}, b = {0};
  ask_and_get(f, &a);
  assert_true(pool_drain_worker(&f->r, str_c(a.slot.worker_id)));
  struct worker_view v;
  assert_false(pool_find_worker(&f->r, STR("w99"), &v));
  assert_true(pool_find_worker(&f->r, str_c(a.slot.worker_id), &v));
  struct watch w = {.f.news = on_news, .log = worker_log_ref(v.log)};
  list_init(&w.f.link);
  worker_log_follow(v.log, &w.f);
  assert_true(v.draining && v.state == WORKER_READY && v.sessions == 1 && v.sessions_served == 1 && v.unix_path);
  assert_string_equal(v.env, "test");
  ask_and_get(f, &b);
  assert_string_not_equal(a.slot.worker_id, b.slot.worker_id);
  assert_false(w.ended);
  char id[40];
  snprintf(id, sizeof id, "%s", a.slot.worker_id);
  give_back(f, &a, SLOT_FREE, 0);
  run_until(f, &w.ended);
  list_remove(&w.f.link);
  worker_log_unref(w.log);
  assert_false(pool_drain_worker(&f->r, str_c(id)));
  // It is remembered, in its place, for those who ask for such.
  assert_true(pool_find_worker(&f->r, str_c(id), &v) && v.state == WORKER_GONE && v.ended_wall && v.ready_wall && v.sessions_served == 1);
  assert_true(pool_next_worker(&f->r, 0, true, &v) && v.sequence == 1 && v.state == WORKER_GONE);
  assert_true(pool_next_worker(&f->r, 1, true, &v) && v.sequence == 2 && v.state == WORKER_READY);
  assert_true(pool_next_worker(&f->r, 0, false, &v) && v.sequence == 2);
  assert_false(pool_next_worker(&f->r, 2, true, &v));
  give_back(f, &b, SLOT_FREE, 0);
  fixture_free(f);
}

// --- launches ------------------------------------------------------------------------------------------------------------------------------

static void test_launches_in_turn(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  static char late[] = "wl", other[] = "other";
  f->args[3] = late;
  f->env.max_workers = 4;
  struct env_config envs[2] = {f->env, f->env};
  envs[1].name = other;
  f->config.envs = envs;
  f->config.n_envs = 2;
  f->config.max_launches = 2;
  fixture_start(f);
  int order = 0;
  struct wish a[4], b;
  for (int i = 0; i < 4; i++) {
    a[i].order = &order;
    ask(f, &a[i]);
  }
  b = (struct wish){.q = {.granted = on_granted, .asked = clock_mono()}, .order = &order};
  list_init(&b.q.link);
  pool_acquire(pool_find(&f->r, STR("other")), &b.q);
  assert_int_equal(pool_stats(the_pool(f)).starting, 2);
  struct standing s = pool_standing(&a[3].q);
  assert_true(s.launching && !s.hopeless && s.progress.phase == LAUNCH_WAITING);
  s = pool_standing(&a[0].q);
  assert_true(s.launching && s.progress.phase >= LAUNCH_STARTING);
  for (int i = 0; i < 200 && order < 5; i++) {
    struct pool_stats one = pool_stats(the_pool(f)), two = pool_stats(pool_find(&f->r, STR("other")));
    assert_true(one.starting + two.starting <= 2);
    run_a_while(f, 10);
  }
  assert_int_equal(order, 5);
  assert_in_range(b.at, 3, 4); // launched as soon as there was room, though the other environment had asked for four before
  for (int i = 0; i < 4; i++)
    give_back(f, &a[i], SLOT_FREE, 0);
  pool_release(pool_find(&f->r, STR("other")), &b.slot, SLOT_FREE, 0);
  fixture_free(f);
}

static void test_knows_who_hopes_in_vain(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  f->env.max_workers = 1;
  fixture_start(f);
  struct wish a = {0}, b = {0}, c = {0};
  ask(f, &a);
  ask(f, &b);
  struct standing s = pool_standing(&a.q);
  assert_true(s.launching && !s.hopeless);
  s = pool_standing(&b.q);
  assert_true(s.hopeless && !s.launching);
  run_until(f, &a.answered);
  give_back(f, &a, SLOT_FREE, 0);
  assert_true(b.granted);
  ask(f, &c);
  assert_true(pool_standing(&c.q).hopeless);
  pool_cancel(&c.q);
  give_back(f, &b, SLOT_FREE, 0);
  fixture_free(f);
}

static void ask_in_vain(struct fixture *f, struct wish *w)
{
  ask(f, w);
  run_until(f, &w->answered);
  assert_false(w->granted);
}

static void test_opens_a_breaker(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  static char script[512];
  snprintf(script, sizeof script, "if test -e %s/good; then exec '%s' fake-worker \"$0\" w; fi; echo bad; exit 5", f->dir, self);
  use_shell(f, script);
  fixture_start(f);
  assert_false(pool_broken(&f->r, 0));
  struct wish a = {0}, b = {0};
  for (int i = 0; i < 3; i++)
    ask_in_vain(f, &a);
  assert_true(pool_broken(&f->r, 0));
  assert_int_equal(count(f, METRIC_workers_started_total), 3);
  ask(f, &b);
  assert_true(b.answered && !b.granted); // at once
  assert_int_equal(b.err.code, CODE_FAILED_PRECONDITION);
  assert_ptr_equal(b.err.reason, REASON_WORKER_START_FAILED);
  assert_in_range(b.err.retry_after_ms, 1, 1001);
  assert_non_null(strstr(b.err.msg, "3 launches of test failed in a row; the next is tried in "));
  assert_non_null(strstr(b.err.msg, "The last: the worker exited with code 5\nIts last output:\nbad"));
  assert_int_equal(count(f, METRIC_launches_refused_total), 1);
  assert_int_equal(count(f, METRIC_workers_started_total), 3);
  run_a_while(f, 1050);
  assert_false(pool_broken(&f->r, 0)); // half open: callers are let in
  ask(f, &a);
  ask(f, &b);
  assert_int_equal(pool_stats(the_pool(f)).starting, 1); // one try
  assert_true(pool_broken(&f->r, 0));
  run_until(f, &b.answered);
  assert_true(a.answered && !a.granted && !b.granted);
  char path[100];
  snprintf(path, sizeof path, "%s/good", f->dir);
  assert_int_equal(mkdir(path, 0700), 0);
  ask(f, &a);
  assert_true(a.answered && !a.granted && a.err.retry_after_ms > 0);
  run_a_while(f, (int)a.err.retry_after_ms + 20);
  ask(f, &a);
  ask(f, &b);
  run_until(f, &b.answered);
  assert_true(a.granted && b.granted); // closed: the second was launched when the first was ready
  assert_false(pool_broken(&f->r, 0));
  give_back(f, &a, SLOT_FREE, 0);
  give_back(f, &b, SLOT_FREE, 0);
  rmdir(path);
  fixture_free(f);
}

// Failed launches are tried again for the least that is to be ready, without anybody asking, but not without end in a moment.
static void test_tries_again_for_the_least(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  static char script[512];
  snprintf(script, sizeof script, "if test -e %s/good; then exec '%s' fake-worker \"$0\" w; fi; exit 5", f->dir, self);
  use_shell(f, script);
  f->env.min_workers = 1;
  fixture_start(f);
  run_a_while(f, 800);
  assert_in_range(count(f, METRIC_workers_failed_total), 2, 3);
  char path[100];
  snprintf(path, sizeof path, "%s/good", f->dir);
  assert_int_equal(mkdir(path, 0700), 0);
  run_until_ready(f, 1);
  assert_in_range(count(f, METRIC_workers_failed_total), 3, 4);
  rmdir(path);
  fixture_free(f);
}

// --- probes --------------------------------------------------------------------------------------------------------------------------------

// A worker that does not answer /health for a while, as openenv-core 0.1 while it steps, is not ended over the heads of its sessions.
static void test_a_slow_health_ends_no_sessions(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  static char busy[] = "wb";
  f->args[3] = busy;
  f->env.sessions_per_worker = 2;
  f->env.max_workers = 1;
  fixture_start(f);
  struct wish a = {0}, b = {0};
  ask_and_get(f, &a);
  ask_and_get(f, &b);
  give_back(f, &b, SLOT_LOST, 0); // probed, and twice in vain
  run_for(f, NULL, 12 * NSEC_PER_S);
  assert_int_equal(count(f, METRIC_workers_exited_total), 0);
  assert_int_equal(pool_stats(the_pool(f)).ready, 1);
  give_back(f, &a, SLOT_FREE, 0); // nobody has it any more, and it still does not answer
  run_until_count(f, METRIC_workers_exited_total, 1);
  fixture_free(f);
}

static int run(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_keeps_the_least_ready),
      cmocka_unit_test(test_refills_after_a_loss),
      cmocka_unit_test(test_warms_on_request),
      cmocka_unit_test(test_tells_who_warms_why_it_failed),
      cmocka_unit_test(test_replaces_a_worker_after_its_sessions),
      cmocka_unit_test(test_has_the_next_worker_warm_for_each_session),
      cmocka_unit_test(test_replaces_an_old_worker_once_another_is_ready),
      cmocka_unit_test(test_replaces_old_workers_one_by_one_where_there_is_no_room),
      cmocka_unit_test(test_an_old_worker_keeps_its_session),
      cmocka_unit_test(test_drains_a_worker_on_request),
      cmocka_unit_test(test_launches_in_turn),
      cmocka_unit_test(test_knows_who_hopes_in_vain),
      cmocka_unit_test(test_opens_a_breaker),
      cmocka_unit_test(test_tries_again_for_the_least),
      cmocka_unit_test(test_a_slow_health_ends_no_sessions),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(int argc, char **argv)
{
  return fixture_main(argc, argv, run);
}
