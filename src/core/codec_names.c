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

static int rank_of(const char *module) {
  static const char *const standard[] = {"string",    "table", "math",  "io",      "os",
                                         "coroutine", "utf8",  "debug", "package", NULL};
  for (int i = 0; standard[i] != NULL; i++) {
    if (strcmp(module, standard[i]) == 0) return 0;
  }
  return strcmp(module, LUA_GNAME) == 0 ? 2 : 1;
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
    /* The form in which a name is kept ends it with a zero. */
    if (candidate.module_size == 0 || strlen(candidate.module) != candidate.module_size) continue;
    candidate.rank = rank_of(candidate.module);
    if (lua_type(L, -1) == type && lua_topointer(L, -1) == sought && better(&candidate, &best)) {
      best = candidate;
      lua_copy(L, names + 2, names);
      lua_pushnil(L);
      lua_replace(L, names + 1);
    }
    if (lua_type(L, -1) != LUA_TTABLE) continue;
    lua_pushnil(L);
    for (; lua_next(L, names + 3); lua_pop(L, 1)) {
      if (lua_type(L, -1) != type || lua_topointer(L, -1) != sought || lua_type(L, -2) != LUA_TSTRING) continue;
      candidate.field = lua_tolstring(L, -2, &candidate.field_size);
      if (candidate.field_size == 0 || !better(&candidate, &best)) continue;
      best = candidate;
      lua_copy(L, names + 2, names);
      lua_copy(L, -2, names + 1);
    }
  }
  if (best.rank < 0) lua_settop(L, names - 1);
  return best.rank >= 0;
}

bool uns_codec_find_name(lua_State *L, int loaded, int index) {
  bool found = search(L, loaded, index);
  if (found) lua_pop(L, 2);
  return found;
}

/* True if the name on top of the stack still leads to the object at `index`. */
static bool still_valid(lua_State *L, int index) {
  size_t size;
  const char *name = lua_tolstring(L, -1, &size);
  size_t module_size = strlen(name);
  lua_pushlstring(L, name, module_size);
  lua_rawget(L, lua_upvalueindex(UNS_UP_LOADED));
  if (module_size + 1 < size) {
    if (lua_type(L, -1) != LUA_TTABLE) {
      lua_pop(L, 1);
      return false;
    }
    lua_pushlstring(L, name + module_size + 1, size - module_size - 1);
    lua_rawget(L, -2);
    lua_remove(L, -2);
  }
  bool same = lua_rawequal(L, -1, index);
  lua_pop(L, 1);
  return same;
}

bool uns_codec_push_name(lua_State *L, int index) {
  luaL_checkstack(L, 10, NULL);
  lua_pushvalue(L, index);
  if (lua_rawget(L, lua_upvalueindex(UNS_UP_NAMES)) == LUA_TSTRING && still_valid(L, index)) return true;
  lua_pop(L, 1);
  lua_pushvalue(L, lua_upvalueindex(UNS_UP_LOADED));
  int loaded = lua_gettop(L);
  if (!search(L, loaded, index)) {
    lua_pop(L, 1);
    return false;
  }
  size_t size;
  const char *module = lua_tolstring(L, loaded + 1, &size);
  lua_pushlstring(L, module, size + 1); /* with its zero */
  if (lua_isnil(L, loaded + 2)) {
    lua_replace(L, loaded);
  } else {
    lua_pushvalue(L, loaded + 2);
    lua_concat(L, 2);
    lua_replace(L, loaded);
  }
  lua_settop(L, loaded);
  lua_pushvalue(L, index);
  lua_pushvalue(L, loaded);
  lua_rawset(L, lua_upvalueindex(UNS_UP_NAMES));
  return true;
}

bool uns_codec_push_registered(lua_State *L, int index) {
  lua_pushliteral(L, "__name");
  if (lua_rawget(L, index) == LUA_TSTRING) {
    lua_pushvalue(L, -1);
    lua_rawget(L, LUA_REGISTRYINDEX);
    bool same = lua_rawequal(L, -1, index);
    lua_pop(L, 1);
    if (same) {
      lua_pushlstring(L, "", 1);
      lua_insert(L, -2);
      lua_concat(L, 2);
      return true;
    }
  }
  lua_pop(L, 1);
  return false;
}

bool uns_codec_is_own(lua_State *L, int index) {
  lua_Debug info;
  lua_pushvalue(L, index);
  lua_getinfo(L, ">S", &info);
  if ((info.source[0] != '@' && info.source[0] != '=') || strstr(info.source, "unsync") == NULL) return false;
  if (!uns_codec_push_name(L, index)) return false;
  const char *module = lua_tostring(L, -1);
  bool own = strncmp(module, "unsync", 6) == 0 && (module[6] == '\0' || module[6] == '.');
  lua_pop(L, 1);
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
    uns_error_push(L, "unsendable", "there is no class \"%s\" here: no module that makes it is loaded",
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
  uns_error_push(L, "unsendable", "module \"%s\" has no field \"%s\" here", lua_tostring(L, -2), lua_tostring(L, -1));
  lua_error(L);
}
