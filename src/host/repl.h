/*
 * repl: the interactive session: lua/unsync/repl.lua is its root task, and this lends it a line at a time, what Ctrl-C
 * means, and the few things of the system that Lua has not.
 *
 * A line is read outside of all tasks, between turns of the loop, and reading turns the loop: tasks go on meanwhile.
 * On a terminal the line is edited (host/editor.h), and what anybody prints goes above it (host/terminal.h). Elsewhere
 * lines are read as they come, without prompts.
 * Main thread; once per process.
 */
#ifndef UNS_REPL_H
#define UNS_REPL_H

#include "host/script.h"

typedef struct uns_repl uns_repl;

/* A session that runs the steps of `before` first; borrowed. NULL without memory. */
uns_repl *uns_repl_new(const uns_script *before);
void uns_repl_free(uns_repl *repl);

/* The one step of the script that is this session, and who stands beside it. */
uns_step uns_repl_step(uns_repl *repl);
uns_attendant *uns_repl_attendant(uns_repl *repl);

#endif
