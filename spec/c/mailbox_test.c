/* mailbox, cell: what several threads post is delivered once each, in each one's order; what several settle settles once,
   and whoever watches is told once, or not at all where he has looked away in time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/cell.h"
#include "core/mailbox.h"

enum { POSTERS = 4 };

/* Fewer where everything runs slower. */
static int rounds_of(int usual) {
  const char *slowness = getenv("UNSYNC_SLOWNESS");
  int slow = slowness != NULL ? atoi(slowness) : 1;
  return slow > 1 ? usual / slow + 1 : usual;
}

/* ---- mailboxes ---- */

typedef struct letter {
  uns_mail mail;
  int poster, number;
} letter;

static int next_number[POSTERS];
static atomic_int refused;

static void deliver(uns_mail *mail, void *receiver) {
  letter *read = uns_container_of(mail, letter, mail);
  if (receiver == NULL) {
    atomic_fetch_add(&refused, 1); /* on the poster's own thread */
  } else {
    assert_int_equal(read->number, next_number[read->poster]);
    next_number[read->poster]++;
  }
  free(read);
}

typedef struct poster {
  pthread_t thread;
  uns_mailbox *mailbox; /* one reference */
  int number, letters;
} poster;

static void *post_all(void *argument) {
  poster *mine = argument;
  for (int i = 0; i < mine->letters; i++) {
    letter *written = malloc(sizeof *written);
    *written = (letter){.mail.deliver = deliver, .poster = mine->number, .number = i};
    uns_mailbox_post(mine->mailbox, &written->mail);
  }
  uns_mailbox_unref(mine->mailbox);
  return NULL;
}

static void start(poster *all, uns_mailbox *mailbox, int letters) {
  memset(next_number, 0, sizeof next_number);
  atomic_store(&refused, 0);
  for (int i = 0; i < POSTERS; i++) {
    all[i] = (poster){.mailbox = uns_mailbox_ref(mailbox), .number = i, .letters = letters};
    assert_int_equal(pthread_create(&all[i].thread, NULL, post_all, &all[i]), 0);
  }
}

static int take(uns_mailbox *mailbox) {
  int taken = 0;
  for (uns_mail *mail = uns_mailbox_take(mailbox), *next; mail != NULL; mail = next, taken++) {
    next = mail->next;
    mail->deliver(mail, mailbox);
  }
  return taken;
}

static void delivers_each_once_and_in_order(void **state) {
  (void)state;
  uns_mailbox *mailbox = uns_mailbox_new();
  poster all[POSTERS];
  int letters = rounds_of(20000);
  start(all, mailbox, letters);
  for (int taken = 0; taken < POSTERS * letters;) {
    int now = take(mailbox);
    taken += now;
    if (now > 0 || !uns_mailbox_fall_asleep(mailbox)) continue;
    uint64_t wakes; /* somebody has, or will have, written it */
    while (read(mailbox->fd, &wakes, sizeof wakes) < 0 && !uns_mailbox_has_mail(mailbox)) continue;
    uns_mailbox_awake(mailbox);
  }
  for (int i = 0; i < POSTERS; i++) {
    pthread_join(all[i].thread, NULL);
    assert_int_equal(next_number[i], letters);
  }
  assert_int_equal(atomic_load(&refused), 0);
  uns_mailbox_unref(mailbox);
}

static void loses_nothing_when_it_is_closed(void **state) {
  (void)state;
  int rounds = rounds_of(200), letters = 50;
  for (int round = 0; round < rounds; round++) {
    uns_mailbox *mailbox = uns_mailbox_new();
    poster all[POSTERS];
    start(all, mailbox, letters);
    int taken = take(mailbox);
    uns_mailbox_close(mailbox);
    uns_mailbox_unref(mailbox); /* whoever posts still holds it */
    for (int i = 0; i < POSTERS; i++) pthread_join(all[i].thread, NULL);
    assert_int_equal(taken + atomic_load(&refused), POSTERS * letters);
  }
}

/* ---- cells ---- */

typedef struct onlooker {
  uns_cell_watcher watcher;
  bool told;
} onlooker;

static void hear(uns_mail *mail, void *receiver) {
  onlooker *one = uns_container_of(uns_container_of(mail, uns_cell_watcher, mail), onlooker, watcher);
  (void)receiver;
  assert_false(one->told);
  one->told = true;
}

typedef struct settler {
  pthread_t thread;
  uns_cell *cell; /* one reference */
  bool first;
} settler;

static void *settle(void *argument) {
  settler *mine = argument;
  uns_packet outcome;
  uns_packet_init(&outcome);
  memcpy(uns_packet_grow(&outcome, 4), "done", 4);
  mine->first = uns_cell_settle(mine->cell, UNS_CELL_DONE, &outcome);
  uns_shared_unref(mine->cell);
  return NULL;
}

static void settles_once_and_tells_once(void **state) {
  (void)state;
  enum { WATCHERS = 6 };
  int rounds = rounds_of(500);
  uns_mailbox *mailbox = uns_mailbox_new();
  for (int round = 0; round < rounds; round++) {
    uns_cell *cell = uns_cell_new();
    settler settlers[POSTERS];
    onlooker watchers[WATCHERS];
    bool looked_away[WATCHERS] = {false};
    memset(watchers, 0, sizeof watchers);
    for (int i = 0; i < WATCHERS; i++) {
      watchers[i].watcher.mail.deliver = hear;
      watchers[i].watcher.mailbox = mailbox;
    }
    for (int i = 0; i < WATCHERS / 2; i++) uns_cell_watch(cell, &watchers[i].watcher);
    for (int i = 0; i < POSTERS; i++) {
      settlers[i] = (settler){.cell = uns_shared_ref(cell)};
      assert_int_equal(pthread_create(&settlers[i].thread, NULL, settle, &settlers[i]), 0);
    }
    for (int i = WATCHERS / 2; i < WATCHERS; i++) uns_cell_watch(cell, &watchers[i].watcher);
    for (int i = 0; i < WATCHERS; i += 2) looked_away[i] = uns_cell_unwatch(cell, &watchers[i].watcher);
    int firsts = 0;
    for (int i = 0; i < POSTERS; i++) {
      pthread_join(settlers[i].thread, NULL);
      firsts += settlers[i].first;
    }
    assert_int_equal(firsts, 1);
    assert_int_equal(uns_cell_peek(cell), UNS_CELL_DONE);
    assert_int_equal(cell->outcome.size_bytes, 4);
    take(mailbox);
    for (int i = 0; i < WATCHERS; i++) assert_int_equal(watchers[i].told, !looked_away[i]);
    uns_shared_unref(cell);
  }
  uns_mailbox_close(mailbox);
  uns_mailbox_unref(mailbox);
}

int main(void) {
  static const struct CMUnitTest tests[] = {
      cmocka_unit_test(delivers_each_once_and_in_order),
      cmocka_unit_test(loses_nothing_when_it_is_closed),
      cmocka_unit_test(settles_once_and_tells_once),
  };
  return cmocka_run_group_tests_name("mailbox, cell", tests, NULL, NULL);
}
