/*
 * chain: what a task waits for, and what that waits for in turn.
 *
 * Each wait has at most one task behind it: of several futures, the first that has any. So chains end, in a wait that
 * nobody is behind, or in something outside this process; or they are cycles.
 *   - Within one state its own thread may look at any time. Into other states of the process only those look who have made
 *     them stand still (loop/party.h).
 */
#ifndef UNS_CHAIN_H
#define UNS_CHAIN_H

#include "base/text.h"
#include "loop/task.h"

typedef enum {
  UNS_BEHIND_NOBODY, /* a promise, a channel, a permit */
  UNS_BEHIND_TASK,
  UNS_BEHIND_JOB,  /* a call that runs elsewhere, or waits to */
  UNS_BEHIND_CELL, /* a future of another process, or of a state that must not be looked into */
} uns_behind_kind;

typedef struct uns_chain_link {
  uns_behind_kind kind;
  uns_task *task;           /* of UNS_BEHIND_TASK */
  uns_job *job;             /* of UNS_BEHIND_JOB */
  uns_cell *cell;           /* of UNS_BEHIND_CELL; borrowed */
  const uns_future *future; /* whose end it is, where it is one's; or NULL */
} uns_chain_link;

/* What the parked `task` waits for; a task in another state only where `frozen`. */
uns_chain_link uns_chain_behind(const uns_task *task, bool frozen);
/* The same for whoever would await `future`. */
uns_chain_link uns_chain_behind_future(const uns_future *future, bool frozen);
/* The task of the call that runs in `runtime`, or what is left of it; NULL: nothing waits there. */
uns_task *uns_chain_root(const uns_runtime *runtime);

/* Some other state may end a wait of the call that runs here, though none is asked (runtime->asked). */
bool uns_chain_leads_elsewhere(const uns_runtime *runtime);

/*
 * Follows the chain from `start` to its end: NULL, and what the last task waits for in `end`. Or it comes into a cycle:
 * then the youngest task in that.
 */
uns_task *uns_chain_follow(uns_task *start, bool frozen, uns_chain_link *end);

/* The younger of two, either of which may be NULL. In one state by when they were started, else by when they first waited. */
uns_task *uns_chain_younger(uns_task *a, uns_task *b);

/* The youngest of those who wait on the chain from `start`, of a state that stands still, or NULL. It must not be a cycle. */
uns_task *uns_chain_youngest(uns_task *start);

/* Adds "io name at file:line". */
void uns_chain_add_task(uns_text *text, const uns_task *task);
/* Adds what the task waits for, its link's target included: "io name", "a mutex that io name holds". `for_ever`: as everybody
   knows, nobody will end it. */
void uns_chain_add_wait(uns_text *text, const uns_task *task, const uns_chain_link *behind, bool for_ever);

#endif
