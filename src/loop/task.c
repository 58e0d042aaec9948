#include "loop/task.h"

#include <assert.h>
#include <lauxlib.h>
#include <stdio.h>
#include <string.h>

#include "core/error.h"
#include "core/packet.h"
#include "core/recorder.h"
#include "loop/cancel.h"
#include "loop/channel.h"
#include "loop/context.h"
#include "loop/failure.h"
#include "loop/gate.h"
#include "loop/group.h"

enum {
  NESTED_STARTS_MAX = 16, /* each takes 2 to 5 of Lua's 200 C levels */
  IDLE_MAX = 1024,        /* coroutines kept for the next tasks: about 1 KB each */
  ARGUMENTS_FREE = 8,     /* that fit into the stack of any coroutine, with its slots: LUA_MINSTACK is 20 */
  COROUTINE_BYTES = 1120, /* what one costs the collector: a thread, its stack, three calls */
  ACCOUNT_BATCH_BYTES = 64 * 1024,
  ROUNDS_NS = 50000, /* how long a turn goes on with tasks that have become ready in it */
  STRIDE_MAX = 64    /* tasks resumed between two looks at the clock */
};

/* Slots of a task's coroutine, under its body. */
enum { SLOT_FUTURE = 1, SLOT_HANDLER, SLOT_BODY };

/* ---- what is recorded of it, where somebody wants to know ---- */

#define COLD __attribute__((noinline, cold)) /* out of the way of those who do not pay for it */

/* name_place(runtime, function) -> the place in the source where the function is written, interned, as a light userdata */
static int name_place(lua_State *L) {
  lua_Debug where;
  lua_pushvalue(L, 2);
  lua_getinfo(L, ">S", &where);
  lua_pushfstring(L, "%s:%d", where.short_src, where.linedefined);
  lua_pushlightuserdata(L, (void *)uns_runtime_intern(lua_touserdata(L, 1), L, lua_tostring(L, -1)));
  return 1;
}

/* Its future's name; else the place in the source where its function is written; NULL without memory. */
static const char *record_name(uns_runtime *runtime, uns_task *task) {
  lua_State *co = task->co;
  if (task->future->name != NULL) return task->future->name;
  if (!lua_checkstack(co, LUA_MINSTACK)) return NULL;
  lua_pushcfunction(co, name_place);
  lua_pushlightuserdata(co, runtime);
  lua_pushvalue(co, SLOT_BODY + 1); /* run_body itself lies under the slots */
  const char *name = lua_pcall(co, 2, 1, 0) == LUA_OK ? lua_touserdata(co, -1) : NULL;
  lua_pop(co, 1);
  return name;
}

COLD static void record_call(uns_runtime *runtime, uns_task *task) {
  if (uns_task_extra_of(task) == NULL) return; /* without memory it is not in the record */
  task->extra->record.name = record_name(runtime, task);
  task->extra->record.waited_for = NULL;
  task->extra->record.called_ns = uns_clock_ns();
  task->extra->record.started_ns = 0;
  task->extra->record.known = false;
}

/* The task's number, of which each state has its own. */
static uint64_t record_id(const uns_runtime *runtime, const uns_task *task) {
  return (uint64_t)runtime->track << 32 | (uint32_t)task->id;
}

COLD static void record_run(uns_runtime *runtime, uns_task *task) {
  if (uns_task_extra_of(task) == NULL) return;
  if (task->extra->record.started_ns == 0) task->extra->record.started_ns = uns_clock_ns();
  uns_recorder_task_runs(runtime->recorder, runtime->track, record_id(runtime, task), task->extra->record.name,
                         task->extra->record.waited_for);
}

/* It has parked, or ended. */
COLD static void record_rest(uns_runtime *runtime, uns_task *task, bool ended) {
  if (uns_task_extra_of(task) == NULL) return;
  const char *waits_for = ended ? NULL : task->waits_for != UNS_WAITS_NOT ? uns_task_waits_for(task) : "its turn";
  uns_recorder_task_rests(runtime->recorder, runtime->track, record_id(runtime, task), task->extra->record.name,
                          task->extra->record.known, waits_for);
  task->extra->record.waited_for = waits_for;
  task->extra->record.known = true;
}

