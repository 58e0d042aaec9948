#include "bind/command.h"

#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <lauxlib.h>

#include "bind/stdlib.h"
#include "core/packet.h"
#include "exec/executors.h"
#include "exec/kin.h"

enum {
  ASK_FIRST_NS = 1000000, /* without a pidfd: the first look, then after twice as long each time, */
  ASK_MOST_NS = 20000000, /* but no longer than this: what a person does not notice */
  GRACE_NS = 500000000    /* where no executors say otherwise */
};

extern char **environ;

struct uns_command {
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
};

/* ---- its life ---- */

static void on_runtime_end(uns_closer *closer, uns_runtime *runtime);
static void on_ask(uns_timer *timer, uns_runtime *runtime);
static void on_kill(uns_timer *timer, uns_runtime *runtime);

uns_command *uns_command_new(uns_runtime *runtime) {
  uns_command *c = uns_calloc(1, sizeof *c);
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

static void forget_kin(uns_command *c) {
  uns_kin_close(c->kin, c->kin_count);
  uns_free(c->kin);
  c->kin = NULL;
  c->kin_count = 0;
}

static void unref(uns_command *c) {
  if (--c->references > 0) return;
  if (c->runtime != NULL) uns_list_remove(&c->closer.link);
  forget_kin(c);
  uns_free(c);
}

static void on_closed(uv_handle_t *handle) {
  uns_command *c = handle->data;
  close(c->pidfd);
  unref(c);
}

static void stop_polling(uns_command *c) {
  if (!c->polling) return;
  c->polling = false;
  uv_close((uv_handle_t *)&c->poll, on_closed);
}

/* The loop looks after it no more. May free it, where it has no other reference. */
static void unwatch(uns_command *c) {
  uns_timer_disarm(c->runtime, &c->kill);
  forget_kin(c);
  stop_polling(c);
  if (uns_timer_armed(&c->ask)) {
    uns_timer_disarm(c->runtime, &c->ask);
    unref(c);
  }
}

void uns_command_reap(uns_command *c, int options) {
  if (c->ended) return;
  pid_t got;
  do got = waitpid(c->pid, &c->status, options);
  while (got < 0 && errno == EINTR);
  if (got == 0) return;
  c->ended = true;
  c->error = got < 0 ? errno : 0;
}

/* It is asked again and again from now on. False without memory. */
static bool begin_to_ask(uns_command *c) {
  c->ask_ns = ASK_FIRST_NS;
  if (uns_timer_arm(c->runtime, &c->ask, uns_clock_ns() + c->ask_ns) != UNS_OK) return false;
  c->references++;
  return true;
}

/*
 * If it has ended, whoever waits is told, and nothing is left to be looked after: but for what it leaves behind that has
 * been asked to end, too.
 */
static void look(uns_command *c) {
  uns_command_reap(c, WNOHANG);
  if (!c->ended) return;
  if (c->task != NULL) uns_task_wake(c->runtime, c->task);
  c->task = NULL;
  c->kin_count = uns_kin_left(c->kin, c->kin_count);
  if (c->kin_count > 0 && uns_timer_armed(&c->kill) && (uns_timer_armed(&c->ask) || begin_to_ask(c))) stop_polling(c);
  else unwatch(c);
}

static void on_ask(uns_timer *timer, uns_runtime *runtime) {
  uns_command *c = uns_container_of(timer, uns_command, ask);
  c->ask_ns = c->ask_ns * 2 < ASK_MOST_NS ? c->ask_ns * 2 : ASK_MOST_NS;
  uns_timer_arm(runtime, timer, uns_clock_ns() + c->ask_ns); /* cannot fail: its place has just become free */
  look(c);
}

static void on_kill(uns_timer *timer, uns_runtime *runtime) {
  (void)runtime;
  uns_command *c = uns_container_of(timer, uns_command, kill);
  if (!c->ended) kill(c->pid, SIGKILL);
  uns_kin_signal(c->kin, c->kin_count, SIGKILL);
  forget_kin(c);
}

static void on_runtime_end(uns_closer *closer, uns_runtime *runtime) {
  (void)runtime;
  uns_command *c = uns_container_of(closer, uns_command, closer);
  c->references++;
  c->task = NULL;
  uns_command_reap(c, WNOHANG);
  unwatch(c);
  c->runtime = NULL;
  unref(c);
}

#ifdef SYS_pidfd_open
static void on_pidfd(uv_poll_t *poll, int status, int events) {
  (void)status, (void)events;
  look(poll->data);
}

static bool open_pidfd(uns_command *c) {
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
static bool open_pidfd(uns_command *c) {
  (void)c;
  return false;
}
#endif

/* The loop shall notice its end; `alive`: and not end before. False without memory. */
static bool watch(uns_command *c, bool alive) {
  if (!c->polling && !uns_timer_armed(&c->ask) && !open_pidfd(c) && !begin_to_ask(c)) return false;
  if (c->polling && alive) uv_ref((uv_handle_t *)&c->poll);
  if (c->polling && !alive) uv_unref((uv_handle_t *)&c->poll);
  return true;
}

void uns_command_let_go(uns_command *c) {
  c->task = NULL;
  uns_command_reap(c, WNOHANG);
  if (!c->ended && c->runtime != NULL && !c->runtime->closing) watch(c, false);
  unref(c);
}

void uns_command_terminate(uns_command *c) {
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

int uns_command_push_result(lua_State *L, const uns_command *c) {
  errno = c->error;
  return luaL_execresult(L, c->error != 0 ? -1 : c->status);
}

bool uns_command_can_wait(lua_State *L, uns_command *c) {
  if (c->ended || c->runtime == NULL || !uns_stdlib_can_wait(c->runtime, L)) return false;
  uns_task_check_can_wait(c->runtime, L);
  return watch(c, true);
}

int uns_command_wait(lua_State *L, uns_command *c, lua_KFunction k) {
  c->task = c->runtime->current;
  c->task->waits_for = UNS_WAITS_PROCESS;
  if (!c->polling) uns_task_hope(c->runtime, c->task); /* libuv does not know that there is something under way */
  return uns_task_park(c->runtime, L, 0, k);
}

void uns_command_check_wait(lua_State *L, uns_command *c) {
  c->task = NULL;
  if (!c->ended && c->polling) uv_unref((uv_handle_t *)&c->poll);
  uns_task_check_interrupt(c->runtime, L);
}

uns_runtime *uns_command_runtime(const uns_command *c) { return c->runtime; }

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

int uns_command_start(uns_command *c, const char *command, int from, int to) {
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
    if (error == 0) error = posix_spawn(&c->pid, UNS_SHELL, &actions, &attributes, arguments, environ);
    posix_spawnattr_destroy(&attributes);
  }
  posix_spawn_file_actions_destroy(&actions);
  if (error == 0) c->ended = false;
  return error;
}
