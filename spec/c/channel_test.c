/* channel: what is sent is received once, in order, whoever waits where; and a wait that ends loses nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "core/channel.h"
#include "core/reader.h"

static uns_channel_item number(int64_t n) { return (uns_channel_item){.kind = UNS_SENT_INTEGER, .as.integer = n}; }

/* ---- one thread ---- */

/* The wait's owner counts its mail. */
static void on_told(uns_mail *mail, void *receiver) {
  uns_channel_wait *wait = uns_container_of(mail, uns_channel_wait, mail);
  if (receiver != NULL && wait->owner != NULL) ++*(int *)wait->owner;
  uns_channel_wait_unref(wait);
}

static void deliver(uns_mailbox *mailbox) {
  for (uns_mail *mail = uns_mailbox_take(mailbox), *next; mail != NULL; mail = next) {
    next = mail->next;
    mail->deliver(mail, mailbox);
  }
}

typedef struct {
  uns_mailbox *mailbox;
  uns_shared_channel *channel;
  int told_count;
} fixture;

static int set_up(void **state) {
  fixture *f = calloc(1, sizeof *f);
  f->mailbox = uns_mailbox_new();
  f->channel = uns_shared_channel_new(2);
  *state = f;
  return 0;
}

static int tear_down(void **state) {
  fixture *f = *state;
  uns_shared_unref(f->channel);
  deliver(f->mailbox);
  uns_mailbox_unref(f->mailbox);
  free(f);
  return 0;
}

static uns_channel_wait *wait_new(fixture *f, uns_choice *choice, bool sends, int64_t n) {
  uns_channel_wait *wait = uns_channel_wait_new(f->channel, f->mailbox, choice, sends, on_told);
  wait->owner = &f->told_count;
  if (sends) wait->item = number(n);
  return wait;
}

static uns_channel_wait *in_line(fixture *f, uns_choice *choice, bool sends, int64_t n) {
  uns_channel_wait *wait = wait_new(f, choice, sends, n);
  assert_int_equal(uns_channel_wait_begin(wait), UNS_CHANNEL_WAIT);
  return wait;
}

static uns_channel_result send(fixture *f, int64_t n) {
  uns_channel_item item = number(n);
  return uns_shared_channel_send(f->channel, &item);
}

static int64_t receive(fixture *f) {
  uns_channel_item item;
  uns_channel_result result = uns_shared_channel_receive(f->channel, &item);
  if (result != UNS_CHANNEL_DONE) return -(int64_t)result;
  assert_int_equal(item.kind, UNS_SENT_INTEGER);
  return item.as.integer;
}

static void senders_wait_in_line_and_move_up(void **state) {
  fixture *f = *state;
  assert_int_equal(send(f, 1), UNS_CHANNEL_DONE);
  assert_int_equal(send(f, 2), UNS_CHANNEL_DONE);
  assert_int_equal(send(f, 99), UNS_CHANNEL_WAIT);
  assert_false(uns_shared_channel_has_room(f->channel));
  uns_channel_wait *third = in_line(f, NULL, true, 3), *fourth = in_line(f, NULL, true, 4),
                   *fifth = in_line(f, NULL, true, 5);
  uns_channel_state all;
  uns_shared_channel_look(f->channel, &all);
  assert_true(all.senders == 3 && all.receivers == 0 && all.count == 2);
  assert_int_equal(receive(f), 1);
  assert_int_equal(uns_channel_wait_end(third), UNS_WAIT_GIVEN);
  assert_int_equal(uns_channel_wait_end(fourth), UNS_WAIT_NOTHING);
  for (int n = 2; n <= 3; n++) assert_int_equal(receive(f), n);
  assert_int_equal(receive(f), 5);
  assert_int_equal(receive(f), -UNS_CHANNEL_WAIT);
  assert_int_equal(uns_channel_wait_end(fifth), UNS_WAIT_GIVEN);
  deliver(f->mailbox);
  assert_int_equal(f->told_count, 2);
  uns_channel_wait_unref(third);
  uns_channel_wait_unref(fourth);
  uns_channel_wait_unref(fifth);
}

