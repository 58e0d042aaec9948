#include "core/code.h"

#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/base.h"

static void code_free(uns_shared *object) { uns_free(object); }
static const uns_shared_class code_class = {UNS_SHARED_CODE, "code", code_free};

/* Writes the hash that names `bytes`. */
static void hash_bytes(const void *bytes, size_t size_bytes, uint64_t hash[2]) {
  XXH128_hash_t name = XXH3_128bits(bytes, size_bytes);
  hash[0] = name.low64;
  hash[1] = name.high64;
}

uns_code *uns_code_new(const void *bytes, size_t size_bytes) {
  uns_code *code = uns_malloc(sizeof *code + size_bytes);
  if (code == NULL) return NULL;
  uns_shared_init(&code->base, &code_class);
  code->size_bytes = size_bytes;
  memcpy(code->bytes, bytes, size_bytes);
  hash_bytes(code->bytes, size_bytes, code->hash); /* of the copy: who wrote `bytes` may still be writing */
  return code;
}

bool uns_code_intact(const uns_code *code) {
  uint64_t hash[2];
  hash_bytes(code->bytes, code->size_bytes, hash);
  return hash[0] == code->hash[0] && hash[1] == code->hash[1];
}
