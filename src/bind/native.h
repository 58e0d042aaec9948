/*
 * native: plugins as Lua sees them: unsync.plugin, and the check behind unsync.thread("plugin.task").
 * What loads them: exec/registry.h.
 */
#ifndef UNS_BIND_NATIVE_H
#define UNS_BIND_NATIVE_H

#include <lua.h>

#include "exec/registry.h"

struct uns_executors;

/*
 * The native task `name`, "plugin.task"; its plugin is loaded where it is not yet. Raises an error with the code
 * "plugin" that says what is wrong and where was looked.
 */
const uns_native *uns_native_check(lua_State *L, struct uns_executors *executors, const char *name);

/* unsync.plugin(name or path) -> {name =, version =, doc =, path =, abi =, tasks = {{name =, doc =}, ...}} */
int uns_native_plugin(lua_State *L);

#endif
