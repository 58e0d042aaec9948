/*
 * supervisor: the thread that never ends: it starts the worker processes, since a child dies with the thread that
 * started it, watches them and serves what they ask for; and it calls back after a while whoever wants that.
 *
 *   - One for each host, from the first need until the executors end. It never runs Lua and never waits for a child.
 *   - Its mailbox is the way in: mail is delivered on its thread, with the supervisor as the receiver.
 *   - `lock` guards the timers and what stops it. Watches and sweeps belong to its thread.
 * What it does for processes: process.c. For threads: pool.c.
 */
#ifndef UNS_SUPERVISOR_H
#define UNS_SUPERVISOR_H

#include "core/mailbox.h"
#include "exec/executors.h"

typedef struct uns_supervisor uns_supervisor;

/* A descriptor that is looked after, embedded in what it belongs to. */
typedef struct uns_watch {
  int fd;                                                  /* -1: none */
  uint32_t events;                                         /* EPOLLIN and the like */
  void (*ready)(struct uns_watch *watch, uint32_t events); /* may be called without reason: expect EAGAIN */
} uns_watch;

/* Something to look at whenever the supervisor has been woken: what children wrote into memory. */
typedef struct uns_sweep {
  uns_link link;
  void (*sweep)(struct uns_sweep *sweep);
} uns_sweep;

/* Starts the thread. NULL with errno set. */
uns_supervisor *uns_supervisor_new(void);
/* Ends it; what it was to call back is not called. Nobody may know it any more. NULL is allowed. */
void uns_supervisor_free(uns_supervisor *supervisor);

/* Borrowed; close to everything it is told. Any thread. */
uns_mailbox *uns_supervisor_mailbox(uns_supervisor *supervisor);

/* Calls `callback` on the supervisor's thread in `delay_ns` nanoseconds or a little later. 0, or -1 without memory.
   Any thread. */
int uns_supervisor_after(uns_supervisor *supervisor, uint64_t delay_ns, void (*callback)(void *argument),
                         void *argument);
/* From now on nothing is called with `argument`, and no such call is under way. Any thread but the supervisor's may
   have to wait for one; must not hold what the callback locks. */
void uns_supervisor_forget(uns_supervisor *supervisor, void *argument);

/* The supervisor's thread only. 0, or -1 with errno set. */
int uns_supervisor_watch(uns_supervisor *supervisor, uns_watch *watch, int fd, uint32_t events);
int uns_supervisor_rewatch(uns_supervisor *supervisor, uns_watch *watch, uint32_t events);
void uns_supervisor_unwatch(uns_supervisor *supervisor, uns_watch *watch);
void uns_supervisor_add_sweep(uns_supervisor *supervisor, uns_sweep *sweep);

#endif
