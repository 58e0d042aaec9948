/*
 * spin: whether a short spin before sleeping pays, by what the last ones brought. A hit saves a sleep and a wake-up; where
 * what is waited for takes long, or others want the cores, a spin only takes time from somebody else.
 *
 * Also a lock that does so by itself, for what is held for a few dozen instructions, and wanted by many.
 */
#ifndef UNS_SPIN_H
#define UNS_SPIN_H

#include <pthread.h>

#include "base/base.h"

enum {
  UNS_SPIN_NS = 30000,      /* about the price of a sleep and a wake-up (20 µs measured, more on a halted core) */
  UNS_SPIN_LOST_NS = 60000, /* longer between two looks at the clock: somebody else had our core meanwhile */
  UNS_SPIN_SKIP_MAX = 256
};

typedef struct uns_spin {
  bool allowed;     /* there is another core that what we wait for may run on */
  uint32_t skip;    /* waits that sleep at once */
  uint32_t penalty; /* the same after the next miss */
  uint64_t look_ns, end_ns;
  bool disturbed;
} uns_spin;

/* True if to spin now: look for news, a few dozen times, as long as uns_spin_on; then tell how it went. */
static inline bool uns_spin_begin(uns_spin *spin) {
  if (!spin->allowed) return false;
  if (spin->skip > 0) {
    spin->skip--;
    return false;
  }
  spin->look_ns = uns_clock_ns();
  spin->end_ns = spin->look_ns + UNS_SPIN_NS;
  spin->disturbed = false;
  return true;
}

static inline bool uns_spin_on(uns_spin *spin) {
  uint64_t now = uns_clock_ns();
  if (now - spin->look_ns > UNS_SPIN_LOST_NS) spin->disturbed = true;
  spin->look_ns = now;
  return now < spin->end_ns;
}

static inline void uns_spin_end(uns_spin *spin, bool hit) {
  if (hit && !spin->disturbed) {
    spin->penalty = 0;
    return;
  }
  spin->penalty = spin->penalty == 0 ? 1 : spin->penalty < UNS_SPIN_SKIP_MAX ? spin->penalty * 2 : UNS_SPIN_SKIP_MAX;
  if (spin->penalty > 2) spin->skip = spin->penalty; /* the first misses are forgiven */
}

static inline void uns_spin_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

/* A lock whose taker spins a little before it sleeps, where the C library has such; to be destroyed as any. 0 or an errno. */
static inline int uns_spin_lock_init(pthread_mutex_t *lock) {
  pthread_mutexattr_t attributes;
  int status = pthread_mutexattr_init(&attributes);
  if (status != 0) return status;
#ifdef PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP
  pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ADAPTIVE_NP);
#endif
  status = pthread_mutex_init(lock, &attributes);
  pthread_mutexattr_destroy(&attributes);
  return status;
}

#endif
