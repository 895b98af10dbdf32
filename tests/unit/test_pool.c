// SPDX-License-Identifier: Apache-2.0
// Who waits for workers, who is served, and what becomes of workers that end. How many there are is test_fleet.c's.
#include "pool_fixture.h"

// --- tests ---------------------------------------------------------------------------------------------------------------------------------

static void test_launches_on_demand(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  fixture_start(f);
  run_for(f, NULL, 20 * NSEC_PER_MS);
  assert_int_equal(count(f, METRIC_workers_started_total), 0);
  int order = 0;
  struct wish a = {.order = &order}, b = {.order = &order}, c = {.order = &order};
  ask(f, &a);
  ask(f, &b);
  ask(f, &c);
  struct pool_stats s = pool_stats(the_pool(f));
  assert_int_equal(s.starting, 2); // max_workers
  assert_int_equal(s.waiting, 3);
  run_until(f, &a.answered);
  run_until(f, &b.answered);
  assert_true(a.granted && b.granted);
  assert_int_equal(a.slot.dialect, DIALECT_WS);
  assert_non_null(a.slot.endpoint.unix_path);
  assert_string_not_equal(a.slot.worker_id, b.slot.worker_id);
  run_for(f, NULL, 100 * NSEC_PER_MS);
  assert_false(c.answered);
  s = pool_stats(the_pool(f));
  assert_int_equal(s.ready, 2);
  assert_int_equal(s.sessions, 2);
  assert_int_equal(s.waiting, 1);
  give_back(f, &b, SLOT_FREE, 0);
  assert_true(c.granted); // the slot passes on at once
  assert_int_equal(a.at, 1);
  assert_int_equal(b.at, 2);
  assert_int_equal(c.at, 3);
  assert_int_equal(count(f, METRIC_workers_started_total), 2);
  give_back(f, &a, SLOT_FREE, 0);
  give_back(f, &c, SLOT_FREE, 0);
  fixture_free(f);
}

static void test_serves_in_order_and_forgets_who_cancels(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  f->env.max_workers = 1;
  fixture_start(f);
  struct wish first, w[4];
  int order = 0;
  first.order = NULL;
  ask_and_get(f, &first);
  for (int i = 0; i < 4; i++) {
    w[i].order = &order;
    ask(f, &w[i]);
  }
  pool_cancel(&w[1].q);
  pool_cancel(&w[1].q); // harmless
  assert_int_equal(pool_stats(the_pool(f)).waiting, 3);
  give_back(f, &first, SLOT_FREE, 0);
  assert_true(w[0].granted && !w[2].answered);
  give_back(f, &w[0], SLOT_FREE, 0);
  give_back(f, &w[2], SLOT_FREE, 0);
  give_back(f, &w[3], SLOT_FREE, 0);
  assert_false(w[1].answered);
  assert_true(w[0].at == 1 && w[2].at == 2 && w[3].at == 3);
  fixture_free(f);
}

static void test_speaks_http_where_there_is_no_ws(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  static char traits[] = "l"; // and comes up late
  f->args[3] = traits;
  f->env.sessions_per_worker = 5;
  f->env.max_workers = 1;
  fixture_start(f);
  struct wish a = {0}, b = {0};
  ask_and_get(f, &a);
  assert_int_equal(a.slot.dialect, DIALECT_HTTP);
  ask(f, &b);
  run_for(f, NULL, 50 * NSEC_PER_MS);
  assert_false(b.answered); // one session is the whole worker
  give_back(f, &a, SLOT_FREE, 0);
  assert_true(b.granted);
  give_back(f, &b, SLOT_FREE, 0);
  fixture_free(f);
}

static void test_stops_idle_workers(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  f->env.worker_idle_s = 0.05;
  fixture_start(f);
  struct wish a = {0};
  ask_and_get(f, &a);
  run_for(f, NULL, 150 * NSEC_PER_MS);
  assert_int_equal(pool_stats(the_pool(f)).ready, 1); // it is in use
  give_back(f, &a, SLOT_FREE, 0);
  run_for(f, NULL, 300 * NSEC_PER_MS);
  struct pool_stats s = pool_stats(the_pool(f));
  assert_int_equal(s.ready + s.starting + s.stopping, 0);
  ask_and_get(f, &a);
  assert_int_equal(count(f, METRIC_workers_started_total), 2);
  assert_int_equal(count(f, METRIC_workers_exited_total), 0);
  give_back(f, &a, SLOT_FREE, 0);
  fixture_free(f);
}

