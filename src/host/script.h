/*
 * script: a program's main chunk as the root task: run it, wait for what it started, report, end.
 */
#ifndef UNS_SCRIPT_H
#define UNS_SCRIPT_H

#include "exec/executors.h"

typedef enum { UNS_STEP_CODE, UNS_STEP_REQUIRE, UNS_STEP_FILE } uns_step_kind;

/* One thing that the command line asks for, in its order. `text`: code, a module's name, a path (NULL: stdin). */
typedef struct uns_step {
  uns_step_kind kind;
  const char *text;
} uns_step;

typedef struct uns_script {
  const uns_step *steps;
  int step_count;
  int argc; /* the whole command line, for `arg` */
  char **argv;
  int script_index; /* of the script in argv: arg[0] */
} uns_script;

/*
 * Runs `script` in the runtime until it and all that it started have ended. Errors and failures nobody looked at
 * are printed to stderr. Returns the exit code.
 */
int uns_script_run(uns_runtime *runtime, const uns_script *script);

#endif
