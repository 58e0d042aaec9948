/*
 * shell: os.execute and io.popen, over posix_spawn. The caller's task waits for the command, and for what it writes; the
 * loop does not.
 *
 * The child inherits descriptors 0, 1 and 2 and nothing else, and the process's way with signals stays as it is (the C
 * library's system() keeps SIGINT from everybody while it runs).
 *   - A child is reaped here, by its number, and nowhere else: until then that number is safe to signal.
 *   - Its end is learnt from a pidfd on the loop; where the kernel has none, by asking again and again.
 *   - A wait for os.execute that is broken off ends the command, with what that has started: SIGTERM, after the grace
 *     period SIGKILL. The shell has no process group of its own: Ctrl-C and Ctrl-Z are for it as well.
 *   - Where nothing can wait, these block as stock Lua does. Collecting a forgotten pipe never does.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <lualib.h>

#include "bind/pipe_reader.h"
#include "bind/stdlib.h"
#include "core/packet.h"
#include "exec/executors.h"
#include "exec/kin.h"

#define COMMAND_TYPE "unsync.Command"
#define SHELL "/bin/sh"

enum {
  ASK_FIRST_NS = 1000000, /* without a pidfd: the first look, then after twice as long each time, */
  ASK_MOST_NS = 20000000, /* but no longer than this: what a person does not notice */
  GRACE_NS = 500000000    /* where no executors say otherwise */
};

extern char **environ;

/* A process that we started. */
typedef struct child {
  pid_t pid;
  int status; /* as from waitpid, once it has ended */
  int error;  /* errno of a waitpid that failed: somebody else has taken the status */
  bool ended;
  int references;       /* of a userdata, of an open `poll`, of an armed `ask` */
  uns_runtime *runtime; /* NULL once it has ended */
  uns_closer closer;    /* in runtime->closers */
  uns_task *task;       /* parked until the process ends, or NULL */
  bool polling;
  int pidfd;
  uv_poll_t poll;
  uns_timer ask;
  uint64_t ask_ns;
  uns_timer kill; /* armed with SIGTERM, while watched */
  int *kin;       /* owned: what it had started then, as far as that has not ended; NULL: nothing */
  int kin_count;
} child;

/* ---- its life ---- */

static void on_runtime_end(uns_closer *closer, uns_runtime *runtime);
static void on_ask(uns_timer *timer, uns_runtime *runtime);
static void on_kill(uns_timer *timer, uns_runtime *runtime);

/* With one reference. NULL without memory. */
static child *child_new(uns_runtime *runtime) {
  child *c = uns_calloc(1, sizeof *c);
  if (c == NULL) return NULL;
  c->references = 1;
  c->runtime = runtime;
  c->ended = true; /* not started yet */
  uns_timer_init_real(&c->ask, on_ask);
  uns_timer_init_real(&c->kill, on_kill);
  c->closer.close = on_runtime_end;
  uns_list_push_back(&runtime->closers, &c->closer.link);
  return c;
}

static void forget_kin(child *c) {
  uns_kin_close(c->kin, c->kin_count);
  uns_free(c->kin);
  c->kin = NULL;
  c->kin_count = 0;
}

static void child_unref(child *c) {
  if (--c->references > 0) return;
  if (c->runtime != NULL) uns_list_remove(&c->closer.link);
  forget_kin(c);
  uns_free(c);
}

static void on_closed(uv_handle_t *handle) {
  child *c = handle->data;
  close(c->pidfd);
  child_unref(c);
}

static void stop_polling(child *c) {
  if (!c->polling) return;
  c->polling = false;
  uv_close((uv_handle_t *)&c->poll, on_closed);
}

/* The loop looks after it no more. May free it, where it has no other reference. */
static void unwatch(child *c) {
  uns_timer_disarm(c->runtime, &c->kill);
  forget_kin(c);
  stop_polling(c);
  if (uns_timer_armed(&c->ask)) {
    uns_timer_disarm(c->runtime, &c->ask);
    child_unref(c);
  }
}

