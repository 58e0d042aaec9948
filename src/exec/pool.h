/*
 * pool: worker threads. It starts as many as there are cores, adds one when a job has waited while all others block,
 * and lets those end that have had nothing to do.
 *
 * Each thread has a Lua state with the whole library and a loop of its own, kept from job to job.
 *   - A thread's state is touched by that thread alone.
 *   - A thread that waits inside its job lends its place: another one may run meanwhile.
 */
#ifndef UNS_POOL_H
#define UNS_POOL_H

#include "exec/executors.h"

enum { UNS_THREADS_WAITING_MAX = 512 }; /* calls that wait inside a thread at once; the next wait fails with `limit` */

typedef struct uns_pool uns_pool;

/* NULL with errno set. */
uns_pool *uns_pool_new(uns_executors *executors);
/* Any thread. */
void uns_pool_submit(uns_pool *pool, uns_job *job);
/*
 * Asks a job to stop. True: it was queued and is the caller's again. A Lua function is interrupted; what does not end
 * within the grace period, twice, is abandoned: it goes home cancelled, and its thread is replaced. Home's thread.
 */
bool uns_pool_cancel(uns_pool *pool, uns_job *job);
/*
 * Takes no more jobs, and asks those that run to stop; false if some did not end within the grace period. Threads that
 * hold no job are waited for as long as they take, unless a finalizer of a script's keeps them.
 */
bool uns_pool_free(uns_pool *pool, uint64_t grace_ns);
struct uns_worker_info;
/* Tells `visit`, under locks, of each thread; returns how many calls are queued. Any thread. exec/look.h */
size_t uns_pool_look(uns_pool *pool, void (*visit)(void *context, const struct uns_worker_info *worker), void *context);
/* Fills in `found` if a thread has the job. */
void uns_pool_look_for(uns_pool *pool, const uns_job *job, struct uns_worker_info *found);
/* Threads alive now. Any thread. */
uint32_t uns_pool_threads(uns_pool *pool);

#endif
