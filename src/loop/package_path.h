/* package_path: where this state looks for modules, to go with its calls and to be set for those of others. */
#ifndef UNS_PACKAGE_PATH_H
#define UNS_PACKAGE_PATH_H

#include "core/search_path.h"
#include "loop/runtime.h"

/* package.path and package.cpath as they are now: the same object until they change. Borrowed; NULL where they are no strings,
   or without memory. May raise without memory. */
uns_search_path *uns_package_path(uns_runtime *runtime, lua_State *L);
/* Sets both, where they are not that already. May raise without memory. */
void uns_package_path_set(uns_runtime *runtime, lua_State *L, uns_search_path *wanted);
/* The placement of functions, which goes with the path, has changed. */
void uns_package_path_forget(uns_runtime *runtime);

#endif
