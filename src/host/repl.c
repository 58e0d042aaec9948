#include "host/repl.h"

#include <lauxlib.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "host/explain.h"
#include "host/files.h"
#include "host/lines.h"
#include "host/signals.h"
#include "loop/cancel.h"
#include "loop/failure.h"
#include "unsync.h"

enum { QUICK_KIB = 64 * 1024 }; /* a heap that is collected in some ten milliseconds */

struct uns_repl {
  uns_attendant attendant;
  const uns_script *before; /* borrowed */
  uns_run *run;             /* while it is attended */
  uns_runtime *runtime;
  const uns_link *last_failure; /* the youngest that was there; compared only */
  char prompt[256];             /* longer ones are cut */
  int wanted;                   /* pin of the promise that waits for a line, or 0 */
  int foreground;               /* pin of the future that Ctrl-C cancels, or 0 */
  bool interactive, interrupted, terminated;
  bool turning; /* inside the reading of a line: nobody else reads */
};

static uns_repl *attended; /* the one of this program */

/* ---- the line that is asked for ---- */

static const char *why_none(uns_lines_end end) {
  switch (end) {
    case UNS_LINES_INTERRUPTED: return "interrupted";
    case UNS_LINES_INTERRUPTED_TWICE: return "interrupted twice";
    default: return "eof";
  }
}

typedef struct {
  uns_repl *repl;
  uns_lines_end end;
  const char *line;
  size_t size;
} news;

/* Settles the promise that waits for a line. A line may be more than there is memory for. */
static int settle(lua_State *L) {
  const news *what = lua_touserdata(L, 1);
  uns_repl *repl = what->repl;
  uns_runtime_push_pin(repl->runtime, L, repl->wanted);
  if (what->end == UNS_LINES_READ) {
    lua_pushlstring(L, what->line, what->size);
    uns_future_resolve(repl->runtime, L, 2, 1);
  } else {
    lua_pushnil(L);
    lua_pushstring(L, why_none(what->end));
    uns_future_resolve(repl->runtime, L, 2, 2);
  }
  return 0;
}

static int settle_failed(lua_State *L) {
  const news *what = lua_touserdata(L, 1);
  uns_runtime_push_pin(what->repl->runtime, L, what->repl->wanted);
  lua_pushliteral(L, "not enough memory");
  lua_pushnil(L);
  uns_future_fail(what->repl->runtime, L, 2, UNS_FUTURE_FAILED);
  return 0;
}

static bool in_lua(lua_State *L, lua_CFunction call, news *what) {
  lua_pushcfunction(L, call);
  lua_pushlightuserdata(L, what);
  if (lua_pcall(L, 1, 0, 0) == LUA_OK) return true;
  lua_pop(L, 1);
  return false;
}

static void hand_over(uns_repl *repl, news *what) {
  uns_runtime *runtime = repl->runtime;
  if (!in_lua(runtime->L, settle, what)) in_lua(runtime->L, settle_failed, what);
  uns_runtime_unpin(runtime, repl->wanted);
  repl->wanted = 0;
  runtime->pending--;
  runtime->pending_io--;
}

/*
 * A failure that nobody can look at any more is told when its future is collected: at the prompt, where nothing else makes
 * garbage, that may be never. So it is collected at once, where that is quick.
 */
static void tell_lost_failures(uns_repl *repl) {
  uns_runtime *runtime = repl->runtime;
  const uns_link *last = runtime->failures.prev;
  if (last == &runtime->failures || last == repl->last_failure) return;
  repl->last_failure = last;
  if (lua_gc(runtime->L, LUA_GCCOUNT) < QUICK_KIB) lua_gc(runtime->L, LUA_GCCOLLECT);
}

static bool turn(void *context) {
  uns_repl *repl = context;
  if (!uns_script_turn(repl->run, true)) return false;
  uns_signals_look(repl->run);
  tell_lost_failures(repl);
  return true;
}

static void attend(uns_attendant *attendant, uns_run *run) {
  uns_repl *repl = uns_container_of(attendant, uns_repl, attendant);
  repl->run = run;
  if (repl->wanted == 0 || repl->turning) return;
  repl->turning = true;
  news what = {.repl = repl};
  uns_turner turner = {repl->runtime, turn, repl};
  what.end = uns_lines_read(&turner, repl->prompt, &what.line, &what.size);
  repl->turning = false;
  if (repl->wanted != 0 && run->going) hand_over(repl, &what);
}

/* ---- Ctrl-C ---- */

/* The future of the line that runs, or NULL. */
static uns_future *foreground_of(uns_repl *repl) {
  if (repl->foreground == 0) return NULL;
  lua_State *L = repl->runtime->L;
  if (!lua_checkstack(L, 4)) return NULL;
  uns_runtime_push_pin(repl->runtime, L, repl->foreground);
  uns_future *future = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return future;
}

