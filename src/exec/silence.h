/*
 * silence: all states of a host wait for each other, and nothing is under way: some wait must be told that it can never
 * end. Across threads and processes.
 *
 *   - Nothing of it costs anything until the host's process has nobody left who is alive (core/alive.h), nor any child
 *     whose call does not wait.
 *   - Then the supervisor makes all states of its process stand still, and asks each child that has a call. A child says
 *     whether its own states stand still, and what waits for what there. Since what is sent both ways arrives in order, an
 *     answer also says that nothing is under way in between.
 *   - Only if since the question nobody has woken up, and nothing but answers has come or gone, is it true: all were quiet
 *     at one and the same moment, and nobody was left to wake another.
 * What kind of news might be under way plays no part: only whether any was. Who is told: loop/deadlock.h.
 */
#ifndef UNS_SILENCE_H
#define UNS_SILENCE_H

#include "exec/frame.h"
#include "loop/deadlock.h"

typedef struct uns_silence uns_silence;
struct uns_executors;
struct uns_child;
struct uns_supervisor;
struct uns_process_pool;

/* The `none` of a host's uns_alive: the supervisor is to look. Any thread. */
void uns_silence_want(uns_alive *alive);
/* From now on somebody looks. NULL without memory: then nobody does. */
uns_silence *uns_silence_new(struct uns_executors *executors, struct uns_supervisor *supervisor);
/* Whose children have calls; NULL: there are none any more. Supervisor. */
void uns_silence_set_pool(uns_silence *silence, struct uns_process_pool *pool);
/* The same, or NULL. NULL is allowed. Supervisor. */
struct uns_process_pool *uns_silence_pool(const uns_silence *silence);
/* The supervisor has ended. NULL is allowed. */
void uns_silence_free(uns_silence *silence);

/* Something may have become quiet that is not of this process. Supervisor. */
void uns_silence_look(uns_silence *silence);
/* What a child answers, or, with NULL, that it is gone. False: it makes no sense. Supervisor. */
bool uns_silence_answer(uns_silence *silence, struct uns_child *child, const uns_message *message);

/* What one state, or several, would be told with. Offsets into the texts of the report. */
typedef struct uns_quiet_who {
  uint64_t since_ns, runtime, task, wait; /* task 0: nobody */
  uint32_t text_at, text_bytes;           /* the chain from there on */
} uns_quiet_who;

typedef enum { UNS_QUIET_ROOT, UNS_QUIET_CELL } uns_quiet_from;

/* Where the chain leads that begins with a call's own task, or the one behind a cell of the child's. */
typedef struct uns_quiet_edge {
  uint32_t from_kind;     /* uns_quiet_from */
  uint32_t to_kind;       /* uns_behind_kind: TASK is a cycle */
  uint64_t from, to;      /* numbers of cells; of a nested call */
  uns_quiet_who youngest; /* on the way, or in the cycle */
} uns_quiet_edge;

/* What a child says of itself: this, the edges, the texts. */
typedef struct uns_quiet_report {
  uns_quiet_who cause, youngest;
  uint32_t edge_count, text_bytes;
} uns_quiet_report;

enum { UNS_QUIET_EDGES_MAX = 256 };

/* A child's side: fills in `packet` for the states that stand still. `cells`: those made here that the host knows, by number.
   UNS_OK or UNS_ENOMEM. */
typedef struct uns_quiet_cell {
  uns_cell *cell;
  uint64_t id;
} uns_quiet_cell;
int uns_quiet_describe(uns_parties *parties, uns_runtime *main, const uns_quiet_cell *cells, uint32_t cell_count,
                       uns_packet *packet);

#endif
