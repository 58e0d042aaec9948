/*
 * wrap: io, thread, cpu: the callable, and the one door from a call to its executor.
 *
 * A wrapped function is a C closure over the runtime, the function (or a native task's name) and its declaration, a
 * userdata. The function proper decides nothing else: how it runs was decided where it was wrapped.
 */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "bind/bind.h"
#include "bind/inline.h"
#include "bind/place.h"
#include "bind/progress.h"
#include "bind/variable.h"
#include "bind/wrap.h"
#include "core/codec.h"
#include "core/error.h"
#include "core/placement.h"
#include "core/recorder.h"
#include "exec/executors.h"
#include "loop/cancel.h"
#include "loop/group.h"
#include "loop/package_path.h"

enum { UPVALUE_RUNTIME = 1, UPVALUE_BODY, UPVALUE_DECLARATION };
enum { NOT_DECODED = INT_MIN }; /* instead of the number of a job's results */
#define DECLARATION_TYPE "unsync.Declaration"

typedef struct {
  uns_function *function; /* one reference, owned; NULL while half-built */
  const char *name;       /* interned */
  uns_kind kind;          /* how its calls run; `here` besides */
  uns_kind declared_kind; /* what was asked for when it was declared */
  bool named;             /* by opts.name, so that it can be placed */
  bool here;              /* thread or cpu, but placed on io: with copies, as if it had left */
  uint64_t timeout_ns; /* the nearer of the two timeouts; 0: none */
  bool limited;
  bool plain; /* io, and neither limited nor timed */
  uns_runtime *runtime;
} declaration;

static int declaration_gc(lua_State *L) {
  declaration *declared = luaL_testudata(L, 1, DECLARATION_TYPE);
  if (declared == NULL) return 0;
  uns_shared_unref(declared->function);
  declared->function = NULL;
  return 0;
}

/* ---- calling ---- */

/* Pushes what a job that the executor itself gave up failed with. */
static void push_executor_error(lua_State *L, const uns_job *job) {
  uns_error_push(L, job->error_code, "%s", job->error_text);
  if (job->signal_number != 0) {
    lua_pushfstring(L, "SIG%s", sigabbrev_np(job->signal_number));
    lua_setfield(L, -2, "signal");
  } else if (job->exit_code >= 0) {
    lua_pushinteger(L, job->exit_code);
    lua_setfield(L, -2, "exit_code");
  }
}

/* "attempt to call a nil value (global 'x')", where x is set here: says so, for the reason is not plain to see. */
static void explain_missing_global(lua_State *L) {
  const char *text = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : NULL;
  const char *at = text != NULL ? strstr(text, "a nil value (global '") : NULL;
  if (at == NULL) return;
  at += strlen("a nil value (global '");
  const char *end = strchr(at, '\'');
  if (end == NULL) return;
  lua_pushglobaltable(L);
  lua_pushlstring(L, at, (size_t)(end - at));
  const char *global = lua_tostring(L, -1);
  lua_pushvalue(L, -1);
  bool set_here = lua_rawget(L, -3) != LUA_TNIL;
  if (set_here) {
    lua_pushfstring(L, "%s: global '%s' is set where this was declared, not in the worker", text, global);
    lua_replace(L, -6); /* under the traceback, the globals, the name and the value lies the error */
  }
  lua_pop(L, 3);
}

static bool end_deadline(uns_runtime *runtime, uns_job *job);

/* ---- limits: kept at home, where calls come from and go back to ---- */

static void submit(uns_runtime *runtime, uns_job *job) {
  uns_function *function = job->function;
  if (function->limit > 0 && function->running >= function->limit) {
    atomic_store_explicit(&job->state, UNS_JOB_HELD, memory_order_relaxed);
    uns_list_push_back(&function->held, &job->link);
    if (uns_list_empty(&function->holding)) uns_list_push_back(&runtime->holding, &function->holding);
    return;
  }
  function->running++;
  atomic_store_explicit(&job->state, UNS_JOB_QUEUED, memory_order_relaxed);
  uns_executors_submit(runtime->executors, job);
}

/* A call is back: the next one may go. One that was cancelled while it was held had not gone. */
static void submit_next(uns_runtime *runtime, uns_job *back) {
  uns_function *function = back->function;
  uns_link *link = NULL;
  if (!back->held) {
    function->running--;
    if (function->limit > 0) link = uns_list_pop_front(&function->held);
  }
  if (uns_list_empty(&function->held)) uns_list_remove(&function->holding);
  if (link != NULL) submit(runtime, uns_container_of(link, uns_job, link));
}

