/*
 * gate: what tasks of one state wait at for each other: semaphore, mutex, event, barrier, rate.
 *
 *   - Each is a userdata that somebody who waits there keeps alive. First come, first served.
 *   - A permit is handed to the first in line by the one who lets go of it: it is never free while somebody waits.
 *   - A waiter that was handed one and is interrupted in the same moment hands it on (`give_back` in bind/gate.c).
 *   - Everything belongs to the loop's thread.
 */
#ifndef UNS_GATE_H
#define UNS_GATE_H

#include "loop/task.h"

typedef struct uns_semaphore {
  uns_link waiters; /* uns_waiter.link, here and below */
  lua_Integer most, free;
} uns_semaphore;

typedef struct uns_mutex {
  uns_link waiters;
  uns_link held_link;    /* in owner->mutexes */
  uns_task *owner;       /* NULL: free */
  const char *locked_at; /* "file:line", of the last owner; interned, or NULL */
  const char *left_by;   /* its owner ended with it held: that task's name; it is of no use any more */
} uns_mutex;

typedef struct uns_event {
  uns_link waiters;
  bool set;
} uns_event;

typedef struct uns_barrier {
  uns_link waiters;
  lua_Integer parties, waiting;
} uns_barrier;

/* At most `most` permits in any `window_ns`. */
typedef struct uns_rate {
  uns_link waiters;
  uns_timer timer; /* armed while somebody waits: for the next permit */
  uint64_t window_ns;
  size_t most, next;     /* granted_ns[next] is the oldest of the last `most` */
  uint64_t granted_ns[]; /* 0: none yet */
} uns_rate;

/* The running task waits in `waiters` for `what`. Follow it by uns_task_park; `waiter.told` says what it was woken with. */
uns_task *uns_gate_wait(uns_runtime *runtime, lua_State *L, uns_link *waiters, uns_waits what);

void uns_semaphore_init(uns_semaphore *semaphore, lua_Integer most);
bool uns_semaphore_try_acquire(uns_semaphore *semaphore);
/* False: no permit is out. */
bool uns_semaphore_release(uns_runtime *runtime, uns_semaphore *semaphore);

void uns_mutex_init(uns_mutex *mutex);
/* For the running task, which is one. False: somebody has it. */
bool uns_mutex_try_lock(uns_runtime *runtime, uns_mutex *mutex);
/* By its owner: it goes to the first in line. */
void uns_mutex_unlock(uns_runtime *runtime, uns_mutex *mutex);
/* Nobody knows it any more. */
void uns_mutex_deinit(uns_mutex *mutex);
/* The task has ended: whoever waits for a mutex that it held is told UNS_TOLD_CLOSED. */
void uns_mutex_abandon(uns_runtime *runtime, uns_task *task);
/* Pushes the error for a task that ended so, and for those who want such a mutex. */
void uns_mutex_push_held(lua_State *L, const uns_task *task);
int uns_mutex_raise_abandoned(lua_State *L, const uns_mutex *mutex);

void uns_event_init(uns_event *event);
void uns_event_set(uns_runtime *runtime, uns_event *event);

void uns_barrier_init(uns_barrier *barrier, lua_Integer parties);
/* The running task arrives. True: as the last one, and all others go on; else it waits: uns_task_park. May raise. */
bool uns_barrier_arrive(uns_runtime *runtime, lua_State *L, uns_barrier *barrier);

void uns_rate_init(uns_rate *rate, size_t most, uint64_t window_ns);
bool uns_rate_try_acquire(const uns_runtime *runtime, uns_rate *rate);
/* After that was false: the running task waits: uns_task_park. May raise. */
void uns_rate_wait(uns_runtime *runtime, lua_State *L, uns_rate *rate);
/* The latest permit was not used. */
void uns_rate_give_back(uns_runtime *runtime, uns_rate *rate);

#endif
