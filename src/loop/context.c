#include "loop/context.h"

#include <assert.h>
#include <lauxlib.h>

const char uns_context_nil = 0;

void uns_context_unref(uns_runtime *runtime, uns_context *context) {
  if (context == NULL || --context->references > 0) return;
  luaL_unref(runtime->L, LUA_REGISTRYINDEX, context->ref);
  uns_free(context);
}

/* A context of its own for `task`, with what it saw so far. */
static void make_own(uns_runtime *runtime, lua_State *L, uns_task *task) {
  lua_newtable(L);
  if (task->context != NULL) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, task->context->ref);
    for (lua_pushnil(L); lua_next(L, -2);) {
      lua_pushvalue(L, -2);
      lua_insert(L, -2);
      lua_rawset(L, -5);
    }
    lua_pop(L, 1);
  }
  int ref = luaL_ref(L, LUA_REGISTRYINDEX);
  uns_context *own = uns_malloc(sizeof *own);
  if (own == NULL) {
    luaL_unref(L, LUA_REGISTRYINDEX, ref);
    luaL_error(L, "not enough memory");
    return;
  }
  *own = (uns_context){.references = 1, .ref = ref};
  uns_context_unref(runtime, task->context);
  task->context = own;
}

void uns_context_set(uns_runtime *runtime, lua_State *L, uns_task *task) {
  luaL_checkstack(L, 6, NULL);
  if (task->context == NULL || task->context->references > 1) make_own(runtime, L, task);
  assert(task->context != NULL); /* make_own raises where it cannot */
  lua_rawgeti(L, LUA_REGISTRYINDEX, task->context->ref);
  lua_insert(L, -3);
  lua_rawset(L, -3);
  lua_pop(L, 1);
}

void uns_context_push(uns_runtime *runtime, lua_State *L, const uns_task *task) {
  (void)runtime;
  if (task == NULL || task->context == NULL) lua_pushnil(L);
  else lua_rawgeti(L, LUA_REGISTRYINDEX, task->context->ref);
}
