/*
 * protect: pcall and xpcall. As stock, but they tell the runtime that they have caught something, so that an interrupt
 * that was swallowed comes again.
 */
#include "bind/stdlib.h"

/* `skipped` slots lie under the results. */
static int finish(lua_State *L, int status, lua_KContext skipped) {
  if (status == LUA_OK || status == LUA_YIELD) return lua_gettop(L) - (int)skipped;
  uns_runtime *runtime = uns_upvalue_runtime(L);
  if (runtime->caught != NULL) runtime->caught(runtime, L);
  lua_pushboolean(L, 0);
  lua_insert(L, -2);
  return 2;
}

/* pcall(fn, ...) -> true, ... | false, error */
static int protect_pcall(lua_State *L) {
  luaL_checkany(L, 1);
  lua_pushboolean(L, 1);
  lua_insert(L, 1);
  return finish(L, lua_pcallk(L, lua_gettop(L) - 2, LUA_MULTRET, 0, 0, finish), 0);
}

/* xpcall(fn, handler, ...) -> true, ... | false, what the handler made of the error */
static int protect_xpcall(lua_State *L) {
  luaL_checktype(L, 2, LUA_TFUNCTION);
  int count = lua_gettop(L) - 2;
  lua_pushboolean(L, 1);
  lua_pushvalue(L, 1);
  lua_rotate(L, 3, 2); /* fn, handler, true, fn, ... */
  return finish(L, lua_pcallk(L, count, LUA_MULTRET, 2, 2, finish), 2);
}

static const luaL_Reg functions[] = {{"pcall", protect_pcall}, {"xpcall", protect_xpcall}, {NULL, NULL}};

void uns_bind_protect(lua_State *L, uns_runtime *runtime) {
  if (!uns_stdlib_push_library(L, LUA_GNAME)) return;
  uns_stdlib_replace(L, runtime, functions);
  lua_pop(L, 1);
}
