#include "bind/stdlib.h"

#include <lualib.h>
#include <stdlib.h>


bool uns_stdlib_push_library(lua_State *L, const char *name) {
  luaL_checkstack(L, 3, NULL);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_getfield(L, -1, name);
  lua_remove(L, -2);
  if (lua_istable(L, -1)) return true;
  lua_pop(L, 1);
  return false;
}

bool uns_stdlib_is_plain(lua_State *L, int index) {
  if (lua_tocfunction(L, index) == NULL) return false;
  if (lua_getupvalue(L, index, 1) == NULL) return true;
  lua_pop(L, 1);
  return false;
}

void uns_stdlib_replace(lua_State *L, uns_runtime *runtime, const luaL_Reg *functions) {
  luaL_checkstack(L, 5, NULL);
  for (; functions->name != NULL; functions++) {
    lua_pushstring(L, functions->name);
    lua_pushvalue(L, -1);
    lua_rawget(L, -3);
    if (uns_stdlib_is_plain(L, -1)) {
      lua_pushlightuserdata(L, runtime);
      lua_insert(L, -2);
      lua_pushcclosure(L, functions->func, 2);
      lua_rawset(L, -3);
    } else {
      lua_pop(L, 2);
    }
  }
}

bool uns_stdlib_can_wait(uns_runtime *runtime, lua_State *L) {
  const uns_task *task = runtime->current;
  if (task == NULL || runtime->closing) return false;
  if (L == runtime->L) return task->is_main && lua_gc(L, LUA_GCISRUNNING) >= 0; /* -1: in a finalizer */
  return L == runtime->running && lua_isyieldable(L);
}

/* ---- barriers ---- */

const char uns_barrier_tag = 0;

void uns_stdlib_leave_barrier(uns_runtime *runtime, uns_barrier *block) {
  if (block->left) return;
  block->left = true;
  runtime->barriers--;
}

static int barrier_close(lua_State *L) {
  uns_stdlib_leave_barrier(uns_upvalue_runtime(L), lua_touserdata(L, 1));
  return 0;
}

void uns_stdlib_push_barrier_meta(lua_State *L, uns_runtime *runtime) {
  lua_createtable(L, 0, 1);
  lua_pushlightuserdata(L, runtime);
  lua_pushcclosure(L, barrier_close, 1);
  lua_setfield(L, -2, "__close");
}

void uns_stdlib_enter_barrier(lua_State *L, uns_runtime *runtime, int block, int meta) {
  uns_barrier *barrier = lua_touserdata(L, block);
  barrier->tag = &uns_barrier_tag;
  barrier->left = true; /* until it counts */
  lua_pushvalue(L, meta);
  lua_setmetatable(L, block);
  lua_toclose(L, block);
  barrier->left = false;
  runtime->barriers++;
}

static bool is_block(lua_State *L, int index) {
  return lua_type(L, index) == LUA_TUSERDATA && lua_rawlen(L, index) >= sizeof(uns_barrier) &&
         ((const uns_barrier *)lua_touserdata(L, index))->tag == &uns_barrier_tag;
}

/* The function of the frame, if it is a barrier, else NULL. */
static lua_CFunction barrier_of(lua_State *L, lua_Debug *frame) {
  lua_getinfo(L, "f", frame);
  lua_CFunction function = lua_tocfunction(L, -1);
  lua_pop(L, 1);
  bool found = function == uns_table_sort || function == uns_string_gsub || function == uns_require ||
               function == uns_run_closers;
  return found ? function : NULL;
}

bool uns_stdlib_behind_barrier(lua_State *L, const uns_runtime *runtime) {
  if (runtime->barriers == 0 || !lua_checkstack(L, 1)) return false;
  lua_Debug frame;
  for (int level = 0; lua_getstack(L, level, &frame); level++) {
    if (barrier_of(L, &frame) != NULL) return true;
  }
  return false;
}

