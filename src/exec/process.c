#include "exec/process.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "exec/look.h"
#include "exec/parent.h"
#include "exec/silence.h"
#include "exec/worker_process.h"

static const uint64_t SURPLUS_NS = 10000000000; /* idle for that long: a child beyond the target ends */

/* ---- starting ---- */

/* A job that was not run ends here; counted as it was when it was submitted. */
void uns_process_pool_abandon(uns_process_pool *pool, uns_job *job) {
  if (job->home == pool->main_mailbox) atomic_fetch_sub(&pool->main_jobs, 1);
  uns_job_post(job);
}

/* No child could be started: if none runs that will come free some day, the calls that wait fail with the reason. Those
   that lend their places do not count: what they wait for may be these very calls. */
void uns_process_pool_fail_queue(uns_process_pool *pool, const char *code, const char *why) {
  uns_dispatch *dispatch = &pool->dispatch;
  for (;;) {
    uv_mutex_lock(&dispatch->lock);
    uns_link *link = dispatch->workers == dispatch->lending ? uns_list_pop_front(&dispatch->queue) : NULL;
    if (link != NULL) dispatch->queued--;
    uv_mutex_unlock(&dispatch->lock);
    if (link == NULL) return;
    uns_job *job = uns_container_of(link, uns_job, link);
    uns_job_fail(job, code, "no worker process for %s: %s %s", job->function->name,
                 pool->executors->program != NULL ? pool->executors->program : "unsync", why);
    uns_process_pool_abandon(pool, job);
  }
}

/* A place for one more child: one that is free, or a new one. */
static uns_child *free_place(uns_process_pool *pool) {
  uint32_t count = atomic_load_explicit(&pool->count, memory_order_relaxed);
  for (uint32_t i = 0; i < count; i++) {
    uns_child *child = pool->children[i];
    uv_mutex_lock(&child->lock);
    bool is_free = child->state == UNS_CHILD_NONE && !child->expects_give;
    uv_mutex_unlock(&child->lock);
    if (is_free) return child;
  }
  if (count == pool->capacity) return NULL;
  return uns_child_new(pool);
}

static void publish_place(uns_process_pool *pool, uns_child *child) {
  uint32_t count = atomic_load_explicit(&pool->count, memory_order_relaxed);
  for (uint32_t i = 0; i < count; i++) {
    if (pool->children[i] == child) return;
  }
  pool->children[count] = child;
  atomic_store_explicit(&pool->count, count + 1, memory_order_release);
}

static uint32_t starting(uns_process_pool *pool) {
  uint32_t count = atomic_load_explicit(&pool->count, memory_order_relaxed), found = 0;
  for (uint32_t i = 0; i < count; i++) {
    uv_mutex_lock(&pool->children[i]->lock);
    found += pool->children[i]->state == UNS_CHILD_STARTING;
    uv_mutex_unlock(&pool->children[i]->lock);
  }
  return found;
}

/* Starts as many as are wanted: the supervisor's thread, which never ends, for a child dies with its starter. */
static void on_grow(uns_mail *mail, void *receiver) {
  uns_process_pool *pool = uns_container_of(mail, uns_process_pool, grow_mail);
  uns_dispatch *dispatch = &pool->dispatch;
  if (receiver == NULL) return;
  atomic_store(&pool->growing, false); /* before looking: what is submitted from here on asks again */
  for (;;) {
    uint32_t underway = starting(pool);
    uv_mutex_lock(&dispatch->lock);
    bool wanted = !pool->closing && !dispatch->closed && dispatch->queued > underway &&
                  dispatch->workers - dispatch->lending < dispatch->target;
    if (wanted) dispatch->workers++;
    uv_mutex_unlock(&dispatch->lock);
    if (!wanted) return;
    const char *what = "";
    uns_child *child = free_place(pool);
    int status = child != NULL ? uns_child_start(child, &what) : ENOMEM;
    if (status == 0) {
      publish_place(pool, child);
      continue;
    }
    if (child != NULL) {
      bool known = false;
      uint32_t count = atomic_load_explicit(&pool->count, memory_order_relaxed);
      for (uint32_t i = 0; i < count; i++) known |= pool->children[i] == child;
      if (!known) uns_child_free(child);
    }
    uv_mutex_lock(&dispatch->lock);
    dispatch->workers--;
    uv_mutex_unlock(&dispatch->lock);
    char why[160];
    snprintf(why, sizeof why, "cannot be started: %s%s", what, strerror(status));
    uns_process_pool_fail_queue(pool, uv_err_name(uv_translate_sys_error(status)), why);
    return;
  }
}

