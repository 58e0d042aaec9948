/*
 * codec_encode: values on a Lua stack to the bytes and references of a packet (core/tags.h).
 *
 * One walk, depth first. Nested deeper than UNS_INLINE_DEPTH, a value's content is put off to the end, in order.
 *   - The memo knows where each object was written. The second mention is a REF, and sets the SHARED bit of the first.
 *   - All that is written from a temporary value is kept alive to the end, as the memo goes by addresses.
 *   - Whatever goes wrong is raised as a Lua error; uns_codec_encode catches it and frees what hangs on the encoder.
 */
#include <lauxlib.h>
#include <stdarg.h>
#include <stdlib.h>

#include "base/base.h"
#include "core/codec_encoder.h"
#include "core/error.h"
#include "core/lent.h"

enum { SHORT_STRING_BYTES = 40 /* Lua interns strings up to here: the same bytes are at the same address */ };

/* ---- bytes ---- */

_Noreturn void uns_encoder_no_memory(uns_encoder *e) {
  e->code = UNS_ENOMEM;
  uns_codec_no_memory(e->L, e->codec);
}

void uns_encoder_grow(uns_encoder *e, size_t size) {
  static const size_t most = ((size_t)1 << 40) - 1; /* the memo's offsets */
  uns_packet *packet = e->packet;
  if (size > most || packet->size_bytes > most - size || uns_packet_grow(packet, size) == NULL)
    uns_encoder_no_memory(e);
  packet->size_bytes -= size;
}

static inline void put_integer(uns_encoder *e, lua_Integer value) {
  uint8_t *to = room(e, 9);
  if (value >= 0 && value < 0x80) {
    to[0] = (uint8_t)(UNS_TAG_SMALL_BASE + value);
    wrote(e, 1);
  } else if (value >= INT8_MIN && value <= INT8_MAX) {
    to[0] = UNS_TAG_INT8;
    to[1] = (uint8_t)value;
    wrote(e, 2);
  } else if (value >= INT16_MIN && value <= INT16_MAX) {
    int16_t narrow = (int16_t)value;
    to[0] = UNS_TAG_INT16;
    memcpy(to + 1, &narrow, 2);
    wrote(e, 3);
  } else if (value >= INT32_MIN && value <= INT32_MAX) {
    int32_t narrow = (int32_t)value;
    to[0] = UNS_TAG_INT32;
    memcpy(to + 1, &narrow, 4);
    wrote(e, 5);
  } else {
    to[0] = UNS_TAG_INT64;
    memcpy(to + 1, &value, 8);
    wrote(e, 9);
  }
}

static inline void put_float(uns_encoder *e, lua_Number value) {
  uint8_t *to = room(e, 9);
  to[0] = UNS_TAG_FLOAT;
  memcpy(to + 1, &value, 8);
  wrote(e, 9);
}

/* ---- refusing ---- */

static int encode_body(lua_State *L);
static void encoder_init(uns_encoder *e, uns_codec *codec, int count, const uns_codec_names *names, uns_packet *packet);
static void encoder_deinit(uns_encoder *e);

enum { FOUND = 1 };

/* Replaces the value at `index` by the path to the content numbered `sought` of all that was put off: encodes once more, up to
   there. Where that ends otherwise, a packing hook having changed its mind, it is left out. */
static void find_path(uns_encoder *e, uint64_t sought, int index) {
  lua_State *L = e->L;
  uns_packet scratch;
  uns_packet_init(&scratch);
  uns_encoder again;
  encoder_init(&again, e->codec, e->count, e->names, &scratch);
  again.sought = sought;
  int top = lua_gettop(L);
  if (lua_checkstack(L, e->count + LUA_MINSTACK)) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, e->codec->encoder);
    lua_pushlightuserdata(L, &again);
    for (int i = 0; i < e->count; i++) lua_pushvalue(L, 2 + i);
    lua_pcall(L, e->count + 1, 0, 0);
    if (again.code == FOUND && lua_gettop(L) > top) lua_copy(L, top + 1, index);
  }
  encoder_deinit(&again);
  uns_packet_deinit(&scratch);
  lua_settop(L, top);
}

