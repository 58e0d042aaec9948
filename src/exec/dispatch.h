/*
 * dispatch: the one job queue, and who runs what. Threads and processes differ in how a job is given to a worker,
 * in nothing else.
 *
 * Whoever submits hands the job straight to an idle worker; it is queued only where there is none.
 *   - `lock` guards the queue, the lists of workers and the counts. `give` and `grow` are called without it.
 *   - One worker never runs two calls; what is given ahead can be taken back until it starts. A worker that waits lends its place: another may take jobs meanwhile.
 * Threads: pool.c. Processes: process.c.
 */
#ifndef UNS_DISPATCH_H
#define UNS_DISPATCH_H

#include <uv.h>

#include "core/job.h"

typedef struct uns_dispatch uns_dispatch;

typedef struct uns_worker {
  uns_link link;  /* in dispatch->idle */
  uns_job *job;   /* the one it holds, or NULL */
  bool idle;      /* in dispatch->idle */
  bool lost;      /* abandoned with its job: takes no more */
  bool lending;   /* waits, and does not count as running */
} uns_worker;

typedef struct uns_dispatch_ops {
  /* Hands `job` to `worker`, which was idle. Any thread, no lock held. */
  void (*give)(uns_dispatch *dispatch, uns_worker *worker, uns_job *job);
  /* The queue has begun, or has a job while fewer than `target` workers run: start one more, or do nothing. No lock held. */
  void (*grow)(uns_dispatch *dispatch);
} uns_dispatch_ops;

struct uns_dispatch {
  const uns_dispatch_ops *ops;
  void *owner;
  uv_mutex_t lock;
  uns_link queue; /* jobs, oldest first */
  uns_link idle;  /* workers, the last used first: it is the warmest */
  size_t queued;
  uint32_t idle_count;
  uint32_t workers;   /* alive or being started */
  uint32_t lending;   /* of these, waiting */
  uint32_t target;    /* how many should run at once */
  bool strict;        /* and never more, though there may be idle ones: for workers that compute. Set before use */
  uint32_t waiting_max; /* past that many lending workers a wait fails with `limit` */
  bool closed;
  uns_alive *alive; /* those that wait do not count in it; NULL: they know themselves. Set before use */
};

int uns_dispatch_init(uns_dispatch *dispatch, const uns_dispatch_ops *ops, void *owner, uint32_t target);
void uns_dispatch_deinit(uns_dispatch *dispatch);
/* Any thread. The job is the executors' from here on. A closed dispatch fails it with `closed`. */
void uns_dispatch_submit(uns_dispatch *dispatch, uns_job *job);
/* A worker is free (new, or its job has ended): the next job, now its own, or NULL: it is in the idle list. */
uns_job *uns_dispatch_next(uns_dispatch *dispatch, uns_worker *worker);
/* One more job for a worker that is not idle and has `has` of them ready already, to lie there until its own has ended;
   NULL where there is none, where another worker could take it now, or where fewer would be left for each other worker. */
uns_job *uns_dispatch_ahead(uns_dispatch *dispatch, uns_worker *worker, uint32_t has);
/* The worker is gone. If it was idle it is taken out of the list. */
void uns_dispatch_lost(uns_dispatch *dispatch, uns_worker *worker);
/* Takes an idle worker out to end it; false if it was given a job meanwhile. */
bool uns_dispatch_retire(uns_dispatch *dispatch, uns_worker *worker);
/*
 * Gives up the worker if it runs the job `id`: `twin` (see uns_job_twin) goes home in its place, the worker takes no more,
 * and posts the job, when it comes back, only to be freed. False if that job has ended: the twin is still the caller's.
 * `grow`: jobs wait that it would have taken; the caller asks for another worker, when it holds no lock of its own.
 */
bool uns_dispatch_abandon(uns_dispatch *dispatch, uns_worker *worker, uint64_t id, uns_job *twin, bool *grow);
/* A job whose worker died before it started, or was too slow to, goes back in front. */
void uns_dispatch_put_back(uns_dispatch *dispatch, uns_job *job);
/* Takes a queued job out (cancelled before it ran); false if it is no longer queued. */
bool uns_dispatch_withdraw(uns_dispatch *dispatch, uns_job *job);
/* The worker begins (true) or ends (false) to wait inside its call. False: too many wait already (`limit`). */
bool uns_dispatch_lend(uns_dispatch *dispatch, uns_worker *worker, bool waiting);
/* No more jobs: what is queued fails with `closed`. */
void uns_dispatch_close(uns_dispatch *dispatch);

#endif