static void grow(uns_dispatch *dispatch) {
  uns_process_pool *pool = dispatch->owner;
  uv_mutex_lock(&dispatch->lock);
  bool wanted = dispatch->queued > 0 && dispatch->workers - dispatch->lending < dispatch->target;
  uv_mutex_unlock(&dispatch->lock);
  if (wanted && !atomic_exchange(&pool->growing, true)) {
    uns_mailbox_post(uns_supervisor_mailbox(pool->supervisor), &pool->grow_mail);
  }
}

static const uns_dispatch_ops process_ops = {uns_calls_give, grow};

/* ---- what children wrote into memory ---- */

static void arm_surplus(uns_process_pool *pool);

/* Waits have ended, and more children than should are idle. */
static void end_surplus(void *argument) {
  uns_process_pool *pool = argument;
  uns_dispatch *dispatch = &pool->dispatch;
  pool->surplus_armed = false;
  if (pool->closing) return;
  uint32_t count = atomic_load_explicit(&pool->count, memory_order_relaxed);
  for (uint32_t i = 0; i < count; i++) {
    uns_child *child = pool->children[i];
    uv_mutex_lock(&dispatch->lock);
    bool surplus = dispatch->workers - dispatch->lending > dispatch->target;
    uv_mutex_unlock(&dispatch->lock);
    if (!surplus) return;
    if (uns_dispatch_retire(dispatch, &child->worker)) uns_child_ask_to_end(child);
  }
  arm_surplus(pool);
}

static void arm_surplus(uns_process_pool *pool) {
  if (pool->surplus_armed) return;
  pool->surplus_armed = uns_supervisor_after(pool->supervisor, SURPLUS_NS, end_surplus, pool) == 0;
}

/* The child's call has begun to wait, or goes on. */
static void look_at_waiting(uns_child *child) {
  uns_dispatch *dispatch = &child->pool->dispatch;
  uint32_t waiting = atomic_load(&child->wire.board->waiting);
  if (waiting == child->waiting) return;
  child->waiting = waiting;
  bool waits = waiting % 2 == 1;
  if (waits) uns_calls_take_back(child); /* it may take long */
  if (!uns_dispatch_lend(dispatch, &child->worker, waits)) uns_service_limit(child, waiting);
  if (!waits) arm_surplus(child->pool);
}

static void sweep(uns_sweep *swept) {
  uns_process_pool *pool = uns_container_of(swept, uns_process_pool, sweep);
  uint32_t count = atomic_load_explicit(&pool->count, memory_order_relaxed);
  for (uint32_t i = 0; i < count; i++) {
    uns_child *child = pool->children[i];
    uns_calls_write_rest(child);
    uv_mutex_lock(&child->read_lock); /* the script's loop may be reading, but not past what has woken us */
    if (child->readable && uns_ring_has_news(&child->wire.to_host)) uns_calls_read(child, NULL);
    bool there = child->readable;
    uv_mutex_unlock(&child->read_lock);
    if (!there) continue;
    look_at_waiting(child);
    uns_calls_pass_progress(child);
    uns_channels_sweep(child);
    uns_exports_sweep(child);
  }
  if (pool->closing) uns_process_pool_tell_if_gone(pool);
}

/* ---- the end of the pool ---- */

/* Told by mail, since at this moment the supervisor may still have to look at watches in the children. */
static void on_gone(uns_mail *mail, void *receiver) {
  uns_process_pool *pool = uns_container_of(mail, uns_process_pool, gone_mail);
  (void)receiver;
  uns_supervisor_forget(pool->supervisor, pool);
  uns_list_remove(&pool->sweep.link);
  uns_silence_set_pool(pool->executors->silence, NULL);
  uv_mutex_lock(&pool->lock);
  pool->closed = true;
  uv_cond_broadcast(&pool->gone);
  uv_mutex_unlock(&pool->lock);
}