/* Raises "unsendable: argument 2.conn.socket: " and the formatted reason, of the code "unsendable", with `path`. */
_Noreturn void uns_encoder_refuse(uns_encoder *e, const char *format, ...) {
  lua_State *L = e->L;
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  va_list arguments;
  va_start(arguments, format);
  const char *reason = lua_pushvfstring(L, format, arguments);
  va_end(arguments);
  if (e->item != NULL) {
    uns_place *outermost = e->place;
    while (outermost->up != NULL) outermost = outermost->up;
    lua_pushfstring(L, "%s", e->names->values);
    outermost->index = lua_gettop(L);
    outermost->number = e->item->level;
    find_path(e, e->item->root, outermost->index);
  }
  uns_codec_push_path(L, e->place, e->names);
  const char *path = lua_tostring(L, -1);
  uns_error_push(L, "unsendable", "unsendable: %s: %s", path, reason);
  lua_pushvalue(L, -2);
  lua_setfield(L, -2, "path");
  e->code = UNS_EUNSENDABLE;
  lua_error(L);
  abort();
}

_Noreturn void uns_encoder_refuse_type(uns_encoder *e, int i) {
  lua_State *L = e->L;
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  switch (lua_type(L, i)) {
    case LUA_TTHREAD: uns_encoder_refuse(e, "coroutine");
    case LUA_TLIGHTUSERDATA: uns_encoder_refuse(e, "light userdata");
    case LUA_TFUNCTION: uns_encoder_refuse(e, "C function without a name in a loaded module");
    default: break;
  }
  if (luaL_getmetafield(L, i, "__name") == LUA_TSTRING)
    uns_encoder_refuse(e, "%s \"%s\"", luaL_typename(L, i), lua_tostring(L, -1));
  uns_encoder_refuse(e, "%s", luaL_typename(L, i));
}

/* ---- putting off, keeping, naming ---- */

/* Pushes the table in `slot`, made at its first use. */
static void push_slot(uns_encoder *e, int slot) {
  if (!lua_isnil(e->L, e->slots + slot)) {
    lua_pushvalue(e->L, e->slots + slot);
  } else {
    lua_newtable(e->L);
    lua_pushvalue(e->L, -1);
    lua_replace(e->L, e->slots + slot);
  }
}

/* The content of what was written at `at` comes later. Its object is on top of the stack: popped. */
void uns_encoder_put_off(uns_encoder *e, size_t at, uint32_t first_own) {
  lua_State *L = e->L;
  if (e->put_off_count == e->sought) {
    uns_codec_push_path(L, e->place, e->names);
    e->code = FOUND;
    lua_error(L);
  }
  if (e->item_count == e->item_capacity) {
    size_t capacity = e->item_capacity == 0 ? 16 : e->item_capacity * 2;
    uns_put_off *items = uns_realloc(e->items, capacity * sizeof *items);
    if (items == NULL) uns_encoder_no_memory(e);
    e->items = items;
    e->item_capacity = capacity;
  }
  push_slot(e, UNS_SLOT_QUEUE);
  lua_insert(L, -2);
  lua_rawseti(L, -2, (lua_Integer)e->item_count + 1);
  lua_pop(L, 1);
  uns_put_off *later = &e->items[e->item_count++];
  *later = (uns_put_off){at, first_own, 0, e->put_off_count++};
  if (e->item != NULL) {
    later->root = e->item->root;
    later->level = e->item->level + 1;
  }
}

/* Keeps the value at `i` alive, and so its address its own, until the packet is done. */
void uns_encoder_keep(uns_encoder *e, int i) {
  lua_State *L = e->L;
  push_slot(e, UNS_SLOT_KEPT);
  lua_pushvalue(L, i);
  lua_rawseti(L, -2, ++e->kept_count);
  lua_pop(L, 1);
}

