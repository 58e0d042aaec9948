#include "exec/dispatch.h"

#include "base/spin.h"

int uns_dispatch_init(uns_dispatch *dispatch, const uns_dispatch_ops *ops, void *owner, uint32_t target) {
  int status = uns_spin_lock_init(&dispatch->lock);
  if (status != 0) return -status;
  dispatch->ops = ops;
  dispatch->owner = owner;
  uns_list_init(&dispatch->queue);
  uns_list_init(&dispatch->idle);
  dispatch->queued = 0;
  dispatch->idle_count = 0;
  dispatch->strict = false;
  dispatch->workers = dispatch->lending = 0;
  dispatch->target = target;
  dispatch->waiting_max = UINT32_MAX;
  dispatch->closed = false;
  dispatch->alive = NULL;
  return 0;
}

void uns_dispatch_deinit(uns_dispatch *dispatch) { uv_mutex_destroy(&dispatch->lock); }

/* Under the lock, as what follows. */
static void begin_lending(uns_dispatch *dispatch, uns_worker *worker) {
  worker->lending = true;
  dispatch->lending++;
  uns_alive_leave(dispatch->alive);
}

static void end_lending(uns_dispatch *dispatch, uns_worker *worker) {
  worker->lending = false;
  dispatch->lending--;
  uns_alive_enter(dispatch->alive);
}

/* Fewer run than should. Under the lock. */
static bool short_of_workers(const uns_dispatch *dispatch) {
  return dispatch->workers - dispatch->lending < dispatch->target;
}

/* News of a wait may come when its call has ended already: for that moment, one may count as both idle and waiting. */
static uint32_t running(const uns_dispatch *dispatch) {
  uint32_t others = dispatch->lending + dispatch->idle_count;
  return dispatch->workers > others ? dispatch->workers - others : 0;
}

/* An idle worker that may run, out of the list; NULL if there is none. */
static uns_worker *take_idle(uns_dispatch *dispatch) {
  if (dispatch->strict && running(dispatch) >= dispatch->target) return NULL;
  uns_link *link = uns_list_pop_front(&dispatch->idle);
  if (link == NULL) return NULL;
  uns_worker *worker = uns_container_of(link, uns_worker, link);
  worker->idle = false;
  dispatch->idle_count--;
  return worker;
}

static uns_job *pop_job(uns_dispatch *dispatch, uns_worker *worker) {
  uns_link *link = uns_list_pop_front(&dispatch->queue);
  if (link == NULL) return NULL;
  dispatch->queued--;
  uns_job *job = uns_container_of(link, uns_job, link);
  job->worker = worker;
  worker->job = job;
  atomic_store_explicit(&job->state, UNS_JOB_GIVEN, memory_order_relaxed);
  return job;
}

void uns_dispatch_submit(uns_dispatch *dispatch, uns_job *job) {
  uv_mutex_lock(&dispatch->lock);
  if (dispatch->closed) {
    uv_mutex_unlock(&dispatch->lock);
    uns_job_fail(job, "closed", "closed: no more calls are taken, the program is ending");
    uns_job_post(job);
    return;
  }
  uns_list_push_back(&dispatch->queue, &job->link);
  dispatch->queued++;
  uns_worker *worker = dispatch->queued == 1 ? take_idle(dispatch) : NULL;
  if (worker != NULL) pop_job(dispatch, worker);
  bool grow = worker == NULL && (dispatch->queued == 1 || short_of_workers(dispatch));
  uv_mutex_unlock(&dispatch->lock);
  if (worker != NULL) dispatch->ops->give(dispatch, worker, job);
  else if (grow) dispatch->ops->grow(dispatch);
}

uns_job *uns_dispatch_next(uns_dispatch *dispatch, uns_worker *worker) {
  uv_mutex_lock(&dispatch->lock);
  worker->job = NULL;
  if (worker->lost) {
    uv_mutex_unlock(&dispatch->lock);
    return NULL;
  }
  if (worker->lending) end_lending(dispatch, worker); /* what waited has ended */
  /* More may run than should, where waits have ended. */
  bool surplus = dispatch->strict && running(dispatch) > dispatch->target;
  uns_job *job = surplus ? NULL : pop_job(dispatch, worker);
  if (job == NULL && !worker->idle) {
    worker->idle = true;
    dispatch->idle_count++;
    uns_list_push_front(&dispatch->idle, &worker->link);
  }
  uv_mutex_unlock(&dispatch->lock);
  return job;
}

uns_job *uns_dispatch_ahead(uns_dispatch *dispatch, uns_worker *worker, uint32_t has) {
  uns_job *job = NULL;
  uv_mutex_lock(&dispatch->lock);
  bool full = uns_list_empty(&dispatch->idle) || (dispatch->strict && running(dispatch) >= dispatch->target);
  uint32_t run = running(dispatch);
  bool fair = run <= 1 || (uint64_t)has * (run - 1) < dispatch->queued;
  if (full && fair && !short_of_workers(dispatch)) {
    uns_job *own = worker->job;
    job = pop_job(dispatch, worker);
    worker->job = own;
  }
  uv_mutex_unlock(&dispatch->lock);
  return job;
}

