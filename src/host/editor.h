/*
 * editor: a line edited on the terminal, by libedit, while the loop turns.
 *
 * libedit is loaded at its first use, and wants to read its characters itself: the function that it reads them by turns the
 * loop until there is one. So tasks go on in the middle of whatever it does: a search, a quoted character, half an escape
 * sequence. Its own interface of callbacks would come back after each key only where that is a whole command.
 *   - One per process, main thread; drawing may be done by the terminal's thread, under the terminal's lock.
 *   - The process's locale is not touched: libedit is called in one of its own, with UTF-8.
 *   - Keys are taken one by one, so that what was typed ahead of a line's own io.read is left to that.
 * Where output goes meanwhile: host/terminal.h.
 */
#ifndef UNS_EDITOR_H
#define UNS_EDITOR_H

#include "host/lines.h"

/*
 * What may follow `text`, the line before the cursor. Outputs, to be given to uns_free: what to insert, and a list of
 * candidates, each ended by a zero, the last followed by another. Either may be NULL. Main thread.
 */
typedef void uns_editor_complete(uns_runtime *runtime, const char *text, size_t size, char **insert, char **list);

/* Takes the terminal. False where it is no terminal that lines can be edited on, or libedit is not there. */
bool uns_editor_open(void);
/* The terminal is as it was. Also from an exit in the middle of a line. */
void uns_editor_close(void);

/* Reads a line; as uns_lines_read. */
uns_lines_end uns_editor_read(const uns_turner *turner, const char *prompt, uns_editor_complete *complete,
                              const char **line, size_t *size);

/* Adds to what the arrow keys bring back. */
void uns_editor_remember(const char *entry);

#endif
