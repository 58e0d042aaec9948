/*
 * codec_names: what a module holds has a name, "module" or "module.field", and crosses by it.
 *
 * A name is found by looking through package.loaded; it is kept, and believed only while it still leads to the object.
 * Among several the standard library's comes first, the globals' last, then the shorter one: any worker agrees.
 */
#include <lauxlib.h>
#include <string.h>

#include "core/codec_state.h"
#include "core/error.h"

/* The best so far; its strings lie on the stack, so that no collection takes them. */
typedef struct named {
  int rank; /* -1: none yet */
  size_t module_size, field_size;
  const char *module, *field; /* field NULL: the module itself */
} named;

static bool is_one_of(const char *name, const char *const *list) {
  for (; *list != NULL; list++) {
    if (strcmp(name, *list) == 0) return true;
  }
  return false;
}

enum { STANDARD, OTHER, GLOBALS };

static int rank_of(const char *module) {
  static const char *const standard[] = {"string",    "table", "math",  "io",      "os",
                                         "coroutine", "utf8",  "debug", "package", NULL};
  if (is_one_of(module, standard)) return STANDARD;
  return strcmp(module, LUA_GNAME) == 0 ? GLOBALS : OTHER;
}

/* Other globals than these are the script's: no worker has them. */
static bool is_base_function(const char *name) {
  static const char *const base[] = {"assert",       "collectgarbage", "dofile",   "error",    "getmetatable",
                                     "ipairs",       "load",           "loadfile", "next",     "pairs",
                                     "pcall",        "print",          "rawequal", "rawget",   "rawlen",
                                     "rawset",       "require",        "select",   "tostring", "tonumber",
                                     "setmetatable", "type",           "warn",     "xpcall",   NULL};
  return is_one_of(name, base);
}

static int order(const char *a, size_t a_size, const char *b, size_t b_size) {
  if (a_size != b_size) return a_size < b_size ? -1 : 1;
  return memcmp(a, b, a_size);
}

static bool better(const named *candidate, const named *best) {
  if (best->rank < 0) return true;
  int difference = candidate->rank - best->rank;
  if (difference == 0) difference = (candidate->field != NULL) - (best->field != NULL);
  if (difference == 0) {
    difference = order(candidate->module, candidate->module_size, best->module, best->module_size);
  }
  if (difference == 0 && candidate->field != NULL) {
    difference = order(candidate->field, candidate->field_size, best->field, best->field_size);
  }
  return difference < 0;
}

/*
 * Looks through package.loaded, at stack index `loaded`, for the object at `index`, and pushes the names of its module
 * and field (nil: it is the module); pushes nothing where there is none. Runs no user code, allocates nothing.
 */
static bool search(lua_State *L, int loaded, int index) {
  const void *sought = lua_topointer(L, index);
  int type = lua_type(L, index);
  named best = {.rank = -1};
  int names = lua_gettop(L) + 1;
  lua_pushnil(L);
  lua_pushnil(L);
  lua_pushnil(L);
  for (; lua_next(L, loaded); lua_pop(L, 1)) {
    named candidate = {.field = NULL};
    if (lua_type(L, names + 2) != LUA_TSTRING) continue;
    candidate.module = lua_tolstring(L, names + 2, &candidate.module_size);
    if (candidate.module_size == 0) continue;
    candidate.rank = rank_of(candidate.module);
    if (lua_type(L, -1) == type && lua_topointer(L, -1) == sought && better(&candidate, &best)) {
      best = candidate;
      lua_copy(L, names + 2, names);
      lua_pushnil(L);
      lua_replace(L, names + 1);
    }
    if (lua_type(L, -1) != LUA_TTABLE) continue;
    if (type == LUA_TTABLE && candidate.rank != OTHER) continue; /* the classes in there are the script's own */
    lua_pushnil(L);
    for (; lua_next(L, names + 3); lua_pop(L, 1)) {
      if (lua_type(L, -1) != type || lua_topointer(L, -1) != sought || lua_type(L, -2) != LUA_TSTRING) continue;
      candidate.field = lua_tolstring(L, -2, &candidate.field_size);
      if (candidate.field_size == 0 || !better(&candidate, &best)) continue;
      if (candidate.rank == GLOBALS && !is_base_function(candidate.field)) continue;
      best = candidate;
      lua_copy(L, names + 2, names);
      lua_copy(L, -2, names + 1);
    }
  }
  if (best.rank < 0) lua_settop(L, names - 1);
  return best.rank >= 0;
}

bool uns_codec_push_title(lua_State *L, int loaded, int index) {
  if (!search(L, loaded, index)) return false;
  const char *module = lua_tostring(L, -2);
  if (lua_isnil(L, -1)) lua_pushvalue(L, -2);
  else if (strcmp(module, LUA_GNAME) == 0) lua_pushvalue(L, -1);
  else lua_pushfstring(L, "%s.%s", module, lua_tostring(L, -1));
  lua_replace(L, -3);
  lua_pop(L, 1);
  return true;
}

