#include "core/block.h"

#include "base/base.h"

static const size_t ROOM_MAX = (size_t)1 << (sizeof(size_t) > 4 ? 40 : 30); /* more than any string will have */

static void block_free(uns_shared *object) {
  uns_block *block = uns_container_of(object, uns_block, base);
  if (block->release != NULL) block->release(block->context);
  uns_free(block);
}

static const uns_shared_class block_class = {UNS_SHARED_BLOCK, "block", block_free};

static uns_block *make(size_t room_bytes, size_t size_bytes) {
  if (room_bytes > ROOM_MAX) return NULL;
  uns_block *block = uns_malloc(sizeof *block + room_bytes);
  if (block == NULL) return NULL;
  uns_shared_init(&block->base, &block_class);
  block->bytes = block->room;
  block->size_bytes = size_bytes;
  block->release = NULL;
  block->context = NULL;
  return block;
}

uns_block *uns_block_new(size_t size_bytes) { return make(size_bytes, size_bytes); }

uns_block *uns_block_wrap(char *bytes, size_t size_bytes, void (*release)(void *context), void *context) {
  uns_block *block = make(0, size_bytes);
  if (block == NULL) return NULL;
  block->bytes = bytes;
  block->release = release;
  block->context = context;
  return block;
}
