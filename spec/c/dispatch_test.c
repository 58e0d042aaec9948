/* dispatch: its counts of workers fit each other, whatever a worker says of itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "exec/dispatch.h"

static int grown;
static void give(uns_dispatch *dispatch, uns_worker *worker, uns_job *job) {
  (void)dispatch, (void)worker, (void)job;
  fail();
}
static void grow(uns_dispatch *dispatch) {
  (void)dispatch;
  grown++;
}
static const uns_dispatch_ops ops = {give, grow};

/* Counted, as its pool does when it starts one; idle where nothing waits. */
static void start(uns_dispatch *dispatch, uns_worker *worker) {
  *worker = (uns_worker){.job = NULL};
  uns_list_init(&worker->link);
  dispatch->workers++;
  assert_null(uns_dispatch_next(dispatch, worker));
}

static void counts_no_wait_of_a_worker_that_is_gone(void **state) {
  uns_dispatch dispatch;
  uns_worker worker;
  uns_alive alive = {.count = 1};
  (void)state;
  for (int retired = 0; retired <= 1; retired++) {
    assert_int_equal(uns_dispatch_init(&dispatch, &ops, NULL, 1), 0);
    dispatch.strict = true;
    dispatch.alive = &alive;
    start(&dispatch, &worker);
    assert_true(uns_dispatch_lend(&dispatch, &worker, true)); /* idle, it says that it waits */
    if (retired) assert_true(uns_dispatch_retire(&dispatch, &worker));
    else uns_dispatch_lost(&dispatch, &worker);
    assert_int_equal(dispatch.workers, 0);
    assert_int_equal(dispatch.lending, 0);
    assert_int_equal(dispatch.idle_count, 0);
    assert_int_equal(atomic_load(&alive.count), 1);
    uns_dispatch_deinit(&dispatch);
  }
}

static void lends_no_more_places_than_it_may(void **state) {
  uns_dispatch dispatch;
  uns_worker workers[3];
  (void)state;
  assert_int_equal(uns_dispatch_init(&dispatch, &ops, NULL, 1), 0);
  dispatch.waiting_max = 2;
  for (int i = 0; i < 3; i++) start(&dispatch, &workers[i]);
  for (int i = 0; i < 3; i++) assert_int_equal(uns_dispatch_lend(&dispatch, &workers[i], true), i < 2);
  assert_true(uns_dispatch_lend(&dispatch, &workers[0], true)); /* once more: it does already */
  assert_true(uns_dispatch_lend(&dispatch, &workers[0], false));
  assert_true(uns_dispatch_lend(&dispatch, &workers[0], false));
  assert_true(uns_dispatch_lend(&dispatch, &workers[2], true));
  assert_int_equal(dispatch.lending, 2);
  for (int i = 0; i < 3; i++) uns_dispatch_lost(&dispatch, &workers[i]);
  assert_int_equal(dispatch.workers, 0);
  assert_int_equal(dispatch.lending, 0);
  assert_int_equal(grown, 0);
  uns_dispatch_deinit(&dispatch);
}

static uint32_t take_ahead(uns_dispatch *dispatch, uns_worker *worker) {
  uint32_t has = 0;
  while (uns_dispatch_ahead(dispatch, worker, has) != NULL) has++;
  return has;
}

static void leaves_as_many_for_each_other_worker_as_one_is_given_ahead(void **state) {
  uns_dispatch dispatch;
  uns_worker workers[3];
  uns_job jobs[12] = {{.id = 0}};
  (void)state;
  assert_int_equal(uns_dispatch_init(&dispatch, &ops, NULL, 3), 0);
  for (int i = 0; i < 3; i++) {
    workers[i] = (uns_worker){.job = NULL}; /* each has a call already */
    uns_list_init(&workers[i].link);
    dispatch.workers++;
  }
  for (int i = 0; i < 12; i++) uns_dispatch_submit(&dispatch, &jobs[i]);
  assert_int_equal(take_ahead(&dispatch, &workers[0]), 4); /* 8 are left */
  assert_int_equal(take_ahead(&dispatch, &workers[1]), 3); /* 5 are left, fewer than 3 for each of the others */
  uns_dispatch_lost(&dispatch, &workers[2]);
  uns_dispatch_lost(&dispatch, &workers[1]);
  dispatch.target = 1;
  assert_int_equal(take_ahead(&dispatch, &workers[0]), 5); /* there is nobody else */
  assert_int_equal(dispatch.queued, 0);
  uns_dispatch_lost(&dispatch, &workers[0]);
  uns_dispatch_deinit(&dispatch);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(counts_no_wait_of_a_worker_that_is_gone),
      cmocka_unit_test(lends_no_more_places_than_it_may),
      cmocka_unit_test(leaves_as_many_for_each_other_worker_as_one_is_given_ahead),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