/* The state ends: those that are held will never go. Their futures may still be looked at. */
static void drop_held(uns_closer *closer, uns_runtime *runtime) {
  (void)closer;
  uns_link *link, *held;
  while ((link = uns_list_pop_front(&runtime->holding)) != NULL) {
    uns_function *function = uns_shared_ref(uns_container_of(link, uns_function, holding));
    while ((held = uns_list_pop_front(&function->held)) != NULL) {
      uns_job *job = uns_container_of(held, uns_job, link);
      uns_runtime_push_pin(runtime, runtime->L, job->pin);
      uns_future *future = lua_touserdata(runtime->L, -1);
      if (future != NULL) future->job = NULL;
      lua_pop(runtime->L, 1);
      end_deadline(runtime, job);
      uns_job_free(job);
    }
    uns_shared_unref(function);
  }
}

/* ---- deadlines of calls: kept at home as well ---- */

typedef struct {
  uns_timer timer;
  uns_job *job;
  uint64_t timeout_due_ns; /* of the call itself; 0: none */
  bool from_start;         /* it counts from the start of the call, which is not known beforehand */
} call_deadline;

static void on_call_deadline(uns_timer *timer, uns_runtime *runtime) {
  call_deadline *deadline = uns_container_of(timer, call_deadline, timer);
  uns_job *job = deadline->job;
  uns_function *function = job->function;
  if (deadline->from_start && runtime->test_clock == NULL) { /* a test's calls count from the call: they start at once */
    bool started = atomic_load_explicit(&job->state, memory_order_acquire) == UNS_JOB_STARTED;
    uint64_t due_ns = (started && job->started_ns != 0 ? job->started_ns : uns_clock_ns()) + function->run_timeout_ns;
    if (deadline->timeout_due_ns != 0 && deadline->timeout_due_ns < due_ns) due_ns = deadline->timeout_due_ns;
    if (due_ns > uns_clock_ns() && uns_timer_arm(runtime, timer, due_ns) == UNS_OK) return;
  }
  job->timed_out = true;
  uns_executors_cancel(runtime, job);
}

/* Of two points in time, 0 being none. */
static uint64_t earlier(uint64_t a, uint64_t b) { return a == 0 || (b != 0 && b < a) ? b : a; }

/*
 * Tells the job by when it has to end, the deadlines around the call included. Arms its own, if its function has one;
 * the others are armed by those who set them. Without memory it
 * gives up the call, and raises.
 */
static void set_deadline(lua_State *L, uns_runtime *runtime, uns_job *job) {
  const uns_function *function = job->function;
  uint64_t called_ns = job->submitted_ns, due_ns = 0;
  if (function->timeout_ns > 0) due_ns = called_ns + function->timeout_ns;
  if (runtime->test_clock != NULL) { /* which the worker does not know: it learns of the end from us alone */
    called_ns = uns_now_ns(runtime);
    if (due_ns != 0) due_ns = called_ns + function->timeout_ns;
  } else {
    job->deadline_ns = earlier(due_ns, uns_cancel_deadline(runtime));
  }
  uint64_t timeout_due_ns = due_ns;
  if (function->run_timeout_ns > 0 && (due_ns == 0 || called_ns + function->run_timeout_ns < due_ns)) {
    due_ns = called_ns + function->run_timeout_ns;
  }
  if (due_ns == 0) return;
  call_deadline *deadline = uns_malloc(sizeof *deadline);
  if (deadline != NULL) {
    uns_timer_init(&deadline->timer, on_call_deadline);
    deadline->job = job;
    deadline->timeout_due_ns = timeout_due_ns;
    deadline->from_start = function->run_timeout_ns > 0;
    job->home_data = deadline;
    if (uns_timer_arm(runtime, &deadline->timer, due_ns) == UNS_OK) return;
    job->home_data = NULL;
    uns_free(deadline);
  }
  uns_runtime_unpin(runtime, job->pin);
  uns_job_free(job);
  luaL_error(L, "not enough memory");
}

static bool end_deadline(uns_runtime *runtime, uns_job *job) {
  call_deadline *deadline = job->home_data;
  if (deadline == NULL) return false;
  bool passed = deadline->job->timed_out; /* the job may be a twin of the one it was set for */
  uns_timer_disarm(runtime, &deadline->timer);
  uns_free(deadline);
  job->home_data = NULL;
  return passed;
}

