/*
 * codec_decode: the bytes and references of a packet (core/tags.h) to values on a Lua stack.
 *
 * The mirror of codec_encode.c, which puts off what is nested deeper than UNS_INLINE_DEPTH; so does this.
 *   - Trusts nothing: every length, depth, index and tag is checked against what is there. Room is made in advance only
 *     for as much as the remaining bytes can hold, all tables of the packet together.
 *   - Code runs only as a packed object's own function, or as the body of a module that is required.
 *   - Whatever goes wrong is raised as a Lua error, which uns_codec_decode catches.
 */
#include <lauxlib.h>
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "core/block.h"
#include "core/codec_state.h"
#include "core/error.h"
#include "core/lent.h"
#include "core/tags.h"

enum { REBUILT_DEPTH = 16, COLLECTOR_RESTS_BYTES = 1 << 16 };

/* Stack slots at the bottom of the frame; nil until needed. */
enum { SLOT_SELF = 1, SLOT_REMEMBERED, SLOT_STRINGS, SLOT_QUEUE, SLOT_NAMED };

/* Content that was put off. Its object is in the queue at the same place, from 1. */
typedef struct item {
  uint8_t tag;
  uint32_t items, pairs; /* of a table; of a function or an object, `items` is the number of upvalues or parts */
  const uns_codec_class *class;
} item;

/* What is called so, in the packet's bytes. */
typedef struct name {
  const char *module, *field;
  size_t module_size, field_size;
  bool met; /* before: from the second time on it is kept in SLOT_NAMED */
} name;

typedef struct decoder {
  lua_State *L;
  uns_codec *codec;
  const uns_packet *packet;
  const uint8_t *at, *end;
  uint32_t count; /* of the values */
  int depth, rebuilding;
  uint64_t claims; /* how many fields there may be altogether, by the size of the packet */
  lua_Integer string_count;
  item *items; /* owned */
  size_t item_count, item_capacity;
  name *names; /* NULL: not read yet; owned, where it is not `few_names` */
  size_t name_count;
  int code;          /* what uns_codec_decode returns for the error that is raised */
  name few_names[4]; /* last, as it is not zeroed */
} decoder;

static _Noreturn void corrupt(decoder *d, const char *what) {
  uns_error_push(d->L, "corrupt", "damaged message: %s at byte %d of %d", what, (int)(d->at - d->packet->bytes),
                 (int)d->packet->size_bytes);
  d->code = UNS_ECORRUPT;
  lua_error(d->L);
  abort();
}

static _Noreturn void raise_no_memory(decoder *d) {
  d->code = UNS_ENOMEM;
  uns_codec_no_memory(d->L, d->codec);
}

/* ---- bytes ---- */

static inline size_t left(const decoder *d) { return (size_t)(d->end - d->at); }

/* Moves behind `size` bytes that must be there, and returns where they begin. */
static inline const uint8_t *take(decoder *d, size_t size) {
  if (size > left(d)) corrupt(d, "cut short");
  const uint8_t *from = d->at;
  d->at += size;
  return from;
}

static inline uint64_t take_varint(decoder *d) {
  uint64_t value;
  if (!uns_read_varint(&d->at, d->end, &value)) corrupt(d, "bad number");
  return value;
}

static inline uint32_t take_u32(decoder *d) {
  uint32_t value;
  memcpy(&value, take(d, 4), 4);
  return value;
}

static uns_shared *take_ref(decoder *d) {
  uint64_t ref = take_varint(d);
  if (ref >= d->packet->ref_count) corrupt(d, "bad reference");
  return d->packet->refs[ref];
}

/* ---- what is referred to ---- */

/* Pushes the table in `slot`, made at its first use. */
static void push_slot(decoder *d, int slot) {
  if (!lua_isnil(d->L, slot)) {
    lua_pushvalue(d->L, slot);
  } else {
    lua_newtable(d->L);
    lua_pushvalue(d->L, -1);
    lua_replace(d->L, slot);
  }
}

