/*
 * flat_message: what large tables to a thread and back are measured beside: from one Lua state into flat bytes, from these
 * into another, and the same back. ARG "ints": 1,000,000 integers; "records": 100,000 tables of three fields.
 * Prints nanoseconds there and back. As plain as such code can be: it knows the form of what it copies.
 */
#include <lauxlib.h>
#include <lua.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { INTS = 1000000, RECORDS = 100000, ROUNDS = 5, NAME_MAX_BYTES = 24 };

typedef struct {
  lua_Integer id;
  lua_Number price;
  uint64_t name_bytes;
  char name[NAME_MAX_BYTES];
} record;

static double now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* Each takes the list on top of `from` (which stays) and pushes a copy onto `to`. `message` is large enough. */
static void copy_ints(lua_State *from, lua_State *to, void *message) {
  lua_Integer *at = message;
  size_t count = lua_rawlen(from, -1);
  for (size_t i = 0; i < count; i++) {
    lua_rawgeti(from, -1, (lua_Integer)i + 1);
    at[i] = lua_tointeger(from, -1);
    lua_pop(from, 1);
  }
  lua_createtable(to, (int)count, 0);
  for (size_t i = 0; i < count; i++) {
    lua_pushinteger(to, at[i]);
    lua_rawseti(to, -2, (lua_Integer)i + 1);
  }
}

static void copy_records(lua_State *from, lua_State *to, void *message) {
  record *at = message;
  size_t count = lua_rawlen(from, -1);
  for (size_t i = 0; i < count; i++) {
    lua_rawgeti(from, -1, (lua_Integer)i + 1);
    lua_getfield(from, -1, "id");
    lua_getfield(from, -2, "price");
    lua_getfield(from, -3, "name");
    size_t size;
    const char *name = lua_tolstring(from, -1, &size);
    if (size > NAME_MAX_BYTES) abort();
    at[i].id = lua_tointeger(from, -3);
    at[i].price = lua_tonumber(from, -2);
    at[i].name_bytes = size;
    memcpy(at[i].name, name, size);
    lua_pop(from, 4);
  }
  lua_createtable(to, (int)count, 0);
  for (size_t i = 0; i < count; i++) {
    lua_createtable(to, 0, 3);
    lua_pushinteger(to, at[i].id);
    lua_setfield(to, -2, "id");
    lua_pushnumber(to, at[i].price);
    lua_setfield(to, -2, "price");
    lua_pushlstring(to, at[i].name, at[i].name_bytes);
    lua_setfield(to, -2, "name");
    lua_rawseti(to, -2, (lua_Integer)i + 1);
  }
}

static void push_ints(lua_State *L) {
  lua_newtable(L);
  for (int i = 1; i <= INTS; i++) {
    lua_pushinteger(L, (lua_Integer)i * 7);
    lua_rawseti(L, -2, i);
  }
}

static void push_records(lua_State *L) {
  lua_newtable(L);
  for (int i = 1; i <= RECORDS; i++) {
    lua_createtable(L, 0, 3);
    lua_pushinteger(L, i);
    lua_setfield(L, -2, "id");
    lua_pushliteral(L, "item");
    lua_setfield(L, -2, "name");
    lua_pushnumber(L, i * 0.5);
    lua_setfield(L, -2, "price");
    lua_rawseti(L, -2, i);
  }
}

int main(int argc, char **argv) {
  int ints = argc > 1 && strcmp(argv[1], "ints") == 0;
  lua_State *here = luaL_newstate(), *there = luaL_newstate();
  void *message = malloc(ints ? INTS * sizeof(lua_Integer) : RECORDS * sizeof(record));
  if (here == NULL || there == NULL || message == NULL) return 1;
  lua_gc(here, LUA_GCGEN, 0, 0);
  lua_gc(there, LUA_GCGEN, 0, 0);
  void (*copy)(lua_State *, lua_State *, void *) = ints ? copy_ints : copy_records;
  if (ints) push_ints(here);
  else push_records(here);
  double from = 0;
  for (int i = 0; i <= ROUNDS; i++) {
    if (i == 1) from = now_ns(); /* the first is to warm up */
    copy(here, there, message);
    copy(there, here, message);
    lua_pop(here, 1);
    lua_pop(there, 1);
  }
  printf("%.1f\n", (now_ns() - from) / ROUNDS);
  free(message);
  lua_close(there);
  lua_close(here);
  return 0;
}