/* Takes its status if there is one. `options` 0: waits for it. */
static void reap(child *c, int options) {
  if (c->ended) return;
  pid_t got;
  do got = waitpid(c->pid, &c->status, options);
  while (got < 0 && errno == EINTR);
  if (got == 0) return;
  c->ended = true;
  c->error = got < 0 ? errno : 0;
}

/* It is asked again and again from now on. False without memory. */
static bool begin_to_ask(child *c) {
  c->ask_ns = ASK_FIRST_NS;
  if (uns_timer_arm(c->runtime, &c->ask, uns_clock_ns() + c->ask_ns) != UNS_OK) return false;
  c->references++;
  return true;
}

/* If it has ended, whoever waits is told, and nothing is left to be looked after: but for what it leaves behind, that has
   been asked to end, too. */
static void look(child *c) {
  reap(c, WNOHANG);
  if (!c->ended) return;
  if (c->task != NULL) uns_task_wake(c->runtime, c->task);
  c->task = NULL;
  c->kin_count = uns_kin_left(c->kin, c->kin_count);
  if (c->kin_count > 0 && (uns_timer_armed(&c->ask) || begin_to_ask(c))) stop_polling(c);
  else unwatch(c);
}

static void on_ask(uns_timer *timer, uns_runtime *runtime) {
  child *c = uns_container_of(timer, child, ask);
  c->ask_ns = c->ask_ns * 2 < ASK_MOST_NS ? c->ask_ns * 2 : ASK_MOST_NS;
  uns_timer_arm(runtime, timer, uns_clock_ns() + c->ask_ns); /* cannot fail: its place has just become free */
  look(c);
}

static void on_kill(uns_timer *timer, uns_runtime *runtime) {
  (void)runtime;
  child *c = uns_container_of(timer, child, kill);
  if (!c->ended) kill(c->pid, SIGKILL);
  uns_kin_signal(c->kin, c->kin_count, SIGKILL);
  forget_kin(c);
}

static void on_runtime_end(uns_closer *closer, uns_runtime *runtime) {
  (void)runtime;
  child *c = uns_container_of(closer, child, closer);
  c->references++;
  c->task = NULL;
  reap(c, WNOHANG);
  unwatch(c);
  c->runtime = NULL;
  child_unref(c);
}

#ifdef SYS_pidfd_open
static void on_pidfd(uv_poll_t *poll, int status, int events) {
  (void)status, (void)events;
  look(poll->data);
}

static bool open_pidfd(child *c) {
  c->pidfd = (int)syscall(SYS_pidfd_open, c->pid, 0); /* close-on-exec by itself */
  if (c->pidfd < 0) return false;
  if (uv_poll_init(&c->runtime->loop, &c->poll, c->pidfd) != 0) {
    close(c->pidfd);
    return false;
  }
  c->poll.data = c;
  c->references++;
  c->polling = uv_poll_start(&c->poll, UV_READABLE, on_pidfd) == 0;
  if (!c->polling) uv_close((uv_handle_t *)&c->poll, on_closed);
  return c->polling;
}
#else
static bool open_pidfd(child *c) {
  (void)c;
  return false;
}
#endif

/* The loop shall notice its end; `alive`: and not end before. False without memory. */
static bool watch(child *c, bool alive) {
  if (!c->polling && !uns_timer_armed(&c->ask) && !open_pidfd(c) && !begin_to_ask(c)) return false;
  if (c->polling && alive) uv_ref((uv_handle_t *)&c->poll);
  if (c->polling && !alive) uv_unref((uv_handle_t *)&c->poll);
  return true;
}

/* Its userdata lets go of it: if it still runs, it is reaped when it ends, and nobody waits for that. */
static void let_go(child *c) {
  c->task = NULL;
  reap(c, WNOHANG);
  if (!c->ended && c->runtime != NULL && !c->runtime->closing) watch(c, false);
  child_unref(c);
}

