#include "host/seeing.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/recorder.h"

static struct {
  uns_recorder recorder;
  uint32_t track;
  pid_t pid; /* who opened it: a copy of the process that also ends by exit has nothing to write */
  bool open;
} seen;

static void on_trace_failed(const char *path, int number) {
  fprintf(stderr, "unsync: cannot write the trace to '%s': %s; the script goes on without\n", path, strerror(number));
}

static int refuse(const char *what, const char *path) {
  int number = errno;
  fprintf(stderr, "unsync: cannot %s%s%s%s: %s\n", what, path != NULL ? " '" : "", path != NULL ? path : "",
          path != NULL ? "'" : "", strerror(number));
  return 1;
}

int uns_seeing_begin(const uns_seeing *asked, uns_executors *executors) {
  if (asked->trace_path == NULL && !asked->stats) return 0;
  if (asked->trace_path != NULL) {
    seen.recorder.trace = uns_trace_open(asked->trace_path, on_trace_failed);
    if (seen.recorder.trace == NULL) return refuse("write the trace to", asked->trace_path);
    char title[256];
    snprintf(title, sizeof title, "unsync %s", asked->title != NULL ? asked->title : "");
    seen.track = uns_trace_track(seen.recorder.trace, getpid(), getpid(), title, "main loop");
  }
  if (asked->stats) {
    seen.recorder.stats = uns_stats_new();
    if (seen.recorder.stats == NULL) {
      errno = ENOMEM;
      uns_seeing_free();
      return refuse("count", NULL);
    }
  }
  seen.pid = getpid();
  seen.open = true;
  if (atexit(uns_seeing_end) != 0) {
    seen.open = false;
    uns_seeing_free();
    errno = ENOMEM;
    return refuse("record", NULL);
  }
  executors->recorder = &seen.recorder;
  return 0;
}

void uns_seeing_watch(uns_runtime *runtime) {
  runtime->recorder = runtime->executors->recorder;
  runtime->track = seen.track;
}

void uns_seeing_end(void) {
  if (!seen.open || getpid() != seen.pid) return;
  seen.open = false;
  if (seen.recorder.stats != NULL) {
    fflush(stdout);
    uns_stats_print(seen.recorder.stats, stderr);
  }
  if (seen.recorder.trace != NULL) uns_trace_close(seen.recorder.trace);
}

void uns_seeing_free(void) {
  if (seen.recorder.trace != NULL) uns_trace_free(seen.recorder.trace);
  uns_stats_free(seen.recorder.stats);
  seen.recorder.trace = NULL;
  seen.recorder.stats = NULL;
}
