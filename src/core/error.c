#include "core/error.h"

#include <lauxlib.h>
#include <stdarg.h>
#include <string.h>

#include <uv.h>

#include "base/base.h"

#define ERROR_TYPE "unsync.Error"

/* The message; where a script has taken it away, the code. */
static int error_tostring(lua_State *L) {
  lua_getfield(L, 1, "message");
  if (lua_type(L, -1) != LUA_TSTRING) {
    lua_pushfstring(L, "error: %s", (lua_getfield(L, 1, "code"), luaL_tolstring(L, -1, NULL)));
  }
  return 1;
}

void uns_error_open(lua_State *L) {
  if (luaL_newmetatable(L, ERROR_TYPE)) {
    lua_pushcfunction(L, error_tostring);
    lua_setfield(L, -2, "__tostring");
  }
}

static void push_error(lua_State *L, const char *code, const char *format, va_list arguments) {
  luaL_checkstack(L, 6, NULL);
  lua_createtable(L, 0, 3);
  luaL_setmetatable(L, ERROR_TYPE);
  lua_pushstring(L, code);
  lua_setfield(L, -2, "code");
  lua_pushvfstring(L, format, arguments);
  lua_setfield(L, -2, "message");
}

void uns_error_push(lua_State *L, const char *code, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  push_error(L, code, format, arguments);
  va_end(arguments);
}

void uns_error_push_errno(lua_State *L, int number, const char *what) {
  int code = uv_translate_sys_error(number);
  uns_error_push(L, uv_err_name(code), "%s: %s", what, uv_strerror(code));
}

/*
 * Pushes "file:line: " of the Lua code that called, as luaL_where does; where that is one of our own modules, of the code
 * that called into those: a script's author knows no other.
 */
static void push_where(lua_State *L) {
  lua_Debug frame;
  for (int level = 1; lua_getstack(L, level, &frame); level++) {
    lua_getinfo(L, "Sl", &frame);
    if (strncmp(frame.source, "@unsync/", 8) == 0) continue;
    if (frame.currentline > 0) {
      lua_pushfstring(L, "%s:%d: ", frame.short_src, frame.currentline);
      return;
    }
    if (level == 1) break; /* further out a pcall may lie between the two */
  }
  lua_pushliteral(L, "");
}

int uns_error_raise(lua_State *L, const char *code, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  push_error(L, code, format, arguments);
  va_end(arguments);
  push_where(L);
  lua_getfield(L, -2, "message");
  lua_concat(L, 2);
  lua_setfield(L, -2, "message");
  lua_error(L);
  __builtin_unreachable(); /* lua_error is not declared so */
}

/* push_text(text) -> string */
static int push_text(lua_State *L) {
  lua_pushstring(L, lua_touserdata(L, 1));
  return 1;
}

void uns_error_push_text(lua_State *L, char *text) {
  bool fine = lua_checkstack(L, 3);
  if (fine) {
    lua_pushcfunction(L, push_text);
    lua_pushlightuserdata(L, text);
    fine = lua_pcall(L, 1, 1, 0) == LUA_OK;
  }
  uns_free(text);
  if (!fine) luaL_error(L, "not enough memory");
}

int uns_error_is(lua_State *L, int index, const char *code) {
  if (lua_type(L, index) != LUA_TTABLE || !lua_getmetatable(L, index)) return 0;
  luaL_getmetatable(L, ERROR_TYPE);
  int same = lua_rawequal(L, -1, -2);
  lua_pop(L, 2);
  if (!same || code == NULL) return same;
  index = lua_absindex(L, index);
  lua_pushliteral(L, "code");
  lua_rawget(L, index);
  const char *have = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
  same = have != NULL && strcmp(have, code) == 0;
  lua_pop(L, 1);
  return same;
}
