/*
 * explain: errors that nobody handles, told so that they can be read.
 *
 * The text is made in Lua (lua/unsync/explain.lua), which is loaded when there is an error to tell; where that fails, in a
 * state without memory or a world turned upside down, the caller tells it plainly.
 */
#include "host/explain.h"

#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/modules.h"

/* ---- did you mean ---- */

enum { WORD_MAX = 32 };

static int least(int a, int b, int c) {
  int less = a < b ? a : b;
  return less < c ? less : c;
}

/* How many letters must be put in, left out, changed or swapped with the next to make one of the other. */
static int distance(const char *a, const char *b) {
  int rows[3][WORD_MAX + 1];
  int length = (int)strlen(a), other = (int)strlen(b);
  if (length > WORD_MAX || other > WORD_MAX) return WORD_MAX;
  for (int j = 0; j <= other; j++) rows[0][j] = j;
  for (int i = 1; i <= length; i++) {
    int *row = rows[i % 3], *last = rows[(i + 2) % 3], *before = rows[(i + 1) % 3];
    row[0] = i;
    for (int j = 1; j <= other; j++) {
      row[j] = least(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1]));
      bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped && before[j - 2] + 1 < row[j]) row[j] = before[j - 2] + 1;
    }
  }
  return rows[length % 3][other];
}

const char *uns_explain_meant(const char *text, const char *const *words) {
  const char *best = NULL;
  int nearest = (int)strlen(text) <= 4 ? 1 : 2;
  for (; *words != NULL; words++) {
    int away = distance(text, *words);
    if (away > nearest || (away == nearest && best != NULL)) continue;
    best = *words;
    nearest = away;
  }
  return best;
}

/* ---- the text ---- */

static const char function_key = 0; /* registry: what the module returned */

/* Pushes the function that the module is. Raises. */
static void push_function(lua_State *L) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &function_key) == LUA_TFUNCTION) return;
  lua_pop(L, 1);
  lua_pushcfunction(L, uns_modules_search);
  lua_pushliteral(L, "unsync.explain");
  lua_call(L, 1, 1);
  lua_pushliteral(L, "unsync.explain");
  lua_call(L, 1, 1);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &function_key);
}

/* Colours are for people: on a terminal, where nobody has asked for none. */
static bool wants_colour(const uns_runtime *runtime) {
  if (runtime->report != NULL || isatty(STDERR_FILENO) == 0) return false;
  const char *none = getenv("NO_COLOR"), *terminal = getenv("TERM");
  return (none == NULL || *none == '\0') && terminal != NULL && *terminal != '\0' && strcmp(terminal, "dumb") != 0;
}

/* distance(a, b) -> integer */
int uns_explain_distance(lua_State *L) {
  lua_pushinteger(L, distance(luaL_checkstring(L, 1), luaL_checkstring(L, 2)));
  return 1;
}

/* explain(error, traceback, origin, site, runtime) -> text */
static int explain(lua_State *L) {
  const uns_runtime *runtime = lua_touserdata(L, 5);
  lua_settop(L, 4);
  push_function(L);
  lua_insert(L, 1);
  lua_pushboolean(L, wants_colour(runtime));
  lua_pushcfunction(L, uns_explain_distance);
  lua_call(L, 6, 1);
  luaL_checkstring(L, -1);
  return 1;
}

bool uns_explain(uns_runtime *runtime, lua_State *L) {
  int error = lua_gettop(L) - 3;
  if (!lua_checkstack(L, 8)) return false;
  lua_pushcfunction(L, explain);
  for (int i = 0; i < 4; i++) lua_pushvalue(L, error + i);
  lua_pushlightuserdata(L, runtime);
  if (lua_pcall(L, 5, 1, 0) != LUA_OK) {
    lua_pop(L, 1);
    return false;
  }
  lua_replace(L, error);
  lua_settop(L, error);
  return true;
}
