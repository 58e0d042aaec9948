#include "exec/pool_inside.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/codec.h"
#include "core/recorder.h"
#include "exec/interrupt.h"
#include "exec/kernel.h"
#include "exec/look.h"
#include "exec/supervisor.h"
#include "exec/watchdog.h"
#include "loop/task.h"

static const uint64_t GROW_AFTER_NS = 2000000;      /* a job has waited that long: all threads block, or are busy */
static const uint64_t GROW_BUSY_NS = 100000000;     /* the same, while the cores are busy: more threads help little */
static const uint64_t IDLE_SURPLUS_NS = 1000000000; /* idle for that long: a thread beyond the target ends */
static const uint64_t IDLE_CORE_NS = 10000000000;   /* the same for the rest */
static const uint64_t IDLE_LENT_NS = 20000000;      /* meanwhile, how often it asks whether its strings came home */

static const uint64_t REST_AFTER_NS = (uint64_t)UNS_REST_AFTER_MS * 1000000;

/* ---- one thread ---- */

static void thread_lend(uns_runtime *runtime, bool waiting) {
  uns_pool_thread *thread = runtime->owner;
  if (uns_dispatch_lend(&thread->pool->dispatch, &thread->worker, waiting)) return;
  uns_task_limit_youngest(runtime, "limit: %d calls wait in threads already", (int)thread->pool->dispatch.waiting_max);
}

/* os.exit in a thread ends the program, through its main thread: the others must not see it half gone. */
typedef struct {
  uns_mail mail;
  int code;
} exit_request;

static void exit_on_main(uns_mail *mail, void *runtime) {
  (void)runtime;
  exit(uns_container_of(mail, exit_request, mail)->code);
}

static void thread_exit(uns_runtime *runtime, lua_State *L, int code, bool close) {
  (void)L;
  (void)close; /* the state is closed by its own thread or not at all */
  exit_request request = {.mail.deliver = exit_on_main, .code = code};
  uns_mailbox_post(runtime->executors->main_runtime->mailbox, &request.mail);
  for (;;) pause();
}

static uns_runtime *open_state(uns_pool_thread *thread) {
  uns_runtime *runtime = thread->pool->executors->new_state(thread->pool->executors);
  if (runtime == NULL) return NULL;
  runtime->owner = thread;
  runtime->channel_remote = thread->pool->executors->channel_remote;
  runtime->lend = thread_lend;
  runtime->exit = thread_exit;
  runtime->is_worker = true;
  runtime->recorder = thread->pool->executors->recorder;
  runtime->track = thread->track;
  uns_watchdog_offer(runtime);
  return runtime;
}

static void close_state(uns_pool_thread *thread, uns_runtime *runtime) {
  if (runtime != NULL) thread->pool->executors->free_state(runtime);
}

static void run_job(uns_pool_thread *thread, uns_job *job) {
  uns_runtime *kept = thread->runtime;
  if (job->function->fresh || thread->runtime == NULL) {
    thread->runtime = open_state(thread);
    if (thread->runtime == NULL) {
      thread->runtime = kept;
      uns_executors_fail_for_state(job);
      return;
    }
  }
  uns_runner_run(thread->runtime, job);
  if (job->function->fresh) {
    close_state(thread, thread->runtime);
    thread->runtime = kept;
  }
}

static uns_job *spin_for_job(uns_pool_thread *thread) {
  uns_job *job = atomic_load_explicit(&thread->given, memory_order_acquire);
  if (job != NULL || !uns_spin_begin(&thread->spin)) return job;
  do {
    for (int i = 0; i < 64 && job == NULL; i++) {
      uns_spin_pause();
      job = atomic_load_explicit(&thread->given, memory_order_acquire);
    }
  } while (uns_spin_on(&thread->spin) && job == NULL);
  uns_spin_end(&thread->spin, job != NULL);
  return job;
}

/* Between two calls: strings that the last one lent come home. True while some are still out. */
static bool take_mail(uns_pool_thread *thread) {
  uns_runtime *runtime = thread->runtime;
  if (runtime == NULL) return false;
  if (uns_mailbox_has_mail(runtime->mailbox)) uns_runtime_turn(runtime, false);
  return uns_codec_lent(runtime->L) > 0;
}