/* Pushes "hook" and the like: what the error on top says of how the call was stopped. */
static const char *stopped_by(lua_State *L, const uns_job *job) {
  if (job->stopped_by != NULL) return job->stopped_by;
  if (job->outcome == UNS_OUTCOME_ERROR) return "queue"; /* whoever was to run it saw that before it began */
  const char *rung = NULL;
  if (job->outcome != UNS_OUTCOME_ERROR && lua_istable(L, -1) && lua_getfield(L, -1, "stopped_by") == LUA_TSTRING) {
    rung = lua_tostring(L, -1); /* the error table keeps it alive until it is replaced */
  }
  return rung != NULL ? rung : "await";
}

/* The call was stopped. Its own error, or nil, lies on top. */
static void settle_cancelled(uns_runtime *runtime, lua_State *L, int index, const uns_job *job, bool timed_out) {
  uns_future *future = lua_touserdata(L, index);
  int error = lua_gettop(L);
  const char *rung = stopped_by(L, job);
  if (timed_out) {
    uns_cancel_push_timeout(L, future->name, rung);
  } else {
    if (job->reason != 0) uns_runtime_push_pin(runtime, L, job->reason);
    else lua_pushnil(L);
    uns_cancel_push_error(L, future, rung);
  }
  lua_replace(L, error);
  lua_settop(L, error);
  lua_pushnil(L);
  uns_future_fail(runtime, L, index, timed_out ? UNS_FUTURE_FAILED : UNS_FUTURE_CANCELLED);
}

/* Puts where it ran above where it failed, in the traceback on top. */
static void say_where(lua_State *L, const uns_future *future) {
  if (lua_type(L, -1) != LUA_TSTRING) return;
  lua_pushfstring(L, "in %s %s:\n%s", uns_future_kind_name(future), future->name, lua_tostring(L, -1));
  lua_replace(L, -2);
}

/* settle(future, job, timed_out, count, ...): count is NOT_DECODED, or what uns_codec_decode returned, and then what it pushed */
static int settle(lua_State *L) {
  uns_runtime *runtime = uns_runtime_of(L);
  uns_job *job = lua_touserdata(L, 2);
  bool timed_out = lua_toboolean(L, 3);
  int count = (int)lua_tointeger(L, 4);
  lua_rotate(L, 2, -3);
  lua_pop(L, 3);
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  const uns_future *future = lua_touserdata(L, 1);
  uns_progress_keep(runtime, L, 1, job);
  bool cancelled = job->outcome == UNS_OUTCOME_CANCELLED ||
                   (job->outcome == UNS_OUTCOME_ERROR && strcmp(job->error_code, "cancelled") == 0);
  if (count == NOT_DECODED) count = job->outcome == UNS_OUTCOME_ERROR ? 0 : uns_codec_decode(L, &job->result);
  if (count < 0) { /* why it cannot be read lies on top */
    lua_pushnil(L);
    uns_future_fail(runtime, L, 1, UNS_FUTURE_FAILED);
  } else if (job->outcome == UNS_OUTCOME_DONE) {
    uns_future_resolve(runtime, L, 1, count);
  } else if (cancelled) {
    lua_settop(L, 2);
    settle_cancelled(runtime, L, 1, job, timed_out);
  } else if (job->outcome == UNS_OUTCOME_ERROR) {
    push_executor_error(L, job);
    lua_pushnil(L);
    uns_future_fail(runtime, L, 1, UNS_FUTURE_FAILED);
  } else {
    lua_settop(L, 3);
    explain_missing_global(L);
    say_where(L, future);
    uns_future_fail(runtime, L, 1, UNS_FUTURE_FAILED);
  }
  return 0;
}

/*
 * The completion is home: settles the future. Nothing is raised, for whoever delivers it may hold locks: where there is
 * no memory for what came, that is the failure.
 */
/* Nobody waits for it, or one task: to tell them allocates nothing. */
static bool told_quietly(const uns_future *future) {
  const uns_waiter *first = uns_waiter_first(&future->waiters);
  if (future->cell != NULL) return false;
  return first == NULL || (uns_task_is_waiter(first) && first->link.next == &future->waiters);
}

/* The case that matters, in which nothing can fail: up to one result. Else decoded values may be left on the stack. */
static bool settle_quickly(uns_runtime *runtime, lua_State *L, int index, const uns_job *job, int *count) {
  uns_future *future = lua_touserdata(L, index);
  *count = NOT_DECODED;
  if (job->outcome != UNS_OUTCOME_DONE || job->function->native != NULL || uns_future_settled(future) ||
      !told_quietly(future))
    return false;
  *count = uns_codec_decode(L, &job->result);
  if (*count != 0 && *count != 1) return false;
  uns_future_resolve_pending(runtime, L, index, future, *count);
  return true;
}

