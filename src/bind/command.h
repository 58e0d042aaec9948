/*
 * command: a command of the shell under way, and its end: what os.execute and io.popen are made of.
 *
 * It is started by posix_spawn. It inherits descriptors 0, 1 and 2 and nothing else, and the process's way with signals
 * stays as it is (the C library's system() keeps SIGINT from everybody while it runs). It has no process group of its own:
 * Ctrl-C and Ctrl-Z are for it as well.
 *   - It is reaped here, by its number, and nowhere else: until then that number is safe to signal.
 *   - Its end is learnt from a pidfd on the loop; where the kernel has none, by asking again and again.
 *   - Belongs to the thread of its runtime. A task waits for it; where nothing can wait, `reap` blocks.
 * Who starts them: bind/shell.c, bind/popen.c.
 */
#ifndef UNS_COMMAND_H
#define UNS_COMMAND_H

#include "bind/bind.h"

#define UNS_SHELL "/bin/sh"

typedef struct uns_command uns_command;

/* One that has not been started, for the caller to let go. NULL without memory. */
uns_command *uns_command_new(uns_runtime *runtime);
/* Starts the shell with `text`; our descriptor `from`, if not -1, is its `to`. 0, or an errno. Once, before all else. */
int uns_command_start(uns_command *c, const char *text, int from, int to);
/* If it still runs, it is reaped when it ends, and nobody waits for that. */
void uns_command_let_go(uns_command *c);

/* NULL once that has ended. */
uns_runtime *uns_command_runtime(const uns_command *c);
/* Takes its status if there is one. `options` are waitpid's; 0: waits for it. */
void uns_command_reap(uns_command *c, int options);
/* Pushes the three results of one that has been reaped; or nil, message and errno. */
int uns_command_push_result(lua_State *L, const uns_command *c);
/* Asks it to end, with all it has started, and after the grace period makes it. */
void uns_command_terminate(uns_command *c);

/* Whether `wait` may follow, or else only reap(c, 0). Raises in a task that is cancelled. */
bool uns_command_can_wait(lua_State *L, uns_command *c);
/* Suspends L until it has ended: to be returned. `k` begins with check_wait. */
int uns_command_wait(lua_State *L, uns_command *c, lua_KFunction k);
/* Raises if the wait was broken off. */
void uns_command_check_wait(lua_State *L, uns_command *c);

#endif
