/*
 * cancel: the request that a task stop, and how it reaches the task: as an error at the wait in which it stands, and at
 * every further wait, so that a pcall cannot swallow it for good.
 *
 *   - One rule for races: what a wait was given is delivered; a cancellation of the same moment shows at the next wait.
 *   - What a cancelled task awaits is cancelled with it, unless somebody else awaits that too.
 */
#include "loop/cancel.h"

#include <lauxlib.h>

#include "core/error.h"

static void push_name(lua_State *L, const uns_future *future) {
  if (future != NULL && future->name != NULL) lua_pushstring(L, future->name);
  else lua_pushfstring(L, "%s", future != NULL ? uns_future_kind_name(future) : "task");
}

void uns_cancel_push_error(lua_State *L, const uns_future *future, const char *stopped_by) {
  int reason = lua_gettop(L);
  luaL_checkstack(L, 6, NULL);
  push_name(L, future);
  const char *text = lua_type(L, reason) == LUA_TSTRING ? lua_tostring(L, reason) : NULL;
  uns_error_push(L, "cancelled", text != NULL ? "%s was cancelled: %s" : "%s was cancelled", lua_tostring(L, -1), text);
  lua_insert(L, -2);
  lua_setfield(L, -2, "task");
  lua_pushvalue(L, reason);
  lua_setfield(L, -2, "reason");
  lua_pushstring(L, stopped_by);
  lua_setfield(L, -2, "stopped_by");
  lua_replace(L, reason);
}

int uns_cancel_raise(uns_runtime *runtime, lua_State *L) {
  uns_task *task = runtime->current;
  if (task->cancel_reason != 0) uns_runtime_push_pin(runtime, L, task->cancel_reason);
  else lua_pushnil(L);
  uns_cancel_push_error(L, task->future, "await");
  return lua_error(L);
}

/* What a parked task waits for goes with it, if nobody else waits for that. A promise is its holder's. */
static void cancel_awaited(uns_runtime *runtime, uns_task *task) {
  uns_future *awaited = task->awaited;
  if (awaited == NULL || awaited->resolvable) return;
  bool alone = awaited->waiters.next == &task->waiter.link && awaited->waiters.prev == &task->waiter.link;
  if (alone) uns_cancel_work(runtime, awaited);
}

static void cancel_task(uns_runtime *runtime, uns_task *task) {
  if (task->cancelled) return;
  task->cancelled = true; /* every wait to come sees it; one that has not begun never does */
  if (task->state != UNS_TASK_PARKED) return;
  cancel_awaited(runtime, task);
  task->interrupt = UNS_INTERRUPT_CANCEL;
  uns_task_wake(runtime, task);
}

bool uns_cancel_work(uns_runtime *runtime, uns_future *future) {
  if (uns_future_settled(future)) return false;
  if (future->task != NULL) {
    cancel_task(runtime, future->task);
    return true;
  }
  if (future->job != NULL) {
    if (runtime->cancel_job != NULL) runtime->cancel_job(runtime, future->job);
    return true;
  }
  return false;
}

bool uns_cancel(uns_runtime *runtime, lua_State *L, int index) {
  uns_future *future = lua_touserdata(L, index);
  if (uns_future_settled(future)) {
    lua_pop(L, 1);
    return false;
  }
  uns_task *task = future->task;
  if (task != NULL && !task->cancelled && !lua_isnil(L, -1)) task->cancel_reason = uns_runtime_pin(runtime, L);
  else if (future->task != NULL || future->job != NULL) lua_pop(L, 1);
  if (future->task != NULL || future->job != NULL) return uns_cancel_work(runtime, future);
  if (future->foreign) { /* its owner alone can */
    lua_pop(L, 1);
    return false;
  }
  uns_cancel_push_error(L, future, "await");
  lua_pushnil(L);
  return uns_future_fail(runtime, L, index, UNS_FUTURE_CANCELLED);
}
