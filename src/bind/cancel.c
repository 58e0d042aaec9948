/*
 * cancel: timeout and shield: a function called here, in a cancel scope of its own.
 *
 * The scope is a to-be-closed userdata, so that it is left on every way out, the closing of a generator included.
 */
#include "bind/bind.h"
#include "core/error.h"
#include "core/packet.h"
#include "loop/cancel.h"
#include "loop/failure.h"

#define SCOPE_TYPE "unsync.CancelScope"

static int scope_leave(lua_State *L) {
  uns_cancel_scope *scope = luaL_testudata(L, 1, SCOPE_TYPE);
  if (scope != NULL) uns_cancel_scope_leave(uns_upvalue_runtime(L), scope);
  return 0;
}

/* Stack: the scope, then what the function returned or raised. */
static int after_call(lua_State *L, int status, lua_KContext context) {
  uns_runtime *runtime = (uns_runtime *)context;
  uns_cancel_scope *scope = lua_touserdata(L, 1);
  uns_cancel_scope_leave(runtime, scope);
  bool fine = status == LUA_OK || status == LUA_YIELD;
  bool timed_out = !fine && scope->timed_out && uns_error_is(L, -1, "cancelled");
  /* What was kept out comes now; an error only passes, and a deadline's stops to be a cancellation. */
  if (fine) uns_cancel_caught(runtime, L, uns_cancel_in_clean_up(runtime));
  if (fine) return lua_gettop(L) - 2;
  if (timed_out) {
    uns_cancel_push_timeout(L, NULL, "await");
    uns_cancel_caught(runtime, L, false);
  }
  return lua_error(L);
}

/* Calls the function at 2 (its arguments above) in the scope at 1. */
static int call_in_scope(lua_State *L, uns_runtime *runtime, uint64_t deadline_ns) {
  uns_cancel_scope *scope = lua_touserdata(L, 1);
  if (runtime->current == NULL) uns_task_check_can_wait(runtime, L);
  if (uns_cancel_scope_enter(runtime, scope, deadline_ns) != UNS_OK) return luaL_error(L, "not enough memory");
  lua_toclose(L, 1);
  lua_pushcfunction(L, uns_failure_keep_traceback);
  lua_insert(L, 2);
  int status = lua_pcallk(L, lua_gettop(L) - 3, LUA_MULTRET, 2, (lua_KContext)runtime, after_call);
  return after_call(L, status, (lua_KContext)runtime);
}

uns_cancel_scope *uns_push_cancel_scope(lua_State *L) {
  uns_cancel_scope *scope = lua_newuserdatauv(L, sizeof *scope, 0);
  uns_cancel_scope_init(scope);
  luaL_setmetatable(L, SCOPE_TYPE);
  return scope;
}

/* timeout(seconds, fn, ...) -> what fn returns; raises `timeout` */
static int core_timeout(lua_State *L) {
  uint64_t duration_ns = uns_check_seconds(L, 1);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  uns_push_cancel_scope(L);
  lua_replace(L, 1);
  return call_in_scope(L, uns_upvalue_runtime(L), uns_now_ns(uns_upvalue_runtime(L)) + duration_ns);
}

/* shield(fn, ...) -> what fn returns: no cancellation from outside reaches the waits inside */
static int core_shield(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  uns_push_cancel_scope(L)->shield = true;
  lua_insert(L, 1);
  return call_in_scope(L, uns_upvalue_runtime(L), 0);
}

static const luaL_Reg functions[] = {{"timeout", core_timeout}, {"shield", core_shield}, {NULL, NULL}};
static const luaL_Reg metamethods[] = {{"__close", scope_leave}, {"__gc", scope_leave}, {NULL, NULL}};

void uns_bind_cancel(lua_State *L, uns_runtime *runtime) {
  if (luaL_newmetatable(L, SCOPE_TYPE)) uns_bind_functions(L, runtime, metamethods);
  lua_pop(L, 1);
  uns_bind_functions(L, runtime, functions);
}
