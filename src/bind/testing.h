/* testing: what unsync.testing and `unsync test` need of the rooms below. Loaded when it is required. */
#ifndef UNS_BIND_TESTING_H
#define UNS_BIND_TESTING_H

#include <lua.h>

/* Open "unsync.core.testing" and "unsync.core.leaks" (bind/leaks.c). May raise. */
int uns_open_testing(lua_State *L);
int uns_open_leaks(lua_State *L);

#endif
