/*
 * stats: how many calls each function had, how they ended, how long they stood in line and how long they ran.
 *
 *   - Times are kept in histograms of a fixed size, eight buckets for each doubling: what is read from them is off by 6 % at
 *     most, however many calls there are. The longest is exact.
 *   - Any thread may count; a lock orders them.
 *   - What a call is, and when it began, is core/recorder.c's.
 */
#ifndef UNS_STATS_H
#define UNS_STATS_H

#include <stdio.h>

#include "core/job.h"

typedef struct uns_stats uns_stats;

typedef enum { UNS_CALL_DONE, UNS_CALL_FAILED, UNS_CALL_CANCELLED } uns_call_end;

/* NULL without memory. */
uns_stats *uns_stats_new(void);
void uns_stats_free(uns_stats *stats);

/* One call has ended. A time UINT64_MAX: it never started, or nobody knows. */
void uns_stats_call(uns_stats *stats, uns_kind kind, const char *name, uns_call_end end, uint64_t queued_ns,
                    uint64_t ran_ns);
/* A worker of that kind has started. */
void uns_stats_worker(uns_stats *stats, uns_kind kind);
/* So many bytes went to workers, or came back. */
void uns_stats_bytes(uns_stats *stats, uint64_t sent, uint64_t returned);

/* Prints all that was counted, in lines. */
void uns_stats_print(uns_stats *stats, FILE *file);

#endif
