/*
 * api_run: what a host of include/unsync.h runs and calls, each until it has ended or its limit is over.
 *
 * The host itself: api.c.
 */
#include <lauxlib.h>
#include <limits.h>
#include <stdio.h>

#include "host/api_inside.h"
#include "loop/cancel.h"

/* ---- limits ---- */

/* A limit on what the caller waits for: nobody else's hope. */
typedef struct {
  uns_timer timer;
  uns_runtime *runtime;
  bool expired;
} limit;

static void on_limit(uns_timer *timer, uns_runtime *runtime) {
  limit *set = uns_container_of(timer, limit, timer);
  set->expired = true;
  runtime->limit_timers--;
}

static void init_limit(limit *set, uns_runtime *runtime) {
  set->runtime = runtime;
  set->expired = false;
  uns_timer_init_real(&set->timer, on_limit);
}

static int arm_limit(limit *set, uint64_t duration_ns) {
  set->expired = false;
  uint64_t now = uns_clock_ns();
  if (uns_timer_arm(set->runtime, &set->timer, duration_ns < UINT64_MAX - now ? now + duration_ns : UINT64_MAX) !=
      UNS_OK) {
    return UNSYNC_ENOMEM;
  }
  set->runtime->limit_timers++;
  return 0;
}

static void disarm_limit(limit *set) {
  if (!uns_timer_armed(&set->timer)) return;
  uns_timer_disarm(set->runtime, &set->timer);
  set->runtime->limit_timers--;
}

static uint64_t from_ms(uint64_t ms) { return ms < UINT64_MAX / 1000000 ? ms * 1000000 : UINT64_MAX; }

/* ---- running ---- */

int uns_host_begin(unsync_host *host, const uns_step *step, const char *script_name, int argc,
                   const char *const argv[]) {
  if (argc < 0 || argc == INT_MAX || (argc > 0 && argv == NULL)) return UNSYNC_EINVAL;
  const char **all = uns_malloc(((size_t)argc + 1) * sizeof *all); /* arg[0] is the script */
  if (all == NULL) return UNSYNC_ENOMEM;
  all[0] = script_name;
  for (int i = 0; i < argc; i++) all[i + 1] = argv[i];
  uns_host_forget_error(host);
  host->collecting = true;
  host->has_ended = false;
  host->step = *step;
  host->script = (uns_script){.steps = &host->step, .step_count = 1, .argc = argc + 1, .argv = (char **)all};
  uns_script_start(&host->run, host->runtime, &host->script);
  host->script.argc = 0;
  host->script.argv = NULL;
  uns_free(all);
  return 0;
}

int uns_host_ended(unsync_host *host) {
  host->collecting = false;
  return host->run.code == 0 ? 0 : UNSYNC_ESCRIPT;
}

static void say_timeout(unsync_host *host, const char *what, uint64_t timeout_ms) {
  char text[96];
  snprintf(text, sizeof text, "timeout: %s had not ended after %llu ms", what, (unsigned long long)timeout_ms);
  uns_host_keep_error(host, text);
  if (host->options.report != NULL) host->options.report(host->options.context, text);
}

static int run(unsync_host *host, const uns_step *step, const char *script_name, int argc, const char *const argv[],
               uint64_t timeout_ms) {
  int status = uns_host_refusal(host);
  if (status == 0 && host->run.going) status = UNSYNC_EBUSY;
  if (status != 0) return status;
  limit set;
  init_limit(&set, host->runtime);
  if (timeout_ms > 0 && (status = arm_limit(&set, from_ms(timeout_ms))) != 0) return status;
  bool timed_out = false;
  uns_host_enter(host);
  status = uns_host_begin(host, step, script_name, argc, argv);
  if (status != 0) goto out;
  while (uns_script_turn(&host->run, true)) {
    if (!set.expired) continue;
    if (!timed_out) say_timeout(host, "the script", timeout_ms);
    if (!timed_out && arm_limit(&set, host->executors->grace_ns) == 0) {
      timed_out = true;
      uns_script_cancel(&host->run);
    } else { /* it does not end */
      uns_script_drop(&host->run);
      timed_out = true;
      host->over = true;
      host->run.code = 1;
      break;
    }
  }
  status = uns_host_ended(host);
  if (status == UNSYNC_ESCRIPT && timed_out) status = UNSYNC_ETIMEDOUT;
  if (host->runtime->live_count > 0 && timed_out) host->over = true; /* some go on: they would disturb the next run */
out:
  disarm_limit(&set);
  uns_host_leave(host);
  return status;
}

uns_step uns_host_file_step(const char *path) { return (uns_step){.kind = UNS_STEP_FILE, .text = path}; }

uns_step uns_host_string_step(const char *code, size_t size_bytes, const char *name) {
  return (uns_step){.kind = UNS_STEP_CODE,
                    .text = size_bytes > 0 ? code : "",
                    .size_bytes = size_bytes,
                    .name = name != NULL ? name : "=(string)"};
}

int unsync_host_run(unsync_host *host, const char *path, int argc, const char *const argv[], uint64_t timeout_ms) {
  uns_step step = uns_host_file_step(path);
  return run(host, &step, path != NULL ? path : "-", argc, argv, timeout_ms);
}