/* Waits until a job was given; NULL when it is time to end: told to, or idle for long. */
static uns_job *wait_for_job(uns_pool_thread *thread) {
  uns_pool *pool = thread->pool;
  uns_job *job = spin_for_job(thread);
  uint64_t since = uns_clock_ns();
  bool rested = thread->runtime == NULL;
  while (job == NULL) {
    if (!rested && uns_clock_ns() - since >= REST_AFTER_NS) {
      rested = true;
      uns_runner_rest(thread->runtime);
    }
    bool lent = take_mail(thread);
    bool surplus = uns_pool_threads(pool) > pool->dispatch.target; /* not under `lock`: stop_all takes it second */
    uint64_t limit_ns = surplus ? IDLE_SURPLUS_NS : IDLE_CORE_NS, sleep_ns = lent ? IDLE_LENT_NS : limit_ns;
    if (!rested && sleep_ns > REST_AFTER_NS) sleep_ns = REST_AFTER_NS;
    uv_mutex_lock(&thread->lock);
    atomic_store(&thread->asleep, true);
    if (atomic_load(&thread->given) == NULL && !atomic_load(&thread->stop)) {
      uv_cond_timedwait(&thread->wake, &thread->lock, sleep_ns);
    }
    atomic_store(&thread->asleep, false);
    uv_mutex_unlock(&thread->lock);
    job = atomic_load_explicit(&thread->given, memory_order_acquire);
    bool tired = uns_clock_ns() - since >= limit_ns;
    if (job == NULL && (tired || atomic_load(&thread->stop)) && uns_dispatch_retire(&pool->dispatch, &thread->worker)) {
      return NULL;
    }
  }
  atomic_store_explicit(&thread->given, NULL, memory_order_relaxed);
  return job;
}

/* The twin was home before it: nothing there knows this job any more. */
static void free_abandoned(uns_mail *mail, void *runtime) {
  (void)runtime;
  uns_job *job = uns_container_of(mail, uns_job, mail);
  job->home_data = NULL;
  uns_job_free(job);
}

static void *thread_main(void *argument) {
  uns_pool_thread *thread = argument;
  uns_pool *pool = thread->pool;
  thread->thread_id = gettid();
  uns_recorder *recorder = pool->executors->recorder;
  if (recorder != NULL) thread->track = uns_recorder_thread(recorder, thread->thread_id, thread->number);
  uns_interrupt_unblock();
  uns_job *job = uns_dispatch_next(&pool->dispatch, &thread->worker);
  for (;;) {
    if (job == NULL && (job = wait_for_job(thread)) == NULL) break;
    run_job(thread, job);
    uns_job *next = uns_dispatch_next(&pool->dispatch, &thread->worker);
    bool lost = thread->worker.lost;
    if (lost) job->mail.deliver = free_abandoned;
    uns_job_post(job); /* last, so that whoever hears of it finds this thread free for the next call */
    if (lost) break;
    job = next;
  }
  close_state(thread, thread->runtime);
  uv_mutex_lock(&pool->lock);
  uns_list_remove(&thread->link);
  uns_list_push_back(&pool->ended, &thread->link);
  pool->count--;
  if (thread->abandoned) pool->abandoned--;
  uv_cond_broadcast(&pool->all_ended);
  uv_mutex_unlock(&pool->lock);
  return NULL;
}

/* ---- the pool ---- */

static void thread_free(uns_pool_thread *thread) {
  uv_cond_destroy(&thread->wake);
  uv_mutex_destroy(&thread->lock);
  uns_free(thread);
}

void uns_pool_reap(uns_pool *pool) {
  for (;;) {
    uv_mutex_lock(&pool->lock);
    uns_link *link = uns_list_pop_front(&pool->ended);
    uv_mutex_unlock(&pool->lock);
    if (link == NULL) return;
    uns_pool_thread *thread = uns_container_of(link, uns_pool_thread, link);
    pthread_join(thread->thread, NULL);
    thread_free(thread);
  }
}

/* With all signals blocked: they are for the main thread. */
static int create(uns_pool_thread *thread) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int status = pthread_create(&thread->thread, NULL, thread_main, thread);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return status;
}

