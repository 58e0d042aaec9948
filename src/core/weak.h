/*
 * weak: tables that do not keep alive what they refer to.
 */
#ifndef UNS_WEAK_H
#define UNS_WEAK_H

#include <lua.h>

/* Pushes a new one; `mode` as in __mode: "k" for its keys, "v" for its values. */
void uns_weak_push(lua_State *L, const char *mode);

#endif