static void test_learns_how_many_sessions_a_worker_takes(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  f->env.sessions_per_worker = 4;
  fixture_start(f);
  struct wish a = {0}, b = {0}, c = {0};
  ask_and_get(f, &a);
  ask_and_get(f, &b);
  assert_string_equal(a.slot.worker_id, b.slot.worker_id);
  give_back(f, &b, SLOT_FULL, 1);
  ask_and_get(f, &b);
  assert_string_not_equal(a.slot.worker_id, b.slot.worker_id); // another was launched
  ask(f, &c);
  run_for(f, NULL, 100 * NSEC_PER_MS);
  assert_false(c.answered);
  give_back(f, &a, SLOT_FREE, 0);
  assert_true(c.granted);
  give_back(f, &b, SLOT_FREE, 0);
  give_back(f, &c, SLOT_FREE, 0);
  fixture_free(f);
}

static void test_waits_for_a_slot_that_is_just_being_freed(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  f->env.max_workers = 1;
  fixture_start(f);
  struct wish a = {0};
  ask_and_get(f, &a);
  give_back(f, &a, SLOT_FULL, 1); // though nobody has it, by our account
  nsec before = clock_mono();
  ask(f, &a);
  assert_false(a.answered);
  run_until(f, &a.answered);
  assert_true(a.granted);
  nsec waited = clock_mono() - before;
  assert_true(waited >= 15 * NSEC_PER_MS && waited < 500 * NSEC_PER_MS);
  give_back(f, &a, SLOT_FREE, 0);
  fixture_free(f);
}

static void test_refuses_when_others_take_all(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  f->env.max_workers = 1;
  fixture_start(f);
  struct wish a = {0};
  int tries = 0;
  nsec before = clock_mono();
  for (;;) {
    ask(f, &a);
    run_until(f, &a.answered);
    if (!a.granted)
      break;
    assert_true(++tries < 20);
    give_back(f, &a, SLOT_FULL, 0);
  }
  assert_true(tries >= 5 && clock_mono() - before < 5 * NSEC_PER_S);
  assert_int_equal(a.err.code, CODE_RESOURCE_EXHAUSTED);
  assert_ptr_equal(a.err.reason, REASON_NO_CAPACITY);
  assert_in_range(a.err.retry_after_ms, 1, 1001);
  run_for(f, NULL, 1100 * NSEC_PER_MS);
  ask_and_get(f, &a); // it is tried again
  give_back(f, &a, SLOT_FREE, 0);
  ask(f, &a);
  assert_true(a.granted); // what worked once is trusted at once
  give_back(f, &a, SLOT_FREE, 0);
  fixture_free(f);
}

static void test_replaces_a_worker_that_does_not_answer(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  static char unwell[] = "wu";
  f->args[3] = unwell;
  f->env.max_workers = 1;
  fixture_start(f);
  struct wish a = {0}, b = {0};
  ask_and_get(f, &a);
  ask(f, &b);
  give_back(f, &a, SLOT_LOST, 0);
  assert_false(b.answered); // not before it was probed
  run_until(f, &b.answered);
  assert_true(b.granted);
  assert_string_not_equal(a.slot.worker_id, b.slot.worker_id);
  struct err e;
  assert_true(pool_worker_epitaph(&f->r, a.slot.worker_id, &e));
  assert_string_equal(e.msg, "the worker's /health answered 500");
  assert_int_equal(count(f, METRIC_workers_exited_total), 1);
  give_back(f, &b, SLOT_FREE, 0);
  fixture_free(f);
}