static void what_a_wait_was_given_goes_back_in_front(void **state) {
  fixture *f = *state;
  uns_channel_wait *first = in_line(f, NULL, false, 0), *second = in_line(f, NULL, false, 0);
  for (int n = 1; n <= 4; n++) assert_int_equal(send(f, n), UNS_CHANNEL_DONE);
  assert_int_equal(uns_channel_wait_end(first), UNS_WAIT_GIVEN); /* its mail is on its way yet */
  assert_int_equal(uns_channel_wait_end(second), UNS_WAIT_GIVEN);
  assert_true(first->order < second->order);
  uns_channel_wait_put_back(second);
  uns_channel_wait_put_back(first);
  uns_channel_state all;
  uns_shared_channel_look(f->channel, &all);
  assert_int_equal(all.count, 4);
  assert_int_equal(send(f, 99), UNS_CHANNEL_WAIT);
  for (int n = 1; n <= 4; n++) assert_int_equal(receive(f), n);
  uns_channel_wait *third = in_line(f, NULL, false, 0);
  uns_channel_item item = number(7);
  assert_int_equal(uns_shared_channel_put_back(f->channel, &item), UNS_CHANNEL_DONE); /* straight to who waits */
  assert_int_equal(uns_channel_wait_end(third), UNS_WAIT_GIVEN);
  assert_int_equal(third->item.as.integer, 7);
  uns_channel_wait_took(third);
  deliver(f->mailbox);
  item = number(8);
  uns_shared_channel_put_back(f->channel, &item); /* and one is left over, for its end */
}

static void one_of_a_choice_is_served(void **state) {
  fixture *f = *state;
  fixture other = {.mailbox = f->mailbox, .channel = uns_shared_channel_new(0)};
  uns_choice *choice = uns_choice_new();
  uns_channel_wait *here = in_line(f, choice, false, 0), *there = in_line(&other, choice, true, 5);
  uns_channel_wait *plain = in_line(f, NULL, false, 0);
  assert_int_equal(receive(&other), 5);
  assert_false(uns_choice_take(choice));
  assert_int_equal(send(f, 6), UNS_CHANNEL_DONE); /* goes past the one who was served elsewhere */
  assert_int_equal(uns_channel_wait_end(here), UNS_WAIT_NOTHING);
  assert_int_equal(uns_channel_wait_end(there), UNS_WAIT_GIVEN);
  assert_int_equal(uns_channel_wait_end(plain), UNS_WAIT_GIVEN);
  uns_channel_wait_unref(here);
  uns_channel_wait_unref(there);
  uns_channel_wait_took(plain);
  uns_choice_unref(choice);

  choice = uns_choice_new(); /* what became ready meanwhile is looked at once more, by itself it serves nobody */
  assert_int_equal(send(f, 7), UNS_CHANNEL_DONE);
  uns_channel_wait *late = in_line(f, choice, false, 0);
  assert_int_equal(uns_channel_wait_end(late), UNS_WAIT_RETRY);
  assert_int_equal(receive(f), 7);
  uns_channel_wait_unref(late);
  uns_choice_unref(choice);

  choice = uns_choice_new(); /* and never with itself */
  uns_channel_wait *out = in_line(&other, choice, true, 1), *in = in_line(&other, choice, false, 0);
  assert_int_equal(uns_channel_wait_end(out), UNS_WAIT_NOTHING);
  assert_int_equal(uns_channel_wait_end(in), UNS_WAIT_NOTHING);
  uns_channel_wait_unref(out);
  uns_channel_wait_unref(in);
  uns_choice_unref(choice);
  uns_shared_unref(other.channel);
  deliver(f->mailbox);
}

static void closing_tells_all(void **state) {
  fixture *f = *state;
  send(f, 1);
  send(f, 2);
  uns_channel_wait *sender = in_line(f, NULL, true, 3);
  fixture empty = {.mailbox = f->mailbox, .channel = uns_shared_channel_new(0)};
  uns_channel_wait *receiver = in_line(&empty, NULL, false, 0);
  uns_shared_channel_close(f->channel);
  uns_shared_channel_close(empty.channel);
  assert_int_equal(uns_channel_wait_end(sender), UNS_WAIT_CLOSED);
  assert_int_equal(uns_channel_wait_end(receiver), UNS_WAIT_CLOSED);
  assert_int_equal(send(f, 4), UNS_CHANNEL_CLOSED);
  assert_int_equal(receive(f), 1);
  assert_int_equal(receive(f), 2);
  assert_int_equal(receive(f), -UNS_CHANNEL_CLOSED);
  uns_channel_wait *late = wait_new(f, NULL, true, 5);
  assert_int_equal(uns_channel_wait_begin(late), UNS_CHANNEL_CLOSED);
  uns_channel_wait_unref(late);
  uns_channel_wait_unref(sender);
  uns_channel_wait_unref(receiver);
  uns_shared_unref(empty.channel);
  deliver(f->mailbox);
}

