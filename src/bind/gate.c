/*
 * gate: semaphore, mutex, event, barrier, rate: their methods.
 *
 * What `acquire` and `lock` return is the thing itself, whose __close lets go: `local _ <close> = mutex:lock()`.
 */
#include <string.h>

#include "bind/bind.h"
#include "core/codec.h"
#include "core/error.h"
#include "loop/gate.h"

#define SEMAPHORE_TYPE "unsync.Semaphore"
#define MUTEX_TYPE "unsync.Mutex"
#define EVENT_TYPE "unsync.Event"
#define BARRIER_TYPE "unsync.Barrier"
#define RATE_TYPE "unsync.Rate"

enum { RATE_MOST = 1000000 /* permits in a window: each is remembered for as long as it counts */ };

/* After a call that did not have to wait: true if others must run first; then as if it had been handed what it got. */
static bool turn_is_over(lua_State *L, uns_runtime *runtime) {
  if (!uns_task_turn_is_over(runtime, L)) return false;
  runtime->current->extra->waiter.told = UNS_TOLD_GIVEN;
  return true;
}

/* ---- semaphore ---- */

static uns_semaphore *check_semaphore(lua_State *L) { return luaL_checkudata(L, 1, SEMAPHORE_TYPE); }

static int after_acquire(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  uns_runtime *runtime = uns_upvalue_runtime(L);
  uns_task *task = runtime->current;
  if (uns_task_is_interrupted(task) && task->extra->waiter.told == UNS_TOLD_GIVEN) {
    uns_semaphore_release(runtime, check_semaphore(L));
  }
  uns_task_check_interrupt(runtime, L);
  return 1;
}

/* acquire() -> the semaphore: one permit, which its __close gives back */
static int semaphore_acquire(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  uns_semaphore *semaphore = check_semaphore(L);
  lua_settop(L, 1);
  bool acquired = uns_semaphore_try_acquire(semaphore);
  if (acquired && !turn_is_over(L, runtime)) return 1;
  if (!acquired) uns_gate_wait(runtime, L, &semaphore->waiters, UNS_WAITS_PERMIT);
  return uns_task_park(runtime, L, 0, after_acquire);
}

static int semaphore_try_acquire(lua_State *L) {
  lua_pushboolean(L, uns_semaphore_try_acquire(check_semaphore(L)));
  return 1;
}

static int semaphore_release(lua_State *L) {
  if (uns_semaphore_release(uns_upvalue_runtime(L), check_semaphore(L))) return 0;
  return luaL_error(L, "this semaphore is released more often than it was acquired");
}

/* semaphore(n): n permits */
static int core_semaphore(lua_State *L) {
  lua_Integer most = luaL_checkinteger(L, 1);
  luaL_argcheck(L, most >= 1, 1, "a semaphore needs at least one permit");
  uns_semaphore_init(lua_newuserdatauv(L, sizeof(uns_semaphore), 0), most);
  luaL_setmetatable(L, SEMAPHORE_TYPE);
  return 1;
}

/* ---- mutex ---- */

static uns_mutex *check_mutex(lua_State *L) { return luaL_checkudata(L, 1, MUTEX_TYPE); }

static int after_lock(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  uns_runtime *runtime = uns_upvalue_runtime(L);
  uns_task *task = runtime->current;
  uns_mutex *mutex = lua_touserdata(L, 1);
  if (uns_task_is_interrupted(task) && task->extra->waiter.told == UNS_TOLD_GIVEN) uns_mutex_unlock(runtime, mutex);
  uns_task_check_interrupt(runtime, L);
  if (task->extra->waiter.told == UNS_TOLD_CLOSED) return uns_mutex_raise_abandoned(L, mutex);
  mutex->locked_at = uns_runtime_site(runtime, L);
  return 1;
}

