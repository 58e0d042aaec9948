#include "host/script.h"
#include "host/signals.h"

#include <lauxlib.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/output.h"
#include "loop/cancel.h"
#include "loop/failure.h"

/* ---- the root task ---- */

static int next_step(lua_State *L, int status, lua_KContext next);

/* Pushes the chunk of a step, or raises its syntax error. */
static void push_chunk(lua_State *L, const uns_step *step) {
  int status;
  switch (step->kind) {
    case UNS_STEP_CODE:
      status = luaL_loadbuffer(L, step->text, step->size_bytes > 0 ? step->size_bytes : strlen(step->text),
                               step->name != NULL ? step->name : "=(command line)");
      break;
    case UNS_STEP_FILE: status = luaL_loadfile(L, step->text); break;
    case UNS_STEP_CALL:
      lua_pushcfunction(L, step->call);
      lua_pushlightuserdata(L, step->data);
      lua_call(L, 1, 2);
      status = LUA_OK;
      break;
    default: lua_getglobal(L, "require"); status = LUA_OK;
  }
  if (status != LUA_OK) lua_error(L);
}

/* `-l mod` and `-l g=mod`: what require returned becomes a global. */
static void set_required(lua_State *L, const char *text) {
  const char *equals = strchr(text, '=');
  if (equals != NULL) lua_pushlstring(L, text, (size_t)(equals - text));
  else lua_pushstring(L, text);
  lua_insert(L, -2);
  lua_pushglobaltable(L);
  lua_insert(L, -3);
  lua_settable(L, -3);
  lua_pop(L, 1);
}

/* The body of the root task: each step in turn, any of which may wait. */
static int run_steps(lua_State *L) { return next_step(L, LUA_OK, 0); }

static int next_step(lua_State *L, int status, lua_KContext next) {
  (void)status;
  const uns_script *script = lua_touserdata(L, 1);
  if (next > 0 && script->steps[next - 1].kind == UNS_STEP_REQUIRE) set_required(L, script->steps[next - 1].text);
  lua_settop(L, 1);
  for (; next < script->step_count; next++) {
    const uns_step *step = &script->steps[next];
    push_chunk(L, step);
    int count = 0;
    if (step->kind == UNS_STEP_REQUIRE) {
      const char *equals = strchr(step->text, '=');
      lua_pushstring(L, equals != NULL ? equals + 1 : step->text);
      count = 1;
    } else if (step->kind == UNS_STEP_CALL) {
      count = 1; /* it lies there already */
    } else if (!step->init && (step->kind == UNS_STEP_FILE || step->name != NULL)) {
      count = script->argc - script->script_index - 1;
      if (count < 0) count = 0;
      luaL_checkstack(L, count, "too many arguments to script");
      for (int i = 0; i < count; i++) lua_pushstring(L, script->argv[script->script_index + 1 + i]);
    }
    lua_callk(L, count, step->kind == UNS_STEP_REQUIRE ? 1 : 0, next + 1, next_step);
    if (step->kind == UNS_STEP_REQUIRE) set_required(L, step->text);
    lua_settop(L, 1);
  }
  return 0;
}

static void set_arg(lua_State *L, const uns_script *script) {
  lua_createtable(L, script->argc, 1);
  for (int i = 0; i < script->argc; i++) {
    lua_pushstring(L, script->argv[i]);
    lua_rawseti(L, -2, i - script->script_index);
  }
  lua_setglobal(L, "arg");
}

/* ---- the end ---- */

/* Tells the failure of the future at `index`, with the traceback of where it failed. */
static void report(uns_runtime *runtime, int index) {
  lua_State *L = runtime->L;
  uns_future_push_error(runtime, L, index);
  uns_future_push_traceback(runtime, L, index);
  lua_pushnil(L);
  lua_pushnil(L);
  uns_failure_tell(runtime, L);
}

static int start_root(lua_State *L) {
  uns_runtime *runtime = lua_touserdata(L, 1);
  set_arg(L, lua_touserdata(L, 2));
  lua_pushcfunction(L, run_steps);
  lua_pushvalue(L, 2);
  uns_task_start(runtime, L, 1, "main");
  lua_pushinteger(L, uns_runtime_pin(runtime, L));
  return 1;
}

/* The turn that this timer ends is all that it is for; it is no hope for anybody. */
static void on_grace(uns_timer *timer, uns_runtime *runtime) {
  (void)timer;
  runtime->limit_timers--;
}

static void disarm_grace(uns_run *run) {
  if (!uns_timer_armed(&run->grace)) return;
  uns_timer_disarm(run->runtime, &run->grace);
  run->runtime->limit_timers--;
}

/* What it started must see that it has failed, before anything else runs. */
static void on_root_settled(uns_waiter *waiter, uns_runtime *runtime, uns_future *future) {
  (void)waiter;
  (void)future;
  runtime->end_turn = true;
}