/* A job for a call of this state: one that has come home, or new. NULL without memory. */
static uns_job *take_job(uns_runtime *runtime, uns_function *function) {
  uns_link *link = uns_list_pop_front(&runtime->idle_jobs);
  if (link == NULL) return uns_job_new(runtime->mailbox, function);
  runtime->idle_job_count--;
  uns_job *job = uns_container_of(link, uns_job, link);
  uns_job_again(job, function);
  return job;
}

static void keep_job(uns_runtime *runtime, uns_job *job) {
  enum { IDLE_JOBS_MAX = 1024 };
  if (runtime->idle_job_count >= IDLE_JOBS_MAX) {
    uns_job_free(job);
    return;
  }
  uns_job_empty(job);
  uns_list_push_front(&runtime->idle_jobs, &job->link);
  runtime->idle_job_count++;
}

static void on_completion(uns_mail *mail, void *receiver) {
  uns_job *job = uns_container_of(mail, uns_job, mail);
  uns_runtime *runtime = receiver;
  if (job->record.recorder != NULL) uns_recorder_job_home(job, runtime != NULL ? runtime->track : UNS_TRACE_NONE);
  if (runtime == NULL) { /* the state that asked is closing */
    uns_free(job->home_data);
    uns_job_free(job);
    return;
  }
  lua_State *L = runtime->L;
  int top = lua_gettop(L);
  bool timed_out = end_deadline(runtime, job);
  uns_runtime_answered(runtime);
  if (lua_checkstack(L, LUA_MINSTACK)) {
    uns_runtime_push_pin(runtime, L, job->pin);
    ((uns_future *)lua_touserdata(L, top + 1))->job = NULL;
    int count;
    bool settled = settle_quickly(runtime, L, top + 1, job, &count);
    if (!settled && !lua_checkstack(L, LUA_MINSTACK)) {
      uns_future_fail_without_memory(runtime, L, top + 1);
    } else if (!settled) {
      lua_pushcfunction(L, settle);
      lua_pushvalue(L, top + 1);
      lua_pushlightuserdata(L, job);
      lua_pushboolean(L, timed_out);
      lua_pushinteger(L, count);
      lua_rotate(L, top + 2, 5); /* under what has been decoded */
      if (lua_pcall(L, lua_gettop(L) - top - 2, 0, 0) != LUA_OK) uns_future_fail_without_memory(runtime, L, top + 1);
    }
    uns_runtime_unpin(runtime, job->pin);
    if (job->reason != 0) uns_runtime_unpin(runtime, job->reason);
    lua_settop(L, top);
  }
  submit_next(runtime, job);
  keep_job(runtime, job);
}

/*
 * Encodes the call that lies on the stack, with the context variables that can cross. An error is that of the call alone:
 * it is pushed.
 */
static int encode_call(lua_State *L, uns_runtime *runtime, uns_job *job, int count) {
  static const uns_codec_names lua_names = {"argument", 1, true}, native_names = {"argument", 1, false};
  if (job->function->native != NULL) {
    job->named_context = uns_variables_push_named(L, runtime);
    int status = uns_codec_encode(L, 1, count + job->named_context, &native_names, &job->call);
    if (status == UNS_OK) lua_settop(L, count);
    return status;
  }
  for (int only_sendable = 0; only_sendable <= 1; only_sendable++) {
    int extra = uns_variables_insert(L, runtime, only_sendable);
    if (extra == 0) break;
    if (uns_codec_encode(L, 1, count + extra, &lua_names, &job->call) == UNS_OK) return UNS_OK;
    lua_rotate(L, 1, -extra);
    lua_settop(L, count);
  }
  return uns_codec_encode(L, 1, count, &lua_names, &job->call);
}

