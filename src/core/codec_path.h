/*
 * codec_path: where in the values the encoder stands, as a chain of places, and that in words.
 *
 * A place lies on the C stack and costs a few stores; words are made only when something is refused.
 */
#ifndef UNS_CODEC_PATH_H
#define UNS_CODEC_PATH_H

#include <lua.h>

#include "core/codec.h"

typedef enum {
  UNS_AT_VALUE,     /* the `number`-th of the values, from 0 */
  UNS_AT_FIELD,     /* the value of a table whose key is at stack index `index` */
  UNS_AT_ITEM,      /* the value of a table at the integer key `number` */
  UNS_AT_KEY,       /* a key of a table */
  UNS_AT_METATABLE, /* the metatable of a table */
  UNS_AT_UPVALUE,   /* the `number`-th upvalue of the function at `index` */
  UNS_AT_PART,      /* inside an object: not said */
  UNS_AT_DEEP /* far inside: the path so far is the string at `index`, and `number` times as far again is left out */
} uns_place_kind;

typedef struct uns_place {
  struct uns_place *up; /* NULL: outermost */
  uns_place_kind kind;
  int index;
  lua_Integer number;
} uns_place;

/* Pushes "argument 2.conn[3].socket". Turns the chain round: it cannot be used again. Raises without memory. */
void uns_codec_push_path(lua_State *L, uns_place *innermost, const uns_codec_names *names);

#endif
