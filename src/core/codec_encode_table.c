/*
 * codec_encode_table: a table's items, its other fields and its metatable.
 *
 * A list is read by number, in runs where it holds numbers; the rest with lua_next, which goes through the items again
 * unless it can be told to begin behind them.
 */
#include <lauxlib.h>

#include "core/codec_encoder.h"

enum {
  SCANNED_ITEMS = 64, /* of a list, with lua_next; the rest by number, */
  LISTED_ITEMS = 128, /* where there are so many */
  STREAK = 4,         /* numbers of one kind in a row, before they are written as a run */
  BATCH = 16,         /* numbers fetched at once */
  AHEAD = 4           /* tables fetched from memory before they are needed */
};

/* The smallest run whose numbers can be as large as `value`. */
static size_t width_of(lua_Integer value) {
  if (value >= INT8_MIN && value <= INT8_MAX) return 1;
  if (value >= INT16_MIN && value <= INT16_MAX) return 2;
  if (value >= INT32_MIN && value <= INT32_MAX) return 4;
  return 8;
}

static inline bool put_narrow(uint8_t *to, size_t width, lua_Integer value) {
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
static lua_Integer put_run(uns_encoder *e, int i, lua_Integer from, lua_Integer to, bool integers) {
  lua_State *L = e->L;
  int base = lua_gettop(L);
  lua_rawgeti(L, i, from);
  size_t width = integers ? width_of(lua_tointeger(L, base + 1)) : 8;
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
    uint8_t *bytes = room(e, BATCH * width);
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
    wrote(e, (size_t)taken * width);
    next += taken;
    going_on = taken == batch;
  }
  uint32_t count = (uint32_t)(next - from);
  memcpy(e->packet->bytes + at + 1, &count, 4);
  return count;
}

