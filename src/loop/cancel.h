/*
 * cancel: see cancel.c. The request; the outcome is the task's own doing.
 */
#ifndef UNS_CANCEL_H
#define UNS_CANCEL_H

#include "loop/task.h"

/*
 * Asks the work behind the future at `index` to stop, for the reason on top of L (popped; nil: none). True if it had not
 * settled. A promise is settled at once. Loop thread.
 */
bool uns_cancel(uns_runtime *runtime, lua_State *L, int index);
/* The same for a task or a job, without a reason. False if there is neither. */
bool uns_cancel_work(uns_runtime *runtime, uns_future *future);

/* Replaces the reason on top of L by the error `cancelled`, which names `future`'s task. */
void uns_cancel_push_error(lua_State *L, const uns_future *future, const char *stopped_by);
/* Raises `cancelled` in the running task. */
int uns_cancel_raise(uns_runtime *runtime, lua_State *L);

#endif
