/* codec: damaged packets, changed code, and no memory. Whatever comes, an error comes of it, and nothing is lost. */
#include "codec_world.h"

#include "core/code.h"
#include "core/lent.h"
#include "core/tags.h"

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
  run(both.there,
      "print = function() end os.exit, os.remove, os.rename, os.execute, io.popen = nil"); /* names may change */
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

static lua_State *failing_state(failing *with) {
  lua_State *L = lua_newstate(failing_alloc, with);
  assert_non_null(L);
  state_open(L, NULL);
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
      lua_State *from = failing_state(&with), *to = failing_state(&with);
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

int main(void) {
  static const struct CMUnitTest tests[] = {
      cmocka_unit_test(survives_damage),
      cmocka_unit_test(survives_anything),
      cmocka_unit_test(refuses_code_that_was_changed),
      cmocka_unit_test(survives_without_memory_in_c),
      cmocka_unit_test(survives_without_memory_in_lua),
  };
  return cmocka_run_group_tests_name("codec, damaged", tests, NULL, NULL);
}
