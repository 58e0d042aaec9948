#include "exec/pool.h"

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
static const uint64_t SETTLE_NS = 500000000; /* a thread without a job ends in far less, unless a finalizer keeps it */
static const uint64_t SETTLE_LOOK_NS = 5000000;

static const uint64_t REST_AFTER_NS = (uint64_t)UNS_REST_AFTER_MS * 1000000;

typedef struct pool_thread {
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
} pool_thread;

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

/* ---- one thread ---- */

static void thread_lend(uns_runtime *runtime, bool waiting) {
  pool_thread *thread = runtime->owner;
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

static uns_runtime *open_state(pool_thread *thread) {
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

static void close_state(pool_thread *thread, uns_runtime *runtime) {
  if (runtime != NULL) thread->pool->executors->free_state(runtime);
}

static void run_job(pool_thread *thread, uns_job *job) {
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

static uns_job *spin_for_job(pool_thread *thread) {
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
static bool take_mail(pool_thread *thread) {
  uns_runtime *runtime = thread->runtime;
  if (runtime == NULL) return false;
  if (uns_mailbox_has_mail(runtime->mailbox)) uns_runtime_turn(runtime, false);
  return uns_codec_lent(runtime->L) > 0;
}

/* Waits until a job was given; NULL when it is time to end: told to, or idle for long. */
static uns_job *wait_for_job(pool_thread *thread) {
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
  pool_thread *thread = argument;
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

static void thread_free(pool_thread *thread) {
  uv_cond_destroy(&thread->wake);
  uv_mutex_destroy(&thread->lock);
  uns_free(thread);
}

/* Joins the threads that have ended by themselves. */
static void reap(uns_pool *pool) {
  for (;;) {
    uv_mutex_lock(&pool->lock);
    uns_link *link = uns_list_pop_front(&pool->ended);
    uv_mutex_unlock(&pool->lock);
    if (link == NULL) return;
    pool_thread *thread = uns_container_of(link, pool_thread, link);
    pthread_join(thread->thread, NULL);
    thread_free(thread);
  }
}

/* With all signals blocked: they are for the main thread. */
static int create(pool_thread *thread) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int status = pthread_create(&thread->thread, NULL, thread_main, thread);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return status;
}

/* One more thread. 0 or an errno. */
static int add_thread(uns_pool *pool) {
  reap(pool);
  pool_thread *thread = uns_calloc(1, sizeof *thread);
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
    if (uns_kernel_on_cpu(uns_container_of(link, pool_thread, link)->thread_id)) running++;
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

static void grow(uns_dispatch *dispatch) {
  uns_pool *pool = dispatch->owner;
  grow_by_one(pool, false);
  arm_check(pool);
}

static void give(uns_dispatch *dispatch, uns_worker *worker, uns_job *job) {
  (void)dispatch;
  pool_thread *thread = uns_container_of(worker, pool_thread, worker);
  atomic_store(&thread->given, job);
  if (atomic_load(&thread->asleep)) {
    uv_mutex_lock(&thread->lock); /* it waits from here on, or has seen the job */
    uv_mutex_unlock(&thread->lock);
    uv_cond_signal(&thread->wake); /* only now: woken under the lock it would go to sleep again, for that */
  }
}

static const uns_dispatch_ops pool_ops = {give, grow};

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
static bool interrupt_thread(uns_pool *pool, const pool_thread *thread, uint64_t id, int rung) {
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
static pool_thread *interrupt(uns_pool *pool, uint64_t id, int rung) {
  for (uns_link *link = pool->threads.next; link != &pool->threads; link = link->next) {
    pool_thread *thread = uns_container_of(link, pool_thread, link);
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
  pool_thread *thread = interrupt(pool, climb->id, 2);
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
    grow(&pool->dispatch);
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

/* Both locks held. */
static uns_worker_info info_of(const pool_thread *thread) {
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
    uns_worker_info info = info_of(uns_container_of(link, pool_thread, link));
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
    const pool_thread *thread = uns_container_of(link, pool_thread, link);
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

/* Tells every thread to end, and what it runs to stop, as firmly as `rung` says. Under the pool's lock. */
static void stop_all(uns_pool *pool, int rung) {
  for (uns_link *link = pool->threads.next; link != &pool->threads; link = link->next) {
    pool_thread *thread = uns_container_of(link, pool_thread, link);
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
static bool settles(pool_thread *thread) {
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
      pool_thread *thread = uns_container_of(link, pool_thread, link);
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
  reap(pool);
  if (stuck) return false;
  forget_callbacks(pool);
  uns_dispatch_deinit(&pool->dispatch);
  uv_cond_destroy(&pool->all_ended);
  uv_mutex_destroy(&pool->lock);
  uns_free(pool);
  return true;
}
