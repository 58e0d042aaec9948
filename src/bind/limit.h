/*
 * limit: io calls whose function has a limit.
 */
#ifndef UNS_LIMIT_H
#define UNS_LIMIT_H

#include "bind/declaration.h"
#include "loop/future.h"

/*
 * Calls an io function that has a limit: at once, or when its turn comes. Its `count` arguments lie on the stack, and above
 * them the function; the future is pushed in their place. Raises without memory, and what a start raises.
 */
uns_future *uns_limit_start(lua_State *L, uns_runtime *runtime, const uns_declaration *declared, int count);
void uns_limit_open(uns_runtime *runtime);

#endif
