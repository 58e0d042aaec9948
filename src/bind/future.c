/* future: the methods of a future, and how it crosses to another state. */
#include <string.h>

#include "bind/bind.h"
#include "core/codec.h"
#include "core/error.h"
#include "loop/cancel.h"
#include "loop/group.h"

static int future_await(lua_State *L) {
  const uns_future *future = uns_future_test(L, 1);
  if (future == NULL) return luaL_typeerror(L, 1, UNS_FUTURE_TYPE);
  uns_runtime *runtime = uns_upvalue_runtime(L);
  int count = lua_gettop(L);
  if (count == 1 && future->state == UNS_FUTURE_DONE && future->result_count <= 1 && --runtime->budget > 0) {
    if (future->result_count == 1) lua_getiuservalue(L, 1, 1); /* the way that matters: no wait, one result */
    return future->result_count;
  }
  uint64_t deadline_ns = count > 1 ? uns_opt_deadline(L, 2) : 0;
  return uns_task_await(runtime, L, 1, deadline_ns);
}

/* The future at 1, as it stands now, wherever it is settled. */
static uns_future *check_fresh(lua_State *L) {
  uns_future *future = uns_check_future(L, 1);
  uns_future_refresh(uns_upvalue_runtime(L), L, 1);
  return future;
}

static int future_done(lua_State *L) {
  lua_pushboolean(L, uns_future_settled(check_fresh(L)));
  return 1;
}

/* A call on a worker runs from the moment the worker says so. */
static const char *state_name(const uns_future *future) {
  if (future->state == UNS_FUTURE_PENDING && future->job != NULL &&
      atomic_load_explicit(&future->job->state, memory_order_relaxed) == UNS_JOB_STARTED) {
    return "running";
  }
  return uns_future_state_name(future);
}

static int future_status(lua_State *L) {
  lua_pushstring(L, state_name(check_fresh(L)));
  return 1;
}

static int future_cancelled(lua_State *L) {
  lua_pushboolean(L, check_fresh(L)->state == UNS_FUTURE_CANCELLED);
  return 1;
}

/* cancel([reason]) -> boolean: whether it had not settled */
static int future_cancel(lua_State *L) {
  uns_check_future(L, 1);
  lua_settop(L, 2);
  lua_pushboolean(L, uns_cancel(uns_upvalue_runtime(L), L, 1));
  return 1;
}

/* detach() -> itself: the root scope, which is the script, has it from now on */
static int future_detach(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  uns_future *future = uns_check_future(L, 1);
  if (runtime->is_worker || runtime->job != NULL)
    return uns_error_raise(L, "EINVAL", "cannot detach in a worker: its root is the call, which ends");
  uns_group_detach(runtime, future);
  lua_settop(L, 1);
  return 1;
}

static int after_close(lua_State *L, int status, lua_KContext context) {
  uns_runtime *runtime = (uns_runtime *)context;
  (void)status;
  uns_leave_cancel_scope(L, runtime, 2);
  uns_task_check_interrupt(runtime, L);
  return 0;
}

/* The end of the block that it was local to: cancels it and waits, shielded, until it has ended. */
static int future_close(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  if (uns_future_settled(check_fresh(L))) return 0;
  lua_settop(L, 1);
  lua_pushnil(L);
  uns_cancel(runtime, L, 1);
  if (uns_future_settled(lua_touserdata(L, 1))) return 0;
  uns_cancel_scope *scope = uns_push_cancel_scope(L);
  scope->shield = true;
  if (runtime->current != NULL) uns_cancel_scope_enter(runtime, scope, 0); /* without a deadline it cannot fail */
  return uns_task_wait_for(runtime, L, 1, (lua_KContext)runtime, after_close);
}

static int future_error(lua_State *L) {
  check_fresh(L);
  uns_future_push_error(uns_upvalue_runtime(L), L, 1);
  return 1;
}

static int future_traceback(lua_State *L) {
  check_fresh(L);
  uns_future_push_traceback(uns_upvalue_runtime(L), L, 1);
  return 1;
}

static int future_tostring(lua_State *L) {
  uns_future *future = check_fresh(L);
  const char *name = future->name != NULL ? future->name : "";
  lua_pushfstring(L, "future: %s%s%s %s", uns_future_kind_name(future), *name != '\0' ? " " : "", name,
                  state_name(future));
  if (!uns_future_settled(future) && future->since_ns != 0) {
    lua_Number age = (lua_Number)(uns_now_ns(uns_upvalue_runtime(L)) - future->since_ns) / 1e9;
    lua_pushfstring(L, " %d.%d%d s", (int)age, (int)(age * 10) % 10, (int)(age * 100) % 10);
    lua_concat(L, 2);
  }
  return 1;
}

/* ---- promises ---- */

static uns_future *check_promise(lua_State *L) {
  uns_future *future = uns_check_future(L, 1);
  if (!future->resolvable) luaL_argerror(L, 1, "a promise expected: this future is settled by its task");
  return future;
}

/* Others may settle it at this moment: the cell says who was first. */
static int settle_shared(lua_State *L, bool failed, int count) {
  static const uns_codec_names names = {"argument", 1, false};
  uns_packet packet;
  uns_packet_init(&packet);
  if (uns_codec_encode(L, 2, count, &names, &packet) != UNS_OK) return lua_error(L);
  uns_cell_state state = failed ? UNS_CELL_FAILED : UNS_CELL_DONE;
  lua_pushboolean(L, uns_future_settle_shared(uns_upvalue_runtime(L), L, 1, state, &packet));
  return 1;
}

