/*
 * faults: preloaded, it makes the K-th call of one system function fail, in the program or in its worker processes; and
 * says at the end of the program what descriptors are still open.
 *
 *     UNSYNC_FAULT=FUNCTION:K:ERRNO:WHO    WHO is host, worker or all; K 0: none fails, the calls are only counted
 *     UNSYNC_FAULT_LOG=FILE                where a line is added for the call that failed, and at the end of each
 *                                          process: how many calls there were, and what the host has left open
 *
 * Calls from libraries count as those of the program do: libuv's, for one. Those inside the C library are not seen.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* RTLD_NEXT, memfd_create */
#endif

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static struct {
  char function[32], log[256];
  long wanted;
  int number;
  bool here; /* it is this process whose call fails */
  bool host;
  atomic_long calls;
} fault;

/* The function itself, behind this one: sets the pointer at `to`. */
static void find(void *to, const char *name) {
  void *found = dlsym(RTLD_NEXT, name);
  memcpy(to, &found, sizeof found);
}
#define FIND(name)          \
  __typeof__(&(name)) next; \
  find(&next, #name)

/* One line, in one piece. */
__attribute__((format(printf, 1, 2))) static void note(const char *format, ...) {
  char line[512];
  va_list all;
  va_start(all, format);
  int size = vsnprintf(line, sizeof line, format, all);
  va_end(all);
  FIND(write);
  int fd = open(fault.log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (fd < 0 || size < 0) return;
  if (next(fd, line, (size_t)size) < 0) perror(fault.log);
  close(fd);
}

/* True if this call is the one. Sets errno. */
static bool fails(const char *name) {
  if (fault.function[0] == '\0' || strcmp(name, fault.function) != 0 || !fault.here) return false;
  if (atomic_fetch_add(&fault.calls, 1) + 1 != fault.wanted) return false;
  note("failed %s\n", name);
  errno = fault.number;
  return true;
}

__attribute__((constructor)) static void begin(int argc, char **argv) {
  const char *what = getenv("UNSYNC_FAULT"), *log = getenv("UNSYNC_FAULT_LOG");
  char who[16] = "all";
  fault.host = argc > 0 && strstr(argv[0], "unsync") != NULL && !(argc > 1 && strstr(argv[1], "worker") != NULL);
  if (log != NULL) snprintf(fault.log, sizeof fault.log, "%s", log);
  if (what == NULL || sscanf(what, "%31[^:]:%ld:%d:%15s", fault.function, &fault.wanted, &fault.number, who) < 3) {
    fault.function[0] = '\0';
    return;
  }
  bool ours = argc > 0 && strstr(argv[0], "unsync") != NULL; /* not the shell in between */
  fault.here = ours && (strcmp(who, "all") == 0 || (strcmp(who, "host") == 0) == fault.host);
}

__attribute__((destructor)) static void end(void) {
  if (fault.log[0] == '\0') return;
  if (fault.here) note("calls %ld\n", atomic_load(&fault.calls));
  DIR *directory = fault.host ? opendir("/proc/self/fd") : NULL;
  if (directory == NULL) return;
  for (const struct dirent *entry; (entry = readdir(directory)) != NULL;) {
    char path[64], to[256];
    int fd = atoi(entry->d_name);
    if (fd <= STDERR_FILENO || fd == dirfd(directory)) continue;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(path, to, sizeof to - 1);
    if (size < 0) continue;
    to[size] = '\0';
    note("open %d %s\n", fd, to);
  }
  closedir(directory);
}

/* ---- the functions ---- */

void *mmap(void *place, size_t size, int protection, int flags, int fd, off_t offset) {
  FIND(mmap);
  return fails("mmap") ? MAP_FAILED : next(place, size, protection, flags, fd, offset);
}
int memfd_create(const char *name, unsigned flags) {
  FIND(memfd_create);
  return fails("memfd_create") ? -1 : next(name, flags);
}
int ftruncate(int fd, off_t size) {
  FIND(ftruncate);
  return fails("ftruncate") ? -1 : next(fd, size);
}
int eventfd(unsigned count, int flags) {
  FIND(eventfd);
  return fails("eventfd") ? -1 : next(count, flags);
}
int epoll_create1(int flags) {
  FIND(epoll_create1);
  return fails("epoll_create1") ? -1 : next(flags);
}
int socketpair(int domain, int type, int protocol, int fds[2]) {
  FIND(socketpair);
  return fails("socketpair") ? -1 : next(domain, type, protocol, fds);
}
int pipe2(int fds[2], int flags) {
  FIND(pipe2);
  return fails("pipe2") ? -1 : next(fds, flags);
}

static bool is_eventfd(int fd) {
  char path[64], to[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  ssize_t size = readlink(path, to, sizeof to - 1);
  return size > 0 && memmem(to, (size_t)size, "[eventfd]", 9) != NULL;
}

ssize_t write(int fd, const void *bytes, size_t size) {
  FIND(write);
  if (!fails("write")) return next(fd, bytes, size);
  if (is_eventfd(fd)) errno = EINTR; /* in no other way can that fail */
  return -1;
}
ssize_t send(int fd, const void *bytes, size_t size, int flags) {
  FIND(send);
  return fails("send") ? -1 : next(fd, bytes, size, flags);
}
ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
  FIND(sendmsg);
  return fails("sendmsg") ? -1 : next(fd, message, flags);
}
ssize_t recv(int fd, void *bytes, size_t size, int flags) {
  FIND(recv);
  return fails("recv") ? -1 : next(fd, bytes, size, flags);
}
ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
  FIND(recvmsg);
  return fails("recvmsg") ? -1 : next(fd, message, flags);
}
void *dlopen(const char *path, int flags) {
  FIND(dlopen);
  return next(fails("dlopen") ? "/no/such/library.so" : path, flags); /* which leaves its own text for dlerror */
}

/* These return the errno. */
int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument) {
  FIND(pthread_create);
  return fails("pthread_create") ? fault.number : next(thread, attributes, start, argument);
}
int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
                const posix_spawnattr_t *attributes, char *const argv[], char *const environment[]) {
  FIND(posix_spawn);
  return fails("posix_spawn") ? fault.number : next(pid, path, actions, attributes, argv, environment);
}
