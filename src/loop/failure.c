#include "loop/failure.h"

#include <lauxlib.h>
#include <string.h>

#include "core/weak.h"
#include "loop/task.h"

#define FAILURE_TYPE "unsync.Failure"

enum {
  TRACEBACK_MAX = 16384, /* bytes of one that is to be joined with where it was awaited */
  OTHERS_TOLD = 8,       /* failures that a traceback tells of beside its own */
  KEPT_MAX = 64          /* failures of a worker's call that are kept for it when their futures are gone */
};

/* ---- one failure ---- */

uns_failure *uns_failure_push(uns_runtime *runtime, lua_State *L, uint8_t kind, const char *name) {
  luaL_checkstack(L, 4, NULL);
  uns_failure *failure = lua_newuserdatauv(L, sizeof *failure, UNS_FAILURE_COMPANION);
  memset(failure, 0, sizeof *failure);
  uns_list_init(&failure->link);
  failure->runtime = runtime;
  failure->name = name;
  failure->kind = kind;
  lua_insert(L, -3);
  lua_setiuservalue(L, -3, UNS_FAILURE_TRACEBACK);
  lua_setiuservalue(L, -2, UNS_FAILURE_ERROR);
  luaL_setmetatable(L, FAILURE_TYPE);
  return failure;
}

void uns_failure_share(lua_State *L, uns_cell *cell) {
  uns_failure *failure = lua_touserdata(L, -2);
  failure->cell = uns_shared_ref(cell);
  lua_setiuservalue(L, -2, UNS_FAILURE_COMPANION);
}

void uns_failure_observe(uns_failure *failure) {
  uns_list_remove(&failure->link);
  if (failure->cell != NULL) uns_cell_look_at(failure->cell);
}

/* True for the first state that does: it has to tell of it. */
static bool claim(uns_failure *failure) {
  uns_list_remove(&failure->link);
  return failure->cell == NULL || !atomic_exchange_explicit(&failure->cell->looked_at, true, memory_order_relaxed);
}

/* The host's process has the real future, and its failure. */
static bool is_remote(const uns_failure *failure) { return failure->cell != NULL && uns_cell_is_remote(failure->cell); }

/* Other states, or messages to them, hold the future of the failure at `index`: they may still look at it. */
static bool held_elsewhere(lua_State *L, int index, const uns_failure *failure) {
  if (failure->cell == NULL) return false;
  unsigned own = 1;
  lua_getiuservalue(L, index, UNS_FAILURE_COMPANION);
  void **slot = lua_touserdata(L, -1);
  if (slot != NULL && *slot != NULL) own++; /* it goes in the same collection, before or after */
  lua_pop(L, 1);
  return atomic_load_explicit(&failure->cell->base.count, memory_order_relaxed) > own;
}

/* From now on the failure on top is found by its address, as long as it lives. */
static void make_findable(uns_runtime *runtime, lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &runtime->failures);
  lua_pushvalue(L, -2);
  lua_rawsetp(L, -2, lua_touserdata(L, -1));
  lua_pop(L, 1);
}

void uns_failure_list(uns_runtime *runtime, lua_State *L) {
  uns_failure *failure = lua_touserdata(L, -1);
  make_findable(runtime, L);
  uns_list_push_back(&runtime->failures, &failure->link);
}

/* ---- those whose futures are gone ---- */

/* The failure at index 1 is finalized, but is wanted still: it lives on, in its place of the list. */
static void keep(lua_State *L, uns_failure *failure) {
  lua_settop(L, 1);
  luaL_setmetatable(L, FAILURE_TYPE); /* so that it is finalized once more */
  make_findable(failure->runtime, L);
  failure->pin = uns_runtime_pin(failure->runtime, L);
  failure->runtime->kept_failures++;
}

/* Its future will not be wanted any more: it may go. */
static void let_go(uns_failure *failure) {
  if (failure->pin == 0) return;
  uns_runtime_unpin(failure->runtime, failure->pin);
  failure->pin = 0;
  failure->runtime->kept_failures--;
}

