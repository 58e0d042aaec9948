/*
 * lent: a long string of some Lua state that another thread may read, kept alive by its owner until all have let go.
 *
 * Sound because Lua strings never move and never change. The last reference posts home, where the owner unpins it.
 */
#ifndef UNS_LENT_H
#define UNS_LENT_H

#include "core/mailbox.h"
#include "core/shared.h"

enum { UNS_LENT_MIN = 4096 }; /* bytes; a shorter string is copied into the packet: cheaper than the pin */

typedef struct uns_lent {
  uns_shared base;
  const char *bytes;
  size_t size_bytes;
  uns_mail mail; /* the way home, used by the last reference; its deliver unpins and frees */
  uns_mailbox *owner; /* one reference */
  int pin; /* luaL_ref in the owner's registry */
  struct uns_codec *codec; /* the owner's; its thread only */
} uns_lent;

#endif
