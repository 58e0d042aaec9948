#include "base/base.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#ifdef UNS_FAULTS
#include <execinfo.h>
#include <stdio.h>
#include <unistd.h>
#endif

atomic_long uns_alloc_countdown; /* > 0: allocations left until one fails */

#ifdef UNS_FAULTS
/*
 * Builds for specs: UNSYNC_FAIL_ALLOC=WHO:N:COUNT in the environment makes COUNT allocations of a process fail, from its
 * N-th on. WHO is host or worker. Lua asks once more after a collection, so one that fails for it takes two.
 * UNSYNC_FAIL_ALLOC_LOG names a file to which each process adds, at its end, how many it has made. With
 * UNSYNC_FAIL_ALLOC_TRACE the first one that fails tells stderr where.
 */
static atomic_long asked;
static long fail_first, fail_count;
static const char *who_am_i;

__attribute__((constructor)) static void arm(int argc, char **argv) {
  char who[16];
  long first, count;
  const char *text = getenv("UNSYNC_FAIL_ALLOC");
  who_am_i = argc > 1 && strcmp(argv[1], "--worker") == 0 ? "worker" : "host";
  if (text == NULL || sscanf(text, "%15[^:]:%ld:%ld", who, &first, &count) != 3 || strcmp(who, who_am_i) != 0) return;
  fail_first = first;
  fail_count = count;
}

__attribute__((destructor)) static void tell(void) {
  const char *path = getenv("UNSYNC_FAIL_ALLOC_LOG");
  FILE *log = path != NULL ? fopen(path, "a") : NULL;
  if (log == NULL) return;
  fprintf(log, "%s %ld\n", who_am_i, atomic_load(&asked));
  fclose(log);
}

static void tell_where(void) {
  void *frames[64];
  backtrace_symbols_fd(frames, backtrace(frames, 64), STDERR_FILENO);
}

static bool environment_says_so(void) {
  long number = atomic_fetch_add_explicit(&asked, 1, memory_order_relaxed) + 1;
  if (number < fail_first || number - fail_first >= fail_count) return false;
  if (number == fail_first && getenv("UNSYNC_FAIL_ALLOC_TRACE") != NULL) tell_where();
  return true;
}
#else
static bool environment_says_so(void) { return false; }
#endif

bool uns_alloc_must_fail(void) {
  if (environment_says_so()) return true;
  if (atomic_load_explicit(&uns_alloc_countdown, memory_order_relaxed) <= 0) return false;
  return atomic_fetch_sub_explicit(&uns_alloc_countdown, 1, memory_order_relaxed) == 1;
}

void uns_alloc_fail_after(long countdown) { atomic_store(&uns_alloc_countdown, countdown); }

/* As malloc does it. */
static void *none(void) {
  errno = ENOMEM;
  return NULL;
}

void *uns_malloc(size_t size_bytes) { return uns_alloc_must_fail() ? none() : malloc(size_bytes); }
void *uns_calloc(size_t count, size_t size_bytes) { return uns_alloc_must_fail() ? none() : calloc(count, size_bytes); }
void *uns_realloc(void *memory, size_t size_bytes) {
  return uns_alloc_must_fail() ? none() : realloc(memory, size_bytes);
}
void *uns_malloc_huge(size_t size_bytes) {
  if (uns_alloc_must_fail()) return none();
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

char *uns_copy_text(const char *text) {
  size_t size = strlen(text) + 1;
  char *copy = uns_malloc(size);
  return copy != NULL ? memcpy(copy, text, size) : NULL;
}
