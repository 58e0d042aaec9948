/*
 *   - Level-triggered: the error is raised at the wait in which the task stands and at every further one, so that a pcall
 *     cannot swallow it for good.
 *   - One rule for races: what a wait was given is delivered; a cancellation of the same moment shows at the next wait.
 *   - Deadlines too: inside, every wait raises `cancelled` with the reason `timeout`; the one who owns the deadline alone
 *     turns it into `timeout`.
 *   - What a cancelled task awaits is cancelled with it, unless somebody else awaits that too.
 */
#include "loop/cancel.h"

#include <lauxlib.h>
#include <string.h>

#include "core/codec.h"
#include "core/error.h"
#include "core/packet.h"
#include "loop/group.h"

enum {
  NS_PER_MS = 1000000,
  IDLE_SCOPES_MAX = 64 /* kept for the next timeouts and shields */
};

/* ---- errors ---- */

static const char *name_of(const uns_future *future) {
  if (future == NULL) return "the main script";
  return future->name != NULL ? future->name : uns_future_kind_name(future);
}

void uns_cancel_push_error(lua_State *L, const uns_future *future, const char *stopped_by) {
  int reason = lua_gettop(L);
  luaL_checkstack(L, 6, NULL);
  const char *name = name_of(future);
  if (lua_type(L, reason) == LUA_TSTRING) {
    uns_error_push(L, "cancelled", "%s was cancelled: %s", name, lua_tostring(L, reason));
  } else {
    uns_error_push(L, "cancelled", "%s was cancelled", name);
  }
  lua_pushstring(L, name);
  lua_setfield(L, -2, "task");
  lua_pushvalue(L, reason);
  lua_setfield(L, -2, "reason");
  lua_pushstring(L, stopped_by);
  lua_setfield(L, -2, "stopped_by");
  lua_replace(L, reason);
}

void uns_cancel_push_scope_error(uns_runtime *runtime, lua_State *L, uns_task *task, const uns_cancel_scope *scope,
                                 const char *stopped_by) {
  luaL_checkstack(L, 6, NULL);
  if (scope->timed_out) lua_pushliteral(L, "timeout");
  else if (scope->reason != 0) uns_runtime_push_pin(runtime, L, scope->reason);
  else lua_pushnil(L);
  uns_cancel_push_error(L, task->future, stopped_by);
}

int uns_cancel_raise_again(uns_runtime *runtime, lua_State *L, const char *stopped_by) {
  uns_task *task = runtime->current;
  uns_cancel_unwind(runtime, task);
  const uns_cancel_scope *scope = uns_cancel_reaching(task);
  uns_cancel_push_scope_error(runtime, L, task, scope != NULL ? scope : &task->base, stopped_by);
  lua_error(L);
  __builtin_unreachable(); /* lua_error is not declared so */
}

int uns_cancel_raise(uns_runtime *runtime, lua_State *L) { uns_cancel_raise_again(runtime, L, "await"); }

const char *uns_cancel_stopped_by(lua_State *L, int index) {
  if (!uns_error_is(L, index, NULL)) return "await";
  index = lua_absindex(L, index);
  lua_pushliteral(L, "stopped_by");
  bool hooked = lua_rawget(L, index) == LUA_TSTRING && strcmp(lua_tostring(L, -1), "hook") == 0;
  lua_pop(L, 1);
  return hooked ? "hook" : "await";
}

void uns_cancel_push_timeout(lua_State *L, const char *name, const char *stopped_by) {
  if (name != NULL) uns_error_push(L, "timeout", "timeout: %s did not end in time", name);
  else uns_error_push(L, "timeout", "timeout: the block did not end in time");
  lua_pushstring(L, stopped_by);
  lua_setfield(L, -2, "stopped_by");
}

/* ---- those that go on ---- */

void uns_cancel_unwind(uns_runtime *runtime, uns_task *task) {
  if (task->unwinding) return;
  task->unwinding = true;
  runtime->unwinding++;
}

void uns_cancel_unwound(uns_runtime *runtime, uns_task *task) {
  if (!task->unwinding) return;
  task->unwinding = false;
  runtime->unwinding--;
}

static uint32_t clock_ms(void) { return (uint32_t)(uns_clock_ns() / NS_PER_MS); }

