/*
 * codec: what crosses, what is refused and why, damaged bytes, and no memory.
 *
 * The cases are in spec/support/codec_cases.lua, which runs in one Lua state, "here". Its functions `send` and `call`
 * carry values to another state, "there", and back. What Lua cannot say is below.
 */
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
#include "core/code.h"
#include "core/codec.h"
#include "core/error.h"
#include "core/lent.h"
#include "core/tags.h"

#define CASES "spec/support/codec_cases.lua"

/* ---- two states ---- */

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
  uns_shared_unref(*(counted **)lua_touserdata(L, 1));
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

static const luaL_Reg functions[] = {{"send", spec_send},       {"call", spec_call},       {"measure", spec_measure},
                                     {"modules", spec_modules}, {"there", spec_there},     {"has_name", has_name},
                                     {"box", box_make},         {"box_get", box_get},      {"box_set", box_set},
                                     {"holder", holder_make},   {"holder_set", holder_set},{"plain", plain_make},
                                     {"give_nameless", give_nameless}, {"light", light},   {NULL, NULL}};

static lua_State *state_new(world *both) {
  lua_State *L = luaL_newstate();
  assert_non_null(L);
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
  return L;
}

static void world_open(world *both) {
  both->mailbox = NULL;
  both->here = state_new(both);
  both->there = state_new(both);
}

static void world_close(world *both) {
  lua_close(both->there);
  lua_close(both->here);
  if (both->mailbox != NULL) uns_mailbox_unref(both->mailbox);
  assert_int_equal(counted_alive, 0);
}

/* Leaves what the chunk returns. */
static void run(lua_State *L, const char *chunk) {
  if (luaL_dostring(L, chunk)) fail_msg("%s", lua_tostring(L, -1));
}

/* ---- the cases in Lua ---- */

static int traceback(lua_State *L) {
  luaL_traceback(L, L, luaL_tolstring(L, 1, NULL), 1);
  return 1;
}

static void runs_a_case(void **state) {
  world both;
  world_open(&both);
  lua_State *L = both.here;
  lua_pushcfunction(L, traceback);
  if (luaL_dofile(L, CASES)) fail_msg("%s", lua_tostring(L, -1));
  lua_getfield(L, -1, "run");
  lua_pushstring(L, *state);
  if (lua_pcall(L, 1, 0, 1) != LUA_OK) fail_msg("%s", lua_tostring(L, -1));
  world_close(&both);
}

/* ---- lending ---- */

static void lends_long_strings_and_gets_them_back(void **state) {
  (void)state;
  static const uns_codec_names names = {"argument", 1, false};
  world both;
  world_open(&both);
  both.mailbox = uns_mailbox_new();
  lua_State *L = both.here;
  uns_codec_set_mailbox(L, both.mailbox);
  run(L, "local s = string.rep('lent', 2000) return s, {s, s}, string.rep('x', 4095)");
  uns_packet packet;
  uns_packet_init(&packet);
  assert_int_equal(uns_codec_encode(L, 1, 3, &names, &packet), UNS_OK);
  assert_int_equal(packet.ref_count, 1); /* the same string is lent once, the shorter one is copied */
  assert_int_equal(uns_codec_lent(L), 1);
  assert_true(packet.size_bytes < 4200);
  lua_settop(L, 0);
  lua_gc(L, LUA_GCCOLLECT); /* the packet alone keeps it */
  assert_int_equal(uns_codec_decode(both.there, &packet), 3);
  uns_packet_deinit(&packet);
  assert_int_equal(lua_rawlen(both.there, 1), 8000);
  lua_rawgeti(both.there, 2, 2);
  assert_true(lua_tostring(both.there, -1) == lua_tostring(both.there, 1));

  assert_int_equal(uns_codec_lent(L), 1); /* the mail is on its way */
  for (uns_mail *mail = uns_mailbox_take(both.mailbox), *next; mail != NULL; mail = next) {
    next = mail->next;
    mail->deliver(mail, &both);
  }
  assert_int_equal(uns_codec_lent(L), 0);

  /* What comes home to a closed mailbox is only freed. */
  run(L, "return string.rep('late', 2000)");
  assert_int_equal(uns_codec_encode(L, 1, 1, &names, &packet), UNS_OK);
  uns_mailbox_close(both.mailbox);
  uns_packet_deinit(&packet);
  world_close(&both);
}

