/*
 * wait: how a task stops and goes on: park, wake, the ready queue's entrance, and await, which is made of them.
 *
 * A wait is refused before anything is put anywhere (uns_task_check_can_wait), with the name of what is in its way.
 */
#include <lauxlib.h>
#include <stdio.h>
#include <string.h>

#include "core/error.h"
#include "loop/cancel.h"
#include "loop/task.h"

const char uns_task_wait_mark = 0;

/* ---- ready, parked, awake ---- */

/* The site, kept for as long as the runtime lives; NULL without memory, or where there are more than a program has. */
static const uns_site *keep_site(uns_runtime *runtime, const char *source, int line) {
  enum { SITES_MAX = 10000 };
  uns_site **list = &runtime->sites[(unsigned)line % UNS_SITE_LISTS];
  for (uns_site *site = *list; site != NULL; site = site->next) {
    if (site->line == line && strcmp(site->source, source) == 0) return site;
  }
  uns_site *site = runtime->site_count < SITES_MAX ? uns_malloc(sizeof *site) : NULL;
  if (site == NULL) return NULL;
  runtime->site_count++;
  site->line = line;
  snprintf(site->source, sizeof site->source, "%s", source);
  site->next = *list;
  return *list = site;
}

void uns_sites_deinit(uns_runtime *runtime) {
  for (size_t i = 0; i < UNS_SITE_LISTS; i++) {
    for (uns_site *site; (site = runtime->sites[i]) != NULL;) {
      runtime->sites[i] = site->next;
      uns_free(site);
    }
  }
}

void uns_task_note_site(uns_runtime *runtime, uns_task *task, lua_State *starter) {
  lua_Debug frame;
  for (int level = 1; lua_getstack(starter, level, &frame); level++) {
    lua_getinfo(starter, "Sl", &frame);
    if (frame.currentline <= 0) continue;
    if (frame.source[0] == '@' && strncmp(frame.source, "@unsync/", 8) == 0) continue;
    task->spawned = keep_site(runtime, frame.short_src, frame.currentline);
    return;
  }
}

static void list(uns_runtime *runtime, uns_task *task, lua_State *starter) {
  task->listed = true;
  if (starter != NULL) uns_task_note_site(runtime, task, starter);
  if (task->future == NULL) task->extra->since_ns = runtime->now_ns;
  else if (task->future->since_ns == 0) task->future->since_ns = runtime->now_ns;
  const uns_link *last = runtime->tasks.prev;
  if (last != &runtime->tasks && uns_container_of(last, uns_task, live_link)->id > task->id)
    runtime->tasks_mixed = true;
  uns_list_push_back(&runtime->tasks, &task->live_link);
  runtime->live_count++;
  runtime->unaccounted_bytes -= UNS_FUTURE_BYTES; /* loop/task.c tells the collector */
  if (runtime->last_task_id > 1) uns_runtime_has_company(runtime);
}

void uns_task_list(uns_runtime *runtime, uns_task *task) { list(runtime, task, uns_task_starter(runtime, task)); }

void uns_task_list_running(uns_runtime *runtime) {
  const uns_task_frame *frame = runtime->frame;
  for (uns_task *task = runtime->current; task != NULL;) {
    bool framed = frame != NULL && frame->task == task; /* the main thread is not */
    if (!task->listed) list(runtime, task, framed ? frame->starter : NULL);
    task = framed ? frame->outer : NULL;
    if (framed) frame = frame->below;
  }
}

void uns_task_release(uns_runtime *runtime, uns_task *task) {
  task->held = false;
  uns_list_remove(&task->timer.link);
  uns_task_ready(runtime, task);
}

void uns_task_leave_wait(uns_runtime *runtime, uns_task *task) {
  uns_task_extra *extra = task->extra;
  if (extra == NULL) return;
  uns_list_remove(&extra->waiter.link);
  extra->awaited = NULL;
  extra->behind = NULL;
  extra->wanted = NULL;
  void (*further)(uns_task *, uns_runtime *) = extra->leave;
  if (further == NULL) return;
  extra->leave = NULL;
  further(task, runtime);
}

void uns_task_wake(uns_runtime *runtime, uns_task *task) {
  if (task->state != UNS_TASK_PARKED) return;
  uns_task_leave_wait(runtime, task);
  if (uns_timer_armed(&task->timer)) uns_timer_disarm(runtime, &task->timer);
  if (task->hopeful) {
    task->hopeful = false;
    uns_runtime_answered(runtime);
  }
  task->waits_for = UNS_WAITS_NOT;
  task->wait++;
  uns_task_ready(runtime, task);
}

