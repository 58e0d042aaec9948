/* testing: what unsync.testing and `unsync test` need of the rooms below. Loaded when it is required. */
#ifndef UNS_BIND_TESTING_H
#define UNS_BIND_TESTING_H

#include <lua.h>

/* Opens "unsync.core.testing". May raise. */
int uns_open_testing(lua_State *L);

#endif
