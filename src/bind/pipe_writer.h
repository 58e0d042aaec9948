/*
 * pipe_writer: what is written to a command of io.popen, without holding the loop while the command does not read.
 *
 * The io library writes to a FILE and knows nothing of this. Between `begin` and `is_behind` the stream takes all that it
 * is given: what the pipe has no room for is kept here, the loop writes it as there is room, and the task waits for that.
 *   - Whoever writes without `begin`, where nothing can wait, blocks as in stock Lua.
 *   - Any number of tasks may wait; what they have written goes out in its order.
 *   - A wait that is broken off gives up what has not gone out, unless others wait for theirs.
 *   - Belongs to the thread of its runtime.
 * Whose command it is, and its end: bind/popen.c. Who writes: bind/output.c.
 */
#ifndef UNS_PIPE_WRITER_H
#define UNS_PIPE_WRITER_H

#include <stdio.h>

#include "bind/stdlib.h"

typedef struct uns_pipe_writer uns_pipe_writer;

/* A stream over `fd`, whose fclose closes `fd`. NULL with errno set, and `fd` is the caller's still. */
FILE *uns_pipe_writer_open(uns_runtime *runtime, int fd, uns_pipe_writer **writer);

/* The writer of the file at `index`, where that is an open one of io.popen that writes; else NULL. In bind/popen.c. */
uns_pipe_writer *uns_pipe_writer_of(lua_State *L, int index);

/* From here on nothing blocks, if the running task can wait. It has to ask is_behind before anybody else runs. */
void uns_pipe_writer_begin(uns_pipe_writer *writer, lua_State *L);
/* That is over. True: something has not gone out, and `wait` has to follow. */
bool uns_pipe_writer_is_behind(uns_pipe_writer *writer);
/* Suspends L until all has gone out: to be returned. `k` begins with check_wait. Raises in a task that is cancelled. */
int uns_pipe_writer_wait(uns_pipe_writer *writer, lua_State *L, lua_KContext context, lua_KFunction k);
/* `writer` may be NULL: it was closed meanwhile. uns_task_check_interrupt has to follow. */
void uns_pipe_writer_check_wait(uns_pipe_writer *writer, const uns_runtime *runtime);
/* Why something could not be written, an errno, or 0. */
int uns_pipe_writer_error(const uns_pipe_writer *writer);

/*
 * The stream will be closed next, without a wait: what it has not written yet, the loop will, and the program ends after
 * that. True: the last wait was broken off, so nothing more goes out, and nobody may want the command any more.
 */
bool uns_pipe_writer_leave(uns_pipe_writer *writer);

#endif
