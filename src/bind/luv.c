/*
 * luv: libuv for scripts, by the luv library, on the ambient loop.
 *
 * luv has a uv loop of its own, nested into the runtime's: its `walk` takes every handle on its loop for one of luv's,
 * scripts close all that they walk over, and `run` ends when nothing is active. Here it sees its own handles only.
 *   - The nested loop never blocks. Before the runtime sleeps, `before_sleep` runs one pass of it if anything is due;
 *     else its descriptor (`poll`) and its nearest timer (`timer`), both in the runtime's loop, end the sleep.
 *   - What a script has unreferenced works as long as something else keeps the program going, as in libuv.
 *   - A callback runs on the state's main thread, outside of any task: it may start tasks and settle promises, but
 *     not wait. An error in it is reported at once, counts as an unobserved failure, and the program goes on.
 *   - `run` is a wait: for a promise of ours, one for each mode, which `settle_runs` resolves.
 *   - While a script watches a signal, it is the script's; then the program's own handler comes back (signals_changed).
 * The turn that calls us: loop/runtime.c.
 */
#include "bind/luv.h"

#include <lauxlib.h>
#include <luv/lhandle.h>
#include <luv/lreq.h>
#include <luv/luv.h>
#include <signal.h>
#include <string.h>

#include "base/text.h"
#include "core/error.h"
#include "exec/executors.h"
#include "loop/future.h"
#include "loop/task.h"

#define LUV_TYPE "unsync.Luv"

enum { MODE_COUNT = 3 }; /* of uv_run_mode */

static const char *const mode_names[] = {"default", "once", "nowait", NULL};

/* Our handles in the runtime's loop. They end a turn of it later than what they stand for. */
typedef struct {
  uv_timer_t timer;
  uv_check_t check; /* after each sleep: the nested loop's clock must not be older than the tasks' turn */
  uv_poll_t poll;
  int open; /* handles that are not closed yet */
} outside;

typedef struct uns_luv {
  uns_closer closer;
  uns_runtime *runtime; /* NULL once either is closing */
  luv_ctx_t *context;
  outside *outside; /* owned; frees itself once closed */
  uv_loop_t loop;
  bool usable;          /* the nested loop is open */
  bool readable;        /* its descriptor has news */
  bool passing;         /* a pass is on the C stack */
  bool stop;            /* uv.stop was called and no uv.run has ended by it */
  bool watches_signals; /* a script has done so */
  uint64_t due_ms;      /* what `timer` is armed for, on the nested loop's clock; 0: it is not */
  uint64_t callbacks;   /* how many there were */
  int runs[MODE_COUNT]; /* pins of what the callers of uv.run await, by mode; 0: nobody does */
} uns_luv;

static const char luv_key = 0; /* in the registry, by address: the userdata */

static uns_luv *luv_of(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &luv_key);
  uns_luv *luv = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return luv;
}

/* ---- callbacks ---- */

/* Message handler: the error as text, whatever it is, and where it was raised. */
static int with_traceback(lua_State *L) {
  luaL_traceback(L, L, luaL_tolstring(L, 1, NULL), 1);
  return 1;
}

/* Calls the function under its `count` arguments, as luv's own caller would, but survives an error. */
static int call_back(lua_State *L, int count, int result_count, int flags) {
  (void)flags;
  uns_luv *luv = luv_of(L);
  uns_runtime *runtime = luv->runtime;
  int base = lua_gettop(L) - count;
  if (runtime == NULL || !lua_checkstack(L, LUA_MINSTACK)) { /* the state is closing: nothing of the script's runs */
    lua_settop(L, base - 1);
    return 0;
  }
  luv->callbacks++;
  lua_pushcfunction(L, with_traceback);
  lua_insert(L, base);
  uns_task *task = runtime->current;
  const char *outer = runtime->callback_of;
  runtime->current = NULL;
  runtime->callback_of = "luv";
  int status = lua_pcall(L, count, result_count, base);
  runtime->callback_of = outer;
  runtime->current = task;
  if (status == LUA_OK) {
    lua_remove(L, base);
    return lua_gettop(L) - base + 1;
  }
  runtime->unobserved++;
  const char *error = lua_tostring(L, -1);
  uns_text text = {0}; /* ours, for nothing may be raised across libuv */
  uns_text_add(&text, "error in a callback of luv: %s",
               error != NULL ? error : "(an error object whose tostring failed)");
  uns_runtime_report(runtime, text.bytes != NULL ? text.bytes : "error in a callback of luv, and not enough memory to tell it");
  uns_free(text.bytes);
  lua_settop(L, base - 1);
  return -status;
}

