/*
 * codec_world: two Lua states, "here" and "there", between which the specs of the codec carry values.
 *
 * Each has the functions `spec`: send, call and measure carry, box and holder make objects with a class.
 */
#ifndef CODEC_WORLD_H
#define CODEC_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <lauxlib.h>
#include <lualib.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/base.h"
#include "core/codec.h"
#include "core/error.h"

typedef struct world {
  lua_State *here, *there;
  uns_mailbox *mailbox; /* of `here`, where strings are lent */
} world;

/* A counted number that two boxes may share: an object with a class. */
typedef struct counted {
  uns_shared base;
  lua_Integer value;
} counted;
static int counted_alive;
static void counted_free(uns_shared *object) {
  counted_alive--;
  free(uns_container_of(object, counted, base));
}
static const uns_shared_class counted_class = {UNS_SHARED_CHANNEL, "counted", counted_free};

/* A box: a userdata with a counted number and any value. */
static int box_new(lua_State *L, counted *number) {
  counted **box = lua_newuserdatauv(L, sizeof *box, 1);
  *box = NULL;
  luaL_setmetatable(L, "spec.Box");
  *box = number;
  return 1;
}
static int box_make(lua_State *L) {
  counted *number = malloc(sizeof *number);
  uns_shared_init(&number->base, &counted_class);
  number->value = luaL_checkinteger(L, 1);
  counted_alive++;
  box_new(L, number);
  lua_pushvalue(L, 2);
  lua_setiuservalue(L, -2, 1);
  return 1;
}
static int box_gc(lua_State *L) {
  if (luaL_testudata(L, 1, "spec.Box") != NULL) uns_shared_unref(*(counted **)lua_touserdata(L, 1));
  return 0;
}
static int box_get(lua_State *L) {
  lua_pushinteger(L, (*(counted **)luaL_checkudata(L, 1, "spec.Box"))->value);
  lua_getiuservalue(L, 1, 1);
  return 2;
}
static int box_set(lua_State *L) {
  lua_settop(L, 2);
  luaL_checkudata(L, 1, "spec.Box");
  lua_setiuservalue(L, 1, 1);
  return 0;
}
static int box_encode(lua_State *L, int index) {
  counted *number = *(counted **)lua_touserdata(L, index);
  if (number->value < 0) return -1;
  lua_getiuservalue(L, index, 1);
  lua_pushlightuserdata(L, uns_shared_ref(&number->base));
  return 2;
}
static int box_create(lua_State *L, uns_shared *shared) {
  if (shared == NULL || shared->class != &counted_class) return -1;
  box_new(L, NULL);
  *(counted **)lua_touserdata(L, -1) = uns_shared_ref(shared);
  return 0;
}
static int box_fill(lua_State *L, int object, int count) {
  if (count != 2 || lua_type(L, -1) != LUA_TLIGHTUSERDATA) return -1;
  lua_pop(L, 1);
  lua_setiuservalue(L, object, 1);
  return 0;
}
static const uns_codec_class box_class = {"spec.Box", box_encode, box_create, box_fill};

/* A C function that carries a value: an object too. */
static int holder_call(lua_State *L) {
  lua_pushvalue(L, lua_upvalueindex(1));
  return 1;
}
static int holder_make(lua_State *L) {
  lua_settop(L, 1);
  lua_pushcclosure(L, holder_call, 1);
  return 1;
}
static int holder_set(lua_State *L) {
  lua_settop(L, 2);
  lua_setupvalue(L, 1, 1);
  return 0;
}
static int holder_encode(lua_State *L, int index) { return lua_getupvalue(L, index, 1) != NULL ? 1 : -1; }
static int holder_create(lua_State *L, uns_shared *shared) {
  (void)shared;
  lua_pushnil(L);
  lua_pushcclosure(L, holder_call, 1);
  return 0;
}
static int holder_fill(lua_State *L, int object, int count) {
  if (count != 1) return -1;
  lua_setupvalue(L, object, 1);
  return 0;
}
static const uns_codec_class holder_class = {"spec.Holder", holder_encode, holder_create, holder_fill};

/* Userdata without a class, for what is refused and for the packing hook. */
static int plain_make(lua_State *L) {
  lua_newuserdatauv(L, 1, 1);
  lua_pushvalue(L, 1);
  lua_setmetatable(L, -2);
  return 1;
}
static int nameless(lua_State *L) { return lua_gettop(L); }
static int give_nameless(lua_State *L) {
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_pushcclosure(L, nameless, 0);
  return 1;
}
static int light(lua_State *L) {
  static char somewhere;
  lua_pushlightuserdata(L, &somewhere);
  return 1;
}

static world *world_of(lua_State *L) {
  lua_getfield(L, LUA_REGISTRYINDEX, "spec.world");
  world *both = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return both;
}

static int carry(lua_State *from, int first, int count, const uns_codec_names *names, lua_State *to) {
  uns_packet packet;
  uns_packet_init(&packet);
  int top = lua_gettop(from);
  int code = uns_codec_encode(from, first, count, names, &packet);
  assert_int_equal(lua_gettop(from), top + (code != UNS_OK));
  if (code != UNS_OK) {
    assert_int_equal(packet.size_bytes, 0);
    assert_int_equal(packet.ref_count, 0);
    return code;
  }
  top = lua_gettop(to);
  int pushed = uns_codec_decode(to, &packet);
  assert_int_equal(lua_gettop(to), top + (pushed < 0 ? 1 : pushed));
  uns_packet_deinit(&packet);
  return pushed;
}

/* An error that the other state pushed, as a string. */
static int raise_foreign(lua_State *L, lua_State *there, const char *what) {
  const char *text = luaL_tolstring(there, -1, NULL);
  lua_pushfstring(L, "%s: %s", what, text);
  lua_settop(there, 0);
  return lua_error(L);
}

