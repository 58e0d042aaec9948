/*
 * lua_copy: what a string of 64 MiB to a thread and back is measured beside: one copy from a Lua state into another, and
 * one of that copy into the first. Prints nanoseconds for both.
 */
#include <lauxlib.h>
#include <lua.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SIZE = 64 << 20, ROUNDS = 5 };

static double now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* Copies the string on top of `from` to the top of `to`. */
static void copy(lua_State *from, lua_State *to) {
  size_t size;
  const char *bytes = lua_tolstring(from, -1, &size);
  lua_pushlstring(to, bytes, size);
}

int main(void) {
  lua_State *here = luaL_newstate(), *there = luaL_newstate();
  char *bytes = malloc(SIZE);
  if (here == NULL || there == NULL || bytes == NULL) return 1;
  memset(bytes, 'x', SIZE);
  lua_pushlstring(here, bytes, SIZE);
  free(bytes);
  double from = now_ns();
  for (int i = 0; i < ROUNDS; i++) {
    copy(here, there);
    copy(there, here);
    lua_pop(here, 1);
    lua_pop(there, 1);
  }
  printf("%.1f\n", (now_ns() - from) / ROUNDS);
  lua_close(there);
  lua_close(here);
  return 0;
}