static void test_keeps_a_worker_that_is_well(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  f->env.max_workers = 1;
  fixture_start(f);
  struct wish a = {0}, b = {0};
  ask_and_get(f, &a);
  give_back(f, &a, SLOT_LOST, 0);
  ask_and_get(f, &b);
  assert_string_equal(a.slot.worker_id, b.slot.worker_id);
  struct err e;
  assert_false(pool_worker_epitaph(&f->r, a.slot.worker_id, &e));
  give_back(f, &b, SLOT_FREE, 0);
  fixture_free(f);
}

static void test_tells_why_a_launch_failed(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  static char script[] = "echo not today; echo 'no \033[1mlicence\033[0m' >&2; exit 3";
  use_shell(f, script);
  fixture_start(f);
  struct wish a = {0}, b = {0}, c = {0};
  ask(f, &a);
  ask(f, &b);
  ask(f, &c);
  run_until(f, &c.answered);
  assert_true(a.answered && b.answered);
  assert_int_equal(a.err.code, CODE_FAILED_PRECONDITION);
  assert_ptr_equal(a.err.reason, REASON_WORKER_START_FAILED);
  assert_string_equal(a.err.msg, "the worker exited with code 3\nIts last output:\nnot today\nno licence");
  assert_int_equal(count(f, METRIC_workers_failed_total), 2);
  // Launches that fail in a row wait longer and longer.
  nsec last = 0;
  for (int i = 0; i < 2; i++) {
    nsec before = clock_mono();
    ask(f, &a);
    run_until(f, &a.answered);
    nsec took = clock_mono() - before;
    assert_true(took > last + last / 2 && took < 2 * NSEC_PER_S);
    last = took;
  }
  assert_int_equal(count(f, METRIC_workers_started_total), 4);
  fixture_free(f);
}

static void test_one_failed_launch_does_not_fail_all(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  // The first to take the folder becomes a worker; the other fails.
  static char script[1024];
  snprintf(script, sizeof script, "if mkdir %s/first; then exec '%s' fake-worker \"$0\" w; fi; sleep 0.1; exit 1", f->dir, self);
  use_shell(f, script);
  fixture_start(f);
  struct wish a = {0}, b = {0};
  ask(f, &a);
  ask(f, &b);
  run_until(f, &a.answered);
  assert_true(a.granted);
  run_until(f, &b.answered);
  assert_false(b.granted);
  give_back(f, &a, SLOT_FREE, 0);
  char path[128];
  snprintf(path, sizeof path, "%s/first", f->dir);
  rmdir(path);
  fixture_free(f);
}

static void test_gives_up_on_a_worker_that_is_not_ready_in_time(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  static char script[] = "echo still loading; exec sleep 100";
  use_shell(f, script);
  f->env.ready_timeout_s = 0.3;
  fixture_start(f);
  struct wish a = {0};
  ask(f, &a);
  run_until(f, &a.answered);
  assert_false(a.granted);
  assert_int_equal(a.err.code, CODE_FAILED_PRECONDITION);
  assert_non_null(strstr(a.err.msg, "ready_timeout_s is 0.3\nIts last output:\nstill loading"));
  fixture_free(f);
}

static void test_kills_what_ignores_sigterm_with_all_descendants(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  // A grandchild in a session of its own, whose parent is gone, holds a file open for as long as it lives.
  static char script[1024];
  snprintf(script, sizeof script,
           "trap '' TERM; (setsid sh -c \"trap '' TERM; mkfifo %s/alive; echo; cat %s/alive\" &) ; exec '%s' fake-worker \"$0\" w", f->dir, f->dir,
           self);
  use_shell(f, script);
  f->env.stop_grace_s = 0.2;
  fixture_start(f);
  struct wish a = {0};
  ask_and_get(f, &a);
  give_back(f, &a, SLOT_FREE, 0);
  char path[128];
  snprintf(path, sizeof path, "%s/alive", f->dir);
  run_for(f, NULL, 200 * NSEC_PER_MS);
  assert_int_equal(access(path, F_OK), 0);
  nsec before = clock_mono();
  fixture_stop(f);
  run_until(f, &f->stopped);
  nsec took = clock_mono() - before;
  assert_true(took >= 190 * NSEC_PER_MS && took < 2 * NSEC_PER_S);
  // Nobody reads the fifo any more.
  assert_true(uv_fs_open(NULL, &(uv_fs_t){0}, path, O_WRONLY | O_NONBLOCK, 0, NULL) == UV_ENXIO);
  unlink(path);
  fixture_free(f);
}

