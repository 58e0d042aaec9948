/* loop: time and turns: now, sleep, yield. */
#include "bind/bind.h"
#include "core/packet.h"
#include "loop/failure.h"

/* now() -> number: seconds on the monotonic clock, or on the test clock */
static int loop_now(lua_State *L) {
  lua_pushnumber(L, (lua_Number)uns_now_ns(uns_upvalue_runtime(L)) / 1e9);
  return 1;
}

static int after_wait(lua_State *L, int status, lua_KContext context) {
  (void)status;
  uns_task_check_interrupt((uns_runtime *)context, L);
  return 0;
}

/* sleep(seconds): 0 gives up the turn */
static int loop_sleep(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  uint64_t duration_ns = uns_check_seconds(L, 1);
  uns_task *task = uns_task_check_can_pause(runtime, L);
  if (uns_timer_arm(runtime, &task->timer, uns_now_ns(runtime) + duration_ns) != UNS_OK) {
    return luaL_error(L, "not enough memory");
  }
  task->waits_for = UNS_WAITS_SLEEP;
  return uns_task_park(runtime, L, (lua_KContext)runtime, after_wait);
}

/* yield(): lets every task that is ready run first */
static int loop_yield(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  uns_task *task = uns_task_check_can_pause(runtime, L);
  task->gave_way = runtime->shuffle != 0;
  uns_task_ready(runtime, task);
  return uns_task_park(runtime, L, (lua_KContext)runtime, after_wait);
}

/*
 * finish(_, error): the public table's __close. In a state whose main thread runs the script (stock lua5.4) it waits for
 * all that was started, as the host does at the end of a script, and raises where the host would end with an exit code.
 * Anywhere else somebody waits already.
 */
static int loop_finish(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  if (runtime->current == NULL || !runtime->current->is_main || L != runtime->L) return 0;
  if (!lua_isnoneornil(L, 2)) return 0; /* the script has failed: nobody can want the rest any more */
  int reported = runtime->unobserved;
  uns_task_finish_on_main(runtime);
  int count = uns_failure_report_all(runtime) - reported;
  if (count == 0) return 0;
  lua_pushfstring(L, count == 1 ? "%d failure that nobody looked at" : "%d failures that nobody looked at", count);
  return lua_error(L);
}

static const luaL_Reg functions[] = {
    {"now", loop_now}, {"sleep", loop_sleep}, {"yield", loop_yield}, {"finish", loop_finish}, {NULL, NULL}};

void uns_bind_loop(lua_State *L, uns_runtime *runtime) { uns_bind_functions(L, runtime, functions); }
