/*
 * process: worker processes: the unsync program started afresh, as many as there are cores, on demand, reused, replaced
 * when they die.
 *
 * Whoever submits writes the call straight into the child's ring; whoever waits reads its end straight from there:
 * the script's loop for its own calls, the supervisor for all others, and for the script where it is busy.
 *   - A child holds one call that runs; its death fails that one, and no other notices.
 *   - `lock` of a child guards its state, its calls and the writing end, `read_lock` the reading end. In this order:
 *     read_lock, lock, the dispatch's lock.
 * The dispatch: who gets which job. What children ask for: serve.c. The other end: child.c.
 */
#ifndef UNS_PROCESS_H
#define UNS_PROCESS_H

#include "exec/executors.h"

enum {
  UNS_PROCESSES_WAITING_MAX = 64
}; /* calls that wait inside a process at once; the next wait fails with `limit` */

typedef struct uns_process_pool uns_process_pool;
struct uns_parent;

/* The pool of a host. The supervisor must be there. NULL with errno set. Any thread. */
uns_process_pool *uns_process_pool_new(uns_executors *executors, uns_mailbox *main_mailbox, uns_runtime *main_runtime);
/* In a worker process: calls are handed to the host's pool. NULL without memory. */
uns_process_pool *uns_process_pool_of_parent(struct uns_parent *parent);
/* Any thread; the main runtime's where the job's home is its mailbox. */
void uns_process_pool_submit(uns_process_pool *pool, uns_job *job);
/*
 * Asks a job to stop whose `cancel` is set. True: it never ran, and is the caller's again. False: it is asked, in the
 * child, and after each grace period more firmly: by SIGTERM, then by SIGKILL, to all that its worker has started; it
 * goes home in any case. The thread it was submitted from.
 */
bool uns_process_pool_cancel(uns_process_pool *pool, uns_job *job);
/* Takes no more jobs and ends all children: in order those that are idle, by signals those that run. The main
   runtime's thread. NULL is allowed. */
void uns_process_pool_free(uns_process_pool *pool);

struct uns_worker_info;
/* As uns_pool_look and uns_pool_look_for: exec/pool.h. Nothing in a worker process. */
size_t uns_process_pool_look(uns_process_pool *pool, void (*visit)(void *context, const struct uns_worker_info *worker),
                             void *context);
void uns_process_pool_look_for(uns_process_pool *pool, const uns_job *job, struct uns_worker_info *found);

/* Sends `number` to the group of every child: SIGTSTP and SIGCONT follow the host's. Async-signal-safe. */
void uns_process_pool_signal(uns_process_pool *pool, int number);

#endif
