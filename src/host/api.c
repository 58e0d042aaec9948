/*
 * api: include/unsync.h over the runtime: a host inside somebody else's program.
 *
 *   - A host belongs to one thread. `post` is the way in for others: it only touches the mailbox.
 *   - `inside` is set as long as a call of ours is on the C stack: nothing that turns the loop may be called from there.
 *   - Between turns the loop is asleep, as its sources and its mailbox see it: so news makes its descriptor readable.
 * The program does the same with less: cli.c. How a script runs: script.c.
 */
#include "unsync.h"

#include <errno.h>
#include <lauxlib.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "host/program.h"
#include "host/script.h"
#include "host/state.h"
#include "loop/cancel.h"

struct unsync_host {
  unsync_options options;
  uns_executors *executors;
  uns_runtime *runtime; /* owned */
  uv_thread_t thread;   /* the host's */
  uns_step step;
  uns_script script;
  uns_run run;
  char *error; /* what went wrong, zero-terminated; owned; NULL: nothing, or no memory */
  size_t error_bytes;
  int timeout_ms; /* how long the loop may sleep, as of when it fell asleep at `slept_ns` */
  uint64_t slept_ns;
  unsigned holds;
  bool inside, collecting, asleep, over, has_ended;
  bool lost_text; /* there was no memory for an error's text */
};

const char *unsync_version(void) { return UNSYNC_VERSION; }

const char *unsync_code_text(int code) {
  switch (code) {
    case 0: return "no error";
    case UNSYNC_AGAIN: return "there is more to come";
    case UNSYNC_ENOMEM: return "not enough memory";
    case UNSYNC_EINVAL: return "invalid argument";
    case UNSYNC_ESCRIPT: return "an error in the script";
    case UNSYNC_ETIMEDOUT: return "timeout";
    case UNSYNC_EBUSY: return "the host is busy";
    case UNSYNC_ECLOSED: return "the host has timed out and can only be freed";
    case UNSYNC_ETHREAD: return "not the host's thread";
    case UNSYNC_ESYSTEM: return "a system call failed";
    case UNSYNC_ESTUCK: return "a thread stands in foreign code";
    default: return "unknown code";
  }
}

/* ---- errors ---- */

static void forget_error(unsync_host *host) {
  uns_free(host->error);
  host->error = NULL;
  host->error_bytes = 0;
  host->lost_text = false;
}

/* One more line, or several, below what is there. */
static void keep_error(unsync_host *host, const char *text) {
  size_t size = strlen(text), gap = host->error_bytes > 0 ? 1 : 0;
  char *grown = uns_realloc(host->error, host->error_bytes + gap + size + 1);
  if (grown == NULL) {
    host->lost_text = true;
    return;
  }
  if (gap > 0) grown[host->error_bytes] = '\n';
  memcpy(grown + host->error_bytes + gap, text, size + 1);
  host->error = grown;
  host->error_bytes += gap + size;
}

const char *unsync_host_error(const unsync_host *host) {
  if (host->error != NULL) return host->error;
  return host->lost_text ? "an error, for whose text there was not enough memory" : "";
}

static void tell_stderr(const char *text) {
  fflush(stdout);
  fprintf(stderr, "unsync: %s\n", text);
}

/* The runtime's `report`. */
static void on_report(uns_runtime *runtime, const char *text) {
  unsync_host *host = runtime->owner;
  if (host->collecting) keep_error(host, text);
  if (host->options.report != NULL) host->options.report(host->options.context, text);
  else if (!host->collecting) tell_stderr(text);
}

/* ---- states ---- */

