#include "core/job.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void function_free(uns_shared *object) {
  uns_function *function = uns_container_of(object, uns_function, base);
  uns_free(function->native);
  uns_free(function->plugin);
  uns_free(function);
}

static const uns_shared_class function_class = {UNS_SHARED_FUNCTION, "function", function_free};

uns_function *uns_function_new(uns_kind kind, const char *name, const char *native) {
  size_t length = strlen(name);
  uns_function *function = uns_calloc(1, sizeof *function + length + 1);
  if (function == NULL) return NULL;
  uns_shared_init(&function->base, &function_class);
  uns_list_init(&function->held);
  uns_list_init(&function->holding);
  function->kind = (uint8_t)kind;
  memcpy(function->name, name, length + 1);
  if (native != NULL) {
    function->native = uns_copy_text(native);
    if (function->native == NULL) {
      uns_free(function);
      return NULL;
    }
  }
  return function;
}

static atomic_uint_fast64_t last_id;

void uns_job_again(uns_job *job, uns_function *function) {
  uns_list_init(&job->link);
  job->id = atomic_fetch_add_explicit(&last_id, 1, memory_order_relaxed) + 1;
  job->function = uns_shared_ref(function);
  job->submitted_ns = uns_clock_ns();
  job->exit_code = -1;
}

uns_job *uns_job_new(uns_mailbox *home, uns_function *function) {
  uns_job *job = uns_calloc(1, sizeof *job);
  if (job == NULL) return NULL;
  job->home = uns_mailbox_ref(home);
  uns_job_again(job, function);
  return job;
}

void uns_job_empty(uns_job *job) {
  uns_packet_empty(&job->call);
  uns_packet_empty(&job->result);
  uns_shared_unref(job->search_path);
  uns_shared_unref(job->function);
  uns_packet call = job->call, result = job->result;
  uns_mailbox *home = job->home;
  memset(job, 0, sizeof *job);
  job->call = call;
  job->result = result;
  job->home = home;
}

void uns_job_free(uns_job *job) {
  if (job == NULL) return;
  uns_packet_deinit(&job->call);
  uns_packet_deinit(&job->result);
  uns_shared_unref(job->search_path);
  uns_shared_unref(job->function);
  uns_mailbox_unref(job->home);
  uns_free(job);
}

void uns_job_fail(uns_job *job, const char *code, const char *format, ...) {
  uns_packet_deinit(&job->result);
  job->outcome = UNS_OUTCOME_ERROR;
  snprintf(job->error_code, sizeof job->error_code, "%s", code);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(job->error_text, sizeof job->error_text, format, arguments);
  va_end(arguments);
}

void uns_job_fail_unsent(uns_job *job, const char *what, int status) {
  const char *name = job->function->name;
  if (status == UNS_ENOMEM) uns_job_fail(job, "ENOMEM", "not enough memory to send %s of %s", what, name);
  else
    uns_job_fail(job, "unsendable", "unsendable: in %s of %s is something that cannot leave the process", what, name);
}

void uns_job_note_progress(uns_job *job, uint64_t done, uint64_t total) {
  bool known = atomic_load_explicit(&job->progress_count, memory_order_relaxed) > 0 &&
               atomic_load_explicit(&job->progress_done, memory_order_relaxed) == done &&
               atomic_load_explicit(&job->progress_total, memory_order_relaxed) == total;
  if (known) return;
  atomic_store_explicit(&job->progress_done, done, memory_order_relaxed);
  atomic_store_explicit(&job->progress_total, total, memory_order_relaxed);
  atomic_fetch_add_explicit(&job->progress_count, 1, memory_order_release);
  if (job->progressed != NULL) job->progressed(job);
}

uns_job *uns_job_twin(const uns_job *job) {
  uns_job *twin = uns_job_new(job->home, job->function);
  if (twin == NULL) return NULL;
  twin->mail.deliver = job->mail.deliver;
  twin->submitted_ns = job->submitted_ns;
  twin->pin = job->pin;
  twin->home_data = job->home_data;
  twin->reason = job->reason;
  twin->stopped_by = "abandoned";
  twin->record.recorder = job->record.recorder;
  twin->record.id = job->record.id;
  twin->record.started = true; /* as it will have by then */
  uns_job_fail(twin, "cancelled", "%s was cancelled", job->function->name);
  return twin;
}

void uns_job_post(uns_job *job) {
  job->ended_ns = uns_clock_ns();
  atomic_store_explicit(&job->state, UNS_JOB_ENDED, memory_order_release);
  uns_mailbox *home = uns_mailbox_ref(job->home); /* the job may be freed before post has ended */
  uns_alive *alive = job->alive;
  uns_mailbox_post(home, &job->mail);
  uns_mailbox_unref(home);
  uns_alive_leave(alive);
}
