/*
 * party: the states of one process: the script's, and those of its threads.
 *
 *   - One that has nothing to hope for but other states is quiet while it sleeps. Before it goes on it takes the lock: so
 *     whoever holds that, and has found all of them quiet, sees them stand still, and may read what belongs to them.
 *   - One that has no call stands aside: nothing in it is of anybody's concern.
 * How many are alive: core/alive.h. What is made of it: loop/deadlock.c, exec/silence.c.
 */
#ifndef UNS_PARTY_H
#define UNS_PARTY_H

#include "loop/runtime.h"

typedef struct uns_parties {
  uns_alive alive;
  uv_mutex_t lock; /* guards what follows, and uns_party.quiet; no other is taken inside but a mailbox's */
  uns_link list;   /* uns_party.link */
} uns_parties;

/* 0, or a libuv code. */
int uns_parties_init(uns_parties *parties);
void uns_parties_deinit(uns_parties *parties);

/* A new state is one of them; and is no more. `script`: it is the one that is always at work. Its own thread. */
void uns_party_join(uns_parties *parties, uns_runtime *runtime, bool script);
void uns_party_leave(uns_runtime *runtime);

/* Around a sleep in which only other states can wake it. Its own thread. */
void uns_party_rest(uns_runtime *runtime);
void uns_party_rise(uns_runtime *runtime);

/*
 * True if every state that is at work sleeps, and has no mail: then they stand still until `thaw`. Any thread but theirs;
 * mail may be posted meanwhile.
 */
bool uns_parties_freeze(uns_parties *parties);
void uns_parties_thaw(uns_parties *parties);

/* Of those that stand still: the one after `runtime` (NULL: the first) that is at work, or NULL. */
uns_runtime *uns_parties_next(uns_parties *parties, const uns_runtime *runtime);

#endif