/* ---- uv.run, uv.stop, uv.loop_close ---- */

/* Ends the wait of those who called uv.run with `mode`, if anybody did. */
static void settle_run(uns_luv *luv, int mode, bool alive) {
  if (luv->runs[mode] == 0) return;
  lua_State *L = luv->runtime->L;
  uns_runtime_push_pin(luv->runtime, L, luv->runs[mode]);
  uns_runtime_unpin(luv->runtime, luv->runs[mode]);
  luv->runs[mode] = 0;
  lua_pushboolean(L, alive);
  uns_future_resolve(luv->runtime, L, lua_gettop(L) - 1, 1);
  lua_pop(L, 1);
}

/* What uv.loop_mode says: how the loop is run, of those who run it the one that stays longest. */
static void show_mode(uns_luv *luv) {
  luv->context->mode = -1;
  for (int mode = MODE_COUNT - 1; mode >= 0; mode--) {
    if (luv->runs[mode] != 0) luv->context->mode = mode;
  }
}

/* Ends the waits that are over: after a pass (which made progress or only registered descriptors), or before a sleep. */
static void settle_runs(uns_luv *luv, bool passed, bool progress) {
  bool waited = false;
  for (int mode = 0; mode < MODE_COUNT; mode++) waited |= luv->runs[mode] != 0;
  if (!waited) return;
  bool alive = uv_loop_alive(&luv->loop) != 0;
  bool over = luv->stop || !alive;
  luv->stop = false;
  if (over) settle_run(luv, UV_RUN_DEFAULT, alive);
  if (over || progress) settle_run(luv, UV_RUN_ONCE, alive);
  if (over || passed) settle_run(luv, UV_RUN_NOWAIT, alive);
  show_mode(luv);
}

/* uv.run([mode]) -> boolean: whether something is still active. Suspends the task. */
static int luv_run(lua_State *L) {
  uns_luv *luv = luv_of(L);
  int mode = luaL_checkoption(L, 1, "default", mode_names);
  lua_settop(L, 1);
  if (luv->runtime == NULL) return luaL_error(L, "the event loop has ended");
  if (luv->runtime->current == NULL && luv->runtime->callback_of != NULL) {
    return uns_error_raise(L, "unyieldable", "uv.run: the loop is running already: this is a callback of luv");
  }
  bool alive = uv_loop_alive(&luv->loop) != 0;
  if (luv->stop || !alive) {
    luv->stop = false;
    if (!alive) uv_update_time(&luv->loop);
    lua_pushboolean(L, alive);
    return 1;
  }
  uns_task_check_can_wait(luv->runtime, L);
  if (luv->runs[mode] == 0) {
    uns_future_push(luv->runtime, L, UNS_KIND_PROMISE, "uv.run");
    lua_pushvalue(L, -1);
    luv->runs[mode] = uns_runtime_pin(luv->runtime, L);
    show_mode(luv);
  } else {
    uns_runtime_push_pin(luv->runtime, L, luv->runs[mode]);
  }
  return uns_task_await(luv->runtime, L, lua_gettop(L), 0);
}

/* uv.stop(): ends the uv.run that is under way, or else the next one. */
static int luv_stop(lua_State *L) {
  luv_of(L)->stop = true;
  return 0;
}

static void on_readable(uv_poll_t *poll, int status, int events) {
  (void)status;
  (void)events;
  uns_luv *luv = poll->data;
  luv->readable = true;
}

/* What `timer` is armed for; whoever looks at the loop from outside may know. */
static void set_due(uns_luv *luv, uint64_t due_ms) {
  luv->due_ms = due_ms;
  if (luv->runtime != NULL) {
    atomic_store_explicit(&luv->runtime->nested_due_ns, due_ms * 1000000, memory_order_relaxed);
  }
}

static void on_timer(uv_timer_t *timer) {
  set_due(timer->data, 0);
  uv_stop(timer->loop); /* timers come before the poll, which would then sleep although a pass is due */
}

static void on_awake(uv_check_t *check) { uv_update_time(&((uns_luv *)check->data)->loop); }

static void on_outside_closed(uv_handle_t *handle) {
  outside *out = handle->data;
  if (--out->open == 0) uns_free(out);
}

