#include "bind/bind.h"

#include <math.h>

#include "bind/native.h"

void uns_bind_functions(lua_State *L, uns_runtime *runtime, const luaL_Reg *functions) {
  lua_pushlightuserdata(L, runtime);
  luaL_setfuncs(L, functions, 1);
}

void uns_bind_push_closure(lua_State *L, uns_runtime *runtime, lua_CFunction function, int second, int third) {
  second = lua_absindex(L, second);
  third = lua_absindex(L, third);
  lua_pushlightuserdata(L, runtime);
  lua_pushvalue(L, second);
  lua_pushvalue(L, third);
  lua_pushcclosure(L, function, 3);
}

uint64_t uns_check_seconds(lua_State *L, int index) {
  lua_Number seconds = luaL_checknumber(L, index);
  luaL_argcheck(L, !isnan(seconds), index, "seconds expected, got NaN");
  luaL_argcheck(L, seconds >= 0, index, "seconds must not be negative");
  const lua_Number century = 3e9; /* further away than that is never */
  if (seconds > century) seconds = century;
  return (uint64_t)ceil(seconds * 1e9);
}

uint64_t uns_opt_deadline(lua_State *L, int index) {
  if (lua_isnoneornil(L, index)) return 0;
  return uns_now_ns(uns_upvalue_runtime(L)) + uns_check_seconds(L, index);
}

uns_future *uns_check_future(lua_State *L, int index) {
  uns_future *future = uns_future_test(L, index);
  if (future == NULL) luaL_typeerror(L, index, UNS_FUTURE_TYPE);
  return future;
}

int uns_open_core(lua_State *L, uns_runtime *runtime) {
  lua_newtable(L);
  uns_bind_future(L, runtime);
  uns_bind_progress(L, runtime);
  uns_bind_cancel(L, runtime);
  uns_bind_loop(L, runtime);
  uns_bind_combine(L, runtime);
  uns_bind_collect(L, runtime);
  uns_bind_scope(L, runtime);
  uns_bind_variable(L, runtime);
  uns_bind_inspect(L, runtime);
  uns_bind_once(L, runtime);
  uns_bind_channel(L, runtime);
  uns_bind_select(L, runtime);
  uns_bind_gate(L, runtime);
  uns_bind_wrap(L, runtime);
  uns_bind_functions(L, runtime, (const luaL_Reg[]){{"plugin", uns_native_plugin}, {NULL, NULL}});
  return 1;
}