/* The mutex at 1, for somebody who wants it: raises where that makes no sense. */
static uns_mutex *check_wanted(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  uns_mutex *mutex = check_mutex(L);
  if (mutex->left_by != NULL) uns_mutex_raise_abandoned(L, mutex);
  if (runtime->current == NULL) uns_task_check_can_wait(runtime, L); /* says that this is no task */
  if (uns_task_extra_of(runtime->current) == NULL)
    luaL_error(L, "not enough memory"); /* it has the list of those held */
  return mutex;
}

/* lock() -> the mutex, whose __close unlocks it */
static int mutex_lock(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  uns_mutex *mutex = check_wanted(L);
  lua_settop(L, 1);
  if (mutex->owner == runtime->current) {
    return uns_error_raise(L, "deadlock", "deadlock: this task has locked the mutex already");
  }
  bool locked = uns_mutex_try_lock(runtime, mutex);
  if (locked) mutex->locked_at = uns_runtime_site(runtime, L);
  if (locked && !turn_is_over(L, runtime)) return 1;
  if (!locked) uns_gate_wait(runtime, L, &mutex->waiters, UNS_WAITS_MUTEX)->extra->wanted = mutex;
  return uns_task_park(runtime, L, 0, after_lock);
}

static int mutex_try_lock(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  uns_mutex *mutex = check_wanted(L);
  bool locked = uns_mutex_try_lock(runtime, mutex);
  if (locked) mutex->locked_at = uns_runtime_site(runtime, L);
  lua_pushboolean(L, locked);
  return 1;
}

static int mutex_unlock(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  uns_mutex *mutex = check_mutex(L);
  if (mutex->owner == NULL) return luaL_error(L, "this mutex is not locked");
  if (mutex->owner != runtime->current)
    return luaL_error(L, "this mutex was locked by another task, which alone may unlock it");
  uns_mutex_unlock(runtime, mutex);
  return 0;
}

static int mutex_gc(lua_State *L) {
  uns_mutex_deinit(check_mutex(L));
  return 0;
}

static int core_mutex(lua_State *L) {
  uns_mutex_init(lua_newuserdatauv(L, sizeof(uns_mutex), 0));
  luaL_setmetatable(L, MUTEX_TYPE);
  return 1;
}

/* ---- event ---- */

static uns_event *check_event(lua_State *L) { return luaL_checkudata(L, 1, EVENT_TYPE); }

static int after_wait(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  uns_task_check_interrupt(uns_upvalue_runtime(L), L);
  return 0;
}

/* wait(): until it is set */
static int event_wait(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  uns_event *event = check_event(L);
  lua_settop(L, 1);
  if (event->set && !turn_is_over(L, runtime)) return 0;
  if (!event->set) uns_gate_wait(runtime, L, &event->waiters, UNS_WAITS_EVENT);
  return uns_task_park(runtime, L, 0, after_wait);
}

static int event_set(lua_State *L) {
  uns_event_set(uns_upvalue_runtime(L), check_event(L));
  return 0;
}

static int event_clear(lua_State *L) {
  check_event(L)->set = false;
  return 0;
}

static int event_is_set(lua_State *L) {
  lua_pushboolean(L, check_event(L)->set);
  return 1;
}

static int core_event(lua_State *L) {
  uns_event_init(lua_newuserdatauv(L, sizeof(uns_event), 0));
  luaL_setmetatable(L, EVENT_TYPE);
  return 1;
}

/* ---- barrier ---- */

/* wait(): until as many wait here as were said to come */
static int barrier_wait(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  uns_barrier *barrier = luaL_checkudata(L, 1, BARRIER_TYPE);
  lua_settop(L, 1);
  if (uns_barrier_arrive(runtime, L, barrier) && !turn_is_over(L, runtime)) return 0;
  return uns_task_park(runtime, L, 0, after_wait);
}

/* barrier(n) */
static int core_barrier(lua_State *L) {
  lua_Integer parties = luaL_checkinteger(L, 1);
  luaL_argcheck(L, parties >= 1, 1, "a barrier is for at least one");
  uns_barrier_init(lua_newuserdatauv(L, sizeof(uns_barrier), 0), parties);
  luaL_setmetatable(L, BARRIER_TYPE);
  return 1;
}