COLD static void record_end(uns_runtime *runtime, const uns_task *task) {
  if (task->extra == NULL) return;
  if (task->parent_id == 0 && runtime->callback_of == NULL)
    return; /* the script itself, or a call that a worker runs */
  uns_call_end end = task->future->state == UNS_FUTURE_DONE        ? UNS_CALL_DONE
                     : task->future->state == UNS_FUTURE_CANCELLED ? UNS_CALL_CANCELLED
                                                                   : UNS_CALL_FAILED;
  uns_recorder_task_ended(runtime->recorder, task->extra->record.name, end, task->extra->record.called_ns,
                          task->extra->record.started_ns);
}

/* ---- the body ---- */

static void forget_pin(uns_runtime *runtime, int *pin) {
  if (*pin != 0) uns_runtime_unpin(runtime, *pin);
  *pin = 0;
}

static inline void forget_errors(uns_runtime *runtime, uns_task *task) {
  if (task->extra == NULL) return;
  forget_pin(runtime, &task->extra->traceback); /* of an error that C caught inside, as load does with its reader's */
  forget_pin(runtime, &task->extra->raised);
}

/* Message handler at the base of a task: keeps the traceback for the future; the error itself stays as it is. */
static int keep_traceback(lua_State *L) {
  uns_runtime *runtime = uns_runtime_of(L);
  uns_task *task = runtime != NULL ? runtime->current : NULL;
  if (task == NULL || uns_task_extra_of(task) == NULL) return 1; /* without memory there is none */
  uns_failure_push_traceback(runtime, L);
  forget_pin(runtime, &task->extra->traceback);
  task->extra->traceback = uns_runtime_pin(runtime, L);
  return 1;
}

/* A failure says where the call was made. */
static void keep_site(uns_runtime *runtime, lua_State *co, uns_task *task) {
  lua_State *starter = uns_task_starter(runtime, task);
  if (task->spawned != NULL) {
    luaL_checkstack(co, 6, NULL);
    lua_pushfstring(co, "%s:%d", task->spawned->source, task->spawned->line);
    task->future->site = uns_runtime_intern(runtime, co, lua_tostring(co, -1));
    lua_pop(co, 1);
  } else if (starter != NULL) {
    task->future->site = uns_runtime_site(runtime, starter);
  }
}

/* The body raised, or has left mutexes locked, or its future has settled before: settles it with that. */
static __attribute__((noinline)) void settle_otherwise(uns_runtime *runtime, lua_State *co, bool fine, bool locked,
                                                       uns_task *task) {
  if (locked) {
    if (fine) uns_mutex_push_held(co, task);
    uns_mutex_abandon(runtime, task);
    if (fine) {
      lua_pushnil(co);
      uns_future_fail(runtime, co, SLOT_FUTURE, UNS_FUTURE_FAILED);
      return;
    }
  }
  if (fine) {
    uns_future_resolve(runtime, co, SLOT_FUTURE, lua_gettop(co) - SLOT_BODY + 1);
    return;
  }
  if (task->extra != NULL && task->extra->traceback != 0) {
    uns_runtime_push_pin(runtime, co, task->extra->traceback);
    forget_pin(runtime, &task->extra->traceback);
  } else {
    lua_pushnil(co);
  }
  bool cancelled = task->base.cancelled && uns_error_is(co, -2, "cancelled");
  if (cancelled && task->base.timed_out) { /* its own deadline: the outcome is a timeout */
    uns_cancel_push_timeout(co, task->future->name, uns_cancel_stopped_by(co, -2));
    lua_replace(co, -3);
    cancelled = false;
  }
  keep_site(runtime, co, task);
  uns_future_fail(runtime, co, SLOT_FUTURE, cancelled ? UNS_FUTURE_CANCELLED : UNS_FUTURE_FAILED);
}

