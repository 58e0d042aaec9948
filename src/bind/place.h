/* place: functions that were declared with a name are moved between io, thread and cpu. */
#ifndef UNS_PLACE_H
#define UNS_PLACE_H

#include "loop/runtime.h"

/* The declaration at `index` has a name of its own: it is placed, now and whenever the rules change. Raises where it cannot be. */
void uns_place_declared(lua_State *L, uns_runtime *runtime, int index);
/* place{pattern = executor}: moves functions, those declared already too */
int uns_place(lua_State *L);
/* For the table of bindings: what `runtime->follow_placement` is. Raises where a function cannot be placed so. */
void uns_place_follow(uns_runtime *runtime, lua_State *L, const char *rules);

#endif