/* What has asked the task to stop, out of any shield, so many grace periods ago while it is still at it; or NULL. */
static const uns_cancel_scope *overdue(const uns_runtime *runtime, const uns_task *task, unsigned periods) {
  const uns_cancel_scope *scope = uns_cancel_reaching(task);
  if (scope == NULL) return NULL;
  uint64_t grace_ns = task->extra != NULL && task->extra->grace_ns > 0 ? task->extra->grace_ns : runtime->grace_ns;
  uint32_t now_ms = clock_ms();
  for (; scope != NULL; scope = scope->outer) {
    if (scope->cancelled && (uint32_t)(now_ms - scope->cancelled_ms) > periods * grace_ns / NS_PER_MS) return scope;
    if (scope->shield) return NULL;
  }
  return NULL;
}

static void on_overdue(lua_State *L, lua_Debug *frame) {
  (void)frame;
  uns_runtime *runtime = uns_runtime_of(L);
  lua_sethook(L, NULL, 0, 0);
  uns_task *task = runtime != NULL ? runtime->current : NULL;
  if (task == NULL || overdue(runtime, task, task->unwinding ? 2 : 1) == NULL) return;
  luaL_checkstack(L, 8, NULL);
  uns_cancel_unwind(runtime, task);
  uns_cancel_push_scope_error(runtime, L, task, uns_cancel_reaching(task), "hook");
  lua_error(L);
}

void uns_cancel_caught(uns_runtime *runtime, lua_State *L, bool in_clean_up) {
  uns_task *task = runtime->current;
  if (!in_clean_up) {
    if (task != NULL) uns_cancel_unwound(runtime, task);
    if (runtime->caught != NULL) runtime->caught(runtime, L);
  }
  /* In a worker whose call was cancelled the interrupt has set its own. */
  bool free = runtime->job == NULL || lua_gethook(L) == NULL;
  if (free && task != NULL && overdue(runtime, task, in_clean_up ? 2 : 1) != NULL) {
    lua_sethook(L, on_overdue, LUA_MASKLINE | LUA_MASKCOUNT, 1);
  }
}

/* ---- scopes ---- */

/* Another state has it, and may wait for it there. */
static bool is_held_elsewhere(const uns_future *future) {
  return future->cell != NULL && !future->foreign && uns_cell_is_watched(future->cell);
}

/* What a parked task waits for, if it goes with it: nobody else waits for that. A promise is its holder's. Else NULL. */
static uns_future *awaited_alone(const uns_task *task) {
  uns_future *awaited = uns_task_awaited(task);
  if (awaited == NULL || awaited->resolvable || is_held_elsewhere(awaited)) return NULL;
  for (const uns_link *link = awaited->waiters.next; link != &awaited->waiters; link = link->next) {
    if (link != &task->extra->waiter.link && !uns_container_of(link, uns_waiter, link)->listens) return NULL;
  }
  return awaited;
}

static bool is_reached(const uns_task *task) {
  return task->state == UNS_TASK_PARKED && uns_cancel_reaching(task) != NULL;
}

/* The only one who waits for `task`, which awaited_alone has found behind it. */
static uns_task *only_waiter(const uns_task *task) {
  uns_link *link = task->future->waiters.next;
  while (uns_container_of(link, uns_waiter, link)->listens) link = link->next;
  return uns_container_of(link, uns_waiter, link)->task;
}

static void ask(uns_task *task) {
  task->base.cancelled_ms = clock_ms();
  task->base.cancelled = true; /* every wait to come sees it; one that has not begun never does */
}

/*
 * Wakes the task from its wait, if it stands in one that is reached, after those that it alone waits for: the last of
 * the chain first. Chains have any length, so this goes down and up again, and calls itself for none of them.
 */
static void reach(uns_runtime *runtime, uns_task *task) {
  uns_task *at = task;
  uns_future *last = NULL;
  while (is_reached(at)) {
    uns_future *awaited = awaited_alone(at);
    if (awaited == NULL) break;
    uns_task *inner = awaited->task;
    if (inner == NULL) last = awaited;
    if (inner == NULL || inner == task || inner->base.cancelled) break; /* the second: they wait for each other */
    ask(inner);
    at = inner;
  }
  if (last != NULL && last->job != NULL) {
    uns_cancel_work(runtime, last);
    last = NULL;
  }
  for (;;) {
    uns_task *outer = at != task ? only_waiter(at) : NULL;
    if (is_reached(at)) {
      at->interrupt = UNS_INTERRUPT_CANCEL;
      uns_task_wake(runtime, at);
      /* What is done here and now may settle at once: only when the task has left, for it is the one that was cancelled. */
      if (last != NULL) uns_cancel_work(runtime, last);
    }
    last = NULL;
    if (outer == NULL) return;
    if (at->held) uns_task_release(runtime, at);
    at = outer;
  }
}

