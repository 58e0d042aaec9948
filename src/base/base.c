#include "base/base.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

atomic_long uns_alloc_countdown; /* > 0: allocations left until one fails */

bool uns_alloc_must_fail(void) {
  if (!uns_alloc_may_fail()) return false;
  return atomic_fetch_sub_explicit(&uns_alloc_countdown, 1, memory_order_relaxed) == 1;
}

void uns_alloc_fail_after(long countdown) { atomic_store(&uns_alloc_countdown, countdown); }

void *uns_malloc(size_t size_bytes) { return uns_alloc_must_fail() ? NULL : malloc(size_bytes); }
void *uns_calloc(size_t count, size_t size_bytes) { return uns_alloc_must_fail() ? NULL : calloc(count, size_bytes); }
void *uns_realloc(void *memory, size_t size_bytes) {
  return uns_alloc_must_fail() ? NULL : realloc(memory, size_bytes);
}
void *uns_malloc_huge(size_t size_bytes) {
  if (uns_alloc_must_fail()) return NULL;
  void *memory = aligned_alloc(UNS_HUGE_PAGE, size_bytes);
  if (memory != NULL) madvise(memory, size_bytes, MADV_HUGEPAGE); /* where it cannot be, it is plain memory */
  return memory;
}
void uns_free(void *memory) { free(memory); }

uint64_t uns_clock_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
