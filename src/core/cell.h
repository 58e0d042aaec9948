/*
 * cell: a future's outcome shared between threads. It settles once, whoever settles it, and tells all who watch.
 *
 *   - `lock` guards the state, the outcome and the list of watchers; the outcome is read-only once settled.
 *   - What it was settled with may refer to itself, uncounted, and to others, in a chain of any length. References are
 *     counted, so a ring of several keeps itself: to find that would need a collector that stops all threads.
 *   - A watcher's notice is posted to its mailbox; no foreign code runs inside the settling call.
 *   - In a worker process a cell may stand for one of the host's: what it is settled with is then decided there.
 *   - Whoever holds one may ask for the work that is to settle it to be stopped; the request goes to where that is done.
 */
#ifndef UNS_CELL_H
#define UNS_CELL_H

#include <uv.h>

#include "base/base.h"
#include "core/mailbox.h"
#include "core/packet.h"

typedef enum { UNS_CELL_PENDING, UNS_CELL_DONE, UNS_CELL_FAILED, UNS_CELL_CANCELLED } uns_cell_state;

typedef struct uns_cell uns_cell;

/* How firmly a request to stop is meant. */
typedef enum {
  UNS_STOP,         /* in any case */
  UNS_STOP_UNWANTED /* unless somebody else waits for it, or may: has it, in another state than that of the work */
} uns_stop;

/* The way to the cell in the host's process that another one stands for: exec/parent.c. */
typedef struct uns_cell_remote {
  /* Asks for the real one to be settled, and settles `cell` here where that was the first. `outcome` is taken over. */
  bool (*settle)(struct uns_cell_remote *remote, uns_cell *cell, uns_cell_state state, uns_packet *outcome);
  /* uns_cell_stop_work for the real one. Any thread. */
  bool (*stop)(struct uns_cell_remote *remote, uns_cell *cell, uns_stop how, uns_packet *reason, int *status);
  /* Somebody has looked at the failure with which it ended. Any thread. */
  void (*looked_at)(struct uns_cell_remote *remote, uns_cell *cell);
  /* The last reference to `cell` is gone. Any thread. */
  void (*drop)(struct uns_cell_remote *remote, uns_cell *cell);
} uns_cell_remote;

/* A request to stop, on its way to where the work is done; freed by whoever gets it. */
typedef struct uns_cell_stop {
  uns_mail mail;  /* first */
  uns_cell *cell; /* one reference */
  uns_stop how; /* UNWANTED: nobody has it but who asked; whether anybody waits where the work is done, is to be seen */
  uns_packet reason; /* one value; empty: none */
} uns_cell_stop;

/* Where the work for a cell is done. */
typedef struct uns_cell_workplace {
  uns_mailbox *mailbox;                            /* one reference; NULL: not here, or it is settled by hand */
  void (*deliver)(uns_mail *mail, void *receiver); /* of the uns_cell_stop that comes */
  void *keeper;                                    /* deliver's own; borrowed */
  uint32_t watchers;                               /* that belong to the workplace, and want nothing */
} uns_cell_workplace;

struct uns_cell {
  uns_shared base;
  uv_mutex_t lock;
  uns_cell_state state;
  uns_packet outcome; /* DONE: the results. FAILED, CANCELLED: the error value and the traceback (a string or nil) */
  uns_link watchers;
  uns_cell_remote *remote; /* borrowed; NULL: this is the real one */
  uint64_t remote_id;      /* its number there */
  atomic_bool looked_at;   /* as a failure, in some state: none needs to report it any more */
  /* Who settles it, in this process: a uns_task or a uns_job; NULL: by hand, or it is not known. Set before it is shared;
     to be followed only while it is pending, by whoever has made all states stand still (loop/party.h). */
  void *task, *job;
  uns_cell_workplace workplace; /* until it is settled; set before it is shared */
  bool
      by_task; /* settled by the end of a task, nobody else: it fails with the process that ran it. Set before it is shared */
};

/* Embedded by whoever wants to hear of the settling. Told at most once. */
typedef struct uns_cell_watcher {
  uns_mail mail; /* first; its deliver is the watcher's own */
  uns_link link;
  uns_mailbox *mailbox; /* borrowed until told or unwatched */
} uns_cell_watcher;

uns_cell *uns_cell_new(void);
/* Settles with `outcome`, which is taken over in any case. False if it was settled before. Any thread. */
bool uns_cell_settle(uns_cell *cell, uns_cell_state state, uns_packet *outcome);
/* The same, but here and now: for those who know that the real one was settled so. */
bool uns_cell_settle_here(uns_cell *cell, uns_cell_state state, uns_packet *outcome);
/* Does a state have it that is not where the work is done, and so may wait for it? */
bool uns_cell_is_watched(uns_cell *cell);
/* The work for the new `cell` is done at `place`, of whose mailbox a reference is taken. */
void uns_cell_set_workplace(uns_cell *cell, const uns_cell_workplace *place);
/*
 * Asks for the work behind `cell` to be stopped; the one who asks watches it. `reason`, one value or empty, is taken over. True
 * if it had not settled, and somebody could be asked. `status` is UNS_OK, or a negative code and nobody was. Any thread.
 */
bool uns_cell_stop_work(uns_cell *cell, uns_stop how, uns_packet *reason, int *status);
/* The same where that is done in this process, and only there, for so many of those who watch it. */
bool uns_cell_stop_work_here(uns_cell *cell, uns_stop how, uint32_t watchers, uns_packet *reason, int *status);
void uns_cell_stop_free(uns_cell_stop *stop);
/* From now on `cell`, which may be shared and watched already, stands for number `id` of `remote`. False: it stood for
   one already, or is settled. */
bool uns_cell_bind(uns_cell *cell, uns_cell_remote *remote, uint64_t id);
/* Somebody has looked at it as a failure: nobody needs to report it any more. */
void uns_cell_look_at(uns_cell *cell);
/* Does it stand for one elsewhere? */
bool uns_cell_is_remote(uns_cell *cell);
uns_cell_state uns_cell_peek(uns_cell *cell);
/* Watches; told through the mailbox at once where it is settled already. */
void uns_cell_watch(uns_cell *cell, uns_cell_watcher *watcher);
/* Watches no more. False if the notice was posted already and will still come. */
bool uns_cell_unwatch(uns_cell *cell, uns_cell_watcher *watcher);

#endif
