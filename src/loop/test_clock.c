#include "loop/test_clock.h"

#include "core/packet.h"
#include "loop/gate.h"

enum {
  SLACK_NS = 1000
}; /* a deadline that is later than it was meant to be by what seconds lose as binary numbers is due */

uint64_t uns_test_clock_now_ns(const uns_test_clock *clock) {
  return clock->stopped ? clock->now_ns : uns_clock_ns() + clock->ahead_ns;
}

int uns_test_clock_stop(uns_runtime *runtime, bool autojump) {
  uns_test_clock *clock = runtime->test_clock;
  if (clock == NULL) {
    clock = uns_calloc(1, sizeof *clock);
    if (clock == NULL) return UNS_ENOMEM;
    uns_list_init(&clock->movers);
    uns_timer_queue_init(&clock->timers);
    runtime->test_clock = clock;
  }
  clock->now_ns = clock->start_ns = uns_test_clock_now_ns(clock);
  clock->stopped = true;
  clock->number++;
  clock->autojump = autojump;
  return UNS_OK;
}

void uns_test_clock_run(uns_runtime *runtime) {
  uns_test_clock *clock = runtime->test_clock;
  if (clock == NULL || !clock->stopped) return;
  clock->stopped = false;
  clock->ahead_ns = clock->now_ns - uns_clock_ns();
  uns_waiter *waiter;
  while ((waiter = uns_waiter_first(&clock->movers)) != NULL) uns_waiter_tell(waiter, runtime, UNS_TOLD_GIVEN);
  uns_runtime_stir(runtime); /* what is due next is due otherwise now */
}

void uns_test_clock_end(uns_runtime *runtime) {
  uns_test_clock_run(runtime);
  runtime->shuffle = 0;
  runtime->inline_kinds = 0;
}

void uns_test_clock_advance(uns_runtime *runtime, lua_State *L, uint64_t duration_ns) {
  uns_test_clock *clock = runtime->test_clock;
  uns_task *task = uns_gate_wait(runtime, L, &clock->movers, UNS_WAITS_TEST_CLOCK);
  task->timer.deadline_ns = clock->now_ns + duration_ns;
}

/* Of those who want the time to pass, the one who is the first to have enough. */
static uns_task *nearest_mover(const uns_test_clock *clock) {
  uns_task *nearest = NULL;
  for (uns_link *link = clock->movers.next; link != &clock->movers; link = link->next) {
    uns_task *task = uns_container_of(link, uns_waiter, link)->task;
    if (nearest == NULL || task->timer.deadline_ns < nearest->timer.deadline_ns) nearest = task;
  }
  return nearest;
}

bool uns_test_clock_move(uns_runtime *runtime, bool in_flight) {
  uns_test_clock *clock = runtime->test_clock;
  if (!clock->stopped) return false;
  uint64_t next_ns = uns_timer_queue_next_ns(&clock->timers);
  uns_task *mover = nearest_mover(clock);
  if (mover != NULL && (next_ns == UINT64_MAX || next_ns > mover->timer.deadline_ns + SLACK_NS)) {
    /* all that was due at its time has run */
    if (clock->now_ns < mover->timer.deadline_ns) clock->now_ns = mover->timer.deadline_ns;
    uns_waiter_tell(&mover->extra->waiter, runtime, UNS_TOLD_GIVEN);
    return true;
  }
  if (next_ns == UINT64_MAX || (mover == NULL && (in_flight || !clock->autojump))) return false;
  if (next_ns > clock->now_ns) clock->now_ns = next_ns;
  return true;
}

bool uns_test_clock_goes(const uns_test_clock *clock) {
  if (clock->stopped && !clock->autojump) return !uns_list_empty(&clock->movers);
  return clock->timers.count > 0 || !uns_list_empty(&clock->movers);
}

bool uns_test_clock_held_up(const uns_test_clock *clock) {
  return clock->stopped && clock->autojump && clock->timers.count > 0 && uns_list_empty(&clock->movers);
}

static void on_jump(uns_mail *mail, void *receiver) {
  uns_runtime *runtime = receiver;
  if (runtime != NULL && runtime->test_clock != NULL && uns_test_clock_held_up(runtime->test_clock))
    uns_test_clock_move(runtime, false); /* what is due there runs in this turn */
  uns_free(mail);
}

int uns_test_clock_tell_jump(uns_runtime *runtime) {
  uns_mail *mail = uns_malloc(sizeof *mail);
  if (mail == NULL) return UNS_ENOMEM;
  mail->deliver = on_jump;
  uns_mailbox_post(runtime->mailbox, mail);
  return UNS_OK;
}

void uns_test_clock_free(uns_runtime *runtime) {
  if (runtime->test_clock == NULL) return;
  uns_timer_queue_deinit(&runtime->test_clock->timers);
  uns_free(runtime->test_clock);
  runtime->test_clock = NULL;
}
