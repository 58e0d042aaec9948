/*
 * coroutine: the user's own coroutines, next to tasks which are coroutines too.
 *
 * A wait inside a generator is no item: it goes past the consumer to the task and back.
 *   - To the script a task's body looks like Lua's main: no coroutine to yield from.
 *   - A thread that stands in a wait is `normal`: only the scheduler resumes it.
 *   - Clean-up of a coroutine that is closed may wait, which it cannot in stock Lua.
 * Who resumes tasks: loop/task.c.
 */
#ifndef UNS_COROUTINE_H
#define UNS_COROUTINE_H

#include "bind/bind.h"

/* Replaces the functions of the library `coroutine`. May raise. */
void uns_bind_coroutine(lua_State *L, uns_runtime *runtime);

#endif
