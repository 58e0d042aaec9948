#include "core/recorder.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/lent.h"

/* Two arrows for each call. */
static uint64_t arrow_there(const uns_job *job) { return job->record.id * 2; }
static uint64_t arrow_back(const uns_job *job) { return job->record.id * 2 + 1; }

static const char *name_of(const char *name) { return name != NULL ? name : "task"; }

uint32_t uns_recorder_thread(uns_recorder *recorder, pid_t tid, uint32_t number) {
  char name[32];
  if (recorder->stats != NULL) uns_stats_worker(recorder->stats, UNS_KIND_THREAD);
  if (recorder->trace == NULL) return UNS_TRACE_NONE;
  snprintf(name, sizeof name, "thread %u", number);
  return uns_trace_track(recorder->trace, getpid(), tid, NULL, name);
}

uint32_t uns_recorder_process(uns_recorder *recorder, pid_t pid) {
  if (recorder->stats != NULL) uns_stats_worker(recorder->stats, UNS_KIND_CPU);
  if (recorder->trace == NULL) return UNS_TRACE_NONE;
  return uns_trace_track(recorder->trace, pid, pid, "worker process", "calls");
}

/* ---- tasks ---- */

void uns_recorder_task_runs(uns_recorder *recorder, uint32_t track, uint64_t id, const char *name,
                            const char *waited_for) {
  if (recorder->trace == NULL) return;
  if (waited_for != NULL) uns_trace_async_end(recorder->trace, 0, "task", waited_for, id);
  uns_trace_begin(recorder->trace, track, 0, "task", name_of(name), id);
}

void uns_recorder_task_rests(uns_recorder *recorder, uint32_t track, uint64_t id, const char *name, bool known,
                             const char *waits_for) {
  if (recorder->trace == NULL) return;
  uns_trace_end(recorder->trace, track, 0);
  if (waits_for == NULL) {
    if (known) uns_trace_async_end(recorder->trace, 0, "task", name_of(name), id);
    return;
  }
  if (!known) uns_trace_async_begin(recorder->trace, 0, "task", name_of(name), id);
  uns_trace_async_begin(recorder->trace, 0, "task", waits_for, id);
}

void uns_recorder_task_ended(uns_recorder *recorder, const char *name, uns_call_end end, uint64_t called_ns,
                             uint64_t started_ns) {
  if (recorder->stats == NULL) return;
  uint64_t now = uns_clock_ns();
  if (started_ns == 0) uns_stats_call(recorder->stats, UNS_KIND_IO, name_of(name), end, now - called_ns, UINT64_MAX);
  else uns_stats_call(recorder->stats, UNS_KIND_IO, name_of(name), end, started_ns - called_ns, now - started_ns);
}

/* ---- calls ---- */

/* What a packet carries, lent strings included. */
static uint64_t size_of(const uns_packet *packet) {
  uint64_t size = packet->size_bytes;
  for (uint32_t i = 0; i < packet->ref_count; i++) {
    if (packet->refs[i]->class->kind != UNS_SHARED_LENT) continue;
    size += uns_container_of(packet->refs[i], uns_lent, base)->size_bytes;
  }
  return size;
}

void uns_recorder_job_sent(uns_job *job, uint32_t track) {
  const uns_recorder *recorder = job->record.recorder;
  job->record.id = job->id;
  if (recorder->stats != NULL) uns_stats_bytes(recorder->stats, size_of(&job->call), 0);
  if (recorder->trace == NULL) return;
  job->record.arrow = track != UNS_TRACE_NONE;
  if (job->record.arrow) uns_trace_arrow_begin(recorder->trace, track, 0, arrow_there(job));
  uns_trace_async_begin(recorder->trace, 0, "call", job->function->name, job->record.id);
  uns_trace_async_begin(recorder->trace, 0, "call", "in line", job->record.id);
}

