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
#include <string.h>

#include "base/base.h"
#include "core/codec_path.h"
#include "core/codec_state.h"
#include "core/error.h"
#include "core/lent.h"
#include "core/tags.h"

#define PACK_HOOK "__unsync_pack"

enum {
  SHORT_STRING_BYTES = 40, /* Lua interns strings up to here: the same bytes are at the same address */
  SCANNED_ITEMS = 64,      /* of a list, with lua_next; the rest by number */
  STREAK = 4,              /* numbers of one kind in a row, before they are written as a run */
  BATCH = 16,              /* numbers fetched at once */
  REBUILT_DEPTH = 16,      /* objects that pack themselves, one in the other */
  PARTS_MOST = 255
};

/* Stack slots behind the values, made when needed. */
enum { SLOT_NAMES = 1, SLOT_QUEUE, SLOT_KEPT };

/* Content that was put off. Its object is in the queue at the same place, from 1. */
typedef struct item {
  size_t at;           /* offset of its tag */
  uint32_t first_own;  /* OBJECT: index of its first shared object */
  uint32_t level;      /* how many were put off one inside the other before it */
  uint64_t root;       /* number of the outermost of them, of all that were put off */
} item;

typedef struct encoder {
  lua_State *L;
  uns_codec *codec;
  uns_packet *packet;
  const uns_codec_names *names;
  int count;
  uns_memo *memo;
  uns_memo own_memo; /* where the codec's is in use */
  uns_place *place;  /* innermost */
  int depth, rebuilding, slots;
  bool modules_known; /* the memo has package.loaded */
  const void *globals;
  const void *metatable; /* the last one met */
  uint64_t metatable_word;
  uint32_t string_count, name_count, kept_count;
  item *items; /* owned */
  size_t item_count, item_capacity, item_next;
  uint64_t put_off_count;
  const item *item;    /* whose content is being written, or NULL */
  uint64_t sought;     /* stop where this one is put off: its path is asked for */
  int code;            /* what uns_codec_encode returns for the error that is raised */
} encoder;

/* ---- what the memo says ---- */

enum {
  KIND_WRITTEN,    /* at `offset`; `number`: which upvalue of the function there, 0: the object itself */
  KIND_NAMED,      /* `offset` is its index in the table of names */
  KIND_MODULE,     /* held by package.loaded, not written yet */
  KIND_REBUILDING, /* its parts are being written */
  KIND_CODE,       /* `offset` is its reference */
  KIND_META_VALUE, /* of a metatable, under its address + 1: by value */
  KIND_META_NAMED, /* by name, index in `offset` */
  KIND_META_PACKS  /* it has PACK_HOOK */
};

#define WORD(kind, number, offset) ((uint64_t)(kind) << 48 | (uint64_t)(number) << 40 | (uint64_t)(offset))
#define WORD_KIND(word) ((unsigned)((word) >> 48 & 0xf))
#define WORD_NUMBER(word) ((unsigned)((word) >> 40 & 0xff))
#define WORD_OFFSET(word) ((word) & ((UINT64_C(1) << 40) - 1))
#define WORD_EPOCH(word) ((unsigned)((word) >> 52))
static const size_t PACKET_BYTES_MOST = ((size_t)1 << 40) - 1;

static _Noreturn void raise_no_memory(encoder *e) {
  e->code = UNS_ENOMEM;
  uns_codec_no_memory(e->L, e->codec);
}

static struct uns_memo_entry *memo_place(const uns_memo *memo, uintptr_t key) {
  size_t i = (size_t)((uint64_t)key * UINT64_C(0x9e3779b97f4a7c15) >> 20) & memo->mask;
  while (WORD_EPOCH(memo->entries[i].word) == memo->epoch && memo->entries[i].key != key) i = (i + 1) & memo->mask;
  return &memo->entries[i];
}

static void memo_grow(encoder *e) {
  uns_memo *memo = e->memo;
  uns_memo larger = *memo;
  larger.mask = memo->mask * 2 + 1;
  larger.entries = uns_calloc(larger.mask + 1, sizeof *larger.entries);
  if (larger.entries == NULL) raise_no_memory(e);
  for (size_t i = 0; i <= memo->mask; i++) {
    if (WORD_EPOCH(memo->entries[i].word) == memo->epoch) {
      *memo_place(&larger, memo->entries[i].key) = memo->entries[i];
    }
  }
  uns_free(memo->entries);
  *memo = larger;
}

/* What is known of `object`; where nothing is, it is entered with `word`, and 0 returned. */
static uint64_t recall(encoder *e, const void *object, uint64_t word) {
  uns_memo *memo = e->memo;
  struct uns_memo_entry *entry = memo_place(memo, (uintptr_t)object);
  if (WORD_EPOCH(entry->word) == memo->epoch) return entry->word;
  if (memo->used >= memo->mask / 2) {
    memo_grow(e);
    entry = memo_place(memo, (uintptr_t)object);
  }
  entry->key = (uintptr_t)object;
  entry->word = (uint64_t)memo->epoch << 52 | word;
  memo->used++;
  return 0;
}

/* Says something else of an object that is known. */
static void revise(encoder *e, const void *object, uint64_t word) {
  memo_place(e->memo, (uintptr_t)object)->word = (uint64_t)e->memo->epoch << 52 | word;
}

