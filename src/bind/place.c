/*
 * place: where a function runs is data: rules move functions that were declared with a name between io, thread and cpu.
 *
 *   - The rules are the state's; they go with each call to its worker, whose state follows them.
 *   - All declarations with a name are known, by a weak table: a new rule reaches those that exist. Calls under way stay where
 *     they are.
 * The rules: core/placement.h. What a declaration makes of its place: declaration.c.
 */
#include "bind/place.h"

#include <string.h>

#include "bind/bind.h"
#include "bind/declaration.h"
#include "core/placement.h"
#include "core/weak.h"
#include "loop/package_path.h"

static const char declarations_key = 0; /* registry: weak keys, declarations */

static void push_declarations(lua_State *L) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &declarations_key) == LUA_TTABLE) return;
  lua_pop(L, 1);
  uns_weak_push(L, "k");
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &declarations_key);
}

void uns_place_declared(lua_State *L, uns_runtime *runtime, int index) {
  index = lua_absindex(L, index);
  luaL_checkstack(L, 6, NULL);
  if (runtime->placement != NULL) uns_declaration_place(L, index, runtime->placement, false);
  push_declarations(L);
  lua_pushvalue(L, index);
  lua_pushboolean(L, 1);
  lua_rawset(L, -3);
  lua_pop(L, 1);
}

/* Takes over `rules`, which is owned, and places all by them; where one cannot be placed so, raises, and nothing changes. */
static int adopt(lua_State *L) {
  uns_runtime *runtime = lua_touserdata(L, 1);
  const char *rules = lua_touserdata(L, 2);
  push_declarations(L);
  for (int pass = 0; pass < 2; pass++) {
    for (lua_pushnil(L); lua_next(L, 3); lua_pop(L, 1)) uns_declaration_place(L, -2, rules, pass == 0);
  }
  runtime->placement = (char *)rules;
  uns_package_path_forget(runtime);
  return 0;
}

static void set_rules(uns_runtime *runtime, lua_State *L, char *rules) {
  char *before = runtime->placement;
  luaL_checkstack(L, 4, NULL);
  lua_pushcfunction(L, adopt);
  lua_pushlightuserdata(L, runtime);
  lua_pushlightuserdata(L, rules);
  bool fine = lua_pcall(L, 2, 0, 0) == LUA_OK;
  uns_free(fine ? before : rules);
  if (!fine) lua_error(L);
}

void uns_place_follow(uns_runtime *runtime, lua_State *L, const char *rules) {
  char *copy = uns_copy_text(rules);
  if (copy == NULL) luaL_error(L, "not enough memory");
  else set_rules(runtime, L, copy);
}

/* The rule at -2 and -1, checked: its executor. */
static uns_kind check_rule(lua_State *L) {
  size_t length = 0, kind_length = 0;
  uns_kind kind = UNS_KIND_IO;
  const char *pattern = lua_type(L, -2) == LUA_TSTRING ? lua_tolstring(L, -2, &length) : "";
  if (!uns_placement_is_pattern(pattern, length)) {
    luaL_error(L, "bad pattern '%s' (%s expected)", luaL_tolstring(L, -2, NULL), uns_placement_patterns);
  }
  const char *name = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &kind_length) : "";
  if (!uns_placement_kind(name, kind_length, &kind)) {
    luaL_error(L, "bad executor for '%s' ('io', 'thread' or 'cpu' expected, got %s)", pattern,
               luaL_tolstring(L, -1, NULL));
  }
  return kind;
}

int uns_place(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  for (lua_pushnil(L); lua_next(L, 1); lua_pop(L, 1)) check_rule(L);
  /* Nothing raises while the text is in the making. */
  char *rules = NULL;
  bool fine = true;
  if (runtime->placement != NULL) {
    rules = uns_copy_text(runtime->placement);
    fine = rules != NULL;
  }
  for (lua_pushnil(L); fine && lua_next(L, 1); lua_pop(L, 1)) {
    size_t length, kind_length;
    uns_kind kind = UNS_KIND_IO;
    const char *pattern = lua_tolstring(L, -2, &length), *name = lua_tolstring(L, -1, &kind_length);
    uns_placement_kind(name, kind_length, &kind);
    char *more = uns_placement_with(rules, pattern, length, kind);
    uns_free(rules);
    rules = more;
    fine = more != NULL;
  }
  if (!fine) return luaL_error(L, "not enough memory");
  lua_settop(L, 1);
  if (rules != NULL) set_rules(runtime, L, rules);
  return 0;
}
