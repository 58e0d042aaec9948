/* lua: runs a Lua script while the program is built, when there is no other Lua yet: lua SCRIPT [ARGUMENT...] */
#include <stdio.h>
#include <stdlib.h>

#include "lauxlib.h"
#include "lua.h"
#include "lualib.h"

int main(int argc, char **argv) {
  lua_State *L = luaL_newstate();
  if (L == NULL || argc < 2) {
    fprintf(stderr, "%s: %s\n", argv[0], argc < 2 ? "usage: lua SCRIPT [ARGUMENT...]" : "not enough memory");
    return EXIT_FAILURE;
  }
  luaL_openlibs(L);
  int status = luaL_loadfile(L, argv[1]);
  for (int i = 2; i < argc; i++) lua_pushstring(L, argv[i]);
  if (status == LUA_OK) status = lua_pcall(L, argc - 2, 0, 0);
  if (status != LUA_OK) fprintf(stderr, "%s: %s\n", argv[0], lua_tostring(L, -1));
  lua_close(L);
  return status == LUA_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