static bool memo_begin(uns_memo *memo) {
  if (memo->entries == NULL) {
    memo->entries = uns_calloc(UNS_MEMO_LEAST, sizeof *memo->entries);
    if (memo->entries == NULL) return false;
    memo->mask = UNS_MEMO_LEAST - 1;
  }
  if (memo->strings == NULL) {
    memo->strings = uns_calloc(UNS_MEMO_STRINGS, sizeof *memo->strings);
    if (memo->strings == NULL) return false;
  }
  if (++memo->epoch == UNS_MEMO_EPOCHS) {
    memset(memo->entries, 0, (memo->mask + 1) * sizeof *memo->entries);
    memset(memo->strings, 0, UNS_MEMO_STRINGS * sizeof *memo->strings);
    memo->epoch = 1;
  }
  memo->used = 0;
  return true;
}

/* ---- bytes ---- */

static __attribute__((noinline)) void make_room(encoder *e, size_t size) {
  uns_packet *packet = e->packet;
  if (packet->size_bytes > PACKET_BYTES_MOST - size || uns_packet_grow(packet, size) == NULL) raise_no_memory(e);
  packet->size_bytes -= size;
}

/* Where the next `size` bytes go; what is written there is added with `wrote`. */
static inline uint8_t *room(encoder *e, size_t size) {
  uns_packet *packet = e->packet;
  if (packet->capacity_bytes - packet->size_bytes < size) make_room(e, size);
  return packet->bytes + packet->size_bytes;
}
static inline void wrote(encoder *e, size_t size) { e->packet->size_bytes += size; }
static inline size_t here(const encoder *e) { return e->packet->size_bytes; }

static inline void put_byte(encoder *e, unsigned byte) {
  *room(e, 1) = (uint8_t)byte;
  wrote(e, 1);
}

static inline void put_tagged(encoder *e, unsigned tag, uint64_t number) {
  uint8_t *to = room(e, 11);
  to[0] = (uint8_t)tag;
  wrote(e, 1 + uns_write_varint(to + 1, number));
}

