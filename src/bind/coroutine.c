#include "bind/coroutine.h"

#include "bind/stdlib.h"
#include "loop/cancel.h"

enum { FAILED = -1, WAITS = -2 };

/*
 * Frames of a closed coroutine that are searched for what its clean-up will call. Finding a frame costs its depth, so
 * the search is quadratic: a thousand take half a millisecond. Deeper, clean-up cannot wait, as in stock Lua.
 */
enum { SEARCHED_FRAMES_MAX = 1000 };

/* ---- where are we? ---- */

/* A thread that is the base of a task. Of those that run now, only the innermost is known, which is who asks. */
static bool is_task(const uns_runtime *runtime, const lua_State *co) {
  if (runtime->current != NULL && runtime->current->co == co) return true;
  if (lua_status((lua_State *)co) != LUA_YIELD) return false;
  for (const uns_link *link = runtime->tasks.next; link != &runtime->tasks; link = link->next) {
    if (uns_container_of(link, uns_task, live_link)->co == co) return true;
  }
  return false;
}

static bool is_current_task(const uns_runtime *runtime, const lua_State *L) {
  return runtime->current != NULL && runtime->current->co == L;
}

/* The coroutine at index 1. */
static lua_State *check_coroutine(lua_State *L) {
  lua_State *co = lua_tothread(L, 1);
  luaL_argexpected(L, co != NULL, 1, "thread");
  return co;
}

/* On the main thread a wait turns the loop where it stands; this is the continuation that has nothing to continue. */
static int stay(lua_State *L, int status, lua_KContext context) {
  (void)L, (void)status, (void)context;
  return 0;
}

static bool waits_in_place(const uns_runtime *runtime, const lua_State *L) {
  return L == runtime->L && runtime->current != NULL && runtime->current->is_main;
}

/* ---- resume ---- */

/*
 * Resumes `co` with the `count` values on top of L. Returns the number of results, now on L; FAILED with the error on
 * L; WAITS: L must wait, and then `transfer_again`. Inline, as what it calls: see uns_task_resume_user.
 */
static inline int transfer(lua_State *L, uns_runtime *runtime, lua_State *co, int count) {
  if (!lua_checkstack(co, count)) {
    lua_pushliteral(L, "too many arguments to resume");
    return FAILED;
  }
  lua_xmove(L, co, count);
  int results;
  int status = uns_task_resume_user(runtime, L, co, count, &results);
  if (status == LUA_YIELD && runtime->parking) return WAITS;
  if (status == LUA_OK || status == LUA_YIELD) {
    if (lua_checkstack(L, results + 1)) {
      lua_xmove(co, L, results);
      return results;
    }
    lua_pop(co, results);
    lua_pushliteral(L, "too many results to resume");
    return FAILED;
  }
  lua_xmove(co, L, 1);
  return FAILED;
}

static int transfer_again(lua_State *L, uns_runtime *runtime, lua_State *co) {
  lua_pop(co, 1); /* the mark of its wait */
  return transfer(L, runtime, co, 0);
}

/* The first `transfer` of a resume. */
static inline int enter(lua_State *L, uns_runtime *runtime, lua_State *co, int count) {
  if (!uns_task_waits(co)) return transfer(L, runtime, co, count);
  lua_pushliteral(L, "cannot resume non-suspended coroutine (it waits)");
  return FAILED;
}

static int finish_resume(lua_State *L, uns_runtime *runtime, lua_State *co, int results, bool in_clean_up) {
  bool fine = results >= 0;
  if (!fine) {
    if (runtime->barriers > 0 && lua_status(co) > LUA_YIELD) uns_stdlib_leave_dead(L, runtime, co);
    uns_cancel_caught(runtime, L, in_clean_up);
  }
  int count = fine ? results : 1;
  lua_pushboolean(L, fine);
  lua_insert(L, -(count + 1));
  return count + 1;
}

static int after_resume_wait(lua_State *L, int status, lua_KContext context);

/* What `resume` does after the first, or any other, transfer. */
static int go_on_resume(lua_State *L, uns_runtime *runtime, lua_State *co, int results, bool in_clean_up) {
  while (results == WAITS) {
    if (!waits_in_place(runtime, L)) return uns_task_pass_on(runtime, L, in_clean_up, after_resume_wait);
    uns_task_pass_on(runtime, L, 0, stay);
    results = transfer_again(L, runtime, co);
  }
  return finish_resume(L, runtime, co, results, in_clean_up);
}

