#include "exec/executors.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "exec/pool.h"
#include "exec/process.h"
#include "exec/registry.h"
#include "exec/silence.h"
#include "exec/supervisor.h"
#include "exec/watchdog.h"

enum {
  THREAD_MAX = 1024 /* running at once; each that blocks costs a stack of which little is touched, and a Lua state */
};

static int usable_cores(void) {
  cpu_set_t set;
  int count = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  return count > 0 ? count : 1;
}

uns_executors *uns_executors_new(void) {
  uns_executors *executors = uns_calloc(1, sizeof *executors);
  if (executors == NULL) return NULL;
  if (uv_mutex_init(&executors->lock) != 0) goto no_lock;
  if (uns_parties_init(&executors->parties) != 0) goto no_parties;
  executors->cores = usable_cores();
  executors->thread_target = executors->process_target = (uint32_t)executors->cores;
  executors->thread_max = THREAD_MAX;
  executors->grace_ns = 500000000;
  executors->parties.alive.none = uns_silence_want;
  return executors;
no_parties:
  uv_mutex_destroy(&executors->lock);
no_lock:
  uns_free(executors);
  return NULL;
}

bool uns_executors_free(uns_executors *executors) {
  if (executors == NULL) return true;
  uv_mutex_lock(&executors->lock);
  executors->closing = true; /* a call that still runs in a thread may ask for what is not there yet, or no more */
  uv_mutex_unlock(&executors->lock);
  /* Most programs have made but some of these. What has not been made is not called: its code would be loaded for nothing. */
  if (executors->watchdog != NULL) /* first, for here we wait for others, which holds the script's loop */
    uns_watchdog_stop(executors->watchdog);
  if (executors->processes != NULL) uns_process_pool_free(executors->processes);
  executors->processes = NULL;
  if (executors->pool != NULL && !uns_pool_free(executors->pool, executors->grace_ns)) return false;
  if (executors->watchdog != NULL) uns_watchdog_free(executors->watchdog);
  executors->watchdog = NULL;
  atomic_store(&executors->parties.alive.owner, NULL);
  if (executors->supervisor != NULL) uns_supervisor_free(executors->supervisor);
  if (executors->silence != NULL) uns_silence_free(executors->silence);
  if (executors->plugins != NULL) uns_registry_free(executors->plugins);
  uns_parties_deinit(&executors->parties);
  uv_mutex_destroy(&executors->lock);
  uns_free(executors->program);
  uns_free(executors->script_directory);
  uns_free(executors);
  return true;
}

uns_supervisor *uns_executors_supervisor(uns_executors *executors) {
  uv_mutex_lock(&executors->lock);
  if (executors->supervisor == NULL && !executors->closing) {
    executors->supervisor = uns_supervisor_new();
    /* In a worker process, it is its host that looks. */
    if (executors->supervisor != NULL && !executors->is_child)
      executors->silence = uns_silence_new(executors, executors->supervisor);
  }
  uns_supervisor *supervisor = executors->supervisor;
  uv_mutex_unlock(&executors->lock);
  return supervisor;
}

static uns_pool *pool_of(uns_executors *executors) {
  uv_mutex_lock(&executors->lock);
  if (executors->pool == NULL && !executors->closing) executors->pool = uns_pool_new(executors);
  uns_pool *pool = executors->pool;
  uv_mutex_unlock(&executors->lock);
  return pool;
}

static uns_process_pool *processes_of(uns_executors *executors) {
  if (uns_executors_supervisor(executors) == NULL) return NULL;
  uv_mutex_lock(&executors->lock);
  if (executors->processes == NULL && !executors->closing) {
    uns_runtime *main = executors->main_runtime;
    executors->processes = uns_process_pool_new(executors, main->mailbox, main);
  }
  uns_process_pool *processes = executors->processes;
  uv_mutex_unlock(&executors->lock);
  return processes;
}

static _Thread_local char state_problem[192]; /* of the last new_state on this thread; or "" */

void uns_executors_state_problem(const char *text) { snprintf(state_problem, sizeof state_problem, "%s", text); }

void uns_executors_fail_for_state(uns_job *job) {
  int number = errno;
  const char *why = *state_problem != '\0' ? state_problem : strerror(number);
  uns_job_fail(job, uv_err_name(uv_translate_sys_error(number)), "cannot make a Lua state for %s: %s",
               job->function->name, why);
  *state_problem = '\0';
}

bool uns_executors_find_native(uns_executors *executors, uns_function *function, char **error) {
  uns_registry *registry = uns_registry_of(executors);
  if (registry == NULL) {
    *error = NULL;
    return false;
  }
  function->task = uns_registry_find(registry, function->native, error);
  return function->task != NULL;
}

static void refuse(uns_executors *executors, uns_job *job, const char *what) {
  int number = errno;
  uv_mutex_lock(&executors->lock);
  bool closing = executors->closing;
  uv_mutex_unlock(&executors->lock);
  if (closing) uns_job_fail(job, "closed", "closed: no more calls are taken, the program is ending");
  else uns_job_fail(job, uv_err_name(uv_translate_sys_error(number)), "cannot make %s: %s", what, strerror(number));
  uns_job_post(job);
}

void uns_executors_cancel(uns_runtime *runtime, uns_job *job) {
  uns_executors *executors = runtime->executors;
  int asked = 0; /* once: who asks again must neither interrupt its clean-up nor begin a new grace period */
  if (!atomic_compare_exchange_strong(&job->cancel, &asked, 1)) return;
  if (atomic_load_explicit(&job->state, memory_order_relaxed) == UNS_JOB_HELD) {
    uns_list_remove(&job->link);
    job->held = true;
    uns_job_fail(job, "cancelled", "%s was cancelled", job->function->name);
    uns_job_post(job);
    return;
  }
  bool cpu = job->function->kind == UNS_KIND_CPU;
  if (cpu ? executors->processes == NULL : executors->pool == NULL) return; /* it was refused, and is on its way home */
  bool queued = cpu ? uns_process_pool_cancel(executors->processes, job) : uns_pool_cancel(executors->pool, job);
  if (!queued) return;
  job->stopped_by = "queue";
  uns_job_fail(job, "cancelled", "%s was cancelled", job->function->name);
  uns_job_post(job);
}

void uns_executors_submit(uns_executors *executors, uns_job *job) {
  if (job->function->kind == UNS_KIND_CPU) {
    uns_process_pool *processes = processes_of(executors);
    if (processes != NULL) uns_process_pool_submit(processes, job);
    else refuse(executors, job, "the worker processes");
  } else {
    uns_pool *pool = pool_of(executors);
    if (pool != NULL) uns_pool_submit(pool, job);
    else refuse(executors, job, "the thread pool");
  }
}
