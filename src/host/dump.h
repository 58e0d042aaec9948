/*
 * dump: SIGUSR1 asks the program for the tree of its tasks, on stderr. A worker process as well.
 *
 * The handler only notes it. It is printed at a safe point of the main thread: by the loop in its next turn; where a script
 * holds the loop, by a hook at its next instruction; by a worker process that has no call, as it wakes up.
 * The program's alone, so this room may have statics of its own. The text: lua/unsync/inspect.lua.
 */
#ifndef UNS_DUMP_H
#define UNS_DUMP_H

#include "loop/runtime.h"

/* From here on the signal is ours, unless the parent ignores it; it has no effect while there is no state. Main thread. */
void uns_dump_install(void);
/* Where nobody handles the signal any more, it is ours again. Any thread. */
void uns_dump_restore(void);
/* The state that is asked for; states that other threads make are none. Any thread. */
void uns_dump_of(uns_runtime *runtime);
/* It ends: the one before it is asked again. Any thread. */
void uns_dump_no_more_of(uns_runtime *runtime);

#endif
