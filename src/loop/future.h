/*
 * future: the side of a task that a script reads. Settles once: done, failed or cancelled.
 *
 * A userdata "unsync.Future" with one user value: the result, a table of results, or the failure (a sentinel whose
 * __gc reports it where nobody looked). Waiters are embedded in what waits and are told in the order they came.
 *   - Belongs to its state's thread. Only `cell`, made when it first crosses, is shared.
 *   - Knows no coroutine and no executor: loop/wait.c, exec/.
 */
#ifndef UNS_FUTURE_H
#define UNS_FUTURE_H

#include "core/cell.h"
#include "core/job.h"
#include "loop/runtime.h"

typedef enum {
  UNS_FUTURE_PENDING,
  UNS_FUTURE_RUNNING,
  UNS_FUTURE_DONE,
  UNS_FUTURE_FAILED,
  UNS_FUTURE_CANCELLED
} uns_future_state;

#define UNS_FUTURE_TYPE "unsync.Future"

enum { UNS_FUTURE_PACKED = 255 }; /* result_count: the user value is a table from table.pack */

/* Told when the future settles, from inside the settling call: must run no user code. */
typedef struct uns_waiter {
  uns_link link;
  void (*wake)(struct uns_waiter *waiter, uns_runtime *runtime, uns_future *future);
  uint8_t told; /* uns_told, of a wait for something else than a future */
  bool listens; /* it only keeps the books: nobody awaits the future by it */
  bool quiet;   /* to tell it allocates nothing */
  uns_task *task; /* that waits, where it is one */
  /* Of a wait at a channel: */
  struct uns_choice **choice;         /* NULL: it waits for this alone. What it points to is made at need */
  struct uns_channel_wait *elsewhere; /* where the channel is shared: its wait there, until all is settled; else NULL */
} uns_waiter;

/* What a waiter was woken with, by a channel or the like (loop/channel.h, loop/gate.h), which passes no future. */
typedef enum { UNS_TOLD_NONE, UNS_TOLD_GIVEN, UNS_TOLD_CLOSED, UNS_TOLD_RETRY } uns_told;

/* Nobody else's userdata begins with this address: futures are told by it, at half the price of comparing metatables. */
extern const char uns_future_mark;

/* Several futures, for which one wait stands; embedded in what waits for them. */
typedef struct uns_behind {
  /* Calls `visit` with those that have not settled, until it says true; then that is the result. */
  bool (*each)(const struct uns_behind *behind, bool (*visit)(void *context, const uns_future *future), void *context);
  /* Of a future that is made of others: settles it as cancelled, if it has not settled, and asks those to stop that
     nobody else awaits. NULL for a wait of a task's. */
  void (*cancel)(const struct uns_behind *behind, uns_runtime *runtime);
} uns_behind;

struct uns_future {
  const char *mark;     /* &uns_future_mark */
  uint8_t state;        /* uns_future_state */
  uint8_t kind;         /* uns_kind */
  uint8_t result_count; /* 0, 1: the user value is the result; UNS_FUTURE_PACKED */
  bool foreign;         /* made elsewhere: its outcome comes through `cell` */
  bool expected;        /* its failure is no news: it was told to stop */
  bool resolvable;      /* a promise: resolve and reject are for this one */
  bool stoppable;       /* the loop itself works for it, and can be told to stop: runtime->stop */
  uns_link waiters;
  uns_task *task;           /* kind io, while it lives */
  uns_job *job;             /* kind thread and cpu, while it is under way */
  const char *name;         /* of the function, interned for the life of the state; NULL: none */
  const char *site;         /* "file:line" of the call that it is of, interned; NULL: not known */
  uns_cell *cell;           /* borrowed from the future's companion; NULL: never left its state */
  uint64_t since_ns;        /* when it was first waited for or sent away; 0: not yet */
  const uns_behind *behind; /* what it is made of, while it is pending; or NULL */
};

enum { UNS_FUTURE_BYTES = sizeof(uns_future) + 56 }; /* with what Lua puts before a userdata with one user value */

static inline bool uns_future_settled(const uns_future *future) { return future->state >= UNS_FUTURE_DONE; }

/* Somebody in another state may settle it. */
static inline bool uns_future_is_elsewhere(const uns_future *future) {
  return future->foreign || (future->cell != NULL && uns_cell_is_remote(future->cell));
}

/* Takes the waiter out of its list and tells it. */
static inline void uns_waiter_tell(uns_waiter *waiter, uns_runtime *runtime, uns_told told) {
  uns_list_remove(&waiter->link);
  waiter->told = (uint8_t)told;
  waiter->wake(waiter, runtime, NULL);
}