static void time_out(uns_runtime *runtime, uns_cancel_scope *scope) {
  if (!scope->cancelled) scope->timed_out = true;
  uns_cancel_scope_cancel(runtime, scope);
}

static void on_deadline(uns_timer *timer, uns_runtime *runtime) {
  time_out(runtime, &uns_container_of(timer, uns_timed_scope, deadline)->scope);
}

static void on_task_deadline(uns_timer *timer, uns_runtime *runtime) {
  uns_task *task = uns_container_of(timer, uns_task_extra, deadline)->waiter.task;
  time_out(runtime, &task->base);
}

void uns_cancel_scope_init(uns_cancel_scope *scope) { *scope = (uns_cancel_scope){.outer = NULL}; }

void uns_timed_scope_init(uns_timed_scope *timed) {
  uns_cancel_scope_init(&timed->scope);
  uns_timer_init(&timed->deadline, on_deadline);
  timed->scope.deadline = &timed->deadline;
  uns_list_init(&timed->link);
}

void uns_cancel_init_deadline(uns_timer *deadline) { uns_timer_init(deadline, on_task_deadline); }

static bool has_deadline(const uns_cancel_scope *scope) {
  return scope->deadline != NULL && uns_timer_armed(scope->deadline);
}

int uns_cancel_scope_enter(uns_runtime *runtime, uns_cancel_scope *scope, uint64_t deadline_ns) {
  uns_task *task = runtime->current;
  if (deadline_ns != 0 && uns_timer_arm(runtime, scope->deadline, deadline_ns) != UNS_OK) return UNS_ENOMEM;
  if (scope->shield) runtime->shields++;
  scope->task = task;
  scope->outer = task->scope;
  task->scope = scope;
  return UNS_OK;
}

void uns_cancel_scope_leave(uns_runtime *runtime, uns_cancel_scope *scope) {
  if (has_deadline(scope)) uns_timer_disarm(runtime, scope->deadline);
  uns_task *task = scope->task;
  if (task == NULL) return;
  scope->task = NULL;
  for (uns_cancel_scope **at = &task->scope; *at != NULL; at = &(*at)->outer) {
    if (*at != scope) continue;
    *at = scope->outer; /* a generator may have left it out of order */
    break;
  }
  if (!scope->shield) return;
  runtime->shields--;
  uns_group_cancel_spared(task);
}

static uns_timed_scope *timed_scope(uns_link *link) { return uns_container_of(link, uns_timed_scope, link); }

uns_cancel_scope *uns_cancel_take_scope(uns_runtime *runtime) {
  uns_link *link = uns_list_pop_front(&runtime->idle_scopes);
  if (link != NULL) runtime->idle_scope_count--;
  uns_timed_scope *timed = link != NULL ? timed_scope(link) : uns_malloc(sizeof *timed);
  if (timed == NULL) return NULL;
  uns_timed_scope_init(timed);
  timed->scope.pooled = true;
  return &timed->scope;
}

void uns_cancel_give_scope(uns_runtime *runtime, uns_cancel_scope *scope) {
  uns_timed_scope *timed = uns_container_of(scope, uns_timed_scope, scope);
  if (runtime->idle_scope_count == IDLE_SCOPES_MAX) {
    uns_free(timed);
    return;
  }
  runtime->idle_scope_count++;
  uns_list_push_front(&runtime->idle_scopes, &timed->link);
}

void uns_cancel_scopes_deinit(uns_runtime *runtime) {
  for (uns_link *link; (link = uns_list_pop_front(&runtime->idle_scopes)) != NULL;) uns_free(timed_scope(link));
  runtime->idle_scope_count = 0;
}

void uns_cancel_scope_cancel(uns_runtime *runtime, uns_cancel_scope *scope) {
  if (!scope->cancelled) scope->cancelled_ms = clock_ms();
  scope->cancelled = true;
  if (scope->task != NULL) reach(runtime, scope->task);
}

uint64_t uns_cancel_deadline(const uns_runtime *runtime) {
  uint64_t earliest_ns = 0;
  const uns_cancel_scope *scope = runtime->current != NULL ? runtime->current->scope : NULL;
  for (; scope != NULL; scope = scope->outer) {
    if (has_deadline(scope) && (earliest_ns == 0 || scope->deadline->deadline_ns < earliest_ns)) {
      earliest_ns = scope->deadline->deadline_ns;
    }
    if (scope->shield) return earliest_ns;
  }
  uint64_t call_ns = runtime->job != NULL ? runtime->job->deadline_ns : 0;
  return earliest_ns == 0 || (call_ns != 0 && call_ns < earliest_ns) ? call_ns : earliest_ns;
}

