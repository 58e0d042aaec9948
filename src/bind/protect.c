/*
 * protect: pcall and xpcall. As stock, but they tell the runtime that they have caught something, so that an interrupt
 * that was swallowed comes again.
 */
#include "bind/stdlib.h"
#include "loop/cancel.h"

enum { IN_CLEAN_UP = 4 }; /* in a call's context, beside how many slots lie under its results */

static int finish(lua_State *L, int status, lua_KContext context) {
  if (status == LUA_OK || status == LUA_YIELD) return lua_gettop(L) - (int)(context & ~IN_CLEAN_UP);
  uns_cancel_caught(uns_upvalue_runtime(L), L, (context & IN_CLEAN_UP) != 0);
  lua_pushboolean(L, 0);
  lua_insert(L, -2);
  return 2;
}

static lua_KContext context_of(lua_State *L, int skipped) {
  return skipped | (uns_cancel_in_clean_up(uns_upvalue_runtime(L)) ? IN_CLEAN_UP : 0);
}

/* pcall(fn, ...) -> true, ... | false, error */
static int protect_pcall(lua_State *L) {
  luaL_checkany(L, 1);
  lua_pushboolean(L, 1);
  lua_insert(L, 1);
  lua_KContext context = context_of(L, 0);
  return finish(L, lua_pcallk(L, lua_gettop(L) - 2, LUA_MULTRET, 0, context, finish), context);
}

/* xpcall(fn, handler, ...) -> true, ... | false, what the handler made of the error */
static int protect_xpcall(lua_State *L) {
  luaL_checktype(L, 2, LUA_TFUNCTION);
  int count = lua_gettop(L) - 2;
  lua_pushboolean(L, 1);
  lua_pushvalue(L, 1);
  lua_rotate(L, 3, 2); /* fn, handler, true, fn, ... */
  lua_KContext context = context_of(L, 2);
  return finish(L, lua_pcallk(L, count, LUA_MULTRET, 2, context, finish), context);
}

static const luaL_Reg functions[] = {{"pcall", protect_pcall}, {"xpcall", protect_xpcall}, {NULL, NULL}};

void uns_bind_protect(lua_State *L, uns_runtime *runtime) {
  if (!uns_stdlib_push_library(L, LUA_GNAME)) return;
  uns_stdlib_replace(L, runtime, functions);
  lua_pop(L, 1);
}
