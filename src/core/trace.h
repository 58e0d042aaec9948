/*
 * trace: what happened, as events in the Trace Event Format that ui.perfetto.dev and chrome://tracing load, written as it
 * goes.
 *
 *   - Memory is one buffer, however many events there are. Any thread may write; a lock orders them.
 *   - The file is a complete document whenever the buffer has been written out: the closing brackets follow the last event,
 *     and the next ones are written over them. So it can be loaded whatever ended the program.
 *   - Times are on uns_clock_ns. On a track they never go back: one that would is taken as the last one there. What
 *     belongs to no track, the async events, is told apart by its category and number.
 *   - It knows no calls and no tasks: what is written, and when, is core/recorder.c's.
 */
#ifndef UNS_TRACE_H
#define UNS_TRACE_H

#include <sys/types.h>

#include "base/base.h"

typedef struct uns_trace uns_trace;

enum { UNS_TRACE_NONE = 0 }; /* no track: what is written on it is dropped */

/* Opens the file, which is emptied. NULL with errno set. `failed` is told once if it cannot be written any more. */
uns_trace *uns_trace_open(const char *path, void (*failed)(const char *path, int number));
/* Ends what has begun on its tracks, and writes all out. What comes afterwards is dropped. Any thread. */
void uns_trace_close(uns_trace *trace);
/* After `close`, when nobody can write any more. */
void uns_trace_free(uns_trace *trace);

/* A new track, and its name. `process` names its process, NULL: that was named before. UNS_TRACE_NONE without memory. */
uint32_t uns_trace_track(uns_trace *trace, pid_t pid, pid_t tid, const char *process, const char *name);

/* A span on a track, begun and ended there in this order; they nest. `ns` 0: now. */
void uns_trace_begin(uns_trace *trace, uint32_t track, uint64_t ns, const char *category, const char *name,
                     uint64_t id);
void uns_trace_end(uns_trace *trace, uint32_t track, uint64_t ns);
/* An arrow from where it begins, a moment inside a span, to where it ends. Its number is used for one arrow only. */
void uns_trace_arrow_begin(uns_trace *trace, uint32_t track, uint64_t ns, uint64_t id);
void uns_trace_arrow_end(uns_trace *trace, uint32_t track, uint64_t ns, uint64_t id);
/* A span that belongs to no track; those of one category and number nest. */
void uns_trace_async_begin(uns_trace *trace, uint64_t ns, const char *category, const char *name, uint64_t id);
void uns_trace_async_end(uns_trace *trace, uint64_t ns, const char *category, const char *name, uint64_t id);
/* A moment in such a span, with a text that is shown when it is clicked on. */
void uns_trace_note(uns_trace *trace, const char *category, const char *name, uint64_t id, const char *text);

#endif