/* The kept name {module, field or false} is on top of the stack: replaced by both, if they still lead to the object. */
static bool unpack_valid(lua_State *L, int index) {
  int kept = lua_gettop(L);
  lua_rawgeti(L, kept, 1);
  bool is_module = lua_rawgeti(L, kept, 2) == LUA_TBOOLEAN;
  lua_pushvalue(L, kept + 1);
  int type = lua_rawget(L, lua_upvalueindex(UNS_UP_LOADED));
  if (!is_module && type == LUA_TTABLE) {
    lua_pushvalue(L, kept + 2);
    lua_rawget(L, -2);
    lua_remove(L, -2);
  }
  bool valid = (is_module || type == LUA_TTABLE) && lua_rawequal(L, -1, index);
  lua_settop(L, kept + 2);
  lua_remove(L, kept);
  if (!valid) {
    lua_pop(L, 2);
  } else if (is_module) {
    lua_pushnil(L);
    lua_replace(L, -2);
  }
  return valid;
}

/* The address of a kept name; another one than what may be in the memo for the table itself. */
static const void *address_of(lua_State *L, int kept) { return (const char *)lua_topointer(L, kept) + 2; }

const void *uns_codec_push_name(lua_State *L, int index) {
  luaL_checkstack(L, 12, NULL);
  lua_pushvalue(L, index);
  if (lua_rawget(L, lua_upvalueindex(UNS_UP_NAMES)) == LUA_TTABLE) {
    const void *address = address_of(L, lua_gettop(L));
    if (unpack_valid(L, index)) return address;
  } else {
    lua_pop(L, 1);
  }
  lua_pushvalue(L, lua_upvalueindex(UNS_UP_LOADED));
  int module = lua_gettop(L);
  if (!search(L, module, index)) {
    lua_pop(L, 1);
    return NULL;
  }
  lua_remove(L, module);
  lua_pushvalue(L, index);
  lua_createtable(L, 2, 0);
  lua_pushvalue(L, module);
  lua_rawseti(L, -2, 1);
  if (lua_isnil(L, module + 1)) lua_pushboolean(L, false);
  else lua_pushvalue(L, module + 1);
  lua_rawseti(L, -2, 2);
  const void *address = address_of(L, lua_gettop(L));
  lua_rawset(L, lua_upvalueindex(UNS_UP_NAMES));
  return address;
}

const void *uns_codec_push_registered(lua_State *L, int index) {
  lua_pushliteral(L, "__name");
  if (lua_rawget(L, index) == LUA_TSTRING) {
    lua_pushvalue(L, -1);
    lua_rawget(L, LUA_REGISTRYINDEX);
    bool same = lua_rawequal(L, -1, index);
    lua_pop(L, 1);
    if (same) {
      lua_pushliteral(L, "");
      lua_insert(L, -2);
      return (const char *)lua_topointer(L, index) + 2;
    }
  }
  lua_pop(L, 1);
  return NULL;
}

bool uns_codec_is_own(lua_State *L, int index) {
  lua_Debug info;
  lua_pushvalue(L, index);
  lua_getinfo(L, ">S", &info);
  if ((info.source[0] != '@' && info.source[0] != '=') || strstr(info.source, "unsync") == NULL) return false;
  if (uns_codec_push_name(L, index) == NULL) return false;
  const char *module = lua_tostring(L, -2);
  bool own = strncmp(module, "unsync", 6) == 0 && (module[6] == '\0' || module[6] == '.');
  lua_pop(L, 2);
  return own;
}

/* Leaves the module; raises what `require` raises. */
static void push_module(lua_State *L, const char *module, size_t size) {
  lua_pushlstring(L, module, size);
  lua_rawget(L, lua_upvalueindex(UNS_UP_LOADED));
  if (lua_toboolean(L, -1)) return;
  lua_pop(L, 1);
  lua_getglobal(L, "require");
  lua_pushlstring(L, module, size);
  lua_call(L, 1, 1);
}

void uns_codec_push_named(lua_State *L, const char *module, size_t module_size, const char *field, size_t field_size) {
  luaL_checkstack(L, 10, NULL);
  if (module_size == 0) { /* a metatable that luaL_newmetatable made */
    lua_pushlstring(L, field, field_size);
    lua_pushvalue(L, -1);
    if (lua_rawget(L, LUA_REGISTRYINDEX) == LUA_TTABLE) {
      lua_pushliteral(L, "__name");
      lua_rawget(L, -2);
      bool its_own = lua_rawequal(L, -1, -3);
      lua_pop(L, 1);
      if (its_own) {
        lua_remove(L, -2);
        return;
      }
    }
    uns_error_push(L, "unsendable", "unsendable: there is no class \"%s\" here: no module that makes it is loaded",
                   lua_tostring(L, -2));
    lua_error(L);
  }
  push_module(L, module, module_size);
  if (field_size == 0) return;
  int type = lua_type(L, -1);
  if (type == LUA_TTABLE || type == LUA_TUSERDATA) {
    lua_pushlstring(L, field, field_size);
    lua_gettable(L, -2); /* not raw: a module may load its parts on demand */
    if (!lua_isnil(L, -1)) {
      lua_remove(L, -2);
      return;
    }
  }
  lua_pushlstring(L, module, module_size);
  lua_pushlstring(L, field, field_size);
  uns_error_push(L, "unsendable", "unsendable: module \"%s\" has no field \"%s\" here", lua_tostring(L, -2),
                 lua_tostring(L, -1));
  lua_error(L);
}
