/*
 * codec: values on a Lua stack to a packet, and back in another Lua state. The one encoder, the one decoder.
 *
 * What crosses, and how, is what docs/lua.md promises: nil, booleans, numbers, strings, tables with shared and cyclic
 * references, functions with their upvalues, what a module holds by its name, and objects whose metatable has a
 * uns_codec_class (futures, wrapped functions, channels). Everything else is refused with the path to it.
 *   - Neither side recurses without a bound: nesting deeper than a few levels is deferred to the end of the packet.
 *   - Code is loaded only where its hash fits.
 *   - Both sides need the Lua state of the calling thread and nothing else.
 */
#ifndef UNS_CODEC_H
#define UNS_CODEC_H

#include <lua.h>

#include "core/mailbox.h"
#include "core/packet.h"

/*
 * Objects with a class cross as parts: plain values, and shared objects written as light userdata.
 *   encode  the object is at `index`; pushes its parts and returns their number, or -1: it cannot cross, for the reason
 *           that it may have pushed, a string. A light userdata among the parts is a uns_shared * whose reference the
 *           packet takes over.
 *   create  pushes a new, still empty object, so that parts may refer back to it
 *   fill    `count` parts lie on top of the stack, the object at `object`; pops the parts. A light userdata among them
 *           is borrowed: uns_shared_ref what is kept. Returns 0, or -1 if the parts make no sense.
 * An object that is canonical in its state (a future that came home) may replace itself: `create` is then given
 * the parts' first shared object in `shared` (else NULL) and may push an existing one; `fill` is called all the same.
 */
typedef struct uns_codec_class {
  const char *name; /* "unsync.Future"; also how the packet names the class */
  int (*encode)(lua_State *L, int index);
  int (*create)(lua_State *L, uns_shared *shared);
  int (*fill)(lua_State *L, int object, int count);
} uns_codec_class;

/* Once per state, before all else. Raises without memory. */
void uns_codec_open(lua_State *L);
/*
 * Where lent strings come home to: from now on strings of UNS_LENT_MIN bytes and more are lent (core/lent.h), not copied.
 * A reference is taken. NULL: none are lent, as in a state that has no loop. The state's thread.
 */
void uns_codec_set_mailbox(lua_State *L, uns_mailbox *mailbox);
/* How many of this state's strings are lent at present. It may be closed all the same: their memory outlives it. */
size_t uns_codec_lent(lua_State *L);

/* Userdata with the metatable at `index` have `class`, a static struct. Pops nothing. */
void uns_codec_register(lua_State *L, int index, const uns_codec_class *class);
/* C closures of `function` have `class`. */
void uns_codec_register_function(lua_State *L, lua_CFunction function, const uns_codec_class *class);

/* True if the C function, table or userdata at `index` crosses by a name: some module of package.loaded holds it. */
int uns_codec_has_name(lua_State *L, int index);
/* If so, pushes that name as scripts write it ("os.exit", "print"); pushes nothing and returns 0 otherwise. May raise. */
int uns_codec_push_title_of(lua_State *L, int index);

/* How paths in errors call the values: "argument", "result", "upvalue", "item", "error". */
typedef struct uns_codec_names {
  const char *values; /* "argument": the i-th value is "argument i" */
  int first;          /* number of the first value; with `function` it is that of the one behind; 0: no number */
  bool function;      /* the first value is the called function itself: its upvalues are "upvalue NAME" */
} uns_codec_names;

/*
 * Encodes the `count` values from `first` (an absolute index) into `packet`, which must be empty.
 * Returns UNS_OK, or a negative code with an error object (unsync.Error, code "unsendable" with `path`, or a string for
 * memory) pushed; the packet is empty then. Leaves the stack as it was otherwise. Objects that pack themselves run a script's
 * code in it. Runs protected: never raises.
 */
int uns_codec_encode(lua_State *L, int first, int count, const uns_codec_names *names, uns_packet *packet);

/*
 * Pushes the values of `packet` and returns their number (>= 0), or pushes an error object and returns a negative code.
 * Runs protected: never raises. Modules that the packet names are required; see uns_codec_modules.
 */
int uns_codec_decode(lua_State *L, const uns_packet *packet);

/*
 * Pushes the names of the modules that `packet` names and that are not in package.loaded, so that a task may require
 * them where it can wait; returns how many. At most a few; nothing else is decoded.
 */
int uns_codec_modules(lua_State *L, const uns_packet *packet);

#endif