static void add_text(uns_memo *memo, const char *text, size_t size) {
  uint8_t *to = memo->names + memo->names_bytes;
  size_t head = uns_write_varint(to, size);
  memcpy(to + head, text, size);
  memo->names_bytes += head + size;
}

uint32_t uns_encoder_add_name(uns_encoder *e, const void *address) {
  lua_State *L = e->L;
  uns_memo *memo = e->memo;
  uint64_t known = uns_encoder_recall(e, address, uns_memo_word(UNS_MEMO_NAMED, 0, e->name_count));
  if (known == 0) {
    size_t module_size, field_size = 0;
    const char *module = lua_tolstring(L, -2, &module_size);
    const char *field = lua_isnil(L, -1) ? "" : lua_tolstring(L, -1, &field_size);
    size_t needed = memo->names_bytes + module_size + field_size + 20;
    if (needed > memo->names_capacity) {
      size_t capacity = 2 * needed;
      uint8_t *names = uns_realloc(memo->names, capacity);
      if (names == NULL) uns_encoder_no_memory(e);
      memo->names = names;
      memo->names_capacity = capacity;
    }
    add_text(memo, module, module_size);
    add_text(memo, field, field_size);
    known = e->name_count++;
  }
  lua_pop(L, 2);
  return (uint32_t)uns_word_offset(known);
}

uint32_t uns_encoder_add_ref(uns_encoder *e, uns_shared *owned) {
  int64_t ref = uns_packet_add_ref(e->packet, owned);
  if (ref < 0) {
    uns_shared_unref(owned);
    uns_encoder_no_memory(e);
  }
  return (uint32_t)ref;
}

/* ---- values ---- */

/* A mention of an object that is known. */
void uns_put_again(uns_encoder *e, uint64_t word) {
  switch (uns_word_kind(word)) {
    case UNS_MEMO_WRITTEN:
      e->packet->bytes[uns_word_offset(word)] |= UNS_SHARED_BIT;
      put_tagged(e, UNS_TAG_REF, uns_word_offset(word));
      break;
    case UNS_MEMO_NAMED: put_tagged(e, UNS_TAG_NAMED, uns_word_offset(word)); break;
    default: uns_encoder_refuse(e, "object that contains itself, and so cannot be packed by its %s", UNS_PACK_HOOK);
  }
}

/* Up to SHORT_STRING_BYTES. The second time it is given a number, from the third time on that stands for it. */
static inline void put_short_string(uns_encoder *e, const char *bytes, size_t size, bool key) {
  uint8_t *to = room(e, SHORT_STRING_BYTES + 2);
  if (size > 1 || key) {
    const uns_memo *memo = e->memo;
    size_t place = (size_t)((uint64_t)(uintptr_t)bytes * UINT64_C(0x9e3779b97f4a7c15) >> 40) & (UNS_MEMO_STRINGS - 1);
    struct uns_memo_string *one = &memo->strings[place], *other = &memo->strings[place ^ 1];
    if (one->bytes != bytes || one->epoch != memo->epoch) {
      struct uns_memo_string *swap = one;
      one = other;
      other = swap;
    }
    if (one->bytes == bytes && one->epoch == memo->epoch) {
      if (one->number >= 0) {
        if (one->number < 32) {
          to[0] = (uint8_t)(UNS_TAG_OLD_BASE + one->number);
          wrote(e, 1);
        } else {
          put_tagged(e, UNS_TAG_STRING_OLD, (uint64_t)one->number);
        }
        return;
      }
      one->number = (int32_t)e->string_count++;
      one->key |= key;
      to[0] = UNS_TAG_STRING_NEW;
      to[1] = (uint8_t)size;
      memcpy(to + 2, bytes, size);
      wrote(e, size + 2);
      return;
    }
    /* Takes the place of one that was seen once; a key also that of a value. */
    if (other->epoch == memo->epoch && other->number >= 0 && (other->key || !key)) other = one;
    if (other->epoch != memo->epoch || other->number < 0 || (key && !other->key)) {
      *other = (struct uns_memo_string){bytes, (uint16_t)memo->epoch, key, -1};
    }
  }
  if (size < 32) {
    to[0] = (uint8_t)(UNS_TAG_STRING_BASE + size);
    memcpy(to + 1, bytes, size);
    wrote(e, size + 1);
  } else {
    to[0] = UNS_TAG_STRING;
    to[1] = (uint8_t)size;
    memcpy(to + 2, bytes, size);
    wrote(e, size + 2);
  }
}