void uns_task_wait_on_main(uns_runtime *runtime, uns_task *task) {
  int nested = runtime->nested_starts;
  lua_State *thread = runtime->running;
  runtime->nested_starts = 0;
  while (task->state != UNS_TASK_RUNNING) {
    if (!uns_runtime_turn(runtime, true)) uns_task_raise_deadlock(runtime);
  }
  runtime->nested_starts = nested;
  runtime->running = thread;
  runtime->current = task;
}

void uns_task_finish_on_main(uns_runtime *runtime) {
  int nested = runtime->nested_starts;
  lua_State *thread = runtime->running;
  uns_task *task = runtime->current;
  runtime->nested_starts = 0;
  while (uns_runtime_turn(runtime, true) || uns_task_raise_deadlock(runtime)) continue;
  runtime->nested_starts = nested;
  runtime->running = thread;
  runtime->current = task;
}

/* ---- what is in the way of a wait ---- */

/* Functions that let a wait through, although they are written in C. */
static bool lets_waits_through(const char *name) {
  static const char *const names[] = {"pcall", "xpcall", "dofile", "require", "coroutine.resume", "coroutine.wrap"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    if (strcmp(name, names[i]) == 0) return true;
  }
  return false;
}

/*
 * Pushes the name that a module of package.loaded has for the function on top (popped), or nil. Of several the shortest:
 * "load" rather than what some module keeps it as.
 */
static void push_global_name(lua_State *L) {
  int function = lua_gettop(L), best = function + 1;
  luaL_checkstack(L, 8, NULL);
  lua_pushnil(L);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  for (lua_pushnil(L); lua_next(L, best + 1); lua_pop(L, 1)) {
    if (lua_type(L, -2) != LUA_TSTRING || !lua_istable(L, -1)) continue;
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
      if (lua_type(L, -2) != LUA_TSTRING || !lua_rawequal(L, -1, function)) continue;
      const char *module = lua_tostring(L, -4), *field = lua_tostring(L, -2);
      if (strcmp(module, LUA_GNAME) == 0) lua_pushstring(L, field);
      else lua_pushfstring(L, "%s.%s", module, field);
      if (lua_isnil(L, best) || lua_rawlen(L, -1) < lua_rawlen(L, best)) lua_copy(L, -1, best);
      lua_pop(L, 1);
    }
  }
  lua_settop(L, best);
  lua_remove(L, function);
}

/* Pushes the name of the C function that keeps L from yielding. */
static void push_culprit(lua_State *L) {
  lua_Debug frame;
  lua_pushnil(L);
  int best = lua_gettop(L);
  for (int level = 1; lua_getstack(L, level, &frame); level++) {
    lua_getinfo(L, "Snf", &frame);
    if (*frame.what != 'C') {
      lua_pop(L, 1);
      continue;
    }
    push_global_name(L);
    if (lua_isnil(L, -1) && frame.name != NULL) {
      lua_pop(L, 1);
      lua_pushstring(L, frame.name);
    }
    const char *name = lua_tostring(L, -1);
    lua_copy(L, -1, best);
    lua_settop(L, best);
    if (name != NULL && !lets_waits_through(name)) return;
  }
}

/* Others have had their turn. */
static int raise_after_turn(lua_State *L, int status, lua_KContext context) {
  (void)status;
  uns_runtime *runtime = (uns_runtime *)context;
  uns_task_check_interrupt(runtime, L);
  return uns_cancel_raise(runtime, L);
}

/* Nothing has been put anywhere yet, so whoever goes on and on, though each wait raises, may as well suspend, and raise then. */
static void refuse(uns_runtime *runtime, lua_State *L, uns_task *task) {
  bool on_main = task->is_main && L == runtime->L && lua_gc(L, LUA_GCISRUNNING) >= 0;
  bool may = --runtime->budget <= 0 && (on_main || (L == runtime->running && lua_isyieldable(L)));
  if (!may || uns_task_extra_of(task) == NULL) uns_cancel_raise(runtime, L);
  runtime->budget = UNS_TASK_BUDGET;
  uns_task_ready(runtime, task);
  uns_task_park(runtime, L, (lua_KContext)runtime, raise_after_turn);
}

uns_task *uns_task_check_can_pause_slowly(uns_runtime *runtime, lua_State *L) {
  uns_task *task = runtime->current;
  if (task == NULL) {
    const char *caller = runtime->callback_of != NULL ? runtime->callback_of : "the event loop";
    uns_error_raise(L, "unyieldable", "cannot wait here: this is a callback of %s (start a task with unsync.spawn)",
                    caller);
  }
  if (uns_cancel_reaching(task) != NULL) refuse(runtime, L, task);
  if (task->is_main && L == runtime->L) {
    if (lua_gc(L, LUA_GCISRUNNING) >= 0) return task;
    uns_error_raise(L, "unyieldable", "cannot wait in a finalizer (__gc)");
  }
  if (L != runtime->running) {
    uns_error_raise(L, "unyieldable", "cannot wait in a coroutine that was resumed by code which knows no tasks");
  }
  if (!lua_isyieldable(L)) {
    push_culprit(L);
    const char *name = lua_isnil(L, -1) ? "a C function" : lua_tostring(L, -1);
    uns_error_raise(L, "unyieldable",
                    "cannot wait across the C function '%s', which calls back without a way to suspend", name);
  }
  return task;
}

