/*
 * worker_process: the pool and its children from inside. process.c: the pool. process_child.c: one child's start and
 * end. process_calls.c: calls to it and their ends, through the rings. process_check.c: whether it keeps to what was agreed.
 * serve.c, exports.c, channels.c: what it asks for.
 *
 *   - `lock` of a child guards its state, its calls and the writing end, `read_lock` the reading end.
 *   - Locks are taken in this order: read_lock, lock, the dispatch's, the exports', a cell's.
 */
#ifndef UNS_WORKER_PROCESS_H
#define UNS_WORKER_PROCESS_H

#include <sys/types.h>

#include "exec/frame.h"
#include "exec/process.h"
#include "exec/ring.h"
#include "exec/supervisor.h"

typedef enum {
  UNS_CHILD_NONE,     /* a free place */
  UNS_CHILD_STARTING, /* started, but has not said hello */
  UNS_CHILD_LIVE,
  UNS_CHILD_ENDING, /* was told to end; takes no more calls */
  UNS_CHILD_DEAD    /* is being cleared away */
} uns_child_state;

/* What the child holds a number for. */
typedef struct uns_export uns_export;

typedef struct uns_exports {
  uv_mutex_t lock;               /* guards what follows */
  uns_export **by_id, **by_object; /* chained hash tables of one size; owned */
  uint32_t size, count;
  uint64_t last_id;
  uint32_t stale; /* that the supervisor shall clear away */
} uns_exports;

/* An item of a channel that the child may take. */
typedef struct uns_service_loan {
  uns_channel_loan *loan; /* one reference; NULL: the place is free */
  uns_shared_channel *channel; /* one reference */
  uint64_t channel_id;         /* the child's number for it */
} uns_service_loan;

/* The control socket. The supervisor's thread only. */
typedef struct uns_service {
  uns_watch watch;
  uns_port in, out;
  uint8_t *input; /* what came and is not a whole frame yet; owned */
  size_t input_bytes, input_capacity;
  uns_link output;        /* what could not be sent yet */
  uns_link nested;        /* calls that the child made */
  uns_link waits;         /* its waits at channels, oldest first, that have not been told anything */
  uns_link groups;        /* of waits of which one is to be served */
  uns_link given;         /* items that it was given and has not said to have, in the order it was given them */
  uns_service_loan loans[UNS_LOANS];
  uint32_t loan_count, loan_window; /* of these in use; how many it may have, by what it made of the last */
  uint64_t last_loan;               /* counted up from child to child */
  bool corked;             /* what is sent stays in `output` until it is not */
  uint64_t sent, received; /* frames */
  int received_fd;        /* that came over it; -1: none */
  bool dead;              /* what it said last is read */
  uns_function *function; /* of the last of them; one reference */
} uns_service;

typedef struct uns_child {
  uns_worker worker; /* the dispatch's */
  uns_process_pool *pool;

  uv_mutex_t lock; /* guards what follows */
  uns_child_state state;
  pid_t pid;           /* 0: reaped, or not started */
  uint32_t track;      /* the recorder's, of this process */
  int wake_fd;         /* the child's eventfd; -1: not known yet */
  char condemned[192]; /* why it was killed by us, or could not start; or "" */
  char error_code[24]; /* the latter's */
  uns_job *jobs[UNS_CLAIMS];
  uint64_t sequences[UNS_CLAIMS], last_sequence;
  uint64_t cancelled;        /* the number of the call that is being stopped; 0: none */
  uint64_t grace_ns;         /* its own */
  int rung;                  /* how firmly: 0 asked, 1 SIGTERM, 2 SIGKILL */
  uint64_t next_rung_ns;     /* on uns_clock_ns; timers that come earlier were set for a call before it */
  uint8_t order[UNS_CLAIMS]; /* the places in use, oldest first: that one runs, the others were given ahead */
  uint32_t in_flight;        /* of them */
  bool arrived;              /* what the dispatch chose it for has come */
  uns_port to_child;
  uns_frame frame; /* the one that is being written, where it did not fit */
  size_t frame_written;
  bool writing;
  unsigned writing_slot;                    /* its call's place */
  uint8_t unsent[UNS_CLAIMS], unsent_count; /* places of calls whose frames come after it */
  bool expects_give; /* the dispatch has chosen the worker for a job that has not come yet, and it died meanwhile */

  uv_mutex_t read_lock; /* guards what follows */
  bool readable;        /* it is not buried yet */
  uint64_t average_ns;  /* of its last calls; 0: none yet */
  uns_port from_child;
  uint8_t *large; /* a frame that does not fit into the ring, as far as it has come; owned */
  uint64_t large_bytes, large_have;

  uns_wire wire;         /* mapped for good; over it the next child's */
  atomic_uint main_jobs; /* calls in it whose end the script's loop reads */
  atomic_int group;      /* its process group, for signals; 0: none */

  /* the supervisor's thread only */
  uns_watch ended; /* on the descriptor that tells its end */
  uns_service service;
  uint64_t started_ns;
  uint64_t seen_running;   /* the number of the call that ran when it was last looked at */
  uint64_t checked;        /* the same of process_check.c */
  uint32_t waiting;        /* what the board said last of its place */
  uint32_t silences;       /* the same of its silences */
  uint64_t progress_count; /* the same of reports of progress */
  uint64_t asked;          /* the round in which it was asked whether all is quiet there, until it answers; 0: it was not */
  uns_packet report;       /* what it answered last: exec/silence.h */
  uns_link questions;      /* asked of it, and not answered yet: exec/why.c */
  uint64_t last_question;
  uns_exports exports;
} uns_child;