static bool interrupt(uns_attendant *attendant, uns_run *run, int number) {
  uns_repl *repl = uns_container_of(attendant, uns_repl, attendant);
  (void)run;
  if (number != SIGINT || !repl->interactive) {
    repl->terminated = true;
    return false;
  }
  uns_future *future = foreground_of(repl);
  if (future != NULL) {
    repl->interrupted = true;
    uns_cancel_work(repl->runtime, future);
  } else {
    uns_input_interrupt();
  }
  return true;
}

/* The line that was told to stop has caught the error, and goes on. */
static void caught(uns_runtime *runtime, lua_State *L) {
  uns_repl *repl = attended;
  if (repl == NULL || !repl->interrupted || runtime->current == NULL) return;
  if (runtime->current->future == foreground_of(repl)) uns_signals_insist(L);
}

/* ---- what Lua is lent ---- */

static uns_repl *check_repl(lua_State *L) { return lua_touserdata(L, lua_upvalueindex(1)); }

/* read(prompt) -> future of a line, or of nil, why: "eof", "interrupted", "interrupted twice" */
static int repl_read(lua_State *L) {
  uns_repl *repl = check_repl(L);
  uns_runtime *runtime = repl->runtime;
  const char *prompt = luaL_checkstring(L, 1);
  if (repl->wanted != 0) return luaL_error(L, "a line is being read already");
  snprintf(repl->prompt, sizeof repl->prompt, "%s", prompt);
  uns_future_push(runtime, L, UNS_KIND_PROMISE, uns_runtime_intern(runtime, L, "line"));
  lua_pushvalue(L, -1);
  repl->wanted = uns_runtime_pin(runtime, L);
  runtime->pending++; /* there is hope as long as somebody may type */
  runtime->pending_io++;
  runtime->end_turn = true; /* to the one who reads it */
  return 1;
}

/* foreground([future]): what Ctrl-C cancels from now on */
static int repl_foreground(lua_State *L) {
  uns_repl *repl = check_repl(L);
  if (repl->foreground != 0) uns_runtime_unpin(repl->runtime, repl->foreground);
  repl->foreground = 0;
  if (lua_isnoneornil(L, 1)) return 0;
  if (uns_future_test(L, 1) == NULL) return luaL_argerror(L, 1, "future expected");
  lua_settop(L, 1);
  repl->foreground = uns_runtime_pin(repl->runtime, L);
  return 0;
}

/* begin(): a line is about to run */
static int repl_begin(lua_State *L) {
  check_repl(L)->interrupted = false;
  uns_signals_forgive();
  return 0;
}

/* was_interrupted() -> whether Ctrl-C came while the line ran */
static int repl_was_interrupted(lua_State *L) {
  lua_pushboolean(L, check_repl(L)->interrupted);
  return 1;
}

/* terminated() -> whether the session itself was told to end */
static int repl_terminated(lua_State *L) {
  lua_pushboolean(L, check_repl(L)->terminated);
  return 1;
}

/* traceback(error) -> text: where it was raised, joined with where an await raised it here; for message handlers */
static int repl_traceback(lua_State *L) {
  lua_settop(L, 1);
  uns_failure_push_traceback(check_repl(L)->runtime, L);
  return 1;
}

typedef struct watcher {
  uns_waiter waiter;
  uns_runtime *runtime;
  uns_callback callback;
  int pin; /* of the future and the function, in a table */
} watcher;

static int start_told(lua_State *L) {
  watcher *mine = lua_touserdata(L, 1);
  uns_runtime_push_pin(mine->runtime, L, mine->pin);
  lua_rawgeti(L, 2, 2);
  lua_rawgeti(L, 2, 1);
  uns_task_start(mine->runtime, L, 1, "repl");
  return 0;
}

static void tell(uns_callback *callback, uns_runtime *runtime) {
  watcher *mine = uns_container_of(callback, watcher, callback);
  lua_State *L = runtime->L;
  if (lua_checkstack(L, 4)) {
    lua_pushcfunction(L, start_told);
    lua_pushlightuserdata(L, mine);
    if (lua_pcall(L, 1, 0, 0) != LUA_OK) lua_pop(L, 1);
  }
  uns_runtime_unpin(runtime, mine->pin);
  uns_free(mine);
}

static void on_settled(uns_waiter *waiter, uns_runtime *runtime, uns_future *future) {
  (void)future;
  uns_runtime_call_soon(runtime, &uns_container_of(waiter, watcher, waiter)->callback);
}

