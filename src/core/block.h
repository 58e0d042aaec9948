/*
 * block: bytes in one counted piece, for what is too large to be copied into a packet: a native task's results.
 *
 *   - Written by its maker until it is handed on; read-only from then on.
 *   - The bytes lie in the block itself, or belong to somebody who wants to be told when they are no longer needed.
 * How a packet names one: core/codec.h. Long strings of a Lua state cross by core/lent.h instead.
 */
#ifndef UNS_BLOCK_H
#define UNS_BLOCK_H

#include <stddef.h>

#include "core/shared.h"

typedef struct uns_block {
  uns_shared base;
  char *bytes;
  size_t size_bytes;
  void (*release)(void *context); /* runs once, with the last reference, on its thread; NULL: nothing to tell */
  void *context;
  _Alignas(max_align_t) char room[];
} uns_block;

/* `size_bytes` bytes, not set to anything, aligned for any type. One reference; NULL without memory. Any thread. */
uns_block *uns_block_new(size_t size_bytes);
/* Somebody else's bytes. One reference; NULL without memory, and then `release` was not called. Any thread. */
uns_block *uns_block_wrap(char *bytes, size_t size_bytes, void (*release)(void *context), void *context);

#endif
