/*
 * codec_code: Lua functions as dumps, and new closures of them at the other end.
 *
 * A dump is made once per closure, and equal dumps are one object. What arrives is loaded once per hash: not as it is,
 * but as the inner function of a maker, a tiny function that declares as many parameters as the inner one has upvalues,
 * and returns it over them. So each call of the maker is a new closure with new upvalues, at the price of a call:
 *   - nothing is shared between two closures made of the same code, as if each had been loaded on its own;
 *   - the bytes are checked against their hash before they are loaded, that is once.
 * The maker is put together from the dump in the format of Lua 5.4. Where that fails, the dump is loaded plainly.
 */
#include <lauxlib.h>
#include <string.h>

#include "base/base.h"
#include "core/codec_state.h"

#if LUA_VERSION_NUM != 504
#error "the format of dumps below is that of Lua 5.4"
#endif

/* ---- the format of dumps ---- */

enum {
  DUMP_HEADER_BYTES = 4 + 2 + 6 + 3 + sizeof(lua_Integer) + sizeof(lua_Number), /* signature, version, check, sizes */
  MAKER_UPVALUES = 250, /* a maker's parameters and its function lie in registers, of which there are 255 */
  OP_CLOSURE = 79,
  OP_RETURN = 70
};

typedef struct reader {
  const uint8_t *at, *end;
  bool bad;
} reader;

static void skip(reader *from, size_t size) {
  if (size > (size_t)(from->end - from->at)) from->bad = true;
  if (!from->bad) from->at += size;
}

static unsigned read_byte(reader *from) {
  if (from->at == from->end) from->bad = true;
  return from->bad ? 0 : *from->at++;
}

/* Groups of 7 bits, the highest first, the top bit set on the last. */
static size_t read_size(reader *from) {
  size_t size = 0;
  while (!from->bad) {
    unsigned byte = read_byte(from);
    if (size > SIZE_MAX >> 7) from->bad = true;
    size = size << 7 | (byte & 0x7f);
    if (byte & 0x80) break;
  }
  return size;
}

static void skip_string(reader *from) {
  size_t size = read_size(from);
  if (size > 0) skip(from, size - 1);
}

static void skip_many(reader *from, size_t count, size_t size_each) {
  if (count > SIZE_MAX / size_each) from->bad = true;
  else skip(from, count * size_each);
}

/* Lua's own tags of constants */
enum {
  CONSTANT_NIL = 0x00,
  CONSTANT_FALSE = 0x01,
  CONSTANT_TRUE = 0x11,
  CONSTANT_INTEGER = 0x03,
  CONSTANT_FLOAT = 0x13,
  CONSTANT_SHORT = 0x04,
  CONSTANT_LONG = 0x14
};

static void skip_constant(reader *from) {
  switch (read_byte(from)) {
    case CONSTANT_NIL:
    case CONSTANT_FALSE:
    case CONSTANT_TRUE: break;
    case CONSTANT_INTEGER: skip(from, sizeof(lua_Integer)); break;
    case CONSTANT_FLOAT: skip(from, sizeof(lua_Number)); break;
    case CONSTANT_SHORT:
    case CONSTANT_LONG: skip_string(from); break;
    default: from->bad = true;
  }
}

/* Where the upvalues' descriptions, 3 bytes each, lie in the main function of a dump, and how many there are. */
static bool find_upvalues(const uint8_t *bytes, size_t size_bytes, size_t *descriptions, size_t *count) {
  reader from = {bytes, bytes + size_bytes, false};
  skip(&from, DUMP_HEADER_BYTES);
  read_byte(&from);                      /* number of upvalues once more */
  skip_string(&from);                    /* source */
  read_size(&from);                      /* first line */
  read_size(&from);                      /* last line */
  skip(&from, 3);                        /* parameters, vararg, stack */
  skip_many(&from, read_size(&from), 4); /* instructions */
  for (size_t i = read_size(&from); i > 0 && !from.bad; i--) skip_constant(&from);
  *count = read_size(&from);
  *descriptions = (size_t)(from.at - bytes);
  skip_many(&from, *count, 3);
  return !from.bad;
}

/* Says of each upvalue that it is the parameter of that number of the function around: what a maker declares. */
static void describe(const uint8_t *old, size_t count, uint8_t *to) {
  for (size_t i = 0; i < count; i++) {
    to[3 * i] = 1;
    to[3 * i + 1] = (uint8_t)i;
    to[3 * i + 2] = old[3 * i + 2]; /* its kind */
  }
}

/* ---- here: dumps ---- */

/* A Lua value that holds a reference to code. */
typedef struct code_box {
  uns_code *code;
  int upvalue_count;
} code_box;

static int code_box_gc(lua_State *L) {
  code_box *box = lua_touserdata(L, 1);
  uns_shared_unref(box->code);
  box->code = NULL;
  return 0;
}

void uns_codec_push_code_metatable(lua_State *L) {
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, code_box_gc);
  lua_setfield(L, -2, "__gc");
}

/* Grows by doubling; `bytes` is freed by whoever called lua_dump. */
typedef struct dump {
  uint8_t *bytes;
  size_t size_bytes, capacity_bytes;
} dump;

