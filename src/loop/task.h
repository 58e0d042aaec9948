/*
 * task: a coroutine on the loop. Start, run, recycle in task.c, the program's only lua_resume of a script's task; park,
 * wake and await in wait.c.
 *
 * A task's coroutine holds, from the bottom: its future, then its body under a pcall, so that clean-up may wait.
 *   - Every park has a number, task->wait; a wake-up that carries an old one is dropped.
 *   - A parked task is in exactly one list (a future's waiters, the ready queue, a timer): `unpark` undoes it.
 *   - A wait yields with runtime->parking set. Our own coroutine.resume and wrap pass such a yield on to the task;
 *     so a user's generator never sees it.
 */
#ifndef UNS_TASK_H
#define UNS_TASK_H

#include "loop/future.h"

enum {
  UNS_TASK_BUDGET = 1000 /* waits on what is settled already, before others get their turn */
};

typedef enum { UNS_TASK_RUNNING, UNS_TASK_READY, UNS_TASK_PARKED, UNS_TASK_IDLE } uns_task_state;

/* LATE: nothing for the wait to raise, as it was given what it waited for; but what follows it is to be interrupted. */
typedef enum { UNS_INTERRUPT_NONE, UNS_INTERRUPT_LATE, UNS_INTERRUPT_ERROR, UNS_INTERRUPT_CANCEL } uns_interrupt;

/* Where a cancellation reaches: see loop/cancel.h. */
typedef struct uns_cancel_scope {
  struct uns_cancel_scope *outer;
  uns_task *task;      /* that stands in it; NULL: left */
  uns_timer *deadline; /* NULL: it cannot have one */
  bool cancelled, timed_out, shield;
  bool pooled; /* of uns_cancel_take_scope */
  int reason; /* pin of the reason given, or 0 */
  uint32_t cancelled_ms; /* when `cancelled` was set, modulo 2^32 */
} uns_cancel_scope;

/* What a task waits for, as it is told: uns_task_waits_for has the words. NOT: for nothing, it has only given up its turn. */
typedef enum {
  UNS_WAITS_NOT,
  UNS_WAITS_SLEEP,
  UNS_WAITS_FUTURE,
  UNS_WAITS_FIRST,
  UNS_WAITS_SELECT,
  UNS_WAITS_SCOPE,
  UNS_WAITS_ROOM,
  UNS_WAITS_ITEM,
  UNS_WAITS_PERMIT,
  UNS_WAITS_MUTEX,
  UNS_WAITS_EVENT,
  UNS_WAITS_BARRIER,
  UNS_WAITS_RATE,
  UNS_WAITS_TEST_CLOCK,
  UNS_WAITS_PROCESS,
  UNS_WAITS_PIPE,
  UNS_WAITS_PIPE_ROOM
} uns_waits;

enum { UNS_WHERE_BYTES = LUA_IDSIZE + 16 };

/* Where a task was started; kept for as long as the runtime lives. */
typedef struct uns_site {
  struct uns_site *next;
  int line;
  char source[LUA_IDSIZE];
} uns_site;

/* What a task that only sleeps can do without: made when it first waits for something else, or is in need of it otherwise. */
typedef struct uns_task_extra {
  uns_waiter waiter;        /* on the future it waits for */
  uns_future *awaited;      /* that future, or NULL: for deadlocks, for `where` */
  const uns_behind *behind; /* the futures that it waits for, where they are several; or NULL */
  struct uns_mutex *wanted; /* the mutex it waits for, or NULL: for deadlocks */
  uns_link mutexes;         /* those it holds: loop/gate.h */
  void (*leave)(uns_task *task,
                uns_runtime *runtime); /* called once, when it is woken: its wait is more than `waiter`; or NULL */
  void *wait_in;                       /* for `leave` */
  uns_timer deadline;                  /* of the task itself, in `base` */
  int await_index;                     /* where the future it awaits lies on the stack that awaits */
  int traceback;                       /* pin of the traceback taken where its error was raised, or 0 */
  int raised;                          /* pin of the failure that an await in it raised last (loop/failure.h), or 0 */
  uint64_t since_ns;                   /* of the main thread, which has no future: when it first waited */
  uint64_t grace_ns;                   /* how long it may go on when it was asked to stop; 0: the runtime's */
  struct {                             /* for runtime->recorder, and unused without one */
    const char *name;                  /* interned, or NULL */
    const char *waited_for;            /* what it has come to rest in; static */
    uint64_t called_ns, started_ns;    /* 0: it has not started */
    bool known;                        /* it has come to rest before */
  } record;
} uns_task_extra;

