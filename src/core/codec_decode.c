/*
 * codec_decode: the bytes and references of a packet (core/tags.h) to values on a Lua stack.
 *
 * The mirror of codec_encode.c, which puts off what is nested deeper than UNS_INLINE_DEPTH; so does this.
 *   - Trusts nothing: every length, depth, index and tag is checked against what is there. Room is made in advance only
 *     for as much as the remaining bytes can hold, all tables of the packet together.
 *   - Code runs only as a packed object's own function, or as the body of a module that is required.
 *   - Whatever goes wrong is raised as a Lua error, which uns_codec_decode catches.
 * Here: values and tables, and the order of all. The rest: codec_decode_object.c, codec_decode_names.c.
 */
#include <lauxlib.h>
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "core/block.h"
#include "core/codec_decoder.h"
#include "core/error.h"
#include "core/lent.h"

enum { COLLECTOR_RESTS_BYTES = 1 << 16 };

void uns_decoder_corrupt(uns_decoder *d, const char *what) {
  uns_error_push(d->L, "corrupt", "damaged message: %s at byte %d of %d", what, (int)(d->at - d->packet->bytes),
                 (int)d->packet->size_bytes);
  d->code = UNS_ECORRUPT;
  lua_error(d->L);
  abort();
}

void uns_decoder_no_memory(uns_decoder *d) {
  d->code = UNS_ENOMEM;
  uns_codec_no_memory(d->L, d->codec);
}

/* ---- what is referred to ---- */

void uns_decoder_push_slot(uns_decoder *d, int slot) {
  if (!lua_isnil(d->L, slot)) {
    lua_pushvalue(d->L, slot);
  } else {
    lua_newtable(d->L);
    lua_pushvalue(d->L, -1);
    lua_replace(d->L, slot);
  }
}

void uns_decoder_remember(uns_decoder *d, const uint8_t *from) {
  lua_State *L = d->L;
  uns_decoder_push_slot(d, UNS_SLOT_REMEMBERED);
  lua_pushvalue(L, -2);
  lua_rawseti(L, -2, from - d->packet->bytes);
  lua_pop(L, 1);
}

void uns_decoder_push_remembered(uns_decoder *d) {
  uint64_t offset = take_varint(d);
  if (offset > LUA_MAXINTEGER || lua_isnil(d->L, UNS_SLOT_REMEMBERED) ||
      lua_rawgeti(d->L, UNS_SLOT_REMEMBERED, (lua_Integer)offset) == LUA_TNIL) {
    uns_decoder_corrupt(d, "reference to nothing");
  }
}

/* The string on top of the stack gets the next number. */
static void number_string(uns_decoder *d) {
  lua_State *L = d->L;
  uns_decoder_push_slot(d, UNS_SLOT_STRINGS);
  lua_pushvalue(L, -2);
  lua_rawseti(L, -2, ++d->string_count);
  lua_pop(L, 1);
}

static inline void push_numbered(uns_decoder *d, uint64_t number) {
  if (number >= (uint64_t)d->string_count) uns_decoder_corrupt(d, "string without a number");
  lua_rawgeti(d->L, UNS_SLOT_STRINGS, (lua_Integer)number + 1);
}

/* ---- putting off ---- */

void uns_decoder_put_off(uns_decoder *d, uns_later later) {
  lua_State *L = d->L;
  if (d->item_count == d->item_capacity) {
    size_t capacity = d->item_capacity == 0 ? 16 : d->item_capacity * 2;
    uns_later *items = uns_realloc(d->items, capacity * sizeof *items);
    if (items == NULL) uns_decoder_no_memory(d);
    d->items = items;
    d->item_capacity = capacity;
  }
  uns_decoder_push_slot(d, UNS_SLOT_PUT_OFF);
  lua_pushvalue(L, -2);
  lua_rawseti(L, -2, (lua_Integer)d->item_count + 1);
  lua_pop(L, 1);
  d->items[d->item_count++] = later;
}

/* ---- values ---- */

static void push_value(uns_decoder *d);

static void push_lent(uns_decoder *d) {
  const uns_shared *shared = take_ref(d);
  if (shared->class->kind == UNS_SHARED_LENT) {
    const uns_lent *lent = (const uns_lent *)(const void *)shared;
    lua_pushlstring(d->L, lent->bytes, lent->size_bytes);
  } else if (shared->class->kind == UNS_SHARED_BLOCK) {
    const uns_block *block = (const uns_block *)(const void *)shared;
    lua_pushlstring(d->L, block->bytes, block->size_bytes);
  } else {
    uns_decoder_corrupt(d, "no string");
  }
}

/* ---- tables ---- */

static inline uint32_t take_u32(uns_decoder *d) {
  uint32_t value;
  memcpy(&value, take(d, 4), 4);
  return value;
}

