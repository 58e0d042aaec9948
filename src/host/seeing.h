/*
 * seeing: what the program was asked to write down of its run: --trace, --stats. Opened before the script starts, and
 * closed however it ends, os.exit included.
 *
 * One for the process, as the command line is.
 */
#ifndef UNS_SEEING_H
#define UNS_SEEING_H

#include "exec/executors.h"

typedef struct {
  const char *trace_path; /* borrowed; NULL: none */
  bool stats;
  const char *title; /* what runs, for the trace; borrowed until `begin` has returned */
} uns_seeing;

/* 0, or the exit code after a message. From here on `executors` and their states are recorded, where that was asked for. */
int uns_seeing_begin(const uns_seeing *asked, uns_executors *executors);
/* The script's state has been made. */
void uns_seeing_watch(uns_runtime *runtime);
/* Prints and writes what is left; what happens afterwards is dropped. Any number of times. */
void uns_seeing_end(void);
/* Nobody can record anything any more. */
void uns_seeing_free(void);

#endif