/* The last child is gone, and nobody is about to give one a job: whoever waits for that may go on. */
void uns_process_pool_tell_if_gone(uns_process_pool *pool) {
  uint32_t count = atomic_load_explicit(&pool->count, memory_order_relaxed);
  bool there = pool->told_gone;
  for (uint32_t i = 0; i < count && !there; i++) {
    uns_child *child = pool->children[i];
    uv_mutex_lock(&child->lock);
    there = child->state != UNS_CHILD_NONE || child->expects_give;
    uv_mutex_unlock(&child->lock);
  }
  if (there) return;
  pool->told_gone = true;
  uns_mailbox_post(uns_supervisor_mailbox(pool->supervisor), &pool->gone_mail);
}

static void on_close(uns_mail *mail, void *receiver) {
  uns_process_pool *pool = uns_container_of(mail, uns_process_pool, close_mail);
  (void)receiver;
  pool->closing = true;
  uint32_t count = atomic_load_explicit(&pool->count, memory_order_relaxed);
  for (uint32_t i = 0; i < count; i++) {
    uns_child *child = pool->children[i];
    uv_mutex_lock(&child->lock);
    uns_child_state state = child->state;
    uv_mutex_unlock(&child->lock);
    if (state == UNS_CHILD_LIVE && uns_dispatch_retire(&pool->dispatch, &child->worker)) uns_child_ask_to_end(child);
    else if (state == UNS_CHILD_LIVE || state == UNS_CHILD_STARTING) uns_child_terminate(child);
  }
  uns_process_pool_tell_if_gone(pool);
}

/* ---- the pool ---- */

static void on_open(uns_mail *mail, void *receiver) {
  uns_process_pool *pool = uns_container_of(mail, uns_process_pool, open_mail);
  if (receiver == NULL) return;
  uns_supervisor_add_sweep(pool->supervisor, &pool->sweep);
  uns_silence_set_pool(pool->executors->silence, pool);
}

uns_process_pool *uns_process_pool_new(uns_executors *executors, uns_mailbox *main_mailbox, uns_runtime *main_runtime) {
  uint32_t capacity = executors->process_target + UNS_PROCESSES_WAITING_MAX + 8;
  uns_process_pool *pool = uns_calloc(1, sizeof *pool + capacity * sizeof *pool->children);
  if (pool == NULL) goto no_memory;
  pool->executors = executors;
  pool->supervisor = executors->supervisor;
  pool->main_runtime = main_runtime;
  pool->capacity = capacity;
  uns_list_init(&pool->source.link);
  pool->source.poll = uns_calls_poll;
  pool->source.fall_asleep = uns_calls_fall_asleep;
  pool->grow_mail.deliver = on_grow;
  pool->open_mail.deliver = on_open;
  pool->close_mail.deliver = on_close;
  pool->gone_mail.deliver = on_gone;
  pool->sweep.sweep = sweep;
  if (uv_mutex_init(&pool->lock) != 0) goto no_lock;
  if (uv_cond_init(&pool->gone) != 0) goto no_cond;
  if (uns_dispatch_init(&pool->dispatch, &process_ops, pool, executors->process_target) != 0) goto no_dispatch;
  pool->dispatch.waiting_max = UNS_PROCESSES_WAITING_MAX;
  pool->dispatch.strict = true;
  pool->dispatch.alive = &executors->parties.alive;
  pool->main_mailbox = uns_mailbox_ref(main_mailbox);
  uns_mailbox_post(uns_supervisor_mailbox(pool->supervisor), &pool->open_mail);
  return pool;
no_dispatch:
  uv_cond_destroy(&pool->gone);
no_cond:
  uv_mutex_destroy(&pool->lock);
no_lock:
  uns_free(pool);
no_memory:
  errno = ENOMEM;
  return NULL;
}

uns_process_pool *uns_process_pool_of_parent(struct uns_parent *parent) {
  uns_process_pool *pool = uns_calloc(1, sizeof *pool);
  if (pool != NULL) pool->parent = parent;
  return pool;
}

bool uns_process_pool_cancel(uns_process_pool *pool, uns_job *job) {
  if (pool->parent != NULL) {
    uns_parent_cancel(pool->parent, job);
    return false;
  }
  if (!uns_dispatch_withdraw(&pool->dispatch, job) && !uns_calls_cancel(pool, job)) return false;
  if (job->home == pool->main_mailbox && atomic_fetch_sub(&pool->main_jobs, 1) == 1) pool->source.busy = false;
  return true;
}