/* Calls `setup`, if there is one. False after telling its error. */
static bool set_up(unsync_host *host, uns_runtime *runtime, bool is_thread) {
  if (host->options.setup == NULL) return true;
  lua_State *L = runtime->L;
  int top = lua_gettop(L);
  lua_pushcfunction(L, host->options.setup);
  lua_pushlightuserdata(L, host->options.context);
  lua_pushboolean(L, is_thread);
  bool fine = lua_pcall(L, 2, 0, 0) == LUA_OK;
  if (!fine) {
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "an error that is no string";
    lua_pushfstring(L, "the setup of a Lua state failed: %s", text);
    if (host->options.report != NULL) host->options.report(host->options.context, lua_tostring(L, -1));
    else tell_stderr(lua_tostring(L, -1));
    if (is_thread) uns_executors_state_problem(lua_tostring(L, -1));
  }
  lua_settop(L, top);
  return fine;
}

/* A thread's state. On that thread. */
static uns_runtime *new_state(uns_executors *executors) {
  uns_runtime *runtime = uns_state_new(executors);
  if (runtime == NULL || set_up(executors->owner, runtime, true)) return runtime;
  uns_state_free(runtime);
  errno = ECANCELED;
  return NULL;
}

/* ---- making and freeing ---- */

/* False if the caller was compiled against something that this library does not know. */
static bool read_options(unsync_options *read, const unsync_options *given) {
  memset(read, 0, sizeof *read);
  if (given == NULL) return true;
  if (given->size < sizeof given->size) return false;
  const char *bytes = (const char *)given;
  for (size_t i = sizeof *read; i < given->size; i++) {
    if (bytes[i] != 0) return false; /* an option from the future */
  }
  memcpy(read, given, given->size < sizeof *read ? given->size : sizeof *read);
  return read->cores >= 0 && read->threads >= 0 && read->threads_max >= 0 && read->processes >= 0 && read->grace_ms >= 0;
}

static uns_executors *make_executors(unsync_host *host) {
  const unsync_options *options = &host->options;
  uns_executors *executors = uns_executors_new();
  if (executors == NULL) return NULL;
  executors->owner = host;
  executors->new_state = new_state;
  executors->free_state = uns_state_free;
  executors->program = uns_program_find(options->program);
  if (options->script_directory != NULL)
    executors->script_directory = uns_program_absolute(options->script_directory);
  if (options->cores > 0) executors->cores = options->cores;
  executors->thread_target = (uint32_t)(options->threads > 0 ? options->threads : executors->cores);
  executors->process_target = (uint32_t)(options->processes > 0 ? options->processes : executors->cores);
  if (options->threads_max > 0) executors->thread_max = (uint32_t)options->threads_max;
  if (options->grace_ms > 0) executors->grace_ns = (uint64_t)options->grace_ms * 1000000;
  /* Strings of the caller's are not looked at any more. */
  bool fine = options->script_directory == NULL || executors->script_directory != NULL;
  host->options.program = host->options.script_directory = NULL;
  if (fine) return executors;
  uns_executors_free(executors);
  return NULL;
}

int unsync_host_new(unsync_host **made, const unsync_options *options) {
  if (made == NULL) return UNSYNC_EINVAL;
  *made = NULL;
  int status = UNSYNC_ENOMEM;
  unsync_host *host = uns_calloc(1, sizeof *host);
  if (host == NULL) return UNSYNC_ENOMEM;
  if (!read_options(&host->options, options)) {
    status = UNSYNC_EINVAL;
    goto no_executors;
  }
  host->thread = uv_thread_self();
  host->executors = make_executors(host);
  if (host->executors == NULL) goto no_executors;
  host->runtime = uns_state_new(host->executors);
  if (host->runtime == NULL) {
    status = errno == ENOMEM ? UNSYNC_ENOMEM : UNSYNC_ESYSTEM;
    goto no_runtime;
  }
  host->runtime->owner = host;
  host->runtime->report = on_report;
  host->executors->main_runtime = host->runtime;
  if (!set_up(host, host->runtime, false)) {
    status = UNSYNC_ESCRIPT;
    goto no_setup;
  }
  *made = host;
  return 0;
no_setup:
  if (!uns_executors_free(host->executors)) return UNSYNC_ESCRIPT; /* `setup` has left a thread stuck: so is the rest */
  uns_state_free(host->runtime);
  uns_free(host);
  return status;
no_runtime: {
  int saved = errno;
  uns_executors_free(host->executors);
  errno = saved;
}
no_executors:
  uns_free(host);
  return status;
}

