/*
 * declaration: what io, thread and cpu were told of a function: its name, its options, where its calls run.
 *
 *   - A userdata of each wrapped function, collectable half-built. What the executors need to know of it is a uns_function,
 *     shared with the calls under way: to place a function elsewhere gives it a new one, and they keep theirs.
 *   - Options and names are checked here, when a function is declared, never at its calls.
 * The callable around it: wrap.c. The rules that place it: place.c.
 */
#include "bind/declaration.h"

#include <limits.h>
#include <math.h>
#include <string.h>

#include "bind/bind.h"
#include "bind/place.h"
#include "bind/wrap.h"
#include "core/codec.h"
#include "core/error.h"
#include "core/placement.h"
#include "exec/executors.h"

#define DECLARATION_TYPE "unsync.Declaration"

static int declaration_gc(lua_State *L) {
  uns_declaration *declared = luaL_testudata(L, 1, DECLARATION_TYPE);
  if (declared == NULL) return 0;
  uns_shared_unref(declared->function);
  declared->function = NULL;
  return 0;
}

/* Of an io function, which starts at its call, both timeouts begin at once. */
static uint64_t nearer(const uns_function *function) {
  uint64_t a = function->timeout_ns, b = function->run_timeout_ns;
  return a == 0 || (b != 0 && b < a) ? b : a;
}

void uns_declaration_take_options(uns_declaration *declared) {
  declared->timeout_ns = nearer(declared->function);
  declared->limited = declared->function->limit > 0;
  declared->plain = declared->kind == UNS_KIND_IO && !declared->limited && declared->timeout_ns == 0 &&
                    declared->function->grace_ns == 0;
}

uns_declaration *uns_declaration_push(lua_State *L, uns_runtime *runtime) {
  uns_declaration *declared = lua_newuserdatauv(L, sizeof *declared, 0);
  declared->function = NULL;
  declared->name = NULL;
  declared->runtime = runtime;
  declared->timeout_ns = 0;
  declared->limited = declared->plain = declared->named = declared->here = false;
  declared->kind = declared->declared_kind = UNS_KIND_IO;
  luaL_setmetatable(L, DECLARATION_TYPE);
  return declared;
}

/*
 * "script.lua:12", where the function at `index` was written: its name until it gets a better one. One in C has the name
 * that its module gives it, one of ours that of what it wraps.
 */
static void push_default_name(lua_State *L, int index) {
  lua_Debug where;
  uns_kind kind;
  const char *name;
  if (uns_wrapped_describe(L, index, &kind, &name)) {
    lua_pushstring(L, name);
    return;
  }
  lua_pushvalue(L, index);
  lua_getinfo(L, ">S", &where);
  if (*where.what == 'C') {
    if (!uns_codec_push_title_of(L, index)) lua_pushliteral(L, "?");
    return;
  }
  lua_pushfstring(L, "%s:%d", where.short_src, where.linedefined);
}

static uint64_t option_seconds(lua_State *L, const char *name) {
  uint64_t duration_ns = 0;
  int type = lua_getfield(L, 2, name);
  if (type != LUA_TNIL) {
    lua_Number seconds = lua_isnumber(L, -1) && type == LUA_TNUMBER ? lua_tonumber(L, -1) : -1;
    if (!(seconds >= 0)) luaL_error(L, "bad option '%s' (seconds expected, got %s)", name, luaL_tolstring(L, -1, NULL));
    duration_ns = seconds > 3e9 ? (uint64_t)3e18 : (uint64_t)ceil(seconds * 1e9);
    if (duration_ns == 0) duration_ns = 1; /* 0 is for none */
  }
  lua_pop(L, 1);
  return duration_ns;
}

/* Reads `opts` at index 2 into the declaration; an option that does not exist is an error that names it. */
static void read_options(lua_State *L, uns_function *function) {
  static const char *const known[] = {"name", "timeout", "run_timeout", "limit", "fresh", "grace", NULL};
  if (lua_isnoneornil(L, 2)) return;
  luaL_checktype(L, 2, LUA_TTABLE);
  for (lua_pushnil(L); lua_next(L, 2); lua_pop(L, 1)) {
    const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "?";
    int i = 0;
    while (known[i] != NULL && strcmp(known[i], name) != 0) i++;
    if (known[i] == NULL) luaL_error(L, "unknown option '%s'", name);
  }
  function->timeout_ns = option_seconds(L, "timeout");
  function->run_timeout_ns = option_seconds(L, "run_timeout");
  function->grace_ns = option_seconds(L, "grace");
  int type = lua_getfield(L, 2, "limit");
  if (type != LUA_TNIL) {
    int is_integer;
    lua_Integer limit = lua_tointegerx(L, -1, &is_integer);
    if (type != LUA_TNUMBER || !is_integer || limit < 1 || limit > INT_MAX) {
      luaL_error(L, "bad option 'limit' (positive integer expected, got %s)", luaL_tolstring(L, -1, NULL));
    }
    function->limit = (uint32_t)limit;
  }
  lua_getfield(L, 2, "fresh");
  function->fresh = lua_toboolean(L, -1);
  lua_pop(L, 2);
}

