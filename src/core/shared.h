/*
 * shared: a counted reference to something that several threads hold: code, cells, lent strings, blocks, channels.
 *
 *   - The count starts at 1. `unref` may be called on any thread; the last one runs the class's `free` there.
 *   - An object is the first member of its struct: uns_shared base.
 */
#ifndef UNS_SHARED_H
#define UNS_SHARED_H

#include <stdatomic.h>
#include <stdbool.h>

typedef struct uns_shared uns_shared;

/* What a shared object is; also its tag where a packet leaves the process. */
typedef enum {
  UNS_SHARED_CODE = 1, /* core/code.h */
  UNS_SHARED_CELL,     /* core/cell.h */
  UNS_SHARED_LENT,     /* core/lent.h: a long string of some Lua state, kept alive by it */
  UNS_SHARED_BLOCK,    /* bytes in one counted piece */
  UNS_SHARED_CHANNEL,  /* core/channel.h */
  UNS_SHARED_FUNCTION, /* core/job.h: a declaration; never in a packet */
  UNS_SHARED_SEARCH_PATH /* core/search_path.h; never in a packet */
} uns_shared_kind;

typedef struct uns_shared_class {
  uns_shared_kind kind;
  const char *name;
  void (*free)(uns_shared *object);
} uns_shared_class;

struct uns_shared {
  const uns_shared_class *class;
  atomic_uint count;
};

static inline void uns_shared_init(uns_shared *object, const uns_shared_class *class) {
  object->class = class;
  atomic_init(&object->count, 1);
}

static inline void *uns_shared_ref(void *object) {
  atomic_fetch_add_explicit(&((uns_shared *)object)->count, 1, memory_order_relaxed);
  return object;
}

/* For those who know an object without holding a reference: takes one, unless the last is gone. The memory must be
   kept from being freed meanwhile, by a lock that the class's `free` takes. */
static inline bool uns_shared_try_ref(void *object) {
  atomic_uint *count = &((uns_shared *)object)->count;
  unsigned now = atomic_load_explicit(count, memory_order_relaxed);
  while (now != 0) {
    if (atomic_compare_exchange_weak_explicit(count, &now, now + 1, memory_order_acquire, memory_order_relaxed)) return true;
  }
  return false;
}

/* Gives a reference back. True: it was the last, and the object is to be freed by the caller. */
static inline bool uns_shared_drop(void *object) {
  return atomic_fetch_sub_explicit(&((uns_shared *)object)->count, 1, memory_order_acq_rel) == 1;
}

/* NULL is allowed. */
static inline void uns_shared_unref(void *object) {
  uns_shared *shared = object;
  if (shared != NULL && uns_shared_drop(shared)) shared->class->free(shared);
}

#endif
