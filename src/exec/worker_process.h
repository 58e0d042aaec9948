/*
 * worker_process: one child as its host sees it. Shared by process.c, which gives it calls and reads their ends, and
 * serve.c, which answers what it asks for.
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
  UNS_CHILD_ENDING,   /* was told to end; takes no more calls */
  UNS_CHILD_DEAD      /* is being cleared away */
} uns_child_state;

/* What the child holds a number for. */
typedef struct uns_export uns_export;

typedef struct uns_exports {
  uv_mutex_t lock; /* guards what follows; taken after a child's `lock`, before a cell's */
  uns_export **by_id, **by_cell; /* chained hash tables of one size; owned */
  uint32_t size, count;
  uint64_t last_id;
  uint32_t stale; /* that the supervisor shall clear away */
} uns_exports;

/* The control socket. The supervisor's thread only. */
typedef struct uns_service {
  uns_watch watch;
  uns_port in, out;
  uint8_t *input; /* what came and is not a whole frame yet; owned */
  size_t input_bytes, input_capacity;
  uns_link output;  /* what could not be sent yet */
  uns_link nested;  /* calls that the child made */
  int received_fd;  /* that came over it; -1: none */
  uns_function *function; /* of the last of them; one reference */
} uns_service;

typedef struct uns_child {
  uns_worker worker; /* the dispatch's */
  uns_process_pool *pool;

  uv_mutex_t lock; /* guards what follows */
  uns_child_state state;
  pid_t pid;       /* 0: reaped, or not started */
  int wake_fd;     /* the child's eventfd; -1: not known yet */
  char condemned[192]; /* why it was killed by us, or could not start; or "" */
  char error_code[24]; /* the latter's */
  uns_job *jobs[UNS_CLAIMS]; /* the one with the lowest number runs, or is about to; the others were given ahead */
  uint64_t sequences[UNS_CLAIMS], last_sequence;
  uint32_t in_flight; /* of `jobs` */
  bool arrived;       /* what the dispatch chose it for has come */
  uns_port to_child;
  uns_frame frame; /* the one that is being written, where it did not fit */
  size_t frame_written;
  bool writing;
  unsigned writing_slot; /* its call's place */
  uint8_t unsent[UNS_CLAIMS], unsent_count; /* places of calls whose frames come after it */
  bool expects_give; /* the dispatch has chosen the worker for a job that has not come yet, and it died meanwhile */

  uv_mutex_t read_lock; /* guards what follows */
  bool readable; /* it is not buried yet */
  uint64_t average_ns; /* of its last calls; 0: none yet */
  uns_port from_child;
  uint8_t *large; /* a frame that does not fit into the ring, as far as it has come; owned */
  uint64_t large_bytes, large_have;

  uns_wire wire; /* mapped for good; over it the next child's */
  atomic_uint main_jobs; /* calls in it whose end the script's loop reads */
  atomic_int group;      /* its process group, for signals; 0: none */

  /* the supervisor's thread only */
  uns_watch ended;   /* on the descriptor that tells its end */
  uns_service service;
  uint64_t started_ns;
  uint64_t seen_running; /* the number of the call that ran when it was last looked at */
  uint32_t waiting;  /* what the board said last of its place */
  uns_exports exports;
} uns_child;

/* process.c. Kills it; what it ran fails with `why`. Any thread, without its lock. */
void uns_child_condemn(uns_child *child, const char *why);
/* It will end by itself; should it not, it is made to after a while. Supervisor. */
void uns_child_expect_end(uns_child *child);
/* It cannot start, and will end; the calls that wait for it fail with that. */
void uns_child_is_sorry(uns_child *child, const char *error_code, const char *why);
/* The child is up. `wake_fd` is taken over. Supervisor. */
void uns_child_up(uns_child *child, int wake_fd);
uns_supervisor *uns_process_pool_supervisor(uns_process_pool *pool);
uns_executors *uns_process_pool_executors(uns_process_pool *pool);

/* serve.c: the exports are there from the first to the last; the service from the start to the end of a process. */
int uns_exports_init(uns_exports *exports);
void uns_exports_deinit(uns_exports *exports);
extern const uns_port_ops uns_exports_ops; /* their owner is the child */
/* Begins to listen on `fd`, which is taken over in any case. 0, or -1 with errno set. */
int uns_service_open(uns_child *child, int fd);
/* The child is dead: lets go of all that it held. */
void uns_service_close(uns_child *child);
/* Clears away what the child holds no more. Supervisor. */
void uns_service_sweep(uns_child *child);
/* Tells the child that it cannot lend its place: `waiting` is what the board said. */
void uns_service_limit(uns_child *child, uint32_t waiting);

#endif
