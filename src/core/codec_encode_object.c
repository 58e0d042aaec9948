/*
 * codec_encode_object: functions with their upvalues, objects that have a class, objects that pack themselves, and
 * what has a name.
 */
#include <assert.h>
#include <lauxlib.h>

#include "core/codec_encoder.h"

enum {
  REBUILT_DEPTH = 16, /* objects that pack themselves, one in the other */
  PARTS_MOST = 255
};

/* ---- functions ---- */

/*
 * The upvalue on top is the environment of a test framework or a sandbox, which looks up in another table what it has not
 * itself. What a function calls its globals are the worker's own there, as they are for all others.
 */
static bool is_environment(lua_State *L, const char *name) {
  if (name == NULL || strcmp(name, "_ENV") != 0 || !lua_istable(L, -1) || !lua_getmetatable(L, -1)) return false;
  lua_pushliteral(L, "__index");
  bool inherits = lua_rawget(L, -2) != LUA_TNIL;
  lua_pop(L, 2);
  return inherits;
}

void uns_put_upvalues(uns_encoder *e, int i, size_t at, int count) {
  lua_State *L = e->L;
  uns_place place = {e->place, UNS_AT_UPVALUE, i, 0};
  e->place = &place;
  e->depth++;
  for (int n = 1; n <= count; n++) {
    uint64_t known = uns_encoder_recall(e, lua_upvalueid(L, i, n), uns_memo_word(UNS_MEMO_WRITTEN, (unsigned)n, at));
    if (known != 0) { /* the same variable as one before: of another closure, mostly */
      e->packet->bytes[uns_word_offset(known)] |= UNS_SHARED_BIT;
      put_tagged(e, UNS_TAG_CELL, uns_word_offset(known));
      put_byte(e, uns_word_number(known));
      continue;
    }
    place.number = n;
    const char *name = lua_getupvalue(L, i, n);
    if (is_environment(L, name)) put_byte(e, UNS_TAG_GLOBALS);
    else uns_put_value(e, lua_gettop(L));
    lua_pop(L, 1);
  }
  e->depth--;
  e->place = place.up;
}

static void put_object(uns_encoder *e, int i, const uns_codec_class *class);

void uns_put_named(uns_encoder *e, int i) {
  lua_State *L = e->L;
  const void *object = lua_topointer(L, i);
  /* The address of a light userdata may be anything: it is not for the memo. */
  bool heavy = lua_type(L, i) != LUA_TLIGHTUSERDATA;
  uint64_t known = heavy ? uns_encoder_recall(e, object, uns_memo_word(UNS_MEMO_MODULE, 0, 0)) : 0;
  if (known == 0 || uns_word_kind(known) == UNS_MEMO_MODULE) {
    const void *name = uns_codec_push_name(L, i);
    if (name == NULL) uns_encoder_refuse_type(e, i);
    known = uns_memo_word(UNS_MEMO_NAMED, 0, uns_encoder_add_name(e, name));
    if (heavy) uns_memo_revise(e->memo, object, known);
  }
  uns_put_again(e, known);
}

static void put_c_function(uns_encoder *e, int i) {
  const uns_codec_class *class = uns_codec_class_of_function(e->codec, lua_tocfunction(e->L, i));
  if (class != NULL) put_object(e, i, class);
  else uns_put_named(e, i);
}

void uns_put_function(uns_encoder *e, int i) {
  lua_State *L = e->L;
  luaL_checkstack(L, 10, NULL);
  if (lua_iscfunction(L, i)) {
    put_c_function(e, i);
    return;
  }
  size_t at = here(e);
  const void *object = lua_topointer(L, i);
  uint64_t known = uns_encoder_recall(e, object, uns_memo_word(UNS_MEMO_WRITTEN, 0, at));
  if (known != 0) {
    uns_put_again(e, known);
    return;
  }
  int count;
  uns_code *code = uns_codec_code(L, e->codec, i, &count);
  if (code == NULL) {
    uns_memo_revise(e->memo, object, uns_memo_word(UNS_MEMO_MODULE, 0, 0));
    uns_put_named(e, i);
    return;
  }
  uint64_t ref = uns_encoder_recall(e, code, uns_memo_word(UNS_MEMO_CODE, 0, 0));
  if (ref == 0) {
    ref = uns_memo_word(UNS_MEMO_CODE, 0, uns_encoder_add_ref(e, uns_shared_ref(code)));
    uns_memo_revise(e->memo, code, ref);
  }
  bool later = e->depth >= UNS_INLINE_DEPTH && count > 0;
  put_tagged(e, UNS_TAG_FUNCTION | (later ? UNS_PUT_OFF_BIT : 0), uns_word_offset(ref));
  put_byte(e, (unsigned)count);
  if (later) {
    lua_pushvalue(L, i);
    uns_encoder_put_off(e, at, 0);
  } else {
    uns_put_upvalues(e, i, at, count);
  }
}

/* ---- objects ---- */

/* Light userdata is one of the object's shared objects, which are in the packet one behind the other. */
void uns_put_parts(uns_encoder *e, int first, int count, uint32_t first_own) {
  uns_place place = {e->place, UNS_AT_PART, 0, 0};
  e->place = &place;
  e->depth++;
  for (int i = first; i < first + count; i++) {
    if (lua_type(e->L, i) == LUA_TLIGHTUSERDATA) put_tagged(e, UNS_TAG_OWN, first_own++);
    else uns_put_value(e, i);
  }
  e->depth--;
  e->place = place.up;
}