/* Reads a run of numbers into the table at `table` from the key `first` on; how many. */
static lua_Integer take_run(uns_decoder *d, unsigned tag, int table, lua_Integer first, lua_Integer most) {
  lua_State *L = d->L;
  static const uint8_t widths[] = {1, 2, 4, 8, 8};
  size_t width = widths[tag - UNS_TAG_INTS8];
  uint32_t count = take_u32(d);
  if (count == 0 || count > most) uns_decoder_corrupt(d, "bad run");
  const uint8_t *from = take(d, count * width);
  const uint8_t *end = from + count * width;
  lua_Integer key = first;
#define EACH(type, push)                            \
  for (; from < end; from += sizeof(type), key++) { \
    type value;                                     \
    memcpy(&value, from, sizeof value);             \
    push(L, value);                                 \
    lua_rawseti(L, table, key);                     \
  }
  switch (tag) {
    case UNS_TAG_INTS8: EACH(int8_t, lua_pushinteger) break;
    case UNS_TAG_INTS16: EACH(int16_t, lua_pushinteger) break;
    case UNS_TAG_INTS32: EACH(int32_t, lua_pushinteger) break;
    case UNS_TAG_INTS64: EACH(lua_Integer, lua_pushinteger) break;
    default: EACH(lua_Number, lua_pushnumber)
  }
#undef EACH
  return count;
}

/* True if the metatable on top of the stack is that of a class of userdata, by luaL_newmetatable. */
static bool is_of_userdata(uns_decoder *d) {
  lua_State *L = d->L;
  lua_pushliteral(L, "__name");
  bool is = false;
  if (lua_rawget(L, -2) == LUA_TSTRING) {
    lua_rawget(L, LUA_REGISTRYINDEX);
    is = lua_rawequal(L, -1, -2);
  }
  lua_pop(L, 1);
  return is;
}

/* Reads the metatable of the table at `table`. No finalizer comes with a message but one that a module here holds: what
   was sent by value has none, and those of userdata would not look at what they are given. */
static void take_metatable(uns_decoder *d, int table) {
  lua_State *L = d->L;
  unsigned tag = *take(d, 1);
  uns_push_tagged(d, tag);
  if (lua_type(L, -1) != LUA_TTABLE) uns_decoder_corrupt(d, "no metatable");
  lua_pushliteral(L, "__gc");
  bool ends = lua_rawget(L, -2) != LUA_TNIL, in_c = lua_iscfunction(L, -1);
  lua_pop(L, 1);
  if (ends && (tag != UNS_TAG_NAMED || (in_c && is_of_userdata(d)))) uns_decoder_corrupt(d, "a finalizer");
  lua_setmetatable(L, table);
}

/* Fills the table on top of the stack. */
static void fill_table(uns_decoder *d, uint32_t items, uint32_t pairs, bool meta) {
  lua_State *L = d->L;
  luaL_checkstack(L, 6, NULL);
  int table = lua_gettop(L);
  d->depth++;
  for (lua_Integer key = 1; key <= items;) {
    unsigned tag = *take(d, 1);
    if (tag >= UNS_TAG_INTS8 && tag <= UNS_TAG_FLOATS) {
      key += take_run(d, tag, table, key, (lua_Integer)items - key + 1);
    } else {
      uns_push_tagged(d, tag);
      lua_rawseti(L, table, key++);
    }
  }
  for (; pairs > 0; pairs--) {
    push_value(d);
    if (lua_isnil(L, -1)) uns_decoder_corrupt(d, "nil as a key");
    if (lua_type(L, -1) == LUA_TNUMBER && isnan(lua_tonumber(L, -1))) uns_decoder_corrupt(d, "NaN as a key");
    push_value(d);
    lua_rawset(L, table);
  }
  if (meta) take_metatable(d, table);
  d->depth--;
}

static void push_table(uns_decoder *d, unsigned tag) {
  lua_State *L = d->L;
  const uint8_t *from = d->at - 1;
  bool record = (tag & ~3u) == UNS_TAG_RECORD, later = !record && (tag & UNS_LATER_BIT) != 0;
  uint32_t items = record ? 0 : take_u32(d), pairs = take_u32(d);
  uint64_t claims = items + 2 * (uint64_t)pairs;
  if (claims > d->claims || items >= INT_MAX || pairs >= INT_MAX) uns_decoder_corrupt(d, "too many fields");
  d->claims -= claims;
  if (!later && d->depth >= UNS_INLINE_DEPTH + UNS_REBUILT_DEPTH) uns_decoder_corrupt(d, "nested too deeply");
  luaL_checkstack(L, 10, NULL);
  /* One item more than there is leaves the end of a long list in the array part: whoever sends it on finds it faster. */
  lua_createtable(L, (int)(items >= UNS_INLINE_DEPTH ? items + 1 : items), (int)pairs);
  if (tag & UNS_SHARED_BIT) uns_decoder_remember(d, from);
  bool meta = (tag & UNS_META_BIT) != 0;
  if (later) uns_decoder_put_off(d, (uns_later){(uint8_t)tag, items, pairs, NULL});
  else fill_table(d, items, pairs, meta);
}