static void mail_to_a_state_that_is_gone_frees_itself(void **state) {
  fixture *f = *state;
  uns_channel_wait *wait = in_line(f, NULL, false, 0);
  uns_mailbox_close(f->mailbox);
  assert_int_equal(send(f, 1), UNS_CHANNEL_DONE);
  assert_int_equal(uns_channel_wait_end(wait), UNS_WAIT_GIVEN);
  uns_channel_wait_put_back(wait);
  assert_int_equal(receive(f), 1);
  assert_int_equal(f->told_count, 0);
  uns_mailbox_unref(f->mailbox);
  f->mailbox = uns_mailbox_new();
}

static void items_become_packets(void **state) {
  (void)state;
  uns_channel_item items[] = {{.kind = UNS_SENT_NIL},
                              {.kind = UNS_SENT_TRUE},
                              {.kind = UNS_SENT_NUMBER, .as.number = -0.5},
                              number(INT64_MIN),
                              {.kind = UNS_SENT_BYTES, .size = 3, .as.bytes = "a\0b"}};
  const uns_item_type types[] = {UNS_ITEM_NIL, UNS_ITEM_BOOLEAN, UNS_ITEM_NUMBER, UNS_ITEM_INTEGER, UNS_ITEM_STRING};
  for (size_t i = 0; i < sizeof items / sizeof *items; i++) {
    uns_packet packet;
    uns_reader reader;
    uns_packet_init(&packet);
    assert_int_equal(uns_channel_item_pack(&items[i], &packet), UNS_OK);
    assert_int_equal(uns_reader_open(&reader, &packet), UNS_OK);
    assert_int_equal(reader.count, 1);
    assert_int_equal(uns_reader_value(&reader, 0).type, types[i]);
    uns_reader_close(&reader);
    uns_packet_deinit(&packet);
  }
}

/* ---- loans ---- */

/* What a process does on its own side. */
static bool claims(_Atomic uint64_t *claim, uint64_t number) {
  uint64_t given = number * 4 + UNS_LOAN_GIVEN;
  return atomic_compare_exchange_strong(claim, &given, number * 4 + UNS_LOAN_TAKEN);
}

static uns_channel_loan *lend(uns_shared_channel *channel, _Atomic uint64_t *claim, uint64_t number,
                              _Atomic uint32_t *wanted) {
  uns_packet packet;
  uns_packet_init(&packet);
  uns_channel_loan *loan = uns_shared_channel_lend(channel, claim, number, wanted, &packet);
  if (loan != NULL && packet.size_bytes == 0) abort();
  uns_packet_deinit(&packet);
  return loan;
}

static int64_t value_of(uns_channel_item *item) {
  if (item->kind == UNS_SENT_INTEGER) return item->as.integer;
  uns_reader reader;
  if (item->kind != UNS_SENT_PACKET || uns_reader_open(&reader, &item->as.packet) != UNS_OK) abort();
  int64_t value = uns_reader_value(&reader, 0).as.integer;
  uns_reader_close(&reader);
  uns_channel_item_deinit(item);
  return value;
}

static int64_t receive_any(uns_shared_channel *channel) {
  uns_channel_item item;
  uns_channel_result result = uns_shared_channel_receive(channel, &item);
  return result == UNS_CHANNEL_DONE ? value_of(&item) : -(int64_t)result;
}

/* And what the process gets of it. */
static uns_channel_loan *lend_value(uns_shared_channel *channel, _Atomic uint64_t *claim, uint64_t number,
                                    _Atomic uint32_t *wanted, int64_t *value) {
  uns_channel_item copy = {.kind = UNS_SENT_PACKET};
  uns_packet_init(&copy.as.packet);
  uns_channel_loan *loan = uns_shared_channel_lend(channel, claim, number, wanted, &copy.as.packet);
  if (loan != NULL) *value = value_of(&copy);
  return loan;
}