static __attribute__((noinline)) void put_long_string(uns_encoder *e, int i, const char *bytes, size_t size) {
  uint64_t known = uns_encoder_recall(e, bytes, uns_memo_word(UNS_MEMO_WRITTEN, 0, here(e)));
  if (known != 0) {
    uns_put_again(e, known);
  } else if (size >= UNS_LENT_MIN && e->codec->mailbox != NULL) {
    uns_lent *lent = uns_lender_lend(e->codec->lender, e->L, i, e->codec->mailbox);
    if (lent == NULL) uns_encoder_no_memory(e);
    put_tagged(e, UNS_TAG_LENT, uns_encoder_add_ref(e, &lent->base));
  } else {
    put_tagged(e, UNS_TAG_BYTES, size);
    memcpy(room(e, size), bytes, size);
    wrote(e, size);
  }
}

void uns_put_string(uns_encoder *e, int i, bool key) {
  size_t size;
  const char *bytes = lua_tolstring(e->L, i, &size);
  if (size <= SHORT_STRING_BYTES) put_short_string(e, bytes, size, key);
  else put_long_string(e, i, bytes, size);
}

/* ---- all of it ---- */

void uns_put_value(uns_encoder *e, int i) {
  lua_State *L = e->L;
  switch (lua_type(L, i)) {
    case LUA_TNIL: put_byte(e, UNS_TAG_NIL); break;
    case LUA_TBOOLEAN: put_byte(e, lua_toboolean(L, i) ? UNS_TAG_TRUE : UNS_TAG_FALSE); break;
    case LUA_TNUMBER:
      if (lua_isinteger(L, i)) put_integer(e, lua_tointeger(L, i));
      else put_float(e, lua_tonumber(L, i));
      break;
    case LUA_TSTRING: uns_put_string(e, i, false); break;
    case LUA_TTABLE: uns_put_table(e, i); break;
    case LUA_TFUNCTION: uns_put_function(e, i); break;
    case LUA_TUSERDATA: uns_put_userdata(e, i); break;
    case LUA_TLIGHTUSERDATA: uns_put_named(e, i); break;
    default: uns_encoder_refuse_type(e, i);
  }
}

/* Writes the content that was put off since the queue was `from` long, and what that puts off, until there is none. */
void uns_put_queue(uns_encoder *e, size_t from) {
  lua_State *L = e->L;
  const uns_put_off *outer_item = e->item;
  uns_place *outer_place = e->place;
  int depth = e->depth;
  int object = lua_gettop(L) + 1;
  for (size_t next = from; next < e->item_count; next++) {
    uns_put_off now = e->items[next];
    uns_place place = {NULL, UNS_AT_DEEP, 0, 0};
    e->item = &now;
    e->place = &place;
    e->depth = 0;
    push_slot(e, UNS_SLOT_QUEUE);
    lua_rawgeti(L, object, (lua_Integer)next + 1);
    lua_pushnil(L);
    lua_rawseti(L, object, (lua_Integer)next + 1);
    lua_remove(L, object);
    switch (e->packet->bytes[now.at] & ~3u) {
      case UNS_TAG_FUNCTION: {
        int count = 0;
        uns_codec_code(L, e->codec, object, &count);
        uns_put_upvalues(e, object, now.at, count);
        break;
      }
      case UNS_TAG_OBJECT: {
        lua_rawgeti(L, object, 0);
        int count = (int)lua_tointeger(L, -1);
        lua_pop(L, 1);
        luaL_checkstack(L, count + LUA_MINSTACK, NULL);
        for (int part = 1; part <= count; part++) lua_rawgeti(L, object, part);
        uns_put_parts(e, object + 1, count, now.first_own);
        break;
      }
      default: uns_put_table_content(e, object, now.at);
    }
    lua_settop(L, object - 1);
  }
  e->item_count = from;
  e->item = outer_item;
  e->place = outer_place;
  e->depth = depth;
}