/* The value on top of the stack was written at `from`, with the SHARED bit. */
static void remember(decoder *d, const uint8_t *from) {
  lua_State *L = d->L;
  push_slot(d, SLOT_REMEMBERED);
  lua_pushvalue(L, -2);
  lua_rawseti(L, -2, from - d->packet->bytes);
  lua_pop(L, 1);
}

/* Pushes it again. */
static void push_remembered(decoder *d) {
  uint64_t offset = take_varint(d);
  if (offset > LUA_MAXINTEGER || lua_isnil(d->L, SLOT_REMEMBERED) ||
      lua_rawgeti(d->L, SLOT_REMEMBERED, (lua_Integer)offset) == LUA_TNIL) {
    corrupt(d, "reference to nothing");
  }
}

/* The string on top of the stack gets the next number. */
static void number_string(decoder *d) {
  lua_State *L = d->L;
  push_slot(d, SLOT_STRINGS);
  lua_pushvalue(L, -2);
  lua_rawseti(L, -2, ++d->string_count);
  lua_pop(L, 1);
}

static inline void push_numbered(decoder *d, uint64_t number) {
  if (number >= (uint64_t)d->string_count) corrupt(d, "string without a number");
  lua_rawgeti(d->L, SLOT_STRINGS, (lua_Integer)number + 1);
}

static void read_names(decoder *d) {
  const uint8_t *at = d->end, *end = d->packet->bytes + d->packet->size_bytes;
  uint64_t count;
  if (at == end || !uns_read_varint(&at, end, &count)) corrupt(d, "no names");
  if (count > (size_t)(end - at) / 2 || count == 0) corrupt(d, "too many names");
  size_t few = sizeof d->few_names / sizeof d->few_names[0];
  name *names = count <= few ? d->few_names : uns_malloc((size_t)count * sizeof *names);
  if (names == NULL) raise_no_memory(d);
  d->names = names;
  for (size_t i = 0; i < count; i++) {
    uint64_t module_size, field_size;
    if (!uns_read_varint(&at, end, &module_size) || module_size > (size_t)(end - at)) corrupt(d, "bad name");
    const char *module = (const char *)at;
    at += module_size;
    if (!uns_read_varint(&at, end, &field_size) || field_size > (size_t)(end - at)) corrupt(d, "bad name");
    names[i] = (name){module, (const char *)at, (size_t)module_size, (size_t)field_size, false};
    at += field_size;
  }
  d->name_count = (size_t)count;
}

static void push_named(decoder *d) {
  lua_State *L = d->L;
  uint64_t index = take_varint(d);
  if (d->names == NULL) read_names(d);
  if (index >= d->name_count) corrupt(d, "bad name");
  luaL_checkstack(L, 10, NULL);
  name *one = &d->names[index];
  if (one->met && !lua_isnil(L, SLOT_NAMED) && lua_rawgeti(L, SLOT_NAMED, (lua_Integer)index + 1) != LUA_TNIL) return;
  if (one->met && !lua_isnil(L, SLOT_NAMED)) lua_pop(L, 1);
  uns_codec_push_named(L, one->module, one->module_size, one->field, one->field_size);
  if (one->met) {
    push_slot(d, SLOT_NAMED);
    lua_pushvalue(L, -2);
    lua_rawseti(L, -2, (lua_Integer)index + 1);
    lua_pop(L, 1);
  }
  one->met = true;
}

/* ---- putting off ---- */

/* The object is on top of the stack, and stays there. */
static void put_off(decoder *d, item later) {
  lua_State *L = d->L;
  if (d->item_count == d->item_capacity) {
    size_t capacity = d->item_capacity == 0 ? 16 : d->item_capacity * 2;
    item *items = uns_realloc(d->items, capacity * sizeof *items);
    if (items == NULL) raise_no_memory(d);
    d->items = items;
    d->item_capacity = capacity;
  }
  push_slot(d, SLOT_QUEUE);
  lua_pushvalue(L, -2);
  lua_rawseti(L, -2, (lua_Integer)d->item_count + 1);
  lua_pop(L, 1);
  d->items[d->item_count++] = later;
}

