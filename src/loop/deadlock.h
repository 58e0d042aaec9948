/*
 * deadlock: waits that can never end, found only when nothing else can happen, and told to one task at a time.
 *
 * Every chain of waits ends in a task whose wait has no task behind it (a promise, a channel, a permit), or in a cycle.
 * The error goes to the youngest of the first; where there are only cycles, to the youngest in one of them.
 * What waits for what: chain.c. Whether all states of the process are quiet: exec/silence.c.
 */
#ifndef UNS_DEADLOCK_H
#define UNS_DEADLOCK_H

#include "loop/chain.h"
#include "loop/party.h"

/* Adds the chain of waits from `start` on: a line for each, at most some dozens, the cycle named where there is one. */
void uns_deadlock_add_chain(uns_text *text, uns_task *start, bool frozen);

/* The same of one that has not come to that, by its own thread. */
void uns_chain_add_all(uns_text *text, uns_task *start);

/* Of states that stand still. The youngest task whose wait has nobody behind it, or NULL. */
uns_task *uns_deadlock_find_cause(uns_parties *parties);
/* The youngest task that waits at all, or NULL. */
uns_task *uns_deadlock_find_youngest(uns_parties *parties);

/*
 * Tells the task to raise the error, with `message` (copied; NULL: no memory), by mail; `cycle`: it waits for itself in the end.
 * Any thread: the task may be about to go on for another reason, and then it is told nothing. UNS_OK or UNS_ENOMEM.
 */
int uns_deadlock_tell(uns_runtime *runtime, uint64_t task_id, uint32_t wait, bool cycle, const char *message);

#endif