/* One for each task that runs, on the C stack: the one that resumed the other lies below. In runtime->frame. */
typedef struct uns_task_frame {
  uns_task *task, *outer; /* the one that runs, and the one that has resumed it, or NULL: the loop has */
  struct uns_task_frame *below;
  lua_State *starter; /* while its start is under way: who started it; or NULL */
} uns_task_frame;

struct uns_task {
  uns_timer timer; /* a deadline of the present wait. While it is ready, unarmed: then its link is in runtime->ready */
  uns_link live_link; /* in runtime->tasks, or ->idle */
  lua_State *co;
  uns_future *future;    /* on co's stack; NULL for the main thread */
  int anchor;            /* pin of the coroutine */
  int first_arguments;   /* -1: it has started */
  uint32_t wait;         /* number of the present or last wait */
  int interrupt_error;   /* pin of the error to raise */
  uint8_t state;         /* uns_task_state */
  uint8_t waits_for;     /* uns_waits */
  uint8_t interrupt;     /* uns_interrupt: what the wait it is woken from must raise */
  bool seen : 1;         /* the script holds its thread (coroutine.running): not recycled */
  bool is_main : 1;      /* the state's main thread: waits by turning the loop */
  bool marked : 1;       /* uns_task_wait_mark lies on top of its coroutine */
  bool held : 1;         /* queued behind its function's limit, in uns_function.held */
  bool unwinding : 1;    /* `cancelled` was raised in it and not caught since: what runs is clean-up (loop/cancel.h) */
  bool timed_out;        /* the wait ended by `timer` */
  bool listed;           /* in runtime->tasks */
  bool gave_way;         /* it is ready because it yielded: what is ready already runs first, shuffled or not */
  bool hopeful;          /* its wait counts in runtime->pending: somebody elsewhere may end it */
  uns_cancel_scope base; /* the task itself */
  uns_cancel_scope *scope;     /* the innermost */
  uns_task_extra *extra;       /* owned; NULL: not needed so far */
  const uns_site *spawned;     /* where it was started, once it has waited; NULL: not known */
  uint64_t id, parent_id;      /* 0: none */
  struct uns_group *group;     /* loop/group.h; one reference, or NULL: it stands in no scope */
  struct uns_context *context; /* loop/context.h; one reference, or NULL: nothing is set */
};

/* The task's extra record, made if it has none. NULL without memory. */
uns_task_extra *uns_task_make_extra(uns_task *task);
static inline uns_task_extra *uns_task_extra_of(uns_task *task) {
  return task->extra != NULL ? task->extra : uns_task_make_extra(task);
}

/* What it waits for, in words: "sleep", "a mutex". Static; NULL: for nothing. */
const char *uns_task_waits_for(const uns_task *task);

/* The future it waits for, or NULL. */
static inline uns_future *uns_task_awaited(const uns_task *task) {
  return task->extra != NULL ? task->extra->awaited : NULL;
}
static inline const uns_behind *uns_task_behind(const uns_task *task) {
  return task->extra != NULL ? task->extra->behind : NULL;
}
static inline struct uns_mutex *uns_task_wanted(const uns_task *task) {
  return task->extra != NULL ? task->extra->wanted : NULL;
}

/* When it first waited, on uns_now_ns; 0: it has not. */
static inline uint64_t uns_task_since_ns(const uns_task *task) {
  return task->future != NULL ? task->future->since_ns : task->extra->since_ns;
}

