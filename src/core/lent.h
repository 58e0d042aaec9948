/*
 * lent: a long string of some Lua state that another thread may read, kept alive by its owner until all have let go.
 *
 * Sound because Lua strings never move and never change. The last reference posts home, where the owner unpins it.
 *   - A state may close while strings of it are out: their memory then stays behind, and goes with the last reference.
 *   - So whoever holds a reference may read `bytes` for as long as it likes, on any thread, without a lock.
 */
#ifndef UNS_LENT_H
#define UNS_LENT_H

#include <lua.h>

#include "base/base.h"
#include "core/mailbox.h"
#include "core/shared.h"

enum { UNS_LENT_MIN = 4096 }; /* bytes; a shorter string is copied into the packet: cheaper than the pin */

typedef struct uns_lender uns_lender;

typedef struct uns_lent {
  uns_shared base;
  const char *bytes;
  size_t size_bytes;
  uns_mail mail;      /* the way home, used by the last reference; its deliver unpins and frees */
  uns_mailbox *owner; /* one reference */
  int pin;            /* luaL_ref in the owner's registry */
  uns_lender *lender; /* one reference */
  uns_link link;      /* in the lender's list, guarded by its lock; so is: */
  void *memory;       /* what it lies in, once its state is closed and nobody else frees that; or NULL */
} uns_lent;

/* What a state lends. One reference, for the state; NULL without memory. */
uns_lender *uns_lender_new(lua_State *L);
/* The state of `L` is about to free its memory: called by a finalizer. Takes over the state's reference. NULL is allowed. */
void uns_lender_close(uns_lender *lender, lua_State *L);
/* How many strings are out. Any thread. */
size_t uns_lender_count(uns_lender *lender);

/*
 * Lends the string at `index`, which is to come home to `mailbox`. One reference, owned by the caller; NULL without
 * memory, or raises where it is Lua that has none. The state's thread.
 */
uns_lent *uns_lender_lend(uns_lender *lender, lua_State *L, int index, uns_mailbox *mailbox);

/* True for a string on its way home, which is news to nobody but its owner's memory. Any thread. */
bool uns_lent_is_mail(const uns_mail *mail);

#endif