uns_task *uns_task_check_can_wait_slowly(uns_runtime *runtime, lua_State *L) {
  uns_task *task = uns_task_check_can_pause(runtime, L);
  if (uns_task_extra_of(task) == NULL) luaL_error(L, "not enough memory");
  return task;
}

/* ---- awaiting a future ---- */

void uns_task_raise_interrupt(uns_runtime *runtime, lua_State *L) {
  uns_task *task = runtime->current;
  if (task->interrupt == UNS_INTERRUPT_CANCEL) {
    task->interrupt = UNS_INTERRUPT_NONE;
    uns_cancel_raise(runtime, L);
  }
  bool late = task->interrupt == UNS_INTERRUPT_LATE;
  task->interrupt = UNS_INTERRUPT_NONE;
  if (late) {
    if (runtime->caught != NULL) runtime->caught(runtime, L);
    return;
  }
  uns_task_take_interrupt_error(runtime, L, task);
  lua_error(L);
}

static int after_await(lua_State *L, int status, lua_KContext context) {
  (void)status;
  uns_runtime *runtime = (uns_runtime *)context;
  uns_task *task = runtime->current;
  int index = task->extra->await_index;
  uns_task_check_interrupt(runtime, L);
  uns_future *future = lua_touserdata(L, index);
  if (task->timed_out && !uns_future_settled(future)) {
    task->timed_out = false;
    return uns_error_raise(L, "timeout", "timeout: the future was not settled in time");
  }
  task->timed_out = false;
  return uns_future_push_outcome(runtime, L, index);
}

static void enter_waiter(uns_runtime *runtime, uns_task *task, uns_future *future) {
  uns_future_add_waiter(future, &task->extra->waiter);
  task->extra->awaited = future;
  task->waits_for = UNS_WAITS_FUTURE;
  if (uns_future_is_elsewhere(future)) uns_task_hope(runtime, task);
}

static void check_not_own(lua_State *L, const uns_task *task, const uns_future *future) {
  if (future->task == task && task->future == future) {
    uns_error_raise(L, "deadlock", "deadlock: a task awaits its own future");
  }
}

int uns_task_wait_for(uns_runtime *runtime, lua_State *L, int index, lua_KContext context, lua_KFunction k) {
  uns_future *future = lua_touserdata(L, index);
  uns_task *task = uns_task_check_can_wait(runtime, L);
  check_not_own(L, task, future);
  task->timed_out = false;
  enter_waiter(runtime, task, future);
  return uns_task_park(runtime, L, context, k);
}

bool uns_task_end_turn(uns_runtime *runtime, lua_State *L) {
  runtime->budget = 0; /* and no less, however often this is asked in vain */
  if (L != runtime->running || !lua_isyieldable(L)) return false;
  uns_task *task = runtime->current;
  if (task == NULL || uns_cancel_reaching(task) != NULL)
    return false; /* its next wait raises: what it was given is its own */
  if (uns_task_extra_of(task) == NULL) return false;
  runtime->budget = UNS_TASK_BUDGET;
  uns_task_ready(runtime, task);
  return true;
}

int uns_task_await(uns_runtime *runtime, lua_State *L, int index, uint64_t deadline_ns) {
  uns_future *future = lua_touserdata(L, index);
  if (uns_future_settled(future) && (--runtime->budget > 0 || runtime->current == NULL || !lua_isyieldable(L))) {
    return uns_future_push_outcome(runtime, L, index);
  }
  index = lua_absindex(L, index);
  uns_task *task = uns_task_check_can_wait(runtime, L);
  task->timed_out = false;
  task->extra->await_index = index;
  if (uns_future_settled(future)) {
    runtime->budget = UNS_TASK_BUDGET;
    uns_task_ready(runtime, task);
    return uns_task_park(runtime, L, (lua_KContext)runtime, after_await);
  }
  check_not_own(L, task, future);
  if (deadline_ns != 0 && uns_timer_arm(runtime, &task->timer, deadline_ns) != UNS_OK) {
    return luaL_error(L, "not enough memory");
  }
  enter_waiter(runtime, task, future);
  return uns_task_park(runtime, L, (lua_KContext)runtime, after_await);
}
