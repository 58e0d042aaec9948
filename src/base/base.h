/*
 * base: what every room leans on: allocation that can be made to fail, an intrusive list, the monotonic clock.
 *
 *   - Nothing here knows Lua, libuv or threads.
 *   - All heap memory of the C side goes through uns_malloc and its like, so specs can make any request fail.
 */
#ifndef UNS_BASE_H
#define UNS_BASE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define uns_container_of(pointer, type, member) ((type *)(void *)((char *)(pointer) - offsetof(type, member)))

/* Memory. NULL when none is left, or when the fault countdown says so. Free with uns_free. Any thread. */
void *uns_malloc(size_t size_bytes);
void *uns_calloc(size_t count, size_t size_bytes);
void *uns_realloc(void *memory, size_t size_bytes);
void uns_free(void *memory);

enum { UNS_HUGE_PAGE = 2 * 1024 * 1024 }; /* bytes */
/* The same for a multiple of UNS_HUGE_PAGE that will be used whole: in huge pages where the kernel has them. */
void *uns_malloc_huge(size_t size_bytes);
/* A copy of a text; NULL without memory. */
char *uns_copy_text(const char *text);

/* For specs: the `countdown`-th allocation from now on (1 is the next) fails, once; 0 disarms. Any thread. */
void uns_alloc_fail_after(long countdown);

/* True if the allocation about to be made must fail: for allocators that do not go through uns_malloc. */
bool uns_alloc_must_fail(void);

/* Whether a countdown is under way, and that has to be asked at all. */
static inline bool uns_alloc_may_fail(void) {
#ifdef UNS_FAULTS
  return true; /* the environment has its say: base.c */
#else
  extern atomic_long uns_alloc_countdown;
  return __builtin_expect(atomic_load_explicit(&uns_alloc_countdown, memory_order_relaxed) > 0, 0);
#endif
}

/* Nanoseconds on CLOCK_MONOTONIC, never cached. Any thread. */
uint64_t uns_clock_ns(void);

/* An intrusive, circular, doubly linked list. A link that is in no list points to itself. */
typedef struct uns_link {
  struct uns_link *next, *prev;
} uns_link;

static inline void uns_list_init(uns_link *link) { link->next = link->prev = link; }
static inline bool uns_list_empty(const uns_link *list) { return list->next == list; }

static inline void uns_list_insert_before(uns_link *place, uns_link *link) {
  link->prev = place->prev;
  link->next = place;
  place->prev->next = link;
  place->prev = link;
}

static inline void uns_list_push_back(uns_link *list, uns_link *link) { uns_list_insert_before(list, link); }
static inline void uns_list_push_front(uns_link *list, uns_link *link) { uns_list_insert_before(list->next, link); }

/* Takes `link` out of whatever list it is in; harmless where it is in none. */
static inline void uns_list_remove(uns_link *link) {
  link->prev->next = link->next;
  link->next->prev = link->prev;
  uns_list_init(link);
}

/* Takes out and returns the first link, or NULL. */
static inline uns_link *uns_list_pop_front(uns_link *list) {
  uns_link *first = list->next;
  if (first == list) return NULL;
  uns_list_remove(first);
  return first;
}

/* Moves everything in `from` to the end of `to`, in order. */
static inline void uns_list_append(uns_link *to, uns_link *from) {
  if (uns_list_empty(from)) return;
  from->next->prev = to->prev;
  to->prev->next = from->next;
  from->prev->next = to;
  to->prev = from->prev;
  uns_list_init(from);
}

#endif
