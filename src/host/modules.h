/*
 * modules: require for what is compiled into the program: unsync and its parts. UNSYNC_LUA=DIR reads them from disk.
 */
#ifndef UNS_MODULES_H
#define UNS_MODULES_H

#include "loop/runtime.h"

/* Adds the searcher for our modules to the state. May raise. */
void uns_modules_open(lua_State *L, uns_runtime *runtime);
/* The searcher: search(name) -> loader, data; or why there is none */
int uns_modules_search(lua_State *L);

#endif