/* It was in line until then, and runs on that track from then on. */
static void starts(uns_job *job, uint32_t track, uint64_t ns) {
  const uns_recorder *recorder = job->record.recorder;
  job->record.started = true;
  if (recorder->trace == NULL) return;
  uns_trace_async_end(recorder->trace, ns, "call", "in line", job->record.id);
  uns_trace_begin(recorder->trace, track, ns, "call", job->function->name, job->record.id);
  if (job->record.arrow) uns_trace_arrow_end(recorder->trace, track, ns, arrow_there(job));
}

static void ends(uns_job *job, uint32_t track, uint64_t ns) {
  const uns_recorder *recorder = job->record.recorder;
  job->record.ended = true;
  if (recorder->trace == NULL) return;
  if (job->record.arrow) uns_trace_arrow_begin(recorder->trace, track, ns, arrow_back(job));
  uns_trace_end(recorder->trace, track, ns);
}

void uns_recorder_job_starts(uns_job *job, uint32_t track) {
  job->record.started_ns = job->started_ns;
  starts(job, track, job->started_ns);
}

void uns_recorder_job_ends(uns_job *job, uint32_t track) {
  uint64_t now = uns_clock_ns();
  job->record.ended_ns = now;
  if (atomic_load_explicit(&job->state, memory_order_relaxed) == UNS_JOB_ABANDONED) job->record.arrow = false;
  ends(job, track, now);
}

void uns_recorder_job_ran(uns_job *job, uint64_t started_ns, uint64_t ended_ns) {
  uint64_t now = uns_clock_ns(); /* a worker process may say anything */
  if (started_ns < job->submitted_ns || started_ns > now) started_ns = job->submitted_ns;
  if (ended_ns < started_ns || ended_ns > now) ended_ns = now;
  job->record.started_ns = started_ns;
  job->record.ended_ns = ended_ns;
  starts(job, job->record.track, started_ns);
  ends(job, job->record.track, ended_ns);
}

static uns_call_end end_of(const uns_job *job) {
  switch (job->outcome) {
    case UNS_OUTCOME_DONE: return UNS_CALL_DONE;
    case UNS_OUTCOME_CANCELLED: return UNS_CALL_CANCELLED;
    case UNS_OUTCOME_ERROR: return strcmp(job->error_code, "cancelled") == 0 ? UNS_CALL_CANCELLED : UNS_CALL_FAILED;
    default: return UNS_CALL_FAILED;
  }
}

static void count(uns_job *job) {
  uns_stats *stats = job->record.recorder->stats;
  uint64_t started_ns = job->record.started_ns, ended_ns = job->record.ended_ns, now = uns_clock_ns();
  bool ran = started_ns != 0 && ended_ns >= started_ns;
  uns_call_end end = end_of(job);
  if (end == UNS_CALL_CANCELLED && job->timed_out) end = UNS_CALL_FAILED;
  bool queued_known = ran || !job->record.started; /* not of one that was abandoned */
  uns_stats_call(stats, (uns_kind)job->function->kind, job->function->name, end,
                 queued_known ? (ran ? started_ns : now) - job->submitted_ns : UINT64_MAX,
                 ran ? ended_ns - started_ns : UINT64_MAX);
  uns_stats_bytes(stats, 0, size_of(&job->result));
}

void uns_recorder_job_home(uns_job *job, uint32_t track) {
  const uns_recorder *recorder = job->record.recorder;
  bool is_cpu = job->function->kind == UNS_KIND_CPU;
  if (is_cpu && !job->record.started && job->started_ns != 0) { /* its process died of it */
    uns_recorder_job_ran(job, job->started_ns, job->ended_ns);
  }
  if (recorder->stats != NULL) count(job);
  if (recorder->trace == NULL) return;
  if (!job->record.started) uns_trace_async_end(recorder->trace, 0, "call", "in line", job->record.id);
  uns_trace_async_end(recorder->trace, 0, "call", job->function->name, job->record.id);
  if (!job->record.arrow || !job->record.ended) return;
  uint64_t now = uns_clock_ns();
  uns_trace_begin(recorder->trace, track, now, "call", "end of a call", job->record.id);
  uns_trace_arrow_end(recorder->trace, track, now, arrow_back(job));
  uns_trace_end(recorder->trace, track, now + 1);
}