static void close_outside(outside *out) {
  out->timer.data = out->check.data = out->poll.data = out;
  uv_close((uv_handle_t *)&out->timer, on_outside_closed);
  uv_close((uv_handle_t *)&out->check, on_outside_closed);
  if (out->open == 3) uv_close((uv_handle_t *)&out->poll, on_outside_closed);
}

/* Makes our handles in the runtime's loop; NULL with a libuv code in `status`. */
static outside *open_outside(uns_luv *luv, int *status) {
  outside *out = uns_calloc(1, sizeof *out);
  if (out == NULL) {
    *status = UV_ENOMEM;
    return NULL;
  }
  uv_timer_init(&luv->runtime->loop, &out->timer);
  uv_check_init(&luv->runtime->loop, &out->check);
  out->timer.data = out->check.data = out->poll.data = luv;
  out->open = 2;
  uv_unref((uv_handle_t *)&out->timer);
  uv_unref((uv_handle_t *)&out->check);
  uv_check_start(&out->check, on_awake);
  *status = uv_poll_init(&luv->runtime->loop, &out->poll, uv_backend_fd(&luv->loop));
  if (*status == 0) {
    out->open = 3;
    uv_unref((uv_handle_t *)&out->poll);
    *status = uv_poll_start(&out->poll, UV_READABLE, on_readable);
  }
  if (*status == 0) return out;
  close_outside(out);
  return NULL;
}

static int fail(lua_State *L, int status) {
  luaL_pushfail(L);
  lua_pushfstring(L, "%s: %s", uv_err_name(status), uv_strerror(status));
  lua_pushstring(L, uv_err_name(status));
  return 3;
}

/*
 * uv.loop_close() -> 0, or nil, message, name. The loop must be unused; a new one takes its place, so that luv goes on
 * working, which in a program that ends with it nobody notices.
 */
static int luv_loop_close(lua_State *L) {
  uns_luv *luv = luv_of(L);
  if (luv->runtime == NULL || luv->passing) return fail(L, UV_EBUSY);
  /* The descriptor must leave the runtime's loop before it is closed. */
  uv_poll_stop(&luv->outside->poll);
  int status = uv_loop_close(&luv->loop);
  if (status != 0) {
    uv_poll_start(&luv->outside->poll, UV_READABLE, on_readable);
    return fail(L, status);
  }
  close_outside(luv->outside);
  luv->outside = NULL;
  set_due(luv, 0);
  luv->readable = false;
  settle_runs(luv, true, true);
  status = uv_loop_init(&luv->loop);
  luv->usable = status == 0;
  if (status == 0) luv->outside = open_outside(luv, &status);
  if (status != 0) return luaL_error(L, "uv.loop_close: no new loop: %s", uv_strerror(status));
  lua_pushinteger(L, 0);
  return 1;
}

/* ---- signals ---- */

static void signals_changed(const uns_luv *luv) {
  uns_executors *executors = luv->runtime != NULL ? luv->runtime->executors : NULL;
  if (executors != NULL && executors->signals_changed != NULL) executors->signals_changed();
}

/* Calls luv's own function, our upvalue. A signal that comes in between finds one handler or the other. */
static int change_signals(lua_State *L) {
  uns_luv *luv = luv_of(L);
  sigset_t all, before;
  sigfillset(&all);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  luv->watches_signals = true;
  int status = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
  signals_changed(luv);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return status == LUA_OK ? lua_gettop(L) : lua_error(L);
}

/* Wraps those of `names` that the table on top has. */
static void wrap_functions(lua_State *L, const char *const *names, lua_CFunction wrapper) {
  for (; *names != NULL; names++) {
    if (lua_getfield(L, -1, *names) == LUA_TFUNCTION) {
      lua_pushcclosure(L, wrapper, 1);
      lua_setfield(L, -2, *names);
    } else {
      lua_pop(L, 1);
    }
  }
}

/* uv.close(handle, ...), which may be a signal's */
static int close_any(lua_State *L) {
  if (luv_of(L)->watches_signals) return change_signals(L);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
  return lua_gettop(L);
}

/* The table of luv on top. */
static void wrap_signals(lua_State *L) {
  static const char *const functions[] = {"signal_start", "signal_start_oneshot", "signal_stop", NULL};
  static const char *const methods[] = {"start", "stop", "close", NULL};
  static const char *const closing[] = {"close", NULL};
  wrap_functions(L, functions, change_signals);
  wrap_functions(L, closing, close_any);
  luaL_getmetatable(L, "uv_signal");
  lua_getfield(L, -1, "__index");
  wrap_functions(L, methods, change_signals);
  lua_pop(L, 2);
}

