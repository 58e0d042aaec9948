/*
 * interrupt: a Lua function that runs on a worker is made to stop at its next instruction, by a debug hook that is armed
 * only then.
 *
 *   - The hook is set by a signal handler in the very thread that runs the function: from elsewhere it would be a race, and
 *     one that is always on would double the cost of every loop.
 *   - It raises once and lies still while `<close>` handlers run; pcall, xpcall and resume arm it again as soon as the
 *     script goes on (runtime->caught). When the grace period is over it spares nothing any more.
 *   - It looks at the flag of the job under way, so one that comes late finds the next job's flag clear.
 */
#ifndef UNS_INTERRUPT_H
#define UNS_INTERRUPT_H

#include <signal.h>

#include "core/job.h"
#include "loop/runtime.h"

enum { UNS_INTERRUPT_SIGNAL = SIGURG }; /* ignored by default, so a late one harms nobody */

/* Installs the handler; the process's others are left alone. Any number of times. */
void uns_interrupt_install(void);
/* From here on this thread's interrupts are for `runtime` (NULL: nobody). The thread's own. */
void uns_interrupt_listen(uns_runtime *runtime);
/* Lets the interrupt's signal through in this thread. */
void uns_interrupt_unblock(void);

/* To be called where the loop turns: tells the runtime's tasks to stop, if their job was told so. */
void uns_interrupt_look(uns_runtime *runtime);

#endif
