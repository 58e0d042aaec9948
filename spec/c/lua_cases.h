/*
 * lua_cases: tests in C whose cases are written in Lua: a file that returns `names`, in order, and `run`, which runs one.
 */
#ifndef LUA_CASES_H
#define LUA_CASES_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <lauxlib.h>
#include <lua.h>
#include <stdio.h>
#include <string.h>

static inline int lua_cases_traceback(lua_State *L) {
  luaL_traceback(L, L, luaL_tolstring(L, 1, NULL), 1);
  return 1;
}

/* Runs the case `name` of the file `path` on L, which is for it alone. */
static inline void lua_cases_run_one(lua_State *L, const char *path, const char *name) {
  lua_pushcfunction(L, lua_cases_traceback);
  if (luaL_dofile(L, path)) fail_msg("%s", lua_tostring(L, -1));
  lua_getfield(L, -1, "run");
  lua_pushstring(L, name);
  if (lua_pcall(L, 1, 0, 1) != LUA_OK) fail_msg("%s", lua_tostring(L, -1));
}

/*
 * Runs all cases of the file, each by `runs_a_case`, whose state is the case's name, and then the `count` tests `in_c`.
 * L, which is only asked for the names, stays open meanwhile. Returns how many failed. `set_up` and `tear_down` may be NULL.
 */
static inline int lua_cases_run(const char *group, lua_State *L, const char *path, CMUnitTestFunction runs_a_case,
                                const struct CMUnitTest *in_c, size_t count, CMFixtureFunction set_up,
                                CMFixtureFunction tear_down) {
  enum { MOST = 200 };
  static struct CMUnitTest all[MOST];
  if (luaL_dofile(L, path)) {
    fprintf(stderr, "%s\n", lua_tostring(L, -1));
    return 1;
  }
  lua_getfield(L, -1, "names");
  size_t cases = (size_t)lua_rawlen(L, -1);
  if (cases + count > MOST) return 1;
  for (size_t i = 0; i < cases; i++) {
    lua_rawgeti(L, -1, (lua_Integer)i + 1);
    const char *name = lua_tostring(L, -1); /* the list holds it */
    all[i] = (struct CMUnitTest){name, runs_a_case, NULL, NULL, (void *)(uintptr_t)name};
    lua_pop(L, 1);
  }
  memcpy(all + cases, in_c, count * sizeof *in_c);
  return _cmocka_run_group_tests(group, all, cases + count, set_up, tear_down);
}

#endif
