#include "host/modules.h"

#include <errno.h>
#include <lauxlib.h>
#include <lualib.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bind/http.h"
#include "bind/luv.h"
#include "bind/testing.h"
#include "host/embedded.h"
#include "host/watch.h"

/* The parts that are written in C. */
static const luaL_Reg c_modules[] = {{"unsync.core.http", uns_open_http},
                                     {"unsync.core.testing", uns_open_testing},
                                     {"unsync.core.leaks", uns_open_leaks},
                                     {"unsync.core.watch", uns_open_watch},
                                     {"luv", uns_open_luv},
                                     {NULL, NULL}};

/*
 * Pushes a loader for DIR/unsync/init.lua or DIR/unsync/x.lua; false if there is no such file. Raises if it does not
 * compile or cannot be read, and where there is no DIR.
 */
static bool push_from_disk(lua_State *L, const char *directory, const char *name) {
  struct stat found;
  int error = stat(directory, &found) != 0 ? errno : !S_ISDIR(found.st_mode) ? ENOTDIR : 0;
  if (error != 0) luaL_error(L, "UNSYNC_LUA: %s: %s", directory, strerror(error));
  const char *part = strcmp(name, "unsync") == 0 ? "init" : name + strlen("unsync.");
  const char *path = luaL_gsub(L, part, ".", "/");
  path = lua_pushfstring(L, "%s/unsync/%s.lua", directory, path);
  int status = luaL_loadfile(L, path);
  if (status == LUA_ERRFILE && access(path, F_OK) != 0) {
    lua_pop(L, 3);
    return false;
  }
  if (status != LUA_OK) lua_error(L);
  lua_insert(L, -3);
  lua_remove(L, -2);
  return true; /* the loader, the path */
}

static const uns_embedded *find_embedded(const char *name) {
  for (const uns_embedded *module = uns_embedded_modules; module->name != NULL; module++) {
    if (strcmp(module->name, name) == 0) return module;
  }
  return NULL;
}

/* searcher(name) -> loader, data */
int uns_modules_search(lua_State *L) {
  const char *name = luaL_checkstring(L, 1);
  for (const luaL_Reg *module = c_modules; module->name != NULL; module++) {
    if (strcmp(module->name, name) == 0) {
      lua_pushcfunction(L, module->func);
      lua_pushliteral(L, ":unsync:");
      return 2;
    }
  }
  if (strncmp(name, "unsync", 6) != 0 || (name[6] != '\0' && name[6] != '.')) return 0;
  const char *directory = secure_getenv("UNSYNC_LUA");
  if (directory != NULL && *directory != '\0' && push_from_disk(L, directory, name)) return 2;
  const uns_embedded *module = find_embedded(name);
  if (module == NULL) {
    lua_pushfstring(L, "no module '%s' in unsync", name);
    return 1;
  }
  if (luaL_loadbufferx(L, (const char *)module->bytes, module->size_bytes, name, "b") != LUA_OK) return lua_error(L);
  lua_pushliteral(L, ":unsync:");
  return 2;
}

void uns_modules_open(lua_State *L, uns_runtime *runtime) {
  (void)runtime;
  lua_getglobal(L, LUA_LOADLIBNAME);
  lua_getfield(L, -1, "searchers");
  for (lua_Integer i = luaL_len(L, -1); i >= 2; i--) { /* behind package.preload, before the files */
    lua_rawgeti(L, -1, i);
    lua_rawseti(L, -2, i + 1);
  }
  lua_pushcfunction(L, uns_modules_search);
  lua_rawseti(L, -2, 2);
  lua_pop(L, 2);
}
