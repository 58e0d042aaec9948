/* method: what a context variable's get is measured beside: a C function that does nothing, called as a userdata's method. */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdio.h>

static int empty(lua_State *L) {
  (void)L;
  return 0;
}

static const char script[] = "local object, n = ..., 5000000\n"
                             "local from = os.clock()\n"
                             "for _ = 1, n do object:get() end\n"
                             "return (os.clock() - from) / n * 1e9";

int main(void) {
  lua_State *L = luaL_newstate();
  if (L == NULL) return 1;
  luaL_openlibs(L);
  lua_gc(L, LUA_GCGEN, 0, 0);
  if (luaL_loadstring(L, script) != LUA_OK) return 1;
  lua_newuserdatauv(L, 8, 0);
  lua_newtable(L);
  lua_newtable(L);
  lua_pushcfunction(L, empty);
  lua_setfield(L, -2, "get");
  lua_setfield(L, -2, "__index");
  lua_setmetatable(L, -2);
  if (lua_pcall(L, 1, 1, 0) != LUA_OK) return 1;
  printf("%.2f\n", lua_tonumber(L, -1));
  lua_close(L);
  return 0;
}