static bool wrong_thread(const unsync_host *host) {
  uv_thread_t self = uv_thread_self();
  return !uv_thread_equal(&self, &host->thread);
}

/* Why the host cannot turn now, or 0. */
static int refusal(const unsync_host *host) {
  if (host == NULL) return UNSYNC_EINVAL;
  if (wrong_thread(host)) return UNSYNC_ETHREAD;
  if (host->inside) return UNSYNC_EBUSY;
  return host->over ? UNSYNC_ECLOSED : 0;
}

static void wake_up(unsync_host *host) {
  if (!host->asleep) return;
  host->asleep = false;
  uns_runtime_awake(host->runtime);
}

static void enter(unsync_host *host) {
  host->inside = true;
  wake_up(host);
}

/* Out again: whatever happens from now on must be seen at the descriptor. */
static void leave(unsync_host *host) {
  host->timeout_ms = uns_runtime_fall_asleep(host->runtime);
  host->asleep = host->timeout_ms != 0;
  host->slept_ns = uns_clock_ns();
  host->inside = false;
}

int unsync_host_free(unsync_host *host) {
  if (host == NULL) return 0;
  int status = refusal(host);
  if (status != 0 && status != UNSYNC_ECLOSED) return status;
  host->inside = true; /* finalizers */
  host->collecting = false;
  wake_up(host);
  forget_error(host);
  /* A thread that is stuck may still use all that it knows: the executors, the host behind them, their states. */
  if (!uns_executors_free(host->executors)) return UNSYNC_ESTUCK;
  uns_state_free(host->runtime);
  uns_free(host);
  return 0;
}

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
  if (uns_timer_arm(set->runtime, &set->timer, duration_ns < UINT64_MAX - now ? now + duration_ns : UINT64_MAX) != UNS_OK) {
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

/* Copies nothing: `start` reads the texts before it returns, and they are not looked at again. */
static int start(unsync_host *host, const uns_step *step, const char *script_name, int argc, const char *const argv[]) {
  if (argc < 0 || argc == INT_MAX || (argc > 0 && argv == NULL)) return UNSYNC_EINVAL;
  const char **all = uns_malloc(((size_t)argc + 1) * sizeof *all); /* arg[0] is the script */
  if (all == NULL) return UNSYNC_ENOMEM;
  all[0] = script_name;
  for (int i = 0; i < argc; i++) all[i + 1] = argv[i];
  forget_error(host);
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

/* The run is over: what it comes to. */
static int ended(unsync_host *host) {
  host->collecting = false;
  return host->run.code == 0 ? 0 : UNSYNC_ESCRIPT;
}

static void say_timeout(unsync_host *host, const char *what, uint64_t timeout_ms) {
  char text[96];
  snprintf(text, sizeof text, "timeout: %s had not ended after %llu ms", what, (unsigned long long)timeout_ms);
  keep_error(host, text);
  if (host->options.report != NULL) host->options.report(host->options.context, text);
}

static int run(unsync_host *host, const uns_step *step, const char *script_name, int argc, const char *const argv[],
               uint64_t timeout_ms) {
  int status = refusal(host);
  if (status == 0 && host->run.going) status = UNSYNC_EBUSY;
  if (status != 0) return status;
  limit set;
  init_limit(&set, host->runtime);
  if (timeout_ms > 0 && (status = arm_limit(&set, from_ms(timeout_ms))) != 0) return status;
  bool timed_out = false;
  enter(host);
  status = start(host, step, script_name, argc, argv);
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
  status = ended(host);
  if (status == UNSYNC_ESCRIPT && timed_out) status = UNSYNC_ETIMEDOUT;
  if (host->runtime->live_count > 0 && timed_out) host->over = true; /* some go on: they would disturb the next run */
out:
  disarm_limit(&set);
  leave(host);
  return status;
}

static uns_step file_step(const char *path) { return (uns_step){.kind = UNS_STEP_FILE, .text = path}; }

static uns_step string_step(const char *code, size_t size_bytes, const char *name) {
  return (uns_step){.kind = UNS_STEP_CODE,
                    .text = size_bytes > 0 ? code : "",
                    .size_bytes = size_bytes,
                    .name = name != NULL ? name : "=(string)"};
}

int unsync_host_run(unsync_host *host, const char *path, int argc, const char *const argv[], uint64_t timeout_ms) {
  uns_step step = file_step(path);
  return run(host, &step, path != NULL ? path : "-", argc, argv, timeout_ms);
}

int unsync_host_run_string(unsync_host *host, const char *code, size_t size_bytes, const char *name, int argc,
                           const char *const argv[], uint64_t timeout_ms) {
  if (code == NULL && size_bytes > 0) return UNSYNC_EINVAL;
  uns_step step = string_step(code, size_bytes, name);
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
static int push_outcome(lua_State *L) {
  return uns_future_push_outcome(lua_touserdata(L, lua_upvalueindex(1)), L, 1);
}

/* tostring(error) -> string */
static int error_text(lua_State *L) {
  luaL_tolstring(L, 1, NULL);
  return 1;
}

/* The error on top of the stack as text, kept; the error stays. */
static void keep_top(unsync_host *host, lua_State *L) {
  if (!lua_checkstack(L, 4)) return;
  lua_pushcfunction(L, error_text);
  lua_pushvalue(L, -2);
  if (lua_pcall(L, 1, 1, 0) == LUA_OK) keep_error(host, lua_tostring(L, -1));
  else keep_error(host, "(an error object whose tostring failed)");
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
  int status = refusal(host);
  if (status != 0) return status;
  uns_runtime *runtime = host->runtime;
  lua_State *L = runtime->L;
  if (argument_count < 0 || argument_count >= lua_gettop(L) || result_count < LUA_MULTRET) return UNSYNC_EINVAL;
  if (!lua_checkstack(L, LUA_MINSTACK)) return UNSYNC_ENOMEM;
  limit set;
  init_limit(&set, runtime);
  if (timeout_ms > 0 && (status = arm_limit(&set, from_ms(timeout_ms))) != 0) return status;
  enter(host);
  bool run_collects = host->collecting;
  if (!host->run.going) forget_error(host);
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
  leave(host);
  return status;
}

struct lua_State *unsync_host_lua(unsync_host *host) { return host->runtime->L; }

/* ---- somebody else's loop ---- */

static int start_for_turns(unsync_host *host, const uns_step *step, const char *script_name, int argc,
                           const char *const argv[]) {
  int status = refusal(host);
  if (status == 0 && (host->run.going || host->has_ended)) status = UNSYNC_EBUSY;
  if (status != 0) return status;
  enter(host);
  status = start(host, step, script_name, argc, argv);
  if (status == 0) host->has_ended = !host->run.going; /* a turn is to tell how */
  leave(host);
  return status;
}

int unsync_host_start(unsync_host *host, const char *path, int argc, const char *const argv[]) {
  uns_step step = file_step(path);
  return start_for_turns(host, &step, path != NULL ? path : "-", argc, argv);
}

int unsync_host_start_string(unsync_host *host, const char *code, size_t size_bytes, const char *name, int argc,
                             const char *const argv[]) {
  if (code == NULL && size_bytes > 0) return UNSYNC_EINVAL;
  uns_step step = string_step(code, size_bytes, name);
  return start_for_turns(host, &step, step.name, argc, argv);
}

/* A turn where no script is on its way: what the last one left, or was started from outside. */
static int turn_rest(unsync_host *host) {
  uns_runtime_turn(host->runtime, false);
  if (uns_runtime_hopeful(host->runtime) || uns_task_raise_deadlock(host->runtime)) return UNSYNC_AGAIN;
  return 0;
}

int unsync_host_turn(unsync_host *host) {
  int status = refusal(host);
  if (status != 0) return status;
  enter(host);
  if (host->run.going) {
    status = uns_script_turn(&host->run, false) ? UNSYNC_AGAIN : ended(host);
  } else if (host->has_ended) {
    host->has_ended = false;
    status = ended(host);
  } else {
    status = turn_rest(host);
  }
  leave(host);
  return status;
}

int unsync_host_fd(const unsync_host *host) { return uv_backend_fd(&host->runtime->loop); }

int unsync_host_timeout_ms(const unsync_host *host) {
  if (!host->asleep || host->has_ended) return 0;
  if (host->timeout_ms < 0) return -1;
  uint64_t passed_ms = (uns_clock_ns() - host->slept_ns) / 1000000;
  return passed_ms < (uint64_t)host->timeout_ms ? host->timeout_ms - (int)passed_ms : 0;
}

int unsync_host_cancel(unsync_host *host) {
  if (host == NULL) return UNSYNC_EINVAL;
  if (wrong_thread(host)) return UNSYNC_ETHREAD;
  if (host->run.going) uns_script_cancel(&host->run);
  return 0;
}

/* It is awaited like a request of the loop's own: not worth a spin. */
int unsync_host_hold(unsync_host *host) {
  if (host == NULL) return UNSYNC_EINVAL;
  if (wrong_thread(host)) return UNSYNC_ETHREAD;
  host->runtime->pending++;
  host->runtime->pending_io++;
  host->holds++;
  return 0;
}

int unsync_host_release(unsync_host *host) {
  if (host == NULL || host->holds == 0) return UNSYNC_EINVAL;
  if (wrong_thread(host)) return UNSYNC_ETHREAD;
  host->runtime->pending--;
  host->runtime->pending_io--;
  host->holds--;
  return 0;
}

typedef struct {
  uns_mail mail;
  void (*function)(lua_State *L, void *context);
  void *context;
} post;

/* call(function and context, in a post on the caller's stack) */
static int call_posted(lua_State *L) {
  const post *posted = lua_touserdata(L, 1);
  lua_settop(L, 0);
  posted->function(L, posted->context);
  return 0;
}

static void on_post(uns_mail *mail, void *receiver) {
  post posted = *uns_container_of(mail, post, mail);
  uns_free(uns_container_of(mail, post, mail));
  uns_runtime *runtime = receiver;
  if (runtime == NULL) {
    posted.function(NULL, posted.context);
    return;
  }
  lua_State *L = runtime->L;
  if (!lua_checkstack(L, LUA_MINSTACK)) {
    uns_runtime_report(runtime, "not enough memory for what was posted");
    posted.function(NULL, posted.context);
    return;
  }
  const char *outer = runtime->callback_of;
  runtime->callback_of = "the embedding program";
  int top = lua_gettop(L);
  lua_pushcfunction(L, call_posted);
  lua_pushlightuserdata(L, &posted);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) {
    lua_pushcfunction(L, error_text);
    lua_insert(L, -2);
    bool fine = lua_pcall(L, 1, 1, 0) == LUA_OK;
    uns_runtime_report(runtime, fine ? lua_tostring(L, -1) : "(an error object whose tostring failed)");
  }
  lua_settop(L, top);
  runtime->callback_of = outer;
}

int unsync_host_post(unsync_host *host, void (*function)(struct lua_State *L, void *context), void *context) {
  if (host == NULL || function == NULL) return UNSYNC_EINVAL;
  post *posted = uns_malloc(sizeof *posted);
  if (posted == NULL) return UNSYNC_ENOMEM;
  *posted = (post){.mail = {.deliver = on_post}, .function = function, .context = context};
  uns_mailbox_post(host->runtime->mailbox, &posted->mail);
  return 0;
}
