/*
 * gsub: string.gsub whose replacement function may wait.
 *
 * The matching itself is string.find's, called by its C pointer in our own frame, from where the last match ended. So
 * patterns mean what they always mean, and a malformed one is reported with the line that called gsub.
 *   - With any other replacement, or where nothing could wait anyway, the stock function does the work.
 *   - All memory is Lua's: a wait that never ends leaks nothing.
 */
#include <string.h>
#include <lualib.h>

#include "bind/stdlib.h"

/* The frame: string.find reads the first four and takes no notice of the rest. */
enum { SLOT_SUBJECT = 1, SLOT_PATTERN, SLOT_FROM, SLOT_PLAIN, SLOT_FUNCTION, SLOT_STATE, SLOT_TEXT, SLOT_TOP = SLOT_TEXT };

enum {
  TEXT_MIN = 240,
  CAPTURES_MAX = 32 /* Lua's own limit */
};

typedef struct {
  size_t at;          /* the subject before it is dealt with */
  size_t from, to;    /* the match under way */
  size_t last;        /* where the last match ended; SIZE_MAX: none yet */
  lua_Integer count, most;
  bool anchored, changed;
  char *text;         /* the result so far: `small`, or the userdata in SLOT_TEXT */
  size_t used, capacity;
  char small[TEXT_MIN];
} substitution;

static void append(lua_State *L, substitution *state, const char *bytes, size_t size) {
  if (size == 0) return;
  if (size > state->capacity - state->used) {
    if (size > (SIZE_MAX / 2 - state->used) / 2) luaL_error(L, "buffer too large");
    size_t capacity = state->capacity * 2;
    while (capacity - state->used < size) capacity *= 2;
    char *text = lua_newuserdatauv(L, capacity, 0);
    memcpy(text, state->text, state->used);
    lua_replace(L, SLOT_TEXT);
    state->text = text;
    state->capacity = capacity;
  }
  memcpy(state->text + state->used, bytes, size);
  state->used += size;
}

/* Finds the next match and puts its captures on the stack, above SLOT_TOP; their number, or -1: there is none. */
static int next_match(lua_State *L, substitution *state, const char *subject, size_t length) {
  lua_CFunction find = lua_tocfunction(L, lua_upvalueindex(3));
  while (state->count < state->most && !(state->anchored && state->last != SIZE_MAX)) {
    lua_settop(L, SLOT_TOP);
    lua_pushinteger(L, (lua_Integer)state->at + 1);
    lua_replace(L, SLOT_FROM);
    int results = find(L);
    if (results < 2) return -1;
    state->from = (size_t)lua_tointeger(L, -results) - 1;
    state->to = (size_t)lua_tointeger(L, -results + 1);
    if (state->to != state->last) {
      if (results > 2) return results - 2;
      lua_pushlstring(L, subject + state->from, state->to - state->from);
      return 1;
    }
    /* An empty match right where the last one ended does not count. */
    if (state->at == length) return -1;
    append(L, state, subject + state->at, 1);
    state->at++;
  }
  return -1;
}

/* What the function made of the match lies on top. */
static void replace_match(lua_State *L, substitution *state, const char *subject) {
  const char *bytes = subject + state->from;
  size_t size = state->to - state->from;
  if (lua_toboolean(L, -1)) {
    if (!lua_isstring(L, -1)) luaL_error(L, "invalid replacement value (a %s)", luaL_typename(L, -1));
    bytes = lua_tolstring(L, -1, &size);
    state->changed = true;
  }
  append(L, state, bytes, size);
  state->at = state->last = state->to;
}

static int finish(lua_State *L, substitution *state, const char *subject, size_t length) {
  if (state->changed) {
    append(L, state, subject + state->at, length - state->at);
    lua_pushlstring(L, state->text, state->used);
  } else {
    lua_pushvalue(L, SLOT_SUBJECT);
  }
  lua_pushinteger(L, state->count);
  return 2;
}

static int after_call(lua_State *L, int status, lua_KContext context);

/* From match to match. */
static int go_on(lua_State *L, substitution *state) {
  size_t length;
  const char *subject = lua_tolstring(L, SLOT_SUBJECT, &length);
  int captures;
  while ((captures = next_match(L, state, subject, length)) >= 0) {
    append(L, state, subject + state->at, state->from - state->at);
    state->count++;
    lua_pushvalue(L, SLOT_FUNCTION);
    lua_insert(L, -captures - 1);
    lua_callk(L, captures, 1, (lua_KContext)state, after_call);
    replace_match(L, state, subject);
  }
  return finish(L, state, subject, length);
}

static int after_call(lua_State *L, int status, lua_KContext context) {
  (void)status;
  substitution *state = (substitution *)context;
  replace_match(L, state, lua_tostring(L, SLOT_SUBJECT));
  return go_on(L, state);
}

/* gsub(subject, pattern, replacement [, most]) -> string, count */
int uns_string_gsub(lua_State *L) {
  if (!lua_isfunction(L, 3) || !lua_isyieldable(L)) return uns_stdlib_stock(L);
  size_t length;
  luaL_checklstring(L, 1, &length);
  const char *pattern = luaL_checkstring(L, 2);
  lua_Integer most = luaL_optinteger(L, 4, (lua_Integer)length + 1);
  luaL_checkstack(L, SLOT_TOP + CAPTURES_MAX + LUA_MINSTACK, "too many captures");
  lua_settop(L, 3);
  lua_pushnil(L);
  lua_insert(L, SLOT_FROM);
  lua_pushnil(L);
  lua_insert(L, SLOT_PLAIN);
  substitution *state = lua_newuserdatauv(L, sizeof *state, 0);
  uns_stdlib_enter_barrier(L, uns_upvalue_runtime(L), lua_upvalueindex(4));
  lua_pushnil(L);
  state->at = 0;
  state->last = SIZE_MAX;
  state->count = 0;
  state->most = most;
  state->anchored = *pattern == '^';
  state->changed = false;
  state->text = state->small;
  state->used = 0;
  state->capacity = sizeof state->small;
  return go_on(L, state);
}

void uns_bind_gsub(lua_State *L, uns_runtime *runtime) {
  if (!uns_stdlib_push_library(L, LUA_STRLIBNAME)) return;
  lua_pushlightuserdata(L, runtime);
  lua_getfield(L, -2, "gsub");
  lua_getfield(L, -3, "find");
  if (uns_stdlib_is_plain(L, -1) && uns_stdlib_is_plain(L, -2)) {
    uns_stdlib_push_barrier_meta(L, runtime);
    lua_pushcclosure(L, uns_string_gsub, 4);
    lua_setfield(L, -2, "gsub");
    lua_pop(L, 1);
  } else {
    lua_pop(L, 4);
  }
}