bool uns_dispatch_abandon(uns_dispatch *dispatch, uns_worker *worker, uint64_t id, uns_job *twin, bool *grow) {
  uv_mutex_lock(&dispatch->lock);
  uns_job *job = worker->job;
  bool runs = job != NULL && job->id == id && !worker->lost;
  if (runs) {
    atomic_store(&job->state, UNS_JOB_ABANDONED);
    worker->lost = true;
    if (worker->lending) end_lending(dispatch, worker);
    dispatch->workers--;
    uns_job_post(twin); /* under the lock, so before the worker can come back and post the job itself */
  }
  *grow = runs && dispatch->queued > 0 && !dispatch->closed;
  uv_mutex_unlock(&dispatch->lock);
  return runs;
}

static void take_out(uns_dispatch *dispatch, uns_worker *worker) {
  if (!worker->idle) return;
  worker->idle = false;
  dispatch->idle_count--;
  uns_list_remove(&worker->link);
}

/* A place has become free: hands a waiting job to an idle worker, or asks for one. Unlocks. */
static void fill_place(uns_dispatch *dispatch) {
  uns_worker *worker = dispatch->queued > 0 ? take_idle(dispatch) : NULL;
  uns_job *job = worker != NULL ? pop_job(dispatch, worker) : NULL;
  bool grow = worker == NULL && dispatch->queued > 0 && !dispatch->closed && short_of_workers(dispatch);
  uv_mutex_unlock(&dispatch->lock);
  if (worker != NULL) dispatch->ops->give(dispatch, worker, job);
  else if (grow) dispatch->ops->grow(dispatch);
}

void uns_dispatch_lost(uns_dispatch *dispatch, uns_worker *worker) {
  uv_mutex_lock(&dispatch->lock);
  take_out(dispatch, worker);
  if (worker->lending) end_lending(dispatch, worker);
  dispatch->workers--;
  fill_place(dispatch);
}

bool uns_dispatch_retire(uns_dispatch *dispatch, uns_worker *worker) {
  uv_mutex_lock(&dispatch->lock);
  bool idle = worker->idle;
  if (idle) {
    take_out(dispatch, worker);
    if (worker->lending) end_lending(dispatch, worker); /* by its own account; it is mad */
    dispatch->workers--;
  }
  uv_mutex_unlock(&dispatch->lock);
  return idle;
}

void uns_dispatch_put_back(uns_dispatch *dispatch, uns_job *job) {
  uv_mutex_lock(&dispatch->lock);
  if (dispatch->closed) {
    uv_mutex_unlock(&dispatch->lock);
    uns_job_fail(job, "closed", "closed: the program is ending");
    uns_job_post(job);
    return;
  }
  job->worker = NULL;
  atomic_store_explicit(&job->state, UNS_JOB_QUEUED, memory_order_relaxed);
  uns_list_push_front(&dispatch->queue, &job->link);
  dispatch->queued++;
  uns_worker *worker = take_idle(dispatch);
  if (worker != NULL) job = pop_job(dispatch, worker);
  uv_mutex_unlock(&dispatch->lock);
  if (worker != NULL) dispatch->ops->give(dispatch, worker, job);
  else dispatch->ops->grow(dispatch);
}

bool uns_dispatch_withdraw(uns_dispatch *dispatch, uns_job *job) {
  uv_mutex_lock(&dispatch->lock);
  bool queued = !uns_list_empty(&job->link);
  if (queued) {
    uns_list_remove(&job->link);
    dispatch->queued--;
  }
  uv_mutex_unlock(&dispatch->lock);
  return queued;
}

bool uns_dispatch_lend(uns_dispatch *dispatch, uns_worker *worker, bool waiting) {
  uv_mutex_lock(&dispatch->lock);
  bool fine = true;
  if (waiting != worker->lending && !worker->lost) {
    if (waiting && dispatch->lending >= dispatch->waiting_max) {
      fine = false;
    } else {
      if (waiting) begin_lending(dispatch, worker);
      else end_lending(dispatch, worker);
    }
  }
  fill_place(dispatch);
  return fine;
}

void uns_dispatch_close(uns_dispatch *dispatch) {
  uns_link jobs, *link;
  uns_list_init(&jobs);
  uv_mutex_lock(&dispatch->lock);
  dispatch->closed = true;
  uns_list_append(&jobs, &dispatch->queue);
  dispatch->queued = 0;
  uv_mutex_unlock(&dispatch->lock);
  while ((link = uns_list_pop_front(&jobs)) != NULL) {
    uns_job *job = uns_container_of(link, uns_job, link);
    uns_job_fail(job, "closed", "closed: the program is ending");
    uns_job_post(job);
  }
}
