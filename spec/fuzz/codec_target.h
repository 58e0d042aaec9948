/*
 * codec_target: any bytes as a packet: for the decoder, in a state with all of unsync's classes, and for the reader and
 * the writer of native tasks.
 *
 * An input is the number of the packet's shared objects, a byte for the kind of each, and the packet's bytes.
 *   - The state has no function left that a message could do harm with: what is rebuilt calls what it names.
 *   - What was decoded goes through encoder and decoder again, what can be read through writer and reader.
 */
#ifndef CODEC_TARGET_H
#define CODEC_TARGET_H

#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/block.h"
#include "core/cell.h"
#include "core/code.h"
#include "core/codec.h"
#include "core/lent.h"
#include "core/reader.h"
#include "core/writer.h"
#include "exec/executors.h"
#include "host/state.h"

enum { CODEC_CODES = 8, CODEC_REFS = 16, CODEC_RUNS = 2000 /* then a new state */ };

/* What a byte of an input stands for: from 0 on the functions of codec_functions, then these, and again from 0. */
enum { CODEC_LENT = CODEC_CODES, CODEC_EMPTY, CODEC_BLOCK, CODEC_PENDING, CODEC_SETTLED, CODEC_DAMAGED, CODEC_KINDS };

static const char codec_functions[] =
    "local function none() return 1 end\n"
    "local function one(a) return function() a = 1 return a end end\n"
    "local function two(a, b) return function() a, b = b, a return a, b end end\n"
    "local function pair(a, b) return {a, b} end\n"
    "local function rest(...) return ... end\n"
    "local function env() return function() return type(x) end end\n"
    "local function five(a, b, c, d, e) return function() return {a, b, c, d, e} end end\n"
    "local function same(a) return a end\n"
    "functions = {none, one, two, pair, rest, env, five, same}\n"
    "kept = {none, one(1), two(1, 2), pair, rest, env(), five(1, 2, 3, 4, 5), same}\n";

static const char codec_tame[] =
    "local keep = {_G = true, string = true, table = true, math = true}\n"
    "for name in pairs(package.loaded) do if not keep[name] then package.loaded[name] = nil end end\n"
    "local words, fail, text = string.gmatch, error, tostring\n"
    "local function only(from, names)\n"
    "  local allowed = {}\n"
    "  for name in words(names, '%S+') do allowed[name] = true end\n"
    "  for name in pairs(from) do if not allowed[name] then from[name] = nil end end\n"
    "end\n"
    "only(string, 'byte char len lower upper reverse sub pack')\n"
    "only(table, 'pack insert remove')\n"
    "only(math, 'floor max min type pi')\n"
    "only(_G, 'assert error getmetatable ipairs next pairs pcall rawequal rawget rawlen select setmetatable "
    "tonumber tostring type string table math _G')\n"
    "require = function(name) fail('no module ' .. text(name)) end\n";

static struct {
  uns_executors *executors;
  uns_runtime *runtime;
  uns_code *codes[CODEC_CODES];
  uns_code *damaged;
  char *text; /* that strings are lent from */
  unsigned runs;
} codec_world;

static void codec_lent_free(uns_shared *object) { free(object); }
static const uns_shared_class codec_lent_class = {UNS_SHARED_LENT, "lent", codec_lent_free};

static void codec_die(const char *what) {
  fprintf(stderr, "codec target: %s\n", what);
  abort();
}

static void codec_say_nothing(uns_runtime *runtime, const char *text) { (void)runtime, (void)text; }

static void codec_open_state(const char *chunk) {
  codec_world.runtime = uns_state_new(codec_world.executors);
  if (codec_world.runtime != NULL) codec_world.runtime->report = codec_say_nothing; /* failures that nobody looks at */
  if (codec_world.runtime == NULL || luaL_dostring(codec_world.runtime->L, chunk)) codec_die("no state");
  lua_settop(codec_world.runtime->L, 0);
}