static void what_is_lent_is_taken_or_recalled(void **state) {
  fixture *f = *state;
  _Atomic uint64_t claim[3];
  _Atomic uint32_t wanted = 0;
  uns_channel_loan *loans[3];
  uns_channel_state all;
  assert_null(lend(f->channel, &claim[0], 1, &wanted)); /* of nothing */
  for (int n = 1; n <= 2; n++) assert_int_equal(send(f, n), UNS_CHANNEL_DONE);
  for (int i = 0; i < 2; i++) loans[i] = lend(f->channel, &claim[i], (uint64_t)i + 1, &wanted);
  assert_null(lend(f->channel, &claim[2], 3, &wanted));
  assert_int_equal(send(f, 99), UNS_CHANNEL_WAIT); /* they take up room */
  assert_true(claims(&claim[0], 1));
  assert_false(claims(&claim[0], 1));
  uns_shared_channel_look(f->channel, &all);
  assert_int_equal(all.count, 1);
  assert_int_equal(send(f, 3), UNS_CHANNEL_DONE);
  assert_int_equal(receive_any(f->channel), 2); /* before what was not lent */
  assert_false(claims(&claim[1], 2));
  assert_int_equal(atomic_load(&loans[0]->state), UNS_LOAN_TAKEN);
  assert_int_equal(atomic_load(&loans[1]->state), UNS_LOAN_RECALLED);
  loans[2] = lend(f->channel, &claim[2], 3, &wanted);
  uns_shared_channel_recall(f->channel, loans[2]); /* by its lender */
  assert_false(claims(&claim[2], 3));
  uns_channel_item item = number(7);
  assert_int_equal(uns_shared_channel_put_back(f->channel, &item), UNS_CHANNEL_DONE);
  assert_null(lend(f->channel, &claim[0], 4, &wanted)); /* what goes back in front is not overtaken */
  assert_int_equal(receive_any(f->channel), 7);
  assert_int_equal(receive_any(f->channel), 3);
  assert_int_equal(receive_any(f->channel), -UNS_CHANNEL_WAIT);
  for (int i = 0; i < 3; i++) uns_channel_loan_unref(loans[i]);
}

static void what_is_put_back_is_before_what_is_lent(void **state) {
  fixture *f = *state;
  _Atomic uint64_t claim[3];
  _Atomic uint32_t wanted = 0;
  for (int n = 1; n <= 2; n++) assert_int_equal(send(f, n), UNS_CHANNEL_DONE);
  assert_int_equal(receive_any(f->channel), 1);
  assert_int_equal(send(f, 3), UNS_CHANNEL_DONE);
  uns_channel_loan *second = lend(f->channel, &claim[0], 1, &wanted);
  uns_channel_loan *third = lend(f->channel, &claim[1], 2, &wanted);
  assert_true(claims(&claim[0], 1));
  uns_channel_item item = number(1);
  assert_int_equal(uns_shared_channel_put_back(f->channel, &item), UNS_CHANNEL_DONE);
  assert_false(claims(&claim[1], 2));
  assert_int_equal(receive_any(f->channel), 1);
  assert_int_equal(send(f, 4), UNS_CHANNEL_DONE);
  assert_null(lend(f->channel, &claim[2], 3, &wanted)); /* the third, which was lent, is before it */
  for (int n = 3; n <= 4; n++) assert_int_equal(receive_any(f->channel), n);
  assert_int_equal(receive_any(f->channel), -UNS_CHANNEL_WAIT);
  uns_channel_loan_unref(second);
  uns_channel_loan_unref(third);
}

static void who_waits_for_the_room_of_a_loan_is_told(void **state) {
  fixture *f = *state;
  _Atomic uint64_t claim[2];
  _Atomic uint32_t wanted = 0;
  uns_channel_loan *loans[2];
  for (int n = 1; n <= 2; n++) assert_int_equal(send(f, n), UNS_CHANNEL_DONE);
  loans[0] = lend(f->channel, &claim[0], 1, &wanted);
  uns_channel_wait *third = in_line(f, NULL, true, 3), *fourth = in_line(f, NULL, true, 4);
  assert_int_equal(atomic_exchange(&wanted, 0), 1);
  loans[1] = lend(f->channel, &claim[1], 2, &wanted);
  assert_int_equal(atomic_exchange(&wanted, 0), 1);
  assert_true(claims(&claim[0], 1));
  uns_shared_channel_settle(f->channel);
  assert_int_equal(wanted, 1); /* one still waits */
  assert_int_equal(uns_channel_wait_end(third), UNS_WAIT_GIVEN);
  assert_true(claims(&claim[1], 2));
  uns_shared_channel_recall(f->channel, loans[1]); /* its process is dead, but it had it */
  assert_int_equal(uns_channel_wait_end(fourth), UNS_WAIT_GIVEN);
  for (int n = 3; n <= 4; n++) assert_int_equal(receive_any(f->channel), n);
  assert_int_equal(receive_any(f->channel), -UNS_CHANNEL_WAIT);
  deliver(f->mailbox);
  uns_channel_wait_unref(third);
  uns_channel_wait_unref(fourth);
  for (int i = 0; i < 2; i++) uns_channel_loan_unref(loans[i]);
}

