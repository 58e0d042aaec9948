/*
 * cancel: the request that a task stop, its reach, and its deadlines. The outcome is the task's own doing.
 *
 * A task stands in cancel scopes, one inside the other: the outermost is the task itself, `unsync.timeout` and
 * `unsync.shield` add their own. A wait raises `cancelled` if a scope around it is cancelled, up to the nearest shield.
 */
#ifndef UNS_CANCEL_H
#define UNS_CANCEL_H

#include "loop/task.h"

/* A scope that can have a deadline. */
typedef struct uns_timed_scope {
  uns_cancel_scope scope;
  uns_timer deadline;
  uns_link link; /* in runtime->idle_scopes, where it is pooled and nobody is in it */
} uns_timed_scope;

/* A scope outside of everything, not cancelled. */
void uns_cancel_scope_init(uns_cancel_scope *scope);
void uns_timed_scope_init(uns_timed_scope *timed);
/* That of a task itself, in its extra record. */
void uns_cancel_init_deadline(uns_timer *deadline);
/* Puts the running task into `scope`, with a deadline (of a timed one) or 0. UNS_OK, or UNS_ENOMEM and it is not in it. */
int uns_cancel_scope_enter(uns_runtime *runtime, uns_cancel_scope *scope, uint64_t deadline_ns);
/* Out of it again, and out of what was entered inside and never left. Harmless where it was left already. */
void uns_cancel_scope_leave(uns_runtime *runtime, uns_cancel_scope *scope);
/*
 * A scope for a protected call on the running task's own coroutine, which nobody can drop in the middle of it. Entered, or not,
 * it is given back by whoever took it; where the coroutine itself breaks, or the state ends, by the task. NULL without memory.
 */
uns_cancel_scope *uns_cancel_take_scope(uns_runtime *runtime);
void uns_cancel_give_scope(uns_runtime *runtime, uns_cancel_scope *scope);
/* Cancels it, and wakes its task from a wait that it reaches. */
void uns_cancel_scope_cancel(uns_runtime *runtime, uns_cancel_scope *scope);

/* The earliest deadline that reaches the running task, on uns_now_ns; 0: none. In a worker the call's is among them. */
uint64_t uns_cancel_deadline(const uns_runtime *runtime);

/*
 * Asks the work behind the future at `index` to stop, for the reason on top of L (popped; nil: none). True if it had not
 * settled. A promise is settled at once; where the work is another state's, that is asked. Loop thread.
 */
bool uns_cancel(uns_runtime *runtime, lua_State *L, int index);
/* A uns_cell_stop has come: another state, or another process, asks for the work behind a future of this one to be stopped. */
void uns_cancel_on_stop(uns_mail *mail, void *receiver);
/* The same for a task, a job or a combinator, without a reason; another state's only where nobody else wants that. False if it
   is none of them. */
bool uns_cancel_work(uns_runtime *runtime, uns_future *future);
/* The calls that this state has sent to workers and that have not come home yet. */
size_t uns_cancel_count_calls(uns_runtime *runtime);
/*
 * Asks all tasks and all of those calls to stop, but what somebody has started who stands in a shield: returns how many those
 * are, for whom it has to be called again.
 */
size_t uns_cancel_all(uns_runtime *runtime);
/* The deadline of the future's task, if it is one and still lives: from then on as above, and it fails with `timeout`. */
int uns_cancel_set_deadline(uns_runtime *runtime, uns_future *future, uint64_t deadline_ns);

/* The future on top of L, whose work nobody wants any more, is cancelled, if it has not settled. Raises nothing. */
void uns_cancel_end(uns_runtime *runtime, lua_State *L);

/* Whether somebody waits for the future, and not only keeps books about it, or may in another state, which has it. */
bool uns_cancel_is_awaited(const uns_future *future);

/* Replaces the reason on top of L by the error `cancelled`, which names `future`'s task. */
void uns_cancel_push_error(lua_State *L, const uns_future *future, const char *stopped_by);
/* Pushes the error of the task's scope, for `never ran` ("queue") or a wait ("await"). */
void uns_cancel_push_scope_error(uns_runtime *runtime, lua_State *L, uns_task *task, const uns_cancel_scope *scope,
                                 const char *stopped_by);
/* Raises `cancelled` in the running task, for the scope that reaches it. */
__attribute__((noreturn)) int uns_cancel_raise(uns_runtime *runtime, lua_State *L);
/* The same at the end of a block in which that was raised already: what stopped it there stays said. */
__attribute__((noreturn)) int uns_cancel_raise_again(uns_runtime *runtime, lua_State *L, const char *stopped_by);
/* What stopped the code here that the error at `index` has left: "hook", or "await". Static. */
const char *uns_cancel_stopped_by(lua_State *L, int index);

/*
 * Clean-up is spared: once `cancelled` has been raised in a task, no interrupt comes until somebody has caught it who stood
 * there before, and so goes on with the script. Whoever calls protected looks, before it does, whether it stands in clean-up.
 */
static inline bool uns_cancel_in_clean_up(const uns_runtime *runtime) {
  return runtime->unwinding > 0 && runtime->current != NULL && runtime->current->unwinding;
}
/* `cancelled` is about to be raised in `task`. */
void uns_cancel_unwind(uns_runtime *runtime, uns_task *task);
/* The task has ended. */
void uns_cancel_unwound(uns_runtime *runtime, uns_task *task);
/*
 * An error was caught on L, by a call that began in clean-up or not. What goes on though it was asked to stop is
 * interrupted: a worker's call at once, a task when its grace period is over, clean-up when it outlasts a second one.
 */
void uns_cancel_caught(uns_runtime *runtime, lua_State *L, bool in_clean_up);

/* Pushes the error `timeout` of a task or call named `name`, or of a block (NULL). */
void uns_cancel_push_timeout(lua_State *L, const char *name, const char *stopped_by);

#endif
