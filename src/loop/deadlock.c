/*
 * deadlock: waits that can never end, found only when nothing else can happen, and told to one task at a time.
 *
 * Every chain of waits ends in a task whose wait has no task behind it (a promise, a sleep that is none), or in a cycle.
 * The error goes to the youngest of the first; where there are only cycles, to the youngest in one of them.
 */
#include <lauxlib.h>

#include "core/error.h"
#include "loop/gate.h"
#include "loop/test_clock.h"

static void describe(luaL_Buffer *text, lua_State *L, uns_task *task) {
  const char *name = task->future != NULL ? task->future->name : NULL;
  uns_task_push_where(L, task);
  const char *where = lua_tostring(L, -1);
  lua_pushfstring(L, "%s (%s) waits for %s", task->is_main ? "the main script" : name != NULL ? name : "a task",
                  where != NULL ? where : "?", task->waits_for != NULL ? task->waits_for : "nothing");
  lua_remove(L, -2);
  luaL_addvalue(text);
}

/* The task that `task` waits for, or NULL. */
static uns_task *behind(const uns_task *task) {
  if (task->wanted != NULL) return task->wanted->owner;
  return task->awaited != NULL ? task->awaited->task : NULL;
}

/* Pushes the error with the chain of waits that starts at `task`. */
static void push_deadlock(lua_State *L, uns_task *task) {
  luaL_Buffer text;
  luaL_buffinit(L, &text);
  luaL_addstring(&text, "deadlock: nothing can ever end this wait: ");
  uns_task *at = task;
  for (int links = 0; links < 32; links++) {
    describe(&text, L, at);
    uns_future *awaited = at->awaited;
    if (awaited == NULL && at->wanted == NULL) break;
    if (behind(at) == NULL) {
      if (awaited == NULL) break;
      lua_pushfstring(L, " (%s%s%s that nobody will settle)", uns_future_kind_name(awaited), awaited->name ? " " : "",
                      awaited->name ? awaited->name : "");
      luaL_addvalue(&text);
      break;
    }
    luaL_addstring(&text, at->wanted != NULL ? "\n\theld by " : "\n\tof ");
    at = behind(at);
    if (at == task) {
      luaL_addstring(&text, "itself: a cycle");
      break;
    }
  }
  const uns_test_clock *clock = task->runtime->test_clock;
  if (clock != NULL && clock->stopped && clock->timers.count > 0) {
    luaL_addstring(&text, " (the test clock stands still, and nobody is left to move it)");
  }
  luaL_pushresult(&text);
  uns_error_push(L, "deadlock", "%s", lua_tostring(L, -1));
  lua_remove(L, -2);
}

static uns_task *younger(uns_task *a, uns_task *b) { return a == NULL || b->id > a->id ? b : a; }

/* The youngest task in the cycle that the chain from `start` runs into. */
static uns_task *youngest_in_cycle(uns_runtime *runtime, uns_task *start) {
  uint32_t mark = ++runtime->last_mark;
  uns_task *at = start;
  while (at->mark != mark) {
    at->mark = mark;
    at = behind(at);
    if (at == NULL) return start; /* no cycle: it ends in a task that does not wait */
  }
  uns_task *youngest = at;
  for (uns_task *other = behind(at); other != at; other = behind(other)) youngest = younger(youngest, other);
  return youngest;
}

static uns_task *find_victim(uns_runtime *runtime) {
  uns_task *cause = NULL, *youngest = NULL;
  for (uns_link *link = runtime->tasks.next; link != &runtime->tasks; link = link->next) {
    uns_task *task = uns_container_of(link, uns_task, live_link);
    if (task->state != UNS_TASK_PARKED) continue;
    youngest = younger(youngest, task);
    if (behind(task) == NULL) cause = younger(cause, task);
  }
  if (cause != NULL || youngest == NULL) return cause;
  return youngest_in_cycle(runtime, youngest);
}

bool uns_task_raise_deadlock(uns_runtime *runtime) {
  uns_task *victim = find_victim(runtime);
  if (victim == NULL) return false;
  push_deadlock(runtime->L, victim);
  uns_task_interrupt(runtime, victim);
  return true;
}

void uns_task_interrupt_youngest(uns_runtime *runtime) {
  uns_task *youngest = NULL;
  for (uns_link *link = runtime->tasks.next; link != &runtime->tasks; link = link->next) {
    uns_task *task = uns_container_of(link, uns_task, live_link);
    if (task->state == UNS_TASK_PARKED) youngest = younger(youngest, task);
  }
  if (youngest != NULL && youngest->awaited != NULL) youngest->awaited->expected = true; /* nobody is left to look */
  if (youngest != NULL) uns_task_interrupt(runtime, youngest);
  else lua_pop(runtime->L, 1);
}
