/*
 * alive: how many in this process may still do something by themselves: states that are awake or have hope of their own,
 * and calls under way. Those that only wait for one another do not count.
 *
 *   - Whoever wakes somebody counts him in on his behalf (core/mailbox.c), so the count is never 0 while something goes on.
 *   - When it comes to 0, all wait for others: `none` is told, and sees to it that somebody looks (exec/silence.c).
 */
#ifndef UNS_ALIVE_H
#define UNS_ALIVE_H

#include <stdatomic.h>
#include <stddef.h>

typedef struct uns_alive {
  atomic_long count;
  atomic_ulong woken;    /* how often somebody was counted in: the same twice is a time in which nobody was */
  _Atomic(void *) owner; /* `none`'s own */
  void (*none)(
      struct uns_alive *alive); /* NULL: nobody looks. Any thread, perhaps with a lock held: only wakes somebody up */
} uns_alive;

/* Any thread. NULL is allowed. */
static inline void uns_alive_enter(uns_alive *alive) {
  if (alive == NULL) return;
  atomic_fetch_add(&alive->count, 1);
  atomic_fetch_add(&alive->woken, 1);
}

/* Any thread. NULL is allowed. */
static inline void uns_alive_leave(uns_alive *alive) {
  if (alive != NULL && atomic_fetch_sub(&alive->count, 1) == 1 && alive->none != NULL) alive->none(alive);
}

#endif