/* The body has ended: settles the future with its outcome, which lies from SLOT_BODY up. */
static inline int settle_body(uns_runtime *runtime, lua_State *co, int status, uns_task *task) {
  uns_future *future = task->future;
  future->task = NULL;
  bool fine = status == LUA_OK || status == LUA_YIELD;
  bool locked = task->extra != NULL && !uns_list_empty(&task->extra->mutexes);
  if (fine && !locked && !uns_future_settled(future)) { /* the way that matters */
    uns_future_resolve_pending(runtime, co, SLOT_FUTURE, future, lua_gettop(co) - SLOT_BODY + 1);
  } else {
    settle_otherwise(runtime, co, fine, locked, task);
  }
  if (runtime->recorder != NULL) record_end(runtime, task);
  return 0;
}

/* It ended after it had waited. */
static int end_body(lua_State *co, int status, lua_KContext context) {
  return settle_body(uns_runtime_of(co), co, status, (uns_task *)context);
}

/* It was cancelled while it stood in line. */
static int never_run(uns_runtime *runtime, lua_State *co, uns_task *task) {
  bool timed_out = task->base.timed_out;
  if (timed_out) uns_cancel_push_timeout(co, task->future->name, "queue");
  else uns_cancel_push_scope_error(runtime, co, task, &task->base, "queue");
  lua_pushnil(co);
  uns_future_fail(runtime, co, SLOT_FUTURE, timed_out ? UNS_FUTURE_FAILED : UNS_FUTURE_CANCELLED);
  if (runtime->recorder != NULL) {
    if (task->extra != NULL) task->extra->record.started_ns = 0;
    record_end(runtime, task);
  }
  return 0;
}

static int run_body(lua_State *co) {
  uns_runtime *runtime = uns_runtime_of(co);
  uns_task *task = runtime->current; /* whose coroutine has just been resumed for the first time */
  if (task->base.cancelled) return never_run(runtime, co, task);
  int count = lua_gettop(co) - SLOT_BODY;
  int status = lua_pcallk(co, count, LUA_MULTRET, SLOT_HANDLER, (lua_KContext)task, end_body);
  return settle_body(runtime, co, status, task);
}

bool uns_task_is_base(lua_CFunction function) { return function == run_body; }

const char *uns_task_waits_for(const uns_task *task) {
  static const char *const words[] = {
      [UNS_WAITS_NOT] = NULL,
      [UNS_WAITS_SLEEP] = "sleep",
      [UNS_WAITS_FUTURE] = "future",
      [UNS_WAITS_FIRST] = "the first of several futures",
      [UNS_WAITS_SELECT] = "a select",
      [UNS_WAITS_SCOPE] = "the end of its scope",
      [UNS_WAITS_ROOM] = "room in a channel",
      [UNS_WAITS_ITEM] = "an item from a channel",
      [UNS_WAITS_PERMIT] = "a permit",
      [UNS_WAITS_MUTEX] = "a mutex",
      [UNS_WAITS_EVENT] = "an event",
      [UNS_WAITS_BARRIER] = "the others at a barrier",
      [UNS_WAITS_RATE] = "its turn at a rate limit",
      [UNS_WAITS_TEST_CLOCK] = "the test clock",
      [UNS_WAITS_PROCESS] = "process",
      [UNS_WAITS_PIPE] = "what a command writes",
      [UNS_WAITS_PIPE_ROOM] = "a command to read",
  };
  return words[task->waits_for];
}

/* ---- the records ---- */

static void on_deadline(uns_timer *timer, uns_runtime *runtime) {
  uns_task *task = uns_container_of(timer, uns_task, timer);
  task->timed_out = true;
  uns_task_wake(runtime, task);
}

static void on_settled(uns_waiter *waiter, uns_runtime *runtime, uns_future *future) {
  (void)future;
  uns_task_wake(runtime, waiter->task);
}

/*
 * A coroutine that a task holds is no garbage, and no more is the future of one that waits (uns_task_list). If their memory
 * counted as any other's, a burst of new tasks would make the collector look at all of them again with each fifth that is
 * added; so it is taken off the collector's account, and put on it when they are let go. In batches, each call costs.
 */
