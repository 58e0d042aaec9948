/*
 * arena: the allocator of one Lua state: small blocks by size class, large ones from the heap.
 *
 *   - One thread at a time; nothing in it is shared, so nothing is locked. That and the short way to a free block are
 *     what it gains over malloc: a future costs a pop and a push.
 *   - Memory of small blocks is kept for the next ones and given back when the arena ends.
 *   - A large arena grows by huge pages: a hundred thousand coroutines are otherwise as many page faults.
 *   - Under AddressSanitizer and valgrind's builds every block is a heap block, so that both see each use.
 */
#ifndef UNS_ARENA_H
#define UNS_ARENA_H

#include <stddef.h>

enum {
  UNS_ARENA_STEP = 16,   /* bytes between two size classes: the alignment that any object needs */
  UNS_ARENA_SMALL = 256, /* bytes: larger blocks go to the heap */
  UNS_ARENA_STACK =
      720, /* bytes: the stack that each coroutine begins with, the one larger block with a class of its own */
  UNS_ARENA_CLASSES = UNS_ARENA_SMALL / UNS_ARENA_STEP + 1
};

/* Who keeps something at uns_arena.own. */
enum { UNS_ARENA_OWN_CODEC, UNS_ARENA_OWN_RUNTIME, UNS_ARENA_OWN_COUNT };

typedef struct uns_arena {
  void *free[UNS_ARENA_CLASSES]; /* lists of free blocks, linked through their first word */
  char *next, *end;              /* of the chunk that new blocks are cut from */
  void *chunks;                  /* all chunks, linked through their first word */
  size_t chunk_bytes;            /* of the next one */
  size_t chunks_bytes;           /* of all */
  size_t live_bytes;             /* in use now, as asked for: what a limit would count */
  void *own[UNS_ARENA_OWN_COUNT]; /* what rooms above keep for the state: found from any of its Lua threads, without a look-up */
} uns_arena;

/* NULL without memory. */
uns_arena *uns_arena_new(void);
/* Frees it and all small blocks; large ones must have been freed. NULL is allowed. */
void uns_arena_free(uns_arena *arena);

/* A lua_Alloc; `arena` is its first argument. */
void *uns_arena_allocate(void *arena, void *memory, size_t old_size_bytes, size_t new_size_bytes);

#endif