/* Of those that were kept because others might look at them, the first that have been need be kept no longer. */
static void forget_looked_at(uns_runtime *runtime) {
  for (uns_link *link = runtime->failures.next; link != &runtime->failures; link = runtime->failures.next) {
    uns_failure *kept = uns_container_of(link, uns_failure, link);
    if (kept->pin == 0 || kept->cell == NULL) return;
    if (!atomic_load_explicit(&kept->cell->looked_at, memory_order_relaxed)) return;
    uns_list_remove(&kept->link);
    let_go(kept);
  }
}

/* Nobody in this state can look at the failure at index 1 any more. True: it is kept. */
static bool keep_or_report(lua_State *L, uns_failure *failure) {
  uns_runtime *runtime = failure->runtime;
  if (!runtime->closing && held_elsewhere(L, 1, failure)) {
    if (runtime->is_worker) { /* left to the others; the script's state keeps it, to know at its end */
      uns_list_remove(&failure->link);
      return false;
    }
    forget_looked_at(runtime);
  } else if (runtime->job == NULL || runtime->closing || runtime->kept_failures == KEPT_MAX) {
    if (!claim(failure)) return false;
    runtime->unobserved++;
    uns_failure_report(L, 1);
    return false;
  }
  keep(L, failure);
  return true;
}

static int failure_gc(lua_State *L) {
  uns_failure *failure = luaL_testudata(L, 1, FAILURE_TYPE);
  if (failure == NULL) return 0;
  if (!uns_failure_observed(failure)) {
    if (is_remote(failure)) {
      uns_list_remove(&failure->link);
    } else if (keep_or_report(L, failure)) {
      return 0;
    }
  }
  uns_shared_unref(failure->cell);
  failure->cell = NULL;
  return 0;
}

void uns_failure_open(lua_State *L, uns_runtime *runtime) {
  uns_weak_push(L, "v");
  lua_rawsetp(L, LUA_REGISTRYINDEX, &runtime->failures);
  luaL_newmetatable(L, FAILURE_TYPE);
  lua_pushcfunction(L, failure_gc);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
}

/* ---- telling ---- */

/* text_of(error): one line, as lua.c would tell it. Runs protected, for __tostring may raise. */
static int text_of(lua_State *L) {
  if ((lua_istable(L, 1) || lua_isuserdata(L, 1)) && !luaL_getmetafield(L, 1, "__tostring")) {
    lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, 1));
  } else {
    luaL_tolstring(L, 1, NULL);
  }
  return 1;
}

/* The error at `index` becomes a text. */
static void replace_by_text(lua_State *L, int index) {
  if (lua_type(L, index) == LUA_TSTRING) return;
  lua_pushcfunction(L, text_of);
  lua_pushvalue(L, index);
  if (lua_pcall(L, 1, 1, 0) != LUA_OK) {
    lua_pop(L, 1);
    lua_pushliteral(L, "(an error object whose tostring failed)");
  }
  lua_replace(L, index);
}

/* "thread save", or "io". Leaves it on the stack. */
static const char *push_origin(lua_State *L, const uns_failure *failure) {
  static const char *const kinds[] = {"io", "thread", "cpu", "promise"};
  const char *name = failure->name;
  return lua_pushfstring(L, "%s%s%s", kinds[failure->kind], name != NULL ? " " : "", name != NULL ? name : "");
}

/* Pushes "io name: the error", and its traceback on the lines that follow. */
static void push_account(lua_State *L, int index) {
  luaL_checkstack(L, 8, NULL);
  index = lua_absindex(L, index);
  int top = lua_gettop(L);
  const char *origin = push_origin(L, lua_touserdata(L, index));
  lua_getiuservalue(L, index, UNS_FAILURE_ERROR);
  replace_by_text(L, top + 2);
  bool located = lua_getiuservalue(L, index, UNS_FAILURE_TRACEBACK) == LUA_TSTRING;
  lua_pushfstring(L, "%s: %s%s%s", origin, lua_tostring(L, top + 2), located ? "\n" : "",
                  located ? lua_tostring(L, top + 3) : "");
  lua_replace(L, top + 1);
  lua_settop(L, top + 1);
}