/* One more thread. 0 or an errno. */
static int add_thread(uns_pool *pool) {
  uns_pool_reap(pool);
  uns_pool_thread *thread = uns_calloc(1, sizeof *thread);
  if (thread == NULL) return ENOMEM;
  thread->pool = pool;
  thread->spin.allowed = pool->executors->cores > 1;
  uns_list_init(&thread->worker.link);
  if (uv_mutex_init(&thread->lock) != 0) {
    uns_free(thread);
    return ENOMEM;
  }
  if (uv_cond_init(&thread->wake) != 0) {
    uv_mutex_destroy(&thread->lock);
    uns_free(thread);
    return ENOMEM;
  }
  uv_mutex_lock(&pool->lock);
  thread->number = ++pool->last_number;
  atomic_init(&thread->stop, pool->closing); /* all others have been told */
  int status = create(thread);
  if (status == 0) {
    uns_list_push_back(&pool->threads, &thread->link);
    pool->count++;
  }
  uv_mutex_unlock(&pool->lock);
  if (status != 0) thread_free(thread);
  return status;
}

/* Takes a place for a new worker, if one is wanted. */
static bool reserve(uns_pool *pool, bool beyond_target) {
  uns_dispatch *dispatch = &pool->dispatch;
  uv_mutex_lock(&dispatch->lock);
  uint32_t running = dispatch->workers - dispatch->lending;
  bool wanted = dispatch->queued > 0 && !dispatch->closed && (beyond_target || running < dispatch->target) &&
                running < pool->executors->thread_max;
  if (wanted) dispatch->workers++;
  uv_mutex_unlock(&dispatch->lock);
  return wanted;
}

/* No thread can be made and none is there to take the jobs some day: they fail, naming the reason. */
static void fail_queue(uns_pool *pool, int number) {
  uns_dispatch *dispatch = &pool->dispatch;
  for (;;) {
    uv_mutex_lock(&dispatch->lock);
    uns_link *link = dispatch->workers == 0 ? uns_list_pop_front(&dispatch->queue) : NULL;
    if (link != NULL) dispatch->queued--;
    uv_mutex_unlock(&dispatch->lock);
    if (link == NULL) return;
    uns_job *job = uns_container_of(link, uns_job, link);
    uns_job_fail(job, uv_err_name(uv_translate_sys_error(number)), "cannot start a thread for %s: %s",
                 job->function->name, strerror(number));
    uns_job_post(job);
  }
}

static void grow_by_one(uns_pool *pool, bool beyond_target) {
  if (!reserve(pool, beyond_target)) return;
  int status = add_thread(pool);
  if (status == 0) return;
  uv_mutex_lock(&pool->dispatch.lock);
  pool->dispatch.workers--;
  uv_mutex_unlock(&pool->dispatch.lock);
  fail_queue(pool, status);
}

static void arm_check(uns_pool *pool);

/* How many threads are blocked; SIZE_MAX if as many as should do run, so that one more would help nobody. */
static size_t count_blocked(uns_pool *pool) {
  size_t running = 0, blocked = 0;
  uv_mutex_lock(&pool->lock);
  for (uns_link *link = pool->threads.next; link != &pool->threads && running < pool->dispatch.target;
       link = link->next) {
    if (uns_kernel_on_cpu(uns_container_of(link, uns_pool_thread, link)->thread_id)) running++;
    else blocked++;
  }
  uv_mutex_unlock(&pool->lock);
  return running < pool->dispatch.target ? blocked : SIZE_MAX;
}

/* On the supervisor's thread: jobs still wait; are the threads blocked, or just busy? */
static void check(void *argument) {
  uns_pool *pool = argument;
  uv_mutex_lock(&pool->lock);
  pool->check_armed = false;
  bool closing = pool->closing;
  uv_mutex_unlock(&pool->lock);
  if (closing) return;
  uns_dispatch *dispatch = &pool->dispatch;
  uv_mutex_lock(&dispatch->lock);
  uint64_t waited = 0, now = uns_clock_ns();
  size_t queued = dispatch->queued;
  if (queued > 0) waited = now - uns_container_of(dispatch->queue.next, uns_job, link)->submitted_ns;
  uv_mutex_unlock(&dispatch->lock);
  if (queued == 0) return;
  if (waited >= GROW_AFTER_NS) {
    size_t blocked = count_blocked(pool);
    bool stuck = waited >= GROW_BUSY_NS && now - pool->last_growth_ns >= GROW_BUSY_NS; /* computing without an end */
    size_t wanted = blocked == SIZE_MAX ? (stuck ? 1 : 0) : 1 + blocked / 4;
    for (size_t i = 0; i < wanted && i < queued; i++) grow_by_one(pool, true);
    if (wanted > 0) pool->last_growth_ns = now;
  }
  arm_check(pool);
}