static int after_resume_wait(lua_State *L, int status, lua_KContext context) {
  (void)status;
  uns_runtime *runtime = uns_upvalue_runtime(L);
  lua_State *co = lua_tothread(L, 1);
  return go_on_resume(L, runtime, co, transfer_again(L, runtime, co), context != 0);
}

/* resume(co, ...) -> true, ... | false, error */
static int coroutine_resume(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  lua_State *co = check_coroutine(L);
  bool in_clean_up = uns_cancel_in_clean_up(runtime);
  int results = enter(L, runtime, co, lua_gettop(L) - 1);
  if (results < 0) return go_on_resume(L, runtime, co, results, in_clean_up);
  lua_pushboolean(L, 1);
  lua_insert(L, -(results + 1));
  return results + 1;
}

/* ---- clean-up ---- */

/*
 * lua_resetthread calls the pending __close metamethods behind a C function, where nothing can wait. So, while it runs,
 * the metatables in question get a recorder in the place of __close; what it has noted down is then called here, in the
 * same order, on the same coroutine, where a wait is possible.
 */

/* The recorder, for the duration of one lua_resetthread: notes down which object's turn it is. Allocates nothing. */
static int record(lua_State *co) {
  int *count = lua_touserdata(co, lua_upvalueindex(2));
  lua_settop(co, 1);
  lua_rawseti(co, lua_upvalueindex(1), ++*count);
  return 0;
}

/*
 * Looks through all slots of `co`'s stack for values that have __close. Pushes a table on L, from metatable to the
 * __close it has, and returns how many slots there were; or pushes nothing, and returns 0. `co` is as before.
 */
static int find_closable(lua_State *L, lua_State *co) {
  lua_Debug frame;
  if (!lua_getstack(co, 0, &frame) || lua_getstack(co, SEARCHED_FRAMES_MAX, &frame)) return 0;
  luaL_checkstack(L, 8, NULL);
  int top = lua_gettop(L), found = 0;
  lua_pushnil(L); /* the table, once there is something to put in */
  lua_pushliteral(L, "__close");
  for (int level = 0; lua_getstack(co, level, &frame) && lua_checkstack(co, 1); level++) {
    for (int slot = 1; lua_getlocal(co, &frame, slot) != NULL; slot++) {
      lua_xmove(co, L, 1);
      if (!lua_getmetatable(L, -1)) {
        lua_pop(L, 1);
        continue;
      }
      lua_pushvalue(L, top + 2);
      if (lua_rawget(L, -2) != LUA_TNIL) {
        if (found++ == 0) {
          lua_newtable(L);
          lua_replace(L, top + 1);
        }
        lua_rawset(L, top + 1);
        lua_pop(L, 1);
      } else {
        lua_pop(L, 3);
      }
    }
  }
  lua_settop(L, found > 0 ? top + 1 : top);
  return found;
}

/* Puts the value at index `recorder` in the place of each __close in the table at `metatables`; 0: what was there. */
static void swap_close(lua_State *L, int metatables, int recorder) {
  for (lua_pushnil(L); lua_next(L, metatables);) {
    lua_pushvalue(L, metatables + 1);
    lua_pushvalue(L, recorder != 0 ? recorder : -2);
    lua_rawset(L, -4);
    lua_pop(L, 1);
  }
}

/* Who closes a coroutine, which says where it lies: an argument of close, an upvalue of the generator. */
typedef enum { BY_CLOSE, BY_WRAP } closed_by;

static int thread_index(closed_by by) { return by == BY_CLOSE ? 1 : lua_upvalueindex(2); }

/* Slots of uns_run_closers. */
enum { CLOSER_LIST = 1, CLOSER_ERROR, CLOSER_STATUS };

/* Calls the __close metamethods of the list: an error of one is what the next ones get. Returns error and status. */
static int after_closer(lua_State *co, int status, lua_KContext done) {
  for (;;) {
    if (status != LUA_OK && status != LUA_YIELD) {
      lua_replace(co, CLOSER_ERROR);
      lua_pushinteger(co, status);
      lua_replace(co, CLOSER_STATUS);
    }
    lua_settop(co, CLOSER_STATUS);
    if (lua_rawgeti(co, CLOSER_LIST, ++done) == LUA_TNIL) break;
    if (luaL_getmetafield(co, -1, "__close") == LUA_TNIL) lua_pushnil(co); /* lost meanwhile: calling it fails */
    lua_insert(co, -2);
    lua_pushvalue(co, CLOSER_ERROR);
    status = lua_pcallk(co, 2, 0, 0, done, after_closer);
  }
  lua_settop(co, CLOSER_STATUS);
  return 2;
}