void uns_process_pool_submit(uns_process_pool *pool, uns_job *job) {
  if (pool->parent != NULL) {
    uns_parent_submit(pool->parent, job);
    return;
  }
  if (job->home == pool->main_mailbox) {
    if (uns_list_empty(&pool->source.link)) uns_list_push_back(&pool->main_runtime->sources, &pool->source.link);
    atomic_fetch_add_explicit(&pool->main_jobs, 1, memory_order_relaxed);
    pool->source.busy = true;
  }
  job->alive = &pool->executors->parties.alive;
  uns_alive_enter(job->alive);
  uns_dispatch_submit(&pool->dispatch, job);
}

void uns_process_pool_free(uns_process_pool *pool) {
  if (pool == NULL) return;
  if (pool->parent != NULL) {
    uns_free(pool);
    return;
  }
  uns_dispatch_close(&pool->dispatch);
  uns_list_remove(&pool->source.link);
  uns_mailbox_post(uns_supervisor_mailbox(pool->supervisor), &pool->close_mail);
  uv_mutex_lock(&pool->lock);
  while (!pool->closed) uv_cond_wait(&pool->gone, &pool->lock);
  uv_mutex_unlock(&pool->lock);
  uint32_t count = atomic_load_explicit(&pool->count, memory_order_acquire);
  for (uint32_t i = 0; i < count; i++) uns_child_free(pool->children[i]);
  uns_dispatch_deinit(&pool->dispatch);
  uns_mailbox_unref(pool->main_mailbox);
  uv_cond_destroy(&pool->gone);
  uv_mutex_destroy(&pool->lock);
  uns_free(pool);
}

/* The child's lock held. False: it is a free place. */
static bool look_at(uns_child *child, uns_worker_info *info) {
  if (child->state == UNS_CHILD_NONE || child->pid == 0) return false;
  const uns_job *job = child->in_flight > 0 ? child->jobs[child->order[0]] : NULL;
  bool waits = atomic_load(&child->wire.board->waiting) % 2 == 1;
  *info = (uns_worker_info){.process = true, .id = child->pid};
  info->state = child->state == UNS_CHILD_STARTING ? "starting" : job == NULL ? "idle" : waits ? "waiting" : "running";
  if (job == NULL) return true;
  snprintf(info->name, sizeof info->name, "%s", job->function->name);
  info->since_ns = job->submitted_ns;
  return true;
}

size_t uns_process_pool_look(uns_process_pool *pool, void (*visit)(void *, const uns_worker_info *), void *context) {
  if (pool->parent != NULL) return 0;
  uint32_t count = atomic_load_explicit(&pool->count, memory_order_acquire);
  for (uint32_t i = 0; i < count; i++) {
    uns_worker_info info;
    uv_mutex_lock(&pool->children[i]->lock);
    bool there = look_at(pool->children[i], &info);
    uv_mutex_unlock(&pool->children[i]->lock);
    if (there) visit(context, &info);
  }
  uv_mutex_lock(&pool->dispatch.lock);
  size_t queued = pool->dispatch.queued;
  uv_mutex_unlock(&pool->dispatch.lock);
  return queued;
}

void uns_process_pool_look_for(uns_process_pool *pool, const uns_job *job, uns_worker_info *found) {
  if (pool->parent != NULL) return;
  uint32_t count = atomic_load_explicit(&pool->count, memory_order_acquire);
  for (uint32_t i = 0; i < count; i++) {
    uns_child *child = pool->children[i];
    uv_mutex_lock(&child->lock);
    for (uint32_t j = 0; j < child->in_flight; j++) {
      if (child->jobs[child->order[j]] != job) continue;
      if (!look_at(child, found) || j > 0) found->state = "queued"; /* it was given ahead */
      break;
    }
    uv_mutex_unlock(&child->lock);
  }
}

void uns_process_pool_signal(uns_process_pool *pool, int number) {
  int saved = errno;
  uint32_t count = atomic_load_explicit(&pool->count, memory_order_acquire);
  for (uint32_t i = 0; i < count; i++) {
    int group = atomic_load(&pool->children[i]->group);
    if (group > 0) kill(-group, number);
  }
  errno = saved;
}