/* ---- the nested loop ---- */

typedef enum {
  DUE_NOTHING,
  DUE_REGISTER, /* descriptors to be handed to the kernel, nothing known to have happened */
  DUE_WORK
} due;

/* Whether a pass is needed now; else `timer` is armed for when one will be. */
static due look(uns_luv *luv) {
  uv_loop_t *loop = &luv->loop;
  if (luv->readable) return DUE_WORK;
  /* libuv answers 0 where no handle is referenced, as if something were due. */
  loop->active_handles++;
  int timeout_ms = uv_backend_timeout(loop);
  loop->active_handles--;
  if (timeout_ms == 0) return DUE_WORK;
  if (timeout_ms > 0) {
    uint64_t due_ms = uv_now(loop) + (uint64_t)timeout_ms;
    if (due_ms != luv->due_ms) {
      uv_loop_t *outer = &luv->runtime->loop;
      uv_update_time(outer); /* both loops have the same clock, each its own reading of it */
      if (uv_now(outer) >= due_ms) return DUE_WORK;
      uv_timer_start(&luv->outside->timer, on_timer, due_ms - uv_now(outer), 0);
      set_due(luv, due_ms);
    }
  } else if (luv->due_ms != 0) {
    uv_timer_stop(&luv->outside->timer);
    set_due(luv, 0);
  }
  /* A started watcher is in this queue until a pass hands it to the kernel. */
  return loop->watcher_queue[0] != (void *)&loop->watcher_queue ? DUE_REGISTER : DUE_NOTHING;
}

/* One pass, whether or not what there is is referenced. */
static void pass(uns_luv *luv) {
  lua_State *L = luv->runtime->L;
  int top = lua_gettop(L);
  bool unreferenced = !uv_loop_alive(&luv->loop);
  luv->readable = false;
  luv->passing = true;
  if (unreferenced) luv->loop.active_handles++;
  uv_run(&luv->loop, UV_RUN_NOWAIT);
  if (unreferenced) luv->loop.active_handles--;
  luv->passing = false;
  if (luv->watches_signals) signals_changed(luv); /* one that was for once has come, a handle was collected */
  lua_settop(L, top);
}

static bool before_sleep(uns_runtime *runtime) {
  uns_luv *luv = runtime->luv;
  if (luv->outside == NULL) return false; /* a failed loop_close */
  due found = look(luv);
  if (found == DUE_NOTHING && luv->runs[UV_RUN_NOWAIT] == 0) {
    settle_runs(luv, false, false); /* somebody may have stopped or closed the last handle */
    return false;
  }
  uint64_t callbacks = luv->callbacks;
  if (lua_checkstack(runtime->L, 2 * LUA_MINSTACK)) pass(luv);
  settle_runs(luv, true, found == DUE_WORK || luv->callbacks != callbacks);
  return true;
}

static bool busy(uns_runtime *runtime) { return runtime->luv->usable && uv_loop_alive(&runtime->luv->loop); }

/* ---- the end ---- */

static void close_handle(uv_handle_t *handle, void *unused) {
  (void)unused;
  if (!uv_is_closing(handle)) uv_close(handle, NULL);
}

/*
 * Nothing of the script's is called any more: closes what it has open, and waits for the requests that libuv's thread
 * pool has in hand, which nobody can stop. The loop stays, empty: finalizers may still call luv.
 */
static void shut_down(uns_luv *luv) {
  uns_runtime *runtime = luv->runtime;
  if (runtime != NULL) {
    luv->runtime = NULL;
    uns_list_remove(&luv->closer.link);
    runtime->luv = NULL;
    runtime->busy = NULL;
    runtime->before_sleep = NULL;
    if (luv->outside != NULL) close_outside(luv->outside);
    luv->outside = NULL;
  }
  if (!luv->usable) return;
  uv_walk(&luv->loop, close_handle, NULL);
  while (uv_run(&luv->loop, UV_RUN_DEFAULT) != 0) continue;
}

/* The runtime ends, before the state does. */
static void on_runtime_close(uns_closer *closer, uns_runtime *runtime) {
  (void)runtime;
  shut_down(uns_container_of(closer, uns_luv, closer));
}