enum { RACED = 20000 };

typedef struct {
  uns_shared_channel *channel;
  atomic_int got;
  atomic_llong sum;
} race;

static void *race_to_receive(void *argument) {
  race *r = argument;
  while (atomic_load(&r->got) < RACED) {
    int64_t value = receive_any(r->channel);
    if (value <= 0) {
      sched_yield();
      continue;
    }
    atomic_fetch_add(&r->sum, value);
    atomic_fetch_add(&r->got, 1);
  }
  return NULL;
}

static void an_item_is_taken_or_recalled_but_not_both(void **state) {
  (void)state;
  enum { PLACES = 8 };
  race r = {.channel = uns_shared_channel_new(16)};
  _Atomic uint64_t claim[PLACES];
  _Atomic uint32_t wanted = 0;
  uns_channel_loan *loans[PLACES] = {NULL};
  uint64_t numbers[PLACES], last = 0;
  int64_t values[PLACES];
  pthread_t receiver;
  pthread_create(&receiver, NULL, race_to_receive, &r);
  for (int64_t sent = 0; atomic_load(&r.got) < RACED;) {
    uns_channel_item item = number(sent + 1);
    if (sent < RACED && uns_shared_channel_send(r.channel, &item) == UNS_CHANNEL_DONE) sent++;
    for (int i = 0; i < PLACES; i++) {
      if (loans[i] == NULL) {
        numbers[i] = ++last;
        loans[i] = lend_value(r.channel, &claim[i], last, &wanted, &values[i]);
        continue;
      }
      if (claims(&claim[i], numbers[i])) {
        atomic_fetch_add(&r.sum, values[i]);
        atomic_fetch_add(&r.got, 1);
      }
      uns_shared_channel_recall(r.channel, loans[i]);
      uns_channel_loan_unref(loans[i]);
      loans[i] = NULL;
    }
  }
  pthread_join(receiver, NULL);
  for (int i = 0; i < PLACES; i++) {
    if (loans[i] == NULL) continue;
    uns_shared_channel_recall(r.channel, loans[i]);
    uns_channel_loan_unref(loans[i]);
  }
  assert_int_equal(atomic_load(&r.got), RACED);
  assert_int_equal(atomic_load(&r.sum), (long long)RACED * (RACED + 1) / 2);
  uns_shared_unref(r.channel);
}

static void memory_may_run_out_anywhere(void **state) {
  fixture *f = *state;
  for (long countdown = 1; countdown < 40; countdown++) {
    fixture mine = {.mailbox = f->mailbox};
    int64_t sent = 0, got = 0;
    uns_alloc_fail_after(countdown);
    mine.channel = uns_shared_channel_new(20);
    if (mine.channel == NULL) continue;
    for (int i = 0; i < 20; i++) sent += send(&mine, sent + 1) == UNS_CHANNEL_DONE;
    uns_channel_wait *wait = uns_channel_wait_new(mine.channel, f->mailbox, NULL, true, on_told);
    if (wait != NULL) {
      wait->item = number(sent + 1);
      uns_channel_result result = uns_channel_wait_begin(wait);
      assert_true(result == UNS_CHANNEL_WAIT || result == UNS_CHANNEL_DONE || result == UNS_CHANNEL_NO_MEMORY);
    }
    uns_channel_item item;
    while (uns_shared_channel_receive(mine.channel, &item) == UNS_CHANNEL_DONE) {
      assert_int_equal(item.as.integer, ++got); /* in order, whatever there was no room for */
      if (got % 3 != 0) continue;
      if (uns_shared_channel_put_back(mine.channel, &item) == UNS_CHANNEL_DONE) {
        assert_int_equal(uns_shared_channel_receive(mine.channel, &item), UNS_CHANNEL_DONE);
        assert_int_equal(item.as.integer, got);
      }
      uns_packet packet;
      uns_packet_init(&packet);
      if (uns_channel_item_pack(&item, &packet) != UNS_OK) assert_int_equal(item.as.integer, got);
      uns_packet_deinit(&packet);
    }
    if (wait != NULL) {
      sent += uns_channel_wait_end(wait) == UNS_WAIT_GIVEN;
      uns_channel_wait_unref(wait);
    }
    uns_alloc_fail_after(0);
    assert_int_equal(got, sent);
    uns_shared_unref(mine.channel);
    deliver(f->mailbox);
  }
}

