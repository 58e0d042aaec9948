/*
 * failure: what a future failed with: the error, where it was raised, and whether anybody has looked at it.
 *
 * A userdata with the error and the traceback as user values, held by its future. One that nobody has looked at stands in
 * runtime->failures; where it is collected there, it reports itself. Only failures pay for any of this.
 *   - Of all the states that know a failure which has crossed, one reports it: the first to claim its cell.
 *   - A task remembers the failure that one of its awaits raised last, so that the traceback of the same error, further
 *     out, begins where it failed.
 *   - In a worker they belong to the call that runs: it fails with them (exec/runner.c).
 */
#ifndef UNS_FAILURE_H
#define UNS_FAILURE_H

#include "core/cell.h"
#include "loop/runtime.h"

enum { UNS_FAILURE_ERROR = 1, UNS_FAILURE_TRACEBACK, UNS_FAILURE_COMPANION }; /* its user values */

typedef struct uns_failure {
  uns_link link;  /* in runtime->failures until somebody looks */
  uns_cell *cell; /* one reference, where the future has crossed; NULL: it has not */
  int pin;        /* what keeps it until the end, when its future is gone, or 0 */
  uns_runtime *runtime;
  const char *name;          /* of what failed, interned; or NULL */
  const char *site;          /* "file:line" of where it was started, interned; or NULL */
  const lua_State *taken_on; /* the Lua thread down to whose base the traceback reaches; NULL: not down to here */
  uint8_t kind;              /* uns_kind */
} uns_failure;

/* Once per state. */
void uns_failure_open(lua_State *L, uns_runtime *runtime);

/* Pushes a failure in the place of the error value and the traceback (a string or nil) on top. Raises without memory. */
uns_failure *uns_failure_push(uns_runtime *runtime, lua_State *L, uint8_t kind, const char *name);
/* The failure below the top is that of a future with a cell; the future's companion, on top, is popped. */
void uns_failure_share(lua_State *L, uns_cell *cell);
/* The failure on top is reported unless somebody looks at it. */
void uns_failure_list(uns_runtime *runtime, lua_State *L);
void uns_failure_observe(uns_failure *failure);
static inline bool uns_failure_observed(const uns_failure *failure) { return uns_list_empty(&failure->link); }
/* Raises the error of the failure on top. */
int uns_failure_raise(uns_runtime *runtime, lua_State *L);

/* ---- tracebacks ---- */

/* For a message handler, whose error lies at index 1: pushes the traceback from here, behind that of the failure it was. */
void uns_failure_push_traceback(uns_runtime *runtime, lua_State *L);
/*
 * A message handler (lua_CFunction): keeps the traceback of an error that is caught only to be raised again, so that the
 * one taken further out begins with it.
 */
int uns_failure_keep_traceback(lua_State *L);
/* Pushes the failure that the error at `error` was raised or caught as, kept by the running task; else a new one. */
void uns_failure_push_raised(uns_runtime *runtime, lua_State *L, int error);

/*
 * A failure lies on top, above it a list (a table) of others that it came with. Both are popped; pushes the failure, or where
 * there are others one of the same error that tells of them: in its `others`, if it is a table and that is free, and in
 * its traceback.
 */
void uns_failure_with_others(uns_runtime *runtime, lua_State *L);

/* ---- those that nobody looked at ---- */

/*
 * Pushes a list of them, the oldest first, and they count as looked at; false, with nothing pushed, where there are none.
 * Those that other states may still look at are left to them.
 */
bool uns_failure_take_all(uns_runtime *runtime, lua_State *L);
/* They count as looked at: what they belong to has failed as a whole. */
void uns_failure_forget_all(uns_runtime *runtime);
/*
 * Tells of an error that nobody handles. The error, its traceback (a string or nil), what it is of and where that was started
 * (strings or nil) lie on top, and are popped. Any error object is told somehow.
 */
void uns_failure_tell(uns_runtime *runtime, lua_State *L);
/* Tells of the failure at `index`, which nobody looked at. */
void uns_failure_report(lua_State *L, int index);
/* At the end of a host: reports them, the oldest first; returns how many there were in all. */
int uns_failure_report_all(uns_runtime *runtime);

#endif