/* The state ends. luv's handles are younger than this userdata, so they have been finalized before. */
static int luv_gc(lua_State *L) {
  uns_luv *luv = luaL_testudata(L, 1, LUV_TYPE);
  if (luv == NULL) return 0;
  shut_down(luv);
  if (luv->usable) uv_loop_close(&luv->loop);
  luv->usable = false;
  return 0;
}

/* ---- luv's own finalizers ---- */

/*
 * While a handle is open, or a request under way, luv holds it in the registry. One that is still there when it is
 * finalized means that the state is closed without uns_runtime_close, as stock Lua does it; luv would then free what its
 * loop still works on. So everything is closed first.
 */
static void check_state_closes(lua_State *L, int ref) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, ref);
  bool held = lua_rawequal(L, -1, 1);
  lua_pop(L, 1);
  if (held) shut_down(luv_of(L));
}

/* Calls the finalizer that luv has set, our upvalue. */
static int finalize(lua_State *L) {
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_pushvalue(L, 1);
  lua_call(L, 1, 0);
  return 0;
}

static int handle_gc(lua_State *L) {
  uv_handle_t **slot = lua_touserdata(L, 1);
  if (slot == NULL) return 0; /* a table with the metatable of a handle: luv would not look */
  const uv_handle_t *handle = *slot;
  if (handle != NULL && handle->data != NULL) check_state_closes(L, ((const luv_handle_t *)handle->data)->ref);
  return finalize(L);
}

static int fs_gc(lua_State *L) {
  const uv_fs_t *request = lua_touserdata(L, 1);
  if (request == NULL || request->data == NULL) return 0;
  check_state_closes(L, ((const luv_req_t *)request->data)->req_ref);
  return finalize(L);
}

/* Puts `gc` around the finalizer in the metatable on top. */
static void wrap_finalizer(lua_State *L, lua_CFunction gc) {
  lua_getfield(L, -1, "__gc");
  lua_pushcclosure(L, gc, 1);
  lua_setfield(L, -2, "__gc");
}

static void wrap_finalizers(lua_State *L) {
  lua_getfield(L, LUA_REGISTRYINDEX, "uv_handle"); /* the classes of handles, as keys */
  for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
    lua_pushvalue(L, -2);
    wrap_finalizer(L, handle_gc);
    lua_pop(L, 1);
  }
  luaL_getmetatable(L, "uv_fs");
  wrap_finalizer(L, fs_gc);
  lua_pop(L, 2);
}

/* ---- the start ---- */

/* Makes the nested loop and ties it to the runtime. Raises. */
static uns_luv *luv_new(lua_State *L, uns_runtime *runtime) {
  uns_luv *luv = lua_newuserdatauv(L, sizeof *luv, 0);
  memset(luv, 0, sizeof *luv);
  uns_list_init(&luv->closer.link);
  if (luaL_newmetatable(L, LUV_TYPE)) {
    lua_pushcfunction(L, luv_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  int status = uv_loop_init(&luv->loop);
  luv->usable = status == 0;
  luv->runtime = runtime;
  if (status == 0) luv->outside = open_outside(luv, &status);
  luv->runtime = NULL;
  if (status != 0) {
    uns_error_push_errno(L, -status, "luv: no event loop");
    lua_error(L);
  }
  lua_rawsetp(L, LUA_REGISTRYINDEX, &luv_key);
  luv->runtime = runtime;
  luv->closer.close = on_runtime_close;
  uns_list_push_back(&runtime->closers, &luv->closer.link);
  runtime->luv = luv;
  runtime->busy = busy;
  runtime->before_sleep = before_sleep;
  uns_runtime_has_company(runtime); /* its handles may become due while a task runs */
  return luv;
}

int uns_open_luv(lua_State *L) {
  static const luaL_Reg ours[] = {{"run", luv_run}, {"stop", luv_stop}, {"loop_close", luv_loop_close}, {NULL, NULL}};
  uns_runtime *runtime = uns_runtime_of(L);
  if (runtime == NULL || runtime->closing) return luaL_error(L, "luv: this state has no event loop, or no more");
  uns_luv *luv = luv_of(L);
  if (luv == NULL) luv = luv_new(L, runtime);
  luv_set_loop(runtime->L, &luv->loop); /* callbacks run on the main thread, whoever requires luv */
  luv_set_callback(runtime->L, call_back);
  luv->context = luv_context(runtime->L);
  show_mode(luv);
  luaopen_luv(L);
  wrap_finalizers(L);
  wrap_signals(L);
  luaL_setfuncs(L, ours, 0);
  return 1;
}
