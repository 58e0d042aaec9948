/*
 * package_path: each call on a worker carries the caller's search path, so that looking at it must cost little.
 *
 * Strings do not change: while `path` and `cpath` are the two that were seen last, which the registry keeps so that their
 * addresses stay their own, the path is what it was. The table is the one that `require` goes by, whatever the script has
 * done to its global; it and the keys are in the registry as well.
 */
#include "loop/package_path.h"

#include <lauxlib.h>
#include <lualib.h>

static void open_path(uns_runtime *runtime, lua_State *L) {
  static const char *const keys[] = {"path", "cpath"};
  luaL_checkstack(L, 8, NULL);
  for (int i = 0; i < 2; i++) {
    lua_pushstring(L, keys[i]);
    runtime->package_path.keys[i] = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushboolean(L, false);
    runtime->package_path.seen_refs[i] = luaL_ref(L, LUA_REGISTRYINDEX);
  }
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_getfield(L, -1, LUA_LOADLIBNAME);
  runtime->package_path.table = luaL_ref(L, LUA_REGISTRYINDEX); /* last: it says that all is there */
  lua_pop(L, 1);
}

/* Pushes the table and the two strings; false, and whatever there is pushed: they are none. */
static bool push_strings(uns_runtime *runtime, lua_State *L) {
  if (runtime->package_path.table == 0) open_path(runtime, L);
  luaL_checkstack(L, 5, NULL);
  if (lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->package_path.table) != LUA_TTABLE) return false;
  for (int i = 0; i < 2; i++) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->package_path.keys[i]);
    if (lua_rawget(L, -2 - i) != LUA_TSTRING) return false;
  }
  return true;
}

/* They have changed: notes them, and makes a search path of them, unless `now` is what they say. */
static void see(uns_runtime *runtime, lua_State *L, uns_search_path *now) {
  size_t path_bytes, cpath_bytes;
  const char *path = lua_tolstring(L, -2, &path_bytes), *cpath = lua_tolstring(L, -1, &cpath_bytes);
  const char *rules = runtime->placement != NULL ? runtime->placement : "";
  uns_search_path *seen = uns_search_path_is(now, path, path_bytes, cpath, cpath_bytes, rules)
                              ? uns_shared_ref(now)
                              : uns_search_path_new(path, path_bytes, cpath, cpath_bytes, rules);
  uns_shared_unref(runtime->search_path);
  runtime->search_path = seen;
  for (int i = 0; i < 2; i++) {
    runtime->package_path.seen[i] = seen != NULL ? lua_topointer(L, i - 2) : NULL;
    lua_pushvalue(L, i - 2);
    lua_rawseti(L, LUA_REGISTRYINDEX,
                runtime->package_path.seen_refs[i]); /* in the place of another: allocates nothing */
  }
}

static bool seen_before(const uns_runtime *runtime, lua_State *L) {
  return lua_topointer(L, -2) == runtime->package_path.seen[0] && lua_topointer(L, -1) == runtime->package_path.seen[1];
}

void uns_package_path_forget(uns_runtime *runtime) { runtime->package_path.seen[0] = NULL; }

uns_search_path *uns_package_path(uns_runtime *runtime, lua_State *L) {
  int top = lua_gettop(L);
  bool strings = push_strings(runtime, L);
  if (strings && !seen_before(runtime, L)) see(runtime, L, runtime->search_path);
  lua_settop(L, top);
  return strings ? runtime->search_path : NULL;
}

void uns_package_path_set(uns_runtime *runtime, lua_State *L, uns_search_path *wanted) {
  int top = lua_gettop(L);
  bool strings = push_strings(runtime, L);
  if (strings && runtime->search_path == wanted && seen_before(runtime, L)) {
    lua_settop(L, top);
    return;
  }
  if (strings) see(runtime, L, wanted); /* it may be another object that says the same */
  if (lua_istable(L, top + 1) && (!strings || runtime->search_path != wanted)) {
    lua_settop(L, top + 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->package_path.keys[0]);
    lua_pushlstring(L, wanted->text, wanted->path_bytes);
    lua_rawset(L, top + 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->package_path.keys[1]);
    lua_pushlstring(L, wanted->text + wanted->path_bytes + 1, wanted->cpath_bytes);
    lua_rawset(L, top + 1);
    lua_settop(L, top);
    if (push_strings(runtime, L)) see(runtime, L, wanted);
  }
  lua_settop(L, top);
}
