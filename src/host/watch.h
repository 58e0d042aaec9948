/* watch: a limit on how long a piece of the script may take, kept even if it never lets the loop turn. For `unsync test`. */
#ifndef UNS_WATCH_H
#define UNS_WATCH_H

#include <lua.h>

/* Opens "unsync.core.watch". May raise. */
int uns_open_watch(lua_State *L);

#endif