/* ---- futures ---- */

static void cancel_task(uns_runtime *runtime, uns_task *task) {
  if (task->base.cancelled) return;
  ask(task);
  reach(runtime, task);
  if (task->held) uns_task_release(runtime, task);
}

/* push_error(stopped future) -> the error that says so */
static int push_error(lua_State *L) {
  lua_pushnil(L);
  uns_cancel_push_error(L, lua_touserdata(L, 1), "await");
  return 1;
}

void uns_cancel_end(uns_runtime *runtime, lua_State *L) {
  lua_pushcfunction(L, push_error);
  lua_pushvalue(L, -2);
  lua_pcall(L, 1, 1, 0); /* without memory: that error */
  uns_future_fail_safely(runtime, L, lua_gettop(L) - 1, UNS_FUTURE_CANCELLED);
}

static bool is_awaited_here(const uns_future *future) {
  for (const uns_link *link = future->waiters.next; link != &future->waiters; link = link->next) {
    if (!uns_container_of(link, uns_waiter, link)->listens) return true;
  }
  return false;
}

bool uns_cancel_is_awaited(const uns_future *future) { return is_awaited_here(future) || is_held_elsewhere(future); }

/* Nobody here waits any more for a future of another state, and it is given up, if nobody does there. */
static bool let_go(const uns_future *future) {
  uns_packet no_reason;
  int status;
  uns_packet_init(&no_reason);
  return !future->resolvable && uns_cell_stop_work(future->cell, UNS_STOP_UNWANTED, &no_reason, &status);
}

bool uns_cancel_work(uns_runtime *runtime, uns_future *future) {
  if (uns_future_settled(future)) return false;
  if (future->foreign) return let_go(future);
  if (future->task != NULL) {
    cancel_task(runtime, future->task);
    return true;
  }
  if (future->job != NULL) {
    if (runtime->cancel_job != NULL) runtime->cancel_job(runtime, future->job);
    return true;
  }
  if (future->behind != NULL) {
    future->behind->cancel(future->behind, runtime);
    return true;
  }
  if (future->stoppable && runtime->stop != NULL && lua_checkstack(runtime->L, 8) && runtime->stop(runtime, future)) {
    uns_cancel_end(runtime, runtime->L);
    lua_pop(runtime->L, 1);
    return true;
  }
  return false;
}

/*
 * Calls `visit` with each call under way; how often that was true. By number: a visit may pin and unpin, and a table that
 * changes cannot be gone through with lua_next. What is pinned meanwhile is no call that was under way.
 */
static size_t visit_calls(uns_runtime *runtime, bool (*visit)(uns_runtime *, uns_future *)) {
  lua_State *L = runtime->L;
  if (!lua_checkstack(L, 8)) return 0;
  int top = lua_gettop(L);
  size_t count = 0;
  uns_runtime_push_pins(runtime, L); /* a call under way is pinned by its job */
  for (int pin = 1, last = runtime->last_pin; pin <= last; pin++) {
    lua_rawgeti(L, top + 1, pin);
    uns_future *future = uns_future_test(L, -1);
    if (future != NULL && future->job != NULL && future->job->pin == pin && visit(runtime, future)) count++;
    lua_settop(L, top + 1);
  }
  lua_settop(L, top);
  return count;
}

static bool count_call(uns_runtime *runtime, uns_future *future) {
  (void)runtime;
  (void)future;
  return true;
}

static bool spare_call(uns_runtime *runtime, uns_future *future) {
  if (uns_group_spares(runtime, NULL, future)) return true;
  uns_cancel_work(runtime, future);
  return false;
}

size_t uns_cancel_count_calls(uns_runtime *runtime) { return visit_calls(runtime, count_call); }

size_t uns_cancel_all(uns_runtime *runtime) {
  size_t spared = 0;
  for (uns_link *link = runtime->tasks.next; link != &runtime->tasks; link = link->next) {
    const uns_task *task = uns_container_of(link, uns_task, live_link);
    if (task->future == NULL) continue;
    if (uns_group_spares(runtime, NULL, task->future)) spared++;
    else uns_cancel_work(runtime, task->future);
  }
  return spared + visit_calls(runtime, spare_call);
}

static const uns_codec_names reason_names = {"argument", 1, false};

