/* inspect: calls on their way to a worker, for the list of what is live. */
#ifndef UNS_INSPECT_H
#define UNS_INSPECT_H

#include "loop/runtime.h"

/* The call whose future lies at `index` is under way, made by the running task. Raises without memory. */
void uns_inspect_call(uns_runtime *runtime, lua_State *L, int index);
/* It is back. Never raises. */
void uns_inspect_call_ended(lua_State *L, int index);

#endif
