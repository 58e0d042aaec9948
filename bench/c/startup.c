/*
 * startup time|memory PROGRAM ARG...: runs a program 20 times, one after another. Prints the mean wall time of a run in
 * nanoseconds, or the largest peak of its resident memory in KiB.
 */
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

enum { RUNS = 20 };

extern char **environ;

static double now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

int main(int argc, char **argv) {
  if (argc < 3) return 1;
  double from = now_ns();
  for (int i = 0; i < RUNS; i++) {
    pid_t child;
    int status;
    if (posix_spawnp(&child, argv[2], NULL, NULL, argv + 2, environ) != 0) return 1;
    if (waitpid(child, &status, 0) != child || status != 0) return 1;
  }
  double mean_ns = (now_ns() - from) / RUNS;
  struct rusage usage;
  getrusage(RUSAGE_CHILDREN, &usage);
  printf("%.1f\n", strcmp(argv[1], "memory") == 0 ? (double)usage.ru_maxrss : mean_ns);
  return 0;
}
