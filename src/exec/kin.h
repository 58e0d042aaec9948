/*
 * kin: what a process has started, and what that has: to end a command of the shell with all of it, where it has no
 * process group of its own. (It must stay in ours: the terminal's signals are for it, too, and its reads.)
 *
 *   - Each is held by a pidfd, so that no other process can be meant, whenever it is signalled.
 *   - Who has left the family by then (a daemon, whose parent has ended) is not found, and shall not be.
 * Where the system has no pidfd there are none. Thread: any; nothing here belongs to one.
 */
#ifndef UNS_KIN_H
#define UNS_KIN_H

#include <sys/types.h>

enum { UNS_KIN_MAX = 256 }; /* more are not found */

/* Fills in descriptors, the caller's to close, parents before children; returns how many. `root` is not among them. */
int uns_kin_find(pid_t root, int fds[UNS_KIN_MAX]);
void uns_kin_signal(const int fds[], int count, int signal_number);
/* Closes those of the ones that have ended, and moves the others together; returns how many are left. */
int uns_kin_left(int fds[], int count);
void uns_kin_close(const int fds[], int count);

#endif
