/* crash: tasks that end badly, each in its own way. For specs of worker processes: never call them in a thread. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <unsync_plugin.h>

static int segfault(unsync_task *t) {
  (void)t;
  raise(SIGSEGV); /* what a wild pointer does, but without undefined behaviour that a sanitizer would report */
  return UNSYNC_OK;
}

/* A real wild pointer. */
static int wild(unsync_task *t) {
  volatile int *volatile nowhere = (int *)(uintptr_t)unsync_opt_integer(t, 1, 8);
  *nowhere = 1;
  return UNSYNC_OK;
}

static int overflow_stack(unsync_task *t) {
  volatile char frame[4096];
  frame[0] = (char)(unsync_failed(t) + 1);
  return frame[0] != 0 ? overflow_stack(t) + frame[0] : 0;
}

static int abort_it(unsync_task *t) {
  (void)t;
  abort();
}

static int exit_with(unsync_task *t) {
  int code = (int)unsync_opt_integer(t, 1, 3);
  fflush(NULL);
  _exit(code);
}

/* signal(number): kills its own process with it */
static int kill_self(unsync_task *t) {
  raise((int)unsync_arg_integer(t, 1));
  return unsync_put_text(t, "still alive");
}

/* Never returns and never looks at the token. */
static int stuck(unsync_task *t) {
  while (!unsync_failed(t)) pause();
  return UNSYNC_OK;
}

static const unsync_task_def tasks[] = {
    {"segfault", segfault, "raises SIGSEGV", 0},
    {"wild", wild, "writes to address 8", 0},
    {"overflow", overflow_stack, "calls itself until the stack ends", 0},
    {"abort", abort_it, "aborts", 0},
    {"exit", exit_with, "exit([code = 3]): ends the process", 0},
    {"signal", kill_self, "signal(number): raises it", 0},
    {"stuck", stuck, "never returns", 0},
};

UNSYNC_PLUGIN("crash", "1.0", "Ends badly, on purpose", tasks)