static int dump_write(lua_State *L, const void *piece, size_t size_bytes, void *to) {
  (void)L;
  dump *dumped = to;
  if (size_bytes > dumped->capacity_bytes - dumped->size_bytes) {
    size_t capacity = dumped->capacity_bytes * 2;
    while (capacity - dumped->size_bytes < size_bytes) capacity *= 2;
    uint8_t *bytes = uns_realloc(dumped->bytes, capacity);
    if (bytes == NULL) return 1;
    dumped->bytes = bytes;
    dumped->capacity_bytes = capacity;
  }
  memcpy(dumped->bytes + dumped->size_bytes, piece, size_bytes);
  dumped->size_bytes += size_bytes;
  return 0;
}

/*
 * Dumps the function at `index`; NULL without memory. Raises nothing. Where its upvalues came from in the function around
 * it is not kept: so what was made of a dump has the same dump again.
 */
static uns_code *dump_function(lua_State *L, int index) {
  dump dumped = {uns_malloc(512), 0, 512};
  if (dumped.bytes == NULL) return NULL;
  lua_pushvalue(L, index);
  uns_code *code = NULL;
  if (lua_dump(L, dump_write, &dumped, 0) == 0) {
    size_t at, count;
    if (find_upvalues(dumped.bytes, dumped.size_bytes, &at, &count) && count <= MAKER_UPVALUES) {
      describe(dumped.bytes + at, count, dumped.bytes + at);
    }
    code = uns_code_new(dumped.bytes, dumped.size_bytes);
  }
  lua_pop(L, 1);
  uns_free(dumped.bytes);
  return code;
}

static int count_upvalues(lua_State *L, int index) {
  int count = 0;
  while (lua_upvalueid(L, index, count + 1) != NULL) count++;
  return count;
}

uns_code *uns_codec_code(lua_State *L, uns_codec *codec, int index, int *upvalue_count) {
  luaL_checkstack(L, 10, NULL);
  int top = lua_gettop(L);
  lua_pushvalue(L, index);
  lua_rawget(L, lua_upvalueindex(UNS_UP_CODES));
  code_box *box = lua_touserdata(L, -1);
  if (box == NULL && lua_isnil(L, -1)) {
    lua_pop(L, 1);
    if (uns_codec_is_own(L, index)) {
      lua_pushboolean(L, true);
    } else {
      box = lua_newuserdatauv(L, sizeof *box, 0);
      box->code = NULL;
      lua_pushvalue(L, lua_upvalueindex(UNS_UP_CODE_META));
      lua_setmetatable(L, -2);
      box->upvalue_count = count_upvalues(L, index);
      box->code = dump_function(L, index);
      if (box->code == NULL) uns_codec_no_memory(L, codec);
      /* Closures made in a loop have the same dump: it is kept once. */
      lua_pushlstring(L, (const char *)box->code->hash, sizeof box->code->hash);
      lua_pushvalue(L, -1);
      if (lua_rawget(L, lua_upvalueindex(UNS_UP_BY_HASH)) == LUA_TUSERDATA) {
        box = lua_touserdata(L, -1); /* ours is garbage now */
      } else {
        lua_pop(L, 1);
        lua_pushvalue(L, -2);
        lua_rawset(L, lua_upvalueindex(UNS_UP_BY_HASH));
      }
    }
    lua_pushvalue(L, index);
    lua_pushvalue(L, -2);
    lua_rawset(L, lua_upvalueindex(UNS_UP_CODES));
  }
  lua_settop(L, top);
  if (box == NULL) return NULL;
  *upvalue_count = box->upvalue_count;
  return box->code;
}

/* ---- there: makers ---- */

/* The pieces of a maker's dump, and how far lua_load has come. */
typedef struct pieces {
  struct piece {
    const void *bytes;
    size_t size_bytes;
  } list[5];
  int next;
} pieces;

static const char *read_piece(lua_State *L, void *from, size_t *size_bytes) {
  (void)L;
  pieces *all = from;
  while (all->next < 5 && all->list[all->next].size_bytes == 0) all->next++; /* an empty one would be the end */
  if (all->next == 5) return NULL;
  struct piece *piece = &all->list[all->next++];
  *size_bytes = piece->size_bytes;
  return piece->bytes;
}

