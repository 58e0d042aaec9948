/* raise: a signal that the kernel gives to another thread than the main one, as it may where a library has threads. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* pthread_sigmask */
#endif

#include <signal.h>

#include <unsync_plugin.h>

/* here(number): to the thread that runs this, which takes it like any other */
static int here(unsync_task *t) {
  int number = (int)unsync_arg_integer(t, 1);
  if (unsync_failed(t)) return UNSYNC_FAILED;
  sigset_t one, before;
  sigemptyset(&one);
  sigaddset(&one, number);
  pthread_sigmask(SIG_UNBLOCK, &one, &before);
  raise(number);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return UNSYNC_OK;
}

static const unsync_task_def tasks[] = {{"here", here, "here(number): raises it in this thread", 0}};

UNSYNC_PLUGIN("raise", "1.0", "signals for other threads", tasks)