/* ---- many threads ---- */

enum { SENDERS = 3, RECEIVERS = 3, EACH = 4000 };

typedef struct {
  uns_mailbox *mailbox;
  uns_shared_channel *channel;
  unsigned seed;
  int number;
  uint8_t *seen; /* of all items, by the receivers */
  int taken;
} worker;

/* Waits until `heard`, which the mail of somebody's wait counts up, is not 0. */
static void until_told(uns_mailbox *mailbox, const int *heard) {
  while (*heard == 0) {
    deliver(mailbox);
    sched_yield();
  }
}

static unsigned dice(worker *w, unsigned sides) {
  w->seed = w->seed * 1103515245u + 12345u;
  return (w->seed >> 16) % sides;
}

static void *send_all(void *argument) {
  worker *w = argument;
  for (int i = 0; i < EACH; i++) {
    int64_t value = (int64_t)w->number * EACH + i;
    for (;;) {
      uns_channel_item item = number(value);
      if (dice(w, 2) == 0 && uns_shared_channel_send(w->channel, &item) == UNS_CHANNEL_DONE) break;
      uns_channel_wait *wait = uns_channel_wait_new(w->channel, w->mailbox, NULL, true, on_told);
      int heard = 0;
      wait->owner = &heard;
      wait->item = number(value);
      uns_channel_result result = uns_channel_wait_begin(wait);
      bool patient = dice(w, 4) != 0;
      if (result == UNS_CHANNEL_WAIT && patient) until_told(w->mailbox, &heard);
      wait->owner = NULL;
      uns_wait_told told = uns_channel_wait_end(wait);
      uns_channel_wait_unref(wait);
      if (told == UNS_WAIT_GIVEN) break;
      if (patient && told == UNS_WAIT_NOTHING) abort();
    }
  }
  return NULL;
}

static void note(worker *w, const uns_channel_item *item, int64_t *last) {
  int sender = (int)(item->as.integer / EACH);
  if (w->seen[item->as.integer]++ != 0 || item->as.integer <= last[sender])
    abort(); /* no thread for cmocka's asserts */
  last[sender] = item->as.integer;
  w->taken++;
}

static void *receive_all(void *argument) {
  worker *w = argument;
  int64_t last[SENDERS] = {-1, -1, -1};
  for (;;) {
    uns_channel_item item;
    uns_channel_result now = dice(w, 2) == 0 ? uns_shared_channel_receive(w->channel, &item) : UNS_CHANNEL_WAIT;
    if (now == UNS_CHANNEL_CLOSED) return NULL;
    if (now == UNS_CHANNEL_DONE) {
      note(w, &item, last);
      continue;
    }
    uns_channel_wait *wait = uns_channel_wait_new(w->channel, w->mailbox, NULL, false, on_told);
    int heard = 0;
    wait->owner = &heard;
    if (uns_channel_wait_begin(wait) == UNS_CHANNEL_WAIT && dice(w, 4) != 0) until_told(w->mailbox, &heard);
    wait->owner = NULL;
    uns_wait_told told = uns_channel_wait_end(wait);
    if (told == UNS_WAIT_GIVEN) {
      note(w, &wait->item, last);
      uns_channel_wait_took(wait);
    } else {
      uns_channel_wait_unref(wait);
    }
    if (told == UNS_WAIT_CLOSED) return NULL;
  }
}

