/* inline: calls of thread and cpu functions that run on the caller's own loop, with values copied as if they had left. */
#ifndef UNS_INLINE_H
#define UNS_INLINE_H

#include "loop/runtime.h"

/*
 * The arguments of a call are all that lies on L, the function on top. In their place leaves the arguments of a task and,
 * on top, its body: copies of the function and of what it is given; its results, or its error, are copied when it ends.
 * Returns how many arguments the body has. Raises what cannot cross, as a call to a worker does, and then nothing has run.
 */
int uns_inline_call(lua_State *L, uns_runtime *runtime);

#endif
