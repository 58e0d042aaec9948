/* supervisor: it calls back in time and in order, forgets when told to, and looks after descriptors and mail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "exec/supervisor.h"

/* Counts, for whoever waits until something has happened often enough. */
typedef struct {
  uv_mutex_t lock;
  uv_cond_t changed;
  int count;
  uint64_t last_ns;
} counter;

static counter *counter_new(void) {
  counter *made = calloc(1, sizeof *made);
  uv_mutex_init(&made->lock);
  uv_cond_init(&made->changed);
  return made;
}

static void counter_free(counter *c) {
  uv_cond_destroy(&c->changed);
  uv_mutex_destroy(&c->lock);
  free(c);
}

static void count(void *argument) {
  counter *c = argument;
  uv_mutex_lock(&c->lock);
  c->count++;
  c->last_ns = uns_clock_ns();
  uv_cond_signal(&c->changed);
  uv_mutex_unlock(&c->lock);
}

static void wait_for(counter *c, int wanted) {
  uv_mutex_lock(&c->lock);
  while (c->count < wanted) uv_cond_wait(&c->changed, &c->lock);
  uv_mutex_unlock(&c->lock);
}

static int counted(counter *c) {
  uv_mutex_lock(&c->lock);
  int now = c->count;
  uv_mutex_unlock(&c->lock);
  return now;
}

static int set_up(void **state) {
  *state = uns_supervisor_new();
  return *state == NULL ? -1 : 0;
}

static int tear_down(void **state) {
  uns_supervisor_free(*state);
  return 0;
}

static void calls_back_and_never_early(void **state) {
  counter *c = counter_new();
  uint64_t before = uns_clock_ns();
  assert_int_equal(uns_supervisor_after(*state, 3000000, count, c), 0);
  wait_for(c, 1);
  assert_true(c->last_ns - before >= 3000000);
  counter_free(c);
}

typedef struct {
  counter *done;
  int *order;
  int number;
} numbered;

static void note(void *argument) {
  numbered *n = argument;
  n->order[counted(n->done)] = n->number;
  count(n->done);
}

static void calls_back_in_order_whatever_the_order_of_asking(void **state) {
  enum { COUNT = 100 };
  counter *c = counter_new();
  int order[COUNT];
  numbered all[COUNT];
  uint64_t start_ns = uns_clock_ns() + 1000000000; /* later than the last is asked for */
  for (int i = 0; i < COUNT; i++) {
    int number = i * 37 % COUNT; /* a permutation */
    all[i] = (numbered){c, order, number};
    uint64_t due_ns = start_ns + (uint64_t)number * 1000000;
    assert_int_equal(uns_supervisor_after(*state, due_ns - uns_clock_ns(), note, &all[i]), 0);
  }
  wait_for(c, COUNT);
  for (int i = 0; i < COUNT; i++) assert_int_equal(order[i], i);
  counter_free(c);
}

static void a_nearer_time_wakes_it_up(void **state) {
  counter *far = counter_new(), *near = counter_new();
  uns_supervisor_after(*state, 3600000000000, count, far);
  uns_supervisor_after(*state, 1000000, count, near);
  wait_for(near, 1);
  assert_int_equal(counted(far), 0);
  uns_supervisor_forget(*state, far);
  counter_free(far);
  counter_free(near);
}

static void what_is_forgotten_is_not_called(void **state) {
  counter *other = counter_new();
  for (int round = 0; round < 200; round++) {
    counter *c = counter_new();
    for (int i = 0; i < 5; i++) uns_supervisor_after(*state, (uint64_t)i * 20000, count, c);
    uns_supervisor_after(*state, 100000, count, other);
    if (round % 2 == 0) wait_for(c, 1);
    uns_supervisor_forget(*state, c);
    counter_free(c); /* a checker sees it touched again */
  }
  wait_for(other, 200);
  counter_free(other);
}

typedef struct {
  uns_watch watch;
  counter *seen;
  uns_supervisor *supervisor;
  uns_mail mail;
  int fd;
} watched;

