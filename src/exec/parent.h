/*
 * parent: a worker process's way to its host, beside the rings: the control socket, and what is asked for over it.
 *
 * A thread of its own reads the socket, so the host is heard whatever the worker is doing; and where the host is gone,
 * it ends this process and what it started.
 *   - What crosses: cells and channels of the host, of which this process has stand-ins, and calls for the host's process
 *     pool.
 *   - Any thread may ask; `write_lock` keeps the frames whole, `lock` guards the tables. Neither is held while a cell
 *     settles or is freed. The host always reads, so writing may block.
 * From inside: parent_inside.h. The host's side: serve.c. Calls for this process and their ends: child.c.
 */
#ifndef UNS_PARENT_H
#define UNS_PARENT_H

#include "exec/executors.h"
#include "exec/frame.h"
#include "exec/ring.h"

typedef struct uns_parent uns_parent;

/* Over the control socket, which is taken over in any case; `board` and `supervisor_fd` (an eventfd) are borrowed. NULL
   with errno set. */
uns_parent *uns_parent_new(int socket, uns_board *board, int supervisor_fd);
/* Waits for the host's first word, and sets what it says in `executors`. UNS_OK or a negative code. */
int uns_parent_set_up(uns_parent *parent, uns_executors *executors);
/* Starts the thread, and tells the host that we are up and how `main`, which runs the calls, is woken. 0, or -1 with
   errno set. */
int uns_parent_greet(uns_parent *parent, uns_runtime *main);
/* Tells the host why there will be no greeting: `what` could not be had, for errno `number`. */
void uns_parent_apologize(uns_parent *parent, const char *what, int number);
/* Whoever waits for room in a channel that was made by taking what was lent from it has been told when this returns. Before
   the end of a call. */
void uns_parent_settle(uns_parent *parent);
/* The host has told us to end: from now on its silence is no reason to die. */
void uns_parent_closing(uns_parent *parent);
/* The last step: no cell may be alive any more. */
void uns_parent_free(uns_parent *parent);

/* For the ports of the rings. Their owner is the parent. */
extern const uns_port_ops uns_parent_ops;

/* The `none` of a worker process's uns_alive, whose owner is the parent: the host is to look. Any thread. */
void uns_parent_tell_silence(uns_alive *alive);
/* The states of this process, for the host's questions. Before the greeting. */
void uns_parent_set_parties(uns_parent *parent, uns_parties *parties);

/* Hands a call to the host's pool. Any thread. */
void uns_parent_submit(uns_parent *parent, uns_job *job);
/* Asks the host to stop it; it comes back in any case. The thread it was submitted from. */
void uns_parent_cancel(uns_parent *parent, uns_job *job);
/* What runs on this thread from here on (NULL: nothing), for the host to stop. */
void uns_parent_set_running(uns_parent *parent, uns_job *job, uint64_t sequence);
/* A runtime's `lend`, its owner being the parent: the call that runs here begins to wait, or goes on. */
void uns_parent_lend(uns_runtime *runtime, bool waiting);
/* The way to the host's channels. */
struct uns_channel_remote *uns_parent_channel_remote(uns_parent *parent);
/* The supervisor is to look at the rings and the board. */
void uns_parent_wake_supervisor(const uns_parent *parent);

#endif