/* What lies on top for uns_failure_tell becomes one plain text. */
static void explain_plainly(lua_State *L) {
  int error = lua_gettop(L) - 3;
  const char *traceback = lua_tostring(L, error + 1), *origin = lua_tostring(L, error + 2);
  const char *site = lua_tostring(L, error + 3);
  lua_pushfstring(L, "%s%s%s", origin != NULL ? origin : "", origin != NULL ? ": " : "", lua_tostring(L, error));
  if (traceback != NULL) lua_pushfstring(L, "\n%s", traceback);
  if (site != NULL) lua_pushfstring(L, "\nstarted at %s", site);
  lua_concat(L, lua_gettop(L) - error - 3);
  lua_replace(L, error);
  lua_settop(L, error);
}

void uns_failure_tell(uns_runtime *runtime, lua_State *L) {
  luaL_checkstack(L, 8, NULL);
  replace_by_text(L, lua_gettop(L) - 3);
  if (runtime->explain == NULL || !runtime->explain(runtime, L)) explain_plainly(L);
  uns_runtime_report(runtime, lua_tostring(L, -1));
  lua_pop(L, 1);
}

void uns_failure_report(lua_State *L, int index) {
  const uns_failure *failure = lua_touserdata(L, index);
  luaL_checkstack(L, 8, NULL);
  index = lua_absindex(L, index);
  lua_getiuservalue(L, index, UNS_FAILURE_ERROR);
  lua_getiuservalue(L, index, UNS_FAILURE_TRACEBACK);
  lua_pushfstring(L, "a failure that nobody looked at, of %s", push_origin(L, failure));
  lua_remove(L, -2);
  lua_pushstring(L, failure->site);
  uns_failure_tell(failure->runtime, L);
}

int uns_failure_report_all(uns_runtime *runtime) {
  lua_State *L = runtime->L;
  if (uns_list_empty(&runtime->failures)) return runtime->unobserved;
  lua_gc(L, LUA_GCCOLLECT); /* what is garbage reports itself first; then nothing comes in between */
  lua_gc(L, LUA_GCSTOP);
  uns_link *link;
  while ((link = runtime->failures.next) != &runtime->failures) {
    uns_failure *failure = uns_container_of(link, uns_failure, link);
    if (!claim(failure)) continue;
    runtime->unobserved++;
    lua_rawgetp(L, LUA_REGISTRYINDEX, &runtime->failures);
    lua_rawgetp(L, -1, failure);
    if (lua_isuserdata(L, -1)) uns_failure_report(L, -1);
    lua_pop(L, 2);
  }
  lua_gc(L, LUA_GCRESTART);
  return runtime->unobserved;
}

static bool any_to_take(const uns_runtime *runtime) {
  for (const uns_link *link = runtime->failures.next; link != &runtime->failures; link = link->next) {
    if (!is_remote(uns_container_of(link, uns_failure, link))) return true;
  }
  return false;
}

bool uns_failure_take_all(uns_runtime *runtime, lua_State *L) {
  if (!any_to_take(runtime)) return false;
  luaL_checkstack(L, 6, NULL);
  lua_gc(L, LUA_GCCOLLECT); /* each is kept now, or has its future still */
  lua_newtable(L);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &runtime->failures);
  int list = lua_gettop(L) - 1;
  lua_Integer count = 0;
  for (uns_link *link = runtime->failures.next, *next; link != &runtime->failures; link = next) {
    uns_failure *failure = uns_container_of(link, uns_failure, link);
    next = link->next;
    if (lua_rawgetp(L, -1, failure) == LUA_TUSERDATA && !is_remote(failure) &&
        !held_elsewhere(L, lua_gettop(L), failure)) {
      let_go(failure);
      if (claim(failure)) {
        lua_rawseti(L, list, ++count);
        continue;
      }
    }
    lua_pop(L, 1);
  }
  lua_settop(L, count > 0 ? list : list - 1);
  return count > 0;
}

