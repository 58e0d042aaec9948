/*
 * input: waiting for stdin while the loop turns, for whoever reads lines from it (host/lines.h, host/editor.h).
 *
 * Main thread, outside of all tasks and of the loop.
 */
#ifndef UNS_INPUT_H
#define UNS_INPUT_H

#include "loop/runtime.h"

/* Who turns the loop meanwhile. */
typedef struct uns_turner {
  uns_runtime *runtime;
  bool (*turn)(void *context); /* one turn, which sleeps; false: the run is over */
  void *context;
} uns_turner;

/* Turns the loop until stdin has something to read, or its end, or `stir` is called. False: the run is over. */
bool uns_input_wait(const uns_turner *turner);
/* Ends the present wait, or the next. From the main thread, in a turn, or a signal handler. */
void uns_input_stir(void);

/* True if a read would not wait; `stdio` says whether what stdio has read ahead counts. */
bool uns_input_ready(bool stdio);
/* True if stdio has read ahead. False where another thread reads from it just now. */
bool uns_input_buffered(void);

/* Ctrl-C: noted, and taken. */
void uns_input_interrupt(void);
bool uns_input_take_interrupt(void);

#endif