/* The code of the functions in the table `kept` of a state. */
static void codec_take_codes(lua_State *L, uns_code **codes) {
  static const uns_codec_names names = {"argument", 1, false};
  lua_getglobal(L, "kept");
  for (int i = 0; i < CODEC_CODES; i++) {
    uns_packet packet;
    uns_packet_init(&packet);
    lua_rawgeti(L, -1, i + 1);
    if (uns_codec_encode(L, lua_gettop(L), 1, &names, &packet) != UNS_OK) codec_die("no code");
    codes[i] = uns_shared_ref(packet.refs[0]);
    uns_packet_deinit(&packet);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

static void codec_open(void) {
  codec_world.executors = uns_executors_new();
  if (codec_world.executors == NULL) codec_die("no executors");
  codec_world.executors->new_state = uns_state_new;
  codec_world.executors->free_state = uns_state_free;
  codec_world.executors->closing = true; /* no thread and no process is started */
  codec_open_state(codec_functions);
  codec_take_codes(codec_world.runtime->L, codec_world.codes);
  uns_state_free(codec_world.runtime);
  codec_world.damaged = uns_code_new(codec_world.codes[1]->bytes, codec_world.codes[1]->size_bytes);
  if (codec_world.damaged != NULL) codec_world.damaged->bytes[codec_world.damaged->size_bytes / 2] ^= 4;
  codec_world.text = malloc(UNS_LENT_MIN);
  if (codec_world.text == NULL || codec_world.damaged == NULL) codec_die("no memory");
  memset(codec_world.text, 'l', UNS_LENT_MIN);
  codec_open_state(codec_tame);
}

static inline void codec_close(void) {
  uns_state_free(codec_world.runtime);
  uns_executors_free(codec_world.executors);
  for (int i = 0; i < CODEC_CODES; i++) uns_shared_unref(codec_world.codes[i]);
  uns_shared_unref(codec_world.damaged);
  free(codec_world.text);
  memset(&codec_world, 0, sizeof codec_world);
}

static uns_shared *codec_object(uint8_t byte) {
  unsigned kind = byte % CODEC_KINDS;
  if (kind < CODEC_CODES) return uns_shared_ref(codec_world.codes[kind]);
  if (kind == CODEC_LENT || kind == CODEC_EMPTY) {
    uns_lent *lent = calloc(1, sizeof *lent);
    if (lent == NULL) codec_die("no memory");
    uns_shared_init(&lent->base, &codec_lent_class);
    lent->bytes = codec_world.text;
    lent->size_bytes = kind == CODEC_LENT ? UNS_LENT_MIN : 0;
    return &lent->base;
  }
  if (kind == CODEC_BLOCK) {
    uns_block *block = uns_block_new(20);
    if (block == NULL) codec_die("no memory");
    memset(block->bytes, 'b', 20);
    return &block->base;
  }
  if (kind == CODEC_DAMAGED) return uns_shared_ref(codec_world.damaged);
  uns_cell *cell = uns_cell_new();
  if (cell == NULL) codec_die("no memory");
  if (kind == CODEC_SETTLED) {
    uns_packet outcome;
    uns_packet_init(&outcome);
    uns_writer writer;
    uns_writer_init(&writer, &outcome);
    uns_writer_integer(&writer, 42);
    if (uns_writer_finish(&writer) != UNS_OK) codec_die("no outcome");
    uns_writer_deinit(&writer);
    uns_cell_settle(cell, UNS_CELL_DONE, &outcome);
  }
  return &cell->base;
}

/* Reads all of it, as a native task may; so many values at most, for what is shared is met again and again. */
static void codec_walk(const uns_reader *reader, const uns_item *item, int depth, unsigned *budget) {
  if (*budget == 0) return;
  --*budget;
  if (item->type == UNS_ITEM_STRING) {
    size_t size;
    uns_shared *held;
    const char *bytes = uns_reader_string(reader, item->as.place, &size, &held);
    unsigned sum = 0;
    for (size_t i = 0; i < size; i++) sum += (unsigned char)bytes[i];
    if (sum == UINT32_MAX) abort();
  }
  if (item->type != UNS_ITEM_TABLE || depth == 0) return;
  uns_walk walk = {.table = item->as.place};
  uns_item key, value;
  while (*budget > 0 && uns_walk_next(reader, &walk, &key, &value)) {
    codec_walk(reader, &key, depth - 1, budget);
    codec_walk(reader, &value, depth - 1, budget);
  }
  uint32_t length = uns_reader_length(reader, item->as.place);
  uns_reader_pairs(reader, item->as.place);
  uns_walk jump = {.table = item->as.place};
  uns_walk_to(reader, &jump, length / 2 + 1);
  if (uns_walk_next(reader, &jump, &key, &value)) codec_walk(reader, &value, 0, budget);
}

static void codec_read_and_write(const uns_packet *packet) {
  uns_reader reader;
  if (uns_reader_open(&reader, packet) == UNS_OK) {
    uns_packet copy;
    uns_packet_init(&copy);
    uns_writer writer;
    int status = uns_writer_init(&writer, &copy);
    for (uint32_t i = 0; i < reader.count; i++) {
      uns_item item = uns_reader_value(&reader, i);
      unsigned budget = 5000;
      codec_walk(&reader, &item, 40, &budget);
      if (status == UNS_OK) status = uns_writer_item(&writer, &reader, &item);
    }
    if (status == UNS_OK) status = uns_writer_finish(&writer);
    uns_reader again;
    if (status == UNS_OK && (uns_reader_open(&again, &copy) != UNS_OK || again.count != reader.count)) {
      codec_die("what was written cannot be read");
    }
    if (status == UNS_OK) uns_reader_close(&again);
    uns_writer_deinit(&writer);
    uns_packet_deinit(&copy);
  }
  uns_reader_close(&reader);
}

static void codec_decode(const uns_packet *packet) {
  static const uns_codec_names names = {"argument", 1, false};
  lua_State *L = codec_world.runtime->L;
  uns_codec_modules(L, packet);
  lua_settop(L, 0);
  int count = uns_codec_decode(L, packet);
  if (lua_gettop(L) != (count < 0 ? 1 : count)) codec_die("the stack is not as promised");
  if (count > 0) {
    uns_packet again;
    uns_packet_init(&again);
    int status = uns_codec_encode(L, 1, count, &names, &again);
    if (status == UNS_OK) {
      int back = uns_codec_decode(L, &again);
      if (back < 0 && back == UNS_ECORRUPT) codec_die(luaL_tolstring(L, -1, NULL));
      if (back >= 0 && back != count) codec_die("other values came back");
    } else if (again.bytes != NULL || again.ref_count != 0) {
      codec_die("a packet that failed is not empty");
    }
    uns_packet_deinit(&again);
  }
  lua_settop(L, 0);
}

static inline int codec_target(const uint8_t *data, size_t size) {
  if (codec_world.runtime == NULL) codec_open();
  size_t refs = size > 0 ? data[0] % (CODEC_REFS + 1) : 0;
  if (size < 1 + refs) return 0;
  uns_packet packet;
  uns_packet_init(&packet);
  for (size_t i = 0; i < refs; i++) {
    if (uns_packet_add_ref(&packet, codec_object(data[1 + i])) < 0) codec_die("no memory");
  }
  /* In a piece of memory of just its size, so that each step beyond it is seen. */
  packet.size_bytes = packet.capacity_bytes = size - 1 - refs;
  packet.bytes = uns_malloc(packet.size_bytes > 0 ? packet.size_bytes : 1);
  if (packet.bytes == NULL) codec_die("no memory");
  memcpy(packet.bytes, data + 1 + refs, packet.size_bytes);
  codec_read_and_write(&packet);
  codec_decode(&packet);
  uns_packet_deinit(&packet);
  uns_runtime_turn(codec_world.runtime, false); /* what came home */
  if (++codec_world.runs % 16 == 0) lua_gc(codec_world.runtime->L, LUA_GCCOLLECT);
  if (codec_world.runs % CODEC_RUNS == 0) {
    uns_state_free(codec_world.runtime);
    codec_open_state(codec_tame);
  }
  return 0;
}

#endif
