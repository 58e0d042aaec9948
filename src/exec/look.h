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

typedef enum {
  UNS_LOOK_NOBODY, /* there is none who would know */
  UNS_LOOK_SILENT, /* who knows has not answered in time */
  UNS_LOOK_KNOWS,
} uns_look;

/*
 * Asks other states, of this process and of its children, what `link`, a call or a cell, waits for in turn. If that is known:
 * adds a line for each wait, and sets `link` to where that ends. Of a cell there is a reference, before and afterwards. The
 * runtime's own thread, which waits for a little.
 */
uns_look uns_look_behind(uns_runtime *runtime, uns_chain_link *link, uns_text *text);

/*
 * Adds a line for each wait from the task of `job` (or else from `task`) on, and sets `end` to where that ends, borrowed.
 * False: it is none of this state's. Both are only compared. The runtime's own thread.
 */
bool uns_look_describe(uns_runtime *runtime, const uns_job *job, const void *task, uns_text *text, uns_chain_link *end);

/* Which worker has the call: "thread 12", "process 34", or ""; whether it waits. Any thread. */
void uns_look_for_call(uns_executors *executors, const uns_job *job, uns_worker_info *found);

#endif
