#include "host/dump.h"

#include <errno.h>
#include <lauxlib.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

enum { STATES_MAX = 2 }; /* a worker process has one for its calls, and one more for a call that wants a new one */

static struct {
  pthread_t main;
  bool installed;
  _Atomic(uns_runtime *) states[STATES_MAX];
  /* The hook that lay in the thread of Lua which was interrupted. The main thread's. */
  lua_State *volatile hooked;
  lua_Hook hook;
  int mask, count;
} dump;

static uns_runtime *asked_state(void) {
  uns_runtime *state = NULL;
  for (int i = 0; i < STATES_MAX; i++) {
    uns_runtime *later = atomic_load(&dump.states[i]);
    if (later != NULL) state = later;
  }
  return state;
}

/* () -> string */
static int push_tree(lua_State *L) {
  lua_pushfstring(L, "unsync: the tasks of process %d\n", (int)getpid());
  lua_getglobal(L, "require");
  lua_pushliteral(L, "unsync.inspect");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "tree");
  lua_remove(L, -2);
  lua_call(L, 0, 1);
  lua_concat(L, 2);
  return 1;
}

/* In one piece, and past what buffers may be half filled just now. */
static void print(const char *text, size_t size_bytes) {
  for (size_t done = 0; done < size_bytes;) {
    ssize_t count = write(STDERR_FILENO, text + done, size_bytes - done);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return;
    done += (size_t)count;
  }
}

/* The runtime's `look`. */
static void look(uns_runtime *runtime, lua_State *L) {
  static const char sorry[] = "unsync: the tasks cannot be listed\n";
  runtime->look_wanted = 0;
  int saved = errno;
  if (!lua_checkstack(L, LUA_MINSTACK)) return;
  lua_pushcfunction(L, push_tree);
  size_t size_bytes = 0;
  const char *text = lua_pcall(L, 0, 1, 0) == LUA_OK ? lua_tolstring(L, -1, &size_bytes) : NULL;
  if (text != NULL) print(text, size_bytes);
  else print(sorry, sizeof sorry - 1);
  lua_pop(L, 1);
  errno = saved;
}

static void on_instruction(lua_State *L, lua_Debug *frame) {
  (void)frame;
  if (dump.hooked == L) lua_sethook(L, dump.hook, dump.mask, dump.count);
  else lua_sethook(L, NULL, 0, 0);
  dump.hooked = NULL;
  uns_runtime *runtime = asked_state();
  if (runtime != NULL && runtime->look_wanted) look(runtime, L);
}

/* Only notes it, and sees to it that the state comes by. */
static void on_signal(int number) {
  int saved = errno;
  if (!pthread_equal(pthread_self(), dump.main)) { /* a library's thread has got it */
    pthread_kill(dump.main, number);
    errno = saved;
    return;
  }
  uns_runtime *runtime = asked_state();
  if (runtime != NULL) {
    runtime->look_wanted = 1;
    lua_State *L = runtime->running;
    if (runtime->current != NULL && L != NULL && lua_gethook(L) != on_instruction) {
      dump.hook = lua_gethook(L);
      dump.mask = lua_gethookmask(L);
      dump.count = lua_gethookcount(L);
      dump.hooked = L;
      lua_sethook(L, on_instruction, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
    }
    uns_mailbox_wake(runtime->mailbox);
  }
  errno = saved;
}

static bool take(void) {
  struct sigaction action = {.sa_handler = on_signal};
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  return sigaction(SIGUSR1, &action, NULL) == 0;
}

void uns_dump_install(void) {
  struct sigaction before;
  dump.main = pthread_self();
  dump.installed = sigaction(SIGUSR1, NULL, &before) == 0 && before.sa_handler != SIG_IGN && take();
}

void uns_dump_restore(void) {
  struct sigaction now;
  if (!dump.installed || sigaction(SIGUSR1, NULL, &now) != 0) return;
  if ((now.sa_flags & SA_SIGINFO) == 0 && now.sa_handler == SIG_DFL) take();
}

void uns_dump_of(uns_runtime *runtime) {
  if (!dump.installed || !pthread_equal(pthread_self(), dump.main)) return;
  runtime->look = look;
  for (int i = 0; i < STATES_MAX; i++) {
    if (atomic_load(&dump.states[i]) != NULL) continue;
    atomic_store(&dump.states[i], runtime);
    return;
  }
}

void uns_dump_no_more_of(uns_runtime *runtime) {
  for (int i = 0; i < STATES_MAX; i++) {
    uns_runtime *expected = runtime;
    atomic_compare_exchange_strong(&dump.states[i], &expected, NULL);
  }
}