/* A state may close while its strings are out, some of them twice: they stay readable to the last reference. */
static void lent_strings_outlive_their_state(void **state) {
  (void)state;
  static const uns_codec_names names = {"argument", 1, false};
  for (int order = 0; order < 4; order++) {
    uns_arena *arena = uns_arena_new();
    lua_State *from = lua_newstate(uns_arena_allocate, arena), *to = luaL_newstate();
    luaL_openlibs(from);
    uns_codec_open(from);
    uns_codec_open(to);
    uns_mailbox *mailbox = uns_mailbox_new();
    uns_codec_set_mailbox(from, mailbox);
    run(from, "local s = string.rep('outlives', 1000) return s, string.rep('other', 1000)");
    uns_packet first, second;
    uns_packet_init(&first);
    uns_packet_init(&second);
    assert_int_equal(uns_codec_encode(from, 1, 2, &names, &first), UNS_OK);
    assert_int_equal(uns_codec_encode(from, 1, 1, &names, &second), UNS_OK);
    assert_int_equal(uns_codec_lent(from), 3);
    if (order == 3) uns_packet_deinit(&second); /* its mail is on the way when the mailbox closes */
    if (order != 2) uns_mailbox_close(mailbox);
    if (order == 1) uns_packet_deinit(&second); /* comes home to nobody */
    lua_close(from);
    uns_arena_free(arena);
    if (order == 2) uns_mailbox_close(mailbox);
    assert_int_equal(uns_codec_decode(to, &first), 2);
    uns_packet_deinit(&first);
    assert_int_equal(lua_rawlen(to, 1), 8000);
    assert_memory_equal(lua_tostring(to, 1) + 7992, "outlives", 8);
    if (order == 0) {
      assert_int_equal(uns_codec_decode(to, &second), 1);
      assert_string_equal(lua_tostring(to, 1), lua_tostring(to, 3));
    }
    uns_packet_deinit(&second);
    uns_mailbox_unref(mailbox);
    lua_close(to);
  }
}

/* ---- damage ---- */

/* How many rounds: CODEC_ROUNDS, else `usual`, fewer where everything runs slower. */
static int rounds_of(int usual) {
  const char *asked = getenv("CODEC_ROUNDS"), *slowness = getenv("UNSYNC_SLOWNESS");
  if (asked != NULL) return atoi(asked);
  return slowness != NULL && atoi(slowness) > 1 ? usual / atoi(slowness) + 1 : usual;
}

/* xorshift64*: the same numbers everywhere */
static uint64_t seed;
static uint64_t any(uint64_t below) {
  seed ^= seed >> 12;
  seed ^= seed << 25;
  seed ^= seed >> 27;
  return (seed * UINT64_C(2685821657736338717)) % below;
}

/* Values with everything in them that a packet can hold. */
static const char everything[] =
    "local up, s = 5, string.rep('s', 100)\n"
    "local function counter() up = up + 1 return up, s end\n"
    "local function reader() return up, _ENV end\n"
    "local function fact(n) return n < 2 and 1 or n * fact(n - 1) end\n"
    "local cyclic = {counter = counter, reader = reader, fact = fact}\n"
    "cyclic.self = cyclic cyclic[cyclic] = counter cyclic[true] = 1.5 cyclic[2.5] = s\n"
    "local list = {} for i = 1, 300 do list[i] = i * i end for i = 301, 500 do list[i] = i / 3 end\n"
    "for i = 501, 600 do list[i] = 'item' .. i % 7 end list.x = 'also'\n"
    "local records = {} for i = 1, 20 do records[i] = {id = i, name = 'n' .. i, flag = i % 2 == 0} end\n"
    "local deep = {} for i = 1, 200 do deep = {deep, level = i} end\n"
    "local Class = {} Class.__index = Class\n"
    "local box = spec.box(7, cyclic) local holder = spec.holder(counter) spec.holder_set(holder, {holder})\n"
    "local packed = setmetatable({1, {2}}, {__unsync_pack = function(p) return function(a, b) return {a, b} end, p[1], p[2] end})\n"
    "return nil, true, 1, -1, 300, 70000, 1 << 40, 0.1, 0/0, 'short', s, cyclic, list, records, deep,\n"
    "  setmetatable({}, Class), box, holder, {packed, packed}, print, string.format, io.stdout, math";

