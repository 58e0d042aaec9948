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

enum { KEPT_SCOPES_MAX = 64 };

static const char scope_mark = 0;

/*
 * The userdata. To make and to finalize one costs more than all else here, so some are kept for the next calls: of those made
 * by a task's own coroutine, which closes what it has entered. A generator may be dropped in the middle of it.
 */
typedef struct {
  const char *mark; /* &scope_mark */
  uns_timed_scope timed;
  uns_link link; /* in runtime->idle_scopes while nobody is in it */
  int pin;       /* of itself, as long as the state lives; 0: not kept */
} scope_box;

static scope_box *test_box(lua_State *L) {
  scope_box *box = lua_touserdata(L, 1);
  return box != NULL && lua_rawlen(L, 1) == sizeof *box && box->mark == &scope_mark ? box : NULL;
}

static int scope_close(lua_State *L) {
  scope_box *box = test_box(L);
  if (box == NULL) return 0;
  uns_runtime *runtime = uns_upvalue_runtime(L);
  uns_cancel_scope_leave(runtime, &box->timed.scope);
  if (box->pin != 0 && uns_list_empty(&box->link)) uns_list_push_front(&runtime->idle_scopes, &box->link);
  return 0;
}

/* Of one that is not kept: it may never have been closed. */
static int scope_collect(lua_State *L) {
  scope_box *box = test_box(L);
  if (box == NULL) return 0;
  uns_cancel_scope_leave(uns_upvalue_runtime(L), &box->timed.scope);
  return 0;
}

/* Stack: the scope, then what the function returned or raised. */
static int after_call(lua_State *L, int status, lua_KContext context) {
  uns_runtime *runtime = (uns_runtime *)context;
  uns_cancel_scope *scope = &((scope_box *)lua_touserdata(L, 1))->timed.scope;
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
  uns_cancel_scope *scope = &((scope_box *)lua_touserdata(L, 1))->timed.scope;
  if (runtime->current == NULL) uns_task_check_can_wait(runtime, L);
  if (uns_cancel_scope_enter(runtime, scope, deadline_ns) != UNS_OK) return luaL_error(L, "not enough memory");
  lua_toclose(L, 1);
  lua_pushcfunction(L, uns_failure_keep_traceback);
  lua_insert(L, 2);
  int status = lua_pcallk(L, lua_gettop(L) - 3, LUA_MULTRET, 2, (lua_KContext)runtime, after_call);
  return after_call(L, status, (lua_KContext)runtime);
}

static scope_box *push_box(lua_State *L) {
  scope_box *box = lua_newuserdatauv(L, sizeof *box, 0);
  box->mark = &scope_mark;
  box->pin = 0;
  uns_list_init(&box->link);
  uns_timed_scope_init(&box->timed);
  luaL_setmetatable(L, SCOPE_TYPE);
  return box;
}

uns_cancel_scope *uns_push_cancel_scope(lua_State *L) { return &push_box(L)->timed.scope; }

/* The same, a kept one if it may be. */
static uns_cancel_scope *push_scope(lua_State *L, uns_runtime *runtime) {
  if (runtime->current == NULL || runtime->current->co != L) return uns_push_cancel_scope(L);
  uns_link *link = uns_list_pop_front(&runtime->idle_scopes);
  if (link != NULL) {
    scope_box *kept = uns_container_of(link, scope_box, link);
    uns_runtime_push_pin(runtime, L, kept->pin);
    uns_timed_scope_init(&kept->timed);
    return &kept->timed.scope;
  }
  scope_box *box = push_box(L);
  if (runtime->kept_scope_count < KEPT_SCOPES_MAX) {
    lua_pushvalue(L, -1);
    box->pin = uns_runtime_pin(runtime, L);
    runtime->kept_scope_count++;
  }
  return &box->timed.scope;
}

void uns_leave_cancel_scope(lua_State *L, uns_runtime *runtime, int index) {
  uns_cancel_scope_leave(runtime, &((scope_box *)lua_touserdata(L, index))->timed.scope);
}

/* timeout(seconds, fn, ...) -> what fn returns; raises `timeout` */
static int core_timeout(lua_State *L) {
  uint64_t duration_ns = uns_check_seconds(L, 1);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  uns_runtime *runtime = uns_upvalue_runtime(L);
  push_scope(L, runtime);
  lua_replace(L, 1);
  return call_in_scope(L, runtime, uns_now_ns(runtime) + duration_ns);
}

/* shield(fn, ...) -> what fn returns: no cancellation from outside reaches the waits inside */
static int core_shield(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  uns_runtime *runtime = uns_upvalue_runtime(L);
  push_scope(L, runtime)->shield = true;
  lua_insert(L, 1);
  return call_in_scope(L, runtime, 0);
}

static const luaL_Reg functions[] = {{"timeout", core_timeout}, {"shield", core_shield}, {NULL, NULL}};
static const luaL_Reg metamethods[] = {{"__close", scope_close}, {"__gc", scope_collect}, {NULL, NULL}};

void uns_bind_cancel(lua_State *L, uns_runtime *runtime) {
  if (luaL_newmetatable(L, SCOPE_TYPE)) uns_bind_functions(L, runtime, metamethods);
  lua_pop(L, 1);
  uns_bind_functions(L, runtime, functions);
}