/* ---- values ---- */

static void push_value(decoder *d);
static void push_tagged(decoder *d, unsigned tag);

static void push_lent(decoder *d) {
  const uns_shared *shared = take_ref(d);
  if (shared->class->kind == UNS_SHARED_LENT) {
    const uns_lent *lent = (const uns_lent *)(const void *)shared;
    lua_pushlstring(d->L, lent->bytes, lent->size_bytes);
  } else if (shared->class->kind == UNS_SHARED_BLOCK) {
    const uns_block *block = (const uns_block *)(const void *)shared;
    lua_pushlstring(d->L, block->bytes, block->size_bytes);
  } else {
    corrupt(d, "no string");
  }
}

/* ---- tables ---- */

/* Reads a run of numbers into the table at `table` from the key `first` on; how many. */
static lua_Integer take_run(decoder *d, unsigned tag, int table, lua_Integer first, lua_Integer most) {
  lua_State *L = d->L;
  static const uint8_t widths[] = {1, 2, 4, 8, 8};
  size_t width = widths[tag - UNS_TAG_INTS8];
  uint32_t count = take_u32(d);
  if (count == 0 || count > most) corrupt(d, "bad run");
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
static bool is_of_userdata(decoder *d) {
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
static void take_metatable(decoder *d, int table) {
  lua_State *L = d->L;
  unsigned tag = *take(d, 1);
  push_tagged(d, tag);
  if (lua_type(L, -1) != LUA_TTABLE) corrupt(d, "no metatable");
  lua_pushliteral(L, "__gc");
  bool ends = lua_rawget(L, -2) != LUA_TNIL, in_c = lua_iscfunction(L, -1);
  lua_pop(L, 1);
  if (ends && (tag != UNS_TAG_NAMED || (in_c && is_of_userdata(d)))) corrupt(d, "a finalizer");
  lua_setmetatable(L, table);
}

/* Fills the table on top of the stack. */
static void fill_table(decoder *d, uint32_t items, uint32_t pairs, bool meta) {
  lua_State *L = d->L;
  luaL_checkstack(L, 6, NULL);
  int table = lua_gettop(L);
  d->depth++;
  for (lua_Integer key = 1; key <= items;) {
    unsigned tag = *take(d, 1);
    if (tag >= UNS_TAG_INTS8 && tag <= UNS_TAG_FLOATS) {
      key += take_run(d, tag, table, key, (lua_Integer)items - key + 1);
    } else {
      push_tagged(d, tag);
      lua_rawseti(L, table, key++);
    }
  }
  for (; pairs > 0; pairs--) {
    push_value(d);
    if (lua_isnil(L, -1)) corrupt(d, "nil as a key");
    if (lua_type(L, -1) == LUA_TNUMBER && isnan(lua_tonumber(L, -1))) corrupt(d, "NaN as a key");
    push_value(d);
    lua_rawset(L, table);
  }
  if (meta) take_metatable(d, table);
  d->depth--;
}

static void push_table(decoder *d, unsigned tag) {
  lua_State *L = d->L;
  const uint8_t *from = d->at - 1;
  bool record = (tag & ~3u) == UNS_TAG_RECORD, later = !record && (tag & UNS_LATER_BIT) != 0;
  uint32_t items = record ? 0 : take_u32(d), pairs = take_u32(d);
  uint64_t claims = items + 2 * (uint64_t)pairs;
  if (claims > d->claims || items >= INT_MAX || pairs >= INT_MAX) corrupt(d, "too many fields");
  d->claims -= claims;
  if (!later && d->depth >= UNS_INLINE_DEPTH + REBUILT_DEPTH) corrupt(d, "nested too deeply");
  luaL_checkstack(L, 10, NULL);
  /* One item more than there is leaves the end of a long list in the array part: whoever sends it on finds it faster. */
  lua_createtable(L, (int)(items >= UNS_INLINE_DEPTH ? items + 1 : items), (int)pairs);
  if (tag & UNS_SHARED_BIT) remember(d, from);
  bool meta = (tag & UNS_META_BIT) != 0;
  if (later) put_off(d, (item){(uint8_t)tag, items, pairs, NULL});
  else fill_table(d, items, pairs, meta);
}

/* ---- functions ---- */

/* Behind CELL: pushes the function that has the upvalue, and returns which one it is. */
static int push_owner(decoder *d) {
  lua_State *L = d->L;
  push_remembered(d);
  int other = *take(d, 1);
  if (lua_type(L, -1) != LUA_TFUNCTION || lua_iscfunction(L, -1) || lua_upvalueid(L, -1, other) == NULL) {
    corrupt(d, "no upvalue");
  }
  return other;
}

/* The values of the upvalues of the function on top of the stack. */
static void fill_function(decoder *d, int count) {
  lua_State *L = d->L;
  luaL_checkstack(L, 6, NULL);
  int function = lua_gettop(L);
  d->depth++;
  for (int n = 1; n <= count; n++) {
    unsigned tag = *take(d, 1);
    if (tag == UNS_TAG_CELL) {
      int other = push_owner(d);
      lua_upvaluejoin(L, function, n, function + 1, other);
      lua_pop(L, 1);
    } else {
      push_tagged(d, tag);
      lua_setupvalue(L, function, n);
    }
  }
  d->depth--;
}

static void make_function(decoder *d, const uns_code *code, int values, int count) {
  if (!uns_codec_make(d->L, d->codec, code, values, count)) corrupt(d, "code is not what its hash says");
}

static void push_function(decoder *d, unsigned tag) {
  lua_State *L = d->L;
  const uint8_t *from = d->at - 1;
  const uns_shared *shared = take_ref(d);
  if (shared->class->kind != UNS_SHARED_CODE) corrupt(d, "no code");
  const uns_code *code = (const uns_code *)(const void *)shared;
  int count = *take(d, 1);
  if ((size_t)count > left(d)) corrupt(d, "cut short");
  bool later = (tag & UNS_PUT_OFF_BIT) != 0;
  if (!later && d->depth >= UNS_INLINE_DEPTH + REBUILT_DEPTH) corrupt(d, "nested too deeply");
  luaL_checkstack(L, count + 10, NULL);
  if ((tag & UNS_SHARED_BIT) || later) {
    make_function(d, code, 0, count);
    if (tag & UNS_SHARED_BIT) remember(d, from);
    if (later) put_off(d, (item){(uint8_t)tag, (uint32_t)count, 0, NULL});
    else fill_function(d, count);
    return;
  }
  /* Nothing refers to it: its upvalues can be read first, and it is made over them. */
  uint8_t joined[UINT8_MAX + 1]; /* to which upvalue of the function that stands in its place until then, or 0 */
  bool joins = false;
  d->depth++;
  for (int n = 1; n <= count; n++) {
    unsigned one = *take(d, 1);
    if (one != UNS_TAG_CELL) {
      push_tagged(d, one);
      continue;
    }
    if (!joins) memset(joined, 0, (size_t)count + 1);
    joins = true;
    joined[n] = (uint8_t)push_owner(d);
  }
  d->depth--;
  make_function(d, code, count, count);
  for (int n = 1; joins && n <= count; n++) {
    if (joined[n] == 0) continue;
    lua_getupvalue(L, -1, n);
    lua_upvaluejoin(L, -2, n, lua_gettop(L), joined[n]);
    lua_pop(L, 1);
  }
}

/* ---- objects ---- */

/* Pushes `count` parts and lets the object below them take them. */
static void fill_object(decoder *d, const uns_codec_class *class, int count) {
  lua_State *L = d->L;
  luaL_checkstack(L, count + LUA_MINSTACK, NULL);
  int object = lua_gettop(L);
  d->depth++;
  for (int n = 0; n < count; n++) {
    unsigned tag = *take(d, 1);
    if (tag == UNS_TAG_OWN) lua_pushlightuserdata(L, take_ref(d));
    else push_tagged(d, tag);
  }
  d->depth--;
  if (class->fill(L, object, count) < 0) corrupt(d, "an object's parts make no sense");
  lua_settop(L, object);
}

static void push_object(decoder *d, unsigned tag) {
  lua_State *L = d->L;
  const uint8_t *from = d->at - 1;
  size_t size = *take(d, 1);
  const char *class_name = (const char *)take(d, size);
  const uns_codec_class *class = uns_codec_class_named(d->codec, class_name, size);
  if (class == NULL) corrupt(d, "unknown class");
  int count = *take(d, 1);
  uint64_t first_own = take_varint(d);
  if (first_own > d->packet->ref_count) corrupt(d, "bad reference");
  bool later = (tag & UNS_PUT_OFF_BIT) != 0;
  if (!later && d->depth >= UNS_INLINE_DEPTH + REBUILT_DEPTH) corrupt(d, "nested too deeply");
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  int top = lua_gettop(L);
  if (class->create(L, first_own == 0 ? NULL : d->packet->refs[first_own - 1]) < 0 || lua_gettop(L) != top + 1) {
    corrupt(d, "an object's parts make no sense");
  }
  if (tag & UNS_SHARED_BIT) remember(d, from);
  if (later) put_off(d, (item){(uint8_t)tag, (uint32_t)count, 0, class});
  else fill_object(d, class, count);
}

static void take_queue(decoder *d, size_t from);

static void push_rebuilt(decoder *d, unsigned tag) {
  lua_State *L = d->L;
  const uint8_t *from = d->at - 1;
  uint64_t count = take_varint(d);
  if (count >= left(d) || count > INT_MAX - LUA_MINSTACK) corrupt(d, "cut short");
  if (d->rebuilding == REBUILT_DEPTH) corrupt(d, "nested too deeply");
  luaL_checkstack(L, (int)count + LUA_MINSTACK, NULL);
  size_t queued = d->item_count;
  d->rebuilding++;
  d->depth++;
  for (uint64_t n = 0; n <= count; n++) push_value(d);
  d->depth--;
  take_queue(d, queued);
  d->rebuilding--;
  lua_call(L, (int)count, 1);
  if (lua_isnil(L, -1)) corrupt(d, "an object was not rebuilt");
  if (tag & UNS_SHARED_BIT) remember(d, from);
}

/* ---- all of it ---- */

/* Reads what follows `tag` and pushes one value. Its caller has room for it. */
static void push_tagged(decoder *d, unsigned tag) {
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
      if (size > left(d)) corrupt(d, "cut short");
      lua_pushlstring(L, (const char *)take(d, (size_t)size), (size_t)size);
      if (tag & UNS_SHARED_BIT) remember(d, from);
      break;
    }
    case UNS_TAG_LENT:
    case UNS_TAG_LENT | UNS_SHARED_BIT: {
      const uint8_t *from = d->at - 1;
      push_lent(d);
      if (tag & UNS_SHARED_BIT) remember(d, from);
      break;
    }
    case UNS_TAG_REF: push_remembered(d); break;
    case UNS_TAG_GLOBALS: lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS); break;
    case UNS_TAG_NAMED: push_named(d); break;
    case UNS_TAG_REBUILT:
    case UNS_TAG_REBUILT | UNS_SHARED_BIT: push_rebuilt(d, tag); break;
    default:
      if (tag >= UNS_TAG_TABLE && tag < UNS_TAG_FUNCTION) push_table(d, tag);
      else if (tag >= UNS_TAG_FUNCTION && tag < UNS_TAG_OBJECT) push_function(d, tag);
      else if (tag >= UNS_TAG_OBJECT && tag < UNS_TAG_REBUILT) push_object(d, tag);
      else corrupt(d, "unknown tag");
  }
}

