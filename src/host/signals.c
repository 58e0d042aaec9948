#include "host/signals.h"

#include <errno.h>
#include <lauxlib.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "core/error.h"
#include "exec/process.h"
#include "host/dump.h"

enum { PATIENCE = 4 }; /* signals that nobody has looked at, where somebody should: then it hangs */

static struct {
  pthread_t main;
  uns_run *run;
  volatile sig_atomic_t number; /* of the signal that came, 0: none; taken by whoever raises it */
  volatile sig_atomic_t count;
  volatile sig_atomic_t patient, insisting;
  void (*stop)(void);
  atomic_bool ours;
  struct sigaction before_int, before_term, before_stop;
} taken;

static const char *name_of(int number) { return number == SIGINT ? "interrupted" : "interrupted by SIGTERM"; }

/* The script itself runs and may not come back for long: the error is raised at its next instruction. */
static void on_instruction(lua_State *L, lua_Debug *frame) {
  (void)frame;
  lua_sethook(L, NULL, 0, 0);
  int number = taken.number;
  if (taken.run == NULL || (number == 0 && !taken.insisting)) return;
  taken.insisting = 0;
  uns_attendant *attendant = taken.run->script->attendant;
  if (number == 0) {
    number = SIGINT;
  } else if (attendant != NULL && attendant->interrupt(attendant, taken.run, number)) {
    taken.number = 0;
    if (uns_script_is_root(taken.run)) return; /* the attendant's own */
  } else if (uns_script_is_root(taken.run)) {
    taken.number = 0;
    uns_script_leave(taken.run, 128 + number);
  }
  uns_error_raise(L, "interrupted", "%s", name_of(number));
}

static void arm(lua_State *L) {
  lua_sethook(L, on_instruction, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
}

/* Other threads than the main one, a library's, may be given a signal; what it does is the main one's. */
static bool hand_on(int number) {
  if (pthread_equal(pthread_self(), taken.main)) return false;
  int saved = errno;
  pthread_kill(taken.main, number);
  errno = saved;
  return true;
}

static void on_signal(int number) {
  if (hand_on(number)) return;
  if (++taken.count > (taken.patient ? PATIENCE : 1) || taken.run == NULL) {
    if (taken.stop != NULL) taken.stop();
    signal(number, SIG_DFL);
    raise(number);
    return;
  }
  taken.number = number;
  uns_runtime *runtime = taken.run->runtime;
  if (runtime->current != NULL && runtime->running != NULL) arm(runtime->running);
  runtime->end_turn = true;
  uns_mailbox_wake(runtime->mailbox);
}

/* Worker processes are not in the terminal's group: they stop and go on with us. */
static void on_stop(int number) {
  if (hand_on(number)) return;
  int saved = errno;
  uns_process_pool *processes = taken.run != NULL ? taken.run->runtime->executors->processes : NULL;
  if (processes != NULL) uns_process_pool_signal(processes, SIGSTOP);
  if (taken.stop != NULL) taken.stop();
  struct sigaction stop = {.sa_handler = SIG_DFL}, handled;
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, number);
  sigaction(number, &stop, &handled);
  raise(number);
  sigprocmask(SIG_UNBLOCK, &set, NULL); /* here we stand still, until somebody says SIGCONT */
  sigaction(number, &handled, NULL);
  if (processes != NULL) uns_process_pool_signal(processes, SIGCONT);
  errno = saved;
}

static void take(int number, void (*handler)(int), struct sigaction *before) {
  struct sigaction action = {.sa_handler = handler};
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(number, NULL, before);
  if (before->sa_handler != SIG_IGN) sigaction(number, &action, NULL);
}

/* libuv has left the signal without a handler: ours again, or ignored as it was. */
static void take_back(int number, void (*handler)(int), const struct sigaction *before) {
  struct sigaction now, action = {.sa_handler = handler};
  if (sigaction(number, NULL, &now) != 0 || (now.sa_flags & SA_SIGINFO) != 0 || now.sa_handler != SIG_DFL) return;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(number, before->sa_handler == SIG_IGN ? before : &action, NULL);
}

void uns_signals_restore(void) {
  uns_dump_restore();
  if (!taken.ours) return;
  take_back(SIGINT, on_signal, &taken.before_int);
  take_back(SIGTERM, on_signal, &taken.before_term);
  take_back(SIGTSTP, on_stop, &taken.before_stop);
}

void uns_signals_take(uns_run *run) {
  taken.main = pthread_self();
  taken.run = run;
  taken.number = taken.count = 0;
  take(SIGINT, on_signal, &taken.before_int);
  take(SIGTERM, on_signal, &taken.before_term);
  take(SIGTSTP, on_stop, &taken.before_stop);
  taken.ours = true;
}

void uns_signals_release(void) {
  taken.ours = false;
  sigaction(SIGINT, &taken.before_int, NULL);
  sigaction(SIGTERM, &taken.before_term, NULL);
  sigaction(SIGTSTP, &taken.before_stop, NULL);
  taken.run = NULL;
}

void uns_signals_look(uns_run *run) {
  int number = taken.number;
  if (number == 0) return;
  taken.number = 0;
  uns_attendant *attendant = run->script->attendant;
  if (attendant != NULL && attendant->interrupt(attendant, run, number)) return;
  lua_State *L = run->runtime->L;
  luaL_checkstack(L, 8, NULL);
  uns_error_push(L, "interrupted", "%s", name_of(number));
  uns_script_interrupt(run, 128 + number);
}

void uns_signals_forgive(void) { taken.count = taken.number = taken.insisting = 0; }

int uns_signals_count(void) { return taken.count; }

void uns_signals_set_patient(bool patient) { taken.patient = patient; }

void uns_signals_insist(lua_State *L) {
  taken.insisting = 1;
  arm(L);
}

void uns_signals_on_stop(void (*stop)(void)) { taken.stop = stop; }
