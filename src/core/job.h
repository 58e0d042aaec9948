/*
 * job: one call on its way to a worker and its completion on the way back. The record that crosses threads.
 *
 *   - Belongs to the submitter until uns_dispatch_submit, to the executors until its mail is posted home, then to
 *     the submitter again, which frees it. `cancel` and `state` alone are touched from elsewhere.
 *   - A completion cannot fail: `mail` was allocated with the job.
 */
#ifndef UNS_JOB_H
#define UNS_JOB_H

#include <stdatomic.h>

#include "base/base.h"
#include "core/alive.h"
#include "core/mailbox.h"
#include "core/packet.h"
#include "core/search_path.h"

/* What a wrapped function is, beside its Lua value: shared by all its calls, immutable but for the counters. */
typedef struct uns_function {
  uns_shared base;
  uint8_t kind;         /* uns_kind */
  bool fresh;           /* a new Lua state for each call */
  uint32_t limit;       /* calls running at once, 0: any number */
  uint64_t timeout_ns;  /* from the call; 0: none */
  uint64_t run_timeout_ns; /* from the start; 0: none */
  uint64_t grace_ns;    /* between the rungs of cancelling; 0: the host's */
  char *native;         /* "plugin.task", or NULL: a Lua function */
  const struct uns_native *task; /* exec/registry.h: what `native` names in this process, or NULL: not looked up yet */
  char *plugin;         /* the file that `native` is from, where only that is known; owned, or NULL */
  uint32_t running;     /* home's: calls sent and not yet back, where there is a limit */
  uns_link held;        /* home's: jobs that wait for one of those to end */
  uns_link holding;     /* home's: in runtime->holding while there are any */
  char name[];          /* for traces and errors */
} uns_function;

typedef enum { UNS_KIND_IO, UNS_KIND_THREAD, UNS_KIND_CPU, UNS_KIND_PROMISE } uns_kind;

typedef enum {
  UNS_JOB_HELD,    /* at home: its function's limit is reached */
  UNS_JOB_QUEUED,
  UNS_JOB_GIVEN,   /* handed to a worker, which has not said that it started */
  UNS_JOB_STARTED,
  UNS_JOB_ABANDONED, /* still runs, but nobody waits for it: a twin has gone home in its place */
  UNS_JOB_ENDED
} uns_job_state;

typedef enum {
  UNS_OUTCOME_DONE,     /* `result` holds the results */
  UNS_OUTCOME_FAILED,   /* `result` holds the error value and the traceback (a string or nil) */
  UNS_OUTCOME_CANCELLED,/* the same; the error is a `cancelled` one */
  UNS_OUTCOME_ERROR     /* the executor itself failed: `error_code`, `error_text`, `exit_code` or `signal_number` */
} uns_outcome;

typedef struct uns_job {
  uns_mail mail;  /* first: the completion's way home */
  uns_link link;  /* in the dispatch queue; guarded by its lock */
  uint64_t id;    /* unique in the host */
  uns_function *function; /* one reference */
  uns_packet call; /* Lua: the function and its arguments. Native: the arguments */
  uns_search_path *search_path; /* the caller's; one reference, or NULL: as the worker's own */
  uint64_t submitted_ns, started_ns, ended_ns;
  uint64_t deadline_ns; /* 0: none */
  atomic_int state; /* uns_job_state */
  atomic_int cancel; /* 1: asked to stop; 2: the grace period is over as well */
  uns_outcome outcome;

  /* A native task's progress: written by its threads, read by anybody. */
  atomic_uint progress_count; /* reports so far, written last (release); 0: none yet */
  _Atomic uint64_t progress_done, progress_total; /* the doubles' bits */
  /* Called on a thread of the task after a report, at most every 10 ms; NULL: nobody wants to know. Set before the start. */
  void (*progressed)(struct uns_job *job);
  uns_mail progress_mail; /* tells home of a report, one at a time */

  uns_packet result;
  char error_code[24]; /* "crashed", "limit", "ENOMEM" */
  char error_text[232];
  int exit_code, signal_number; /* of "crashed": the one that applies, else -1 and 0 */

  uns_mailbox *home; /* one reference; mail.deliver settles the future there and frees the job */
  void *home_data;   /* home's own: the call's deadline, or NULL */
  const char *stopped_by; /* static: which rung ended it ("sigterm"), or NULL */
  int reason;        /* home's: pin of why it was cancelled, or 0 */
  int pin;           /* home's: the future in its registry */
  bool timed_out;    /* home's: it was cancelled by its deadline */
  bool held;         /* home's: it was cancelled while it was held: it never counted as running */
  bool named_context; /* native: behind the arguments lies a table of context variables, by name */
  atomic_bool progress_posted; /* `progress_mail` is on its way */
  uint8_t put_back;  /* how many workers died before they started it */
  uint64_t parent_id; /* home's: the task that made the call, 0: none */
  void *context;     /* home's too */
  void *worker;      /* dispatch's: who has it */
  struct {           /* core/recorder.h's */
    struct uns_recorder *recorder; /* NULL: nobody wants to know, and the rest is unused. Set before it is sent */
    uint64_t id, started_ns, ended_ns;
    uint32_t track; /* of the worker process that has it */
    bool arrow, started, ended;
  } record;
  uns_alive *alive;  /* it counts in it until it has been posted; NULL: in none. Set by whoever takes it in */
  void *runtime;     /* the state that runs it in this process, from its start on, or NULL. Its own thread's, and to be
                        read by whoever has made all states stand still (loop/party.h) */
} uns_job;

/* A zeroed job with its reference to `home` and `function`; NULL without memory. Any thread. */
uns_job *uns_job_new(uns_mailbox *home, uns_function *function);
void uns_job_free(uns_job *job);
/* For a job that is home: lets go of all it holds but memory for the next call from there, and zeroes it. */
void uns_job_empty(uns_job *job);
/* Makes an emptied one new. */
void uns_job_again(uns_job *job, uns_function *function);
/* Fills in an UNS_OUTCOME_ERROR. */
void uns_job_fail(uns_job *job, const char *code, const char *format, ...) __attribute__((format(printf, 3, 4)));
/*
 * The same where no message to another process could be made of `what`, "the arguments" or "the result": for want of
 * memory, if `status` is UNS_ENOMEM; else it holds what means nothing outside.
 */
void uns_job_fail_unsent(uns_job *job, const char *what, int status);
/* Another process says how far its task is: keeps that, and passes it on where it is news. Numbers are a double's bits. */
void uns_job_note_progress(uns_job *job, uint64_t done, uint64_t total);
/* A job in the place of one that is abandoned: goes home as it would have, cancelled. NULL without memory. */
uns_job *uns_job_twin(const uns_job *job);
/* Ends the job: posts it home. The last thing an executor does with it. */
void uns_job_post(uns_job *job);

/* `name` and `native` (or NULL) are copied. One reference, owned by the caller; NULL without memory. */
uns_function *uns_function_new(uns_kind kind, const char *name, const char *native);

#endif
