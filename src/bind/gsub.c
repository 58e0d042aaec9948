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
enum {
  SLOT_SUBJECT = 1,
  SLOT_PATTERN,
  SLOT_FROM,
  SLOT_PLAIN,
  SLOT_FUNCTION,
  SLOT_STATE = UNS_GSUB_BLOCK,
  SLOT_TEXT,
  SLOT_TOP = SLOT_TEXT
};

enum {
  TEXT_MIN = 104,   /* with what lies before it, a small block of a state's allocator */
  CAPTURES_MAX = 32 /* Lua's own limit */
};

typedef struct {
  uns_barrier barrier;
  lua_CFunction find; /* string.find */
  size_t at;          /* the subject before it is dealt with */
  size_t from, to;    /* the match under way */
  size_t last;        /* where the last match ended; SIZE_MAX: none yet */
  lua_Integer count, most;
  bool anchored, changed;
  char *text; /* the result so far: `small`, or the userdata in SLOT_TEXT */
  size_t used, capacity;
  char small[TEXT_MIN];
} substitution;

static void grow(lua_State *L, substitution *state, size_t size) {
  if (size > (SIZE_MAX / 2 - state->used) / 2) luaL_error(L, "buffer too large");
  size_t capacity = state->capacity * 2;
  while (capacity - state->used < size) capacity *= 2;
  char *text = lua_newuserdatauv(L, capacity, 0);
  memcpy(text, state->text, state->used);
  lua_replace(L, SLOT_TEXT);
  state->text = text;
  state->capacity = capacity;
}

static inline void append(lua_State *L, substitution *state, const char *bytes, size_t size) {
  if (size > state->capacity - state->used) grow(L, state, size);
  if (size == 1) state->text[state->used] = *bytes;
  else memcpy(state->text + state->used, bytes, size);
  state->used += size;
}

/*
 * Looks for a match from `at` on, with string.find. Leaves the function and its arguments on top and returns their
 * number, or -1. The match lies from *from to *to.
 */
static inline int find_match(lua_State *L, lua_CFunction find, const char *subject, size_t at, size_t *from,
                             size_t *to) {
  lua_settop(L, SLOT_TOP);
  lua_pushinteger(L, (lua_Integer)at + 1);
  lua_copy(L, -1, SLOT_FROM);
  lua_pushvalue(L, SLOT_FUNCTION);
  int results = find(L);
  if (results < 2) return -1;
  *from = (size_t)lua_tointeger(L, SLOT_TOP + 3) - 1;
  *to = (size_t)lua_tointeger(L, SLOT_TOP + 4);
  if (results == 2) { /* no captures: the whole match is the argument */
    lua_settop(L, SLOT_TOP + 2);
    lua_pushlstring(L, subject + *from, *to - *from);
    return 1;
  }
  lua_rotate(L, SLOT_TOP + 3, -2);
  lua_settop(L, -3);
  return results - 2;
}

/* The next match that counts, as find_match does. */
static int next_match(lua_State *L, substitution *state, const char *subject, size_t length) {
  while (state->count < state->most && !(state->anchored && state->last != SIZE_MAX)) {
    int arguments = find_match(L, state->find, subject, state->at, &state->from, &state->to);
    if (arguments < 0 || state->to != state->last) return arguments;
    /* An empty match right where the last one ended does not count. */
    if (state->at == length) return -1;
    append(L, state, subject + state->at, 1);
    state->at++;
  }
  return -1;
}

/* What the function made of the match lies on top. */
static void replace_match(lua_State *L, substitution *state, const char *subject) {
  if (!lua_toboolean(L, -1)) {
    append(L, state, subject + state->from, state->to - state->from);
  } else {
    size_t size;
    const char *bytes = lua_tolstring(L, -1, &size);
    if (bytes == NULL) {
      luaL_error(L, "invalid replacement value (a %s)", luaL_typename(L, -1));
      return; /* never: luaL_error does not */
    }
    append(L, state, bytes, size);
    state->changed = true;
  }
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

/* From match to match. The function of the first one, or of the next, is about to be called. */
static int go_on(lua_State *L, substitution *state, const char *subject, size_t length, int arguments) {
  while (arguments >= 0) {
    if (state->from > state->at) append(L, state, subject + state->at, state->from - state->at);
    state->count++;
    lua_callk(L, arguments, 1, (lua_KContext)state, after_call);
    replace_match(L, state, subject);
    arguments = next_match(L, state, subject, length);
  }
  return finish(L, state, subject, length);
}

static int after_call(lua_State *L, int status, lua_KContext context) {
  (void)status;
  substitution *state = (substitution *)context;
  size_t length;
  const char *subject = lua_tolstring(L, SLOT_SUBJECT, &length);
  replace_match(L, state, subject);
  return go_on(L, state, subject, length, next_match(L, state, subject, length));
}

/*
 * string.find takes a pattern without any of its special characters as plain text, and ')' by itself is none of them;
 * the matcher takes it for a mistake. No match gets past it, so no replacement function is called either.
 */
static bool is_lone_bracket(const char *pattern, size_t length) {
  if (memchr(pattern, ')', length) == NULL) return false;
  for (size_t i = 0; i < length; i++) {
    if (pattern[i] != '\0' && strchr("^$*+?.([%-", pattern[i]) != NULL) return false;
  }
  return true;
}

/* gsub(subject, pattern, replacement [, most]) -> string, count */
int uns_string_gsub(lua_State *L) {
  if (!lua_isfunction(L, 3) || !lua_isyieldable(L)) return uns_stdlib_stock(L);
  size_t length, pattern_length, from = 0, to = 0;
  const char *subject = luaL_checklstring(L, 1, &length);
  const char *pattern = luaL_checklstring(L, 2, &pattern_length);
  if (is_lone_bracket(pattern, pattern_length)) return uns_stdlib_stock(L);
  lua_Integer most = luaL_optinteger(L, 4, (lua_Integer)length + 1);
  luaL_checkstack(L, SLOT_TOP + CAPTURES_MAX + LUA_MINSTACK, "too many captures");
  lua_settop(L, SLOT_TOP);
  lua_copy(L, 3, SLOT_FUNCTION);
  lua_pushnil(L);
  lua_replace(L, SLOT_PLAIN);
  lua_CFunction find = lua_tocfunction(L, lua_upvalueindex(3));
  int arguments = most > 0 ? find_match(L, find, subject, 0, &from, &to) : -1;
  if (arguments < 0) {
    lua_pushvalue(L, SLOT_SUBJECT);
    lua_pushinteger(L, 0);
    return 2;
  }
  substitution *state = lua_newuserdatauv(L, sizeof *state, 0);
  lua_replace(L, SLOT_STATE);
  uns_stdlib_enter_barrier(L, uns_upvalue_runtime(L), SLOT_STATE, lua_upvalueindex(4));
  state->find = find;
  state->at = 0;
  state->from = from;
  state->to = to;
  state->last = SIZE_MAX;
  state->count = 0;
  state->most = most;
  state->anchored = *pattern == '^';
  state->changed = false;
  state->text = state->small;
  state->used = 0;
  state->capacity = sizeof state->small;
  return go_on(L, state, subject, length, arguments);
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
