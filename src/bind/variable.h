/* variable: how context variables go along with a call to a worker. */
#ifndef UNS_VARIABLE_H
#define UNS_VARIABLE_H

#include "loop/runtime.h"

/*
 * The function to call and its arguments are all that lies on the stack: puts below them what makes the call one that sets
 * the running task's variables first. Returns how many values that is; 0 where nothing is set.
 *   only_sendable  leaves out those that cannot cross
 */
int uns_variables_insert(lua_State *L, uns_runtime *runtime, bool only_sendable);

/*
 * For a native task: pushes a table of the running task's variables that have names, by name, as far as they can cross. False
 * where there are none, and nothing is pushed.
 */
bool uns_variables_push_named(lua_State *L, uns_runtime *runtime);

#endif
