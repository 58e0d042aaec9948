/*
 * call: one call of a native task: what is behind include/unsync_plugin.h.
 *
 * Arguments are read straight from the call's packet, results written straight into the result's.
 *   - The task runs on the calling thread; nothing of Lua is needed there.
 *   - The first failure counts. It travels as an error value, so its texts may have any length.
 * Which function it is: exec/registry.h. Who calls: exec/runner.c. Arguments, and what is said of those that are wrong:
 * call_arguments.c, call_error.c; call.c has the rest.
 */
#ifndef UNS_CALL_H
#define UNS_CALL_H

#include "core/job.h"
#include "exec/registry.h"

struct uns_executors;

/* Runs the native task of `job` here and now: `call` holds its arguments; fills in outcome and result. The task is
   looked up by its name where job->function->task is NULL. */
void uns_call_native(struct uns_executors *executors, uns_job *job);

/* The same for a task at hand. */
void uns_call_run(const uns_native *native, uns_job *job);

#endif