static void put_names(uns_encoder *e) {
  uint64_t offset = 0;
  if (e->name_count > 0) {
    offset = here(e);
    uint8_t *to = room(e, e->memo->names_bytes + 10);
    size_t head = uns_write_varint(to, e->name_count);
    memcpy(to + head, e->memo->names, e->memo->names_bytes);
    wrote(e, head + e->memo->names_bytes);
  }
  uns_write_header(e->packet->bytes, (uint32_t)e->count, offset);
}

/* The encoder as light userdata, then the values. Returns nothing. */
static int encode_body(lua_State *L) {
  uns_encoder *e = lua_touserdata(L, 1);
  e->L = L;
  e->slots = lua_gettop(L);
  lua_settop(L, e->slots + UNS_SLOT_COUNT);
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  if (!uns_memo_begin(e->memo)) uns_encoder_no_memory(e);
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
  e->globals = lua_topointer(L, -1);
  lua_pop(L, 1);

  room(e, UNS_HEADER_BYTES + 48);
  wrote(e, UNS_HEADER_BYTES);
  uns_place place = {NULL, UNS_AT_VALUE, 0, 0};
  e->place = &place;
  for (; place.number < e->count; place.number++) uns_put_value(e, 2 + (int)place.number);
  uns_put_queue(e, 0);
  put_names(e);
  return 0;
}

int uns_codec_encoder(lua_State *L) { return encode_body(L); }

static void encoder_init(uns_encoder *e, uns_codec *codec, int count, const uns_codec_names *names,
                         uns_packet *packet) {
  memset(e, 0, sizeof *e);
  e->codec = codec;
  e->packet = packet;
  e->names = names;
  e->count = count;
  e->sought = UINT64_MAX;
  e->memo = codec->memo_busy ? &e->own_memo : &codec->memo;
  codec->memo_busy = true;
}

static void encoder_deinit(uns_encoder *e) {
  uns_free(e->items);
  if (e->memo == &e->own_memo) {
    uns_memo_deinit(&e->own_memo);
  } else {
    uns_memo_end(e->memo);
    e->codec->memo_busy = false;
  }
}

int uns_codec_encode(lua_State *L, int first, int count, const uns_codec_names *names, uns_packet *packet) {
  uns_codec *codec = uns_codec_of(L);
  lua_State *T = codec->running == 0 ? codec->thread : L;
  if (codec->closed || !lua_checkstack(L, count + 4) || !lua_checkstack(T, count + LUA_MINSTACK)) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, codec->no_memory);
    return codec->closed ? UNS_ECLOSED : UNS_ENOMEM;
  }
  uns_encoder e;
  encoder_init(&e, codec, count, names, packet);
  lua_rawgeti(T, LUA_REGISTRYINDEX, codec->encoder);
  lua_pushlightuserdata(T, &e);
  for (int i = 0; i < count; i++) lua_pushvalue(L, first + i);
  if (T != L) lua_xmove(L, T, count);
  codec->running++;
  int status = lua_pcall(T, count + 1, 0, 0);
  codec->running--;
  encoder_deinit(&e);
  if (status == LUA_OK) return UNS_OK;
  uns_packet_deinit(packet);
  if (T != L) lua_xmove(T, L, 1);
  return e.code < 0 ? e.code : status == LUA_ERRMEM ? UNS_ENOMEM : UNS_EUNSENDABLE;
}