static void push_value(decoder *d) { push_tagged(d, *take(d, 1)); }

/* Reads the content that was put off since the queue was `from` long, and what that puts off, until there is none. */
static void take_queue(decoder *d, size_t from) {
  lua_State *L = d->L;
  int depth = d->depth;
  luaL_checkstack(L, 10, NULL);
  int object = lua_gettop(L) + 1;
  for (size_t next = from; next < d->item_count; next++) {
    item now = d->items[next];
    d->depth = 0;
    lua_rawgeti(L, SLOT_QUEUE, (lua_Integer)next + 1);
    lua_pushnil(L);
    lua_rawseti(L, SLOT_QUEUE, (lua_Integer)next + 1);
    if (now.class != NULL) fill_object(d, now.class, (int)now.items);
    else if ((now.tag & ~3u) == UNS_TAG_FUNCTION) fill_function(d, (int)now.items);
    else fill_table(d, now.items, now.pairs, (now.tag & UNS_META_BIT) != 0);
    lua_settop(L, object - 1);
  }
  d->item_count = from;
  d->depth = depth;
}

/* The decoder as light userdata. Returns the values. */
int uns_codec_decoder(lua_State *L) {
  decoder *d = lua_touserdata(L, 1);
  d->L = L;
  lua_settop(L, SLOT_NAMED);
  const uns_packet *packet = d->packet;
  size_t end = 0;
  d->at = packet->bytes;
  if (packet->size_bytes == 0) raise_no_memory(d); /* for it when it was to be written: core/packet.h */
  if (packet->bytes == NULL || !uns_read_header(packet->bytes, packet->size_bytes, &d->count, &end)) {
    corrupt(d, "no header");
  }
  d->at = packet->bytes + UNS_HEADER_BYTES;
  d->end = packet->bytes + end;
  d->claims = left(d);
  if (d->count > left(d) || d->count > INT_MAX - LUA_MINSTACK) corrupt(d, "cut short");
  luaL_checkstack(L, (int)d->count + LUA_MINSTACK, "too many values");
  for (uint32_t i = 0; i < d->count; i++) push_value(d);
  take_queue(d, 0);
  if (d->at != d->end) corrupt(d, "something behind the end");
  return (int)d->count;
}