int uns_run_closers(lua_State *co) { return after_closer(co, LUA_OK, 0); }

/*
 * lua_resetthread, but what it would call is left to uns_run_closers, which then lies with its arguments, ready to be
 * resumed, on the stack of `co`, and this returns true. Otherwise only the error is there, if `status` says so.
 */
static bool reset(lua_State *L, lua_State *co, int *status) {
  int slots = find_closable(L, co);
  if (slots == 0) {
    *status = lua_resetthread(co);
    return false;
  }
  luaL_checkstack(L, 12, NULL);
  int metatables = lua_gettop(L), count = 0;
  lua_pushliteral(L, "__close");
  lua_createtable(L, slots, 0);
  lua_pushvalue(L, -1);
  lua_pushlightuserdata(L, &count);
  lua_pushcclosure(L, record, 2);
  lua_Hook hook = lua_gethook(co);
  int mask = lua_gethookmask(co), hook_count = lua_gethookcount(co);
  /* From here on, until all is back in its place, nothing allocates, raises or runs a line of the script. */
  lua_sethook(co, NULL, 0, 0);
  swap_close(L, metatables, metatables + 3);
  *status = lua_resetthread(co);
  swap_close(L, metatables, 0);
  lua_sethook(co, hook, mask, hook_count);
  lua_settop(L, metatables + 2);
  if (count > 0) { /* a thread that was just reset has room enough */
    if (*status == LUA_OK) lua_pushnil(co);
    lua_pushcfunction(co, uns_run_closers);
    lua_insert(co, 1);
    lua_xmove(L, co, 1);
    lua_insert(co, 2);
    lua_pushinteger(co, *status);
  }
  lua_settop(L, metatables - 1);
  return count > 0;
}

/* ---- close ---- */

/* `co` is empty but for its error, if `status` says so: what the caller of close, or of the generator, gets. */
static int finish_close(lua_State *L, lua_State *co, int status, closed_by by) {
  if (status != LUA_OK) lua_xmove(co, L, 1);
  lua_settop(co, 0);
  if (by == BY_CLOSE) {
    lua_pushboolean(L, status == LUA_OK);
    if (status == LUA_OK) return 1;
    lua_insert(L, -2);
    return 2;
  }
  if (status != LUA_ERRMEM && lua_type(L, -1) == LUA_TSTRING) {
    luaL_where(L, 1);
    lua_insert(L, -2);
    lua_concat(L, 2);
  }
  return lua_error(L);
}

static int after_close_wait(lua_State *L, int status, lua_KContext context);

/* Runs uns_run_closers on `co`, started with `count` arguments, or resumed with none. */
static int go_on_close(lua_State *L, uns_runtime *runtime, lua_State *co, int count, closed_by by) {
  for (;;) {
    int results;
    int status = uns_task_resume_user(runtime, L, co, count, &results);
    count = 0;
    if (status == LUA_YIELD) {
      if (!runtime->parking) lua_pop(co, results); /* of code that knows no coroutine.yield: there is no consumer */
      else if (!waits_in_place(runtime, L)) return uns_task_pass_on(runtime, L, by, after_close_wait);
      else uns_task_pass_on(runtime, L, 0, stay), lua_pop(co, 1);
      continue;
    }
    runtime->barriers--;
    if (status == LUA_OK) {
      status = (int)lua_tointeger(co, -1);
      lua_pop(co, 1);
    } else { /* uns_run_closers itself broke: no memory */
      status = lua_resetthread(co);
    }
    return finish_close(L, co, status, by);
  }
}

static int after_close_wait(lua_State *L, int status, lua_KContext context) {
  (void)status;
  lua_State *co = lua_tothread(L, thread_index((closed_by)context));
  lua_pop(co, 1); /* the mark of its wait */
  return go_on_close(L, uns_upvalue_runtime(L), co, 0, (closed_by)context);
}

static int close_thread(lua_State *L, uns_runtime *runtime, lua_State *co, closed_by by) {
  int status;
  if (!reset(L, co, &status)) return finish_close(L, co, status, by);
  runtime->barriers++;
  return go_on_close(L, runtime, co, CLOSER_STATUS, by);
}

/* ---- the rest of the library ---- */