static void account(uns_runtime *runtime, lua_State *L, int size_bytes) {
  runtime->unaccounted_bytes += size_bytes;
  if (runtime->unaccounted_bytes > -ACCOUNT_BATCH_BYTES && runtime->unaccounted_bytes < ACCOUNT_BATCH_BYTES) return;
  int size_kib = runtime->unaccounted_bytes / 1024;
  runtime->unaccounted_bytes %= 1024;
  if (size_kib < 0 || lua_gc(L, LUA_GCISRUNNING) > 0) lua_gc(L, LUA_GCSTEP, size_kib);
}

/* Records lie beside the coroutines they belong to, in memory of the state's own. Zeroed; NULL without memory. */
static void *take_record(const uns_runtime *runtime, size_t size_bytes) {
  void *self;
  lua_Alloc allocate = lua_getallocf(runtime->L, &self);
  void *record = allocate(self, NULL, 0, size_bytes);
  return record != NULL ? memset(record, 0, size_bytes) : NULL;
}

static void give_record(const uns_runtime *runtime, void *record, size_t size_bytes) {
  void *self;
  lua_Alloc allocate = lua_getallocf(runtime->L, &self);
  if (record != NULL) allocate(self, record, size_bytes, 0);
}

static uns_task *task_new(uns_runtime *runtime, lua_State *co) {
  uns_task *task = take_record(runtime, sizeof *task);
  if (task == NULL) return NULL;
  task->co = co;
  task->state = UNS_TASK_IDLE;
  uns_list_init(&task->live_link);
  uns_timer_init(&task->timer, on_deadline);
  uns_cancel_scope_init(&task->base);
  task->base.task = task;
  task->scope = &task->base;
  return task;
}

uns_task_extra *uns_task_make_extra(uns_task *task) {
  uns_task_extra *extra = take_record(uns_runtime_of(task->co), sizeof *extra);
  if (extra == NULL) return NULL;
  uns_list_init(&extra->waiter.link);
  uns_list_init(&extra->mutexes);
  extra->waiter.wake = on_settled;
  extra->waiter.quiet = true;
  extra->waiter.task = task;
  uns_cancel_init_deadline(&extra->deadline);
  task->base.deadline = &extra->deadline;
  return task->extra = extra;
}

/* A task with a clean coroutine: a recycled one, or new. Raises without memory. */
static uns_task *task_take(uns_runtime *runtime, lua_State *L) {
  uns_link *link = uns_list_pop_front(&runtime->idle);
  if (link != NULL) {
    runtime->idle_count--;
    return uns_container_of(link, uns_task, live_link);
  }
  luaL_checkstack(L, 4, NULL);
  lua_State *co = lua_newthread(L);
  int anchor = uns_runtime_pin(runtime, L);
  uns_task *task = task_new(runtime, co);
  if (task == NULL) {
    uns_runtime_unpin(runtime, anchor);
    luaL_error(L, "not enough memory");
    return NULL;
  }
  task->anchor = anchor;
  account(runtime, L, -COROUTINE_BYTES);
  return task;
}

/* Nothing of one task's cancellation is left to the next. */
static inline void reset_base(uns_runtime *runtime, uns_task *task) {
  uns_cancel_scope *base = &task->base;
  if (base->deadline != NULL && uns_timer_armed(base->deadline)) uns_timer_disarm(runtime, base->deadline);
  if (base->reason != 0) uns_runtime_unpin(runtime, base->reason);
  base->reason = 0;
  base->cancelled = base->timed_out = false;
  if (task->unwinding) uns_cancel_unwound(runtime, task);
  task->scope = base;
}

