/* loop: time and turns: now, sleep, yield. */
#include "bind/bind.h"
#include "core/error.h"
#include "core/packet.h"

/* now() -> number: seconds on the monotonic clock */
static int loop_now(lua_State *L) {
  lua_pushnumber(L, (lua_Number)uns_clock_ns() / 1e9);
  return 1;
}

static int after_wait(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  uns_task_check_interrupt(uns_upvalue_runtime(L), L);
  return 0;
}

/* sleep(seconds): 0 gives up the turn */
static int loop_sleep(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  uint64_t duration_ns = uns_check_seconds(L, 1);
  uns_task *task = uns_task_check_can_wait(runtime, L);
  if (uns_timer_arm(runtime, &task->timer, uns_clock_ns() + duration_ns) != UNS_OK) {
    return luaL_error(L, "not enough memory");
  }
  task->waits_for = "sleep";
  return uns_task_park(runtime, L, 0, after_wait);
}

/* yield(): lets every task that is ready run first */
static int loop_yield(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  uns_task_ready(runtime, uns_task_check_can_wait(runtime, L));
  return uns_task_park(runtime, L, 0, after_wait);
}

static const luaL_Reg functions[] = {
    {"now", loop_now}, {"sleep", loop_sleep}, {"yield", loop_yield}, {NULL, NULL}};

void uns_bind_loop(lua_State *L, uns_runtime *runtime) { uns_bind_functions(L, runtime, functions); }
