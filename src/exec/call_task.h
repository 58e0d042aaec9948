/*
 * call_task: what a plugin holds a pointer to while its task runs, and the functions that it finds behind it.
 *
 * For exec/call*.c alone. What a plugin's author is promised of each function stands in include/unsync_plugin.h.
 *   - All of it belongs to the task's own thread, but `job`, of which other threads ask to stop, and `report_ns`.
 */
#ifndef UNS_CALL_TASK_H
#define UNS_CALL_TASK_H

#include "base/text.h"
#include "core/block.h"
#include "core/job.h"
#include "core/reader.h"
#include "core/writer.h"
#include "exec/registry.h"

typedef struct uns_call {
  unsync_task task; /* first */
  const uns_native *native;
  uns_job *job;
  uns_reader arguments;
  uns_writer results;
  bool failed;        /* the first failure, and from then on */
  char *code;         /* owned; NULL with `failed`: there was no memory even for the texts */
  char *message;      /* owned */
  uns_block **blocks; /* buffers that the task was given, one reference each; owned */
  size_t block_count, block_room;
  _Atomic uint64_t report_ns; /* when progress may be passed on again; also from the task's own threads */
  /* Where the last elements were found, so that asking for one after the other is no more than walking. */
  uns_walk walks[4];
  unsigned next_walk;
} uns_call;

/* How a value names what is not there: unsync_value.size, where its type is nil. */
enum { UNS_CALL_THERE, UNS_CALL_NO_FIELD, UNS_CALL_NO_ELEMENT };

static inline uns_call *uns_call_of(unsync_task *t) { return uns_container_of(t, uns_call, task); }

/* Behind the arguments there may be one more value: the context. */
static inline bool uns_call_has_context(const uns_call *c) { return c->job->named_context && c->arguments.count > 0; }
static inline uint32_t uns_call_argument_count(const uns_call *c) { return c->arguments.count - uns_call_has_context(c); }

/* A buffer that lives as long as the task, borrowed; NULL without memory. */
uns_block *uns_call_block(uns_call *c, size_t size);

/* ---- call_error.c: each fails the call, unless it has failed, and returns UNSYNC_FAILED ---- */

int uns_call_fail_text(uns_call *c, const char *code, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* The task `did` `what` it must not. */
int uns_call_fail_misuse(uns_call *c, const char *did, const char *what);
int uns_call_fail_memory(uns_call *c);
/* For `value`, which is not what it should be: `expected`, or with `why` something is wrong with it. */
int uns_call_fail_value(uns_call *c, const unsync_value *value, const char *expected, const char *why);

int uns_call_fail(unsync_task *t, const char *code, const char *format, va_list arguments)
    __attribute__((format(printf, 3, 0)));
int uns_call_fail_errno(unsync_task *t, int number, const char *what);
int uns_call_fail_arg(unsync_task *t, int index, const char *format, va_list arguments)
    __attribute__((format(printf, 3, 0)));
int uns_call_failed(unsync_task *t);

/* ---- call_arguments.c ---- */

int uns_call_arg_count(unsync_task *t);
void uns_call_arg(unsync_task *t, int index, unsync_value *value);
int uns_call_to_boolean(unsync_task *t, const unsync_value *value);
int64_t uns_call_to_integer(unsync_task *t, const unsync_value *value);
double uns_call_to_number(unsync_task *t, const unsync_value *value);
const char *uns_call_to_string(unsync_task *t, const unsync_value *value, size_t *size);
const char *uns_call_to_text(unsync_task *t, const unsync_value *value);
int uns_call_check_table(unsync_task *t, const unsync_value *value);
size_t uns_call_length(unsync_task *t, const unsync_value *table);
void uns_call_element(unsync_task *t, const unsync_value *table, int64_t index, unsync_value *value);
void uns_call_field(unsync_task *t, const unsync_value *table, const char *name, unsync_value *value);
void uns_call_context(unsync_task *t, const char *name, unsync_value *value);
int uns_call_next(unsync_task *t, unsync_cursor *cursor);
size_t uns_call_numbers(unsync_task *t, const unsync_value *table, double *numbers, size_t room);
size_t uns_call_integers(unsync_task *t, const unsync_value *table, int64_t *integers, size_t room);
int uns_call_same(unsync_task *t, const unsync_value *one, const unsync_value *other);

#endif