static void task_free(uns_runtime *runtime, uns_task *task) {
  uns_task_leave_wait(runtime, task);
  uns_task_extra *extra = task->extra;
  if (extra != NULL && extra->waiter.elsewhere != NULL) uns_channel_return(runtime, runtime->L, 0, &extra->waiter);
  if (extra != NULL && !uns_list_empty(&extra->mutexes)) uns_mutex_abandon(runtime, task);
  /* Where the state ends in the middle of it, its scopes are finalized later, but those that nobody else knows of. */
  for (uns_cancel_scope *scope = task->scope, *outer; scope != NULL && scope != &task->base; scope = outer) {
    outer = scope->outer;
    scope->task = NULL;
    if (scope->shield) runtime->shields--;
    if (!scope->pooled) continue;
    if (uns_timer_armed(scope->deadline)) uns_timer_disarm(runtime, scope->deadline);
    uns_cancel_give_scope(runtime, scope);
  }
  reset_base(runtime, task);
  uns_list_remove(&task->live_link);
  if (task->state == UNS_TASK_READY) uns_list_remove(&task->timer.link);
  else uns_timer_disarm(runtime, &task->timer);
  forget_errors(runtime, task);
  uns_context_unref(runtime, task->context);
  uns_group_unref(task->group);
  if (!task->is_main) {
    uns_runtime_unpin(runtime, task->anchor);
    if (!runtime->closing) account(runtime, runtime->L, COROUTINE_BYTES);
  }
  give_record(runtime, extra, sizeof *extra);
  give_record(runtime, task, sizeof *task);
}

static void unlist(uns_runtime *runtime, uns_task *task) {
  task->listed = false;
  uns_list_remove(&task->live_link);
  runtime->live_count--;
  runtime->unaccounted_bytes += UNS_FUTURE_BYTES;
}

/* Its coroutine has ended well: kept for the next, unless the script has seen it and may still look at it. */
static inline void task_recycle(uns_runtime *runtime, uns_task *task) {
  if (task->listed) unlist(runtime, task);
  forget_errors(runtime, task);
  task->future = NULL;
  reset_base(runtime, task);
  if (task->context != NULL) {
    uns_context_unref(runtime, task->context);
    task->context = NULL;
  }
  if (task->group != NULL) {
    uns_group_unref(task->group);
    task->group = NULL;
  }
  if (task->seen || runtime->idle_count >= IDLE_MAX) {
    task_free(runtime, task);
    return;
  }
  task->state = UNS_TASK_IDLE;
  uns_list_push_front(&runtime->idle, &task->live_link);
  runtime->idle_count++;
}

void uns_tasks_deinit(uns_runtime *runtime) {
  uns_link *link;
  if (runtime->main != NULL) task_free(runtime, runtime->main); /* it may be among those that follow */
  runtime->main = NULL;
  while ((link = uns_list_pop_front(&runtime->tasks)) != NULL) {
    task_free(runtime, uns_container_of(link, uns_task, live_link));
  }
  while ((link = uns_list_pop_front(&runtime->idle)) != NULL) {
    task_free(runtime, uns_container_of(link, uns_task, live_link));
  }
}

/* ---- running ---- */

/* Something that knows no tasks yielded at the base: there is no one to hand it to. It only gives up its turn. */
static void foreign_yield(uns_runtime *runtime, uns_task *task, int count) {
  lua_pop(task->co, count);
  uns_task_ready(runtime, task);
}

/*
 * The coroutine itself broke (no memory, no C stack): the pcall at its base is gone. Its future and the error lie on top of L;
 * the error is popped. Raises nothing, for others are on their way in this round; L has room, as it is at a call's beginning.
 */
static void broken(uns_runtime *runtime, lua_State *L, uns_task *task) {
  assert(task->future != NULL); /* it has not ended */
  lua_resetthread(task->co);    /* runs the pending clean-up, where it cannot wait */
  task->future->task = NULL;
  uns_future_fail_safely(runtime, L, lua_gettop(L) - 1, UNS_FUTURE_FAILED);
  if (task->listed) unlist(runtime, task);
  task_free(runtime, task);
}

/* The outermost frame of `co`; false: there is none. Each look costs its depth, so it is searched for by halves. */
static bool outermost_frame(lua_State *co, lua_Debug *frame) {
  int low = 0, high = 1; /* `low` exists, `high` does not */
  if (!lua_getstack(co, 0, frame)) return false;
  for (; lua_getstack(co, high, frame); high *= 2) low = high;
  while (low + 1 < high) {
    int middle = low + (high - low) / 2;
    if (lua_getstack(co, middle, frame)) low = middle;
    else high = middle;
  }
  return lua_getstack(co, low, frame);
}