/* Pushes the name to declare under: opts.name, the native task's, or the place in the source. */
static const char *push_name(lua_State *L, bool *own) {
  if (lua_istable(L, 2)) {
    int type = lua_getfield(L, 2, "name");
    *own = type == LUA_TSTRING;
    if (*own) return lua_tostring(L, -1);
    if (type != LUA_TNIL) luaL_error(L, "bad option 'name' (string expected, got %s)", luaL_typename(L, -1));
    lua_pop(L, 1);
  }
  if (lua_type(L, 1) == LUA_TSTRING) lua_pushvalue(L, 1);
  else push_default_name(L, 1);
  return lua_tostring(L, -1);
}

/* A native task must exist now, not when it is called. */
static void check_native(lua_State *L, uns_runtime *runtime, uns_function *function) {
  if (runtime->closing) uns_error_raise(L, "closed", "closed: the state is ending");
  char *text = NULL;
  if (uns_executors_find_native(runtime->executors, function, &text)) return;
  if (text == NULL) luaL_error(L, "not enough memory");
  uns_error_push_text(L, text);
  uns_error_raise(L, "plugin", "%s", lua_tostring(L, -1));
}

/* A function like another, but of another kind; NULL without memory. */
static uns_function *function_as(const uns_function *like, uns_kind kind) {
  uns_function *function = uns_function_new(kind, like->name, like->native);
  if (function == NULL) return NULL;
  function->fresh = like->fresh;
  function->limit = like->limit;
  function->timeout_ns = like->timeout_ns;
  function->run_timeout_ns = like->run_timeout_ns;
  function->grace_ns = like->grace_ns;
  function->task = like->task;
  return function;
}

void uns_declaration_place(lua_State *L, int index, const char *rules, bool only_check) {
  uns_declaration *declared = lua_touserdata(L, index);
  if (declared->function == NULL) return;
  uns_kind place = uns_placement_find(rules, declared->name, declared->declared_kind);
  const char *native = declared->function->native;
  if (native != NULL && place == UNS_KIND_IO) {
    luaL_error(L,
               "'%s' cannot be placed on io: it is the native task '%s', which would hold the loop while it runs "
               "(thread and cpu can run it)",
               declared->name, native);
  }
  if (only_check) return;
  bool here = place == UNS_KIND_IO && declared->declared_kind != UNS_KIND_IO;
  uns_kind kind = here ? declared->declared_kind : place;
  if (kind != declared->function->kind) { /* calls under way keep theirs */
    uns_function *moved = function_as(declared->function, kind);
    if (moved == NULL) luaL_error(L, "not enough memory");
    uns_shared_unref(declared->function);
    declared->function = moved;
  }
  declared->kind = kind;
  declared->here = here;
  uns_declaration_take_options(declared);
}

int uns_declare(lua_State *L, uns_kind kind) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  if (runtime->closing) return uns_error_raise(L, "closed", "closed: the state is ending");
  bool native = kind != UNS_KIND_IO && lua_type(L, 1) == LUA_TSTRING;
  if (!native && !lua_isfunction(L, 1)) {
    return luaL_typeerror(L, 1, kind == UNS_KIND_IO ? "function" : "function or native task's name");
  }
  if (!native && kind != UNS_KIND_IO && lua_iscfunction(L, 1) && !uns_codec_has_name(L, 1) && !uns_is_wrapped(L, 1)) {
    return luaL_argerror(L, 1, "a C function that no loaded module holds cannot be named in a worker");
  }
  lua_settop(L, 2);
  uns_declaration *declared = uns_declaration_push(L, runtime);
  const char *name = push_name(L, &declared->named);
  declared->function = uns_function_new(kind, name, native ? lua_tostring(L, 1) : NULL);
  if (declared->function == NULL) return luaL_error(L, "not enough memory");
  declared->name = uns_runtime_intern(runtime, L, name);
  declared->kind = declared->declared_kind = kind;
  read_options(L, declared->function);
  uns_declaration_take_options(declared);
  if (native) check_native(L, runtime, declared->function);
  if (declared->named) uns_place_declared(L, runtime, 3);
  return 3;
}

void uns_declaration_open(lua_State *L) {
  if (luaL_newmetatable(L, DECLARATION_TYPE)) {
    lua_pushcfunction(L, declaration_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_pop(L, 1);
}
