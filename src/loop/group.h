/*
 * group: what a scope owns: the futures of the calls that were made in it and have not ended.
 *
 * A task stands in at most one group, the innermost; what it starts stands there too, and belongs to it. A worker's call
 * is the outermost, which no block ends (exec/runner.c).
 *   - Futures that have ended well are let go of at once; failed ones are kept until the scope looks.
 *   - Where no scope is, a call costs one look at a pointer.
 * Who waits for the end, and what it raises: bind/scope.c, exec/runner.c.
 */
#ifndef UNS_GROUP_H
#define UNS_GROUP_H

#include "loop/cancel.h"

typedef struct uns_member {
  uns_waiter waiter;
  uns_link link; /* in its group's `members`, or `failed` */
  struct uns_group *group;
  uns_future *future;
  int pin;       /* of the future */
  bool is_child; /* started by the scope's own spawn: its failure is the scope's at once */
} uns_member;

typedef struct uns_group {
  uns_behind behind;       /* `members` */
  size_t references;       /* the scope's object, and the tasks that stand in it */
  struct uns_group *outer; /* one reference, or NULL */
  uns_runtime *runtime;
  uns_link members;  /* not settled */
  uns_link failed;   /* in the order in which they did */
  size_t count;      /* of `members` */
  uns_member *first; /* the child that made the scope fail, or NULL */
  uns_task *waiting; /* for the last member to settle, or NULL */
  uns_callback callback;
  uns_timed_scope block;  /* around the block and the wait for its end */
  uns_cancel_scope drain; /* a shield, once all has been cancelled */
  bool cancelled, draining, ended;
  bool spared;  /* some members were not, as they belong into a shield */
  bool outside; /* it was cancelled by one around it */
  bool block_failed;
} uns_group;

/* One reference; NULL without memory. */
uns_group *uns_group_new(uns_runtime *runtime);
/* NULL is allowed. */
void uns_group_unref(uns_group *group);
static inline uns_group *uns_group_ref(uns_group *group) {
  group->references++;
  return group;
}

/* The running task stands in `group` from now on, until `leave`. UNS_OK or UNS_ENOMEM. */
int uns_group_enter(uns_group *group, uns_task *task, uint64_t deadline_ns);
/* The end: also of groups inside that were never left. Harmless where it has ended. */
void uns_group_leave(uns_group *group, uns_task *task);

/*
 * The future on top of L was made by a call of `task`, which stands in `group`: it belongs to it. Raises without memory.
 * What callbacks call belongs to the call that a worker runs: runtime->root.
 */
void uns_group_adopt_call(uns_runtime *runtime, lua_State *L, uns_task *task, uns_group *group);
static inline void uns_group_adopt(uns_runtime *runtime, lua_State *L) {
  if (__builtin_expect(runtime->note_call != NULL, 0)) runtime->note_call(runtime, L);
  uns_task *task = runtime->current;
  uns_group *group = task != NULL ? task->group : runtime->root;
  if (group != NULL) uns_group_adopt_call(runtime, L, task, group);
}

/* The future has just been adopted, or has settled well before that: it is a child. */
void uns_group_make_child(uns_group *group, const uns_future *future);

/* Cancels the block and all members, but those that are spared. */
void uns_group_cancel(uns_group *group);
/*
 * True if the future is of something that was started by a task which stands in a shield now, or by what such a task has
 * started, inside of the group (NULL: anywhere). Whoever cancels the group has to leave it alone until the shield ends.
 */
bool uns_group_spares(uns_runtime *runtime, const uns_group *group, const uns_future *future);
/* The task has left a shield: what its groups have spared so far is looked at again. */
void uns_group_cancel_spared(uns_task *task);

/* The future belongs to no group any more, nor does what its task starts from now on. */
void uns_group_detach(uns_runtime *runtime, uns_future *future);

#endif