/* thread and cpu: a job. */
static int send_call(lua_State *L, uns_runtime *runtime, const declaration *declared) {
  if (runtime->closing) return uns_error_raise(L, "closed", "closed: the state is ending, no call can start");
  uns_function *function = declared->function;
  int count = lua_gettop(L);
  luaL_checkstack(L, 8, NULL);
  if (function->native == NULL) {
    lua_pushvalue(L, lua_upvalueindex(UPVALUE_BODY));
    lua_insert(L, 1);
    count++;
  }
  uns_search_path *path = function->native == NULL ? uns_package_path(runtime, L) : NULL;
  /* First what may raise, as long as there is no job that would be left over. */
  uns_future_push(runtime, L, (uns_kind)function->kind, declared->name);
  int pin = uns_runtime_pin(runtime, L);
  uns_job *job = take_job(runtime, function);
  if (job == NULL) {
    uns_runtime_unpin(runtime, pin);
    return luaL_error(L, "not enough memory");
  }
  job->mail.deliver = on_completion;
  job->pin = pin;
  if (encode_call(L, runtime, job, count) != UNS_OK) {
    uns_runtime_unpin(runtime, pin);
    uns_job_free(job);
    return lua_error(L);
  }
  set_deadline(L, runtime, job);
  uns_runtime_push_pin(runtime, L, pin);
  uns_future *future = lua_touserdata(L, -1);
  job->parent_id = runtime->current != NULL ? runtime->current->id : 0;
  if (function->native != NULL) uns_progress_attach(job);
  else if (path != NULL) job->search_path = uns_shared_ref(path);
  future->job = job;
  future->since_ns = runtime->test_clock == NULL ? job->submitted_ns : uns_now_ns(runtime);
  future->site = uns_runtime_site(runtime, L);
  uns_runtime_ask(runtime);
  uns_runtime_has_company(runtime);
  if (runtime->recorder != NULL) {
    job->record.recorder = runtime->recorder;
    uns_recorder_job_sent(job, runtime->track);
  }
  submit(runtime, job);
  uns_group_adopt(runtime, L);
  return 1;
}

/* An io call's place under its function's limit: in line first, then counted, until its future settles. */
typedef struct {
  uns_link link; /* in uns_function.held while it stands in line */
  uns_waiter waiter;
  uns_function *function; /* one reference */
  uns_task *task;
} permit;

static void give_back(uns_waiter *waiter, uns_runtime *runtime, uns_future *future) {
  (void)future;
  permit *mine = uns_container_of(waiter, permit, waiter);
  uns_function *function = mine->function;
  bool counted = uns_list_empty(&mine->link);
  uns_list_remove(&mine->link); /* cancelled in line: it frees nobody's place */
  uns_link *link = counted ? uns_list_pop_front(&function->held) : NULL;
  if (link != NULL) uns_task_release(runtime, uns_container_of(link, permit, link)->task); /* in its place */
  else if (counted) function->running--;
  uns_shared_unref(function);
  uns_free(mine);
}

/* io with a limit: beyond it, calls stand in line. The arguments lie on the stack, and above them the function. */
static uns_future *start_limited(lua_State *L, uns_runtime *runtime, const declaration *declared, int count) {
  uns_function *function = declared->function;
  permit *mine = uns_malloc(sizeof *mine);
  if (mine == NULL) {
    luaL_error(L, "not enough memory");
    return NULL;
  }
  bool hold = function->running >= function->limit;
  if (!hold) function->running++;
  uns_future *future = uns_task_call(runtime, L, count, declared->name, hold);
  mine->function = uns_shared_ref(function);
  mine->task = future->task;
  mine->waiter.wake = give_back;
  mine->waiter.listens = true;
  uns_list_init(&mine->waiter.link);
  uns_list_init(&mine->link);
  if (hold) uns_list_push_back(&function->held, &mine->link);
  if (uns_future_settled(future)) give_back(&mine->waiter, runtime, future);
  else uns_future_add_waiter(future, &mine->waiter);
  return future;
}

/* It is placed on io, or a test wants calls of this kind here: copies and all. A native task has no place on the loop. */
static bool stays_here(const uns_runtime *runtime, const declaration *declared) {
  if (declared->here) return true;
  return (runtime->inline_kinds >> declared->kind & 1) != 0 && declared->function->native == NULL;
}

/* What every wrapped function is. */
static int wrapped_call(lua_State *L) {
  const declaration *declared = lua_touserdata(L, lua_upvalueindex(UPVALUE_DECLARATION));
  uns_runtime *runtime = declared->runtime;
  if (declared->plain) {
    int plain_count = lua_gettop(L);
    lua_pushvalue(L, lua_upvalueindex(UPVALUE_BODY));
    uns_task_call(runtime, L, plain_count, declared->name, false);
    uns_group_adopt(runtime, L);
    return 1;
  }
  if (declared->kind != UNS_KIND_IO && !stays_here(runtime, declared)) return send_call(L, runtime, declared);
  int count = lua_gettop(L);
  lua_pushvalue(L, lua_upvalueindex(UPVALUE_BODY));
  if (declared->kind != UNS_KIND_IO) count = uns_inline_call(L, runtime);
  uint64_t timeout_ns = declared->timeout_ns, called_ns = timeout_ns > 0 ? uns_now_ns(runtime) : 0;
  uns_future *future = declared->limited ? start_limited(L, runtime, declared, count)
                                         : uns_task_call(runtime, L, count, declared->name, false);
  if (timeout_ns > 0 && uns_cancel_set_deadline(runtime, future, called_ns + timeout_ns) != UNS_OK) {
    return luaL_error(L, "not enough memory");
  }
  uns_group_adopt(runtime, L);
  return 1;
}

