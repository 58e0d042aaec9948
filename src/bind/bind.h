/*
 * bind: Lua's doors to the rooms below: check the arguments, call the room, push. Rules live in the rooms.
 *
 * Every C function here gets the runtime of its state as its first upvalue, a light userdata.
 * This is the one list of binding modules.
 */
#ifndef UNS_BIND_H
#define UNS_BIND_H

#include <lauxlib.h>
#include <lua.h>

#include "loop/future.h"
#include "loop/task.h"

static inline uns_runtime *uns_upvalue_runtime(lua_State *L) { return lua_touserdata(L, lua_upvalueindex(1)); }

/* Sets `functions` in the table on top, each with the runtime as its upvalue. */
void uns_bind_functions(lua_State *L, uns_runtime *runtime, const luaL_Reg *functions);
/* Pushes `function` as a closure over the runtime and the values at `second` and `third`. */
void uns_bind_push_closure(lua_State *L, uns_runtime *runtime, lua_CFunction function, int second, int third);

/* The number of seconds at `index` as nanoseconds: raises for what is no number, NaN or negative; huge is capped. */
uint64_t uns_check_seconds(lua_State *L, int index);
/* The same as a deadline on uns_now_ns; never 0. Absent or nil: 0, none. */
uint64_t uns_opt_deadline(lua_State *L, int index);
/* The future at `index`; raises for anything else. */
uns_future *uns_check_future(lua_State *L, int index);

/* Pushes a cancel scope that nobody is in; it is left when it is collected or closed. */
struct uns_cancel_scope *uns_push_cancel_scope(lua_State *L);
/* Leaves the one at `index`. */
void uns_leave_cancel_scope(lua_State *L, uns_runtime *runtime, int index);

/* Each fills in its part of the core table on top of the stack. */
void uns_bind_future(lua_State *L, uns_runtime *runtime);
void uns_bind_loop(lua_State *L, uns_runtime *runtime);
void uns_bind_combine(lua_State *L, uns_runtime *runtime);
void uns_bind_collect(lua_State *L, uns_runtime *runtime);
void uns_bind_scope(lua_State *L, uns_runtime *runtime);
void uns_bind_variable(lua_State *L, uns_runtime *runtime);
void uns_bind_inspect(lua_State *L, uns_runtime *runtime);
void uns_bind_progress(lua_State *L, uns_runtime *runtime);
void uns_bind_cancel(lua_State *L, uns_runtime *runtime);
void uns_bind_once(lua_State *L, uns_runtime *runtime);
void uns_bind_channel(lua_State *L, uns_runtime *runtime);
void uns_bind_select(lua_State *L, uns_runtime *runtime);
void uns_bind_gate(lua_State *L, uns_runtime *runtime);
void uns_bind_wrap(lua_State *L, uns_runtime *runtime);

/* Opens "unsync.core" for `runtime`: leaves the table on the stack. May raise. */
int uns_open_core(lua_State *L, uns_runtime *runtime);

#endif