struct uns_process_pool {
  uns_dispatch dispatch;
  struct uns_parent *parent;  /* borrowed: in a worker process, and then nothing else is used */
  uns_executors *executors;   /* borrowed */
  uns_supervisor *supervisor; /* borrowed */
  uns_mailbox *main_mailbox;  /* one reference */
  uns_runtime *main_runtime;  /* borrowed; its thread's */
  uns_source source;          /* in its list once it has submitted something */
  atomic_uint main_jobs;      /* its calls under way */
  atomic_bool main_asleep;    /* pairs with each child's main_jobs (seq_cst): whoever gives a call tells its child */
  uns_sweep sweep;

  uns_mail grow_mail; /* on its way while `growing` */
  atomic_bool growing;
  uns_mail open_mail, close_mail, gone_mail;

  uv_mutex_t lock; /* with `gone` */
  uv_cond_t gone;
  bool closed; /* all children are gone for good; guarded by `lock` */

  atomic_bool ahead_armed; /* the supervisor will look whether what was given ahead is stuck */
  atomic_bool check_armed; /* and whether children keep to what was agreed */
  bool closing;            /* the supervisor's from here on */
  bool told_gone;
  int failed_starts; /* one after the other */
  bool surplus_armed;
  uint32_t capacity;
  atomic_uint count; /* of `children`; release by the supervisor: they are never freed before the pool */
  uns_child *children[];
};

/* ---- process.c ---- */

/* If no child is left that could take them some day, the calls that wait fail with the reason. Supervisor. */
void uns_process_pool_fail_queue(uns_process_pool *pool, const char *code, const char *why);
/* A job that was not run goes home. */
void uns_process_pool_abandon(uns_process_pool *pool, uns_job *job);
/* A place is free: is that the last one, and the pool closing? Supervisor. */
void uns_process_pool_tell_if_gone(uns_process_pool *pool);

/* ---- process_child.c ---- */

/* A free place for a child; NULL without memory. */
uns_child *uns_child_new(uns_process_pool *pool);
void uns_child_free(uns_child *child);
/* Starts a process in a free place. 0, or an errno and what could not be had. Supervisor. */
int uns_child_start(uns_child *child, const char **what);
/* The child is up. `wake_fd` is taken over. False, and it is not: it was up before. Supervisor. */
bool uns_child_up(uns_child *child, int wake_fd);
/* It cannot start, and will end; the calls that wait for it fail with that. Supervisor. */
void uns_child_is_sorry(uns_child *child, const char *error_code, const char *why);
/* Kills it; what it ran fails with `why`. Any thread; `_locked`: with its lock held, else without. */
void uns_child_condemn(uns_child *child, const char *why);
void uns_child_condemn_locked(uns_child *child, const char *why);
/* To it and all that it has started, where that has stayed in its process group. The lock held; any thread. */
void uns_child_signal_locked(const uns_child *child, int number);
/* It is to end: in order, where it is idle; by signals; by itself. Should it not, it is made to. Supervisor. */
void uns_child_ask_to_end(uns_child *child);
void uns_child_terminate(uns_child *child);
void uns_child_expect_end(uns_child *child);

/* ---- process_calls.c ---- */

extern const char uns_garbage[], uns_no_memory_to_read[]; /* why a child is condemned */

/* The dispatch's `give`. */
void uns_calls_give(uns_dispatch *dispatch, uns_worker *worker, uns_job *job);
/* Reads what the child wrote; the read_lock held. `runtime`: the script's, on its thread; NULL: the supervisor. True if there
   was something. */
