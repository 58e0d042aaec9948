/*
 * codec: what crosses, what is refused and why, and what is lent. The cases are in spec/support/codec/, and
 * run "here"; what Lua cannot say is below. Damaged bytes, and no memory: codec_damage_test.c.
 */
#include "codec_world.h"
#include "lua_cases.h"

#include <stdio.h>

#include "core/codec_state.h"

#define CASES "spec/support/codec_cases.lua"

/* ---- the cases in Lua ---- */

static void runs_a_case(void **state) {
  world both;
  world_open(&both);
  lua_State *L = both.here;
  lua_cases_run_one(L, CASES, *state);
  world_close(&both);
}

/* Every function is made by a maker, whatever it looks like; and code is loaded once, however often it comes. */
static void loads_code_once(void **state) {
  (void)state;
  static const uns_codec_names names = {"argument", 1, false};
  world both;
  world_open(&both);
  run(both.here,
      "local a, b, c = 1, 2, 3 local list = {}\n"
      "for i = 1, 50 do list[i] = function() return i end end\n"
      "return list, function() end, function() return a end, function(...) return a, b, c, ... end, function() b = a end");
  for (int round = 0; round < 3; round++) {
    uns_packet packet;
    uns_packet_init(&packet);
    assert_int_equal(uns_codec_encode(both.here, 1, 5, &names, &packet), UNS_OK);
    assert_int_equal(uns_codec_decode(both.there, &packet), 5);
    uns_packet_deinit(&packet);
    lua_settop(both.there, 0);
  }
  uns_codec *codec = uns_codec_of(both.there);
  assert_int_equal(codec->makers.used, 5);
  lua_rawgeti(both.there, LUA_REGISTRYINDEX, codec->decoder);
  lua_getupvalue(both.there, 1, UNS_UP_MAKERS);
  for (int i = 1; i <= 5; i++) assert_int_equal(lua_rawgeti(both.there, 2, i), LUA_TFUNCTION);
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

/* ---- all of them ---- */

int main(void) {
  static const struct CMUnitTest in_c[] = {
      cmocka_unit_test(lends_long_strings_and_gets_them_back),
      cmocka_unit_test(lent_strings_outlive_their_state),
      cmocka_unit_test(loads_code_once),
  };
  world both;
  world_open(&both);
  lua_State *L = both.here;
  int failed = lua_cases_run("codec", L, CASES, runs_a_case, in_c, sizeof in_c / sizeof in_c[0], NULL, NULL);
  world_close(&both);
  return failed;
}
