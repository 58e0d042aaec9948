#include <signal.h>

#include "exec/interrupt.h"
#include "exec/kernel.h"
#include "exec/pool_inside.h"
#include "exec/supervisor.h"

static const uint64_t SETTLE_NS = 500000000; /* a thread without a job ends in far less, unless a finalizer keeps it */
static const uint64_t SETTLE_LOOK_NS = 5000000;

/* ---- cancelling ---- */

/* One climb of the ladder, for a job that may end, and be gone, at any moment: it is known by its number. */
typedef struct {
  uns_link link; /* in pool->ladders */
  uns_pool *pool;
  uint64_t id, grace_ns;
  uns_job *twin; /* made beforehand: giving up must not fail */
  bool native, forced;
} ladder;

/* Interrupts what the thread runs, if that is the job `id`; 0: whatever it is. False: it does not. Under the pool's lock. */
static bool interrupt_thread(uns_pool *pool, const uns_pool_thread *thread, uint64_t id, int rung) {
  uv_mutex_lock(&pool->dispatch.lock);
  uns_job *job = thread->worker.job;
  bool runs = job != NULL && (id == 0 || job->id == id) && !thread->worker.lost;
  if (runs) {
    if (atomic_load(&job->cancel) < rung) atomic_store(&job->cancel, rung); /* by nobody else */
    /* It holds a job, so it lives. A native task looks at the flag: a signal would only break off its system calls. */
    if (job->function->native == NULL) pthread_kill(thread->thread, UNS_INTERRUPT_SIGNAL);
  }
  uv_mutex_unlock(&pool->dispatch.lock);
  return runs;
}

/* The thread that runs the job `id`, interrupted at once; NULL if none does. Under the pool's lock. */
static uns_pool_thread *interrupt(uns_pool *pool, uint64_t id, int rung) {
  for (uns_link *link = pool->threads.next; link != &pool->threads; link = link->next) {
    uns_pool_thread *thread = uns_container_of(link, uns_pool_thread, link);
    if (interrupt_thread(pool, thread, id, rung)) return thread;
  }
  return NULL;
}

static void ladder_free(ladder *climb) {
  if (climb->twin != NULL) {
    climb->twin->home_data = NULL; /* the job's own */
    uns_job_free(climb->twin);
  }
  uns_free(climb);
}

/* On the supervisor's thread, a grace period later. */
static void climb_on(void *argument) {
  ladder *climb = argument;
  uns_pool *pool = climb->pool;
  uv_mutex_lock(&pool->lock);
  if (pool->closing) { /* it is the pool's to free */
    uv_mutex_unlock(&pool->lock);
    return;
  }
  bool again = false, wanted = false;
  uns_pool_thread *thread = interrupt(pool, climb->id, 2);
  if (thread != NULL && !climb->native && !climb->forced) {
    climb->forced = true;
    again = uns_supervisor_after(pool->executors->supervisor, climb->grace_ns, climb_on, climb) == 0;
  } else if (thread != NULL &&
             uns_dispatch_abandon(&pool->dispatch, &thread->worker, climb->id, climb->twin, &wanted)) {
    climb->twin = NULL;
    pool->abandoned++;
    thread->abandoned = true;
  }
  if (wanted) { /* which takes the lock itself; the pool waits for us, as long as the ladder is in its list */
    uv_mutex_unlock(&pool->lock);
    uns_pool_grow(&pool->dispatch);
    uv_mutex_lock(&pool->lock);
  }
  bool done = !again && !pool->closing;
  if (done) uns_list_remove(&climb->link);
  uv_mutex_unlock(&pool->lock);
  if (done) ladder_free(climb);
}

/* Sees to it that the job is looked at again. Without memory it is asked to stop once, and no more. */
static void start_climb(uns_pool *pool, const uns_job *job) {
  uns_supervisor *supervisor = uns_executors_supervisor(pool->executors);
  ladder *climb = uns_calloc(1, sizeof *climb);
  if (climb == NULL) return;
  climb->pool = pool;
  climb->id = job->id;
  climb->grace_ns = job->function->grace_ns > 0 ? job->function->grace_ns : pool->executors->grace_ns;
  climb->native = job->function->native != NULL;
  climb->twin = uns_job_twin(job);
  uv_mutex_lock(&pool->lock);
  uns_list_push_back(&pool->ladders, &climb->link);
  bool watched = climb->twin != NULL && supervisor != NULL &&
                 uns_supervisor_after(supervisor, climb->grace_ns, climb_on, climb) == 0;
  if (!watched) uns_list_remove(&climb->link);
  uv_mutex_unlock(&pool->lock);
  if (!watched) ladder_free(climb);
}

