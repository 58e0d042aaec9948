/*
 * signals: SIGINT and SIGTERM of the unsync program: the first raises `interrupted` in the root task, the second ends.
 * SIGTSTP stops the worker processes too, which are groups of their own, and they go on with us.
 *
 * They step aside while a script watches them through luv: libuv then puts its handler in the place of ours, and in the end
 * none, which is when ours comes back.
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
/* Those that nobody handles any more are ours again; SIGUSR1 too (dump.h). Any thread. */
void uns_signals_restore(void);
/* After a turn: interrupts the root task if a signal has come, unless the run's attendant deals with it. */
void uns_signals_look(uns_run *run);

/*
 * For a REPL, where a SIGINT is for one line of many:
 *   forgive    the next signal is a first one again
 *   count      how many have come since
 *   patient    while it is so, a second one does not end the program: somebody will look
 *   insist     what runs on `L` is interrupted again, as soon as it goes on: it has caught the first
 *   on_stop    called in a signal handler, before the process stops or is killed; NULL: nothing
 */
void uns_signals_forgive(void);
int uns_signals_count(void);
void uns_signals_set_patient(bool patient);
void uns_signals_insist(lua_State *L);
void uns_signals_on_stop(void (*stop)(void));

#endif