static void on_ready(uns_watch *watch, uint32_t events) {
  watched *w = uns_container_of(watch, watched, watch);
  uint64_t value;
  assert_true(events & EPOLLIN);
  if (read(w->fd, &value, sizeof value) == sizeof value) count(w->seen);
}

static void on_watch(uns_mail *mail, void *receiver) {
  watched *w = uns_container_of(mail, watched, mail);
  assert_ptr_equal(receiver, w->supervisor);
  w->watch.ready = on_ready;
  assert_int_equal(uns_supervisor_watch(receiver, &w->watch, w->fd, EPOLLIN), 0);
  count(w->seen);
}

static void on_unwatch(uns_mail *mail, void *receiver) {
  watched *w = uns_container_of(mail, watched, mail);
  uns_supervisor_unwatch(receiver, &w->watch);
  assert_int_equal(w->watch.fd, -1);
  count(w->seen);
}

static void looks_after_a_descriptor(void **state) {
  watched w = {.seen = counter_new(), .supervisor = *state, .fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
  w.mail.deliver = on_watch;
  uns_mailbox_post(uns_supervisor_mailbox(*state), &w.mail);
  wait_for(w.seen, 1);
  for (int i = 0; i < 3; i++) {
    uint64_t one = 1;
    assert_int_equal(write(w.fd, &one, sizeof one), sizeof one);
    wait_for(w.seen, 2 + i);
  }
  w.mail.deliver = on_unwatch;
  uns_mailbox_post(uns_supervisor_mailbox(*state), &w.mail);
  wait_for(w.seen, 5);
  close(w.fd);
  counter_free(w.seen);
}

typedef struct {
  uns_sweep sweep;
  counter *seen;
  uns_mail mail;
} swept;

static void on_sweep(uns_sweep *sweep) { count(uns_container_of(sweep, swept, sweep)->seen); }

static void on_add_sweep(uns_mail *mail, void *receiver) {
  swept *s = uns_container_of(mail, swept, mail);
  s->sweep.sweep = on_sweep;
  uns_supervisor_add_sweep(receiver, &s->sweep);
  count(s->seen);
}

static void looks_around_whenever_it_is_woken(void **state) {
  swept s = {.seen = counter_new()};
  s.mail.deliver = on_add_sweep;
  uns_mailbox_post(uns_supervisor_mailbox(*state), &s.mail);
  wait_for(s.seen, 1);
  for (int i = 0; i < 3; i++) {
    int before = counted(s.seen);
    uns_mailbox_wake(uns_supervisor_mailbox(*state));
    wait_for(s.seen, before + 1);
  }
  uns_supervisor_free(*state); /* before what it sweeps */
  *state = NULL;
  counter_free(s.seen);
}

static void on_late_mail(uns_mail *mail, void *receiver) {
  (void)mail;
  (void)receiver;
}

static void ends_with_everything_under_way(void **state) {
  (void)state;
  counter *c = counter_new();
  static uns_mail mail[100];
  for (int round = 0; round < 50; round++) {
    uns_supervisor *supervisor = uns_supervisor_new();
    assert_non_null(supervisor);
    for (int i = 0; i < 100; i++) {
      mail[i].deliver = on_late_mail;
      uns_supervisor_after(supervisor, (uint64_t)i * 1000, count, c);
      uns_mailbox_post(uns_supervisor_mailbox(supervisor), &mail[i]);
    }
    uns_supervisor_free(supervisor);
    int then = counted(c);
    assert_int_equal(counted(c), then);
  }
  counter_free(c);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
  const struct CMUnitTest tests[] = {
      TEST(calls_back_and_never_early),     TEST(calls_back_in_order_whatever_the_order_of_asking),
      TEST(a_nearer_time_wakes_it_up),      TEST(what_is_forgotten_is_not_called),
      TEST(looks_after_a_descriptor),       TEST(looks_around_whenever_it_is_woken),
      TEST(ends_with_everything_under_way),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