/* It is a value in the frame of run_body, the outermost. The coroutine has a free slot. */
static void push_future(lua_State *L, uns_task *task) {
  lua_State *co = task->co;
  lua_Debug frame;
  if (!outermost_frame(co,
                       &frame)) { /* it has not begun, or there was no memory for that: run_body lies under its slots */
    lua_pushvalue(co, SLOT_FUTURE + 1);
  } else if (lua_getlocal(co, &frame, SLOT_FUTURE) == NULL) {
    lua_pushnil(co);
  }
  if (co != L) lua_xmove(co, L, 1);
}

void uns_task_push_future(lua_State *L, uns_task *task) {
  luaL_checkstack(L, 2, NULL);
  if (task->is_main || !lua_checkstack(task->co, 1)) lua_pushnil(L);
  else push_future(L, task);
}

void uns_task_look_for_stop(uns_runtime *runtime, lua_State *co) {
  atomic_signal_fence(memory_order_seq_cst); /* the handler, on this thread, reads what was written above */
  if (!runtime->job_told && runtime->caught != NULL) runtime->caught(runtime, co);
}

/*
 * Resumes `task` from L, with what lies on its stack. It ends, or parks; false: it broke. Inline: a frame between a yield and
 * the code that has resumed costs a mispredicted return.
 */
static inline __attribute__((always_inline)) bool run(uns_runtime *runtime, lua_State *L, uns_task *task, int count,
                                                      lua_State *starter) {
  uns_task *outer = runtime->current;
  lua_State *outer_thread = runtime->running;
  runtime->current = task;
  runtime->running = task->co;
  uns_task_frame frame = {.task = task, .outer = outer, .below = runtime->frame, .starter = starter};
  runtime->frame = &frame;
  task->state = UNS_TASK_RUNNING;
  if (task->marked) lua_pop(task->co, 1); /* the mark of its wait */
  task->marked = false;
  int results;
  if (runtime->recorder != NULL) record_run(runtime, task);
  if (__builtin_expect(runtime->job != NULL, 0)) uns_task_look_for_stop(runtime, task->co);
  int status = lua_resume(task->co, L, count, &results);
  if (runtime->recorder != NULL) record_rest(runtime, task, status != LUA_YIELD);
  runtime->current = outer;
  runtime->running = outer_thread;
  if (status == LUA_YIELD) {
    if (runtime->parking) runtime->parking = false;
    else foreign_yield(runtime, task, results);
  }
  runtime->frame = frame.below; /* from here on the starter's stack moves on */
  if (status != LUA_OK) return status == LUA_YIELD;
  task_recycle(runtime, task);
  return true;
}

/* The hook of L follows into its new task. */
static void follow_hook(uns_runtime *runtime, lua_State *L, lua_State *co) {
  if (runtime->inherit_hook != NULL) runtime->inherit_hook(L, co);
}

/* Runs the new task, whose future is on top of L, until it first waits. */
static inline __attribute__((always_inline)) void begin(uns_runtime *runtime, lua_State *L, uns_task *task, int count) {
  const uns_task *parent = runtime->current;
  task->first_arguments = -1;
  runtime->nested_starts++;
  if (!run(runtime, L, task, count, L)) {
    lua_xmove(task->co, L, 1);
    broken(runtime, L, task);
  }
  runtime->nested_starts--;
  /* An interrupt may have ended it: it is meant for us too. */
  if (runtime->caught != NULL || (parent != NULL && (parent->unwinding || parent->base.cancelled))) {
    uns_cancel_caught(runtime, L, uns_cancel_in_clean_up(runtime));
  }
}

uns_future *uns_task_start(uns_runtime *runtime, lua_State *L, int count, const char *name) {
  lua_rotate(L, -count - 1, -1);
  return uns_task_call(runtime, L, count, name, false);
}

