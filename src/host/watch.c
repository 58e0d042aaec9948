/*
 * watch: the limit of one test, and the line to whoever runs it.
 *
 *   - A timer of the kernel's sends SIGALRM to the script's thread. The handler makes the script's next instruction raise,
 *     if the script runs, and wakes the loop, if it sleeps; so an endless loop and an endless wait end alike.
 *   - The error is made by a Lua function, which finds everything as it stands.
 *   - It comes again every REPEAT_NS, until the watch is over: what catches all errors and goes on is told again.
 * One per process, which is why it is the program's, and its main state's. Who else takes signals: signals.c.
 */
#include "host/watch.h"

#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bind/bind.h"
#include "host/signals.h"

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

enum { REPEAT_NS = 500000000 };

static const char maker_key = 0; /* registry: the function that makes the error */

static struct {
  uns_runtime *runtime;
  uint64_t task_id; /* of the task that is watched */
  volatile sig_atomic_t armed, posted;
  volatile sig_atomic_t passed; /* the limit of this watch: a hook may be left of the one before */
  uns_mail mail;                /* in the mailbox while `posted` */
  timer_t timer;
  bool has_timer;
} watch;

/* Pushes the error. Without memory that is the error. */
static void push_error(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &maker_key);
  lua_pcall(L, 0, 1, 0);
}

/* The script runs and may not come back. */
static void on_instruction(lua_State *L, lua_Debug *frame) {
  (void)frame;
  lua_sethook(L, NULL, 0, 0);
  if (!watch.armed || !watch.passed || watch.runtime->current == NULL) return;
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  push_error(L);
  lua_error(L);
}

static uns_task *find_task(uns_runtime *runtime, uint64_t id) {
  for (uns_link *link = runtime->tasks.next; link != &runtime->tasks; link = link->next) {
    uns_task *task = uns_container_of(link, uns_task, live_link);
    if (task->id == id) return task;
  }
  return NULL;
}

/* The loop turns: the watched task waits. */
static void on_mail(uns_mail *mail, void *receiver) {
  (void)mail;
  uns_runtime *runtime = receiver;
  watch.posted = 0;
  if (runtime == NULL || !watch.armed || !watch.passed) return;
  uns_task *task = find_task(runtime, watch.task_id);
  if (task == NULL || !lua_checkstack(runtime->L, LUA_MINSTACK)) return;
  push_error(runtime->L);
  uns_task_interrupt(runtime, task);
}

static void on_alarm(int number) {
  (void)number;
  int saved = errno;
  uns_runtime *runtime = watch.runtime;
  if (watch.armed) {
    watch.passed = 1;
    if (runtime->current != NULL && runtime->running != NULL) {
      lua_sethook(runtime->running, on_instruction, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
    }
    if (!watch.posted) {
      watch.posted = 1;
      uns_mailbox_post(runtime->mailbox, &watch.mail);
    }
    uns_mailbox_wake(runtime->mailbox);
  }
  errno = saved;
}

static bool make_timer(void) {
  if (watch.has_timer) return true;
  struct sigaction action = {.sa_handler = on_alarm};
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGALRM};
  event.sigev_notify_thread_id = gettid();
  watch.has_timer = sigaction(SIGALRM, &action, NULL) == 0 && timer_create(CLOCK_MONOTONIC, &event, &watch.timer) == 0;
  return watch.has_timer;
}

static void set_timer(uint64_t first_ns, uint64_t repeat_ns) {
  struct itimerspec times = {{(time_t)(repeat_ns / 1000000000), (long)(repeat_ns % 1000000000)},
                             {(time_t)(first_ns / 1000000000), (long)(first_ns % 1000000000)}};
  timer_settime(watch.timer, 0, &times, NULL);
}

/* start(seconds, make_error): the running task gets the error that `make_error()` returns, once it has taken that long */
static int watch_start(lua_State *L) {
  uns_runtime *runtime = uns_upvalue_runtime(L);
  uint64_t limit_ns = uns_check_seconds(L, 1);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  if (runtime->is_worker || runtime->current == NULL) return luaL_error(L, "only a task of the script can be watched");
  if (!make_timer()) return luaL_error(L, "cannot watch: %s", strerror(errno));
  lua_settop(L, 2);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &maker_key);
  watch.armed = watch.passed = 0;
  watch.runtime = runtime;
  watch.task_id = runtime->current->id;
  watch.mail.deliver = on_mail;
  uns_task_list_running(runtime);
  watch.armed = 1;
  set_timer(limit_ns > 0 ? limit_ns : 1, REPEAT_NS);
  return 0;
}

/* stop() */
static int watch_stop(lua_State *L) {
  watch.armed = 0;
  if (watch.has_timer) set_timer(0, 0);
  lua_State *running = uns_upvalue_runtime(L)->running;
  if (running != NULL && lua_gethook(running) == on_instruction) lua_sethook(running, NULL, 0, 0);
  return 0;
}

/* note(fd, text) -> boolean: writes it, at once; nothing that is started gets the descriptor. False: nobody reads */
static int watch_note(lua_State *L) {
  int fd = (int)luaL_checkinteger(L, 1);
  size_t size;
  const char *text = luaL_checklstring(L, 2, &size);
  fcntl(fd, F_SETFD, FD_CLOEXEC);
  while (size > 0) {
    ssize_t written = write(fd, text, size);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) break;
    text += written;
    size -= (size_t)written;
  }
  lua_pushboolean(L, size == 0);
  return 1;
}

/* signalled() -> whether Ctrl-C or SIGTERM has come */
static int watch_signalled(lua_State *L) {
  lua_pushboolean(L, uns_signals_count() > 0);
  return 1;
}

static const luaL_Reg functions[] = {
    {"start", watch_start}, {"stop", watch_stop}, {"note", watch_note}, {"signalled", watch_signalled}, {NULL, NULL}};

int uns_open_watch(lua_State *L) {
  uns_runtime *runtime = uns_runtime_of(L);
  if (runtime == NULL) return luaL_error(L, "unsync test: this state has no event loop");
  luaL_newlibtable(L, functions);
  uns_bind_functions(L, runtime, functions);
  return 1;
}
