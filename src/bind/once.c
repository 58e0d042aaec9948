/*
 * once: a function that makes its value at the first call in each state and keeps it there: a connection, a cache.
 *
 * It crosses by an identity, so that every copy of it in one state finds the one value. The value is a future of the
 * first call: whoever comes meanwhile waits for the same one; a failure is forgotten, so that the next call tries again.
 */
#include <stdatomic.h>
#include <unistd.h>

#include "bind/bind.h"
#include "core/codec.h"
#include "loop/group.h"

enum { UPVALUE_RUNTIME = 1, UPVALUE_MAKER, UPVALUE_IDENTITY };

static const char values_key = 0; /* registry: identity -> future */

/* start(fn) -> Future */
static int start(lua_State *L) {
  uns_task_start(uns_runtime_of(L), L, 0, "once");
  return 1;
}

static int once_call(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  lua_settop(L, 0); /* the value is the same for every caller: arguments could not be */
  lua_rawgetp(L, LUA_REGISTRYINDEX, &values_key);
  lua_pushvalue(L, lua_upvalueindex(UPVALUE_IDENTITY));
  lua_rawget(L, 1);
  uns_future *made = uns_future_test(L, 2);
  if (made == NULL || (uns_future_settled(made) && made->state != UNS_FUTURE_DONE)) {
    lua_settop(L, 1);
    lua_pushvalue(L, lua_upvalueindex(UPVALUE_MAKER));
    uns_task *task = runtime->current;
    uns_group *group = task != NULL ? task->group : NULL;
    lua_pushcfunction(L, start);
    lua_insert(L, 2);
    if (task != NULL) task->group = NULL; /* it is everybody's, not this scope's; it does not wait here */
    int status = lua_pcall(L, 1, 1, 0);
    if (task != NULL) task->group = group;
    if (status != LUA_OK) return lua_error(L);
    lua_pushvalue(L, lua_upvalueindex(UPVALUE_IDENTITY));
    lua_pushvalue(L, 2);
    lua_rawset(L, 1);
  }
  return uns_task_await(runtime, L, 2, 0);
}

/* once(fn) -> function() */
static int core_once(lua_State *L) {
  static atomic_ulong made;
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_pushfstring(L, "%d:%p:%d", (int)getpid(), (void *)L, (int)atomic_fetch_add(&made, 1));
  uns_bind_push_closure(L, uns_upvalue_runtime(L), once_call, 1, -1);
  return 1;
}

static int cross_encode(lua_State *L, int index) {
  lua_getupvalue(L, index, UPVALUE_IDENTITY);
  lua_getupvalue(L, index, UPVALUE_MAKER);
  return 2;
}

static int cross_create(lua_State *L, uns_shared *shared) {
  (void)shared;
  lua_pushnil(L);
  uns_bind_push_closure(L, uns_runtime_of(L), once_call, -1, -1);
  lua_remove(L, -2);
  return 0;
}

static int cross_fill(lua_State *L, int object, int count) {
  if (count != 2 || lua_type(L, -2) != LUA_TSTRING || !lua_isfunction(L, -1)) return -1;
  lua_setupvalue(L, object, UPVALUE_MAKER);
  lua_setupvalue(L, object, UPVALUE_IDENTITY);
  return 0;
}

static const uns_codec_class cross = {"unsync.once", cross_encode, cross_create, cross_fill};
static const luaL_Reg functions[] = {{"once", core_once}, {NULL, NULL}};

void uns_bind_once(lua_State *L, uns_runtime *runtime) {
  lua_newtable(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &values_key);
  uns_codec_register_function(L, once_call, &cross);
  uns_bind_functions(L, runtime, functions);
}