/* The cancelled scope that reaches where `task` stands, or NULL. */
static inline uns_cancel_scope *uns_cancel_reaching(const uns_task *task) {
  for (uns_cancel_scope *scope = task->scope; scope != NULL; scope = scope->outer) {
    if (scope->cancelled) return scope;
    if (scope->shield) return NULL;
  }
  return NULL;
}

/*
 * Starts a task at once, on its own coroutine, and pushes its future on L. The function and its `count` arguments lie
 * on top and are popped. Where too many starts nest, it is queued. Raises without memory.
 */
uns_future *uns_task_start(uns_runtime *runtime, lua_State *L, int count, const char *name);

/*
 * The same with the function above its arguments, as the calls that matter have it. With `hold` it does not start until
 * uns_task_release or uns_task_begin; a cancelled one is released by that.
 */
uns_future *uns_task_call(uns_runtime *runtime, lua_State *L, int count, const char *name, bool hold);
/* Starts one that was held, at its caller's: its future is on top. May raise, as a start does, when it runs already. */
void uns_task_begin(uns_runtime *runtime, lua_State *L, uns_task *task);

/*
 * Suspends the running task until uns_task_wake. To be returned from a C function:
 *     return uns_task_park(runtime, L, context, k);
 * `k` then runs with the stack as it was left. Before it, the caller has put the task where it will be woken from
 * and has called uns_task_check_can_wait. On the state's main thread it turns the loop until it is woken.
 */
static inline int uns_task_park(uns_runtime *runtime, lua_State *L, lua_KContext context, lua_KFunction k);

/*
 * The task that L may suspend: its own, with its extra record. Raises `unyieldable`, naming the C function in the way, where
 * it cannot; call it before anything is put anywhere.
 */
static inline uns_task *uns_task_check_can_wait(uns_runtime *runtime, lua_State *L);
/* The same for a wait that is for time alone: without the extra record. */
static inline uns_task *uns_task_check_can_pause(uns_runtime *runtime, lua_State *L);
/* The same for all that is not the rule. */
uns_task *uns_task_check_can_wait_slowly(uns_runtime *runtime, lua_State *L);
uns_task *uns_task_check_can_pause_slowly(uns_runtime *runtime, lua_State *L);

/* Its wait is over: it leaves what it waited in. loop/task.c's, and uns_task_wake's. */
void uns_task_leave_wait(uns_runtime *runtime, uns_task *task);

/* The wait that the task begins may be ended by another state. */
static inline void uns_task_hope(uns_runtime *runtime, uns_task *task) {
  if (task->hopeful) return;
  task->hopeful = true;
  uns_runtime_ask(runtime);
}

/* Makes a parked task ready; it leaves whatever it waited in. Harmless on one that is ready already. */
void uns_task_wake(uns_runtime *runtime, uns_task *task);

/* First thing in every continuation of a wait: raises what the task was woken for, if it was not what it waited for. */
static inline void uns_task_check_interrupt(uns_runtime *runtime, lua_State *L);
void uns_task_raise_interrupt(uns_runtime *runtime, lua_State *L);

/*
 * Nothing can happen any more: wakes, with the error `deadlock`, the youngest task whose wait has no task behind it, or
 * in a cycle the youngest. False if no task waits.
 */
bool uns_task_raise_deadlock(uns_runtime *runtime);

/* Wakes `task` to raise the error on top of the runtime's main stack, which is popped; one that is ready raises it too. */
void uns_task_interrupt(uns_runtime *runtime, uns_task *task);
/* Wakes the youngest waiting task to raise an error of the code `limit`, its message with `count` in it. Raises nothing. */
void uns_task_limit_youngest(uns_runtime *runtime, const char *format, int count);

/* Pushes the error with which it was interrupted, and keeps it no longer. */
void uns_task_take_interrupt_error(uns_runtime *runtime, lua_State *L, const uns_task *task);
/* Makes the task that stands for the state's main thread, where the host does not run scripts as tasks. */
int uns_task_adopt_main(uns_runtime *runtime);
/* On that thread: turns the loop until all that was started has ended. */
void uns_task_finish_on_main(uns_runtime *runtime);

