#include "exec/interrupt.h"

#include <errno.h>
#include <lauxlib.h>
#include <pthread.h>

#include "loop/group.h"

/* What runs on this thread; read by the handler in the same thread. */
static _Thread_local uns_runtime *volatile listening;

static bool stop_wanted(const uns_runtime *runtime) {
  uns_job *job = runtime->job;
  return job != NULL && atomic_load_explicit(&job->cancel, memory_order_relaxed) != 0;
}

static void arm(lua_State *L);

/* Every task of the call is cancelled: waits raise, and what runs is interrupted as it comes up again. */
static void tell_tasks(uns_runtime *runtime) {
  if (runtime->job_told) return;
  runtime->job_told = true;
  for (uns_link *link = runtime->tasks.next, *next; link != &runtime->tasks; link = next) {
    next = link->next;
    uns_task *task = uns_container_of(link, uns_task, live_link);
    if (task->future == NULL || uns_group_spares(runtime, runtime->root, task->future)) continue;
    uns_cancel_work(runtime, task->future);
    /* Its wait is over already, with what it waited for: the hook can be armed where that comes back to the script. */
    if (task->state == UNS_TASK_READY && task->interrupt == UNS_INTERRUPT_NONE) task->interrupt = UNS_INTERRUPT_LATE;
  }
  if (runtime->root != NULL) uns_group_cancel(runtime->root); /* its own calls to workers, which nobody may await */
}

/* True in the frame around a task's body, where nothing would catch the error: what the body gave would be lost. */
static bool outside_body(lua_State *L, lua_Debug *frame) {
  if (!lua_checkstack(L, 1) || lua_getinfo(L, "f", frame) == 0) return false;
  bool outside = uns_task_is_base(lua_tocfunction(L, -1));
  lua_pop(L, 1);
  return outside;
}

static void on_instruction(lua_State *L, lua_Debug *frame) {
  if (outside_body(L, frame)) {
    if (frame->event != LUA_HOOKCALL) lua_sethook(L, NULL, 0, 0); /* it has ended; else the body comes next */
    return;
  }
  uns_runtime *runtime = uns_runtime_of(L);
  uns_job *job = runtime != NULL ? runtime->job : NULL;
  bool forced = job != NULL && atomic_load_explicit(&job->cancel, memory_order_relaxed) > 1;
  if (!forced) lua_sethook(L, NULL, 0, 0);
  if (job == NULL || runtime->current == NULL || !stop_wanted(runtime)) {
    lua_sethook(L, NULL, 0, 0);
    return;
  }
  tell_tasks(runtime);
  uns_task *task = runtime->current;
  bool spared = task->future != NULL && uns_group_spares(runtime, runtime->root, task->future);
  if (task->future != NULL && !spared) uns_cancel_work(runtime, task->future);
  if (task->unwinding && !forced) return; /* the loop saw the flag before the signal came: this is its clean-up */
  const uns_cancel_scope *scope = uns_cancel_reaching(task);
  if (scope == NULL && !forced) return; /* shielded: armed again when the shield ends */
  luaL_checkstack(L, 8, NULL);
  uns_cancel_unwind(runtime, task);
  uns_cancel_push_scope_error(runtime, L, task, scope != NULL ? scope : &task->base, "hook");
  lua_error(L);
}

static void arm(lua_State *L) {
  lua_sethook(L, on_instruction, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
}

/* The script goes on after an error was caught, or a task ended inside another one. */
static void arm_again(uns_runtime *runtime, lua_State *L) {
  if (stop_wanted(runtime)) arm(L);
}

static void on_signal(int number) {
  (void)number;
  int saved = errno;
  uns_runtime *runtime = listening;
  if (runtime != NULL && stop_wanted(runtime)) {
    if (runtime->current != NULL && runtime->running != NULL) arm(runtime->running);
    uns_mailbox_wake(runtime->mailbox); /* it may be asleep in its loop, or about to be */
  }
  errno = saved;
}

void uns_interrupt_install(void) {
  struct sigaction action = {.sa_handler = on_signal}, before;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  if (sigaction(UNS_INTERRUPT_SIGNAL, NULL, &before) == 0 && before.sa_handler == on_signal) return;
  sigaction(UNS_INTERRUPT_SIGNAL, &action, NULL);
}

void uns_interrupt_listen(uns_runtime *runtime) {
  if (runtime != NULL) runtime->caught = arm_again;
  listening = runtime;
}

void uns_interrupt_unblock(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, UNS_INTERRUPT_SIGNAL);
  pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

void uns_interrupt_look(uns_runtime *runtime) {
  if (!runtime->job_told && stop_wanted(runtime)) tell_tasks(runtime);
}