/* Asks it to end, with all it has started, and soon makes it. */
static void terminate(child *c) {
  if (c->ended) return;
  if (c->kin == NULL) c->kin = uns_malloc(UNS_KIN_MAX * sizeof *c->kin);
  if (c->kin != NULL && c->kin_count == 0) c->kin_count = uns_kin_find(c->pid, c->kin);
  bool asked = kill(c->pid, SIGTERM) == 0;
  uns_kin_signal(c->kin, c->kin_count, SIGTERM);
  if (!asked || c->runtime == NULL || c->runtime->closing) return;
  const uns_executors *executors = c->runtime->executors;
  uint64_t grace_ns = executors != NULL ? executors->grace_ns : GRACE_NS;
  if (watch(c, false)) uns_timer_arm(c->runtime, &c->kill, uns_clock_ns() + grace_ns);
}

/* The three results of a command that has ended; or nil, message and errno. */
static int push_result(lua_State *L, const child *c) {
  errno = c->error;
  return luaL_execresult(L, c->error != 0 ? -1 : c->status);
}

/* Whether `await` may follow, or else only reap(c, 0). Raises in a task that is cancelled. */
static bool can_await(lua_State *L, child *c) {
  if (c->ended || c->runtime == NULL || !uns_stdlib_can_wait(c->runtime, L)) return false;
  uns_task_check_can_wait(c->runtime, L);
  return watch(c, true);
}

/* Suspends L until the child has ended: to be returned. `k` begins with check_await. */
static int await(lua_State *L, child *c, lua_KFunction k) {
  c->task = c->runtime->current;
  c->task->waits_for = UNS_WAITS_PROCESS;
  if (!c->polling) uns_task_hope(c->runtime, c->task); /* libuv does not know that there is something under way */
  return uns_task_park(c->runtime, L, 0, k);
}

/* What a continuation of `await` begins with: raises if the wait was broken off. */
static void check_await(lua_State *L, child *c) {
  c->task = NULL;
  if (!c->ended && c->polling) uv_unref((uv_handle_t *)&c->poll);
  uns_task_check_interrupt(c->runtime, L);
}

/* ---- starting ---- */

static int fill_actions(posix_spawn_file_actions_t *actions, int from, int to) {
  int error = from >= 0 ? posix_spawn_file_actions_adddup2(actions, from, to) : 0;
  if (error == 0) error = posix_spawn_file_actions_addclosefrom_np(actions, STDERR_FILENO + 1);
  return error;
}

/* A pool thread blocks all signals, which its children shall not. */
static int fill_attributes(posix_spawnattr_t *attributes, bool is_worker) {
  if (!is_worker) return 0;
  sigset_t none;
  sigemptyset(&none);
  int error = posix_spawnattr_setsigmask(attributes, &none);
  if (error == 0) error = posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSIGMASK);
  return error;
}

/* Starts the shell with `command`; our descriptor `from`, if not -1, is its `to`. errno, or 0 and the pid is set. */
static int spawn(child *c, const char *command, int from, int to) {
  char shell[] = "sh", flag[] = "-c", end[] = "--";
  char *const arguments[] = {shell, flag, end, (char *)command, NULL};
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  int error = posix_spawn_file_actions_init(&actions);
  if (error != 0) return error;
  error = posix_spawnattr_init(&attributes);
  if (error == 0) {
    error = fill_actions(&actions, from, to);
    if (error == 0) error = fill_attributes(&attributes, c->runtime->is_worker);
    if (error == 0) error = posix_spawn(&c->pid, SHELL, &actions, &attributes, arguments, environ);
    posix_spawnattr_destroy(&attributes);
  }
  posix_spawn_file_actions_destroy(&actions);
  if (error == 0) c->ended = false;
  return error;
}

/* ---- os.execute ---- */

/* __close and __gc: a wait that was broken off, by an error or for ever, ends the command. */
static int command_close(lua_State *L) {
  child **slot = luaL_testudata(L, 1, COMMAND_TYPE);
  if (slot == NULL) return 0;
  child *c = *slot;
  *slot = NULL;
  if (c == NULL) return 0;
  reap(c, WNOHANG);
  terminate(c);
  let_go(c);
  return 0;
}