static void survives_damage(void **state) {
  (void)state;
  static const uns_codec_names names = {"argument", 1, false};
  world both;
  world_open(&both);
  lua_State *L = both.here;
  run(L, everything);
  uns_packet whole;
  uns_packet_init(&whole);
  assert_int_equal(uns_codec_encode(L, 1, lua_gettop(L), &names, &whole), UNS_OK);
  run(both.there, "print = function() end os.exit, os.remove, os.rename, os.execute, io.popen = nil"); /* names may change */
  seed = 88172645463325252u;
  int fine = 0, rounds = rounds_of(3000);
  for (int round = 0; round < rounds; round++) {
    uns_packet packet;
    assert_int_equal(uns_packet_copy(&packet, &whole), UNS_OK);
    /* In a piece of memory of just its size, so that the sanitizer sees every step beyond it. */
    if (any(3) == 0) packet.size_bytes = (size_t)any(packet.size_bytes);
    for (uint64_t flips = any(4); flips > 0 && packet.size_bytes > 0; flips--) {
      size_t at = (size_t)any(any(4) == 0 ? packet.size_bytes < 400 ? packet.size_bytes : 400 : packet.size_bytes);
      packet.bytes[at] = (uint8_t)(any(2) ? any(256) : packet.bytes[at] ^ (1u << any(8)));
    }
    uns_packet exact = packet;
    exact.bytes = malloc(packet.size_bytes > 0 ? packet.size_bytes : 1);
    memcpy(exact.bytes, packet.bytes, packet.size_bytes);
    int count = uns_codec_decode(both.there, &exact);
    if (count >= 0) fine++;
    assert_int_equal(lua_gettop(both.there), count < 0 ? 1 : count);
    lua_settop(both.there, 0);
    free(exact.bytes);
    uns_packet_deinit(&packet);
    if (round % 100 == 0) lua_gc(both.there, LUA_GCCOLLECT);
  }
  assert_true(fine > 0 && fine < rounds);
  uns_packet_deinit(&whole);
  world_close(&both);
}

/* Bytes that were never a packet: a header, then anything. */
static void survives_anything(void **state) {
  (void)state;
  world both;
  world_open(&both);
  seed = 362436069;
  int rounds = rounds_of(20000);
  for (int round = 0; round < rounds; round++) {
    size_t size = UNS_HEADER_BYTES + (size_t)any(60);
    uint8_t *bytes = malloc(size);
    uns_write_header(bytes, (uint32_t)any(4), 0);
    for (size_t i = UNS_HEADER_BYTES; i < size; i++) {
      bytes[i] = any(2) ? (uint8_t)any(256) : (uint8_t)(any(2) ? UNS_TAG_TABLE + any(32) : any(4));
    }
    uns_packet packet = {bytes, size, size, NULL, 0, 0};
    uns_codec_decode(both.there, &packet);
    lua_settop(both.there, 0);
    free(bytes);
  }
  world_close(&both);
}

static void refuses_code_that_was_changed(void **state) {
  (void)state;
  static const uns_codec_names names = {"argument", 1, false};
  world both;
  world_open(&both);
  run(both.here, "return function() return 1 end");
  uns_packet packet;
  uns_packet_init(&packet);
  assert_int_equal(uns_codec_encode(both.here, 1, 1, &names, &packet), UNS_OK);
  uns_code *code = (uns_code *)(void *)packet.refs[0];
  code->bytes[code->size_bytes / 2] ^= 1;
  assert_int_equal(uns_codec_decode(both.there, &packet), UNS_ECORRUPT);
  assert_non_null(strstr(luaL_tolstring(both.there, -1, NULL), "hash"));
  code->bytes[code->size_bytes / 2] ^= 1;
  assert_int_equal(uns_codec_decode(both.there, &packet), 1);
  uns_packet_deinit(&packet);
  world_close(&both);
}

/* ---- no memory ---- */

/* An allocator for Lua whose `fail_in`-th request from now on fails, and all behind it. */
typedef struct failing {
  long fail_in; /* 0: never */
  long requests;
} failing;

static void *failing_alloc(void *context, void *memory, size_t old_size, size_t size) {
  failing *with = context;
  (void)old_size;
  if (size == 0) {
    free(memory);
    return NULL;
  }
  with->requests++;
  if (with->fail_in > 0 && with->requests >= with->fail_in && (memory == NULL || size > old_size)) return NULL;
  return realloc(memory, size);
}

/* The C side's n-th request fails, for each n: an error, and nothing is lost. */
static void survives_without_memory_in_c(void **state) {
  (void)state;
  static const uns_codec_names names = {"argument", 1, false};
  world both;
  world_open(&both);
  both.mailbox = uns_mailbox_new();
  uns_codec_set_mailbox(both.here, both.mailbox);
  lua_State *L = both.here;
  run(L, everything);
  lua_pushstring(L, "long");
  luaL_Buffer buffer;
  luaL_buffinitsize(L, &buffer, 5000);
  memset(luaL_prepbuffsize(&buffer, 5000), 'l', 5000);
  luaL_addsize(&buffer, 5000);
  luaL_pushresult(&buffer);
  int count = lua_gettop(L);
  bool done = false;
  for (long n = 1; !done; n++) {
    uns_packet packet;
    uns_packet_init(&packet);
    lua_gc(L, LUA_GCCOLLECT); /* so that functions are dumped again */
    uns_alloc_fail_after(n);
    int code = uns_codec_encode(L, 1, count, &names, &packet);
    int decoded = UNS_OK;
    if (code == UNS_OK) decoded = uns_codec_decode(both.there, &packet);
    uns_alloc_fail_after(0);
    done = code == UNS_OK && decoded >= 0;
    if (code != UNS_OK) {
      assert_int_equal(code, UNS_ENOMEM);
      assert_string_equal(lua_tostring(L, -1), "not enough memory");
      assert_int_equal(lua_gettop(L), count + 1);
      assert_int_equal(packet.ref_count, 0);
      assert_null(packet.bytes);
      lua_settop(L, count);
    } else if (decoded < 0) {
      assert_int_equal(decoded, UNS_ENOMEM);
    }
    lua_settop(both.there, 0);
    uns_packet_deinit(&packet);
    for (uns_mail *mail = uns_mailbox_take(both.mailbox), *next; mail != NULL; mail = next) {
      next = mail->next;
      mail->deliver(mail, &both);
    }
    assert_int_equal(uns_codec_lent(L), 0);
    assert_true(n < 1000);
  }
  uns_mailbox_close(both.mailbox);
  world_close(&both);
}