static void nothing_is_lost_or_doubled_between_threads(void **state) {
  (void)state;
  for (size_t capacity = 0; capacity <= 3; capacity += 3) {
    uint8_t *seen = calloc(SENDERS * EACH, 1);
    uns_shared_channel *channel = uns_shared_channel_new(capacity);
    worker workers[SENDERS + RECEIVERS];
    pthread_t threads[SENDERS + RECEIVERS];
    for (int i = 0; i < SENDERS + RECEIVERS; i++) {
      workers[i] = (worker){uns_mailbox_new(), channel, (unsigned)i + 1, i, seen, 0};
      pthread_create(&threads[i], NULL, i < SENDERS ? send_all : receive_all, &workers[i]);
    }
    for (int i = 0; i < SENDERS; i++) pthread_join(threads[i], NULL);
    uns_shared_channel_close(channel);
    int taken = 0;
    for (int i = SENDERS; i < SENDERS + RECEIVERS; i++) {
      pthread_join(threads[i], NULL);
      taken += workers[i].taken;
    }
    assert_int_equal(taken, SENDERS * EACH);
    for (int i = 0; i < SENDERS + RECEIVERS; i++) {
      deliver(workers[i].mailbox);
      uns_mailbox_unref(workers[i].mailbox);
    }
    uns_shared_unref(channel);
    free(seen);
  }
}

/* Two threads that offer and ask at two channels at once, each of which is served at one of them. */
enum { CHOICES = 3000 };

typedef struct {
  uns_mailbox *mailbox;
  uns_shared_channel *channels[2];
  bool sends;
  int64_t sum;
} chooser;

static void *choose(void *argument) {
  chooser *c = argument;
  for (int i = 0; i < CHOICES;) {
    uns_choice *choice = uns_choice_new();
    uns_channel_wait *waits[2];
    int heard = 0;
    bool served = false;
    for (int k = 0; k < 2 && !served; k++) { /* first a look, in order */
      uns_channel_item item = number(i);
      uns_channel_result now = c->sends ? uns_shared_channel_send(c->channels[k], &item)
                                        : uns_shared_channel_receive(c->channels[k], &item);
      served = now == UNS_CHANNEL_DONE;
      if (served) c->sum += item.kind == UNS_SENT_INTEGER && !c->sends ? item.as.integer : i;
    }
    if (served) {
      uns_choice_unref(choice);
      i++;
      continue;
    }
    for (int k = 0; k < 2; k++) {
      waits[k] = uns_channel_wait_new(c->channels[k], c->mailbox, choice, c->sends, on_told);
      waits[k]->owner = &heard;
      if (c->sends) waits[k]->item = number(i);
      if (uns_channel_wait_begin(waits[k]) != UNS_CHANNEL_WAIT) abort();
    }
    until_told(c->mailbox, &heard);
    if (uns_choice_take(choice)) abort();
    int given = 0;
    for (int k = 0; k < 2; k++) {
      waits[k]->owner = NULL;
      uns_wait_told told = uns_channel_wait_end(waits[k]);
      if (told == UNS_WAIT_GIVEN) {
        given++;
        c->sum += c->sends ? i : waits[k]->item.as.integer;
      }
      uns_channel_wait_unref(waits[k]);
    }
    if (given > 1) abort();
    i += given;
    uns_choice_unref(choice);
  }
  return NULL;
}

static void choices_meet_choices(void **state) {
  (void)state;
  chooser both[2];
  pthread_t threads[2];
  uns_shared_channel *a = uns_shared_channel_new(0), *b = uns_shared_channel_new(0);
  for (int i = 0; i < 2; i++) {
    both[i] = (chooser){uns_mailbox_new(), {i == 0 ? a : b, i == 0 ? b : a}, i == 0, 0};
    pthread_create(&threads[i], NULL, choose, &both[i]);
  }
  for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
  assert_int_equal(both[0].sum, both[1].sum);
  for (int i = 0; i < 2; i++) {
    deliver(both[i].mailbox);
    uns_mailbox_unref(both[i].mailbox);
  }
  uns_shared_unref(a);
  uns_shared_unref(b);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
  const struct CMUnitTest tests[] = {
      TEST(senders_wait_in_line_and_move_up),
      TEST(what_a_wait_was_given_goes_back_in_front),
      TEST(one_of_a_choice_is_served),
      TEST(closing_tells_all),
      TEST(mail_to_a_state_that_is_gone_frees_itself),
      TEST(items_become_packets),
      TEST(what_is_lent_is_taken_or_recalled),
      TEST(what_is_put_back_is_before_what_is_lent),
      TEST(who_waits_for_the_room_of_a_loan_is_told),
      cmocka_unit_test(an_item_is_taken_or_recalled_but_not_both),
      TEST(memory_may_run_out_anywhere),
      cmocka_unit_test(nothing_is_lost_or_doubled_between_threads),
      cmocka_unit_test(choices_meet_choices),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
