/*
 * progress: what a native task says of how far it is, on its way to f:progress and its listeners.
 *
 * The numbers lie in the job and are read from there while it is under way; a report also posts a mail home, one at a
 * time, where the listeners are called as tasks. With the completion the last numbers move to a table of their own.
 */
#include "bind/progress.h"

#include <string.h>

#include "bind/bind.h"
#include "core/weak.h"

static const char kept_key = 0; /* future -> {done, total, listeners...}, weak keys */

static lua_Number number_of(_Atomic uint64_t *bits) {
  uint64_t loaded = atomic_load_explicit(bits, memory_order_relaxed);
  lua_Number number;
  memcpy(&number, &loaded, sizeof number);
  return number;
}

/* Pushes the record of the future at `index`, made if `make`; else nil. */
static bool push_record(lua_State *L, int index, bool make) {
  index = lua_absindex(L, index);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &kept_key);
  lua_pushvalue(L, index);
  if (lua_rawget(L, -2) == LUA_TNIL && make) {
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushvalue(L, index);
    lua_pushvalue(L, -2);
    lua_rawset(L, -4);
  }
  lua_remove(L, -2);
  return !lua_isnil(L, -1);
}

/* Takes over what the job says into the record on top. False if it has said nothing. */
static bool read_job(lua_State *L, uns_job *job) {
  if (atomic_load_explicit(&job->progress_count, memory_order_acquire) == 0) return false;
  lua_pushnumber(L, number_of(&job->progress_done));
  lua_setfield(L, -2, "done");
  lua_pushnumber(L, number_of(&job->progress_total));
  lua_setfield(L, -2, "total");
  return true;
}

/* Starts a task for each listener in the record on top. */
static void call_listeners(uns_runtime *runtime, lua_State *L) {
  int record = lua_gettop(L);
  lua_Integer count = (lua_Integer)lua_rawlen(L, record);
  luaL_checkstack(L, 6, NULL);
  for (lua_Integer i = 1; i <= count; i++) {
    lua_rawgeti(L, record, i);
    lua_getfield(L, record, "done");
    lua_getfield(L, record, "total");
    uns_task_start(runtime, L, 2, "progress");
    lua_pop(L, 1);
  }
}

/* report(job, future) */
static int report(lua_State *L) {
  uns_job *job = lua_touserdata(L, 1);
  if (push_record(L, 2, false) && read_job(L, job)) call_listeners(uns_runtime_of(L), L);
  return 0;
}

static void on_progress(uns_mail *mail, void *receiver) {
  uns_job *job = uns_container_of(mail, uns_job, progress_mail);
  uns_runtime *runtime = receiver;
  atomic_store(&job->progress_posted, false);
  if (runtime == NULL) return;
  lua_State *L = runtime->L;
  int top = lua_gettop(L);
  if (!lua_checkstack(L, 4)) return;
  lua_pushcfunction(L, report);
  lua_pushlightuserdata(L, job);
  uns_runtime_push_pin(runtime, L, job->pin);
  lua_pcall(L, 2, 0, 0); /* without memory this report is left out: the last one comes with the end */
  lua_settop(L, top);
}

/* On the task's thread. */
static void post(uns_job *job) {
  if (!atomic_exchange(&job->progress_posted, true)) uns_mailbox_post(job->home, &job->progress_mail);
}

void uns_progress_attach(uns_job *job) {
  job->progress_mail.deliver = on_progress;
  job->progressed = post;
}

void uns_progress_keep(uns_runtime *runtime, lua_State *L, int index, uns_job *job) {
  if (atomic_load_explicit(&job->progress_count, memory_order_acquire) == 0) return;
  push_record(L, index, true);
  read_job(L, job);
  call_listeners(runtime, L); /* the last report may have had no mail of its own */
  lua_pop(L, 1);
}

/* future:progress([fn]) -> done, total: the last report, or nothing; with fn, called for each one to come */
static int future_progress(lua_State *L) {
  uns_future *future = uns_check_future(L, 1);
  if (!lua_isnoneornil(L, 2)) {
    luaL_checktype(L, 2, LUA_TFUNCTION);
    push_record(L, 1, true);
    lua_pushvalue(L, 2);
    lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
    lua_pushvalue(L, 1);
    return 1;
  }
  bool known = push_record(L, 1, future->job != NULL);
  if (known && future->job != NULL) known = read_job(L, future->job);
  if (!known || lua_getfield(L, -1, "done") == LUA_TNIL) return 0;
  lua_getfield(L, -2, "total");
  return 2;
}

static const luaL_Reg methods[] = {{"progress", future_progress}, {NULL, NULL}};

void uns_bind_progress(lua_State *L, uns_runtime *runtime) {
  uns_weak_push(L, "k");
  lua_rawsetp(L, LUA_REGISTRYINDEX, &kept_key);
  lua_getfield(L, -1, "Future");
  uns_bind_functions(L, runtime, methods);
  lua_pop(L, 1);
}