static lua_State *failing_state(failing *with, world *both) {
  lua_State *L = lua_newstate(failing_alloc, with);
  assert_non_null(L);
  luaL_openlibs(L);
  uns_error_open(L);
  uns_codec_open(L);
  (void)both;
  luaL_newlib(L, functions);
  lua_setglobal(L, "spec");
  luaL_newmetatable(L, "spec.Box");
  lua_pushcfunction(L, box_gc);
  lua_setfield(L, -2, "__gc");
  uns_codec_register(L, -1, &box_class);
  uns_codec_register_function(L, holder_call, &holder_class);
  lua_settop(L, 0);
  return L;
}

/* Lua's n-th request fails, for each n, in the encoding and in the decoding state. */
static void survives_without_memory_in_lua(void **state) {
  (void)state;
  static const uns_codec_names names = {"argument", 1, false};
  int step = 1 + 20 / rounds_of(20); /* of many requests, where everything runs slower */
  for (int decoding = 0; decoding < 2; decoding++) {
    bool done = false;
    for (long n = 1; !done; n += n < 100 ? 1 : step) {
      failing with = {0, 0};
      lua_State *from = failing_state(&with, NULL), *to = failing_state(&with, NULL);
      run(from, everything);
      int count = lua_gettop(from);
      uns_packet packet;
      uns_packet_init(&packet);
      if (!decoding) {
        with = (failing){n, 0};
        int code = uns_codec_encode(from, 1, count, &names, &packet);
        with.fail_in = 0;
        if (code != UNS_OK) assert_int_equal(code, UNS_ENOMEM);
        done = code == UNS_OK;
        /* It works again as soon as there is memory. */
        if (code != UNS_OK) assert_int_equal(uns_codec_encode(from, 1, count, &names, &packet), UNS_OK);
      } else {
        assert_int_equal(uns_codec_encode(from, 1, count, &names, &packet), UNS_OK);
        with = (failing){n, 0};
        int code = uns_codec_decode(to, &packet);
        with.fail_in = 0;
        done = code >= 0;
        if (code < 0 && code != UNS_ENOMEM) fail_msg("request %ld: %s", n, luaL_tolstring(to, -1, NULL));
        lua_settop(to, 0);
      }
      assert_int_equal(uns_codec_decode(to, &packet), count);
      uns_packet_deinit(&packet);
      lua_close(to);
      lua_close(from);
      assert_int_equal(counted_alive, 0);
      assert_true(n < 20000);
    }
  }
}

/* ---- all of them ---- */

int main(void) {
  static const struct CMUnitTest in_c[] = {
      cmocka_unit_test(lends_long_strings_and_gets_them_back), cmocka_unit_test(lent_strings_outlive_their_state),
      cmocka_unit_test(survives_damage),                       cmocka_unit_test(survives_anything),
      cmocka_unit_test(refuses_code_that_was_changed),
      cmocka_unit_test(survives_without_memory_in_c),          cmocka_unit_test(survives_without_memory_in_lua),
  };
  enum { IN_C = sizeof in_c / sizeof in_c[0], MOST = 200 };
  static struct CMUnitTest all[MOST];
  world both;
  world_open(&both);
  lua_State *L = both.here;
  if (luaL_dofile(L, CASES)) {
    fprintf(stderr, "%s\n", lua_tostring(L, -1));
    return 1;
  }
  lua_getfield(L, -1, "names");
  size_t count = (size_t)lua_rawlen(L, -1);
  if (count + IN_C > MOST) return 1;
  for (size_t i = 0; i < count; i++) {
    lua_rawgeti(L, -1, (lua_Integer)i + 1);
    all[i] = (struct CMUnitTest){lua_tostring(L, -1), runs_a_case, NULL, NULL, (void *)(uintptr_t)lua_tostring(L, -1)};
    lua_pop(L, 1);
  }
  memcpy(all + count, in_c, sizeof in_c);
  int failed = _cmocka_run_group_tests("codec", all, count + IN_C, NULL, NULL);
  world_close(&both);
  return failed;
}
