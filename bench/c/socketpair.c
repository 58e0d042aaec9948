/*
 * socketpair CALLS BYTES: what a call in a process is measured beside: a message to a child process and back over a
 * socket pair, one after another. Prints nanoseconds a call.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Reads or writes all of it; 0, or -1 at the end or on an error. */
static int read_all(int fd, char *to, size_t size) {
  while (size > 0) {
    ssize_t n = read(fd, to, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return -1;
    to += n;
    size -= (size_t)n;
  }
  return 0;
}

static int write_all(int fd, const char *from, size_t size) {
  while (size > 0) {
    ssize_t n = write(fd, from, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return -1;
    from += n;
    size -= (size_t)n;
  }
  return 0;
}

static double now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

int main(int argc, char **argv) {
  long calls = argc > 1 ? atol(argv[1]) : 5000;
  long size = argc > 2 ? atol(argv[2]) : 8;
  int fds[2];
  if (calls <= 0 || size <= 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != 0) return 1;
  char *bytes = malloc((size_t)size);
  if (bytes == NULL) return 1;
  memset(bytes, 'x', (size_t)size);

  pid_t child = fork();
  if (child < 0) return 1;
  if (child == 0) {
    close(fds[0]);
    while (read_all(fds[1], bytes, (size_t)size) == 0 && write_all(fds[1], bytes, (size_t)size) == 0) continue;
    _exit(0);
  }
  close(fds[1]);

  double from = 0;
  for (long i = -(calls / 10); i < calls; i++) {
    if (i == 0) from = now_ns();
    if (write_all(fds[0], bytes, (size_t)size) != 0 || read_all(fds[0], bytes, (size_t)size) != 0) return 1;
  }
  printf("%.1f\n", (now_ns() - from) / (double)calls);
  close(fds[0]);
  waitpid(child, NULL, 0);
  free(bytes);
  return 0;
}