static void arm_check(uns_pool *pool) {
  uv_mutex_lock(&pool->lock);
  bool arm = !pool->check_armed && !pool->closing;
  if (arm) pool->check_armed = true;
  uv_mutex_unlock(&pool->lock);
  if (!arm) return;
  uns_supervisor *supervisor = uns_executors_supervisor(pool->executors);
  if (supervisor != NULL && uns_supervisor_after(supervisor, GROW_AFTER_NS, check, pool) == 0) return;
  uv_mutex_lock(&pool->lock);
  pool->check_armed = false;
  uv_mutex_unlock(&pool->lock);
}

void uns_pool_grow(uns_dispatch *dispatch) {
  uns_pool *pool = dispatch->owner;
  grow_by_one(pool, false);
  arm_check(pool);
}

static void give(uns_dispatch *dispatch, uns_worker *worker, uns_job *job) {
  (void)dispatch;
  uns_pool_thread *thread = uns_container_of(worker, uns_pool_thread, worker);
  atomic_store(&thread->given, job);
  if (atomic_load(&thread->asleep)) {
    uv_mutex_lock(&thread->lock); /* it waits from here on, or has seen the job */
    uv_mutex_unlock(&thread->lock);
    uv_cond_signal(&thread->wake); /* only now: woken under the lock it would go to sleep again, for that */
  }
}

static const uns_dispatch_ops pool_ops = {give, uns_pool_grow};

uns_pool *uns_pool_new(uns_executors *executors) {
  uns_pool *pool = uns_calloc(1, sizeof *pool);
  if (pool == NULL) {
    errno = ENOMEM;
    return NULL;
  }
  pool->executors = executors;
  uns_interrupt_install();
  uns_list_init(&pool->threads);
  uns_list_init(&pool->ended);
  uns_list_init(&pool->ladders);
  if (uv_mutex_init(&pool->lock) != 0) goto no_lock;
  if (uv_cond_init(&pool->all_ended) != 0) goto no_cond;
  if (uns_dispatch_init(&pool->dispatch, &pool_ops, pool, executors->thread_target) != 0) goto no_dispatch;
  pool->dispatch.waiting_max = UNS_THREADS_WAITING_MAX;
  return pool;
no_dispatch:
  uv_cond_destroy(&pool->all_ended);
no_cond:
  uv_mutex_destroy(&pool->lock);
no_lock:
  uns_free(pool);
  errno = ENOMEM;
  return NULL;
}

void uns_pool_submit(uns_pool *pool, uns_job *job) {
  job->alive = &pool->executors->parties.alive;
  uns_alive_enter(job->alive);
  uns_dispatch_submit(&pool->dispatch, job);
}

/* Both locks held. */
static uns_worker_info info_of(const uns_pool_thread *thread) {
  const uns_job *job = thread->worker.job;
  uns_worker_info info = {.id = thread->thread_id,
                          .state = job == NULL              ? "idle"
                                   : thread->worker.lending ? "waiting"
                                                            : "running"};
  if (job == NULL) return info;
  snprintf(info.name, sizeof info.name, "%s", job->function->name);
  info.since_ns = job->submitted_ns;
  return info;
}

size_t uns_pool_look(uns_pool *pool, void (*visit)(void *, const uns_worker_info *), void *context) {
  uv_mutex_lock(&pool->lock);
  uv_mutex_lock(&pool->dispatch.lock);
  for (uns_link *link = pool->threads.next; link != &pool->threads; link = link->next) {
    uns_worker_info info = info_of(uns_container_of(link, uns_pool_thread, link));
    visit(context, &info);
  }
  size_t queued = pool->dispatch.queued;
  uv_mutex_unlock(&pool->dispatch.lock);
  uv_mutex_unlock(&pool->lock);
  return queued;
}

void uns_pool_look_for(uns_pool *pool, const uns_job *job, uns_worker_info *found) {
  uv_mutex_lock(&pool->lock);
  uv_mutex_lock(&pool->dispatch.lock);
  for (uns_link *link = pool->threads.next; link != &pool->threads; link = link->next) {
    const uns_pool_thread *thread = uns_container_of(link, uns_pool_thread, link);
    if (thread->worker.job == job) *found = info_of(thread);
  }
  uv_mutex_unlock(&pool->dispatch.lock);
  uv_mutex_unlock(&pool->lock);
}

uint32_t uns_pool_threads(uns_pool *pool) {
  uv_mutex_lock(&pool->lock);
  uint32_t count = pool->count;
  uv_mutex_unlock(&pool->lock);
  return count;
}
