/*
 * cell: a future's outcome shared between threads. It settles once, whoever settles it, and tells all who watch.
 *
 *   - `lock` guards the state, the outcome and the list of watchers; the outcome is read-only once settled.
 *   - A watcher's notice is posted to its mailbox; no foreign code runs inside the settling call.
 */
#ifndef UNS_CELL_H
#define UNS_CELL_H

#include <uv.h>

#include "base/base.h"
#include "core/mailbox.h"
#include "core/packet.h"

typedef enum { UNS_CELL_PENDING, UNS_CELL_DONE, UNS_CELL_FAILED, UNS_CELL_CANCELLED } uns_cell_state;

typedef struct uns_cell {
  uns_shared base;
  uv_mutex_t lock;
  uns_cell_state state;
  uns_packet outcome; /* DONE: the results. FAILED, CANCELLED: the error value and the traceback (a string or nil) */
  uns_link watchers;
} uns_cell;

/* Embedded by whoever wants to hear of the settling. Told at most once. */
typedef struct uns_cell_watcher {
  uns_mail mail; /* first; its deliver is the watcher's own */
  uns_link link;
  uns_mailbox *mailbox; /* borrowed until told or unwatched */
} uns_cell_watcher;

uns_cell *uns_cell_new(void);
/* Settles with `outcome`, which is taken over in any case. False if it was settled before. Any thread. */
bool uns_cell_settle(uns_cell *cell, uns_cell_state state, uns_packet *outcome);
uns_cell_state uns_cell_peek(uns_cell *cell);
/* Watches; told through the mailbox at once where it is settled already. */
void uns_cell_watch(uns_cell *cell, uns_cell_watcher *watcher);
/* Watches no more. False if the notice was posted already and will still come. */
bool uns_cell_unwatch(uns_cell *cell, uns_cell_watcher *watcher);

#endif