struct schema_result {
  bool done;
  char text[64];
  struct err err;
};

static void on_schema(void *ctx, struct str schema, const struct err *e)
{
  struct schema_result *s = ctx;
  assert_false(s->done);
  s->done = true;
  if (e)
    s->err = *e;
  else
    snprintf(s->text, sizeof s->text, "%.*s", STR_ARG(schema));
}

static void test_fetches_the_schema_once(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  f->env.worker_idle_s = 0.05;
  fixture_start(f);
  struct schema_result a = {0}, b = {0}, c = {0};
  pool_document(the_pool(f), DOCUMENT_SCHEMA, on_schema, &a); // launches a worker
  pool_document(the_pool(f), DOCUMENT_SCHEMA, on_schema, &b);
  run_until(f, &a.done);
  assert_true(b.done);
  assert_string_equal(a.text, "{\"action\":{}}");
  assert_string_equal(b.text, "{\"action\":{}}");
  pool_document(the_pool(f), DOCUMENT_SCHEMA, on_schema, &c);
  assert_true(c.done);
  assert_string_equal(c.text, "{\"action\":{}}");
  assert_int_equal(count(f, METRIC_workers_started_total), 1);
  run_for(f, NULL, 300 * NSEC_PER_MS);
  struct pool_stats s = pool_stats(the_pool(f));
  assert_int_equal(s.ready + s.stopping, 0); // it was not left running
  fixture_free(f);
}

static void test_says_when_there_is_no_schema(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  static char traits[] = "w";
  f->args[3] = traits;
  fixture_start(f);
  struct schema_result a = {0};
  pool_document(the_pool(f), DOCUMENT_SCHEMA, on_schema, &a);
  run_until(f, &a.done);
  assert_int_equal(a.err.code, CODE_UNIMPLEMENTED);
  assert_ptr_equal(a.err.reason, REASON_SCHEMA_NOT_PUBLISHED);
  fixture_free(f);
}

static void test_remembers_how_a_worker_died(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  static char traits[] = "wx";
  f->args[3] = traits;
  fixture_start(f);
  struct wish a = {0};
  ask_and_get(f, &a);
  struct schema_result s = {0};
  pool_document(the_pool(f), DOCUMENT_SCHEMA, on_schema, &s);
  run_until(f, &s.done);
  assert_int_equal(s.err.code, CODE_UNAVAILABLE);
  run_until_count(f, METRIC_workers_exited_total, 1);
  struct err e;
  assert_true(pool_worker_epitaph(&f->r, a.slot.worker_id, &e));
  assert_string_equal(e.msg, "the worker exited with code 7\nIts last output:\nthe schema was too much");
  assert_false(pool_worker_epitaph(&f->r, "", &e));
  assert_int_equal(pool_stats(the_pool(f)).ready, 0);
  give_back(f, &a, SLOT_LOST, 0); // of a worker that is gone already
  ask_and_get(f, &a);
  give_back(f, &a, SLOT_FREE, 0);
  fixture_free(f);
}

// Its /health is refused well before its end is known, and yet its end is what is told.
static void test_waits_to_learn_how_a_worker_died(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  static char traits[] = "wd";
  f->args[3] = traits;
  f->env.max_workers = 1;
  fixture_start(f);
  struct wish a = {0}, b = {0};
  ask_and_get(f, &a);
  ask(f, &b);
  struct schema_result s = {0};
  pool_document(the_pool(f), DOCUMENT_SCHEMA, on_schema, &s);
  run_until(f, &s.done);
  give_back(f, &a, SLOT_LOST, 0);
  run_until(f, &b.answered);
  assert_true(b.granted);
  struct err e;
  assert_true(pool_worker_epitaph(&f->r, a.slot.worker_id, &e));
  assert_string_equal(e.msg, "the worker exited with code 7");
  give_back(f, &b, SLOT_FREE, 0);
  fixture_free(f);
}

