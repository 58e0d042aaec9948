#include "host/state.h"

#include <errno.h>
#include <lauxlib.h>
#include <lualib.h>

#include "bind/bind.h"
#include "bind/coroutine.h"
#include "bind/stdlib.h"
#include "core/codec.h"
#include "core/error.h"
#include "host/modules.h"

/* Lua's allocator, one for each state, so that a limit can be kept some day. */
static void *allocate(void *unused, void *memory, size_t old_size, size_t new_size) {
  (void)unused;
  (void)old_size;
  if (new_size == 0) {
    uns_free(memory);
    return NULL;
  }
  return uns_realloc(memory, new_size);
}

static int panic(lua_State *L) {
  lua_writestringerror("unsync: an error outside of any call: %s\n", luaL_tolstring(L, -1, NULL));
  return 0; /* abort */
}

static int open_rooms(lua_State *L) {
  uns_runtime *runtime = lua_touserdata(L, 1);
  uns_bind_coroutine(L, runtime);
  uns_bind_stdlib(L, runtime);
  runtime->cancel_job = uns_executors_cancel;
  runtime->inherit_hook = uns_stdlib_inherit_hook;
  uns_modules_open(L, runtime);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  uns_open_core(L, runtime); /* at once: futures may come in before anything asks for unsync */
  lua_setfield(L, -2, "unsync.core");
  lua_pop(L, 1);
  return 0;
}

static int open_codec(lua_State *L) {
  uns_codec_open(L);
  return 0;
}

uns_runtime *uns_state_adopt(lua_State *L, uns_executors *executors) {
  lua_pushcfunction(L, open_codec);
  errno = ENOMEM;
  if (lua_pcall(L, 0, 0, 0) != LUA_OK) return NULL;
  uns_runtime *runtime = uns_runtime_new(L, executors);
  if (runtime == NULL) return NULL;
  uns_codec_set_mailbox(L, runtime->mailbox);
  lua_pushcfunction(L, open_rooms);
  lua_pushlightuserdata(L, runtime);
  if (lua_pcall(L, 1, 0, 0) == LUA_OK) return runtime;
  uns_runtime_close(runtime);
  uns_runtime_free(runtime);
  errno = ENOMEM;
  return NULL;
}

static int open_libraries(lua_State *L) {
  luaL_openlibs(L);
  return 0;
}

uns_runtime *uns_state_new(uns_executors *executors) {
  errno = ENOMEM;
  lua_State *L = lua_newstate(allocate, NULL);
  if (L == NULL) return NULL;
  lua_atpanic(L, panic);
  lua_gc(L, LUA_GCSTOP); /* nothing to collect while it is built */
  lua_pushcfunction(L, open_libraries);
  uns_runtime *runtime = lua_pcall(L, 0, 0, 0) == LUA_OK ? uns_state_adopt(L, executors) : NULL;
  if (runtime == NULL) {
    int saved = errno;
    lua_close(L);
    errno = saved;
    return NULL;
  }
  lua_gc(L, LUA_GCRESTART);
  lua_gc(L, LUA_GCGEN, 0, 0);
  return runtime;
}

void uns_state_free(uns_runtime *runtime) {
  lua_State *L = runtime->L;
  uns_runtime_close(runtime);
  lua_close(L);
  uns_runtime_free(runtime);
}
