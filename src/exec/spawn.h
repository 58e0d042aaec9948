/*
 * spawn: one worker process, started afresh and reaped: what differs from system to system in it.
 *
 *   - Nothing of ours runs between fork and exec; the child inherits the descriptors it is given and no other.
 *   - A child is told by its own number alone: nobody else's children are waited for, and SIGCHLD is left alone.
 * Thread: the supervisor's, for the child ends with the thread that started it.
 */
#ifndef UNS_SPAWN_H
#define UNS_SPAWN_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* The descriptors of a worker process, beside 0 (nothing to read), 1 and 2 (its parent's). */
enum {
  UNS_FD_CONTROL = 3, /* the control socket */
  UNS_FD_MEMORY,      /* the rings */
  UNS_FD_LOOP,        /* eventfd of the script's loop */
  UNS_FD_SUPERVISOR,  /* eventfd of the supervisor */
  UNS_FD_COUNT
};

#define UNS_WORKER_OPTION "--worker" /* then the parent's number, and its build */

enum { UNS_EXIT_OTHER_BUILD = 78 }; /* what a worker of another build ends with */

/*
 * Starts `program`, telling it the `build` it must be of, as the leader of a process group of its own, with
 * `descriptors` as its UNS_FD_CONTROL and so on. 0, or an errno. `*watch_fd` becomes readable when it has ended; -1
 * where the system has no such thing: then look with uns_reap now and then.
 */
int uns_spawn(const char *program, const char *build, const int descriptors[UNS_FD_COUNT - UNS_FD_CONTROL], pid_t *pid,
              int *watch_fd);

/* How a process ended: by a signal, else with an exit code; neither (0, -1): somebody else has taken the news. */
typedef struct uns_exit {
  int exit_code, signal_number;
} uns_exit;

/* Has `pid` ended? Then first what it left in its group ends too, and it is reaped. */
bool uns_reap(pid_t pid, uns_exit *how);

/* The child's side, first of all: ends with the parent, holds no descriptor but its own. False: the parent is gone. */
bool uns_spawned(pid_t parent);
/* Ends this worker process and what it started, now. Async-signal-safe. */
void uns_end_group(void) __attribute__((noreturn));

#endif