/* ---- rate ---- */

static int after_rate(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  uns_runtime *runtime = uns_upvalue_runtime(L);
  uns_task *task = runtime->current;
  if (uns_task_is_interrupted(task) && task->extra->waiter.told == UNS_TOLD_GIVEN) {
    uns_rate_give_back(runtime, lua_touserdata(L, 1));
  }
  uns_task_check_interrupt(runtime, L);
  return 0;
}

/* acquire(): waits for its turn */
static int rate_acquire(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  uns_rate *rate = luaL_checkudata(L, 1, RATE_TYPE);
  lua_settop(L, 1);
  bool granted = uns_rate_try_acquire(runtime, rate);
  if (granted && !turn_is_over(L, runtime)) return 0;
  if (!granted) uns_rate_wait(runtime, L, rate);
  return uns_task_park(runtime, L, 0, after_rate);
}

/* rate(n, seconds): n permits in any `seconds` */
static int core_rate(lua_State *L) {
  lua_Integer most = luaL_checkinteger(L, 1);
  luaL_argcheck(L, most >= 1 && most <= RATE_MOST, 1, "from 1 to 1000000 permits expected");
  uint64_t window_ns = uns_check_seconds(L, 2);
  luaL_argcheck(L, window_ns > 0, 2, "seconds must be more than 0");
  uns_rate_init(lua_newuserdatauv(L, sizeof(uns_rate) + (size_t)most * sizeof(uint64_t), 0), (size_t)most, window_ns);
  luaL_setmetatable(L, RATE_TYPE);
  return 1;
}

/* ---- opening ---- */

typedef struct {
  const char *type, *across; /* what there is instead between states */
  luaL_Reg metamethods[3], methods[5];
} class;

static const class classes[] = {
    {SEMAPHORE_TYPE,
     "a channel that holds the permits",
     {{"__close", semaphore_release}},
     {{"acquire", semaphore_acquire}, {"try_acquire", semaphore_try_acquire}, {"release", semaphore_release}}},
    {MUTEX_TYPE,
     "a channel with one item in it",
     {{"__close", mutex_unlock}, {"__gc", mutex_gc}},
     {{"lock", mutex_lock}, {"try_lock", mutex_try_lock}, {"unlock", mutex_unlock}}},
    {EVENT_TYPE,
     "a promise, or a channel",
     {{NULL, NULL}},
     {{"set", event_set}, {"clear", event_clear}, {"wait", event_wait}, {"is_set", event_is_set}}},
    {BARRIER_TYPE, "a channel", {{NULL, NULL}}, {{"wait", barrier_wait}}},
    {RATE_TYPE, "a channel that hands out the turns", {{NULL, NULL}}, {{"acquire", rate_acquire}}},
};

/* They know the tasks that wait, and these know the loop. */
static int refuse(lua_State *L, int index) {
  const char *type = luaL_getmetafield(L, index, "__name") == LUA_TSTRING ? lua_tostring(L, -1) : "";
  for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
    if (strcmp(classes[i].type, type) != 0) continue;
    lua_pushfstring(L, "userdata \"%s\", which belongs to one state: between states use %s", type, classes[i].across);
  }
  return -1;
}

static int cannot_arrive(lua_State *L, uns_shared *shared) {
  (void)L;
  (void)shared;
  return -1;
}

static const uns_codec_class cross = {"unsync.gate", refuse, cannot_arrive, NULL};

static const luaL_Reg functions[] = {{"semaphore", core_semaphore}, {"mutex", core_mutex}, {"event", core_event},
                                     {"barrier", core_barrier},     {"rate", core_rate},   {NULL, NULL}};

void uns_bind_gate(lua_State *L, uns_runtime *runtime) {
  uns_bind_functions(L, runtime, functions);
  for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
    luaL_newmetatable(L, classes[i].type);
    uns_codec_register(L, -1, &cross);
    uns_bind_functions(L, runtime, classes[i].metamethods);
    lua_newtable(L);
    uns_bind_functions(L, runtime, classes[i].methods);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
  }
}
