/*
 * cancel: timeout and shield: a function called here, in a cancel scope of its own.
 *
 * The scope is left on every way out: the call is protected, and in a generator, which may be closed in the middle of it, the
 * scope is a to-be-closed userdata.
 */
#include "bind/bind.h"
#include "core/error.h"
#include "core/packet.h"
#include "loop/cancel.h"
#include "loop/failure.h"

#define SCOPE_TYPE "unsync.CancelScope"

static const char scope_mark = 0;

/* The userdata. */
typedef struct {
  const char *mark; /* &scope_mark */
  uns_timed_scope timed;
} scope_box;

static scope_box *test_box(lua_State *L) {
  scope_box *box = lua_touserdata(L, 1);
  return box != NULL && lua_rawlen(L, 1) == sizeof *box && box->mark == &scope_mark ? box : NULL;
}

/* Closed, or collected: it may never have been closed. */
static int scope_leave(lua_State *L) {
  scope_box *box = test_box(L);
  if (box != NULL) uns_cancel_scope_leave(uns_upvalue_runtime(L), &box->timed.scope);
  return 0;
}

uns_cancel_scope *uns_push_cancel_scope(lua_State *L) {
  scope_box *box = lua_newuserdatauv(L, sizeof *box, 0);
  box->mark = &scope_mark;
  uns_timed_scope_init(&box->timed);
  luaL_setmetatable(L, SCOPE_TYPE);
  return &box->timed.scope;
}

void uns_leave_cancel_scope(lua_State *L, uns_runtime *runtime, int index) {
  uns_cancel_scope_leave(runtime, &((scope_box *)lua_touserdata(L, index))->timed.scope);
}

/* Stack: the scope, if it is a userdata, and the handler; then what the function returned or raised. */
static int after_call(lua_State *L, int status, lua_KContext context) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  uns_cancel_scope *scope = (uns_cancel_scope *)context;
  bool timed_out = scope->timed_out;
  int below = scope->pooled ? 1 : 2;
  uns_cancel_scope_leave(runtime, scope);
  if (scope->pooled) uns_cancel_give_scope(runtime, scope);
  /* What was kept out comes now; an error only passes, and a deadline's stops to be a cancellation. */
  if (status == LUA_OK || status == LUA_YIELD) {
    uns_cancel_caught(runtime, L, uns_cancel_in_clean_up(runtime));
    return lua_gettop(L) - below;
  }
  if (timed_out && uns_error_is(L, -1, "cancelled")) {
    uns_cancel_push_timeout(L, NULL, uns_cancel_stopped_by(L, -1));
    uns_cancel_caught(runtime, L, false);
  }
  return lua_error(L);
}

/*
 * Calls the function at 2, its arguments above, in a scope of its own; what lies at 1 is lost. A generator may be closed or
 * dropped in the middle of it, so there the scope is a userdata. To make and to finalize that costs more than all else here, and
 * a task's own coroutine always comes back to its protected calls.
 */
static int call_in_scope(lua_State *L, uns_runtime *runtime, uint64_t deadline_ns, bool shield) {
  if (runtime->current == NULL) uns_task_check_can_wait(runtime, L);
  bool own = L == runtime->current->co;
  uns_cancel_scope *scope = own ? uns_cancel_take_scope(runtime) : uns_push_cancel_scope(L);
  if (scope == NULL) return luaL_error(L, "not enough memory");
  scope->shield = shield;
  if (!own) lua_replace(L, 1);
  if (uns_cancel_scope_enter(runtime, scope, deadline_ns) != UNS_OK) {
    if (own) uns_cancel_give_scope(runtime, scope);
    return luaL_error(L, "not enough memory");
  }
  if (!own) lua_toclose(L, 1);
  lua_pushcfunction(L, uns_failure_keep_traceback);
  if (own) lua_replace(L, 1);
  else lua_insert(L, 2);
  int handler = own ? 1 : 2;
  int status = lua_pcallk(L, lua_gettop(L) - handler - 1, LUA_MULTRET, handler, (lua_KContext)scope, after_call);
  return after_call(L, status, (lua_KContext)scope);
}

/* timeout(seconds, fn, ...) -> what fn returns; raises `timeout` */
static int core_timeout(lua_State *L) {
  uint64_t duration_ns = uns_check_seconds(L, 1);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  uns_runtime *runtime = uns_upvalue_runtime(L);
  return call_in_scope(L, runtime, uns_now_ns(runtime) + duration_ns, false);
}

/* shield(fn, ...) -> what fn returns: no cancellation from outside reaches the waits inside */
static int core_shield(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_pushnil(L);
  lua_insert(L, 1);
  return call_in_scope(L, uns_upvalue_runtime(L), 0, true);
}

static const luaL_Reg functions[] = {{"timeout", core_timeout}, {"shield", core_shield}, {NULL, NULL}};
static const luaL_Reg metamethods[] = {{"__close", scope_leave}, {"__gc", scope_leave}, {NULL, NULL}};

void uns_bind_cancel(lua_State *L, uns_runtime *runtime) {
  if (luaL_newmetatable(L, SCOPE_TYPE)) uns_bind_functions(L, runtime, metamethods);
  lua_pop(L, 1);
  uns_bind_functions(L, runtime, functions);
}
