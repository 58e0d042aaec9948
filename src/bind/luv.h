/*
 * luv: libuv for scripts, on the ambient loop.
 */
#ifndef UNS_LUV_H
#define UNS_LUV_H

#include <lua.h>

/*
 * Opens the module "luv": pushes its table. Raises where there is no memory or no descriptor left. The runtime of the
 * state must exist. What the script has open is closed when the state is, whether its runtime has ended before or not.
 */
int uns_open_luv(lua_State *L);

#endif
