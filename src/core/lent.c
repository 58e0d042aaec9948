#include "core/lent.h"

#include <lauxlib.h>

#include "base/base.h"
#include "core/codec_state.h"

static void lent_drop(uns_lent *lent) {
  uns_mailbox_unref(lent->owner);
  uns_free(lent);
}

/* The owner's thread; or any, once its mailbox is closed: then its state is on its way out, and is not touched. */
static void lent_home(uns_mail *mail, void *runtime) {
  uns_lent *lent = uns_container_of(mail, uns_lent, mail);
  if (runtime != NULL) {
    luaL_unref(lent->codec->thread, LUA_REGISTRYINDEX, lent->pin);
    lent->codec->lent--;
  }
  lent_drop(lent);
}

/* The last reference, on any thread. */
static void lent_free(uns_shared *object) {
  uns_lent *lent = uns_container_of(object, uns_lent, base);
  uns_mailbox *owner = uns_mailbox_ref(lent->owner); /* the mail's own may be gone before `post` is through */
  uns_mailbox_post(owner, &lent->mail);
  uns_mailbox_unref(owner);
}

static const uns_shared_class lent_class = {UNS_SHARED_LENT, "lent string", lent_free};

uns_lent *uns_codec_lend(lua_State *L, uns_codec *codec, int index) {
  lua_pushvalue(L, index);
  int pin = luaL_ref(L, LUA_REGISTRYINDEX);
  uns_lent *lent = uns_malloc(sizeof *lent);
  if (lent == NULL) {
    luaL_unref(L, LUA_REGISTRYINDEX, pin);
    return NULL;
  }
  uns_shared_init(&lent->base, &lent_class);
  lent->bytes = lua_tolstring(L, index, &lent->size_bytes);
  lent->mail.next = NULL;
  lent->mail.deliver = lent_home;
  lent->owner = uns_mailbox_ref(codec->mailbox);
  lent->pin = pin;
  lent->codec = codec;
  codec->lent++;
  return lent;
}
