/*
 * state: a Lua state as scripts and workers get it: the whole library, a loop, and the functions that know tasks.
 */
#ifndef UNS_STATE_H
#define UNS_STATE_H

#include "exec/executors.h"

/* A state of its own, with its own allocator. NULL with errno set. Thread: whoever calls owns it. */
uns_runtime *uns_state_new(uns_executors *executors);
/* Ends a state made by uns_state_new. */
void uns_state_free(uns_runtime *runtime);

/*
 * Makes an existing state (stock lua5.4, an embedder's) know tasks. L is its main thread. NULL with errno set; then L's
 * stack may be higher than before.
 */
uns_runtime *uns_state_adopt(lua_State *L, uns_executors *executors);
/* Ends the runtime of such a state, which is about to be closed by its owner, or is being closed. */
void uns_state_release(uns_runtime *runtime);

#endif
