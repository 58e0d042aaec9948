#include "exec/kin.h"

#include <dirent.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined SYS_pidfd_open && defined SYS_pidfd_send_signal

/* The parent of `pid`, or 0. */
static pid_t parent_of(pid_t pid) {
  char path[64], text[512];
  snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
  FILE *file = fopen(path, "re");
  if (file == NULL) return 0;
  text[fread(text, 1, sizeof text - 1, file)] = '\0';
  fclose(file);
  const char *name_end = strrchr(text, ')'); /* then " S 123": the state, the parent */
  return name_end != NULL && strlen(name_end) > 4 ? (pid_t)strtol(name_end + 4, NULL, 10) : 0;
}

typedef struct {
  pid_t pids[UNS_KIN_MAX];
  int *fds;
  int count;
} family;

static void add(family *found, pid_t pid, pid_t parent) {
  if (found->count == UNS_KIN_MAX) return;
  int fd = (int)syscall(SYS_pidfd_open, pid, 0); /* close-on-exec by itself */
  if (fd < 0) return;
  if (parent_of(pid) != parent) { /* the number has gone to somebody else */
    close(fd);
    return;
  }
  found->pids[found->count] = pid;
  found->fds[found->count++] = fd;
}

/* The children that one thread of `parent` has started. */
static void add_children_of_thread(family *found, pid_t parent, const char *thread) {
  char path[96];
  snprintf(path, sizeof path, "/proc/%d/task/%.20s/children", (int)parent, thread);
  FILE *file = fopen(path, "re");
  if (file == NULL) return;
  for (int pid; fscanf(file, "%d", &pid) == 1;) add(found, pid, parent);
  fclose(file);
}

static void add_children(family *found, pid_t parent) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/task", (int)parent);
  DIR *threads = opendir(path);
  if (threads == NULL) return;
  for (const struct dirent *entry; (entry = readdir(threads)) != NULL;) {
    if (entry->d_name[0] != '.') add_children_of_thread(found, parent, entry->d_name);
  }
  closedir(threads);
}

int uns_kin_find(pid_t root, int fds[UNS_KIN_MAX]) {
  family found = {.fds = fds};
  add_children(&found, root);
  for (int i = 0; i < found.count; i++) add_children(&found, found.pids[i]);
  return found.count;
}

void uns_kin_signal(const int fds[], int count, int signal_number) {
  for (int i = 0; i < count; i++) syscall(SYS_pidfd_send_signal, fds[i], signal_number, NULL, 0);
}

#else

int uns_kin_find(pid_t root, int fds[UNS_KIN_MAX]) {
  (void)root, (void)fds;
  return 0;
}

void uns_kin_signal(const int fds[], int count, int signal_number) { (void)fds, (void)count, (void)signal_number; }

#endif

int uns_kin_left(int fds[], int count) {
  int left = 0;
  for (int i = 0; i < count; i++) {
    struct pollfd ended = {.fd = fds[i], .events = POLLIN};
    if (poll(&ended, 1, 0) > 0) close(fds[i]);
    else fds[left++] = fds[i];
  }
  return left;
}

void uns_kin_close(const int fds[], int count) {
  for (int i = 0; i < count; i++) close(fds[i]);
}
