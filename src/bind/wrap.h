/*
 * wrap: what else wants to know of wrapped functions.
 */
#ifndef UNS_WRAP_H
#define UNS_WRAP_H

#include <lua.h>
#include <stdbool.h>

#include "core/job.h"

/* True if the value at `index` is what unsync.io, thread or cpu returned. */
bool uns_is_wrapped(lua_State *L, int index);
/* spawn(fn, ...) -> Future: of a wrapped function, simply a call */
int uns_wrap_spawn(lua_State *L);
/* "io", "thread" or "cpu", or NULL where it is none. */
const char *uns_wrapped_kind(lua_State *L, int index);
/* Where the value at `index` is one: how its calls run now, and their name, interned for the life of the state. Else false. */
bool uns_wrapped_describe(lua_State *L, int index, uns_kind *kind, const char **name);

#endif
