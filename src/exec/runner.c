/*
 * runner: one job, here and now, in this thread's state; native or Lua.
 *
 * Each call is a scope of its own: it has ended when its function has returned and all that it started has ended, and
 * fails with what failed in it unseen.
 * Whose thread this is, and what comes next: pool.c, child.c.
 */
#include <lauxlib.h>
#include <string.h>

#include "core/codec.h"
#include "core/error.h"
#include "core/recorder.h"
#include "exec/call.h"
#include "exec/executors.h"
#include "exec/interrupt.h"
#include "loop/failure.h"
#include "loop/group.h"
#include "loop/package_path.h"
#include "loop/task.h"
#include "loop/test_clock.h"

/* Turns the loop until the future at `index` has settled and all that belongs to the call has ended. Whoever asks the job to
   stop sets its flag and wakes the loop. */
static void drive(uns_runtime *runtime, int index) {
  const uns_future *future = lua_touserdata(runtime->L, index);
  uns_group *scope = runtime->root;
  while (!uns_future_settled(future) || runtime->live_count > 0 || scope->count > 0) {
    uns_interrupt_look(runtime);
    if (uns_future_settled(future) && future->state != UNS_FUTURE_DONE && !scope->cancelled) uns_group_cancel(scope);
    if (!uns_runtime_turn(runtime, true) && !uns_task_raise_deadlock(runtime)) break;
  }
}

/* Functions are placed as they are at the caller's. */
static void follow_placement(lua_State *L, uns_runtime *runtime, const char *rules) {
  if (strcmp(runtime->placement != NULL ? runtime->placement : "", rules) == 0) return;
  runtime->follow_placement(runtime, L, rules);
}

static int require_all(lua_State *L);
static int required(lua_State *L, int status, lua_KContext next) {
  (void)status;
  int count = lua_gettop(L);
  if ((int)next > count) return 0;
  lua_getglobal(L, "require");
  lua_pushvalue(L, (int)next);
  lua_callk(L, 1, 0, next + 1, required);
  return required(L, LUA_OK, next + 1);
}
static int require_all(lua_State *L) { return required(L, LUA_OK, 1); }

/* What the future at `index` came to is what the call did. */
static void encode_outcome(uns_runtime *runtime, int index, uns_job *job) {
  uns_packet_clear(&job->result);
  switch (uns_future_encode(runtime, runtime->L, index, &job->result)) {
    case UNS_FUTURE_DONE: job->outcome = UNS_OUTCOME_DONE; break;
    case UNS_FUTURE_CANCELLED: job->outcome = UNS_OUTCOME_CANCELLED; break;
    default: job->outcome = UNS_OUTCOME_FAILED;
  }
  uns_future_observe(runtime, runtime->L, index);
}