static void take_queue(uns_decoder *d, size_t from);

static void push_rebuilt(uns_decoder *d, unsigned tag) {
  lua_State *L = d->L;
  const uint8_t *from = d->at - 1;
  uint64_t count = take_varint(d);
  if (count >= left(d) || count > INT_MAX - LUA_MINSTACK) uns_decoder_corrupt(d, "cut short");
  if (d->rebuilding == UNS_REBUILT_DEPTH) uns_decoder_corrupt(d, "nested too deeply");
  luaL_checkstack(L, (int)count + LUA_MINSTACK, NULL);
  size_t queued = d->item_count;
  d->rebuilding++;
  d->depth++;
  for (uint64_t n = 0; n <= count; n++) push_value(d);
  d->depth--;
  take_queue(d, queued);
  d->rebuilding--;
  lua_call(L, (int)count, 1);
  if (lua_isnil(L, -1)) uns_decoder_corrupt(d, "an object was not rebuilt");
  if (tag & UNS_SHARED_BIT) uns_decoder_remember(d, from);
}

/* ---- all of it ---- */

void uns_push_tagged(uns_decoder *d, unsigned tag) {
  lua_State *L = d->L;
  if (tag >= UNS_TAG_SMALL_BASE) {
    lua_pushinteger(L, (lua_Integer)(tag - UNS_TAG_SMALL_BASE));
    return;
  }
  if (tag >= UNS_TAG_STRING_BASE) {
    size_t size = tag - UNS_TAG_STRING_BASE;
    lua_pushlstring(L, (const char *)take(d, size), size);
    return;
  }
  if (tag >= UNS_TAG_OLD_BASE) {
    push_numbered(d, tag - UNS_TAG_OLD_BASE);
    return;
  }
  switch (tag) {
    case UNS_TAG_NIL: lua_pushnil(L); break;
    case UNS_TAG_FALSE: lua_pushboolean(L, false); break;
    case UNS_TAG_TRUE: lua_pushboolean(L, true); break;
    case UNS_TAG_INT8: lua_pushinteger(L, (int8_t)*take(d, 1)); break;
    case UNS_TAG_INT16: {
      int16_t value;
      memcpy(&value, take(d, 2), 2);
      lua_pushinteger(L, value);
      break;
    }
    case UNS_TAG_INT32: {
      int32_t value;
      memcpy(&value, take(d, 4), 4);
      lua_pushinteger(L, value);
      break;
    }
    case UNS_TAG_INT64: {
      lua_Integer value;
      memcpy(&value, take(d, 8), 8);
      lua_pushinteger(L, value);
      break;
    }
    case UNS_TAG_FLOAT: {
      lua_Number value;
      memcpy(&value, take(d, 8), 8);
      lua_pushnumber(L, value);
      break;
    }
    case UNS_TAG_STRING:
    case UNS_TAG_STRING_NEW: {
      size_t size = *take(d, 1);
      lua_pushlstring(L, (const char *)take(d, size), size);
      if (tag == UNS_TAG_STRING_NEW) number_string(d);
      break;
    }
    case UNS_TAG_STRING_OLD: push_numbered(d, take_varint(d)); break;
    case UNS_TAG_BYTES:
    case UNS_TAG_BYTES | UNS_SHARED_BIT: {
      const uint8_t *from = d->at - 1;
      uint64_t size = take_varint(d);
      if (size > left(d)) uns_decoder_corrupt(d, "cut short");
      lua_pushlstring(L, (const char *)take(d, (size_t)size), (size_t)size);
      if (tag & UNS_SHARED_BIT) uns_decoder_remember(d, from);
      break;
    }
    case UNS_TAG_LENT:
    case UNS_TAG_LENT | UNS_SHARED_BIT: {
      const uint8_t *from = d->at - 1;
      push_lent(d);
      if (tag & UNS_SHARED_BIT) uns_decoder_remember(d, from);
      break;
    }
    case UNS_TAG_REF: uns_decoder_push_remembered(d); break;
    case UNS_TAG_GLOBALS: lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS); break;
    case UNS_TAG_NAMED: uns_push_named(d); break;
    case UNS_TAG_REBUILT:
    case UNS_TAG_REBUILT | UNS_SHARED_BIT: push_rebuilt(d, tag); break;
    default:
      if (tag >= UNS_TAG_TABLE && tag < UNS_TAG_FUNCTION) push_table(d, tag);
      else if (tag >= UNS_TAG_FUNCTION && tag < UNS_TAG_OBJECT) uns_push_function(d, tag);
      else if (tag >= UNS_TAG_OBJECT && tag < UNS_TAG_REBUILT) uns_push_object(d, tag);
      else uns_decoder_corrupt(d, "unknown tag");
  }
}

