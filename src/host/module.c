/*
 * module: unsync.so: stock lua5.4 can `require "unsync"`. The state is somebody else's; whoever waits turns the loop.
 *
 *   - All that was made goes with a userdata whose finalizer comes last of ours, since it is the oldest: lua_close calls
 *     it. Finalizers that are older still find functions that work, or that say that the state is ending.
 *   - The library stays in the process: a thread that does not end in time may still be in it (-z nodelete).
 * The same for a program of one's own: api.c.
 */
#include <errno.h>
#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

#include "host/modules.h"
#include "host/program.h"
#include "host/state.h"
#include "loop/task.h"
#include "unsync.h"

#define MODULE_TYPE "unsync.Module"

static const char module_key = 0; /* in the registry, by address */

enum { LISTED_MAX = 10 }; /* tasks named in the report at the end */

typedef struct {
  uns_executors *executors; /* owned; NULL while half-built, and after the end */
  uns_runtime *runtime;     /* owned, in a userdata of its own */
} module;

/* ---- the end ---- */

/* Adds a line for each task that ends with the state; returns how many there are. */
static size_t list_tasks(luaL_Buffer *text, lua_State *L, uns_runtime *runtime) {
  size_t count = 0;
  for (uns_link *link = runtime->tasks.next; link != &runtime->tasks; link = link->next) {
    uns_task *task = uns_container_of(link, uns_task, live_link);
    if (task->is_main || ++count > LISTED_MAX) continue;
    const char *name = task->future != NULL && task->future->name != NULL ? task->future->name : "a task";
    uns_task_push_where(L, task);
    if (lua_isnil(L, -1)) lua_pushfstring(L, "\n\tio %s", name);
    else lua_pushfstring(L, "\n\tio %s, waiting at %s", name, lua_tostring(L, -1));
    lua_remove(L, -2);
    luaL_addvalue(text);
  }
  if (count > LISTED_MAX) {
    lua_pushfstring(L, "\n\tand %d more", (int)(count - LISTED_MAX));
    luaL_addvalue(text);
  }
  return count;
}

/* Calls and requests that nobody has seen the end of, those that tasks wait for included. */
static size_t count_calls(const uns_runtime *runtime) {
  size_t count = runtime->pending;
  for (uns_link *link = runtime->tasks.next; link != &runtime->tasks; link = link->next) {
    if (uns_container_of(link, uns_task, live_link)->hopeful) count--; /* it waits for one elsewhere */
  }
  return count;
}

/* tell_dropped(runtime): what was started, and neither awaited nor waited for, is named. Nothing is lost silently. */
static int tell_dropped(lua_State *L) {
  uns_runtime *runtime = lua_touserdata(L, 1);
  luaL_Buffer text;
  luaL_buffinit(L, &text);
  luaL_addstring(&text, "the state ends, and what was still under way ends with it:");
  size_t tasks = list_tasks(&text, L, runtime), calls = count_calls(runtime);
  if (calls > 0) {
    lua_pushfstring(L, calls == 1 ? "\n\t%d call or request" : "\n\t%d calls and requests", (int)calls);
    luaL_addvalue(&text);
  }
  luaL_addstring(&text, "\n(`local unsync <close> = require \"unsync\"` waits for it)");
  luaL_pushresult(&text);
  if (tasks + calls > 0) uns_runtime_report(runtime, lua_tostring(L, -1));
  return 0;
}

static int module_gc(lua_State *L) {
  module *mine = luaL_testudata(L, 1, MODULE_TYPE);
  if (mine == NULL) return 0;
  uns_executors *executors = mine->executors;
  uns_runtime *runtime = mine->runtime;
  mine->executors = NULL;
  mine->runtime = NULL;
  if (runtime != NULL) {
    lua_pushcfunction(L, tell_dropped);
    lua_pushlightuserdata(L, runtime);
    if (lua_pcall(L, 1, 0, 0) != LUA_OK) lua_pop(L, 1);
  }
  uns_executors_free(executors); /* a thread that is stuck keeps what it may touch */
  if (runtime != NULL) uns_state_release(runtime);
  return 0;
}

/* ---- the start ---- */

static _Noreturn void no_start(lua_State *L, const char *what) {
  luaL_error(L, "unsync cannot start: %s: %s", what, strerror(errno));
  abort(); /* luaL_error does not return, but does not say so */
}

/* Makes the state of L, whose main thread is `main`, know tasks. Raises. */
static void adopt(lua_State *L, lua_State *main) {
  module *mine = lua_newuserdatauv(L, sizeof *mine, 0);
  *mine = (module){NULL, NULL};
  luaL_newmetatable(L, MODULE_TYPE);
  lua_pushcfunction(L, module_gc);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &module_key);
  errno = ENOMEM;
  mine->executors = uns_executors_new();
  if (mine->executors == NULL) no_start(L, "the executors");
  mine->executors->new_state = uns_state_new;
  mine->executors->free_state = uns_state_free;
  mine->executors->program = uns_program_find(NULL);
  if (!lua_checkstack(main, LUA_MINSTACK)) luaL_error(L, "not enough memory");
  int top = lua_gettop(main);
  uns_runtime *runtime = uns_state_adopt(main, mine->executors);
  if (main != L) lua_settop(main, top);
  if (runtime == NULL) no_start(L, "the event loop");
  mine->runtime = runtime;
  mine->executors->main_runtime = runtime;
  if (uns_task_adopt_main(runtime) == UNS_OK) return;
  mine->runtime = NULL;
  uns_state_release(runtime);
  no_start(L, "the main task");
}

/* Returns our module `name`, after making the state know tasks, whichever of them is the first. */
static int load(lua_State *L, const char *name) {
  luaL_checkversion(L);
  lua_settop(L, 0);
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  const uns_runtime *runtime = uns_runtime_of(L);
  if (runtime == NULL || runtime->closing) adopt(L, lua_tothread(L, 1)); /* closing: it failed half-way before */
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_getfield(L, -1, name);
  if (lua_toboolean(L, -1)) return 1;
  lua_pushcfunction(L, uns_modules_search);
  lua_pushstring(L, name);
  lua_call(L, 1, 2);
  if (!lua_isfunction(L, -2)) return luaL_error(L, "%s", lua_tostring(L, -2));
  lua_pushstring(L, name);
  lua_insert(L, -2);
  lua_call(L, 2, 1);
  return 1;
}

UNSYNC_API int luaopen_unsync(lua_State *L);
int luaopen_unsync(lua_State *L) { return load(L, "unsync"); }

/* Whichever part is required first: stock Lua looks for `unsync.x` in here as luaopen_unsync_x. */
#define PART(name) \
  UNSYNC_API int luaopen_unsync_##name(lua_State *L); \
  int luaopen_unsync_##name(lua_State *L) { return load(L, "unsync." #name); }
PART(core)
PART(http)
PART(testing)
PART(inspect)