void uns_script_start(uns_run *run, uns_runtime *runtime, const uns_script *script) {
  *run = (uns_run){.runtime = runtime, .script = script, .unobserved = runtime->unobserved};
  uns_timer_init_real(&run->grace, on_grace);
  run->root_waiter.wake = on_root_settled;
  run->root_waiter.listens = true;
  uns_list_init(&run->root_waiter.link);
  lua_State *L = runtime->L;
  int top = lua_gettop(L);
  lua_pushcfunction(L, start_root);
  lua_pushlightuserdata(L, runtime);
  lua_pushlightuserdata(L, (void *)script);
  if (lua_pcall(L, 2, 1, 0) == LUA_OK) {
    run->root = (int)lua_tointeger(L, -1);
    uns_runtime_push_pin(runtime, L, run->root);
    uns_future *root = lua_touserdata(L, -1);
    run->root_future = root;
    if (!uns_future_settled(root)) uns_future_add_waiter(root, &run->root_waiter);
    run->going = true;
  } else {
    uns_runtime_report(runtime, lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "cannot start the script");
    run->code = 1;
  }
  lua_settop(L, top);
}

/* Where it failed, what it started cannot be wanted any more: it is cancelled, and its clean-up waited for. */
typedef enum { ROOT_GOES_ON, ROOT_DONE, ROOT_FAILED } root_state;

static root_state look_at_root(const uns_run *run) {
  const uns_future *future = run->root_future;
  if (!uns_future_settled(future)) return ROOT_GOES_ON;
  return future->state == UNS_FUTURE_DONE ? ROOT_DONE : ROOT_FAILED;
}

static void end(uns_run *run, bool failed) {
  uns_runtime *runtime = run->runtime;
  lua_State *L = runtime->L;
  run->going = false;
  disarm_grace(run);
  uns_future_remove_waiter(&run->root_waiter);
  if (failed) {
    uns_runtime_push_pin(runtime, L, run->root);
    report(runtime, lua_gettop(L));
    lua_pop(L, 1);
    if (run->code == 0) run->code = 1;
  }
  uns_runtime_unpin(runtime, run->root);
  if (uns_failure_report_all(runtime) > run->unobserved && run->code == 0) run->code = 1;
}

/*
 * Where the root task has failed, or has ended and leaves nothing behind: cancels the rest, and ends the run when that has
 * ended, or had its time.
 */
static bool ends_early(uns_run *run) {
  root_state root = look_at_root(run);
  if (root == ROOT_GOES_ON || (root == ROOT_DONE && !run->leaving)) return false;
  uns_runtime *runtime = run->runtime;
  if (!run->cancelled) uns_script_cancel(run);
  else if (run->spared > 0) run->spared = uns_cancel_all(runtime); /* where a shield has ended meanwhile */
  bool over = runtime->live_count == 0 && uns_cancel_count_calls(runtime) == 0;
  if (!over && uns_clock_ns() - run->cancelled_ns <= runtime->executors->grace_ns) return false;
  end(run, root == ROOT_FAILED);
  return true;
}

bool uns_script_turn(uns_run *run, bool wait) {
  if (!run->going || ends_early(run)) return false;
  uns_runtime *runtime = run->runtime;
  bool alive = uns_runtime_turn(runtime, wait);
  if (ends_early(run)) return false; /* before anybody sleeps */
  if (!wait || !alive) alive = uns_runtime_hopeful(runtime);
  /* What can never go on is told so. */
  if (alive || uns_task_raise_deadlock(runtime)) return true;
  end(run, false);
  return false;
}

void uns_script_cancel(uns_run *run) {
  run->cancelled = true;
  run->cancelled_ns = uns_clock_ns();
  disarm_grace(run);
  /* Where there is no memory for it, a turn that sleeps may sleep for longer. */
  uint64_t end_ns = run->cancelled_ns + run->runtime->executors->grace_ns + 1;
  if (uns_timer_arm(run->runtime, &run->grace, end_ns) == UNS_OK) run->runtime->limit_timers++;
  run->spared = uns_cancel_all(run->runtime);
}

void uns_script_drop(uns_run *run) {
  if (!run->going) return;
  disarm_grace(run);
  uns_future_remove_waiter(&run->root_waiter);
  uns_runtime_unpin(run->runtime, run->root);
  run->going = false;
}

bool uns_script_is_root(const uns_run *run) {
  const uns_task *task = run->runtime->current;
  lua_State *L = run->runtime->L;
  if (task == NULL || !run->going) return run->root == 0;
  uns_runtime_push_pin(run->runtime, L, run->root);
  bool root = lua_touserdata(L, -1) == task->future;
  lua_pop(L, 1);
  return root;
}

void uns_script_leave(uns_run *run, int code) {
  run->code = code;
  run->leaving = true;
}

void uns_script_interrupt(uns_run *run, int code) {
  uns_script_leave(run, code);
  const uns_future *root = run->root_future;
  if (root->task != NULL) uns_task_interrupt(run->runtime, root->task);
  else lua_pop(run->runtime->L, 1); /* it has ended: the next turn asks what is left of its work to stop */
}

/* What was written must be out. A failure that the script has ended for already is not told again. */
static int end_output(int code) {
  int problem = uns_output_flush();
  if (problem == 0) return code;
  if (code == 0 || (problem != EPIPE && problem > 0)) {
    fprintf(stderr, "unsync: cannot write to stdout: %s\n", uns_output_problem(problem));
  }
  return code != 0 ? code : 1;
}

int uns_script_run(uns_runtime *runtime, const uns_script *script) {
  uns_run run = {.runtime = runtime};
  uns_signals_take(&run);
  uns_script_start(&run, runtime, script);
  for (uns_attendant *attendant = script->attendant;;) {
    if (attendant != NULL) attendant->attend(attendant, &run);
    if (!uns_script_turn(&run, true)) break;
    uns_signals_look(&run);
  }
  uns_signals_release();
  return end_output(run.code);
}