void uns_failure_forget_all(uns_runtime *runtime) {
  uns_link *link;
  while ((link = uns_list_pop_front(&runtime->failures)) != NULL) let_go(uns_container_of(link, uns_failure, link));
}

/* ---- tracebacks ---- */

/*
 * Pops the traceback of an error that an await raised, and the one of where that was, on top: leaves both as one. Of a
 * long chain the ends are kept: a text that grew with each await would cost the square of their number.
 */
static void join_tracebacks(uns_runtime *runtime, lua_State *L) {
  static const char left_out[] = "\n\t...\n";
  const uns_future *future = runtime->current != NULL ? runtime->current->future : NULL;
  const char *name = future != NULL ? future->name : NULL;
  size_t size, rest_size;
  const char *text = lua_tolstring(L, -2, &size), *rest = lua_tolstring(L, -1, &rest_size);
  luaL_Buffer joined;
  luaL_buffinit(L, &joined);
  if (size <= TRACEBACK_MAX) {
    luaL_addlstring(&joined, text, size);
  } else {
    const char *head_end = text + TRACEBACK_MAX / 2, *tail = text + size - TRACEBACK_MAX / 2;
    while (head_end > text && *head_end != '\n') head_end--;
    while (tail > head_end && tail[-1] != '\n') tail--;
    luaL_addlstring(&joined, text, (size_t)(head_end - text));
    luaL_addstring(&joined, left_out);
    luaL_addlstring(&joined, tail, (size_t)(text + size - tail));
  }
  luaL_addstring(&joined, "\nawaited in");
  if (name != NULL) {
    luaL_addchar(&joined, ' ');
    luaL_addstring(&joined, name);
  }
  luaL_addstring(&joined, ":\n");
  luaL_addlstring(&joined, rest, rest_size);
  luaL_pushresult(&joined);
  lua_replace(L, -3);
  lua_pop(L, 1);
}

/* The running task has raised, or caught, the failure on top. */
static void remember(uns_runtime *runtime, lua_State *L) {
  uns_task *task = runtime->current;
  if (task == NULL) return;
  uns_task_extra *extra = uns_task_extra_of(task);
  if (extra == NULL) {
    luaL_error(L, "not enough memory");
    return;
  }
  int last = extra->raised;
  extra->raised = 0;
  if (last != 0) uns_runtime_unpin(runtime, last);
  lua_pushvalue(L, -1);
  extra->raised = uns_runtime_pin(runtime, L);
}

int uns_failure_raise(uns_runtime *runtime, lua_State *L) {
  luaL_checkstack(L, 4, NULL);
  remember(runtime, L);
  lua_getiuservalue(L, -1, UNS_FAILURE_ERROR);
  return lua_error(L);
}

/* Pushes the failure that the running task remembers, and it does so no more, if the error at `error` was that. */
static bool recall(uns_runtime *runtime, lua_State *L, int error) {
  uns_task *task = runtime->current;
  if (task == NULL || task->extra == NULL || task->extra->raised == 0) return false;
  error = lua_absindex(L, error);
  luaL_checkstack(L, 4, NULL);
  uns_runtime_push_pin(runtime, L, task->extra->raised);
  lua_getiuservalue(L, -1, UNS_FAILURE_ERROR);
  bool same = lua_rawequal(L, -1, error);
  lua_pop(L, same ? 1 : 2);
  if (!same) return false;
  uns_runtime_unpin(runtime, task->extra->raised);
  task->extra->raised = 0;
  return true;
}

void uns_failure_push_traceback(uns_runtime *runtime, lua_State *L) {
  bool joined = false;
  if (recall(runtime, L, 1)) {
    const uns_failure *failure = lua_touserdata(L, -1);
    joined = lua_getiuservalue(L, -1, UNS_FAILURE_TRACEBACK) == LUA_TSTRING;
    lua_remove(L, -2);
    if (joined && failure->taken_on == L) return;
    if (!joined) lua_pop(L, 1);
  }
  luaL_traceback(L, L, NULL, 1);
  if (joined) join_tracebacks(runtime, L);
}

