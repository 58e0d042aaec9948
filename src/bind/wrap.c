/*
 * wrap: io, thread, cpu: the callable, and which way its calls go.
 *
 * A wrapped function is a C closure over the runtime, the function (or a native task's name) and its declaration, a
 * userdata. The function proper decides nothing: how it runs was decided where it was wrapped.
 * Declaring: declaration.c. Calls that leave the state: send.c. io with a limit: limit.c. What a declaration with a name is
 * placed by: place.c.
 */
#include "bind/wrap.h"

#include "bind/bind.h"
#include "bind/declaration.h"
#include "bind/inline.h"
#include "bind/limit.h"
#include "bind/place.h"
#include "bind/send.h"
#include "core/codec.h"
#include "loop/cancel.h"
#include "loop/group.h"

enum { UPVALUE_RUNTIME = 1, UPVALUE_BODY, UPVALUE_DECLARATION };

/* ---- calling ---- */

/* It is placed on io, or a test wants calls of this kind here: copies and all. A native task has no place on the loop. */
static bool stays_here(const uns_runtime *runtime, const uns_declaration *declared) {
  if (declared->here) return true;
  return (runtime->inline_kinds >> declared->kind & 1) != 0 && declared->function->native == NULL;
}

/* What every wrapped function is. */
static int wrapped_call(lua_State *L) {
  const uns_declaration *declared = lua_touserdata(L, lua_upvalueindex(UPVALUE_DECLARATION));
  uns_runtime *runtime = declared->runtime;
  int count = lua_gettop(L);
  lua_pushvalue(L, lua_upvalueindex(UPVALUE_BODY));
  if (declared->plain) {
    uns_task_call(runtime, L, count, declared->name, false);
    uns_group_adopt(runtime, L);
    return 1;
  }
  if (declared->kind != UNS_KIND_IO && !stays_here(runtime, declared)) return uns_send_call(L, runtime, declared);
  if (declared->kind != UNS_KIND_IO) count = uns_inline_call(L, runtime);
  uint64_t timeout_ns = declared->timeout_ns, called_ns = timeout_ns > 0 ? uns_now_ns(runtime) : 0;
  uns_future *future = declared->limited ? uns_limit_start(L, runtime, declared, count)
                                         : uns_task_call(runtime, L, count, declared->name, false);
  if (timeout_ns > 0 && uns_cancel_set_deadline(runtime, future, called_ns + timeout_ns) != UNS_OK) {
    return luaL_error(L, "not enough memory");
  }
  if (declared->function->grace_ns > 0 && future->task != NULL) {
    uns_task_extra *extra = uns_task_extra_of(future->task);
    if (extra == NULL) return luaL_error(L, "not enough memory");
    extra->grace_ns = declared->function->grace_ns;
  }
  uns_group_adopt(runtime, L);
  return 1;
}

static int declare(lua_State *L, uns_kind kind) {
  int declared = uns_declare(L, kind);
  uns_bind_push_closure(L, uns_upvalue_runtime(L), wrapped_call, 1, declared);
  return 1;
}

static int core_io(lua_State *L) { return declare(L, UNS_KIND_IO); }
static int core_thread(lua_State *L) { return declare(L, UNS_KIND_THREAD); }
static int core_cpu(lua_State *L) { return declare(L, UNS_KIND_CPU); }

bool uns_is_wrapped(lua_State *L, int index) { return lua_tocfunction(L, index) == wrapped_call; }

const char *uns_wrapped_kind(lua_State *L, int index) {
  static const char *const kinds[] = {"io", "thread", "cpu"};
  if (!uns_is_wrapped(L, index)) return NULL;
  lua_getupvalue(L, index, UPVALUE_DECLARATION);
  const uns_declaration *declared = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return kinds[declared->here ? UNS_KIND_IO : declared->kind];
}

bool uns_wrapped_describe(lua_State *L, int index, uns_kind *kind, const char **name) {
  if (!uns_is_wrapped(L, index)) return false;
  lua_getupvalue(L, index, UPVALUE_DECLARATION);
  const uns_declaration *declared = lua_touserdata(L, -1);
  lua_pop(L, 1);
  *kind = stays_here(declared->runtime, declared) ? UNS_KIND_IO : declared->kind;
  *name = declared->name;
  return true;
}

