/*
 * parent_inside: a worker process's way to its host from inside. parent.c: the socket, and the thread that reads it.
 * parent_cells.c: futures. parent_channels.c: channels. parent_calls.c: calls, and that they wait.
 *
 *   - Locks are taken in this order: look_lock, write_lock, lock, a cell's. What the host says is handled by one thread,
 *     which is called the listener here.
 */
#ifndef UNS_PARENT_INSIDE_H
#define UNS_PARENT_INSIDE_H

#include "exec/parent.h"
#include "exec/parent_channels.h"
#include "exec/silence.h"
#include "exec/table.h"

enum { UNS_PARENT_INPUT_BYTES = 16384 };

struct uns_parent {
  int socket;
  int supervisor_fd; /* borrowed */
  uns_board *board;  /* borrowed */
  uns_port in;       /* the thread's, as the next */
  struct {
    size_t first, end;
    uint8_t bytes[UNS_PARENT_INPUT_BYTES];
  } input; /* what came and has not been looked at */

  uv_mutex_t look_lock; /* taken before all others */
  uns_parties *parties; /* borrowed; NULL: they are not there yet, or no more */
  pthread_t thread;
  bool has_thread;
  atomic_bool closing;
  uns_cell_remote remote;
  uns_parent_channels channels;

  uv_mutex_t write_lock;
  uns_port out;
  bool deaf; /* the host takes no more */

  uv_mutex_t lock;
  uv_cond_t answered;
  uns_table proxies, calls; /* proxy *; uns_job * by its id */
  uns_link requests;
  uint64_t last_made, last_request;
  bool ended;            /* the host says nothing more */
  atomic_bool unsettled; /* somebody waits for the room of what was taken, and has perhaps not been told */
  uns_mailbox *waits;    /* of the runtime whose call waits, borrowed; NULL: none does */
  uns_job *running;      /* the call that runs; NULL: none */
  pthread_t runner;      /* its thread */
  uint64_t running_sequence;
};

/* Numbers of what was made here; the host's own have the bit clear. */
#define UNS_PARENT_MADE_HERE ((uint64_t)1 << 63)

/* ---- parent.c ---- */

/* UNS_OK or a negative code. Any thread, as the following. */
int uns_parent_send(uns_parent *parent, const uns_message *message, const uns_packet *packet);
/* Sends it with a number of its own, and waits for the answer, which is to be deinit'ed after UNS_OK. Not the listener. */
int uns_parent_ask(uns_parent *parent, uns_message *message, const uns_packet *packet, uns_message *answer);
/* A number that nobody has: `made`: for something that was made here. */
uint64_t uns_parent_number(uns_parent *parent, bool made);
/* True: the item lent in that place is ours. */
bool uns_parent_claim(uns_parent *parent, uint32_t slot, uint64_t number);
uns_parent_channels *uns_parent_channels_of(uns_parent *parent);

/* ---- parent_cells.c ---- */

void uns_parent_cells_init(uns_parent *parent);
/* No cell is alive any more. */
void uns_parent_cells_deinit(uns_parent *parent);
/* The cells made here that the host knows, which somebody here settles: up to UNS_QUIET_EDGES_MAX, each with a reference.
   The states stand still. */
uint32_t uns_parent_find_cells(uns_parent *parent, uns_quiet_cell *cells);
/* The task here that settles the cell of that number, to be compared only; NULL: none is known. The lock held. */
const void *uns_parent_task_behind(const uns_parent *parent, uint64_t id);
/* What the host says. UNS_OK or a negative code. The listener, as all that follow. */
int uns_parent_on_settled(uns_parent *parent, uns_message *message);
int uns_parent_on_stop(uns_parent *parent, uns_message *message);
void uns_parent_on_forget(uns_parent *parent, uint64_t id);

/* ---- parent_calls.c ---- */

/* Calls that have not come back fail. */
void uns_parent_calls_deinit(uns_parent *parent);
int uns_parent_on_result(uns_parent *parent, uns_message *message);
void uns_parent_on_progress(uns_parent *parent, const struct uns_message_words *words);
void uns_parent_on_cancel(uns_parent *parent, uint64_t sequence);
int uns_parent_on_limit(uns_parent *parent, const struct uns_message_words *words);
int uns_parent_on_ask(uns_parent *parent, uint64_t round);
int uns_parent_on_deadlock(uns_parent *parent, const uns_message *message);
int uns_parent_on_why(uns_parent *parent, const struct uns_message_words *words);

#endif
