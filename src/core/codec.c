#include "core/codec.h"

#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/base.h"
#include "core/codec_state.h"
#include "core/error.h"
#include "core/lent.h"
#include "core/weak.h"

static const char codec_key; /* its address names the codec in the registry */

/* The arena of a state that is ours; NULL in other programs' states. */
static uns_arena *arena_of(lua_State *L) {
  void *arena;
  return lua_getallocf(L, &arena) == uns_arena_allocate ? arena : NULL;
}

uns_codec *uns_codec_of(lua_State *L) {
  const uns_arena *arena = arena_of(L);
  if (arena != NULL) return arena->own[UNS_ARENA_OWN_CODEC];
  lua_rawgetp(L, LUA_REGISTRYINDEX, &codec_key);
  uns_codec *codec = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return codec;
}

_Noreturn void uns_codec_no_memory(lua_State *L, uns_codec *codec) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, codec->no_memory);
  lua_error(L);
  abort(); /* lua_error does not return, but says so nowhere */
}

/* Runs when the state closes. Finalizers that run after it still find the codec, and that it is closed. */
static int codec_gc(lua_State *L) {
  uns_codec *codec = lua_touserdata(L, 1);
  codec->closed = true;
  uns_memo_deinit(&codec->memo);
  uns_codec_forget_makers(codec);
  uns_free(codec->classes);
  codec->classes = NULL;
  codec->class_count = 0;
  uns_mailbox_unref(codec->mailbox);
  codec->mailbox = NULL;
  uns_lender_close(codec->lender, L);
  codec->lender = NULL;
  return 0;
}

void uns_codec_open(lua_State *L) {
  luaL_checkstack(L, 20, NULL);
  if (uns_codec_of(L) != NULL) return;
  int top = lua_gettop(L);
  uns_codec *codec = lua_newuserdatauv(L, sizeof *codec, 1);
  memset(codec, 0, sizeof *codec);
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, codec_gc);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);

  codec->thread = lua_newthread(L);
  lua_sethook(codec->thread, NULL, 0, 0);
  lua_setiuservalue(L, top + 1, 1);

  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_pushvalue(L, -1);
  codec->loaded = luaL_ref(L, LUA_REGISTRYINDEX);
  uns_weak_push(L, "k");
  uns_weak_push(L, "k");
  uns_weak_push(L, "v");
  lua_newtable(L);
  uns_codec_push_code_metatable(L);
  for (int i = 0; i < UNS_UP_COUNT; i++) lua_pushvalue(L, top + 2 + i);
  lua_pushcclosure(L, uns_codec_encoder, UNS_UP_COUNT);
  codec->encoder = luaL_ref(L, LUA_REGISTRYINDEX); /* the same values lie below for the other */
  lua_pushcclosure(L, uns_codec_decoder, UNS_UP_COUNT);
  codec->decoder = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_pushliteral(L, "not enough memory");
  codec->no_memory = luaL_ref(L, LUA_REGISTRYINDEX);

  lua_settop(L, top + 1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &codec_key); /* last: half of one is never found */
  uns_arena *arena = arena_of(L);
  if (arena != NULL) arena->own[UNS_ARENA_OWN_CODEC] = codec;
}

void uns_codec_set_mailbox(lua_State *L, uns_mailbox *mailbox) {
  uns_codec *codec = uns_codec_of(L);
  if (codec->lender == NULL) codec->lender = uns_lender_new(codec->thread);
  if (codec->lender == NULL) mailbox = NULL; /* without memory nothing is lent */
  if (mailbox != NULL) uns_mailbox_ref(mailbox);
  uns_mailbox_unref(codec->mailbox);
  codec->mailbox = mailbox;
}

size_t uns_codec_lent(lua_State *L) {
  uns_codec *codec = uns_codec_of(L);
  return codec->lender != NULL ? uns_lender_count(codec->lender) : 0;
}

static void add_class(lua_State *L, struct uns_class_entry entry) {
  uns_codec *codec = uns_codec_of(L);
  for (size_t i = 0; i < codec->class_count; i++) {
    struct uns_class_entry *known = &codec->classes[i];
    if (known->metatable == entry.metatable && known->function == entry.function) {
      known->class = entry.class;
      return;
    }
  }
  struct uns_class_entry *classes = uns_realloc(codec->classes, (codec->class_count + 1) * sizeof *classes);
  if (classes == NULL) uns_codec_no_memory(L, codec);
  codec->classes = classes;
  classes[codec->class_count++] = entry;
}

void uns_codec_register(lua_State *L, int index, const uns_codec_class *class) {
  lua_pushvalue(L, index);
  lua_rawsetp(L, LUA_REGISTRYINDEX, class); /* lives as long as the state, so that its address stays its own */
  add_class(L, (struct uns_class_entry){lua_topointer(L, index), NULL, class});
}

void uns_codec_register_function(lua_State *L, lua_CFunction function, const uns_codec_class *class) {
  add_class(L, (struct uns_class_entry){NULL, function, class});
}

const uns_codec_class *uns_codec_class_of_metatable(const uns_codec *codec, const void *metatable) {
  for (size_t i = 0; i < codec->class_count; i++) {
    if (codec->classes[i].metatable == metatable) return codec->classes[i].class;
  }
  return NULL;
}

const uns_codec_class *uns_codec_class_of_function(const uns_codec *codec, lua_CFunction function) {
  for (size_t i = 0; i < codec->class_count; i++) {
    if (codec->classes[i].function == function) return codec->classes[i].class;
  }
  return NULL;
}

const uns_codec_class *uns_codec_class_named(const uns_codec *codec, const char *name, size_t size_bytes) {
  for (size_t i = 0; i < codec->class_count; i++) {
    const uns_codec_class *class = codec->classes[i].class;
    /* A name that came in a message may hold zeros. */
    if (strlen(class->name) == size_bytes && memcmp(class->name, name, size_bytes) == 0) return class;
  }
  return NULL;
}

int uns_codec_push_title_of(lua_State *L, int index) {
  uns_codec *codec = uns_codec_of(L);
  luaL_checkstack(L, 10, NULL);
  index = lua_absindex(L, index);
  lua_rawgeti(L, LUA_REGISTRYINDEX, codec->loaded);
  int loaded = lua_gettop(L);
  bool found = uns_codec_push_title(L, loaded, index);
  lua_remove(L, loaded);
  return found;
}

int uns_codec_has_name(lua_State *L, int index) {
  if (!uns_codec_push_title_of(L, index)) return 0;
  lua_pop(L, 1);
  return 1;
}
