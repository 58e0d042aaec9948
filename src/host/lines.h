/*
 * lines: one line of input at a time, while the loop turns.
 *
 * Where stdin and stdout are a terminal, lines are edited (host/editor.h); elsewhere they are taken as they come, through
 * stdio's buffer, so that what a script reads with io.read is what follows the line that called it.
 *   - One session per process, main thread.
 *   - The turns are the caller's: they may run any task, and end the run.
 */
#ifndef UNS_LINES_H
#define UNS_LINES_H

#include "host/input.h"

typedef enum {
  UNS_LINES_READ,
  UNS_LINES_EOF,              /* the end of input, or Ctrl-D; or the run has ended */
  UNS_LINES_INTERRUPTED,      /* Ctrl-C: what was typed is given up */
  UNS_LINES_INTERRUPTED_TWICE /* and again, with nothing typed between */
} uns_lines_end;

/* Looks at stdin and stdout; true if there is a terminal to talk to. */
bool uns_lines_open(void);
/* The terminal is as it was. Any number of times. */
void uns_lines_close(void);

/*
 * Reads a line, without its end, after `prompt` where somebody can see it. The text is valid until the next call.
 */
uns_lines_end uns_lines_read(const uns_turner *turner, const char *prompt, const char **line, size_t *size);

/*
 * Sets in the table on top:
 *   remember(entries)   appends to what the arrow keys bring back
 *   fresh()             what was printed is on the screen, and the cursor at the beginning of a line
 *   complete(fn)        fn(text before the cursor) -> the part to complete, what it is at least, candidates
 */
void uns_lines_set(lua_State *L);

#endif