/* Pushes a failure of the error at `error` with the traceback on top, which is popped. */
static void push_caught(uns_runtime *runtime, lua_State *L, int error) {
  error = lua_absindex(L, error);
  lua_pushvalue(L, error);
  lua_insert(L, -2);
  const uns_future *future = runtime->current != NULL ? runtime->current->future : NULL;
  uns_failure *caught = uns_failure_push(runtime, L, UNS_KIND_IO, future != NULL ? future->name : NULL);
  caught->taken_on = L;
}

int uns_failure_keep_traceback(lua_State *L) {
  uns_runtime *runtime = uns_runtime_of(L);
  lua_settop(L, 1);
  if (runtime == NULL || runtime->current == NULL) return 1;
  uns_failure_push_traceback(runtime, L);
  push_caught(runtime, L, 1);
  remember(runtime, L);
  lua_settop(L, 1);
  return 1;
}

void uns_failure_push_raised(uns_runtime *runtime, lua_State *L, int error) {
  if (recall(runtime, L, error)) return;
  luaL_checkstack(L, 4, NULL);
  error = lua_absindex(L, error);
  lua_pushnil(L);
  push_caught(runtime, L, error);
}

/* ---- several ---- */

/* Gives the error at `error` the list of the errors in the list of failures, if it can have one. */
static void set_others(lua_State *L, int error, int list) {
  if (!lua_istable(L, error)) return;
  lua_pushliteral(L, "others");
  bool is_free = lua_rawget(L, error) == LUA_TNIL;
  lua_pop(L, 1);
  if (!is_free) return;
  lua_pushliteral(L, "others");
  lua_newtable(L);
  lua_Integer count = 0;
  for (lua_Integer i = 1; lua_rawgeti(L, list, i) != LUA_TNIL; i++) {
    lua_getiuservalue(L, -1, UNS_FAILURE_ERROR);
    if (lua_rawequal(L, -1, error)) lua_pop(L, 1); /* what several waited for has failed */
    else lua_rawseti(L, -3, ++count);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  if (count > 0) lua_rawset(L, error);
  else lua_pop(L, 2);
}

void uns_failure_with_others(uns_runtime *runtime, lua_State *L) {
  int list = lua_gettop(L), self = list - 1;
  luaL_checkstack(L, OTHERS_TOLD + 16, NULL);
  const uns_failure *failure = lua_touserdata(L, self);
  lua_Integer count = (lua_Integer)lua_rawlen(L, list);
  if (count == 0) {
    lua_pop(L, 1);
    return;
  }
  lua_getiuservalue(L, self, UNS_FAILURE_ERROR);
  set_others(L, list + 1, list);
  int first = lua_gettop(L) + 1;
  bool located = lua_getiuservalue(L, self, UNS_FAILURE_TRACEBACK) == LUA_TSTRING;
  if (!located) lua_pop(L, 1);
  const lua_State *taken_on = failure->taken_on;
  if (runtime->current != NULL && (!located || taken_on != L)) { /* where these were waited for comes first */
    luaL_traceback(L, L, NULL, 0);
    if (located) join_tracebacks(runtime, L);
    taken_on = L;
  } else if (!located) {
    lua_pushliteral(L, "");
  }
  for (lua_Integer i = 1; i <= count && i <= OTHERS_TOLD; i++) {
    lua_rawgeti(L, list, i);
    push_account(L, -1);
    lua_pushfstring(L, "%salso failed: %s", i > 1 || lua_rawlen(L, first) > 0 ? "\n" : "", lua_tostring(L, -1));
    lua_replace(L, -3);
    lua_pop(L, 1);
  }
  if (count > OTHERS_TOLD) lua_pushfstring(L, "\nand %I more", (LUAI_UACINT)(count - OTHERS_TOLD));
  lua_concat(L, lua_gettop(L) - first + 1);
  uns_failure *with = uns_failure_push(runtime, L, failure->kind, failure->name);
  with->site = failure->site;
  with->taken_on = taken_on;
  lua_replace(L, self);
  lua_settop(L, self);
}
