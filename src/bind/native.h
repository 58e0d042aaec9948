/* native: plugins as Lua sees them: unsync.plugin. What loads them: exec/registry.h. */
#ifndef UNS_BIND_NATIVE_H
#define UNS_BIND_NATIVE_H

#include <lua.h>

/* unsync.plugin(name or path) -> {name =, version =, doc =, path =, abi =, tasks = {{name =, doc =}, ...}} */
int uns_native_plugin(lua_State *L);

#endif
