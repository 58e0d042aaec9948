/*
 * pool_inside: the thread pool from inside. pool.c: the threads and their number. pool_stop.c: cancelling, and the end.
 *
 *   - Locks are taken in this order: the pool's, the dispatch's; or the pool's, a thread's.
 */
#ifndef UNS_POOL_INSIDE_H
#define UNS_POOL_INSIDE_H

#include <pthread.h>
#include <sys/types.h>

#include "base/spin.h"
#include "exec/pool.h"

typedef struct uns_pool_thread {
  uns_worker worker;
  uns_link link; /* in pool->threads or pool->ended; guarded by pool->lock */
  uns_pool *pool;
  pthread_t thread;
  _Atomic pid_t thread_id;  /* the kernel's */
  _Atomic(uns_job *) given; /* release by the giver, acquire by the thread */
  atomic_bool asleep;       /* pairs with `given` (seq_cst): whoever gives must wake */
  uv_mutex_t lock;          /* with `wake` */
  uv_cond_t wake;
  atomic_bool stop;
  uns_spin spin; /* the thread's own, as the next */
  uns_runtime *runtime;
  uint32_t number, track; /* among all that ever started; the recorder's */
  bool abandoned;         /* counts in pool->abandoned; guarded by pool->lock */
  bool settling; /* seen without a job while the pool closes, when it had used so much processor time; the same lock */
  uint64_t settling_cpu_ns, seen_cpu_ns;
} uns_pool_thread;

struct uns_pool {
  uns_dispatch dispatch;
  uns_executors *executors;
  uv_mutex_t lock;
  uv_cond_t all_ended;
  uns_link threads, ended;
  uns_link ladders; /* jobs that were asked to stop, not long ago */
  uint32_t count;   /* in `threads` */
  uint32_t last_number;
  uint32_t abandoned;      /* of these, stuck in jobs that nobody waits for any more */
  bool check_armed;        /* the supervisor will look whether a job waits too long */
  uint64_t last_growth_ns; /* the supervisor's */
  bool closing;
};

/* ---- pool.c ---- */

/* A job waits, and no thread is there for it: more of them, now or by and by. The dispatch's `grow`. */
void uns_pool_grow(uns_dispatch *dispatch);
/* Joins the threads that have ended by themselves. */
void uns_pool_reap(uns_pool *pool);

#endif
