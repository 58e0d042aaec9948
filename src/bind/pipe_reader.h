/*
 * pipe_reader: what a command of io.popen writes, read without holding the loop.
 *
 * The io library goes on reading from a FILE and knows nothing of this: before it is let at it, the task waits until as much
 * has come as it will ask for. What came lies in the FILE's own buffer and, behind that, here.
 *   - Belongs to the thread of its runtime. After the runtime's end, and for whoever reads without having waited, it blocks.
 *   - One task waits at a time; another one that reads meanwhile blocks.
 * Whose command it is, and its end: bind/popen.c.
 */
#ifndef UNS_PIPE_READER_H
#define UNS_PIPE_READER_H

#include <stdio.h>

#include "bind/stdlib.h"

typedef struct uns_pipe_reader uns_pipe_reader;

/*
 * A stream over `fd`, whose fclose closes `fd` and frees the reader. NULL with errno set, and `fd` is the caller's still.
 */
FILE *uns_pipe_reader_open(uns_runtime *runtime, int fd, uns_pipe_reader **reader);

/* True if file:read would not block, which is given the arguments from `first` to the top of L. */
bool uns_pipe_reader_has(const uns_pipe_reader *reader, const FILE *file, lua_State *L, int first);

/* Whether the running task can wait for more: else it blocks. Raises in one that is cancelled. */
bool uns_pipe_reader_can_wait(uns_pipe_reader *reader, lua_State *L);
/* Suspends L until there is more: to be returned. `k` has to begin with check_wait, if the reader is still there. */
int uns_pipe_reader_wait(uns_pipe_reader *reader, lua_State *L, lua_KFunction k);
void uns_pipe_reader_check_wait(uns_pipe_reader *reader);

#endif
