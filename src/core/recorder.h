/*
 * recorder: told of what becomes of tasks and calls, where somebody wants a trace or statistics of it; and nobody else pays
 * for more than a look at a pointer that is NULL.
 *
 *   - One for a host and all its workers; a worker process has none: what is known of it is known here.
 *   - A function on the loop is a span there each time it is resumed, and async ones for its life and its waits. A call on a
 *     worker is a span on the worker's track, with arrows there and back, and async ones for its life and its time in line.
 *   - All of it may be called from any thread, with a track of its own each.
 * How it is written: trace.c. How it is counted: stats.c. Who opens them: host/seeing.c.
 */
#ifndef UNS_RECORDER_H
#define UNS_RECORDER_H

#include "core/job.h"
#include "core/stats.h"
#include "core/trace.h"

typedef struct uns_recorder {
  uns_trace *trace; /* borrowed, or NULL */
  uns_stats *stats; /* borrowed, or NULL */
} uns_recorder;

/* A track for a thread of this process, or for a worker process; and that it has started. */
uint32_t uns_recorder_thread(uns_recorder *recorder, pid_t tid, uint32_t number);
uint32_t uns_recorder_process(uns_recorder *recorder, pid_t pid);

/* ---- tasks ---- */

/* A task goes on, on this track; and has come to rest. `waits_for` NULL: it has ended. */
void uns_recorder_task_runs(uns_recorder *recorder, uint32_t track, uint64_t id, const char *name,
                            const char *waited_for);
void uns_recorder_task_rests(uns_recorder *recorder, uint32_t track, uint64_t id, const char *name, bool known,
                             const char *waits_for);
/* Its outcome is known. */
void uns_recorder_task_ended(uns_recorder *recorder, const char *name, uns_call_end end, uint64_t called_ns,
                             uint64_t started_ns);

/* ---- calls on workers, whose job has `recorder` ---- */

/* It is sent. `track` UNS_TRACE_NONE: its caller has none that we write. */
void uns_recorder_job_sent(uns_job *job, uint32_t track);
/* It starts and ends, in a thread: told there. */
void uns_recorder_job_starts(uns_job *job, uint32_t track);
void uns_recorder_job_ends(uns_job *job, uint32_t track);
/* A worker process says when it ran it. */
void uns_recorder_job_ran(uns_job *job, uint64_t started_ns, uint64_t ended_ns);
/* It is home: before its future settles. */
void uns_recorder_job_home(uns_job *job, uint32_t track);

#endif
