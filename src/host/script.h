/*
 * script: a program's main chunk as the root task: run it, wait for what it started, report, end.
 */
#ifndef UNS_SCRIPT_H
#define UNS_SCRIPT_H

#include "exec/executors.h"
#include "loop/future.h"

typedef enum { UNS_STEP_CODE, UNS_STEP_REQUIRE, UNS_STEP_FILE, UNS_STEP_CALL } uns_step_kind;

/* One thing that the command line asks for, in its order. */
typedef struct uns_step {
  uns_step_kind kind;
  const char *text;   /* code, a module's name, a path (NULL: stdin) */
  const char *name;   /* of code, as luaL_loadbuffer takes it; NULL: the command line */
  size_t size_bytes;  /* of code; 0: it ends with a zero */
  lua_CFunction call; /* of UNS_STEP_CALL: given `data`, a light userdata, returns a function and its argument */
  void *data;
  bool init; /* of LUA_INIT: not given the script's arguments */
} uns_step;

struct uns_run;

/* Somebody who stands beside a run, outside of all tasks: a REPL. */
typedef struct uns_attendant {
  void (*attend)(struct uns_attendant *attendant, struct uns_run *run); /* before each turn; may turn the loop itself */
  /* A signal has come. True: it is dealt with; false: the root task shall be interrupted, as always. */
  bool (*interrupt)(struct uns_attendant *attendant, struct uns_run *run, int number);
} uns_attendant;

typedef struct uns_script {
  const uns_step *steps;
  int step_count;
  int argc; /* the whole command line, for `arg` */
  char **argv;
  int script_index;         /* of the script in argv: arg[0] */
  uns_attendant *attendant; /* or NULL */
} uns_script;

/* A script on its way. */
typedef struct uns_run {
  uns_runtime *runtime;
  const uns_script *script; /* borrowed until the run has ended; its texts and arguments until `start` has returned */
  int root;                 /* pin of the root task's future, while the run goes on */
  const uns_future *root_future; /* what it pins: looked at in every turn */
  uns_waiter root_waiter;        /* its end ends the turn */
  int unobserved;                /* what the runtime had counted before */
  int code;                      /* the exit code */
  bool going, cancelled;
  bool leaving;          /* when the root task has ended, all that it started is cancelled */
  size_t spared;         /* what was not cancelled then, as it is done in a shield */
  uint64_t cancelled_ns; /* when it was cancelled: clean-up has the grace period */
  uns_timer grace;       /* its end */
} uns_run;

/*
 * Starts `script`, which runs until it first waits, and then with each turn, until it and all that it started have
 * ended. Errors and failures nobody looked at are told to the runtime's `report`.
 *   turn    one turn, which sleeps if `wait` says so and nothing is ready; false when the run has ended
 *   cancel  asks all its tasks to stop; then the run goes on until they have
 *   drop    leaves the run as it is: what still lives never ends
 */
void uns_script_start(uns_run *run, uns_runtime *runtime, const uns_script *script);
bool uns_script_turn(uns_run *run, bool wait);
void uns_script_cancel(uns_run *run);
void uns_script_drop(uns_run *run);

/* The exit code is settled, and once the root task has ended, whatever its end, all that it started is cancelled. */
void uns_script_leave(uns_run *run, int code);
/* That, and raises the error on top of the main stack (popped) in the root task, at its wait; `code` becomes the exit code. */
void uns_script_interrupt(uns_run *run, int code);
/* True if the task that runs now is the root task. */
bool uns_script_is_root(const uns_run *run);

/*
 * Runs `script` in the runtime until it and all that it started have ended, and sees to it that its output is out.
 * Returns the exit code.
 */
int uns_script_run(uns_runtime *runtime, const uns_script *script);

#endif