/* ---- declaring ---- */

/* "script.lua:12", where the function at `index` was written: its name until it gets a better one. */
static void push_default_name(lua_State *L, int index) {
  lua_Debug where;
  lua_pushvalue(L, index);
  lua_getinfo(L, ">S", &where);
  if (*where.what == 'C') lua_pushliteral(L, "?");
  else lua_pushfstring(L, "%s:%d", where.short_src, where.linedefined);
}

static uint64_t option_seconds(lua_State *L, const char *name) {
  uint64_t duration_ns = 0;
  int type = lua_getfield(L, 2, name);
  if (type != LUA_TNIL) {
    lua_Number seconds = lua_isnumber(L, -1) && type == LUA_TNUMBER ? lua_tonumber(L, -1) : -1;
    if (!(seconds >= 0)) luaL_error(L, "bad option '%s' (seconds expected, got %s)", name, luaL_tolstring(L, -1, NULL));
    duration_ns = seconds > 3e9 ? (uint64_t)3e18 : (uint64_t)ceil(seconds * 1e9);
    if (duration_ns == 0) duration_ns = 1; /* 0 is for none */
  }
  lua_pop(L, 1);
  return duration_ns;
}

/* Reads `opts` at index 2 into the declaration; an option that does not exist is an error that names it. */
static void read_options(lua_State *L, uns_function *function) {
  static const char *const known[] = {"name", "timeout", "run_timeout", "limit", "fresh", "grace", NULL};
  if (lua_isnoneornil(L, 2)) return;
  luaL_checktype(L, 2, LUA_TTABLE);
  for (lua_pushnil(L); lua_next(L, 2); lua_pop(L, 1)) {
    const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "?";
    int i = 0;
    while (known[i] != NULL && strcmp(known[i], name) != 0) i++;
    if (known[i] == NULL) luaL_error(L, "unknown option '%s'", name);
  }
  function->timeout_ns = option_seconds(L, "timeout");
  function->run_timeout_ns = option_seconds(L, "run_timeout");
  function->grace_ns = option_seconds(L, "grace");
  int type = lua_getfield(L, 2, "limit");
  if (type != LUA_TNIL) {
    int is_integer;
    lua_Integer limit = lua_tointegerx(L, -1, &is_integer);
    if (type != LUA_TNUMBER || !is_integer || limit < 1 || limit > INT_MAX) {
      luaL_error(L, "bad option 'limit' (positive integer expected, got %s)", luaL_tolstring(L, -1, NULL));
    }
    function->limit = (uint32_t)limit;
  }
  lua_getfield(L, 2, "fresh");
  function->fresh = lua_toboolean(L, -1);
  lua_pop(L, 2);
}

/* Pushes the name to declare under: opts.name, the native task's, or the place in the source. */
static const char *push_name(lua_State *L, bool *own) {
  if (lua_istable(L, 2)) {
    int type = lua_getfield(L, 2, "name");
    *own = type == LUA_TSTRING;
    if (*own) return lua_tostring(L, -1);
    if (type != LUA_TNIL) luaL_error(L, "bad option 'name' (string expected, got %s)", luaL_typename(L, -1));
    lua_pop(L, 1);
  }
  if (lua_type(L, 1) == LUA_TSTRING) lua_pushvalue(L, 1);
  else push_default_name(L, 1);
  return lua_tostring(L, -1);
}

/* A native task must exist now, not when it is called. */
static void check_native(lua_State *L, uns_runtime *runtime, uns_function *function) {
  if (runtime->closing) uns_error_raise(L, "closed", "closed: the state is ending");
  char *text = NULL;
  if (uns_executors_find_native(runtime->executors, function, &text)) return;
  lua_pushstring(L, text != NULL ? text : "not enough memory");
  uns_free(text);
  uns_error_raise(L, "plugin", "%s", lua_tostring(L, -1));
}

static void push_wrapped(lua_State *L, uns_runtime *runtime, int body, int declared) {
  body = lua_absindex(L, body);
  declared = lua_absindex(L, declared);
  lua_pushlightuserdata(L, runtime);
  lua_pushvalue(L, body);
  lua_pushvalue(L, declared);
  lua_pushcclosure(L, wrapped_call, 3);
}

/* Of an io function, which starts at its call, both timeouts begin at once. */
static uint64_t nearer(const uns_function *function) {
  uint64_t a = function->timeout_ns, b = function->run_timeout_ns;
  return a == 0 || (b != 0 && b < a) ? b : a;
}