static const char *status_of(lua_State *L, lua_State *co) {
  if (L == co) return "running";
  lua_Debug frame;
  switch (lua_status(co)) {
    case LUA_YIELD: return uns_task_waits(co) ? "normal" : "suspended";
    case LUA_OK:
      if (lua_getstack(co, 0, &frame)) return "normal"; /* it has resumed another */
      return lua_gettop(co) == 0 ? "dead" : "suspended";
    default: return "dead";
  }
}

/* status(co) -> "running" | "suspended" | "normal" | "dead" */
static int coroutine_status(lua_State *L) {
  lua_pushstring(L, status_of(L, check_coroutine(L)));
  return 1;
}

/* close(co) -> true | false, error */
static int coroutine_close(lua_State *L) {
  lua_State *co = check_coroutine(L);
  const char *status = status_of(L, co);
  if (*status != 's' && *status != 'd') {
    return luaL_error(L, "cannot close a %s coroutine%s", status, uns_task_waits(co) ? " (it waits)" : "");
  }
  return close_thread(L, uns_upvalue_runtime(L), co, BY_CLOSE);
}

static int after_item_wait(lua_State *L, int status, lua_KContext context);

static int go_on_item(lua_State *L, uns_runtime *runtime, lua_State *co, int results) {
  while (results == WAITS) {
    if (!waits_in_place(runtime, L)) return uns_task_pass_on(runtime, L, 0, after_item_wait);
    uns_task_pass_on(runtime, L, 0, stay);
    results = transfer_again(L, runtime, co);
  }
  if (results >= 0) return results;
  int status = lua_status(co);
  if (status != LUA_OK && status != LUA_YIELD) return close_thread(L, runtime, co, BY_WRAP);
  luaL_where(L, 1); /* the coroutine is as it was: only resuming it failed */
  lua_insert(L, -2);
  lua_concat(L, 2);
  return lua_error(L);
}

static int after_item_wait(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  uns_runtime *runtime = uns_upvalue_runtime(L);
  lua_State *co = lua_tothread(L, lua_upvalueindex(2));
  return go_on_item(L, runtime, co, transfer_again(L, runtime, co));
}

/* A generator: wrap(fn)(...) -> the next item */
static int next_item(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  lua_State *co = lua_tothread(L, lua_upvalueindex(2));
  int results = enter(L, runtime, co, lua_gettop(L));
  return results >= 0 ? results : go_on_item(L, runtime, co, results);
}

/* wrap(fn) -> function */
static int coroutine_wrap(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_State *co = lua_newthread(L);
  lua_pushvalue(L, 1);
  lua_xmove(L, co, 1);
  lua_pushcclosure(L, next_item, 2);
  return 1;
}

/* yield(...) -> what the next resume passes */
static int coroutine_yield(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  if (is_current_task(runtime, L)) {
    lua_pushliteral(L, "attempt to yield from outside a coroutine");
    return lua_error(L);
  }
  if (runtime->barriers > 0 && uns_stdlib_behind_barrier(L, runtime)) {
    lua_pushliteral(L, "attempt to yield across a C-call boundary");
    return lua_error(L);
  }
  return lua_yield(L, lua_gettop(L));
}

/* running() -> thread, whether it is the main one, or a task's, which is as good */
static int coroutine_running(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  bool base = lua_pushthread(L) != 0;
  if (is_current_task(runtime, L)) {
    runtime->current->seen = true; /* the script may hold on to it: its coroutine is not for another task */
    base = true;
  }
  lua_pushboolean(L, base);
  return 2;
}

/* isyieldable([co]) -> boolean */
static int coroutine_isyieldable(lua_State *L) {
  const uns_runtime *runtime = uns_upvalue_runtime(L);
  lua_State *co = lua_isnone(L, 1) ? L : check_coroutine(L);
  lua_pushboolean(L, lua_isyieldable(co) && !is_task(runtime, co) && !uns_stdlib_behind_barrier(co, runtime));
  return 1;
}

static const luaL_Reg functions[] = {{"close", coroutine_close},   {"isyieldable", coroutine_isyieldable},
                                     {"resume", coroutine_resume}, {"running", coroutine_running},
                                     {"status", coroutine_status}, {"wrap", coroutine_wrap},
                                     {"yield", coroutine_yield},   {NULL, NULL}};

void uns_bind_coroutine(lua_State *L, uns_runtime *runtime) {
  if (!uns_stdlib_push_library(L, "coroutine")) return;
  uns_stdlib_replace(L, runtime, functions);
  lua_pop(L, 1);
}
