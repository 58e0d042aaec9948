#include "base/arena.h"

#include <stdbool.h>
#include <string.h>

#include "base/base.h"

enum {
  CHUNK_FIRST = 16 * 1024,
  CHUNK_MAX = 256 * 1024,
  HUGE_FROM = 16 * 1024 * 1024 /* bytes in chunks from which on a chunk is a huge page: an eighth may go unused */
};

#if defined(__SANITIZE_ADDRESS__) || defined(UNS_PLAIN_HEAP)
static const bool plain_heap = true;
#else
static const bool plain_heap = false;
#endif

uns_arena *uns_arena_new(void) {
  uns_arena *arena = uns_calloc(1, sizeof *arena);
  if (arena != NULL) arena->chunk_bytes = CHUNK_FIRST;
  return arena;
}

void uns_arena_free(uns_arena *arena) {
  if (arena == NULL) return;
  for (void *chunk = arena->chunks, *next; chunk != NULL; chunk = next) {
    memcpy(&next, chunk, sizeof next);
    uns_free(chunk);
  }
  uns_free(arena);
}

/* Lua tells the kind of object in place of the old size of a new block; 0 bytes are no block. */
static inline size_t class_of(size_t size_bytes) {
  return size_bytes == UNS_ARENA_STACK ? UNS_ARENA_CLASSES - 1 : (size_bytes - 1) / UNS_ARENA_STEP;
}
static inline bool is_small(size_t size_bytes) {
  return (size_bytes <= UNS_ARENA_SMALL || size_bytes == UNS_ARENA_STACK) && !plain_heap;
}
static inline size_t size_of(size_t class) {
  return class == UNS_ARENA_CLASSES - 1 ? UNS_ARENA_STACK : (class + 1) * UNS_ARENA_STEP;
}

/* The rest of a chunk that is too short for what is asked becomes free blocks of its own. */
static void cut_rest(uns_arena *arena) {
  while (arena->end - arena->next >= UNS_ARENA_STEP) {
    size_t size = (size_t)(arena->end - arena->next);
    if (size > UNS_ARENA_SMALL) size = UNS_ARENA_SMALL;
    size -= size % UNS_ARENA_STEP;
    void **list = &arena->free[class_of(size)];
    memcpy(arena->next, list, sizeof *list);
    *list = arena->next;
    arena->next += size;
  }
}

static bool add_chunk(uns_arena *arena) {
  bool huge = arena->chunks_bytes >= HUGE_FROM;
  size_t size_bytes = huge ? UNS_HUGE_PAGE : arena->chunk_bytes;
  char *chunk = huge ? uns_malloc_huge(size_bytes) : uns_malloc(size_bytes);
  if (chunk == NULL) return false;
  cut_rest(arena);
  memcpy(chunk, &arena->chunks, sizeof arena->chunks);
  arena->chunks = chunk;
  arena->next = chunk + UNS_ARENA_STEP;
  arena->end = chunk + size_bytes;
  arena->chunks_bytes += size_bytes;
  if (arena->chunk_bytes < CHUNK_MAX) arena->chunk_bytes *= 2;
  return true;
}

static inline void *take_small(uns_arena *arena, size_t size_bytes) {
  if (uns_alloc_must_fail()) return NULL;
  size_t class = class_of(size_bytes);
  void *block = arena->free[class];
  if (block != NULL) {
    memcpy(&arena->free[class], block, sizeof block);
    return block;
  }
  size_t size = size_of(class);
  if ((size_t)(arena->end - arena->next) < size && !add_chunk(arena)) return NULL;
  block = arena->next;
  arena->next += size;
  return block;
}

static inline void give_small(uns_arena *arena, void *block, size_t size_bytes) {
  size_t class = class_of(size_bytes);
  memcpy(block, &arena->free[class], sizeof block);
  arena->free[class] = block;
}

/* Lua relies on it that what shrinks cannot fail: then the block stays what it is, and serves as a smaller one. */
static void *move(uns_arena *arena, void *memory, size_t old_size_bytes, size_t new_size_bytes) {
  bool was_small = is_small(old_size_bytes), small = is_small(new_size_bytes);
  bool shrinks = new_size_bytes <= old_size_bytes;
  if (was_small && small && class_of(old_size_bytes) == class_of(new_size_bytes)) return memory;
  if (!was_small && !small) {
    void *block = uns_realloc(memory, new_size_bytes);
    return block != NULL || !shrinks ? block : memory;
  }
  void *block = small ? take_small(arena, new_size_bytes) : uns_malloc(new_size_bytes);
  if (block == NULL) return shrinks ? memory : NULL;
  memcpy(block, memory, shrinks ? new_size_bytes : old_size_bytes);
  if (was_small) give_small(arena, memory, old_size_bytes);
  else uns_free(memory);
  return block;
}

/* All but the two ways that matter. */
static __attribute__((noinline)) void *allocate_slowly(uns_arena *arena, void *memory, size_t old_size_bytes,
                                                       size_t new_size_bytes) {
  if (memory == NULL) {
    if (new_size_bytes == 0) return NULL;
    void *block = is_small(new_size_bytes) ? take_small(arena, new_size_bytes) : uns_malloc(new_size_bytes);
    if (block != NULL) arena->live_bytes += new_size_bytes;
    return block;
  }
  if (new_size_bytes == 0) {
    arena->live_bytes -= old_size_bytes;
    if (is_small(old_size_bytes)) give_small(arena, memory, old_size_bytes);
    else uns_free(memory);
    return NULL;
  }
  void *block = move(arena, memory, old_size_bytes, new_size_bytes);
  if (block != NULL) arena->live_bytes += new_size_bytes - old_size_bytes;
  return block;
}

void *uns_arena_allocate(void *self, void *memory, size_t old_size_bytes, size_t new_size_bytes) {
  uns_arena *arena = self;
  if (memory == NULL && new_size_bytes - 1 < UNS_ARENA_SMALL && !plain_heap && !uns_alloc_may_fail()) {
    void **list = &arena->free[(new_size_bytes - 1) / UNS_ARENA_STEP], *block = *list;
    size_t size_bytes = (new_size_bytes + UNS_ARENA_STEP - 1) & ~(size_t)(UNS_ARENA_STEP - 1);
    if (block != NULL) {
      memcpy(list, block, sizeof *list);
      arena->live_bytes += new_size_bytes;
      return block;
    }
    if ((size_t)(arena->end - arena->next) >= size_bytes) {
      block = arena->next;
      arena->next += size_bytes;
      arena->live_bytes += new_size_bytes;
      return block;
    }
  } else if (memory != NULL && new_size_bytes == 0 && old_size_bytes <= UNS_ARENA_SMALL && !plain_heap) {
    arena->live_bytes -= old_size_bytes;
    void **list = &arena->free[(old_size_bytes - 1) / UNS_ARENA_STEP];
    memcpy(memory, list, sizeof *list);
    *list = memory;
    return NULL;
  }
  return allocate_slowly(arena, memory, old_size_bytes, new_size_bytes);
}