/* The first in a list of waiters, or NULL. */
static inline uns_waiter *uns_waiter_first(const uns_link *waiters) {
  return uns_list_empty(waiters) ? NULL : uns_container_of(waiters->next, uns_waiter, link);
}

/* Once per state: leaves the metatable on the stack, still without methods (bind/future.c). */
void uns_future_open(lua_State *L, uns_runtime *runtime);
/* Pushes a new pending future. Raises without memory. `name` is NULL or from uns_runtime_intern. */
uns_future *uns_future_push(uns_runtime *runtime, lua_State *L, uns_kind kind, const char *name);
/* The future at `index`, or NULL if it is something else. Fast. */
static inline uns_future *uns_future_test(lua_State *L, int index) {
  uns_future *future = lua_touserdata(L, index);
  return future != NULL && lua_rawlen(L, index) == sizeof *future && future->mark == &uns_future_mark ? future : NULL;
}

/*
 * Settle the future at stack index `index` of L with what lies on top: `count` results, or for `fail` the error value
 * and above it the traceback (string or nil). Pops them. False if it was settled before. Raises only for memory.
 */
bool uns_future_resolve(uns_runtime *runtime, lua_State *L, int index, int count);
/* The same for one that has not settled, is at the positive `index`, and is `future`. */
void uns_future_resolve_pending(uns_runtime *runtime, lua_State *L, int index, uns_future *future, int count);
bool uns_future_fail(uns_runtime *runtime, lua_State *L, int index, uns_future_state failed_or_cancelled);

/* `fail` for those who must not raise: the error alone lies on top, there is no traceback. Where there is no memory for that,
   that is the error. */
void uns_future_fail_safely(uns_runtime *runtime, lua_State *L, int index, uns_future_state failed_or_cancelled);
/* The same with the error "not enough memory", for where there is none even for that. Raises nothing. */
void uns_future_fail_without_memory(uns_runtime *runtime, lua_State *L, int index);

/* Pushes the results and returns their number, or raises the error. The future at `index` must be settled. */
int uns_future_push_outcome(uns_runtime *runtime, lua_State *L, int index);
/* Pushes the error value (nil if done) / the traceback (nil if none); marks the failure as looked at. */
void uns_future_push_error(uns_runtime *runtime, lua_State *L, int index);
void uns_future_push_traceback(uns_runtime *runtime, lua_State *L, int index);
/* Pushes what the future at `index`, failed or cancelled, holds of that (loop/failure.h); it counts as looked at. */
void uns_future_push_failure(lua_State *L, int index);
/* True if the future has failed and nobody has looked at that. */
bool uns_future_unobserved(lua_State *L, int index);
void uns_future_observe(uns_runtime *runtime, lua_State *L, int index);

/* Waits and leaves in O(1). A waiter in no list may be removed too. */
void uns_future_add_waiter(uns_future *future, uns_waiter *waiter);
void uns_future_remove_waiter(uns_waiter *waiter);

/* The shared cell of the future at `index`, made at its first crossing; borrowed. NULL without memory. */
uns_cell *uns_future_share(uns_runtime *runtime, lua_State *L, int index);
/* Pushes the future of this state that stands for `cell`: the same one each time. Raises without memory. */
uns_future *uns_future_push_shared(uns_runtime *runtime, lua_State *L, uns_cell *cell);
/* Pushes it where there is one; else NULL, and nothing is pushed. Raises nothing; needs 2 places. */
uns_future *uns_future_push_known(lua_State *L, const uns_cell *cell);
/* Settles the future at `index` with what `packet` holds: results, or an error and its traceback. */
void uns_future_settle_from_packet(uns_runtime *runtime, lua_State *L, int index, int cell_state,
                                   const uns_packet *packet);
/* Takes over the outcome of the future at `index` where it has settled elsewhere and the news is still on its way. */
void uns_future_refresh(uns_runtime *runtime, lua_State *L, int index);
/* Settles a future that has a cell, for everybody; `packet` is taken over. 1 if this was the first, else 0. */
int uns_future_settle_shared(uns_runtime *runtime, lua_State *L, int index, uns_cell_state state, uns_packet *packet);

/*
 * Encodes the outcome of the settled future at `index`: results, or the error and its traceback. Where it cannot cross, the
 * reason is encoded, as a failure. Returns how the receiver's future is to end. Looks at no failure.
 */
uns_future_state uns_future_encode(uns_runtime *runtime, lua_State *L, int index, uns_packet *packet);

/* "io" and the like; "pending" and the like. Static. */
const char *uns_future_kind_name(const uns_future *future);
const char *uns_future_state_name(const uns_future *future);

#endif