/* send(...) -> ...: there and back */
static int spec_send(lua_State *L) {
  static const uns_codec_names names = {"argument", 1, false}, back = {"result", 1, false};
  world *both = world_of(L);
  int count = lua_gettop(L);
  int pushed = carry(L, 1, count, &names, both->there);
  if (pushed == UNS_EUNSENDABLE) return lua_error(L);
  if (pushed < 0) return raise_foreign(L, both->there, "there");
  assert_int_equal(pushed, count);
  pushed = carry(both->there, 1, pushed, &back, L);
  if (pushed < 0 && lua_gettop(both->there) > count) return raise_foreign(L, both->there, "back");
  lua_settop(both->there, 0);
  if (pushed < 0) return lua_error(L);
  return pushed;
}

/* call(fn, ...) -> ...: runs it there */
static int spec_call(lua_State *L) {
  static const uns_codec_names names = {"argument", 1, true}, back = {"result", 1, false};
  world *both = world_of(L);
  int pushed = carry(L, 1, lua_gettop(L), &names, both->there);
  if (pushed == UNS_EUNSENDABLE) return lua_error(L);
  if (pushed < 0) return raise_foreign(L, both->there, "there");
  if (lua_pcall(both->there, pushed - 1, LUA_MULTRET, 0) != LUA_OK) return raise_foreign(L, both->there, "call");
  pushed = carry(both->there, 1, lua_gettop(both->there), &back, L);
  if (pushed == UNS_EUNSENDABLE) return raise_foreign(L, both->there, "back");
  lua_settop(both->there, 0);
  if (pushed < 0) return lua_error(L);
  return pushed;
}

/* measure(...) -> bytes, references: of the packet */
static int spec_measure(lua_State *L) {
  static const uns_codec_names names = {"argument", 1, false};
  uns_packet packet;
  uns_packet_init(&packet);
  if (uns_codec_encode(L, 1, lua_gettop(L), &names, &packet) != UNS_OK) return lua_error(L);
  lua_pushinteger(L, (lua_Integer)packet.size_bytes);
  lua_pushinteger(L, packet.ref_count);
  uns_packet_deinit(&packet);
  return 2;
}

/* modules(...) -> ...: the modules that the packet needs and that are not loaded there */
static int spec_modules(lua_State *L) {
  static const uns_codec_names names = {"argument", 1, false};
  world *both = world_of(L);
  uns_packet packet;
  uns_packet_init(&packet);
  if (uns_codec_encode(L, 1, lua_gettop(L), &names, &packet) != UNS_OK) return lua_error(L);
  lua_settop(both->there, 0);
  int count = uns_codec_modules(both->there, &packet);
  for (int i = 1; i <= count; i++) lua_pushstring(L, lua_tostring(both->there, i));
  lua_settop(both->there, 0);
  uns_packet_deinit(&packet);
  return count;
}

/* there(code): runs a chunk there, without results */
static int spec_there(lua_State *L) {
  world *both = world_of(L);
  if (luaL_dostring(both->there, luaL_checkstring(L, 1))) return raise_foreign(L, both->there, "there");
  lua_settop(both->there, 0);
  return 0;
}

static int has_name(lua_State *L) {
  lua_pushboolean(L, uns_codec_has_name(L, 1));
  return 1;
}

static const luaL_Reg functions[] = {{"send", spec_send},
                                     {"call", spec_call},
                                     {"measure", spec_measure},
                                     {"modules", spec_modules},
                                     {"there", spec_there},
                                     {"has_name", has_name},
                                     {"box", box_make},
                                     {"box_get", box_get},
                                     {"box_set", box_set},
                                     {"holder", holder_make},
                                     {"holder_set", holder_set},
                                     {"plain", plain_make},
                                     {"give_nameless", give_nameless},
                                     {"light", light},
                                     {NULL, NULL}};

/* Opens what a state of the world has. */
static void state_open(lua_State *L, world *both) {
  luaL_openlibs(L);
  uns_error_open(L);
  uns_codec_open(L);
  lua_pushlightuserdata(L, both);
  lua_setfield(L, LUA_REGISTRYINDEX, "spec.world");
  luaL_newlib(L, functions);
  lua_pushvalue(L, -1);
  lua_setglobal(L, "spec");
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_insert(L, -2);
  lua_setfield(L, -2, "spec");
  luaL_newmetatable(L, "spec.Box");
  lua_pushcfunction(L, box_gc);
  lua_setfield(L, -2, "__gc");
  uns_codec_register(L, -1, &box_class);
  uns_codec_register_function(L, holder_call, &holder_class);
  lua_pushstring(L, "spec/support/?.lua;");
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "path");
  lua_pushvalue(L, -3);
  lua_insert(L, -2);
  lua_concat(L, 2);
  lua_setfield(L, -2, "path");
  lua_settop(L, 0);
}

static lua_State *state_new(world *both) {
  lua_State *L = luaL_newstate();
  assert_non_null(L);
  state_open(L, both);
  return L;
}

static inline void world_open(world *both) {
  both->mailbox = NULL;
  both->here = state_new(both);
  both->there = state_new(both);
}

static inline void world_close(world *both) {
  lua_close(both->there);
  lua_close(both->here);
  if (both->mailbox != NULL) uns_mailbox_unref(both->mailbox);
  assert_int_equal(counted_alive, 0);
}

/* Leaves what the chunk returns. */
static inline void run(lua_State *L, const char *chunk) {
  if (luaL_dostring(L, chunk)) fail_msg("%s", lua_tostring(L, -1));
}

#endif