static void push_value(uns_decoder *d) { uns_push_tagged(d, *take(d, 1)); }

/* Reads the content that was put off since the queue was `from` long, and what that puts off, until there is none. */
static void take_queue(uns_decoder *d, size_t from) {
  lua_State *L = d->L;
  int depth = d->depth;
  luaL_checkstack(L, 10, NULL);
  int object = lua_gettop(L) + 1;
  for (size_t next = from; next < d->item_count; next++) {
    uns_later now = d->items[next];
    d->depth = 0;
    lua_rawgeti(L, UNS_SLOT_PUT_OFF, (lua_Integer)next + 1);
    lua_pushnil(L);
    lua_rawseti(L, UNS_SLOT_PUT_OFF, (lua_Integer)next + 1);
    if (now.class != NULL) uns_fill_object(d, now.class, (int)now.items);
    else if ((now.tag & ~3u) == UNS_TAG_FUNCTION) uns_fill_function(d, (int)now.items);
    else fill_table(d, now.items, now.pairs, (now.tag & UNS_META_BIT) != 0);
    lua_settop(L, object - 1);
  }
  d->item_count = from;
  d->depth = depth;
}

/* The decoder as light userdata. Returns the values. */
int uns_codec_decoder(lua_State *L) {
  uns_decoder *d = lua_touserdata(L, 1);
  d->L = L;
  lua_settop(L, UNS_SLOT_NAMED);
  const uns_packet *packet = d->packet;
  size_t end = 0;
  d->at = packet->bytes;
  if (packet->size_bytes == 0) uns_decoder_no_memory(d); /* for it when it was to be written: core/packet.h */
  if (packet->bytes == NULL || !uns_read_header(packet->bytes, packet->size_bytes, &d->count, &end)) {
    uns_decoder_corrupt(d, "no header");
  }
  d->at = packet->bytes + UNS_HEADER_BYTES;
  d->end = packet->bytes + end;
  d->claims = left(d);
  if (d->count > left(d) || d->count > INT_MAX - LUA_MINSTACK) uns_decoder_corrupt(d, "cut short");
  luaL_checkstack(L, (int)d->count + LUA_MINSTACK, "too many values");
  for (uint32_t i = 0; i < d->count; i++) push_value(d);
  take_queue(d, 0);
  if (d->at != d->end) uns_decoder_corrupt(d, "something behind the end");
  return (int)d->count;
}

int uns_codec_decode(lua_State *L, const uns_packet *packet) {
  uns_codec *codec = uns_codec_of(L);
  lua_State *T = codec->running == 0 ? codec->thread : L;
  if (codec->closed || !lua_checkstack(L, LUA_MINSTACK) || !lua_checkstack(T, LUA_MINSTACK)) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, codec->no_memory);
    return codec->closed ? UNS_ECLOSED : UNS_ENOMEM;
  }
  uns_decoder d;
  memset(&d, 0, offsetof(uns_decoder, few_names));
  d.codec = codec;
  d.packet = packet;
  /* What is read becomes live data: a collector that goes over it meanwhile finds nothing to free. */
  bool rests = packet->size_bytes >= COLLECTOR_RESTS_BYTES && lua_gc(L, LUA_GCISRUNNING);
  if (rests) lua_gc(L, LUA_GCSTOP);
  int bottom = lua_gettop(T);
  lua_rawgeti(T, LUA_REGISTRYINDEX, codec->decoder);
  lua_pushlightuserdata(T, &d);
  codec->running++;
  int status = lua_pcall(T, 1, LUA_MULTRET, 0);
  codec->running--;
  if (rests) lua_gc(L, LUA_GCRESTART);
  uns_free(d.items);
  if (d.names != d.few_names) uns_free(d.names);
  int code = status == LUA_OK ? (int)d.count : d.code < 0 ? d.code : status == LUA_ERRMEM ? UNS_ENOMEM : UNS_ESYSTEM;
  if (T != L) {
    int results = lua_gettop(T) - bottom;
    if (!lua_checkstack(L, results)) {
      lua_settop(T, bottom);
      lua_rawgeti(L, LUA_REGISTRYINDEX, codec->no_memory);
      return UNS_ENOMEM;
    }
    lua_xmove(T, L, results);
  }
  return code;
}
