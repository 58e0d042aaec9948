#include "host/state.h"

#include <errno.h>
#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/arena.h"
#include "bind/bind.h"
#include "bind/coroutine.h"
#include "bind/stdlib.h"
#include "core/codec.h"
#include "host/explain.h"
#include "host/modules.h"

/* An error that nothing was there to catch: in the loop itself memory alone can be missing. Nothing can go on then, but
   the program ends as one that has failed, not as one that is broken. */
static int panic(lua_State *L) {
  bool text = lua_type(L, -1) == LUA_TSTRING; /* what is one is not made one: there may be no memory for that */
  const char *said = text ? lua_tostring(L, -1) : "an error object";
  lua_writestringerror("unsync: an error outside of any call: %s\n", said);
  if (!text || strcmp(said, "not enough memory") != 0) return 0; /* abort */
  fflush(stdout);
  _exit(EXIT_FAILURE);
}

static int open_rooms(lua_State *L) {
  uns_runtime *runtime = lua_touserdata(L, 1);
  uns_bind_coroutine(L, runtime);
  uns_bind_stdlib(L, runtime);
  runtime->explain = uns_explain;
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

/* libuv aborts where it cannot have the descriptors that the first loop of a process needs. False with errno set. */
static bool room_for_first_loop(void) {
  enum { NEEDED = 6 }; /* epoll's, the eventfd of its threads, and a pipe each for all signals and its own */
  int fds[NEEDED], count = 0;
  while (count < NEEDED && (fds[count] = eventfd(0, EFD_CLOEXEC)) >= 0) count++;
  int number = errno;
  for (int i = 0; i < count; i++) close(fds[i]);
  errno = number;
  return count == NEEDED;
}

/* Leaves Lua's message on the stack where it had one. */
static uns_runtime *make_runtime(lua_State *L, uns_executors *executors, bool in_state) {
  lua_pushcfunction(L, open_codec);
  errno = ENOMEM;
  if (lua_pcall(L, 0, 0, 0) != LUA_OK) return NULL;
  if (executors->main_runtime == NULL && !room_for_first_loop()) return NULL;
  uns_runtime *runtime = uns_runtime_new(L, executors, in_state);
  if (runtime == NULL) return NULL;
  runtime->grace_ns = executors->grace_ns;
  uns_codec_set_mailbox(L, runtime->mailbox);
  uns_party_join(&executors->parties, runtime, executors->main_runtime == NULL);
  lua_pushcfunction(L, open_rooms);
  lua_pushlightuserdata(L, runtime);
  if (lua_pcall(L, 1, 0, 0) == LUA_OK) return runtime;
  uns_runtime_close(runtime);
  uns_runtime_free(runtime);
  errno = ENOMEM;
  return NULL;
}

uns_runtime *uns_state_adopt(lua_State *L, uns_executors *executors) { return make_runtime(L, executors, true); }

void uns_state_release(uns_runtime *runtime) {
  uns_runtime_close(runtime);
  uns_runtime_free(runtime);
}

static int open_libraries(lua_State *L) {
  luaL_openlibs(L);
  return 0;
}

uns_runtime *uns_state_new(uns_executors *executors) {
  errno = ENOMEM;
  uns_arena *arena = uns_arena_new();
  if (arena == NULL) return NULL;
  lua_State *L = lua_newstate(uns_arena_allocate, arena);
  if (L == NULL) {
    uns_arena_free(arena);
    return NULL;
  }
  lua_atpanic(L, panic);
  lua_gc(L, LUA_GCSTOP); /* nothing to collect while it is built */
  lua_pushcfunction(L, open_libraries);
  uns_runtime *runtime = lua_pcall(L, 0, 0, 0) == LUA_OK ? make_runtime(L, executors, false) : NULL;
  if (runtime == NULL) {
    int saved = errno;
    lua_close(L);
    uns_arena_free(arena);
    errno = saved;
    return NULL;
  }
  lua_gc(L, LUA_GCRESTART);
  lua_gc(L, LUA_GCGEN, 0, 0);
  return runtime;
}

void uns_state_free(uns_runtime *runtime) {
  lua_State *L = runtime->L;
  void *arena;
  lua_getallocf(L, &arena);
  uns_runtime_close(runtime);
  lua_close(L);
  uns_arena_free(arena);
  uns_runtime_free(runtime);
}
