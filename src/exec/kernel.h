/*
 * kernel: what the kernel says of a thread of this process. Linux only: /proc.
 */
#ifndef UNS_KERNEL_H
#define UNS_KERNEL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* True if it runs or is ready to run; false where it sleeps, in a system call or for a lock, or is gone. */
bool uns_kernel_on_cpu(pid_t thread_id);
/* The processor time that a thread, not yet joined, has used; 0 where that cannot be told. */
uint64_t uns_kernel_cpu_ns(pthread_t thread);

#endif