/* watch(future, fn): calls fn(future) in a task of its own when it has settled; that counts as no wait for it */
static int repl_watch(lua_State *L) {
  uns_repl *repl = check_repl(L);
  uns_future *future = uns_future_test(L, 1);
  if (future == NULL) return luaL_argerror(L, 1, "future expected");
  luaL_checktype(L, 2, LUA_TFUNCTION);
  if (uns_future_settled(future)) return 0;
  lua_settop(L, 2);
  lua_createtable(L, 2, 0);
  lua_insert(L, 1);
  lua_rawseti(L, 1, 2);
  lua_rawseti(L, 1, 1);
  int pin = uns_runtime_pin(repl->runtime, L);
  watcher *mine = uns_malloc(sizeof *mine);
  if (mine == NULL) {
    uns_runtime_unpin(repl->runtime, pin);
    return luaL_error(L, "not enough memory");
  }
  *mine = (watcher){.waiter = {.wake = on_settled, .listens = true}, .runtime = repl->runtime, .pin = pin};
  uns_list_init(&mine->waiter.link);
  uns_callback_init(&mine->callback, tell);
  uns_future_add_waiter(future, &mine->waiter);
  return 0;
}

/* leave([code]): when the session's task ends, what it started is cancelled */
static int repl_leave(lua_State *L) {
  uns_repl *repl = check_repl(L);
  repl->run->leaving = true;
  repl->run->code = (int)luaL_optinteger(L, 1, repl->run->code);
  return 0;
}

/* fail(): the exit code is 1, unless it is another one already */
static int repl_fail(lua_State *L) {
  uns_repl *repl = check_repl(L);
  if (repl->run->code == 0) repl->run->code = 1;
  return 0;
}

/* width() -> columns of the terminal */
static int repl_width(lua_State *L) {
  struct winsize size;
  bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 20;
  lua_pushinteger(L, known ? size.ws_col : 80);
  return 1;
}

static const luaL_Reg functions[] = {{"read", repl_read},
                                     {"foreground", repl_foreground},
                                     {"begin", repl_begin},
                                     {"was_interrupted", repl_was_interrupted},
                                     {"terminated", repl_terminated},
                                     {"traceback", repl_traceback},
                                     {"watch", repl_watch},
                                     {"leave", repl_leave},
                                     {"fail", repl_fail},
                                     {"width", repl_width},
                                     {"distance", uns_explain_distance},
                                     {NULL, NULL}};

static const char *step_kind(uns_step_kind kind) {
  switch (kind) {
    case UNS_STEP_CODE: return "code";
    case UNS_STEP_REQUIRE: return "require";
    default: return "file";
  }
}

static void push_steps(lua_State *L, const uns_repl *repl) {
  const uns_script *before = repl->before;
  lua_createtable(L, before->step_count, 0);
  for (int i = 0; i < before->step_count; i++) {
    lua_createtable(L, 0, 2);
    lua_pushstring(L, step_kind(before->steps[i].kind));
    lua_setfield(L, -2, "kind");
    lua_pushstring(L, before->steps[i].text);
    lua_setfield(L, -2, "text");
    lua_pushstring(L, before->steps[i].name);
    lua_setfield(L, -2, "name");
    lua_rawseti(L, -2, i + 1);
  }
  lua_setfield(L, -2, "steps");
  lua_newtable(L);
  for (int i = before->script_index + 1; before->script_index > 0 && i < before->argc; i++) {
    lua_pushstring(L, before->argv[i]);
    lua_rawseti(L, -2, i - before->script_index);
  }
  lua_setfield(L, -2, "arguments");
}

static bool wants_color(void) {
  const char *none = getenv("NO_COLOR"), *terminal = getenv("TERM");
  return (none == NULL || *none == '\0') && terminal != NULL && strcmp(terminal, "dumb") != 0;
}

/* open(repl) -> the session's function, and what it is lent */
static int open_session(lua_State *L) {
  uns_repl *repl = lua_touserdata(L, 1);
  repl->runtime = uns_runtime_of(L);
  repl->runtime->caught = caught;
  attended = repl;
  lua_getglobal(L, "require");
  lua_pushliteral(L, "unsync.repl");
  lua_call(L, 1, 1);
  lua_newtable(L);
  lua_pushlightuserdata(L, repl);
  luaL_setfuncs(L, functions, 1);
  lua_pushboolean(L, repl->interactive);
  lua_setfield(L, -2, "interactive");
  lua_pushboolean(L, repl->interactive && wants_color());
  lua_setfield(L, -2, "color");
  lua_pushliteral(L, "unsync " UNSYNC_VERSION " (" LUA_RELEASE ")  .help says what there is, Ctrl-D leaves");
  lua_setfield(L, -2, "banner");
  uns_files_set(L);
  uns_lines_set(L);
  push_steps(L, repl);
  return 2;
}

uns_repl *uns_repl_new(const uns_script *before) {
  uns_repl *repl = uns_calloc(1, sizeof *repl);
  if (repl == NULL) return NULL;
  repl->attendant = (uns_attendant){attend, interrupt};
  repl->before = before;
  repl->interactive = uns_lines_open();
  return repl;
}

void uns_repl_free(uns_repl *repl) {
  uns_lines_close();
  attended = NULL;
  uns_free(repl);
}

uns_step uns_repl_step(uns_repl *repl) { return (uns_step){.kind = UNS_STEP_CALL, .call = open_session, .data = repl}; }

uns_attendant *uns_repl_attendant(uns_repl *repl) { return &repl->attendant; }
