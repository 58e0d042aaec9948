#include "core/lent.h"

#include <lauxlib.h>
#include <uv.h>

#include "base/arena.h"

struct uns_lender {
  atomic_uint count; /* the state, and each string that is out */
  uv_mutex_t lock;
  uns_link out; /* uns_lent.link */
  size_t out_count;
  lua_State *L;       /* a Lua thread of the state, for unpinning */
  const void *main;   /* the main thread: its block is the last that is freed */
  lua_Alloc allocate; /* the state's own allocator, once it closes */
  void *context;
};

uns_lender *uns_lender_new(lua_State *L) {
  uns_lender *lender = uns_calloc(1, sizeof *lender);
  if (lender == NULL) return NULL;
  if (uv_mutex_init(&lender->lock) != 0) {
    uns_free(lender);
    return NULL;
  }
  atomic_init(&lender->count, 1);
  uns_list_init(&lender->out);
  lender->L = L;
  return lender;
}

static void lender_unref(uns_lender *lender) {
  if (atomic_fetch_sub_explicit(&lender->count, 1, memory_order_acq_rel) != 1) return;
  uv_mutex_destroy(&lender->lock);
  uns_free(lender);
}

size_t uns_lender_count(uns_lender *lender) {
  uv_mutex_lock(&lender->lock);
  size_t count = lender->out_count;
  uv_mutex_unlock(&lender->lock);
  return count;
}

/* ---- home ---- */

/* Is a string out that lies in `memory`, which was left behind? The lock held. */
static bool still_out(const uns_lender *lender, const void *memory) {
  for (const uns_link *link = lender->out.next; link != &lender->out; link = link->next) {
    if (uns_container_of(link, uns_lent, link)->memory == memory) return true;
  }
  return false;
}

/* The owner's thread; or any, once its mailbox is closed: then its state is on its way out, and is not touched. */
static void lent_home(uns_mail *mail, void *runtime) {
  uns_lent *lent = uns_container_of(mail, uns_lent, mail);
  uns_lender *lender = lent->lender;
  uv_mutex_lock(&lender->lock);
  uns_list_remove(&lent->link);
  lender->out_count--;
  void *memory = lent->memory;
  if (memory != NULL && still_out(lender, memory)) memory = NULL;
  uv_mutex_unlock(&lender->lock);
  if (runtime != NULL) luaL_unref(lender->L, LUA_REGISTRYINDEX, lent->pin);
  uns_free(memory);
  lender_unref(lender);
  uns_mailbox_unref(lent->owner);
  uns_free(lent);
}

/* The last reference, on any thread. */
static void lent_free(uns_shared *object) {
  uns_lent *lent = uns_container_of(object, uns_lent, base);
  uns_mailbox *owner = uns_mailbox_ref(lent->owner); /* the mail's own may be gone before `post` is through */
  uns_mailbox_post(owner, &lent->mail);
  uns_mailbox_unref(owner);
}

bool uns_lent_is_mail(const uns_mail *mail) { return mail->deliver == lent_home; }

static const uns_shared_class lent_class = {UNS_SHARED_LENT, "lent string", lent_free};

uns_lent *uns_lender_lend(uns_lender *lender, lua_State *L, int index, uns_mailbox *mailbox) {
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
  lent->owner = uns_mailbox_ref(mailbox);
  lent->pin = pin;
  lent->lender = lender;
  lent->memory = NULL;
  atomic_fetch_add_explicit(&lender->count, 1, memory_order_relaxed);
  uv_mutex_lock(&lender->lock);
  uns_list_push_back(&lender->out, &lent->link);
  lender->out_count++;
  uv_mutex_unlock(&lender->lock);
  return lent;
}

/* ---- the state closes ---- */

static bool lies_in(const void *pointer, const void *memory, size_t size_bytes) {
  return (uintptr_t)pointer >= (uintptr_t)memory && (uintptr_t)pointer - (uintptr_t)memory < size_bytes;
}

/* True if `memory`, which Lua frees, is a string that is out: it belongs to those who hold it from now on. */
static bool leave_behind(uns_lender *lender, void *memory, size_t size_bytes) {
  /* Large blocks of an arena are heap blocks. Of another allocator nothing is known, or whether it still exists: to the end. */
  void *owned = lender->allocate == uns_arena_allocate ? memory : NULL;
  bool found = false;
  uv_mutex_lock(&lender->lock);
  for (uns_link *link = lender->out.next; link != &lender->out; link = link->next) {
    uns_lent *lent = uns_container_of(link, uns_lent, link);
    if (!lies_in(lent->bytes, memory, size_bytes)) continue;
    lent->memory = owned;
    found = true;
  }
  uv_mutex_unlock(&lender->lock);
  return found;
}

/* The allocator of a state that closes while strings of it are out. */
static void *allocate_at_close(void *self, void *memory, size_t old_size_bytes, size_t new_size_bytes) {
  uns_lender *lender = self;
  bool frees = memory != NULL && new_size_bytes == 0;
  if (frees && old_size_bytes >= UNS_LENT_MIN && leave_behind(lender, memory, old_size_bytes)) return NULL;
  bool last = frees && lies_in(lender->main, memory, old_size_bytes);
  void *result = lender->allocate(lender->context, memory, old_size_bytes, new_size_bytes);
  if (last) lender_unref(lender);
  return result;
}

void uns_lender_close(uns_lender *lender, lua_State *L) {
  if (lender == NULL) return;
  if (uns_lender_count(lender) == 0) {
    lender_unref(lender);
    return;
  }
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  lender->main = lua_tothread(L, -1);
  lua_pop(L, 1);
  lender->allocate = lua_getallocf(L, &lender->context);
  lua_setallocf(L, allocate_at_close, lender);
}
