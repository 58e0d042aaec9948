/*
 * testing: the doors to the test clock, to the dice, and to calls that stay here.
 *
 * What a spec does with them: lua/unsync/testing.lua. What a test has left behind: leaks.c.
 */
#include "bind/testing.h"

#include "bind/bind.h"
#include "core/packet.h"
#include "loop/test_clock.h"

static uns_test_clock *stopped_clock(const uns_runtime *runtime) {
  return runtime->test_clock != NULL && runtime->test_clock->stopped ? runtime->test_clock : NULL;
}

/* stop(autojump) -> a number for `run`: the state's time stands still */
static int clock_stop(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  if (stopped_clock(runtime) != NULL) return luaL_error(L, "there is a test clock already, which has not been closed");
  if (uns_test_clock_stop(runtime, lua_toboolean(L, 1)) != UNS_OK) return luaL_error(L, "not enough memory");
  lua_pushinteger(L, runtime->test_clock->number);
  return 1;
}

/* run([number]): it goes on by itself, if it was stopped last by the `stop` that gave that number */
static int clock_run(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  const uns_test_clock *clock = stopped_clock(runtime);
  if (clock != NULL && luaL_optinteger(L, 1, clock->number) == clock->number) uns_test_clock_run(runtime);
  return 0;
}

/* stopped() -> boolean */
static int clock_stopped(lua_State *L) {
  lua_pushboolean(L, stopped_clock(uns_upvalue_runtime(L)) != NULL);
  return 1;
}

/* elapsed() -> seconds since it was stopped, to the microsecond: what is below that is noise of binary fractions */
static int clock_elapsed(lua_State *L) {
  const uns_test_clock *clock = stopped_clock(uns_upvalue_runtime(L));
  uint64_t passed_us = clock != NULL ? (clock->now_ns - clock->start_ns + 500) / 1000 : 0;
  lua_pushnumber(L, (lua_Number)passed_us / 1e6);
  return 1;
}

/* autojump([boolean]) -> what it was */
static int clock_autojump(lua_State *L) {
  uns_test_clock *clock = stopped_clock(uns_upvalue_runtime(L));
  lua_pushboolean(L, clock != NULL && clock->autojump);
  if (clock != NULL && !lua_isnoneornil(L, 1)) clock->autojump = lua_toboolean(L, 1);
  return 1;
}

static int after_advance(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  uns_task_check_interrupt(uns_upvalue_runtime(L), L);
  return 0;
}

/* advance(seconds): waits while they pass */
static int clock_advance(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  uint64_t duration_ns = uns_check_seconds(L, 1);
  if (stopped_clock(runtime) == NULL) return luaL_error(L, "the test clock has been closed");
  uns_test_clock_advance(runtime, L, duration_ns);
  return uns_task_park(runtime, L, 0, after_advance);
}

/* shuffle(seed or nil): the order of ready tasks depends on the seed from here on; nil: they run as they come */
static int core_shuffle(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  if (lua_isnoneornil(L, 1)) {
    runtime->shuffle = 0;
    return 0;
  }
  uint64_t seed = (uint64_t)luaL_checkinteger(L, 1);
  runtime->shuffle = seed != 0 ? seed : UINT64_C(0x6a09e667f3bcc909); /* 0 is for none */
  return 0;
}

/* inline(kind, boolean): calls of "thread" or "cpu" functions run on this loop, or for real -> what it was */
static int core_inline(lua_State *L) {
  static const char *const names[] = {"thread", "cpu", NULL};
  static const uns_kind kinds[] = {UNS_KIND_THREAD, UNS_KIND_CPU};
  uns_runtime *runtime = uns_upvalue_runtime(L);
  unsigned bit = 1u << kinds[luaL_checkoption(L, 1, NULL, names)];
  lua_pushboolean(L, (runtime->inline_kinds & bit) != 0);
  if (lua_toboolean(L, 2)) runtime->inline_kinds |= (uint8_t)bit;
  else runtime->inline_kinds &= (uint8_t)~bit;
  return 1;
}

static const luaL_Reg functions[] = {
    {"stop", clock_stop},       {"run", clock_run},           {"stopped", clock_stopped},
    {"elapsed", clock_elapsed}, {"autojump", clock_autojump}, {"advance", clock_advance},
    {"shuffle", core_shuffle},  {"inline", core_inline},      {NULL, NULL}};

int uns_open_testing(lua_State *L) {
  uns_runtime *runtime = uns_runtime_of(L);
  if (runtime == NULL) return luaL_error(L, "unsync.testing: this state has no event loop");
  luaL_newlibtable(L, functions);
  uns_bind_functions(L, runtime, functions);
  return 1;
}