/* A task that was held goes into the ready queue. */
void uns_task_release(uns_runtime *runtime, uns_task *task);

/* For the next one, once the budget is spent: false if the task cannot let others run just here. It has its extra record then. */
bool uns_task_end_turn(uns_runtime *runtime, lua_State *L);
/*
 * After a call that did not have to wait: true if this task has had more than its share of such calls. It is in the ready
 * queue then, and must return uns_task_park, whose continuation has to undo the call if it is interrupted.
 */
static inline bool uns_task_turn_is_over(uns_runtime *runtime, lua_State *L) {
  return --runtime->budget <= 0 && uns_task_end_turn(runtime, L);
}

/* Puts the running task (about to park) at the end of the ready queue. */
static inline void uns_task_ready(uns_runtime *runtime, uns_task *task);
/* Notes where the task is being started: the first line of Lua below on `starter` that is not ours. */
void uns_task_note_site(uns_runtime *runtime, uns_task *task, lua_State *starter);
/* Who starts the task, while that is under way and it is on top; else NULL. */
static inline lua_State *uns_task_starter(const uns_runtime *runtime, const uns_task *task) {
  return runtime->frame != NULL && runtime->frame->task == task ? runtime->frame->starter : NULL;
}
/* Enters a task that waits for the first time in runtime->tasks. */
void uns_task_list(uns_runtime *runtime, uns_task *task);

/*
 * Runs the tasks that are ready now, once each, in order; then, for a short while and if there is no news, those that have
 * become ready meanwhile, likewise. True if there were any.
 */
bool uns_tasks_run(uns_runtime *runtime);

/*
 * Awaits the future at `index` of L: to be returned from a C function. `deadline_ns` 0: none. Results are returned, the
 * error raised; `timeout` where the deadline came first.
 */
int uns_task_await(uns_runtime *runtime, lua_State *L, int index, uint64_t deadline_ns);

/*
 * Parks the running task until the future at `index`, which has not settled, has: to be returned from a C function. `k`
 * then has to call uns_task_check_interrupt. Raises where it cannot wait, or for its own future.
 */
int uns_task_wait_for(uns_runtime *runtime, lua_State *L, int index, lua_KContext context, lua_KFunction k);

/* Yields L on behalf of a wait inside a coroutine that it resumed, or, on the main thread, turns the loop. */
static inline int uns_task_pass_on(uns_runtime *runtime, lua_State *L, lua_KContext context, lua_KFunction k);
/* On the state's main thread: turns the loop until `task` is woken. */
void uns_task_wait_on_main(uns_runtime *runtime, uns_task *task);

/*
 * True if `co` stands in a wait: its next resume is the scheduler's, for everybody else it is `normal`. Such a thread has
 * this mark on top of its stack, which goes with the resume.
 */
extern const char uns_task_wait_mark;
static inline bool uns_task_waits(lua_State *co) {
  return lua_gettop(co) > 0 && lua_status(co) == LUA_YIELD && lua_touserdata(co, -1) == &uns_task_wait_mark;
}

/*
 * In a worker, `co` is what runs from now on: the signal that stops the call may have come just before, when it could
 * interrupt nobody, or only who runs no more. Whoever has been told already is not told again: clean-up is spared.
 */
void uns_task_look_for_stop(uns_runtime *runtime, lua_State *co);

/*
 * lua_resume of a coroutine that a script made, on behalf of L: keeps track of which thread runs. Returns as lua_resume;
 * LUA_YIELD with runtime->parking set is a wait: the caller must itself yield (uns_task_pass_on), then pop the mark
 * from the stack of `co` and resume it again with no values.
 *
 * Inline: a frame between a yield and the code that has resumed costs a mispredicted return, a tenth of a switch.
 */