/* Pushes the maker of `code` and returns true; false, and nothing pushed: its dump is not as expected. Raises. */
static bool push_maker(lua_State *L, const uns_code *code) {
  size_t at, count;
  if (!find_upvalues(code->bytes, code->size_bytes, &at, &count) || count > MAKER_UPVALUES) return false;

  /* A function with `count` parameters: make a closure of the inner function, return it, let go of the parameters. */
  const uint32_t instructions[2] = {OP_CLOSURE | (uint32_t)count << 7,
                                    OP_RETURN | (uint32_t)count << 7 | 1u << 15 | 2u << 16};
  /* Its upvalues, source, first and last line: none. Parameters, vararg, stack. Two instructions. Constants, upvalues:
     none. One inner function. */
  uint8_t head[] = {0, 0x80, 0x80, 0x80, 0, 0, 0, 0x82, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x80, 0x81};
  head[4] = (uint8_t)count;
  head[6] = (uint8_t)(count + 2);
  memcpy(head + 8, instructions, sizeof instructions);
  static const uint8_t tail[] = {0x80, 0x80, 0x80, 0x80}; /* nothing for the debugger */

  uint8_t upvalues[3 * MAKER_UPVALUES];
  describe(code->bytes + at, count, upvalues);
  const uint8_t *inner = code->bytes + DUMP_HEADER_BYTES + 1, *descriptions = code->bytes + at;
  const uint8_t *rest = descriptions + 3 * count;
  uint8_t before[sizeof head + DUMP_HEADER_BYTES];
  memcpy(before, code->bytes, DUMP_HEADER_BYTES);
  memcpy(before + DUMP_HEADER_BYTES, head, sizeof head);
  pieces all = {{{before, sizeof before},
                 {inner, (size_t)(descriptions - inner)},
                 {upvalues, 3 * count},
                 {rest, (size_t)(code->bytes + code->size_bytes - rest)},
                 {tail, sizeof tail}},
                0};
  int status = lua_load(L, read_piece, &all, "=unsync", "b");
  if (status == LUA_OK) return true;
  if (status == LUA_ERRMEM) lua_error(L);
  lua_pop(L, 1);
  return false;
}

enum { MAKERS_LEAST = 32, MAKERS_MOST = 1024 };

static struct uns_maker *find_maker(const uns_makers *makers, const uint64_t hash[2]) {
  for (size_t i = hash[0] & makers->mask;; i = (i + 1) & makers->mask) {
    struct uns_maker *maker = &makers->entries[i];
    if (maker->slot == 0 || (maker->hash[0] == hash[0] && maker->hash[1] == hash[1])) return maker;
  }
}

void uns_codec_forget_makers(uns_codec *codec) {
  uns_free(codec->makers.entries);
  memset(&codec->makers, 0, sizeof codec->makers);
}

/* Room for one more. All are forgotten where there are too many: a state that lives for long must not only grow. */
static void make_room(lua_State *L, uns_codec *codec) {
  uns_makers *makers = &codec->makers;
  if (makers->used >= MAKERS_MOST / 2) {
    lua_newtable(L);
    lua_replace(L, lua_upvalueindex(UNS_UP_MAKERS));
    uns_codec_forget_makers(codec);
  }
  if (makers->entries != NULL && (size_t)makers->used < (makers->mask + 1) / 2) return;
  size_t capacity = makers->entries == NULL ? MAKERS_LEAST : (makers->mask + 1) * 2;
  uns_makers larger = {uns_calloc(capacity, sizeof *larger.entries), capacity - 1, makers->used};
  if (larger.entries == NULL) uns_codec_no_memory(L, codec);
  for (size_t i = 0; makers->entries != NULL && i <= makers->mask; i++) {
    if (makers->entries[i].slot != 0) *find_maker(&larger, makers->entries[i].hash) = makers->entries[i];
  }
  uns_free(makers->entries);
  *makers = larger;
}

/* The dump itself as a function, whose first upvalue lua_load makes the globals. */
static void load_plainly(lua_State *L, const uns_code *code) {
  if (luaL_loadbufferx(L, (const char *)code->bytes, code->size_bytes, "=unsync", "b") != LUA_OK) lua_error(L);
}

bool uns_codec_make(lua_State *L, uns_codec *codec, const uns_code *code, int value_count, int upvalue_count) {
  luaL_checkstack(L, 10, NULL);
  struct uns_maker *maker = codec->makers.entries == NULL ? NULL : find_maker(&codec->makers, code->hash);
  if (maker == NULL || maker->slot == 0) {
    if (!uns_code_intact(code)) return false;
    if (!push_maker(L, code)) lua_pushboolean(L, false); /* kept too, so that it is tried once */
    make_room(L, codec);
    lua_rawseti(L, lua_upvalueindex(UNS_UP_MAKERS), codec->makers.used + 1);
    maker = find_maker(&codec->makers, code->hash);
    memcpy(maker->hash, code->hash, sizeof maker->hash);
    maker->slot = ++codec->makers.used;
    maker->upvalue_count = -1;
  }
  bool made = lua_rawgeti(L, lua_upvalueindex(UNS_UP_MAKERS), maker->slot) == LUA_TFUNCTION;
  if (made) {
    if (value_count > 0) lua_insert(L, -1 - value_count);
    lua_call(L, value_count, 1);
  } else {
    lua_pop(L, 1);
    if (!uns_code_intact(code)) return false;
    load_plainly(L, code);
  }
  if (maker->upvalue_count < 0) maker->upvalue_count = count_upvalues(L, lua_gettop(L));
  if (maker->upvalue_count != upvalue_count) return false;
  if (!made) {
    int function = lua_gettop(L), first = function - value_count;
    for (int i = 1; i <= upvalue_count; i++) {
      if (i <= value_count) lua_pushvalue(L, first + i - 1);
      else lua_pushnil(L);
      lua_setupvalue(L, function, i);
    }
    lua_insert(L, first);
    lua_settop(L, first);
  }
  return true;
}