int uns_codec_decode(lua_State *L, const uns_packet *packet) {
  uns_codec *codec = uns_codec_of(L);
  lua_State *T = codec->running == 0 ? codec->thread : L;
  if (codec->closed || !lua_checkstack(L, LUA_MINSTACK) || !lua_checkstack(T, LUA_MINSTACK)) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, codec->no_memory);
    return codec->closed ? UNS_ECLOSED : UNS_ENOMEM;
  }
  decoder d;
  memset(&d, 0, offsetof(decoder, few_names));
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

int uns_codec_modules(lua_State *L, const uns_packet *packet) {
  uns_codec *codec = uns_codec_of(L);
  uint32_t values;
  size_t end;
  if (packet->bytes == NULL || !uns_read_header(packet->bytes, packet->size_bytes, &values, &end)) return 0;
  const uint8_t *at = packet->bytes + end, *stop = packet->bytes + packet->size_bytes;
  uint64_t names;
  if (at == stop || !uns_read_varint(&at, stop, &names)) return 0;
  int first = lua_gettop(L) + 1, count = 0;
  for (uint64_t i = 0; i < names; i++) {
    uint64_t module_size, field_size;
    if (!uns_read_varint(&at, stop, &module_size) || module_size > (size_t)(stop - at)) break;
    const char *module = (const char *)at;
    at += module_size;
    if (!uns_read_varint(&at, stop, &field_size) || field_size > (size_t)(stop - at)) break;
    at += field_size;
    if (module_size == 0) continue;
    if (!lua_checkstack(L, 10)) break;
    lua_pushlstring(L, module, (size_t)module_size);
    lua_rawgeti(L, LUA_REGISTRYINDEX, codec->loaded);
    lua_pushvalue(L, -2);
    lua_rawget(L, -2);
    bool known = lua_toboolean(L, -1);
    lua_pop(L, 2);
    for (int k = first; !known && k < first + count; k++) known = lua_rawequal(L, k, -1);
    if (known) lua_pop(L, 1);
    else count++;
  }
  return count;
}