static inline int uns_task_resume_user(uns_runtime *runtime, lua_State *L, lua_State *co, int count,
                                       int *result_count) {
  lua_State *outer = runtime->running;
  /* A wait in `co` comes back through L; where that cannot be, nothing inside may wait. */
  runtime->running = outer == L && (lua_isyieldable(L) || L == runtime->L) ? co : NULL;
  bool in_worker = __builtin_expect(runtime->job != NULL, 0);
  if (in_worker) uns_task_look_for_stop(runtime, co);
  int status = lua_resume(co, L, count, result_count);
  runtime->running = outer;
  if (in_worker) uns_task_look_for_stop(runtime, L);
  return status;
}

/* True for the C function in which a task's body is called: an error raised in its own frame is not the body's. */
bool uns_task_is_base(lua_CFunction function);

/* Pushes the future of a live task, or nil for the main thread. */
void uns_task_push_future(lua_State *L, uns_task *task);
/* Enters the tasks that run now, the one that resumed the other, in runtime->tasks. */
void uns_task_list_running(uns_runtime *runtime);

/*
 * "file:line" of where the task waits or runs; where that is in our own modules alone, or nowhere yet, of where it was started.
 * False: not known. Its own thread, or while its state stands still.
 */
bool uns_task_where(const uns_task *task, char where[UNS_WHERE_BYTES]);
/* The line at which any thread of Lua stands; false: nowhere in Lua. */
bool uns_where(lua_State *L, char where[UNS_WHERE_BYTES]);
/* Pushes it, or nil. */
void uns_task_push_where(lua_State *L, uns_task *task);

/* ---- what every wait goes through ---- */

static inline void uns_task_ready(uns_runtime *runtime, uns_task *task) {
  if (!task->listed) uns_task_list(runtime, task);
  task->state = UNS_TASK_READY;
  uns_runtime_stir(runtime);
  uns_list_push_back(&runtime->ready, &task->timer.link);
}

static inline int uns_task_pass_on(uns_runtime *runtime, lua_State *L, lua_KContext context, lua_KFunction k) {
  uns_task *task = runtime->current;
  if (task->is_main && L == runtime->L) {
    runtime->parking = false;
    uns_task_wait_on_main(runtime, task);
    return k(L, LUA_YIELD, context);
  }
  runtime->parking = true;
  if (L == task->co) task->marked = true;
  lua_pushlightuserdata(L, (void *)&uns_task_wait_mark);
  return lua_yieldk(L, 1, context, k);
}

static inline int uns_task_park(uns_runtime *runtime, lua_State *L, lua_KContext context, lua_KFunction k) {
  uns_task *task = runtime->current;
  if (task->state == UNS_TASK_RUNNING) {
    task->state = UNS_TASK_PARKED;
    if (!task->listed) uns_task_list(runtime, task);
  }
  return uns_task_pass_on(runtime, L, context, k);
}

static inline uns_task *uns_task_check_can_wait(uns_runtime *runtime, lua_State *L) {
  uns_task *task = runtime->current;
  if (task != NULL && task->extra != NULL && L == runtime->running && uns_cancel_reaching(task) == NULL &&
      lua_isyieldable(L)) {
    return task;
  }
  return uns_task_check_can_wait_slowly(runtime, L);
}

/* Whether the wait that the task is woken from must raise. */
static inline bool uns_task_is_interrupted(const uns_task *task) { return task->interrupt > UNS_INTERRUPT_LATE; }

static inline uns_task *uns_task_check_can_pause(uns_runtime *runtime, lua_State *L) {
  uns_task *task = runtime->current;
  if (task != NULL && L == runtime->running && uns_cancel_reaching(task) == NULL && lua_isyieldable(L)) return task;
  return uns_task_check_can_pause_slowly(runtime, L);
}

static inline void uns_task_check_interrupt(uns_runtime *runtime, lua_State *L) {
  if (runtime->current->interrupt != UNS_INTERRUPT_NONE) uns_task_raise_interrupt(runtime, L);
}

#endif
