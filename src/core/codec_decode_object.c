/*
 * codec_decode_object: functions and objects out of a packet. The mirror of codec_encode_object.c.
 */
#include <lauxlib.h>
#include <string.h>

#include "core/codec_decoder.h"

/* ---- functions ---- */

/* Behind CELL: pushes the function that has the upvalue, and returns which one it is. */
static int push_owner(uns_decoder *d) {
  lua_State *L = d->L;
  uns_decoder_push_remembered(d);
  int other = *take(d, 1);
  if (lua_type(L, -1) != LUA_TFUNCTION || lua_iscfunction(L, -1) || lua_upvalueid(L, -1, other) == NULL) {
    uns_decoder_corrupt(d, "no upvalue");
  }
  return other;
}

void uns_fill_function(uns_decoder *d, int count) {
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
      uns_push_tagged(d, tag);
      lua_setupvalue(L, function, n);
    }
  }
  d->depth--;
}

static void make_function(uns_decoder *d, const uns_code *code, int values, int count) {
  if (!uns_codec_make(d->L, d->codec, code, values, count)) uns_decoder_corrupt(d, "code is not what its hash says");
}

void uns_push_function(uns_decoder *d, unsigned tag) {
  lua_State *L = d->L;
  const uint8_t *from = d->at - 1;
  const uns_shared *shared = take_ref(d);
  if (shared->class->kind != UNS_SHARED_CODE) uns_decoder_corrupt(d, "no code");
  const uns_code *code = (const uns_code *)(const void *)shared;
  int count = *take(d, 1);
  if ((size_t)count > left(d)) uns_decoder_corrupt(d, "cut short");
  bool later = (tag & UNS_PUT_OFF_BIT) != 0;
  if (!later && d->depth >= UNS_INLINE_DEPTH + UNS_REBUILT_DEPTH) uns_decoder_corrupt(d, "nested too deeply");
  luaL_checkstack(L, count + 10, NULL);
  if ((tag & UNS_SHARED_BIT) || later) {
    make_function(d, code, 0, count);
    if (tag & UNS_SHARED_BIT) uns_decoder_remember(d, from);
    if (later) uns_decoder_put_off(d, (uns_later){(uint8_t)tag, (uint32_t)count, 0, NULL});
    else uns_fill_function(d, count);
    return;
  }
  /* Nothing refers to it: its upvalues can be read first, and it is made over them. */
  uint8_t joined[UINT8_MAX + 1]; /* to which upvalue of the function that stands in its place until then, or 0 */
  bool joins = false;
  d->depth++;
  for (int n = 1; n <= count; n++) {
    unsigned one = *take(d, 1);
    if (one != UNS_TAG_CELL) {
      uns_push_tagged(d, one);
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

void uns_fill_object(uns_decoder *d, const uns_codec_class *class, int count) {
  lua_State *L = d->L;
  luaL_checkstack(L, count + LUA_MINSTACK, NULL);
  int object = lua_gettop(L);
  d->depth++;
  for (int n = 0; n < count; n++) {
    unsigned tag = *take(d, 1);
    if (tag == UNS_TAG_OWN) lua_pushlightuserdata(L, take_ref(d));
    else uns_push_tagged(d, tag);
  }
  d->depth--;
  if (class->fill(L, object, count) < 0) uns_decoder_corrupt(d, "an object's parts make no sense");
  lua_settop(L, object);
}

void uns_push_object(uns_decoder *d, unsigned tag) {
  lua_State *L = d->L;
  const uint8_t *from = d->at - 1;
  size_t size = *take(d, 1);
  const char *class_name = (const char *)take(d, size);
  const uns_codec_class *class = uns_codec_class_named(d->codec, class_name, size);
  if (class == NULL) uns_decoder_corrupt(d, "unknown class");
  int count = *take(d, 1);
  uint64_t first_own = take_varint(d);
  if (first_own > d->packet->ref_count) uns_decoder_corrupt(d, "bad reference");
  bool later = (tag & UNS_PUT_OFF_BIT) != 0;
  if (!later && d->depth >= UNS_INLINE_DEPTH + UNS_REBUILT_DEPTH) uns_decoder_corrupt(d, "nested too deeply");
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  int top = lua_gettop(L);
  if (class->create(L, first_own == 0 ? NULL : d->packet->refs[first_own - 1]) < 0 || lua_gettop(L) != top + 1) {
    uns_decoder_corrupt(d, "an object's parts make no sense");
  }
  if (tag & UNS_SHARED_BIT) uns_decoder_remember(d, from);
  if (later) uns_decoder_put_off(d, (uns_later){(uint8_t)tag, (uint32_t)count, 0, class});
  else uns_fill_object(d, class, count);
}