static bool is_collectable(int type) {
  return type == LUA_TSTRING || type == LUA_TTABLE || type == LUA_TFUNCTION || type == LUA_TUSERDATA ||
         type == LUA_TTHREAD;
}

/* Moves the references among the parts into the packet: all, or, without memory, none is left over. */
static uint32_t take_parts(uns_encoder *e, int first, int count) {
  lua_State *L = e->L;
  uint32_t first_own = e->packet->ref_count;
  for (int i = first; i < first + count; i++) {
    if (lua_type(L, i) != LUA_TLIGHTUSERDATA) continue;
    if (uns_packet_add_ref(e->packet, lua_touserdata(L, i)) >= 0) continue;
    for (; i < first + count; i++) {
      if (lua_type(L, i) == LUA_TLIGHTUSERDATA) uns_shared_unref(lua_touserdata(L, i));
    }
    uns_encoder_no_memory(e);
  }
  return first_own;
}

static void put_object(uns_encoder *e, int i, const uns_codec_class *class) {
  lua_State *L = e->L;
  size_t at = here(e);
  uint64_t known = uns_encoder_recall(e, lua_topointer(L, i), uns_memo_word(UNS_MEMO_WRITTEN, 0, at));
  if (known != 0) {
    uns_put_again(e, known);
    return;
  }
  luaL_checkstack(L, 2 * LUA_MINSTACK, NULL);
  int first = lua_gettop(L) + 1;
  int count = class->encode(L, i);
  assert(count <= PARTS_MOST);
  if (count < 0 && lua_gettop(L) >= first && lua_type(L, -1) == LUA_TSTRING) uns_encoder_refuse(e, "%s", lua_tostring(L, -1));
  if (count < 0) uns_encoder_refuse(e, "%s that cannot cross", class->name);
  uint32_t first_own = take_parts(e, first, count);
  bool owns = e->packet->ref_count > first_own;
  for (int part = first; part < first + count; part++) {
    if (is_collectable(lua_type(L, part))) uns_encoder_keep(e, part);
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
    uns_encoder_put_off(e, at, first_own);
  } else {
    uns_put_parts(e, first, count, first_own);
  }
  lua_settop(L, first - 1);
}

/* The object at `i`, a table or a userdata, has UNS_PACK_HOOK: the one place where the encoder runs a user's code. */
void uns_put_rebuilt(uns_encoder *e, int i) {
  lua_State *L = e->L;
  const void *object = lua_topointer(L, i);
  if (e->rebuilding == REBUILT_DEPTH) uns_encoder_refuse(e, "objects with %s are nested too deeply", UNS_PACK_HOOK);
  e->rebuilding++;
  uns_memo_revise(e->memo, object, uns_memo_word(UNS_MEMO_REBUILDING, 0, 0));
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  int first = lua_gettop(L) + 1;
  luaL_getmetafield(L, i, UNS_PACK_HOOK);
  lua_pushvalue(L, i);
  if (lua_pcall(L, 1, LUA_MULTRET, 0) != LUA_OK) {
    uns_encoder_refuse(e, "its %s failed: %s", UNS_PACK_HOOK, luaL_tolstring(L, -1, NULL));
  }
  int count = lua_gettop(L) - first; /* behind the function */
  if (!lua_toboolean(L, first)) {
    if (count > 0 && lua_type(L, first + 1) == LUA_TSTRING) uns_encoder_refuse(e, "%s", lua_tostring(L, first + 1));
    uns_encoder_refuse_type(e, i);
  }
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  for (int k = first; k <= first + count; k++) {
    if (is_collectable(lua_type(L, k))) uns_encoder_keep(e, k);
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
      uns_encoder_refuse(e, "its %s names \"%s\", not a function as \"module.function\"", UNS_PACK_HOOK, name);
    }
    lua_pushlstring(L, name, (size_t)(dot - name));
    lua_pushstring(L, dot + 1);
    put_tagged(e, UNS_TAG_NAMED, uns_encoder_add_name(e, name + 1)); /* the address itself is the string's */
  } else {
    uns_put_value(e, first);
  }
  for (int k = first + 1; k <= first + count; k++) uns_put_value(e, k);
  e->depth--;
  uns_put_queue(e, queued);
  e->place = place.up;
  lua_settop(L, first - 1);
  uns_memo_revise(e->memo, object, uns_memo_word(UNS_MEMO_WRITTEN, 0, at));
  e->rebuilding--;
}

void uns_put_userdata(uns_encoder *e, int i) {
  lua_State *L = e->L;
  luaL_checkstack(L, 10, NULL);
  if (lua_getmetatable(L, i)) {
    const uns_codec_class *class = uns_codec_class_of_metatable(e->codec, lua_topointer(L, -1));
    if (class != NULL) {
      lua_pop(L, 1);
      put_object(e, i, class);
      return;
    }
    lua_pushliteral(L, UNS_PACK_HOOK);
    bool packs = lua_rawget(L, -2) != LUA_TNIL;
    lua_pop(L, 2);
    if (packs) {
      uint64_t known = uns_encoder_recall(e, lua_topointer(L, i), uns_memo_word(UNS_MEMO_REBUILDING, 0, 0));
      if (known != 0) uns_put_again(e, known);
      else uns_put_rebuilt(e, i);
      return;
    }
  }
  uns_put_named(e, i);
}