bool uns_pool_cancel(uns_pool *pool, uns_job *job) {
  if (uns_dispatch_withdraw(&pool->dispatch, job)) return true;
  start_climb(pool, job);
  uv_mutex_lock(&pool->lock);
  interrupt(pool, job->id, 1);
  uv_mutex_unlock(&pool->lock);
  return false;
}

/* ---- the end ---- */

/* Tells every thread to end, and what it runs to stop, as firmly as `rung` says. Under the pool's lock. */
static void stop_all(uns_pool *pool, int rung) {
  for (uns_link *link = pool->threads.next; link != &pool->threads; link = link->next) {
    uns_pool_thread *thread = uns_container_of(link, uns_pool_thread, link);
    interrupt_thread(pool, thread, 0, rung);
    uv_mutex_lock(&thread->lock);
    atomic_store(&thread->stop, true);
    uv_cond_signal(&thread->wake);
    uv_mutex_unlock(&thread->lock);
  }
}

/* The supervisor calls nothing of this pool any more. */
static void forget_callbacks(uns_pool *pool) {
  uns_supervisor *supervisor = pool->executors->supervisor;
  if (supervisor != NULL) uns_supervisor_forget(supervisor, pool);
  uns_link *link;
  while ((link = uns_list_pop_front(&pool->ladders)) != NULL) {
    ladder *climb = uns_container_of(link, ladder, link);
    uns_supervisor_forget(supervisor, climb);
    ladder_free(climb);
  }
}

/* Waits until all threads have ended that may, at most until `end_ns`. False: some have not. Under the pool's lock. */
static bool wait_for_all(uns_pool *pool, uint64_t end_ns) {
  while (pool->count > pool->abandoned) {
    uint64_t now_ns = uns_clock_ns();
    if (now_ns >= end_ns) return false;
    uv_cond_timedwait(&pool->all_ended, &pool->lock, end_ns - now_ns);
  }
  return true;
}

/* Does it get on, or would it, if it had a processor? Not where it has had one for long. */
static bool settles(uns_pool_thread *thread) {
  if (thread->thread_id == 0) return true; /* it has not even begun */
  uint64_t cpu_ns = uns_kernel_cpu_ns(thread->thread);
  if (!thread->settling) thread->settling_cpu_ns = cpu_ns;
  bool moved = !thread->settling || cpu_ns != thread->seen_cpu_ns || uns_kernel_on_cpu(thread->thread_id);
  thread->settling = true;
  thread->seen_cpu_ns = cpu_ns;
  return moved && cpu_ns - thread->settling_cpu_ns < SETTLE_NS;
}

/*
 * Waits for the threads that hold no job. They end as soon as they get a processor, which on a busy machine may take longer
 * than any grace period; only a finalizer of a script's, as its state closes, can keep one. Under the pool's lock.
 */
static void wait_for_idle(uns_pool *pool) {
  uint64_t moved_ns = uns_clock_ns();
  for (;;) {
    bool waits = false, moved = false;
    for (uns_link *link = pool->threads.next; link != &pool->threads; link = link->next) {
      uns_pool_thread *thread = uns_container_of(link, uns_pool_thread, link);
      uv_mutex_lock(&pool->dispatch.lock);
      bool free = thread->worker.job == NULL;
      uv_mutex_unlock(&pool->dispatch.lock);
      waits |= free;
      moved |= free && settles(thread);
    }
    uint64_t now_ns = uns_clock_ns();
    if (moved) moved_ns = now_ns;
    if (!waits || now_ns - moved_ns >= SETTLE_NS) return;
    uv_cond_timedwait(&pool->all_ended, &pool->lock, SETTLE_LOOK_NS);
  }
}

bool uns_pool_free(uns_pool *pool, uint64_t grace_ns) {
  if (pool == NULL) return true;
  uns_dispatch_close(&pool->dispatch);
  uint64_t begin_ns = uns_clock_ns();
  uv_mutex_lock(&pool->lock);
  pool->closing = true;
  stop_all(pool, 1);
  if (!wait_for_all(pool, begin_ns + grace_ns / 2)) { /* half of it for clean-up, half for what does not heed that */
    stop_all(pool, 2);
    wait_for_all(pool, begin_ns + grace_ns);
  }
  wait_for_idle(pool);
  bool stuck = pool->count > 0;
  uv_mutex_unlock(&pool->lock);
  uns_pool_reap(pool);
  if (stuck) return false;
  forget_callbacks(pool);
  uns_dispatch_deinit(&pool->dispatch);
  uv_cond_destroy(&pool->all_ended);
  uv_mutex_destroy(&pool->lock);
  uns_free(pool);
  return true;
}
