/*
 * look: what the workers of a host do, for whoever wants to see it. Nothing is stopped for that, and nobody waits long.
 */
#ifndef UNS_LOOK_H
#define UNS_LOOK_H

#include "base/text.h"
#include "exec/executors.h"
#include "loop/chain.h"

typedef struct uns_worker_info {
  bool process;
  pid_t id;          /* the thread's, or the process's */
  const char *state; /* static: "idle", "running", "waiting", "starting" */
  char name[64];     /* of the call that it has; "": none */
  uint64_t since_ns; /* when that was handed over; on uns_clock_ns */
} uns_worker_info;

typedef struct uns_queue_depths {
  size_t threads, processes; /* calls that wait for a worker */
} uns_queue_depths;

/* Calls `visit` with each worker, oldest first; no lock is held. False without memory. Any thread. */
bool uns_look_at_workers(uns_executors *executors, void (*visit)(void *context, const uns_worker_info *worker),
                         void *context, uns_queue_depths *depths);

/*
 * Asks the other states of this process what `link`, a call or a cell, waits for in turn; adds a line for each wait, and
 * sets `link` to where that ends. False: nobody has answered: it computes, or it is not of this process. The runtime's own
 * thread, which waits for a little.
 */
bool uns_look_behind(uns_runtime *runtime, uns_chain_link *link, uns_text *text);

/* Which worker has the call: "thread 12", "process 34", or ""; whether it waits. Any thread. */
void uns_look_for_call(uns_executors *executors, const uns_job *job, uns_worker_info *found);

#endif