void uns_stdlib_leave_dead(lua_State *L, uns_runtime *runtime, lua_State *co) {
  if (runtime->barriers == 0 || !lua_checkstack(co, 1) || !lua_checkstack(L, LUA_MINSTACK)) return;
  lua_Debug frame;
  for (int level = 0; lua_getstack(co, level, &frame); level++) {
    lua_CFunction function = barrier_of(co, &frame);
    if (function == NULL || function == uns_run_closers) continue;
    int slot = function == uns_table_sort    ? UNS_SORT_BLOCK
               : function == uns_string_gsub ? UNS_GSUB_BLOCK
                                             : UNS_REQUIRE_BLOCK;
    if (lua_getlocal(co, &frame, slot) == NULL) continue; /* it failed before it had a block, or the stock one did */
    lua_xmove(co, L, 1);
    if (is_block(L, -1)) {
      if (function == uns_require) uns_require_leave(L, lua_gettop(L));
      else uns_stdlib_leave_barrier(runtime, lua_touserdata(L, -1));
    }
    lua_pop(L, 1);
  }
}

/* ---- os: what belongs to the whole process ---- */

/*
 * lua_close closes what is to be closed in the main thread, which to the script is its task. As there, the frames under
 * way are not returned to.
 */
static void close_state(lua_State *L, uns_runtime *runtime) {
  uns_task *task = runtime->current;
  if (task != NULL && !task->is_main) {
    lua_resetthread(task->co);
    uns_runtime_close(runtime); /* finalizers start nothing any more */
  }
  lua_close(L);
}

/* exit([code [, close]]): ends the program, from a worker too */
static int os_exit(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  int code = EXIT_SUCCESS;
  if (lua_isboolean(L, 1)) code = lua_toboolean(L, 1) ? EXIT_SUCCESS : EXIT_FAILURE;
  else code = (int)luaL_optinteger(L, 1, EXIT_SUCCESS);
  bool close = lua_toboolean(L, 2);
  if (runtime->exit != NULL) {
    runtime->exit(runtime, L, code, close);
  } else {
    if (close) close_state(L, runtime);
    exit(code);
  }
  return 0;
}

/* setlocale([locale [, category]]): the process has one locale, and the main state has the say */
static int os_setlocale(lua_State *L) {
  if (!uns_upvalue_runtime(L)->is_worker || luaL_optstring(L, 1, NULL) == NULL) return uns_stdlib_stock(L);
  luaL_pushfail(L);
  lua_pushliteral(L, "the locale belongs to the whole process: only the main state may set it");
  return 2;
}

static const luaL_Reg os_functions[] = {{"exit", os_exit}, {"setlocale", os_setlocale}, {NULL, NULL}};

/* ---- debug hooks ---- */

/* The key under which debug.sethook keeps, in the registry, the hook of each thread: thread -> function. */
#define HOOKS_KEY "_HOOKKEY"

void uns_stdlib_inherit_hook(lua_State *from, lua_State *to) {
  lua_sethook(to, lua_gethook(from), lua_gethookmask(from), lua_gethookcount(from));
  luaL_checkstack(from, 4, NULL);
  if (lua_getfield(from, LUA_REGISTRYINDEX, HOOKS_KEY) == LUA_TTABLE && lua_checkstack(to, 1)) {
    lua_pushthread(to);
    lua_xmove(to, from, 1);
    lua_pushthread(from);
    lua_rawget(from, -3);
    lua_rawset(from, -3);
  }
  lua_pop(from, 1);
}

void uns_bind_stdlib(lua_State *L, uns_runtime *runtime) {
  uns_bind_protect(L, runtime);
  uns_bind_sort(L, runtime);
  uns_bind_gsub(L, runtime);
  uns_bind_require(L, runtime);
  uns_bind_output(L, runtime);
  uns_bind_shell(L, runtime);
  uns_bind_popen(L, runtime);
  if (uns_stdlib_push_library(L, LUA_OSLIBNAME)) {
    uns_stdlib_replace(L, runtime, os_functions);
    lua_pop(L, 1);
  }
}
