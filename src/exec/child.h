/*
 * child: the other end: a worker process's main. It takes one call after another from its ring, runs it in its own Lua
 * state, and writes how it ended.
 *
 *   - It runs one call at a time, and claims it on the board first: what it dies with unclaimed is given to another.
 *   - What it and a call print is out before the call's end can be seen.
 *   - It ends when its host tells it to, or is gone, and then takes along what it started.
 * The host's side: process.c. What calls here ask the host for: parent.c.
 */
#ifndef UNS_CHILD_H
#define UNS_CHILD_H

#include "exec/executors.h"
#include "exec/spawn.h"

/* The arguments of a worker process: `unsync --worker PARENT BUILD`. */
#define UNS_CHILD_OPTION UNS_WORKER_OPTION

/* The whole life of a worker process, started as such by its host; its exit code. */
int uns_child_main(int argc, char **argv, uns_runtime *(*new_state)(uns_executors *executors),
                   void (*free_state)(uns_runtime *runtime));

#endif
