/*
 * progress: see progress.c; for whoever sends jobs and takes their completions.
 */
#ifndef UNS_PROGRESS_H
#define UNS_PROGRESS_H

#include "loop/future.h"

/* Before the job is submitted. */
void uns_progress_attach(uns_job *job);
/* At the completion of the job whose future lies at `index`. May raise for memory. */
void uns_progress_keep(uns_runtime *runtime, lua_State *L, int index, uns_job *job);

#endif
