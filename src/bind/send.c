/*
 * send: a call of a thread or cpu function leaves this state as a job, and comes home as a completion.
 *
 *   - What may raise is done before there is a job, and what cannot cross raises before anything has started. Once it is
 *     submitted, the job belongs to the executors; its future is pinned until it is home.
 *   - A function's limit and the deadlines of its calls are kept here, where calls come from and go back to: a job that is
 *     held for its limit has not been submitted.
 *   - A completion cannot fail: nothing is raised on its way, and its job is kept for the next call.
 * What decides that a call goes this way: wrap.c. Who runs it: exec/executors.h. What crosses: core/codec.h.
 */
#include "bind/send.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "bind/bind.h"
#include "bind/progress.h"
#include "bind/variable.h"
#include "core/codec.h"
#include "core/error.h"
#include "core/recorder.h"
#include "exec/executors.h"
#include "loop/cancel.h"
#include "loop/group.h"
#include "loop/package_path.h"

enum { NOT_DECODED = INT_MIN }; /* instead of the number of a job's results */

/* ---- deadlines of calls ---- */

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
  if (deadline->from_start &&
      runtime->test_clock == NULL) { /* a test's calls count from the call: they start at once */
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

/* ---- limits ---- */

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

/* ---- coming home ---- */

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

/* Pushes why a call has cancelled itself, which only its own error at `index` says; or nil. */
static void push_own_reason(lua_State *L, int index) {
  lua_pushnil(L);
  if (!uns_error_is(L, index, "cancelled")) return;
  lua_pop(L, 1);
  lua_pushliteral(L, "reason");
  lua_rawget(L, index);
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
    else push_own_reason(L, error);
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

/*
 * Whether a call whose `count` results begin at 2 was stopped. As with a task, an error `cancelled` of a call that was asked to
 * stop is its end, even if it is another's: what it awaited may have been stopped with it, and have said so first.
 */
static bool ended_cancelled(lua_State *L, uns_job *job, int count) {
  switch (job->outcome) {
    case UNS_OUTCOME_CANCELLED: return true;
    case UNS_OUTCOME_ERROR: return strcmp(job->error_code, "cancelled") == 0;
    case UNS_OUTCOME_FAILED: return atomic_load(&job->cancel) != 0 && count > 0 && uns_error_is(L, 2, "cancelled");
    default: return false;
  }
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
  if (count == NOT_DECODED) count = job->outcome == UNS_OUTCOME_ERROR ? 0 : uns_codec_decode(L, &job->result);
  bool cancelled = ended_cancelled(L, job, count);
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

/* Nobody waits for it, or one whom to tell allocates nothing. */
static bool told_quietly(const uns_future *future) {
  const uns_waiter *first = uns_waiter_first(&future->waiters);
  if (future->cell != NULL) return false;
  return first == NULL || (first->quiet && first->link.next == &future->waiters);
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

/*
 * The completion is home: settles the future. Nothing is raised, for whoever delivers it may hold locks: where there is
 * no memory for what came, that is the failure.
 */
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

/* ---- leaving ---- */

/*
 * A job for a call of the `count` values on the stack, its future pinned; NULL, and the reason on top: they cannot cross.
 * Raises where there is no memory. Until it is submitted nothing may raise that does not give both back.
 */
static uns_job *make_job(lua_State *L, uns_runtime *runtime, const uns_declaration *declared, int count) {
  static const uns_codec_names lua_names = {"argument", 1, true}, native_names = {"argument", 1, false};
  uns_function *function = declared->function;
  uns_future_push(runtime, L, (uns_kind)function->kind, declared->name);
  int pin = uns_runtime_pin(runtime, L);
  uns_job *job = take_job(runtime, function);
  if (job == NULL) {
    uns_runtime_unpin(runtime, pin);
    luaL_error(L, "not enough memory");
    return NULL;
  }
  job->mail.deliver = on_completion;
  job->pin = pin;
  const uns_codec_names *names = function->native != NULL ? &native_names : &lua_names;
  int status = uns_codec_encode(L, 1, count, names, &job->call);
  if (status == UNS_OK) return job;
  uns_runtime_unpin(runtime, pin);
  uns_job_free(job);
  if (status == UNS_ENOMEM) lua_error(L);
  return NULL;
}

/* The same, with the context variables that can cross. Raises what is wrong with the call itself. */
static uns_job *encode_call(lua_State *L, uns_runtime *runtime, const uns_declaration *declared, int count) {
  bool native = declared->function->native != NULL;
  int extra = native && uns_variables_push_named(L, runtime) ? 1 : 0;
  for (int only_sendable = 0; !native && only_sendable <= 1; only_sendable++) {
    int with_variables = uns_variables_insert(L, runtime, only_sendable);
    if (with_variables == 0) break;
    uns_job *job = make_job(L, runtime, declared, count + with_variables);
    if (job != NULL) return job;
    lua_rotate(L, 1, -with_variables);
    lua_settop(L, count);
  }
  uns_job *job = make_job(L, runtime, declared, count + extra);
  if (job == NULL) {
    lua_error(L);
    return NULL;
  }
  job->named_context = extra > 0;
  return job;
}

int uns_send_call(lua_State *L, uns_runtime *runtime, const uns_declaration *declared) {
  if (runtime->closing) return uns_error_raise(L, "closed", "closed: the state is ending, no call can start");
  uns_function *function = declared->function;
  if (function->native == NULL) lua_insert(L, 1);
  else lua_pop(L, 1);
  int count = lua_gettop(L);
  luaL_checkstack(L, 8, NULL);
  uns_search_path *path = function->native == NULL ? uns_package_path(runtime, L) : NULL;
  uns_job *job = encode_call(L, runtime, declared, count);
  set_deadline(L, runtime, job);
  uns_runtime_push_pin(runtime, L, job->pin);
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

void uns_send_open(uns_runtime *runtime) {
  runtime->held_closer.close = drop_held;
  uns_list_push_back(&runtime->closers, &runtime->held_closer.link);
}
