/*
 * codec_state: what the rooms of the codec keep in a Lua state and share among themselves. Nobody else includes this.
 *
 *   - Encoding and decoding run on a Lua thread of the codec's own, `thread`: its stack stays grown, and no debug hook
 *     (an interrupt, a debugger) goes off in the middle of a packet. A call made from inside another one, by a module that
 *     is being required say, runs where it was made.
 *   - Both run inside lua_pcall. What they allocate outside of Lua hangs on their struct, which their caller frees.
 *   - The Lua tables that they need are upvalues of the two C closures in whose frames all of it runs.
 * Writing: codec_encode.c. Reading: codec_decode.c. Functions: codec_code.c. Names of what modules hold: codec_names.c.
 */
#ifndef UNS_CODEC_STATE_H
#define UNS_CODEC_STATE_H

#include <lua.h>

#include "core/code.h"
#include "core/codec.h"
#include "core/codec_memo.h"
#include "core/mailbox.h"

/* Upvalues of uns_codec_encoder and uns_codec_decoder. */
enum {
  UNS_UP_LOADED = 1, /* package.loaded */
  UNS_UP_NAMES,      /* object -> {module, field or false}; weak keys; checked at each use */
  UNS_UP_CODES,      /* Lua function -> code box, or `true`: one of unsync's own, which crosses by name; weak keys */
  UNS_UP_BY_HASH,    /* hash -> code box; weak values */
  UNS_UP_MAKERS,     /* slot -> maker, see codec_code.c */
  UNS_UP_CODE_META,  /* the metatable of code boxes */
  UNS_UP_COUNT = UNS_UP_CODE_META
};

/* Functions that make functions, by the hash of what they make. */
typedef struct uns_makers {
  struct uns_maker {
    uint64_t hash[2];
    int slot;          /* 0: free, else the key in UNS_UP_MAKERS */
    int upvalue_count; /* of what it makes */
  } * entries;
  size_t mask;
  int used;
} uns_makers;

typedef struct uns_codec {
  lua_State *thread;
  int running;                             /* encodes and decodes under way on `thread` */
  int encoder, decoder, loaded, no_memory; /* registry references */
  bool closed;                             /* the state is on its way out */
  uns_memo memo;
  bool memo_busy;
  uns_makers makers;
  struct uns_class_entry {
    const void *metatable; /* NULL: by function */
    lua_CFunction function;
    const uns_codec_class *class;
  } * classes; /* owned */
  size_t class_count;
  uns_mailbox *mailbox;      /* one reference, or NULL: nothing is lent */
  struct uns_lender *lender; /* one reference, or NULL */
} uns_codec;

/* The state's codec; NULL before uns_codec_open. */
uns_codec *uns_codec_of(lua_State *L);
int uns_codec_encoder(lua_State *L);
int uns_codec_decoder(lua_State *L);
/* Raises the memory error, without needing any. */
_Noreturn void uns_codec_no_memory(lua_State *L, uns_codec *codec);

const uns_codec_class *uns_codec_class_of_metatable(const uns_codec *codec, const void *metatable);
const uns_codec_class *uns_codec_class_of_function(const uns_codec *codec, lua_CFunction function);
const uns_codec_class *uns_codec_class_named(const uns_codec *codec, const char *name, size_t size_bytes);

/* codec_names.c. All but the last run in the frame of the encoder or the decoder. */

/* Pushes the names of the module and of the field (nil: it is the module) that hold the object at `index`, and returns an
   address that stands for them, not aligned to 8, as long as the object lives; NULL, and nothing pushed: none does. */
const void *uns_codec_push_name(lua_State *L, int index);
/* The same for a metatable that the registry has under its own __name: "" and that. */
const void *uns_codec_push_registered(lua_State *L, int index);
/* True if one of unsync's own modules holds the function at `index`. */
bool uns_codec_is_own(lua_State *L, int index);
/* Pushes what is called so, requiring the module; raises. */
void uns_codec_push_named(lua_State *L, const char *module, size_t module_size, const char *field, size_t field_size);
/*
 * With package.loaded at stack index `loaded`: pushes the name as scripts write it, "module.field", or "print". Nothing,
 * and false, where there is none. May raise: no memory.
 */
bool uns_codec_push_title(lua_State *L, int loaded, int index);

void uns_codec_push_code_metatable(lua_State *L);
/* codec_code.c. In the frame of the encoder or the decoder. */

/* The dump of the Lua function at `index`; borrowed, lives as long as the function. NULL: it crosses by name. Raises. */
uns_code *uns_codec_code(lua_State *L, uns_codec *codec, int index, int *upvalue_count);
/* Pushes a new closure of `code` with `upvalue_count` upvalues of its own, which are the values on top of the stack
   (popped); fewer than that: the rest is nil. False, the stack as it happens to be: the code is not what it says. Raises. */
bool uns_codec_make(lua_State *L, uns_codec *codec, const uns_code *code, int value_count, int upvalue_count);
/* Frees what is remembered of makers. */
void uns_codec_forget_makers(uns_codec *codec);

#endif
