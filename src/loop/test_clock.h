/*
 * test_clock: the time of one state's script, moved by a test instead of by the world.
 *
 *   - While it is stopped, it moves only when nothing in the state is ready: to the next deadline, either because a task
 *     has asked for so much time to pass (a mover), or, with `autojump`, at once where nothing is in flight elsewhere, or
 *     nothing there goes on either: a worker may wait for what this state does when it is time.
 *   - Time never goes back: when the test lets go of it, the clock runs on from where it stands, for as long as the
 *     state lives. A state that never had one pays a look at a pointer.
 *   - Timers for the world outside (uns_timer_init_real) know nothing of it; nor do workers, libuv's own timers and libcurl's.
 * Whose deadlines they are: loop/timer.c. When nothing is ready: loop/runtime.c.
 */
#ifndef UNS_TEST_CLOCK_H
#define UNS_TEST_CLOCK_H

#include "loop/task.h"

typedef struct uns_test_clock {
  uns_timer_queue timers;
  bool stopped, autojump;
  uint64_t now_ns;   /* while it is stopped */
  uint64_t ahead_ns; /* of uns_clock_ns, modulo 2^64, while it is not */
  uint64_t start_ns; /* what it was when it was stopped last */
  uint32_t number;   /* how often it has been stopped */
  uns_link movers;   /* tasks, by task->extra->waiter.link; each one's time is task->timer.deadline_ns, with the timer unarmed */
} uns_test_clock;

/* Stops the state's time. UNS_OK, or UNS_ENOMEM. It must not be stopped already. */
int uns_test_clock_stop(uns_runtime *runtime, bool autojump);
/* It runs on. Movers are woken. */
void uns_test_clock_run(uns_runtime *runtime);
/* The same, and what else a test has set here is as it was: for a state that goes on to the next call. */
void uns_test_clock_end(uns_runtime *runtime);
/* The running task waits until `duration_ns` have passed on the stopped clock, deadline by deadline: uns_task_park. May raise. */
void uns_test_clock_advance(uns_runtime *runtime, lua_State *L, uint64_t duration_ns);

/*
 * Nothing is ready: moves the time, if it may. `in_flight`: something under way elsewhere may come back at any moment,
 * which holds up jumps of its own accord, but no mover. True: a turn is due.
 */
bool uns_test_clock_move(uns_runtime *runtime, bool in_flight);
/* True if there are timers or movers and the time will come to them: hope for whoever waits. */
bool uns_test_clock_goes(const uns_test_clock *clock);

/* The time would come to something, but only calls that are under way elsewhere hold it up: it may jump where those stand still. */
bool uns_test_clock_held_up(const uns_test_clock *clock);
/* All states stand still: asks the one to jump, by mail. Any thread. UNS_OK, or UNS_ENOMEM. */
int uns_test_clock_tell_jump(uns_runtime *runtime);

/* For the end of the runtime. */
void uns_test_clock_free(uns_runtime *runtime);

#endif