/* What its function says, in the form in which a call asks. */
static void take_options(declaration *declared) {
  declared->timeout_ns = nearer(declared->function);
  declared->limited = declared->function->limit > 0;
  declared->plain = declared->kind == UNS_KIND_IO && !declared->limited && declared->timeout_ns == 0;
}

static declaration *push_declaration(lua_State *L, uns_runtime *runtime) {
  declaration *declared = lua_newuserdatauv(L, sizeof *declared, 0);
  declared->function = NULL;
  declared->name = NULL;
  declared->runtime = runtime;
  declared->timeout_ns = 0;
  declared->limited = declared->plain = declared->named = declared->here = false;
  declared->kind = declared->declared_kind = UNS_KIND_IO;
  luaL_setmetatable(L, DECLARATION_TYPE);
  return declared;
}

/* A function like another, but of another kind; NULL without memory. */
static uns_function *function_as(const uns_function *like, uns_kind kind) {
  uns_function *function = uns_function_new(kind, like->name, like->native);
  if (function == NULL) return NULL;
  function->fresh = like->fresh;
  function->limit = like->limit;
  function->timeout_ns = like->timeout_ns;
  function->run_timeout_ns = like->run_timeout_ns;
  function->grace_ns = like->grace_ns;
  function->task = like->task;
  return function;
}

void uns_wrap_place(lua_State *L, int index, const char *rules, bool only_check) {
  declaration *declared = lua_touserdata(L, index);
  if (declared->function == NULL) return;
  uns_kind place = uns_placement_find(rules, declared->name, declared->declared_kind);
  const char *native = declared->function->native;
  if (native != NULL && place == UNS_KIND_IO) {
    luaL_error(L, "'%s' cannot be placed on io: it is the native task '%s', which would hold the loop while it runs "
               "(thread and cpu can run it)", declared->name, native);
  }
  if (only_check) return;
  bool here = place == UNS_KIND_IO && declared->declared_kind != UNS_KIND_IO;
  uns_kind kind = here ? declared->declared_kind : place;
  if (kind != declared->function->kind) { /* calls under way keep theirs */
    uns_function *moved = function_as(declared->function, kind);
    if (moved == NULL) luaL_error(L, "not enough memory");
    uns_shared_unref(declared->function);
    declared->function = moved;
  }
  declared->kind = kind;
  declared->here = here;
  take_options(declared);
}

static int declare(lua_State *L, uns_kind kind) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  if (runtime->closing) return uns_error_raise(L, "closed", "closed: the state is ending");
  bool native = kind != UNS_KIND_IO && lua_type(L, 1) == LUA_TSTRING;
  if (!native && !lua_isfunction(L, 1)) {
    return luaL_typeerror(L, 1, kind == UNS_KIND_IO ? "function" : "function or native task's name");
  }
  if (!native && kind != UNS_KIND_IO && lua_iscfunction(L, 1) && !uns_codec_has_name(L, 1) && !uns_is_wrapped(L, 1)) {
    return luaL_argerror(L, 1, "a C function that no loaded module holds cannot be named in a worker");
  }
  lua_settop(L, 2);
  declaration *declared = push_declaration(L, runtime);
  const char *name = push_name(L, &declared->named);
  declared->function = uns_function_new(kind, name, native ? lua_tostring(L, 1) : NULL);
  if (declared->function == NULL) return luaL_error(L, "not enough memory");
  declared->name = uns_runtime_intern(runtime, L, name);
  declared->kind = declared->declared_kind = kind;
  read_options(L, declared->function);
  take_options(declared);
  if (native) check_native(L, runtime, declared->function);
  if (declared->named) uns_place_declared(L, runtime, 3);
  push_wrapped(L, runtime, 1, 3);
  return 1;
}

static int core_io(lua_State *L) { return declare(L, UNS_KIND_IO); }
static int core_thread(lua_State *L) { return declare(L, UNS_KIND_THREAD); }
static int core_cpu(lua_State *L) { return declare(L, UNS_KIND_CPU); }

bool uns_is_wrapped(lua_State *L, int index) { return lua_tocfunction(L, index) == wrapped_call; }

const char *uns_wrapped_kind(lua_State *L, int index) {
  static const char *const kinds[] = {"io", "thread", "cpu"};
  if (!uns_is_wrapped(L, index)) return NULL;
  lua_getupvalue(L, index, UPVALUE_DECLARATION);
  const declaration *declared = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return kinds[declared->here ? UNS_KIND_IO : declared->kind];
}

