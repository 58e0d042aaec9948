/*
 * terminal: the screen while a line is edited on it: what anybody prints goes above that line.
 *
 * stdout and stderr, where they are the terminal, are replaced by a pseudo-terminal of ours, whose other end a thread reads:
 * it takes the edited line away, writes what was printed, and lets the line be drawn again. So it does not matter who
 * prints: this state, threads, worker processes, a C library, a child.
 *   - `lock` guards the real terminal and the editor: whoever draws holds it. It is never held while user code runs, or
 *     while anybody waits for input.
 *   - Output keeps its order: both streams go through the one device. `drain` waits until all of it is on the screen.
 *   - What was printed without a newline stands on a line of its own, and goes on there when more comes.
 * Who draws the line: host/editor.h.
 */
#ifndef UNS_TERMINAL_H
#define UNS_TERMINAL_H

#include <stdbool.h>
#include <stdio.h>

/* Who has a line on the screen. Both are called with the lock held, on any thread. */
typedef struct uns_screen_line {
  void (*erase)(
      FILE *screen);  /* the cursor is in the line: leave it at the place where the line began, cleared from there */
  void (*draw)(void); /* the cursor is where the line shall begin */
} uns_screen_line;

/* Takes the terminal over. False, with nothing changed, where that cannot be. Main thread. */
bool uns_terminal_open(void);
/* What was printed is shown, and all is as it was. Harmless where it is not open. Main thread. */
void uns_terminal_close(void);

/* The real screen, for the one who holds the lock. */
FILE *uns_terminal_screen(void);
void uns_terminal_lock(void);
void uns_terminal_unlock(void);

/* A line is on the screen from now on, or none (NULL). With the lock held. */
void uns_terminal_set_line(const uns_screen_line *line);
/* Waits until everything that was printed before is on the screen, and the cursor at the beginning of a line. */
void uns_terminal_drain(void);
/* The size of the terminal has changed. */
void uns_terminal_resized(void);

#endif
