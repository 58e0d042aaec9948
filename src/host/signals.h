/*
 * signals: SIGINT and SIGTERM of the unsync program: the first raises `interrupted` in the root task, the second ends.
 * SIGTSTP stops the worker processes too, which are groups of their own, and they go on with us.
 *
 * By sigaction, not through libuv: a script that never comes back to the loop must be reached too. The program's alone:
 * the library takes no signal. So this room may have a static of its own.
 */
#ifndef UNS_SIGNALS_H
#define UNS_SIGNALS_H

#include "host/script.h"

/* From here until `release`, signals are for `run`; what the parent ignores stays ignored. Main thread. */
void uns_signals_take(uns_run *run);
void uns_signals_release(void);
/* After a turn: interrupts the root task if a signal has come. */
void uns_signals_look(uns_run *run);

#endif