/* Writes the items from `from` to `to` of the list at `i`, up to the first nil; returns the last one written. */
static lua_Integer put_items(uns_encoder *e, uns_place *place, int i, lua_Integer from, lua_Integer to) {
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
    if (type == LUA_TTABLE) {
      if (next == from) uns_memo_expect(e->memo, (size_t)(to - from)); /* most likely they are tables all */
      if (next + AHEAD <= to) { /* a cache miss is what a small table costs most */
        lua_rawgeti(L, i, next + AHEAD);
        uns_memo_fetch(e->memo, lua_topointer(L, -1));
        lua_pop(L, 1);
      }
    }
    place->number = next++;
    uns_put_value(e, lua_gettop(L));
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
static int push_behind(uns_encoder *e, int i, lua_Integer last) {
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

/*
 * The items and pairs of the table at `i`, and how many they are. The first pair of lua_next, if there are `more` than
 * none, is on top of the stack: popped.
 */
static void put_fields(uns_encoder *e, int i, bool record, bool more, uint32_t *items, uint32_t *pairs) {
  lua_State *L = e->L;
  int key = lua_gettop(L) + (more ? -1 : 1);
  uns_place place = {e->place, UNS_AT_FIELD, key, 0};
  e->place = &place;
  lua_Integer list = record ? -1 : 0; /* so many items so far; -1: they are through */
  lua_Integer skip = 0;               /* items up to here may come again */
  lua_Integer count = 0, hashed = 0;
  while (more) {
    if (list >= 0 && lua_isinteger(L, key) && lua_tointeger(L, key) == list + 1) {
      list++;
      count = list;
      uns_put_value(e, key + 1);
      lua_settop(L, key);
      if (list == SCANNED_ITEMS) {
        lua_Integer border = (lua_Integer)lua_rawlen(L, i);
        if (border > INT32_MAX) border = INT32_MAX; /* of a sparse table: the rest comes as pairs */
        if (border >= LISTED_ITEMS) {
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
        uns_put_string(e, key, true);
      } else {
        place.kind = UNS_AT_KEY;
        uns_put_value(e, key);
        place.kind = UNS_AT_FIELD;
      }
      uns_put_value(e, key + 1);
      lua_settop(L, key);
      hashed++;
    }
    more = lua_next(L, i);
  }
  lua_settop(L, key - 1);
  if (hashed > UINT32_MAX) uns_encoder_refuse(e, "table of too many fields");
  *items = (uint32_t)count;
  *pairs = (uint32_t)hashed;
  e->place = place.up;
}

/* Behind a table's tag at `at`: its content, and the counts before it. For `more` see above. */
static void put_content(uns_encoder *e, int i, size_t at, bool more) {
  lua_State *L = e->L;
  unsigned tag = e->packet->bytes[at];
  bool record = (tag & ~3u) == UNS_TAG_RECORD, meta = (tag & UNS_META_BIT) != 0;
  uint32_t counts[2];
  e->depth++;
  put_fields(e, i, record, more, &counts[0], &counts[1]);
  memcpy(e->packet->bytes + at + 1, record ? &counts[1] : counts, record ? 4 : 8);
  if (meta && lua_getmetatable(L, i)) {
    uns_place place = {e->place, UNS_AT_METATABLE, 0, 0};
    e->place = &place;
    uint64_t known = uns_encoder_recall(e, (const char *)lua_topointer(L, -1) + 1, 0);
    if (uns_word_kind(known) == UNS_MEMO_META_NAMED) put_tagged(e, UNS_TAG_NAMED, uns_word_offset(known));
    else uns_put_value(e, lua_gettop(L));
    lua_pop(L, 1);
    e->place = place.up;
  }
  e->depth--;
}

void uns_put_table_content(uns_encoder *e, int i, size_t at) {
  lua_pushnil(e->L);
  put_content(e, i, at, lua_next(e->L, i));
}

/* What is done about the metatable on top of the stack, of the table at `i`: a memo's word. */
static uint64_t metatable_word(uns_encoder *e) {
  lua_State *L = e->L;
  const void *metatable = lua_topointer(L, -1);
  if (metatable == e->metatable) return e->metatable_word;
  uint64_t known = uns_encoder_recall(e, (const char *)metatable + 1, uns_memo_word(UNS_MEMO_META_VALUE, 0, 0));
  if (known == 0) {
    int top = lua_gettop(L);
    known = uns_memo_word(UNS_MEMO_META_VALUE, 0, 0);
    lua_pushliteral(L, UNS_PACK_HOOK);
    if (lua_rawget(L, top) != LUA_TNIL) {
      known = uns_memo_word(UNS_MEMO_META_PACKS, 0, 0);
    } else {
      const void *name = uns_codec_push_name(L, top);
      if (name == NULL && (name = uns_codec_push_registered(L, top)) != NULL) {
        lua_pushliteral(L, "__gc");
        lua_rawget(L, top);
        if (lua_iscfunction(L, -1)) uns_encoder_refuse(e, "table with the metatable of a class of userdata");
        lua_pop(L, 1);
      }
      if (name != NULL) known = uns_memo_word(UNS_MEMO_META_NAMED, 0, uns_encoder_add_name(e, name));
    }
    if (uns_word_kind(known) == UNS_MEMO_META_VALUE) {
      lua_pushliteral(L, "__gc");
      if (lua_rawget(L, top) != LUA_TNIL) {
        uns_encoder_refuse(e,
                           "table with a metatable that has __gc and that no loaded module holds: it would run twice");
      }
    }
    lua_settop(L, top);
    uns_memo_revise(e->memo, (const char *)metatable + 1, known);
  }
  e->metatable = metatable;
  e->metatable_word = known;
  return known;
}

/* The tables that package.loaded holds cross by name. */
static void enter_modules(uns_encoder *e) {
  lua_State *L = e->L;
  e->modules_known = true;
  lua_pushnil(L);
  while (lua_next(L, lua_upvalueindex(UNS_UP_LOADED))) {
    if (lua_type(L, -1) == LUA_TTABLE && lua_type(L, -2) == LUA_TSTRING) {
      uns_encoder_recall(e, lua_topointer(L, -1), uns_memo_word(UNS_MEMO_MODULE, 0, 0));
    }
    lua_pop(L, 1);
  }
}

void uns_put_table(uns_encoder *e, int i) {
  lua_State *L = e->L;
  const void *object = lua_topointer(L, i);
  if (object == e->globals) {
    put_byte(e, UNS_TAG_GLOBALS);
    return;
  }
  luaL_checkstack(L, 10, NULL);
  if (!e->modules_known) enter_modules(e);
  size_t at = here(e);
  uint64_t known = uns_encoder_recall(e, object, uns_memo_word(UNS_MEMO_WRITTEN, 0, at));
  if (known != 0) {
    if (uns_word_kind(known) == UNS_MEMO_MODULE) {
      const void *name = uns_codec_push_name(L, i);
      known = name == NULL ? 0 : uns_memo_word(UNS_MEMO_NAMED, 0, uns_encoder_add_name(e, name));
      uns_memo_revise(e->memo, object, known != 0 ? known : uns_memo_word(UNS_MEMO_WRITTEN, 0, at));
    }
    if (known != 0) {
      uns_put_again(e, known);
      return;
    }
  }
  unsigned bits = 0;
  if (lua_getmetatable(L, i)) {
    unsigned kind = uns_word_kind(metatable_word(e));
    lua_pop(L, 1);
    if (kind == UNS_MEMO_META_PACKS) {
      uns_put_rebuilt(e, i);
      return;
    }
    bits = UNS_META_BIT;
  }
  if (e->depth >= UNS_INLINE_DEPTH) {
    memset(room(e, 9), 0, 9);
    e->packet->bytes[at] = (uint8_t)(UNS_TAG_TABLE | bits | UNS_LATER_BIT);
    wrote(e, 9);
    lua_pushvalue(L, i);
    uns_encoder_put_off(e, at, 0);
    return;
  }
  /* A list begins with its first item; without one, it is a record. */
  lua_pushnil(L);
  bool more = lua_next(L, i);
  bool record = !more || !lua_isinteger(L, -2) || lua_tointeger(L, -2) != 1;
  size_t head = record ? 5 : 9;
  memset(room(e, head), 0, head);
  e->packet->bytes[at] = (uint8_t)((record ? UNS_TAG_RECORD : UNS_TAG_TABLE) | bits);
  wrote(e, head);
  put_content(e, i, at, more);
}