static int promise_resolve(lua_State *L) {
  uns_future *future = check_promise(L);
  if (future->cell != NULL) return settle_shared(L, false, lua_gettop(L) - 1);
  lua_pushboolean(L, uns_future_resolve(uns_upvalue_runtime(L), L, 1, lua_gettop(L) - 1));
  return 1;
}

static int promise_reject(lua_State *L) {
  uns_future *future = check_promise(L);
  lua_settop(L, 2);
  lua_pushnil(L);
  if (future->cell != NULL) return settle_shared(L, true, 2);
  lua_pushboolean(L, uns_future_fail(uns_upvalue_runtime(L), L, 1, UNS_FUTURE_FAILED));
  return 1;
}

/* promise() -> Future */
static int core_promise(lua_State *L) {
  uns_future_push(uns_upvalue_runtime(L), L, UNS_KIND_PROMISE, NULL)->resolvable = true;
  return 1;
}

/* resolved(...) -> Future */
static int core_resolved(lua_State *L) {
  uns_future_push(uns_upvalue_runtime(L), L, UNS_KIND_PROMISE, NULL);
  lua_insert(L, 1);
  uns_future_resolve(uns_upvalue_runtime(L), L, 1, lua_gettop(L) - 1);
  return 1;
}

/* rejected(err) -> Future */
static int core_rejected(lua_State *L) {
  lua_settop(L, 1);
  uns_future_push(uns_upvalue_runtime(L), L, UNS_KIND_PROMISE, NULL);
  lua_insert(L, 1);
  lua_pushnil(L);
  uns_future_fail(uns_upvalue_runtime(L), L, 1, UNS_FUTURE_FAILED);
  return 1;
}

static int core_is_future(lua_State *L) {
  luaL_checkany(L, 1);
  lua_pushboolean(L, uns_future_test(L, 1) != NULL);
  return 1;
}

/* observe(future): somebody passes its failure on, so it is not reported */
static int core_observe(lua_State *L) {
  uns_check_future(L, 1);
  uns_future_observe(uns_upvalue_runtime(L), L, 1);
  return 0;
}

/* ---- crossing: the cell, and whether the receiver may settle it ---- */

static int cross_encode(lua_State *L, int index) {
  uns_runtime *runtime = uns_runtime_of(L);
  uns_future *future = lua_touserdata(L, index);
  uns_cell *cell = uns_future_share(runtime, L, index);
  if (cell == NULL) return luaL_error(L, "not enough memory");
  lua_pushnil(L); /* for the reference, which is taken when nothing can raise any more */
  lua_pushboolean(L, future->resolvable);
  lua_pushinteger(L, future->kind);
  if (future->name != NULL) lua_pushstring(L, future->name);
  else lua_pushnil(L);
  lua_pushlightuserdata(L, uns_shared_ref(&cell->base));
  lua_replace(L, -5);
  return 4;
}

static int cross_create(lua_State *L, uns_shared *shared) {
  if (shared == NULL || shared->class->kind != UNS_SHARED_CELL) return -1;
  uns_future_push_shared(uns_runtime_of(L), L, uns_container_of(shared, uns_cell, base));
  return 0;
}

static int cross_fill(lua_State *L, int object, int count) {
  uns_future *future = lua_touserdata(L, object);
  lua_Integer kind = count == 4 ? lua_tointeger(L, -2) : -1;
  if (future == NULL || kind < 0 || kind > UNS_KIND_PROMISE) return -1;
  if (future->foreign) {
    future->resolvable = lua_toboolean(L, -3);
    future->kind = (uint8_t)kind;
    if (lua_type(L, -1) == LUA_TSTRING) future->name = uns_runtime_intern(uns_runtime_of(L), L, lua_tostring(L, -1));
  }
  lua_pop(L, count);
  return 0;
}

static const uns_codec_class cross = {UNS_FUTURE_TYPE, cross_encode, cross_create, cross_fill};

/* The continuations are written in Lua, and are loaded when the first is looked for: (methods, name) */
static int load_continuations(lua_State *L) {
  lua_pushnil(L);
  lua_setmetatable(L, 1);
  lua_getglobal(L, "require");
  lua_pushliteral(L, "unsync.continue");
  lua_call(L, 1, 0);
  lua_settop(L, 2);
  lua_rawget(L, 1);
  return 1;
}

static const luaL_Reg methods[] = {
    {"await", future_await},         {"result", future_await},        {"done", future_done},
    {"status", future_status},       {"cancelled", future_cancelled}, {"error", future_error},
    {"traceback", future_traceback}, {"resolve", promise_resolve},    {"reject", promise_reject},
    {"cancel", future_cancel},       {"detach", future_detach},       {NULL, NULL}};
static const luaL_Reg metamethods[] = {{"__tostring", future_tostring}, {"__close", future_close}, {NULL, NULL}};
static const luaL_Reg functions[] = {{"promise", core_promise},   {"resolved", core_resolved},
                                     {"rejected", core_rejected}, {"is_future", core_is_future},
                                     {"observe", core_observe},   {NULL, NULL}};

void uns_bind_future(lua_State *L, uns_runtime *runtime) {
  uns_bind_functions(L, runtime, functions);
  luaL_getmetatable(L, UNS_FUTURE_TYPE);
  uns_codec_register(L, -1, &cross);
  uns_bind_functions(L, runtime, metamethods);
  lua_newtable(L);
  uns_bind_functions(L, runtime, methods);
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, load_continuations);
  lua_setfield(L, -2, "__index");
  lua_setmetatable(L, -2);
  lua_pushvalue(L, -1);
  lua_setfield(L, -3, "__index");
  lua_setfield(L, -3, "Future"); /* the methods: what needs no C is added in Lua */
  lua_pop(L, 1);
}
