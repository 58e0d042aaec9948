#include "exec/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static int watch_process(pid_t pid) {
#ifdef SYS_pidfd_open
  return (int)syscall(SYS_pidfd_open, pid, 0); /* close-on-exec by itself */
#else
  (void)pid;
  return -1;
#endif
}

static int prepare_files(posix_spawn_file_actions_t *actions, const int *high) {
  int status = posix_spawn_file_actions_addopen(actions, 0, "/dev/null", O_RDONLY, 0);
  for (int i = 0; i < UNS_FD_COUNT - UNS_FD_CONTROL && status == 0; i++) {
    status = posix_spawn_file_actions_adddup2(actions, high[i], UNS_FD_CONTROL + i);
  }
  if (status == 0) status = posix_spawn_file_actions_addclosefrom_np(actions, UNS_FD_COUNT);
  return status;
}

static int prepare_process(posix_spawnattr_t *attributes) {
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  sigdelset(&all, SIGKILL);
  sigdelset(&all, SIGSTOP);
  int status = posix_spawnattr_setflags(attributes,
                                        POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  if (status == 0) status = posix_spawnattr_setpgroup(attributes, 0);
  if (status == 0) status = posix_spawnattr_setsigmask(attributes, &none);
  if (status == 0) status = posix_spawnattr_setsigdefault(attributes, &all);
  return status;
}

static int spawn_with(const char *program, const char *build, const int *high, pid_t *pid) {
  char parent[24], option[] = UNS_WORKER_OPTION;
  snprintf(parent, sizeof parent, "%ld", (long)getpid());
  char *const arguments[] = {(char *)program, option, parent, (char *)build, NULL};
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  int status = posix_spawn_file_actions_init(&actions);
  if (status != 0) return status;
  status = posix_spawnattr_init(&attributes);
  if (status == 0) {
    status = prepare_files(&actions, high);
    if (status == 0) status = prepare_process(&attributes);
    if (status == 0) status = posix_spawn(pid, program, &actions, &attributes, arguments, environ);
    posix_spawnattr_destroy(&attributes);
  }
  posix_spawn_file_actions_destroy(&actions);
  return status;
}

int uns_spawn(const char *program, const char *build, const int descriptors[UNS_FD_COUNT - UNS_FD_CONTROL], pid_t *pid,
              int *watch_fd) {
  /* Copies that lie above where they are to go, so that none is overwritten by another before its turn. */
  int high[UNS_FD_COUNT - UNS_FD_CONTROL], count = 0, status;
  *pid = 0;
  while (count < UNS_FD_COUNT - UNS_FD_CONTROL) {
    high[count] = fcntl(descriptors[count], F_DUPFD_CLOEXEC, UNS_FD_COUNT);
    if (high[count] < 0) break;
    count++;
  }
  if (count < UNS_FD_COUNT - UNS_FD_CONTROL) status = errno;
  else status = spawn_with(program, build, high, pid);
  while (count > 0) close(high[--count]);
  if (status == 0) *watch_fd = watch_process(*pid);
  return status;
}

bool uns_reap(pid_t pid, uns_exit *how) {
  siginfo_t info;
  memset(&info, 0, sizeof info);
  int status;
  do status = waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT);
  while (status != 0 && errno == EINTR);
  if (status == 0 && info.si_pid == 0) return false;
  *how = (uns_exit){.exit_code = -1};
  if (status != 0) { /* SIGCHLD is ignored, or somebody waits for all children. Does it live? */
    if (kill(pid, 0) == 0) return false;
    kill(-pid, SIGKILL);
    return true;
  }
  kill(-pid, SIGKILL); /* while it is not reaped, the number is nobody else's */
  do status = waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG);
  while (status != 0 && errno == EINTR);
  if (info.si_code == CLD_EXITED) how->exit_code = info.si_status;
  else how->signal_number = info.si_status;
  return true;
}

void uns_end_group(void) {
  if (getpgrp() == getpid()) kill(0, SIGKILL); /* not a group that somebody else put us into */
  _exit(1);
}

/* The parent is gone: so is everything that we started. */
static void on_orphaned(int number) {
  (void)number;
  uns_end_group();
}

bool uns_spawned(pid_t parent) {
#ifdef SYS_close_range
  syscall(SYS_close_range, UNS_FD_COUNT, ~0u, 0);
#endif
  for (int fd = UNS_FD_CONTROL; fd < UNS_FD_COUNT; fd++) fcntl(fd, F_SETFD, FD_CLOEXEC);
  /* Not SIGKILL: what this process started in its group would go on. The end of the control socket is the second
     way. */
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = on_orphaned;
  sigfillset(&action.sa_mask);
  sigaction(SIGHUP, &action, NULL);
  if (prctl(PR_SET_PDEATHSIG, SIGHUP) != 0) return false;
  return getppid() == parent;
}