static void test_static_workers(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  char path[100], url[128], none[128];
  snprintf(path, sizeof path, "%s/static", f->dir);
  snprintf(url, sizeof url, "unix:%s", path);
  snprintf(none, sizeof none, "unix:%s-none", path);
  static char traits[] = "w", provider[] = "static";
  char *urls[] = {none, url};
  pid_t pid = fork();
  if (pid == 0) {
    close_range(3, ~0U, 0);
    _exit(worker_main(path, traits));
  }
  f->env.provider = provider;
  f->env.urls = (struct strings){urls, 2};
  f->env.max_workers = 1; // the urls count, not this
  f->env.worker_idle_s = 0.01;
  fixture_start(f);
  struct wish a = {0};
  ask_and_get(f, &a); // by the one that is up
  assert_string_equal(a.slot.endpoint.unix_path, path);
  give_back(f, &a, SLOT_FREE, 0);
  run_for(f, NULL, 100 * NSEC_PER_MS);
  assert_int_equal(pool_stats(the_pool(f)).ready, 1); // never stopped
  kill(pid, SIGKILL);
  assert_int_equal(waitpid(pid, NULL, 0), pid);
  unlink(path);
  fixture_free(f);
}

static void test_refuses_while_it_drains(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  f->env.max_workers = 1;
  fixture_start(f);
  struct wish a = {0}, b = {0}, c = {0};
  ask_and_get(f, &a);
  ask(f, &b);
  fixture_stop(f);
  assert_true(b.answered && !b.granted);
  assert_ptr_equal(b.err.reason, REASON_DRAINING);
  ask(f, &c);
  assert_true(c.answered && !c.granted);
  assert_int_equal(c.err.code, CODE_UNAVAILABLE);
  run_until(f, &f->stopped);
  give_back(f, &a, SLOT_LOST, 0); // a session may be later than its worker
  fixture_free(f);
}

static void test_refuses_a_path_that_is_too_long(void **state)
{
  (void)state;
  struct fixture *f = fixture_new();
  char dir[200];
  snprintf(dir, sizeof dir, "%s/%0100d", f->dir, 0);
  f->config.state_dir = dir;
  fixture_start(f);
  struct wish a = {0};
  ask(f, &a);
  assert_true(a.answered && !a.granted);
  assert_non_null(strstr(a.err.msg, "state_dir"));
  remove_dir(dir);
  fixture_free(f);
}

static int run(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_launches_on_demand),
      cmocka_unit_test(test_serves_in_order_and_forgets_who_cancels),
      cmocka_unit_test(test_speaks_http_where_there_is_no_ws),
      cmocka_unit_test(test_stops_idle_workers),
      cmocka_unit_test(test_learns_how_many_sessions_a_worker_takes),
      cmocka_unit_test(test_waits_for_a_slot_that_is_just_being_freed),
      cmocka_unit_test(test_refuses_when_others_take_all),
      cmocka_unit_test(test_replaces_a_worker_that_does_not_answer),
      cmocka_unit_test(test_keeps_a_worker_that_is_well),
      cmocka_unit_test(test_tells_why_a_launch_failed),
      cmocka_unit_test(test_one_failed_launch_does_not_fail_all),
      cmocka_unit_test(test_gives_up_on_a_worker_that_is_not_ready_in_time),
      cmocka_unit_test(test_kills_what_ignores_sigterm_with_all_descendants),
      cmocka_unit_test(test_fetches_the_schema_once),
      cmocka_unit_test(test_says_when_there_is_no_schema),
      cmocka_unit_test(test_remembers_how_a_worker_died),
      cmocka_unit_test(test_waits_to_learn_how_a_worker_died),
      cmocka_unit_test(test_static_workers),
      cmocka_unit_test(test_refuses_while_it_drains),
      cmocka_unit_test(test_refuses_a_path_that_is_too_long),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(int argc, char **argv)
{
  return fixture_main(argc, argv, run);
}
