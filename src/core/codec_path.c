#include "core/codec_path.h"

#include <ctype.h>
#include <lauxlib.h>
#include <string.h>

enum { SHOWN_FIRST = 16, SHOWN_LAST = 16, KEY_SHOWN_BYTES = 40 };

static bool is_identifier(const char *text, size_t size) {
  if (size == 0 || size > KEY_SHOWN_BYTES || isdigit((unsigned char)text[0])) return false;
  for (size_t i = 0; i < size; i++) {
    if (!isalnum((unsigned char)text[i]) && text[i] != '_') return false;
  }
  return true;
}

/* Pushes ["a key"] with whatever cannot be printed as \ddd. */
static void push_quoted(lua_State *L, const char *text, size_t size) {
  luaL_Buffer buffer;
  luaL_buffinit(L, &buffer);
  luaL_addstring(&buffer, "[\"");
  for (size_t i = 0; i < size && i < KEY_SHOWN_BYTES; i++) {
    unsigned char byte = (unsigned char)text[i];
    if (byte == '"' || byte == '\\') {
      luaL_addchar(&buffer, '\\');
      luaL_addchar(&buffer, (char)byte);
    } else if (byte < ' ' || byte == 0x7f) {
      char code[5] = {'\\', (char)('0' + byte / 100), (char)('0' + byte / 10 % 10), (char)('0' + byte % 10), '\0'};
      luaL_addstring(&buffer, code);
    } else {
      luaL_addchar(&buffer, (char)byte);
    }
  }
  luaL_addstring(&buffer, size > KEY_SHOWN_BYTES ? "...\"]" : "\"]");
  luaL_pushresult(&buffer);
}

/* Pushes ".name" or "[key]" for the key at `index`. */
static void push_key(lua_State *L, int index) {
  switch (lua_type(L, index)) {
    case LUA_TSTRING: {
      size_t size;
      const char *text = lua_tolstring(L, index, &size);
      if (is_identifier(text, size)) lua_pushfstring(L, ".%s", text);
      else push_quoted(L, text, size);
      break;
    }
    case LUA_TNUMBER:
      if (lua_isinteger(L, index)) lua_pushfstring(L, "[%I]", (LUAI_UACINT)lua_tointeger(L, index));
      else lua_pushfstring(L, "[%f]", (LUAI_UACNUMBER)lua_tonumber(L, index));
      break;
    case LUA_TBOOLEAN: lua_pushfstring(L, "[%s]", lua_toboolean(L, index) ? "true" : "false"); break;
    default: lua_pushfstring(L, "[%s]", luaL_typename(L, index));
  }
}

/* The path so far is on top, possibly empty: puts the next step behind it. */
static void add_step(lua_State *L, const uns_place *place, const uns_codec_names *names) {
  switch (place->kind) {
    case UNS_AT_VALUE:
      if (names->first == 0) lua_pushstring(L, names->values);
      else if (!names->function)
        lua_pushfstring(L, "%s %I", names->values, (LUAI_UACINT)(names->first + place->number));
      else if (place->number == 0) lua_pushliteral(L, ""); /* its upvalues stand for themselves */
      else lua_pushfstring(L, "%s %I", names->values, (LUAI_UACINT)(names->first + place->number - 1));
      break;
    case UNS_AT_FIELD: push_key(L, place->index); break;
    case UNS_AT_ITEM: lua_pushfstring(L, "[%I]", (LUAI_UACINT)place->number); break;
    case UNS_AT_KEY:
      lua_pushliteral(L, "key of ");
      lua_insert(L, -2);
      break;
    case UNS_AT_METATABLE: lua_pushliteral(L, ", metatable"); break;
    case UNS_AT_UPVALUE: {
      const char *between = lua_rawlen(L, -1) > 0 ? ", " : "";
      const char *name = lua_getupvalue(L, place->index, (int)place->number);
      if (name != NULL) lua_pop(L, 1);
      if (name != NULL && is_identifier(name, strlen(name))) lua_pushfstring(L, "%supvalue %s", between, name);
      else lua_pushfstring(L, "%supvalue %I", between, (LUAI_UACINT)place->number);
      break;
    }
    case UNS_AT_PART: return;
    case UNS_AT_DEEP:
      lua_pushvalue(L, place->index);
      if (place->number > 0) {
        lua_pushliteral(L, "...");
        lua_concat(L, 2);
      }
      break;
  }
  lua_concat(L, 2);
}

void uns_codec_push_path(lua_State *L, uns_place *innermost, const uns_codec_names *names) {
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  int count = 0;
  uns_place *outermost = NULL;
  while (innermost != NULL) {
    uns_place *up = innermost->up;
    innermost->up = outermost;
    outermost = innermost;
    innermost = up;
    count++;
  }
  lua_pushliteral(L, "");
  int step = 0;
  for (const uns_place *place = outermost; place != NULL; place = place->up, step++) {
    if (step < SHOWN_FIRST || step >= count - SHOWN_LAST) {
      add_step(L, place, names);
    } else if (step == SHOWN_FIRST) {
      lua_pushliteral(L, "...");
      lua_concat(L, 2);
    }
  }
  if (lua_rawlen(L, -1) == 0) {
    lua_pop(L, 1);
    lua_pushliteral(L, "function");
  }
}