uns_future *uns_task_call(uns_runtime *runtime, lua_State *L, int count, const char *name, bool hold) {
  if (runtime->closing) uns_error_raise(L, "closed", "closed: the state is ending, no task can start");
  uns_future *future = uns_future_push(runtime, L, UNS_KIND_IO, name); /* on L, which can raise */
  uns_task *task = task_take(runtime, L);
  lua_State *co = task->co;
  if (count > ARGUMENTS_FREE && !lua_checkstack(co, count + SLOT_BODY + 2)) {
    task_recycle(runtime, task);
    luaL_error(L, "not enough memory for %d arguments", count);
  }
  lua_pushcfunction(co, run_body);
  lua_xmove(L, co, 1);
  lua_pushcfunction(co, keep_traceback);
  lua_xmove(L, co, 1);
  if (count > 0) lua_xmove(L, co, count);
  lua_pushvalue(co, SLOT_FUTURE + 1); /* run_body itself still lies under the slots */
  lua_xmove(co, L, 1);
  task->future = future;
  future->task = task;
  future->state = UNS_FUTURE_RUNNING;
  task->id = ++runtime->last_task_id;
  const uns_task *parent = runtime->current;
  task->parent_id = parent != NULL ? parent->id : 0;
  if (parent != NULL && parent->context != NULL) task->context = uns_context_ref(parent->context);
  uns_group *group = parent != NULL ? parent->group : runtime->root;
  if (group != NULL) task->group = uns_group_ref(group);
  task->interrupt = UNS_INTERRUPT_NONE;
  if (runtime->recorder != NULL) record_call(runtime, task);
  task->spawned = NULL;
  count += SLOT_BODY;
  if (lua_gethook(L) != NULL || lua_gethook(co) != NULL) follow_hook(runtime, L, co);
  if (hold || runtime->nested_starts >= NESTED_STARTS_MAX) {
    future->state = UNS_FUTURE_PENDING;
    task->first_arguments = count;
    uns_task_note_site(runtime, task, L);
    uns_task_ready(runtime, task);
    task->held = hold;
    if (hold) uns_list_remove(&task->timer.link);
    return future;
  }
  begin(runtime, L, task, count);
  return future;
}

void uns_task_begin(uns_runtime *runtime, lua_State *L, uns_task *task) {
  if (runtime->nested_starts >= NESTED_STARTS_MAX) {
    uns_task_release(runtime, task);
    return;
  }
  task->held = false;
  task->future->state = UNS_FUTURE_RUNNING;
  begin(runtime, L, task, task->first_arguments);
}

/* Another round of this turn? Not if there is news, or the time is up; the clock is looked at after every so many tasks. */
static inline bool go_on(uns_runtime *runtime, unsigned *ran, uint64_t *looked_ns) {
  if (runtime->end_turn || !uns_list_empty(&runtime->callbacks) || uns_mailbox_has_mail(runtime->mailbox)) return false;
  if (*ran < runtime->stride) return true;
  uint64_t now_ns = uns_clock_ns(), took_ns = now_ns - *looked_ns;
  *ran = 0;
  *looked_ns = now_ns;
  if (took_ns > ROUNDS_NS / 4) runtime->stride = 1;
  else if (runtime->stride < STRIDE_MAX) runtime->stride *= 2;
  return now_ns - uns_runtime_turn_ns(runtime) < ROUNDS_NS;
}

/* The tasks that are ready now, once each. */
static inline unsigned run_round(uns_runtime *runtime, uns_link *batch) {
  uns_list_append(batch,
                  &runtime->ready); /* what gets ready meanwhile waits for the next round: then all have had theirs */
  if (__builtin_expect(runtime->shuffle != 0, 0)) uns_shuffle(runtime, batch);
  lua_State *L = runtime->L;
  unsigned ran = 0;
  for (uns_link *link; (link = uns_list_pop_front(batch)) != NULL; ran++) {
    uns_task *task = uns_container_of(link, uns_task, timer.link);
    if (task->is_main) { /* its own wait notices, up the C stack */
      task->state = UNS_TASK_RUNNING;
      runtime->end_turn = true;
      continue;
    }
    int count = 0;
    if (task->first_arguments >= 0) {
      count = task->first_arguments;
      task->first_arguments = -1;
      task->future->state = UNS_FUTURE_RUNNING;
    }
    runtime->budget = UNS_TASK_BUDGET;
    if (!run(runtime, L, task, count, NULL)) {
      lua_xmove(task->co, L,
                1); /* the error first: in its place there is room for the future, whatever memory there is */
      push_future(L, task);
      lua_insert(L, -2);
      broken(runtime, L, task);
      lua_pop(L, 1);
    }
  }
  return ran;
}