static int after_execute(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  child *c = *(child **)lua_touserdata(L, 2);
  check_await(L, c);
  if (can_await(L, c)) return await(L, c, after_execute);
  reap(c, 0);
  return push_result(L, c);
}

/* execute([command]) -> true | nil, "exit" | "signal", code; without a command: whether there is a shell */
static int os_execute(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  const char *command = luaL_optstring(L, 1, NULL);
  if (command == NULL) {
    lua_pushboolean(L, access(SHELL, X_OK) == 0);
    return 1;
  }
  if (uns_stdlib_can_wait(runtime, L)) uns_task_check_can_wait(runtime, L); /* a cancelled task starts nothing */
  lua_settop(L, 1);
  child **slot = lua_newuserdatauv(L, sizeof *slot, 0);
  *slot = NULL;
  luaL_setmetatable(L, COMMAND_TYPE);
  child *c = *slot = child_new(runtime);
  if (c == NULL) return luaL_error(L, "not enough memory");
  int error = spawn(c, command, -1, -1);
  if (error != 0) {
    errno = error;
    return luaL_execresult(L, -1);
  }
  lua_toclose(L, 2);
  if (can_await(L, c)) return await(L, c, after_execute);
  reap(c, 0);
  return push_result(L, c);
}

static const luaL_Reg command_meta[] = {{"__close", command_close}, {"__gc", command_close}, {NULL, NULL}};

/* ---- io.popen ---- */

static const char pipe_tag = 0;

/* A file handle of Lua's io library, and what is behind it. */
typedef struct {
  luaL_Stream stream;
  const void *tag;         /* &pipe_tag */
  child *child;            /* one reference, or NULL */
  uns_pipe_reader *reader; /* the stream's, while that is open; NULL: it writes */
  bool broken_off;         /* a read was: nobody may want the command any more */
} pipe_stream;

/* The userdata at index 1, some file handle, if it is one of ours. */
static pipe_stream *test_pipe(lua_State *L) {
  pipe_stream *stream = lua_touserdata(L, 1);
  return stream != NULL && lua_rawlen(L, 1) >= sizeof *stream && stream->tag == &pipe_tag ? stream : NULL;
}

static void drop_child(pipe_stream *stream) {
  child *c = stream->child;
  stream->child = NULL;
  if (c != NULL) let_go(c);
}

static int end_pipe(lua_State *L, pipe_stream *stream) {
  reap(stream->child, 0);
  int count = push_result(L, stream->child);
  drop_child(stream);
  return count;
}

static int after_pipe_wait(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  pipe_stream *stream = lua_touserdata(L, 1);
  check_await(L, stream->child);
  if (can_await(L, stream->child)) return await(L, stream->child, after_pipe_wait);
  return end_pipe(L, stream);
}

static void close_stream(pipe_stream *stream) {
  fclose(stream->stream.f);
  stream->reader = NULL;
}

/* The io library closes the file at index 1, in the frame of its own function, be it a method, io.close or __close. */
static int close_pipe(lua_State *L) {
  pipe_stream *stream = lua_touserdata(L, 1);
  close_stream(stream);
  if (can_await(L, stream->child)) return await(L, stream->child, after_pipe_wait);
  return end_pipe(L, stream);
}

/* __gc of all files: a forgotten pipe must not hold the loop until its command ends. */
static int file_gc(lua_State *L) {
  pipe_stream *stream = test_pipe(L);
  if (stream == NULL) return uns_stdlib_stock(L);
  child *c = stream->child;
  if (stream->stream.closef != NULL) {
    stream->stream.closef = NULL;
    close_stream(stream);
    if (stream->broken_off) terminate(c);
    if (c->runtime == NULL || c->runtime->closing) reap(c, 0); /* the state ends: as in stock Lua */
  }
  drop_child(stream);
  return 0;
}

/*
 * What the script has written comes before what the command writes, as in stock Lua. With pool threads about, though, a
 * stream may be locked for as long as one of them reads from it, so only the usual ones are flushed.
 */