/* A promise that other states may settle in this moment: its cell says who was first. The reason, on top, is popped. */
static bool cancel_shared(uns_runtime *runtime, lua_State *L, int index) {
  int reason = lua_gettop(L);
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  lua_pushvalue(L, reason);
  uns_packet packet;
  for (bool again = true;; again = false) {
    uns_packet_init(&packet);
    uns_cancel_push_error(L, lua_touserdata(L, index), "await");
    lua_pushnil(L); /* no traceback */
    if (uns_codec_encode(L, reason + 1, 2, &reason_names, &packet) == UNS_OK) break;
    if (!again) return lua_error(L);
    lua_settop(L, reason);
    lua_pushnil(L); /* what cannot cross is left behind */
  }
  bool first = uns_future_settle_shared(runtime, L, index, UNS_CELL_CANCELLED, &packet) != 0;
  lua_settop(L, reason - 1);
  return first;
}

/* The work is another state's: that is asked. The reason, on top, is popped; what cannot cross is left behind. */
static bool cancel_foreign(lua_State *L, const uns_future *future) {
  uns_packet packet;
  uns_packet_init(&packet);
  int top = lua_gettop(L), status;
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  if (!lua_isnil(L, -1) && uns_codec_encode(L, top, 1, &reason_names, &packet) == UNS_ENOMEM) return lua_error(L);
  lua_settop(L, top - 1);
  bool asked = uns_cell_stop_work(future->cell, UNS_STOP, &packet, &status);
  if (status == UNS_ENOMEM) return luaL_error(L, "not enough memory");
  return asked;
}

/* stop(future, request): for its reason */
static int stop(lua_State *L) {
  const uns_cell_stop *request = lua_touserdata(L, 2);
  lua_settop(L, 1);
  if (request->reason.size_bytes == 0 || uns_codec_decode(L, &request->reason) != 1) lua_settop(L, 1);
  lua_settop(L, 2);
  uns_cancel(uns_runtime_of(L), L, 1);
  return 0;
}

void uns_cancel_on_stop(uns_mail *mail, void *receiver) {
  uns_cell_stop *request = uns_container_of(mail, uns_cell_stop, mail);
  uns_runtime *runtime = receiver;
  lua_State *L = runtime != NULL ? runtime->L : NULL;
  int top = L != NULL ? lua_gettop(L) : 0;
  uns_future *future = L != NULL && lua_checkstack(L, 5) ? uns_future_push_known(L, request->cell) : NULL;
  if (future != NULL && (request->how == UNS_STOP || !is_awaited_here(future))) {
    lua_pushcfunction(L, stop);
    lua_pushvalue(L, top + 1);
    lua_pushlightuserdata(L, request);
    if (lua_pcall(L, 2, 0, 0) != LUA_OK) uns_cancel_work(runtime, future);
  }
  if (L != NULL) lua_settop(L, top);
  uns_cell_stop_free(request);
}

bool uns_cancel(uns_runtime *runtime, lua_State *L, int index) {
  uns_future *future = lua_touserdata(L, index);
  if (uns_future_settled(future)) {
    lua_pop(L, 1);
    return false;
  }
  uns_task *task = future->task;
  if (task != NULL && !task->base.cancelled && !lua_isnil(L, -1)) {
    task->base.reason = uns_runtime_pin(runtime, L);
    return uns_cancel_work(runtime, future);
  }
  if (future->job != NULL && future->job->reason == 0 && !lua_isnil(L, -1)) {
    future->job->reason = uns_runtime_pin(runtime, L);
    return uns_cancel_work(runtime, future);
  }
  if (future->foreign && !future->resolvable) return cancel_foreign(L, future);
  if (task != NULL || future->job != NULL) {
    lua_pop(L, 1);
    return uns_cancel_work(runtime, future);
  }
  index = lua_absindex(L, index);
  if (future->resolvable && future->cell != NULL) return cancel_shared(runtime, L, index);
  uns_cancel_push_error(L, future, "await"); /* while it may raise, nothing has been stopped */
  if (future->stoppable && runtime->stop != NULL && lua_checkstack(runtime->L, 2) && runtime->stop(runtime, future)) {
    lua_pop(runtime->L, 1);
  }
  const uns_behind *behind = future->behind;
  uns_future_fail_safely(runtime, L, index, UNS_FUTURE_CANCELLED);
  if (behind != NULL) behind->cancel(behind, runtime);
  return true;
}

int uns_cancel_set_deadline(uns_runtime *runtime, uns_future *future, uint64_t deadline_ns) {
  uns_task *task = future->task;
  if (task == NULL) return UNS_OK;
  return uns_task_extra_of(task) != NULL ? uns_timer_arm(runtime, task->base.deadline, deadline_ns) : UNS_ENOMEM;
}