bool uns_tasks_run(uns_runtime *runtime) {
  runtime->end_turn = false;
  if (uns_list_empty(&runtime->ready)) return false;
  int nested = runtime->nested_starts;
  runtime->nested_starts = 0;
  uint64_t looked_ns = uns_runtime_turn_ns(runtime);
  unsigned ran = 0;
  uns_link batch, *outer = runtime->batch;
  uns_list_init(&batch);
  runtime->batch = &batch;
  do {
    ran += run_round(runtime, &batch);
  } while (!uns_list_empty(&runtime->ready) && go_on(runtime, &ran, &looked_ns));
  runtime->batch = outer;
  runtime->nested_starts = nested;
  return true;
}

/* ---- seen and stopped from outside ---- */

/* The line where L stands, as the script sees it. `only_ours`: there is none but of our own modules. */
static bool find_line(lua_State *L, char where[UNS_WHERE_BYTES], bool *only_ours) {
  lua_Debug frame;
  bool found = false;
  *only_ours = true;
  for (int level = 0; lua_getstack(L, level, &frame); level++) {
    lua_getinfo(L, "Sl", &frame);
    if (frame.currentline <= 0) continue;
    bool ours = strncmp(frame.source, "@unsync/", 8) == 0; /* one of our modules, on behalf of who called it */
    if (ours && found) continue;
    snprintf(where, UNS_WHERE_BYTES, "%s:%d", frame.short_src, frame.currentline);
    found = true;
    *only_ours = ours;
    if (!ours) break;
  }
  return found;
}

bool uns_where(lua_State *L, char where[UNS_WHERE_BYTES]) {
  bool only_ours;
  return find_line(L, where, &only_ours);
}

bool uns_task_where(const uns_task *task, char where[UNS_WHERE_BYTES]) {
  bool only_ours, found = find_line(task->co, where, &only_ours);
  const uns_site *site = task->spawned;
  if (!only_ours || site == NULL) return found;
  snprintf(where, UNS_WHERE_BYTES, "%s:%d", site->source, site->line);
  return true;
}

void uns_task_push_where(lua_State *L, uns_task *task) {
  char where[UNS_WHERE_BYTES];
  luaL_checkstack(L, 1, NULL);
  if (uns_task_where(task, where)) lua_pushstring(L, where);
  else lua_pushnil(L);
}

void uns_task_interrupt(uns_runtime *runtime, uns_task *task) {
  if (task->interrupt == UNS_INTERRUPT_ERROR && task->interrupt_error != 0) {
    uns_runtime_unpin(runtime, task->interrupt_error);
  }
  task->interrupt_error = uns_runtime_try_pin(runtime->L);
  task->interrupt = UNS_INTERRUPT_ERROR;
  uns_task_wake(runtime, task);
}

void uns_task_take_interrupt_error(uns_runtime *runtime, lua_State *L, const uns_task *task) {
  if (task->interrupt_error == 0) {
    lua_pushliteral(L, "not enough memory"); /* Lua has this text from the start */
    return;
  }
  uns_runtime_push_pin(runtime, L, task->interrupt_error);
  uns_runtime_unpin(runtime, task->interrupt_error);
}

int uns_task_adopt_main(uns_runtime *runtime) {
  runtime->main = task_new(runtime, runtime->L);
  if (runtime->main == NULL) return UNS_ENOMEM;
  if (uns_task_extra_of(runtime->main) == NULL) {
    give_record(runtime, runtime->main, sizeof *runtime->main);
    runtime->main = NULL;
    return UNS_ENOMEM;
  }
  runtime->main->is_main = true;
  runtime->main->state = UNS_TASK_RUNNING;
  runtime->main->first_arguments = -1;
  runtime->current = runtime->main;
  return UNS_OK;
}