static void flush_output(lua_State *L, uns_runtime *runtime) {
  bool threads = runtime->is_worker;
  if (!threads && runtime->executors != NULL) {
    uv_mutex_lock(&runtime->executors->lock);
    threads = runtime->executors->pool != NULL;
    uv_mutex_unlock(&runtime->executors->lock);
  }
  if (!threads) {
    fflush(NULL);
    return;
  }
  fflush(stdout);
  fflush(stderr);
  lua_getfield(L, LUA_REGISTRYINDEX, UNS_STDLIB_OUTPUT_KEY);
  const luaL_Stream *output = lua_touserdata(L, -1);
  if (output != NULL && output->closef != NULL) fflush(output->f);
  lua_pop(L, 1);
}

/* Starts `command` with one end of a new pipe; the stream gets the other one. errno, or 0. */
static int open_pipe(pipe_stream *stream, const char *command, const char *mode) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return errno;
  bool reads = *mode == 'r';
  int ours = ends[reads ? 0 : 1], its = ends[reads ? 1 : 0];
  FILE *file = reads ? uns_pipe_reader_open(stream->child->runtime, ours, &stream->reader) : fdopen(ours, mode);
  int error = file == NULL ? errno : spawn(stream->child, command, its, reads ? STDOUT_FILENO : STDIN_FILENO);
  close(its);
  if (error == 0) {
    stream->stream.f = file;
    stream->stream.closef = close_pipe;
  } else if (file != NULL) {
    fclose(file);
    stream->reader = NULL;
  } else {
    close(ours);
  }
  return error;
}

/* popen(command [, mode]) -> file | nil, message, errno */
static int io_popen(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  const char *command = luaL_checkstring(L, 1);
  const char *mode = luaL_optstring(L, 2, "r");
  luaL_argcheck(L, strcmp(mode, "r") == 0 || strcmp(mode, "w") == 0, 2, "invalid mode");
  flush_output(L, runtime);
  pipe_stream *stream = lua_newuserdatauv(L, sizeof *stream, 0);
  stream->stream.closef = NULL;
  stream->tag = &pipe_tag;
  stream->child = NULL;
  stream->reader = NULL;
  stream->broken_off = false;
  luaL_setmetatable(L, LUA_FILEHANDLE);
  stream->child = child_new(runtime);
  if (stream->child == NULL) return luaL_error(L, "not enough memory");
  int error = open_pipe(stream, command, mode);
  if (error == 0) return 1;
  errno = error;
  return luaL_fileresult(L, 0, command);
}

/* ---- reading ---- */

/*
 * If the file at index 1 reads from a command which has not written what the formats from `first` up ask for, and the task can
 * wait for that: the reader to wait at. Else NULL: the stock function is to be called now.
 */
static uns_pipe_reader *to_wait_at(lua_State *L, int first) {
  const pipe_stream *stream = test_pipe(L);
  if (stream == NULL || stream->reader == NULL || stream->stream.closef == NULL) return NULL;
  if (uns_pipe_reader_has(stream->reader, stream->stream.f, L, first)) return NULL;
  return uns_pipe_reader_can_wait(stream->reader, L) ? stream->reader : NULL;
}

/* Begins a continuation; the stream may have been closed meanwhile. */
static void check_read(lua_State *L, uns_runtime *runtime) {
  pipe_stream *stream = test_pipe(L);
  if (stream->reader != NULL) uns_pipe_reader_check_wait(stream->reader);
  if (uns_task_is_interrupted(runtime->current)) stream->broken_off = true;
  uns_task_check_interrupt(runtime, L);
}

static int file_read(lua_State *L);
static int after_read(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  check_read(L, uns_upvalue_runtime(L));
  return file_read(L);
}

/* file:read(formats...), of all files */
static int file_read(lua_State *L) {
  uns_pipe_reader *reader = to_wait_at(L, 2);
  return reader != NULL ? uns_pipe_reader_wait(reader, L, after_read) : uns_stdlib_stock(L);
}