/* spawn(fn, ...) -> Future: of a wrapped function, simply a call */
int uns_wrap_spawn(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  int count = lua_gettop(L) - 1;
  if (uns_is_wrapped(L, 1)) {
    lua_call(L, count, 1);
    return 1;
  }
  uns_runtime *runtime = uns_upvalue_runtime(L);
  uns_task_start(runtime, L, count, NULL);
  uns_group_adopt(runtime, L);
  return 1;
}

/* ---- crossing: a wrapped function is its declaration and its body ---- */

enum { PARTS = 10 }; /* the body last */

static int cross_encode(lua_State *L, int index) {
  if (lua_getupvalue(L, index, UPVALUE_DECLARATION) == NULL) return -1;
  const uns_declaration *declared = lua_touserdata(L, -1);
  const uns_function *function = declared->function;
  lua_pop(L, 1);
  lua_pushinteger(L, declared->declared_kind);
  lua_pushstring(L, function->name);
  lua_pushinteger(L, (lua_Integer)function->timeout_ns);
  lua_pushinteger(L, (lua_Integer)function->run_timeout_ns);
  lua_pushinteger(L, (lua_Integer)function->grace_ns);
  lua_pushinteger(L, function->limit);
  lua_pushboolean(L, function->fresh);
  if (function->native != NULL) lua_pushstring(L, function->native);
  else lua_pushnil(L);
  lua_pushboolean(L, declared->named);
  lua_getupvalue(L, index, UPVALUE_BODY);
  return PARTS;
}

/* The parts may refer back to it: a recursive function is its own upvalue. */
static int cross_create(lua_State *L, uns_shared *shared) {
  (void)shared;
  uns_runtime *runtime = uns_runtime_of(L);
  lua_pushnil(L);
  uns_declaration_push(L, runtime);
  uns_bind_push_closure(L, runtime, wrapped_call, -2, -1);
  lua_replace(L, -3);
  lua_pop(L, 1);
  return 0;
}

static int cross_fill(lua_State *L, int object, int count) {
  if (count != PARTS) return -1;
  int part = lua_gettop(L) - count + 1;
  lua_Integer kind = lua_tointeger(L, part);
  const char *name = lua_tostring(L, part + 1), *native = lua_tostring(L, part + 7);
  if (kind < UNS_KIND_IO || kind > UNS_KIND_CPU || name == NULL) return -1;
  if (native == NULL ? !lua_isfunction(L, part + 9) : !lua_isstring(L, part + 9)) return -1;
  if (lua_getupvalue(L, object, UPVALUE_DECLARATION) == NULL) return -1;
  uns_declaration *declared = lua_touserdata(L, -1);
  lua_pop(L, 1);
  uns_function *function = uns_function_new((uns_kind)kind, name, native);
  if (function == NULL) return luaL_error(L, "not enough memory");
  uns_shared_unref(declared->function);
  declared->function = function;
  declared->kind = declared->declared_kind = (uns_kind)kind;
  declared->named = lua_toboolean(L, part + 8);
  declared->name = uns_runtime_intern(uns_runtime_of(L), L, name);
  function->timeout_ns = (uint64_t)lua_tointeger(L, part + 2);
  function->run_timeout_ns = (uint64_t)lua_tointeger(L, part + 3);
  function->grace_ns = (uint64_t)lua_tointeger(L, part + 4);
  function->limit = (uint32_t)lua_tointeger(L, part + 5);
  function->fresh = lua_toboolean(L, part + 6);
  uns_declaration_take_options(declared);
  lua_setupvalue(L, object, UPVALUE_BODY); /* pops the last part */
  lua_settop(L, part - 1);
  if (declared->named) {
    lua_getupvalue(L, object, UPVALUE_DECLARATION);
    uns_place_declared(L, declared->runtime, -1);
    lua_pop(L, 1);
  }
  return 0;
}

static const uns_codec_class cross = {"unsync.wrapped", cross_encode, cross_create, cross_fill};

static const luaL_Reg functions[] = {{"io", core_io},           {"thread", core_thread}, {"cpu", core_cpu},
                                     {"spawn", uns_wrap_spawn}, {"place", uns_place},    {NULL, NULL}};

void uns_bind_wrap(lua_State *L, uns_runtime *runtime) {
  uns_declaration_open(L);
  uns_codec_register_function(L, wrapped_call, &cross);
  uns_send_open(runtime);
  uns_limit_open(runtime);
  runtime->follow_placement = uns_place_follow;
  uns_bind_functions(L, runtime, functions);
}