int unsync_host_run_string(unsync_host *host, const char *code, size_t size_bytes, const char *name, int argc,
                           const char *const argv[], uint64_t timeout_ms) {
  if (code == NULL && size_bytes > 0) return UNSYNC_EINVAL;
  uns_step step = uns_host_string_step(code, size_bytes, name);
  return run(host, &step, step.name, argc, argv, timeout_ms);
}

/* start_call(function, arguments...) -> pin of its future; upvalue: the runtime */
static int start_call(lua_State *L) {
  uns_runtime *runtime = lua_touserdata(L, lua_upvalueindex(1));
  uns_task_start(runtime, L, lua_gettop(L) - 1, "call");
  lua_pushinteger(L, uns_runtime_pin(runtime, L));
  return 1;
}

/* push_outcome(future) -> its results, or raises its error; upvalue: the runtime */
static int push_outcome(lua_State *L) { return uns_future_push_outcome(lua_touserdata(L, lua_upvalueindex(1)), L, 1); }

int uns_host_error_text(lua_State *L) {
  luaL_tolstring(L, 1, NULL);
  return 1;
}

/* The error on top of the stack as text, kept; the error stays. */
static void keep_top(unsync_host *host, lua_State *L) {
  if (!lua_checkstack(L, 4)) return;
  lua_pushcfunction(L, uns_host_error_text);
  lua_pushvalue(L, -2);
  if (lua_pcall(L, 1, 1, 0) == LUA_OK) uns_host_keep_error(host, lua_tostring(L, -1));
  else uns_host_keep_error(host, "(an error object whose tostring failed)");
  lua_pop(L, 1);
}

static uns_future *pinned_future(uns_runtime *runtime, int pin) {
  uns_runtime_push_pin(runtime, runtime->L, pin);
  uns_future *future = lua_touserdata(runtime->L, -1);
  lua_pop(runtime->L, 1);
  return future;
}

/* Turns the loop until the call's future has settled. 0 or UNSYNC_ETIMEDOUT. */
static int await_call(unsync_host *host, int pin, limit *set, uint64_t timeout_ms) {
  uns_runtime *runtime = host->runtime;
  uns_future *future = pinned_future(runtime, pin);
  bool cancelled = false;
  while (!uns_future_settled(future)) {
    if (!uns_runtime_turn(runtime, true)) uns_task_raise_deadlock(runtime);
    if (!set->expired || uns_future_settled(future)) continue;
    if (!cancelled) say_timeout(host, "the call", timeout_ms);
    if (!cancelled && arm_limit(set, host->executors->grace_ns) == 0) {
      cancelled = true;
      uns_cancel_work(runtime, future);
    } else {
      host->over = true;
      return UNSYNC_ETIMEDOUT;
    }
  }
  return cancelled && future->state == UNS_FUTURE_CANCELLED ? UNSYNC_ETIMEDOUT : 0;
}

int unsync_host_call(unsync_host *host, int argument_count, int result_count, uint64_t timeout_ms) {
  int status = uns_host_refusal(host);
  if (status != 0) return status;
  uns_runtime *runtime = host->runtime;
  lua_State *L = runtime->L;
  if (argument_count < 0 || argument_count >= lua_gettop(L) || result_count < LUA_MULTRET) return UNSYNC_EINVAL;
  if (!lua_checkstack(L, LUA_MINSTACK)) return UNSYNC_ENOMEM;
  limit set;
  init_limit(&set, runtime);
  if (timeout_ms > 0 && (status = arm_limit(&set, from_ms(timeout_ms))) != 0) return status;
  uns_host_enter(host);
  bool run_collects = host->collecting;
  if (!host->run.going) uns_host_forget_error(host);
  host->collecting = true;
  int base = lua_gettop(L) - argument_count - 1;
  lua_pushlightuserdata(L, runtime);
  lua_pushcclosure(L, start_call, 1);
  lua_insert(L, base + 1);
  if (lua_pcall(L, argument_count + 1, 1, 0) == LUA_OK) {
    int pin = (int)lua_tointeger(L, -1);
    lua_pop(L, 1);
    status = await_call(host, pin, &set, timeout_ms);
    if (status == 0) {
      lua_pushlightuserdata(L, runtime);
      lua_pushcclosure(L, push_outcome, 1);
      uns_runtime_push_pin(runtime, L, pin);
      if (lua_pcall(L, 1, result_count, 0) != LUA_OK) status = UNSYNC_ESCRIPT;
    } else {
      uns_runtime_push_pin(runtime, L, pin);
      uns_future_observe(runtime, L, -1); /* told already */
      lua_pop(L, 1);
    }
    uns_runtime_unpin(runtime, pin);
  } else {
    status = UNSYNC_ESCRIPT;
  }
  if (status == UNSYNC_ESCRIPT) keep_top(host, L);
  host->collecting = run_collects;
  disarm_limit(&set);
  uns_host_leave(host);
  return status;
}

struct lua_State *unsync_host_lua(unsync_host *host) {
  return host->runtime->L;
}