/* Of a call that was cancelled. What died of a cancellation in it is none of the failures that anybody has to hear of. */
static void report_all(lua_State *L, int list) {
  for (lua_Integer i = 1; lua_rawgeti(L, list, i) != LUA_TNIL; i++) {
    lua_getiuservalue(L, -1, UNS_FAILURE_ERROR);
    bool stopped = uns_error_is(L, -1, "cancelled");
    lua_pop(L, 1);
    if (!stopped) uns_failure_report(L, -1);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

/* Inserts the first of the list on top under it, taken out of it. */
static void take_first(lua_State *L) {
  lua_rawgeti(L, -1, 1);
  lua_insert(L, -2);
  lua_Integer count = (lua_Integer)lua_rawlen(L, -1);
  for (lua_Integer i = 1; i <= count; i++) {
    lua_rawgeti(L, -1, i + 1);
    lua_rawseti(L, -2, i);
  }
}

/*
 * What failed in the call, and nobody looked at, is the failure of the call, the oldest first; or comes with the one that it
 * has. Where it was cancelled, they are told. What goes home with the outcome is its receivers' to look at.
 */
static void add_failures(uns_runtime *runtime, lua_State *L, int index, uns_job *job) {
  const uns_future *future = lua_touserdata(L, index);
  if (future->state == UNS_FUTURE_FAILED) uns_future_push_failure(L, index);
  if (!uns_failure_take_all(runtime, L)) {
    lua_settop(L, index);
    return;
  }
  if (future->state == UNS_FUTURE_CANCELLED) {
    report_all(L, index + 1);
    lua_settop(L, index);
    return;
  }
  if (future->state == UNS_FUTURE_DONE) take_first(L);
  uns_failure_with_others(runtime, L);
  uns_future_push(runtime, L, UNS_KIND_IO, future->name);
  lua_replace(L, index);
  lua_getiuservalue(L, index + 1, UNS_FAILURE_ERROR);
  lua_getiuservalue(L, index + 1, UNS_FAILURE_TRACEBACK);
  uns_future_fail(runtime, L, index, UNS_FUTURE_FAILED);
  encode_outcome(runtime, index, job);
  lua_settop(L, index);
}

/* Loads the modules that the call refers to, as a task of its own, since their bodies may wait. */
static bool load_modules(uns_runtime *runtime, uns_job *job) {
  lua_State *L = runtime->L;
  int top = lua_gettop(L);
  int count = uns_codec_modules(L, &job->call);
  if (count <= 0) return true;
  lua_pushcfunction(L, require_all);
  lua_insert(L, top + 1);
  runtime->root_id = runtime->last_task_id + 1;
  uns_task_start(runtime, L, count, "require");
  drive(runtime, top + 1);
  uns_future *future = lua_touserdata(L, top + 1);
  bool fine = future->state == UNS_FUTURE_DONE;
  if (!fine) { encode_outcome(runtime, top + 1, job); }
  lua_settop(L, top);
  return fine;
}

/* The error object on top of L is the outcome: popped. */
static void fail_with_top(lua_State *L, uns_job *job) {
  static const uns_codec_names names = {"error", 0, false};
  lua_pushnil(L);
  if (uns_codec_encode(L, lua_gettop(L) - 1, 2, &names, &job->result) == UNS_OK) {
    job->outcome = UNS_OUTCOME_FAILED;
  } else {
    uns_job_fail(job, "ENOMEM", "not enough memory to run %s", job->function->name);
    lua_pop(L, 1);
  }
  lua_pop(L, 2);
}

/*
 * Its tasks so far, which loaded modules, may have been told already; those to come have not. True: it ends here, as a
 * call that was cancelled before it began.
 */
static bool stopped(uns_runtime *runtime, uns_job *job) {
  runtime->job_told = false;
  if (atomic_load_explicit(&job->cancel, memory_order_relaxed) == 0) return false;
  uns_packet_deinit(&job->result); /* what `require` made of it */
  uns_error_push(runtime->L, "cancelled", "%s was cancelled", job->function->name);
  lua_pushliteral(runtime->L, "queue");
  lua_setfield(runtime->L, -2, "stopped_by");
  fail_with_top(runtime->L, job);
  if (job->outcome == UNS_OUTCOME_FAILED) job->outcome = UNS_OUTCOME_CANCELLED;
  return true;
}

static int run_lua(lua_State *L) {
  uns_job *job = lua_touserdata(L, 1);
  uns_runtime *runtime = uns_runtime_of(L);
  runtime->root = uns_group_new(runtime);
  if (runtime->root == NULL) return luaL_error(L, "not enough memory");
  if (job->search_path != NULL) {
    follow_placement(L, runtime, uns_search_path_rules(job->search_path));
    uns_package_path_set(runtime, L, job->search_path);
  }
  bool loaded = load_modules(runtime, job);
  if (stopped(runtime, job) || !loaded) return 0;
  int top = lua_gettop(L);
  int count = uns_codec_decode(L, &job->call);
  if (count < 1) {
    if (count == 0) uns_error_push(L, "EINVAL", "a call without a function");
    fail_with_top(L, job);
    return 0;
  }
  uns_packet_empty(&job->call); /* lets go of lent strings before the work begins */
  runtime->root_id = runtime->last_task_id + 1;
  uns_task_start(runtime, L, count - 1, uns_runtime_intern(runtime, L, job->function->name));
  lua_settop(L, top + 1);
  drive(runtime, top + 1);
  uns_future *future = lua_touserdata(L, top + 1);
  if (!uns_future_settled(future)) {
    uns_job_fail(job, "deadlock", "deadlock: %s waits for what can never happen", job->function->name);
    return 0;
  }
  encode_outcome(runtime, top + 1, job);
  add_failures(runtime, L, top + 1, job);
  return 0;
}

static void end_scope(uns_runtime *runtime) {
  uns_group *scope = runtime->root;
  if (scope == NULL) return;
  runtime->root = NULL;
  scope->ended = true;
  uns_group_unref(scope);
}

static void run_job(uns_runtime *runtime, uns_job *job) {
  if (job->function->native != NULL) {
    uns_call_native(runtime->executors, job);
    return;
  }
  lua_State *L = runtime->L;
  if (uns_mailbox_has_mail(runtime->mailbox))
    uns_runtime_turn(runtime, false); /* strings that calls before this one lent */
  bool script = atomic_exchange(&runtime->party.at_work, true); /* in a worker process it is so all the time */
  runtime->job = job;
  job->runtime = runtime;
  atomic_store(&runtime->party.call, job);
  runtime->job_told = false;
  uns_interrupt_listen(runtime);
  lua_settop(L, 0);
  lua_pushcfunction(L, run_lua);
  lua_pushlightuserdata(L, job);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) { /* no memory, for all else is caught in the task */
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "an error in the runner";
    uns_job_fail(job, "ENOMEM", "%s: %s", job->function->name, text);
    uns_failure_forget_all(runtime); /* what has failed in this call must not be the failure of the next */
    lua_settop(L, 0);
  }
  uns_interrupt_listen(NULL);
  if (__builtin_expect(runtime->test_clock != NULL || runtime->shuffle != 0 || runtime->inline_kinds != 0, 0)) {
    uns_test_clock_end(runtime); /* one that the call has left must not be the next one's */
  }
  end_scope(runtime);
  runtime->job = NULL;
  runtime->root_id = 0;
  job->runtime = NULL;
  atomic_store(&runtime->party.call, NULL);
  atomic_store(&runtime->party.at_work, script);
}

void uns_runner_run(uns_runtime *runtime, uns_job *job) {
  job->started_ns = uns_clock_ns();
  atomic_store_explicit(&job->state, UNS_JOB_STARTED, memory_order_release);
  uns_runtime_tell_awake(runtime);
  if (job->record.recorder == NULL) {
    run_job(runtime, job);
    return;
  }
  uns_recorder_job_starts(job, runtime->track);
  run_job(runtime, job);
  uns_recorder_job_ends(job, runtime->track);
}

/* A state holds some 300 KiB from the start, and a collection of no more than twice what is alive frees little. */
enum { REST_LEAST_KIB = 2048 };

void uns_runner_rest(uns_runtime *runtime) {
  lua_State *L = runtime->L;
  int now_kib = lua_gc(L, LUA_GCCOUNT);
  if (now_kib - runtime->rested_kib < REST_LEAST_KIB || now_kib / 2 < runtime->rested_kib) return;
  lua_gc(L, LUA_GCCOLLECT);
  lua_gc(L, LUA_GCCOLLECT); /* what had a finalizer */
  runtime->rested_kib = lua_gc(L, LUA_GCCOUNT);
  if (uns_mailbox_has_mail(runtime->mailbox)) uns_runtime_turn(runtime, false);
}
