/*
 * watchdog: a loop that is held while something else is due is reported while it is held, with the Lua stack of what holds
 * it.
 *
 * A thread looks at each watched loop every now and then: does it turn? That costs the loop nothing: it says anyway when its
 * last turn began (runtime->now_ns), and when it sleeps (mailbox->asleep).
 *   - Held is a loop whose thread has spent so much time in one turn, computing or blocked. Time in which the machine
 *     was busy with others does not count, nor does time in which all of us stood still.
 *   - What is due, and the stack, are read in a copy of the process that shares nothing with it (a fork of this thread
 *     alone): there the state stands still, whatever its thread was doing, in Lua or in C; no hook is set, no system call
 *     interrupted, and if the moment was a bad one, it is the copy that dies.
 *   - The copy is only made when something seems to be due, as far as that can be seen from outside.
 *   - The thread sleeps for good while all loops do; the next that wakes up wakes it.
 */
#ifndef UNS_WATCHDOG_H
#define UNS_WATCHDOG_H

#include "exec/executors.h"

/*
 * From its second task or first call on, the loop of `runtime` is watched: set for each state that has a loop of its own. Does
 * nothing where `executors->stall_ns` is 0. The runtime's thread.
 */
void uns_watchdog_offer(uns_runtime *runtime);
/* What UNSYNC_STALL says: seconds, 0 for never. False: it says something else. Before any state is made. */
bool uns_watchdog_read_environment(uns_executors *executors);
/* Ends its thread: nothing is reported any more. Any number of times; NULL is allowed. */
void uns_watchdog_stop(struct uns_watchdog *watchdog);
/* Once all loops but the caller's have ended. NULL is allowed. */
void uns_watchdog_free(struct uns_watchdog *watchdog);

#endif