/* spawn(fn, ...) -> Future: of a wrapped function, simply a call */
int uns_wrap_spawn(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  int count = lua_gettop(L) - 1;
  if (uns_is_wrapped(L, 1)) {
    lua_call(L, count, 1);
    return 1;
  }
  uns_runtime *runtime = uns_upvalue_runtime(L);
  uns_task_start(runtime, L, count, NULL);
  uns_group_adopt(runtime, L);
  return 1;
}

/* ---- crossing: a wrapped function is its declaration and its body ---- */

enum { PARTS = 10 }; /* the body last */

static int cross_encode(lua_State *L, int index) {
  if (lua_getupvalue(L, index, UPVALUE_DECLARATION) == NULL) return -1;
  const declaration *declared = lua_touserdata(L, -1);
  const uns_function *function = declared->function;
  lua_pop(L, 1);
  lua_pushinteger(L, declared->declared_kind);
  lua_pushstring(L, function->name);
  lua_pushinteger(L, (lua_Integer)function->timeout_ns);
  lua_pushinteger(L, (lua_Integer)function->run_timeout_ns);
  lua_pushinteger(L, (lua_Integer)function->grace_ns);
  lua_pushinteger(L, function->limit);
  lua_pushboolean(L, function->fresh);
  if (function->native != NULL) lua_pushstring(L, function->native);
  else lua_pushnil(L);
  lua_pushboolean(L, declared->named);
  lua_getupvalue(L, index, UPVALUE_BODY);
  return PARTS;
}

/* The parts may refer back to it: a recursive function is its own upvalue. */
static int cross_create(lua_State *L, uns_shared *shared) {
  (void)shared;
  uns_runtime *runtime = uns_runtime_of(L);
  lua_pushnil(L);
  push_declaration(L, runtime);
  push_wrapped(L, runtime, -2, -1);
  lua_replace(L, -3);
  lua_pop(L, 1);
  return 0;
}

static int cross_fill(lua_State *L, int object, int count) {
  if (count != PARTS) return -1;
  int part = lua_gettop(L) - count + 1;
  lua_Integer kind = lua_tointeger(L, part);
  const char *name = lua_tostring(L, part + 1), *native = lua_tostring(L, part + 7);
  if (kind < UNS_KIND_IO || kind > UNS_KIND_CPU || name == NULL) return -1;
  if (native == NULL ? !lua_isfunction(L, part + 9) : !lua_isstring(L, part + 9)) return -1;
  if (lua_getupvalue(L, object, UPVALUE_DECLARATION) == NULL) return -1;
  declaration *declared = lua_touserdata(L, -1);
  lua_pop(L, 1);
  uns_function *function = uns_function_new((uns_kind)kind, name, native);
  if (function == NULL) return luaL_error(L, "not enough memory");
  uns_shared_unref(declared->function);
  declared->function = function;
  declared->kind = declared->declared_kind = (uns_kind)kind;
  declared->named = lua_toboolean(L, part + 8);
  declared->name = uns_runtime_intern(uns_runtime_of(L), L, name);
  function->timeout_ns = (uint64_t)lua_tointeger(L, part + 2);
  function->run_timeout_ns = (uint64_t)lua_tointeger(L, part + 3);
  function->grace_ns = (uint64_t)lua_tointeger(L, part + 4);
  function->limit = (uint32_t)lua_tointeger(L, part + 5);
  function->fresh = lua_toboolean(L, part + 6);
  take_options(declared);
  lua_setupvalue(L, object, UPVALUE_BODY); /* pops the last part */
  lua_settop(L, part - 1);
  if (declared->named) {
    lua_getupvalue(L, object, UPVALUE_DECLARATION);
    uns_place_declared(L, declared->runtime, -1);
    lua_pop(L, 1);
  }
  return 0;
}

static const uns_codec_class cross = {"unsync.wrapped", cross_encode, cross_create, cross_fill};

static const luaL_Reg functions[] = {
    {"io", core_io}, {"thread", core_thread}, {"cpu", core_cpu}, {"spawn", uns_wrap_spawn}, {"place", uns_place}, {NULL, NULL}};

void uns_bind_wrap(lua_State *L, uns_runtime *runtime) {
  if (luaL_newmetatable(L, DECLARATION_TYPE)) {
    lua_pushcfunction(L, declaration_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_pop(L, 1);
  uns_codec_register_function(L, wrapped_call, &cross);
  runtime->held_closer.close = drop_held;
  uns_list_push_back(&runtime->closers, &runtime->held_closer.link);
  runtime->follow_placement = uns_place_follow;
  uns_bind_functions(L, runtime, functions);
}