bool uns_calls_read(uns_child *child, uns_runtime *runtime);
/* What ended the call with number `sequence`, if it was being stopped by signals; NULL: it was not. The lock held. */
const char *uns_calls_stopped_by(const uns_child *child, uint64_t sequence);
/* There is room again for what did not fit into its ring. Supervisor. */
void uns_calls_write_rest(uns_child *child);
/* Asks a job to stop that is no longer in the queue. True: it never ran, and is the caller's again. */
bool uns_calls_cancel(uns_process_pool *pool, uns_job *job);
/* Passes on what the child's call says of how far it is. Supervisor. */
void uns_calls_pass_progress(uns_child *child);
/* Takes back what was given ahead and is not claimed; others may run it. */
void uns_calls_take_back(uns_child *child);
/* Wakes it for what was written, if it sleeps, or in any case. The lock held. */
void uns_calls_wake(const uns_child *child);
/* So many bytes of what it wrote are read; it is told if it waits for room. The read_lock held. */
void uns_calls_give_room(uns_child *child, size_t size_bytes);
/* The source of the script's loop. */
bool uns_calls_poll(uns_source *source, uns_runtime *runtime);
bool uns_calls_fall_asleep(uns_source *source, bool asleep);

/* ---- process_check.c ---- */

/* A call is given to a child: somebody is to look at all of them by and by. Any thread. */
void uns_check_later(uns_process_pool *pool);

/* ---- exports.c: of a child's place, from its making to its end ---- */

int uns_exports_init(uns_exports *exports);
void uns_exports_deinit(uns_exports *exports);
extern const uns_port_ops uns_exports_ops; /* their owner is the child */
/* What the child says of cells that it holds: UNS_ECORRUPT if it makes no sense; UNS_ENOMEM. Supervisor, as the following. */
int uns_exports_give_back(uns_child *child, const struct uns_message_words *words);
int uns_exports_settle(uns_child *child, uns_message *message);
int uns_exports_stop(uns_child *child, uns_message *message);
int uns_exports_look_at(uns_child *child, const struct uns_message_words *words);
/* The channel that the child has as number `id`: a reference, or NULL. */
uns_shared_channel *uns_exports_channel(uns_child *child, uint64_t id);
/* The child has made number `id`, for which `channel` is: taken over where it succeeds. UNS_OK or a negative code. */
int uns_exports_add_channel(uns_child *child, uint64_t id, uns_shared_channel *channel);
/* The cell that the child knows by a number, with a reference for the caller, or NULL. */
uns_cell *uns_exports_find(uns_child *child, uint64_t id);
/* The number of a cell that the child itself has made; 0: it has not. */
uint64_t uns_exports_made_there(uns_child *child, const uns_cell *cell);
/* Clears away what the child holds no more. */
void uns_exports_sweep(uns_child *child);
/* The child is dead: it holds nothing any more, and what its tasks were to settle has failed. */
void uns_exports_clear(uns_child *child);

/* ---- channels.c: what the child does with channels: false if it makes no sense. Supervisor ---- */

bool uns_channels_make(uns_child *child, const uns_message *message);
bool uns_channels_ask(uns_child *child, uns_message *message);
bool uns_channels_wait(uns_child *child, uns_message *message);
bool uns_channels_leave(uns_child *child, const uns_message *message);
bool uns_channels_took(uns_child *child, const uns_message *message);
bool uns_channels_give_back(uns_child *child, const uns_message *message);
bool uns_channels_settle(uns_child *child, const uns_message *message);
/* What was lent to the child and taken makes room; the supervisor has been woken, perhaps for that. */
void uns_channels_sweep(uns_child *child);
/* The child has given back references to number `id`: where it has no more, nothing of it is lent to the child. */
void uns_channels_dropped(uns_child *child, uint64_t id);
/* The child is dead: its waits end, and what it had not said to have goes back in front. */
void uns_channels_clear(uns_child *child);

/* ---- serve.c: from the start to the end of a process. Supervisor ---- */

/* Begins to listen on `fd`, which is taken over in any case. 0, or -1 with errno set. */
int uns_service_open(uns_child *child, int fd);
/* The child is dead: lets go of all that it held. */
void uns_service_close(uns_child *child);
/* Sends, or keeps until there is room. UNS_OK or a negative code. `must`: a child that cannot be told is killed. */
int uns_service_send(uns_child *child, const uns_message *message, const uns_packet *packet);
void uns_service_must_send(uns_child *child, const uns_message *message, const uns_packet *packet);
/* Has the child left something half said? Then it is killed. */
void uns_service_check(uns_child *child);
/* Between the two, what is sent goes out together. */
void uns_service_cork(uns_child *child);
void uns_service_uncork(uns_child *child);
/* The call that the child made under that number, or NULL. */
const uns_job *uns_service_nested(const uns_child *child, uint64_t id);
/* Asks the child to stop the call `sequence`. */
void uns_service_cancel(uns_child *child, uint64_t sequence);
/* Tells the child that it cannot lend its place: `waiting` is what the board said. */
void uns_service_limit(uns_child *child, uint32_t waiting);

#endif