static inline void put_integer(encoder *e, lua_Integer value) {
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

static inline void put_float(encoder *e, lua_Number value) {
  uint8_t *to = room(e, 9);
  to[0] = UNS_TAG_FLOAT;
  memcpy(to + 1, &value, 8);
  wrote(e, 9);
}

/* ---- refusing ---- */

static int encode_body(lua_State *L);
static void encoder_init(encoder *e, uns_codec *codec, int count, const uns_codec_names *names, uns_packet *packet);
static void encoder_deinit(encoder *e);

enum { FOUND = 1 };

/* Replaces nil at `index` by the path to the content numbered `sought` of all that was put off: encodes once more, up to
   there. Where that ends otherwise, a packing hook having changed its mind, it is left out. */
static void find_path(encoder *e, uint64_t sought, int index) {
  lua_State *L = e->L;
  uns_packet scratch;
  uns_packet_init(&scratch);
  encoder again;
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

/* Raises "argument 2.conn.socket: " and the formatted reason, of the code "unsendable", with `path`. */
static _Noreturn void refuse(encoder *e, const char *format, ...) {
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
  uns_error_push(L, "unsendable", "%s: %s", path, reason);
  lua_pushvalue(L, -2);
  lua_setfield(L, -2, "path");
  e->code = UNS_EUNSENDABLE;
  lua_error(L);
  abort();
}

static _Noreturn void refuse_type(encoder *e, int i) {
  lua_State *L = e->L;
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  switch (lua_type(L, i)) {
    case LUA_TTHREAD: refuse(e, "coroutine");
    case LUA_TLIGHTUSERDATA: refuse(e, "light userdata");
    case LUA_TFUNCTION: refuse(e, "C function without a name in a loaded module");
    default: break;
  }
  if (luaL_getmetafield(L, i, "__name") == LUA_TSTRING) refuse(e, "%s \"%s\"", luaL_typename(L, i), lua_tostring(L, -1));
  refuse(e, "%s", luaL_typename(L, i));
}

/* ---- putting off, keeping, naming ---- */

/* Pushes the table in `slot`, made at its first use. */
static void push_slot(encoder *e, int slot) {
  if (!lua_isnil(e->L, e->slots + slot)) {
    lua_pushvalue(e->L, e->slots + slot);
  } else {
    lua_newtable(e->L);
    lua_pushvalue(e->L, -1);
    lua_replace(e->L, e->slots + slot);
  }
}

/* The content of what was written at `at` comes later. Its object is on top of the stack: popped. */
static void put_off(encoder *e, size_t at, uint32_t first_own) {
  lua_State *L = e->L;
  if (e->put_off_count == e->sought) {
    uns_codec_push_path(L, e->place, e->names);
    e->code = FOUND;
    lua_error(L);
  }
  if (e->item_count == e->item_capacity) {
    size_t capacity = e->item_capacity == 0 ? 16 : e->item_capacity * 2;
    item *items = uns_realloc(e->items, capacity * sizeof *items);
    if (items == NULL) raise_no_memory(e);
    e->items = items;
    e->item_capacity = capacity;
  }
  push_slot(e, SLOT_QUEUE);
  lua_insert(L, -2);
  lua_rawseti(L, -2, (lua_Integer)e->item_count + 1);
  lua_pop(L, 1);
  item *later = &e->items[e->item_count++];
  *later = (item){at, first_own, 0, e->put_off_count++};
  if (e->item != NULL) {
    later->root = e->item->root;
    later->level = e->item->level + 1;
  }
}

/* Keeps the value at `i` alive, and so its address its own, until the packet is done. */
static void keep(encoder *e, int i) {
  lua_State *L = e->L;
  push_slot(e, SLOT_KEPT);
  lua_pushvalue(L, i);
  lua_rawseti(L, -2, ++e->kept_count);
  lua_pop(L, 1);
}

/* Enters the name on top of the stack (popped) into the table of names; its index. */
static uint32_t add_name(encoder *e) {
  lua_State *L = e->L;
  int name = lua_gettop(L);
  uint32_t index = e->name_count;
  push_slot(e, SLOT_NAMES);
  lua_pushvalue(L, name);
  if (lua_rawget(L, name + 1) == LUA_TNUMBER) {
    index = (uint32_t)lua_tointeger(L, -1);
  } else {
    lua_pushvalue(L, name);
    lua_pushinteger(L, index);
    lua_rawset(L, name + 1);
    lua_pushvalue(L, name);
    lua_rawseti(L, name + 1, index + 1);
    e->name_count++;
  }
  lua_settop(L, name - 1);
  return index;
}

/* ---- values ---- */

static void put_value(encoder *e, int i);

/* A mention of an object that is known. */
static void put_again(encoder *e, uint64_t word) {
  switch (WORD_KIND(word)) {
    case KIND_WRITTEN:
      e->packet->bytes[WORD_OFFSET(word)] |= UNS_SHARED_BIT;
      put_tagged(e, UNS_TAG_REF, WORD_OFFSET(word));
      break;
    case KIND_NAMED: put_tagged(e, UNS_TAG_NAMED, WORD_OFFSET(word)); break;
    default: refuse(e, "object that contains itself, and so cannot be packed by its %s", PACK_HOOK);
  }
}

/* Up to SHORT_STRING_BYTES. The second time it is given a number, from the third time on that stands for it. */
static inline void put_short_string(encoder *e, const char *bytes, size_t size, bool key) {
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

/* Takes over `owned`. */
static uint32_t add_ref(encoder *e, uns_shared *owned) {
  int64_t ref = uns_packet_add_ref(e->packet, owned);
  if (ref < 0) {
    uns_shared_unref(owned);
    raise_no_memory(e);
  }
  return (uint32_t)ref;
}

static __attribute__((noinline)) void put_long_string(encoder *e, int i, const char *bytes, size_t size) {
  uint64_t known = recall(e, bytes, WORD(KIND_WRITTEN, 0, here(e)));
  if (known != 0) {
    put_again(e, known);
  } else if (size >= UNS_LENT_MIN && e->codec->mailbox != NULL) {
    uns_lent *lent = uns_codec_lend(e->L, e->codec, i);
    if (lent == NULL) raise_no_memory(e);
    put_tagged(e, UNS_TAG_LENT, add_ref(e, &lent->base));
  } else {
    put_tagged(e, UNS_TAG_BYTES, size);
    memcpy(room(e, size), bytes, size);
    wrote(e, size);
  }
}

static inline void put_string(encoder *e, int i, bool key) {
  size_t size;
  const char *bytes = lua_tolstring(e->L, i, &size);
  if (size <= SHORT_STRING_BYTES) put_short_string(e, bytes, size, key);
  else put_long_string(e, i, bytes, size);
}

/* ---- tables ---- */

/* The smallest run whose numbers can be as large as `value`. */
static int width_of(lua_Integer value) {
  if (value >= INT8_MIN && value <= INT8_MAX) return 1;
  if (value >= INT16_MIN && value <= INT16_MAX) return 2;
  if (value >= INT32_MIN && value <= INT32_MAX) return 4;
  return 8;
}

static inline bool put_narrow(uint8_t *to, int width, lua_Integer value) {
  switch (width) {
    case 1: {
      int8_t narrow = (int8_t)value;
      memcpy(to, &narrow, 1);
      return narrow == value;
    }
    case 2: {
      int16_t narrow = (int16_t)value;
      memcpy(to, &narrow, 2);
      return narrow == value;
    }
    case 4: {
      int32_t narrow = (int32_t)value;
      memcpy(to, &narrow, 4);
      return narrow == value;
    }
    default: memcpy(to, &value, 8); return true;
  }
}

/*
 * Writes a run of the integers, or floats, of the list at `i` from `from` on, where there is one, up to `to` at most.
 * Returns how many.
 */
static lua_Integer put_run(encoder *e, int i, lua_Integer from, lua_Integer to, bool integers) {
  lua_State *L = e->L;
  int base = lua_gettop(L);
  lua_rawgeti(L, i, from);
  int width = integers ? width_of(lua_tointeger(L, base + 1)) : 8;
  lua_settop(L, base);
  size_t at = here(e);
  static const uint8_t tags[] = {0, UNS_TAG_INTS8, UNS_TAG_INTS16, 0, UNS_TAG_INTS32, 0, 0, 0, UNS_TAG_INTS64};
  *room(e, 5) = integers ? tags[width] : UNS_TAG_FLOATS;
  wrote(e, 5);
  lua_Integer next = from;
  bool going_on = true;
  if (to - from >= UINT32_MAX) to = from + UINT32_MAX - 1;
  while (going_on && next <= to) {
    int batch = to - next < BATCH ? (int)(to - next) + 1 : BATCH;
    for (int k = 0; k < batch; k++) lua_rawgeti(L, i, next + k);
    uint8_t *bytes = room(e, (size_t)(BATCH * width));
    int taken = 0;
    if (integers) {
      while (taken < batch && lua_isinteger(L, base + 1 + taken) &&
             put_narrow(bytes, width, lua_tointeger(L, base + 1 + taken))) {
        bytes += width;
        taken++;
      }
    } else {
      while (taken < batch && lua_type(L, base + 1 + taken) == LUA_TNUMBER && !lua_isinteger(L, base + 1 + taken)) {
        lua_Number value = lua_tonumber(L, base + 1 + taken);
        memcpy(bytes, &value, 8);
        bytes += 8;
        taken++;
      }
    }
    lua_settop(L, base);
    wrote(e, (size_t)(taken * width));
    next += taken;
    going_on = taken == batch;
  }
  uint32_t count = (uint32_t)(next - from);
  memcpy(e->packet->bytes + at + 1, &count, 4);
  return count;
}

/* Writes the items from `from` to `to` of the list at `i`, up to the first nil; returns the last one written. */
static lua_Integer put_items(encoder *e, uns_place *place, int i, lua_Integer from, lua_Integer to) {
  lua_State *L = e->L;
  int streak = 0, streak_of = 0; /* 1: floats, 2: integers */
  place->kind = UNS_AT_ITEM;
  lua_Integer next = from;
  while (next <= to) {
    int type = lua_rawgeti(L, i, next);
    if (type == LUA_TNIL) {
      lua_pop(L, 1);
      break;
    }
    int number = type != LUA_TNUMBER ? 0 : lua_isinteger(L, -1) ? 2 : 1;
    streak = number == 0 ? 0 : number == streak_of ? streak + 1 : 1;
    streak_of = number;
    if (streak >= STREAK) { /* stays so until another kind comes: a wider number begins another run at once */
      lua_pop(L, 1);
      next += put_run(e, i, next, to, number == 2);
      continue;
    }
    place->number = next++;
    put_value(e, lua_gettop(L));
    lua_pop(L, 1);
  }
  return next - 1;
}

static int next_after(lua_State *L) {
  lua_settop(L, 2);
  return lua_next(L, 1) ? 2 : 0;
}

/*
 * All of 1 to `last` were written, of the table at `i`, and last + 1 is nil. Pushes the first pair behind them, in the
 * order of lua_next, and returns 1; or 0: there is none. Returns -1 where that is not known, and pushes nothing.
 *
 * lua_next goes through the array part first, in order. It accepts an absent number as a key where that lies in the array
 * part, and then the array part holds all before it too. Otherwise it raises.
 */
static int push_behind(encoder *e, int i, lua_Integer last) {
  lua_State *L = e->L;
  int top = lua_gettop(L);
  lua_pushcfunction(L, next_after);
  lua_pushvalue(L, i);
  lua_pushinteger(L, last + 1);
  if (lua_pcall(L, 2, LUA_MULTRET, 0) != LUA_OK) {
    lua_settop(L, top);
    return -1;
  }
  return lua_gettop(L) > top ? 1 : 0;
}

/* The content of the table at `i`; returns the number of items and pairs. */
static void put_table_content(encoder *e, int i, bool record, uint32_t *items, uint32_t *pairs) {
  lua_State *L = e->L;
  int key = lua_gettop(L) + 1;
  uns_place place = {e->place, UNS_AT_FIELD, key, 0};
  e->place = &place;
  lua_Integer list = record ? -1 : 0; /* so many items so far; -1: they are through */
  lua_Integer skip = 0;               /* items up to here may come again */
  lua_Integer count = 0, hashed = 0;
  lua_pushnil(L);
  bool more = lua_next(L, i);
  while (more) {
    if (list >= 0 && lua_isinteger(L, key) && lua_tointeger(L, key) == list + 1) {
      list++;
      count = list;
      put_value(e, key + 1);
      lua_settop(L, key);
      if (list == SCANNED_ITEMS) {
        lua_Integer border = (lua_Integer)lua_rawlen(L, i);
        if (border > INT32_MAX) border = INT32_MAX; /* of a sparse table: the rest comes as pairs */
        if (border >= 2 * SCANNED_ITEMS) {
          count = put_items(e, &place, i, list + 1, border);
          lua_settop(L, key);
          place.kind = UNS_AT_FIELD;
          list = -1;
          int behind = push_behind(e, i, count);
          if (behind == 0) break;
          if (behind > 0) {
            lua_remove(L, key);
            continue;
          }
          skip = count;
        }
      }
    } else if (skip > 0 && lua_isinteger(L, key) && lua_tointeger(L, key) <= skip && lua_tointeger(L, key) >= 1) {
      lua_settop(L, key);
    } else {
      list = -1;
      if (lua_type(L, key) == LUA_TSTRING) {
        put_string(e, key, true);
      } else {
        place.kind = UNS_AT_KEY;
        put_value(e, key);
        place.kind = UNS_AT_FIELD;
      }
      put_value(e, key + 1);
      lua_settop(L, key);
      hashed++;
    }
    more = lua_next(L, i);
  }
  lua_settop(L, key - 1);
  if (hashed > UINT32_MAX) refuse(e, "table of too many fields");
  *items = (uint32_t)count;
  *pairs = (uint32_t)hashed;
  e->place = place.up;
}

/* Behind a table's tag at `at`: its content, and the counts before it. */
static void put_table_from(encoder *e, int i, size_t at) {
  lua_State *L = e->L;
  unsigned tag = e->packet->bytes[at];
  bool record = (tag & ~3u) == UNS_TAG_RECORD, meta = (tag & UNS_META_BIT) != 0;
  uint32_t counts[2];
  e->depth++;
  put_table_content(e, i, record, &counts[0], &counts[1]);
  memcpy(e->packet->bytes + at + 1, record ? &counts[1] : counts, record ? 4 : 8);
  if (meta && lua_getmetatable(L, i)) {
    uns_place place = {e->place, UNS_AT_METATABLE, 0, 0};
    e->place = &place;
    uint64_t known = recall(e, (const char *)lua_topointer(L, -1) + 1, 0);
    if (WORD_KIND(known) == KIND_META_NAMED) put_tagged(e, UNS_TAG_NAMED, WORD_OFFSET(known));
    else put_value(e, lua_gettop(L));
    lua_pop(L, 1);
    e->place = place.up;
  }
  e->depth--;
}

/* What is done about the metatable on top of the stack, of the table at `i`: a memo's word. */
static uint64_t metatable_word(encoder *e) {
  lua_State *L = e->L;
  const void *metatable = lua_topointer(L, -1);
  if (metatable == e->metatable) return e->metatable_word;
  uint64_t known = recall(e, (const char *)metatable + 1, WORD(KIND_META_VALUE, 0, 0));
  if (known == 0) {
    int top = lua_gettop(L);
    known = WORD(KIND_META_VALUE, 0, 0);
    lua_pushliteral(L, PACK_HOOK);
    if (lua_rawget(L, top) != LUA_TNIL) {
      known = WORD(KIND_META_PACKS, 0, 0);
    } else if (uns_codec_push_name(L, top) || uns_codec_push_registered(L, top)) {
      known = WORD(KIND_META_NAMED, 0, add_name(e));
    } else {
      lua_pushliteral(L, "__gc");
      if (lua_rawget(L, top) != LUA_TNIL) {
        refuse(e, "table with a metatable that has __gc and that no loaded module holds: it would run twice");
      }
    }
    lua_settop(L, top);
    revise(e, (const char *)metatable + 1, known);
  }
  e->metatable = metatable;
  e->metatable_word = known;
  return known;
}

/* The tables that package.loaded holds cross by name. */
static void enter_modules(encoder *e) {
  lua_State *L = e->L;
  e->modules_known = true;
  lua_pushnil(L);
  while (lua_next(L, lua_upvalueindex(UNS_UP_LOADED))) {
    if (lua_type(L, -1) == LUA_TTABLE && lua_type(L, -2) == LUA_TSTRING) {
      recall(e, lua_topointer(L, -1), WORD(KIND_MODULE, 0, 0));
    }
    lua_pop(L, 1);
  }
}

static void put_rebuilt(encoder *e, int i);

static void put_table(encoder *e, int i) {
  lua_State *L = e->L;
  const void *object = lua_topointer(L, i);
  if (object == e->globals) {
    put_byte(e, UNS_TAG_GLOBALS);
    return;
  }
  luaL_checkstack(L, 10, NULL);
  if (!e->modules_known) enter_modules(e);
  size_t at = here(e);
  uint64_t known = recall(e, object, WORD(KIND_WRITTEN, 0, at));
  if (known != 0) {
    if (WORD_KIND(known) == KIND_MODULE) {
      if (!uns_codec_push_name(L, i)) refuse(e, "module whose name cannot be told"); /* it holds a zero */
      known = WORD(KIND_NAMED, 0, add_name(e));
      revise(e, object, known);
    }
    put_again(e, known);
    return;
  }
  unsigned bits = 0;
  if (lua_getmetatable(L, i)) {
    unsigned kind = WORD_KIND(metatable_word(e));
    lua_pop(L, 1);
    if (kind == KIND_META_PACKS) {
      put_rebuilt(e, i);
      return;
    }
    bits = UNS_META_BIT;
  }
  if (e->depth >= UNS_INLINE_DEPTH) {
    memset(room(e, 9), 0, 9);
    e->packet->bytes[at] = (uint8_t)(UNS_TAG_TABLE | bits | UNS_LATER_BIT);
    wrote(e, 9);
    lua_pushvalue(L, i);
    put_off(e, at, 0);
    return;
  }
  /* Without a first item there is no list: a record. */
  bool record = lua_rawgeti(L, i, 1) == LUA_TNIL;
  lua_pop(L, 1);
  size_t head = record ? 5 : 9;
  memset(room(e, head), 0, head);
  e->packet->bytes[at] = (uint8_t)((record ? UNS_TAG_RECORD : UNS_TAG_TABLE) | bits);
  wrote(e, head);
  put_table_from(e, i, at);
}

/* ---- functions ---- */

static void put_upvalues(encoder *e, int i, size_t at, int count) {
  lua_State *L = e->L;
  uns_place place = {e->place, UNS_AT_UPVALUE, i, 0};
  e->place = &place;
  e->depth++;
  for (int n = 1; n <= count; n++) {
    uint64_t known = recall(e, lua_upvalueid(L, i, n), WORD(KIND_WRITTEN, n, at));
    if (known != 0) { /* the same variable as one before: of another closure, mostly */
      e->packet->bytes[WORD_OFFSET(known)] |= UNS_SHARED_BIT;
      put_tagged(e, UNS_TAG_CELL, WORD_OFFSET(known));
      put_byte(e, WORD_NUMBER(known));
      continue;
    }
    place.number = n;
    lua_getupvalue(L, i, n);
    put_value(e, lua_gettop(L));
    lua_pop(L, 1);
  }
  e->depth--;
  e->place = place.up;
}

static void put_object(encoder *e, int i, const uns_codec_class *class);

/* By name, or not at all. */
static void put_named(encoder *e, int i) {
  if (lua_type(e->L, i) == LUA_TLIGHTUSERDATA) { /* its address may be anything: not for the memo */
    if (!uns_codec_push_name(e->L, i)) refuse_type(e, i);
    put_tagged(e, UNS_TAG_NAMED, add_name(e));
    return;
  }
  const void *object = lua_topointer(e->L, i);
  uint64_t known = recall(e, object, WORD(KIND_MODULE, 0, 0));
  if (known == 0 || WORD_KIND(known) == KIND_MODULE) {
    if (!uns_codec_push_name(e->L, i)) refuse_type(e, i);
    known = WORD(KIND_NAMED, 0, add_name(e));
    revise(e, object, known);
  }
  put_again(e, known);
}

static void put_c_function(encoder *e, int i) {
  const uns_codec_class *class = uns_codec_class_of_function(e->codec, lua_tocfunction(e->L, i));
  if (class != NULL) put_object(e, i, class);
  else put_named(e, i);
}

static void put_function(encoder *e, int i) {
  lua_State *L = e->L;
  luaL_checkstack(L, 10, NULL);
  if (lua_iscfunction(L, i)) {
    put_c_function(e, i);
    return;
  }
  size_t at = here(e);
  const void *object = lua_topointer(L, i);
  uint64_t known = recall(e, object, WORD(KIND_WRITTEN, 0, at));
  if (known != 0) {
    put_again(e, known);
    return;
  }
  int count;
  uns_code *code = uns_codec_code(L, e->codec, i, &count);
  if (code == NULL) {
    revise(e, object, WORD(KIND_MODULE, 0, 0));
    put_named(e, i);
    return;
  }
  uint64_t ref = recall(e, code, WORD(KIND_CODE, 0, 0));
  if (ref == 0) {
    ref = WORD(KIND_CODE, 0, add_ref(e, uns_shared_ref(code)));
    revise(e, code, ref);
  }
  bool later = e->depth >= UNS_INLINE_DEPTH && count > 0;
  put_tagged(e, UNS_TAG_FUNCTION | (later ? UNS_PUT_OFF_BIT : 0), WORD_OFFSET(ref));
  put_byte(e, (unsigned)count);
  if (later) {
    lua_pushvalue(L, i);
    put_off(e, at, 0);
  } else {
    put_upvalues(e, i, at, count);
  }
}

/* ---- objects ---- */

/* Light userdata is one of the object's shared objects, which are in the packet one behind the other. */
static void put_parts(encoder *e, int first, int count, uint32_t first_own) {
  uns_place place = {e->place, UNS_AT_PART, 0, 0};
  e->place = &place;
  e->depth++;
  for (int i = first; i < first + count; i++) {
    if (lua_type(e->L, i) == LUA_TLIGHTUSERDATA) put_tagged(e, UNS_TAG_OWN, first_own++);
    else put_value(e, i);
  }
  e->depth--;
  e->place = place.up;
}

static bool is_collectable(int type) {
  return type == LUA_TSTRING || type == LUA_TTABLE || type == LUA_TFUNCTION || type == LUA_TUSERDATA ||
         type == LUA_TTHREAD;
}

/* Moves the references among the parts into the packet: all, or, without memory, none is left over. */
static uint32_t take_parts(encoder *e, int first, int count) {
  lua_State *L = e->L;
  uint32_t first_own = e->packet->ref_count;
  for (int i = first; i < first + count; i++) {
    if (lua_type(L, i) != LUA_TLIGHTUSERDATA) continue;
    if (uns_packet_add_ref(e->packet, lua_touserdata(L, i)) >= 0) continue;
    for (; i < first + count; i++) {
      if (lua_type(L, i) == LUA_TLIGHTUSERDATA) uns_shared_unref(lua_touserdata(L, i));
    }
    raise_no_memory(e);
  }
  return first_own;
}

static void put_object(encoder *e, int i, const uns_codec_class *class) {
  lua_State *L = e->L;
  size_t at = here(e);
  uint64_t known = recall(e, lua_topointer(L, i), WORD(KIND_WRITTEN, 0, at));
  if (known != 0) {
    put_again(e, known);
    return;
  }
  luaL_checkstack(L, 2 * LUA_MINSTACK, NULL);
  int first = lua_gettop(L) + 1;
  int count = class->encode(L, i);
  if (count < 0 || count > PARTS_MOST) refuse(e, "%s that cannot cross", class->name);
  uint32_t first_own = take_parts(e, first, count);
  bool owns = e->packet->ref_count > first_own;
  for (int part = first; part < first + count; part++) {
    if (is_collectable(lua_type(L, part))) keep(e, part);
  }

  bool later = e->depth >= UNS_INLINE_DEPTH;
  size_t name_size = strlen(class->name);
  uint8_t *to = room(e, name_size + 3);
  to[0] = (uint8_t)(UNS_TAG_OBJECT | (later ? UNS_PUT_OFF_BIT : 0));
  to[1] = (uint8_t)name_size;
  memcpy(to + 2, class->name, name_size);
  wrote(e, name_size + 2);
  put_tagged(e, (unsigned)count, owns ? (uint64_t)first_own + 1 : 0);
  if (later) {
    lua_createtable(L, count, 0);
    lua_insert(L, first);
    for (int part = count; part >= 1; part--) lua_rawseti(L, first, part);
    lua_pushinteger(L, count);
    lua_rawseti(L, first, 0);
    put_off(e, at, first_own);
  } else {
    put_parts(e, first, count, first_own);
  }
  lua_settop(L, first - 1);
}

static void put_queue(encoder *e, size_t from);

/* The object at `i`, a table or a userdata, has PACK_HOOK: the one place where the encoder runs a user's code. */
static void put_rebuilt(encoder *e, int i) {
  lua_State *L = e->L;
  const void *object = lua_topointer(L, i);
  if (e->rebuilding == REBUILT_DEPTH) refuse(e, "objects with %s are nested too deeply", PACK_HOOK);
  e->rebuilding++;
  revise(e, object, WORD(KIND_REBUILDING, 0, 0));
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  int first = lua_gettop(L) + 1;
  luaL_getmetafield(L, i, PACK_HOOK);
  lua_pushvalue(L, i);
  if (lua_pcall(L, 1, LUA_MULTRET, 0) != LUA_OK) {
    refuse(e, "its %s failed: %s", PACK_HOOK, luaL_tolstring(L, -1, NULL));
  }
  int count = lua_gettop(L) - first; /* behind the function */
  if (!lua_toboolean(L, first)) {
    if (count > 0 && lua_type(L, first + 1) == LUA_TSTRING) refuse(e, "%s", lua_tostring(L, first + 1));
    refuse_type(e, i);
  }
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  for (int k = first; k <= first + count; k++) {
    if (is_collectable(lua_type(L, k))) keep(e, k);
  }

  size_t at = here(e);
  put_tagged(e, UNS_TAG_REBUILT, (uint64_t)count);
  uns_place place = {e->place, UNS_AT_PART, 0, 0};
  e->place = &place;
  e->depth++;
  size_t queued = e->item_count;
  if (lua_type(L, first) == LUA_TSTRING) {
    const char *name = lua_tostring(L, first), *dot = strrchr(name, '.');
    if (dot == NULL || dot == name || dot[1] == '\0') {
      refuse(e, "its %s names \"%s\", not a function as \"module.function\"", PACK_HOOK, name);
    }
    lua_pushlstring(L, name, (size_t)(dot - name));
    lua_pushlstring(L, "", 1);
    lua_pushstring(L, dot + 1);
    lua_concat(L, 3);
    put_tagged(e, UNS_TAG_NAMED, add_name(e));
  } else {
    put_value(e, first);
  }
  for (int k = first + 1; k <= first + count; k++) put_value(e, k);
  e->depth--;
  put_queue(e, queued);
  e->place = place.up;
  lua_settop(L, first - 1);
  revise(e, object, WORD(KIND_WRITTEN, 0, at));
  e->rebuilding--;
}

static void put_userdata(encoder *e, int i) {
  lua_State *L = e->L;
  luaL_checkstack(L, 10, NULL);
  if (lua_getmetatable(L, i)) {
    const uns_codec_class *class = uns_codec_class_of_metatable(e->codec, lua_topointer(L, -1));
    if (class != NULL) {
      lua_pop(L, 1);
      put_object(e, i, class);
      return;
    }
    lua_pushliteral(L, PACK_HOOK);
    bool packs = lua_rawget(L, -2) != LUA_TNIL;
    lua_pop(L, 2);
    if (packs) {
      uint64_t known = recall(e, lua_topointer(L, i), WORD(KIND_REBUILDING, 0, 0));
      if (known != 0) put_again(e, known);
      else put_rebuilt(e, i);
      return;
    }
  }
  put_named(e, i);
}

/* ---- all of it ---- */

static void put_value(encoder *e, int i) {
  lua_State *L = e->L;
  switch (lua_type(L, i)) {
    case LUA_TNIL: put_byte(e, UNS_TAG_NIL); break;
    case LUA_TBOOLEAN: put_byte(e, lua_toboolean(L, i) ? UNS_TAG_TRUE : UNS_TAG_FALSE); break;
    case LUA_TNUMBER:
      if (lua_isinteger(L, i)) put_integer(e, lua_tointeger(L, i));
      else put_float(e, lua_tonumber(L, i));
      break;
    case LUA_TSTRING: put_string(e, i, false); break;
    case LUA_TTABLE: put_table(e, i); break;
    case LUA_TFUNCTION: put_function(e, i); break;
    case LUA_TUSERDATA: put_userdata(e, i); break;
    case LUA_TLIGHTUSERDATA: put_named(e, i); break;
    default: refuse_type(e, i);
  }
}

/* Writes the content that was put off since the queue was `from` long, and what that puts off, until there is none. */
static void put_queue(encoder *e, size_t from) {
  lua_State *L = e->L;
  const item *outer_item = e->item;
  uns_place *outer_place = e->place;
  int depth = e->depth;
  int object = lua_gettop(L) + 1;
  for (size_t next = from; next < e->item_count; next++) {
    item now = e->items[next];
    uns_place place = {NULL, UNS_AT_DEEP, 0, 0};
    e->item = &now;
    e->place = &place;
    e->depth = 0;
    push_slot(e, SLOT_QUEUE);
    lua_rawgeti(L, object, (lua_Integer)next + 1);
    lua_pushnil(L);
    lua_rawseti(L, object, (lua_Integer)next + 1);
    lua_remove(L, object);
    switch (e->packet->bytes[now.at] & ~3u) {
      case UNS_TAG_FUNCTION: {
        int count = 0;
        uns_codec_code(L, e->codec, object, &count);
        put_upvalues(e, object, now.at, count);
        break;
      }
      case UNS_TAG_OBJECT: {
        lua_rawgeti(L, object, 0);
        int count = (int)lua_tointeger(L, -1);
        lua_pop(L, 1);
        luaL_checkstack(L, count + LUA_MINSTACK, NULL);
        for (int part = 1; part <= count; part++) lua_rawgeti(L, object, part);
        put_parts(e, object + 1, count, now.first_own);
        break;
      }
      default: put_table_from(e, object, now.at);
    }
    lua_settop(L, object - 1);
  }
  e->item_count = from;
  e->item = outer_item;
  e->place = outer_place;
  e->depth = depth;
}

static void put_names(encoder *e) {
  lua_State *L = e->L;
  uint64_t offset = 0;
  if (e->name_count > 0) {
    offset = here(e);
    wrote(e, uns_write_varint(room(e, 10), e->name_count));
    for (uint32_t i = 1; i <= e->name_count; i++) {
      lua_rawgeti(L, e->slots + SLOT_NAMES, i);
      size_t size;
      const char *module = lua_tolstring(L, -1, &size);
      size_t module_size = strlen(module), field_size = size - module_size - 1;
      uint8_t *to = room(e, size + 20);
      size_t written = uns_write_varint(to, module_size);
      memcpy(to + written, module, module_size);
      written += module_size;
      written += uns_write_varint(to + written, field_size);
      memcpy(to + written, module + module_size + 1, field_size);
      wrote(e, written + field_size);
      lua_pop(L, 1);
    }
  }
  uns_write_header(e->packet->bytes, (uint32_t)e->count, offset);
}

/* The encoder as light userdata, then the values. Returns nothing. */
static int encode_body(lua_State *L) {
  encoder *e = lua_touserdata(L, 1);
  e->L = L;
  e->slots = lua_gettop(L);
  lua_settop(L, e->slots + SLOT_KEPT);
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  if (!memo_begin(e->memo)) raise_no_memory(e);
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
  e->globals = lua_topointer(L, -1);
  lua_pop(L, 1);

  room(e, UNS_HEADER_BYTES + 48);
  wrote(e, UNS_HEADER_BYTES);
  uns_place place = {NULL, UNS_AT_VALUE, 0, 0};
  e->place = &place;
  for (; place.number < e->count; place.number++) put_value(e, 2 + (int)place.number);
  put_queue(e, 0);
  put_names(e);
  return 0;
}

int uns_codec_encoder(lua_State *L) { return encode_body(L); }

static void encoder_init(encoder *e, uns_codec *codec, int count, const uns_codec_names *names, uns_packet *packet) {
  memset(e, 0, sizeof *e);
  e->codec = codec;
  e->packet = packet;
  e->names = names;
  e->count = count;
  e->sought = UINT64_MAX;
  e->memo = codec->memo_busy ? &e->own_memo : &codec->memo;
  codec->memo_busy = true;
}

static void encoder_deinit(encoder *e) {
  uns_free(e->items);
  if (e->memo == &e->own_memo) {
    uns_free(e->own_memo.entries);
    uns_free(e->own_memo.strings);
    return;
  }
  uns_memo *memo = e->memo;
  e->codec->memo_busy = false;
  if (memo->mask >= UNS_MEMO_KEPT) { /* small packets find nothing in the cache if it is large */
    uns_free(memo->entries);
    memo->entries = NULL;
  }
}

int uns_codec_encode(lua_State *L, int first, int count, const uns_codec_names *names, uns_packet *packet) {
  uns_codec *codec = uns_codec_of(L);
  lua_State *T = codec->running == 0 ? codec->thread : L;
  if (codec->closed || !lua_checkstack(L, count + 4) || !lua_checkstack(T, count + LUA_MINSTACK)) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, codec->no_memory);
    return codec->closed ? UNS_ECLOSED : UNS_ENOMEM;
  }
  encoder e;
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