/* Upvalues of an iterator over lines: the runtime, the io library's own iterator, the file, a list of formats with their number. */
enum { LINES_STOCK = 2, LINES_FILE, LINES_FORMATS };

static int next_line(lua_State *L);
static int after_line(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  check_read(L, uns_upvalue_runtime(L));
  return next_line(L);
}

/* (file, formats...) */
static int next_line(lua_State *L) {
  uns_pipe_reader *reader = to_wait_at(L, 2);
  if (reader != NULL) return uns_pipe_reader_wait(reader, L, after_line);
  lua_settop(L, 0);
  lua_pushvalue(L, lua_upvalueindex(LINES_STOCK));
  lua_call(L, 0, LUA_MULTRET);
  return lua_gettop(L);
}

static int lines_iterator(lua_State *L) {
  lua_settop(L, 0);
  lua_pushvalue(L, lua_upvalueindex(LINES_FILE));
  lua_rawgeti(L, lua_upvalueindex(LINES_FORMATS), 0);
  int count = (int)lua_tointeger(L, -1);
  lua_settop(L, 1);
  luaL_checkstack(L, count + 1, NULL);
  for (int i = 1; i <= count; i++) lua_rawgeti(L, lua_upvalueindex(LINES_FORMATS), i);
  if (count > 0 && lua_type(L, 2) != LUA_TNUMBER) { /* from in there the message would not name the iterator */
    const char *format = luaL_checkstring(L, 2);
    if (*format == '*') format++;
    if (*format == '\0' || strchr("nlLa", *format) == NULL) return luaL_argerror(L, 2, "invalid format");
  }
  return next_line(L);
}

/* file:lines(formats...) -> iterator, of all files */
static int file_lines(lua_State *L) {
  const pipe_stream *stream = test_pipe(L);
  if (stream == NULL || stream->reader == NULL || stream->stream.closef == NULL) return uns_stdlib_stock(L);
  int count = lua_gettop(L);
  luaL_checkstack(L, count + 5, "too many arguments");
  lua_pushlightuserdata(L, uns_upvalue_runtime(L));
  lua_pushvalue(L, lua_upvalueindex(2));
  for (int i = 1; i <= count; i++) lua_pushvalue(L, i);
  lua_call(L, count, 1);
  lua_pushvalue(L, 1);
  lua_createtable(L, count - 1, 1);
  lua_pushinteger(L, count - 1);
  lua_rawseti(L, -2, 0);
  for (int i = 2; i <= count; i++) {
    lua_pushvalue(L, i);
    lua_rawseti(L, -2, i - 1);
  }
  lua_pushcclosure(L, lines_iterator, LINES_FORMATS);
  return 1;
}

static const luaL_Reg file_methods[] = {{"read", file_read}, {"lines", file_lines}, {NULL, NULL}};

static const luaL_Reg os_functions[] = {{"execute", os_execute}, {NULL, NULL}};
static const luaL_Reg io_functions[] = {{"popen", io_popen}, {NULL, NULL}};
static const luaL_Reg file_meta[] = {{"__gc", file_gc}, {NULL, NULL}};

void uns_bind_shell(lua_State *L, uns_runtime *runtime) {
  luaL_newmetatable(L, COMMAND_TYPE);
  luaL_setfuncs(L, command_meta, 0);
  lua_pop(L, 1);
  if (uns_stdlib_push_library(L, LUA_OSLIBNAME)) {
    uns_stdlib_replace(L, runtime, os_functions);
    lua_pop(L, 1);
  }
  if (uns_stdlib_push_library(L, LUA_IOLIBNAME)) {
    uns_stdlib_replace(L, runtime, io_functions);
    lua_pop(L, 1);
  }
  if (luaL_getmetatable(L, LUA_FILEHANDLE) == LUA_TTABLE) {
    uns_stdlib_replace(L, runtime, file_meta);
    if (lua_getfield(L, -1, "__index") == LUA_TTABLE) uns_stdlib_replace(L, runtime, file_methods);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}
