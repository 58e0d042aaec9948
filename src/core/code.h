/*
 * code: a Lua function's dump, named by its hash; immutable, shared by threads.
 */
#ifndef UNS_CODE_H
#define UNS_CODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/shared.h"

typedef struct uns_code {
  uns_shared base;
  uint64_t hash[2]; /* XXH3, 128 bits, of `bytes` */
  size_t size_bytes;
  uint8_t bytes[];
} uns_code;

/* A new object with one reference, owned by the caller, over a copy of `bytes`; NULL without memory. Any thread. */
uns_code *uns_code_new(const void *bytes, size_t size_bytes);

/* True if `bytes` still are what `hash` names. Lua trusts bytecode, so nothing is loaded without this. */
bool uns_code_intact(const uns_code *code);

#endif
