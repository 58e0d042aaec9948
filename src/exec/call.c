#include "exec/call.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/lent.h"
#include "exec/call_task.h"
#include "exec/executors.h"

enum { REPORT_NS = 10000000 }; /* between two reports that are passed on */

_Static_assert((int)UNSYNC_NIL == UNS_ITEM_NIL && (int)UNSYNC_BOOLEAN == UNS_ITEM_BOOLEAN &&
                   (int)UNSYNC_INTEGER == UNS_ITEM_INTEGER && (int)UNSYNC_NUMBER == UNS_ITEM_NUMBER &&
                   (int)UNSYNC_STRING == UNS_ITEM_STRING && (int)UNSYNC_TABLE == UNS_ITEM_TABLE &&
                   (int)UNSYNC_FUNCTION == UNS_ITEM_FUNCTION && (int)UNSYNC_OBJECT == UNS_ITEM_OBJECT,
               "a plugin's types are the reader's");

uns_block *uns_call_block(uns_call *c, size_t size) {
  if (c->block_count == c->block_room) {
    size_t room = c->block_room == 0 ? 8 : c->block_room * 2;
    uns_block **larger = uns_realloc(c->blocks, room * sizeof *larger);
    if (larger == NULL) return NULL;
    c->blocks = larger;
    c->block_room = room;
  }
  uns_block *block = uns_block_new(size);
  if (block != NULL) c->blocks[c->block_count++] = block;
  return block;
}

/* ---- Results ---------------------------------------------------------------------------------------------------- */

/* After something was put: the writer's failure is the call's. */
static int done(uns_call *c, int status) {
  if (c->failed) return UNSYNC_FAILED;
  if (status == UNS_OK) return UNSYNC_OK;
  if (status == UNS_ENOMEM) return uns_call_fail_memory(c);
  return uns_call_fail_misuse(c, "put", c->results.misuse);
}

/* What a function returns that has failed, NULL or -1, is put by mistake. */
static bool are_bytes(uns_call *c, const char *bytes, size_t size) {
  if (bytes == NULL && size > 0) uns_call_fail_misuse(c, "put", "NULL as a string");
  else if (size > PTRDIFF_MAX) uns_call_fail_misuse(c, "put", "a negative number of bytes");
  else return true;
  return false;
}

static int api_put_nil(unsync_task *t) { return done(uns_call_of(t), uns_writer_nil(&uns_call_of(t)->results)); }

static int api_put_boolean(unsync_task *t, int value) {
  return done(uns_call_of(t), uns_writer_boolean(&uns_call_of(t)->results, value != 0));
}

static int api_put_integer(unsync_task *t, int64_t value) {
  return done(uns_call_of(t), uns_writer_integer(&uns_call_of(t)->results, value));
}

static int api_put_number(unsync_task *t, double value) {
  return done(uns_call_of(t), uns_writer_number(&uns_call_of(t)->results, value));
}

static int api_put_string(unsync_task *t, const char *bytes, size_t size) {
  if (!are_bytes(uns_call_of(t), bytes, size)) return UNSYNC_FAILED;
  return done(uns_call_of(t), uns_writer_string(&uns_call_of(t)->results, bytes, size));
}

static int api_put_value(unsync_task *t, const unsync_value *value) {
  uns_item item = {.type = (uns_item_type)value->type, .origin = (size_t)value->origin};
  if (value->type == UNSYNC_NUMBER) item.as.number = value->as.number;
  else if (value->type <= UNSYNC_INTEGER) item.as.integer = value->as.integer;
  else item.as.place = (size_t)value->as.place;
  return done(uns_call_of(t), uns_writer_item(&uns_call_of(t)->results, &uns_call_of(t)->arguments, &item));
}

static char *api_alloc_bytes(unsync_task *t, size_t size) {
  uns_block *block = uns_call_block(uns_call_of(t), size);
  if (block != NULL) return block->bytes;
  uns_call_fail_text(uns_call_of(t), "ENOMEM", "not enough memory for %zu bytes", size);
  return NULL;
}

static void release_block(void *block) { uns_shared_unref(block); }

static int api_put_bytes(unsync_task *t, char *buffer, size_t size) {
  uns_call *c = uns_call_of(t);
  uns_block *block = NULL;
  if (c->failed) return UNSYNC_FAILED;
  for (size_t i = 0; i < c->block_count && block == NULL; i++)
    if (c->blocks[i]->bytes == buffer) block = c->blocks[i];
  if (block == NULL || size > block->size_bytes) {
    return uns_call_fail_misuse(
        c, "put", block == NULL ? "a buffer that is not from unsync_alloc_bytes" : "more bytes than the buffer has");
  }
  if (size < UNS_LENT_MIN) return api_put_string(t, buffer, size);
  uns_shared_ref(block);
  if (size < block->size_bytes) { /* a part of it: what it is put as, the buffer keeps its size */
    uns_block *part = uns_block_wrap(buffer, size, release_block, block);
    if (part == NULL) uns_shared_unref(block);
    block = part;
  }
  return block == NULL ? uns_call_fail_memory(c) : done(c, uns_writer_held(&c->results, &block->base));
}

static int api_put_foreign(unsync_task *t, const void *bytes, size_t size, void (*release)(void *context),
                           void *context) {
  uns_call *c = uns_call_of(t);
  int status = UNSYNC_FAILED;
  if (!c->failed && size >= UNS_LENT_MIN && are_bytes(c, bytes, size)) {
    uns_block *block = uns_block_wrap((char *)(uintptr_t)bytes, size, release, context);
    if (block != NULL) return done(c, uns_writer_held(&c->results, &block->base));
    uns_call_fail_memory(c);
  } else if (!c->failed) {
    status = api_put_string(t, bytes, size);
  }
  if (release != NULL) release(context);
  return status;
}

static int api_begin_table(unsync_task *t) {
  return done(uns_call_of(t), uns_writer_begin_table(&uns_call_of(t)->results));
}

static int api_end_table(unsync_task *t) {
  return done(uns_call_of(t), uns_writer_end_table(&uns_call_of(t)->results));
}
static int api_pair(unsync_task *t) { return done(uns_call_of(t), uns_writer_pair(&uns_call_of(t)->results)); }

/* ---- Cancellation, progress, log: also from the task's own threads ---------------------------------------------- */

static bool is_past(const uns_job *job) { return job->deadline_ns != 0 && uns_clock_ns() >= job->deadline_ns; }

static int api_cancelled(unsync_task *t) {
  const uns_job *job = uns_call_of(t)->job;
  return atomic_load_explicit(&job->cancel, memory_order_relaxed) != 0 || is_past(job);
}

static uint64_t api_deadline(unsync_task *t) { return uns_call_of(t)->job->deadline_ns; }

static uint64_t api_now(unsync_task *t) {
  (void)t;
  return uns_clock_ns();
}

static int api_left_ms(unsync_task *t) {
  uint64_t deadline = uns_call_of(t)->job->deadline_ns, now = uns_clock_ns();
  if (deadline == 0) return -1;
  if (deadline <= now) return 0;
  uint64_t left = (deadline - now + 999999) / 1000000; /* never too early */
  return left > INT32_MAX ? INT32_MAX : (int)left;
}

static void api_progress(unsync_task *t, double done_so_far, double total) {
  uns_call *c = uns_call_of(t);
  uns_job *job = c->job;
  uint64_t bits;
  memcpy(&bits, &done_so_far, sizeof bits);
  atomic_store_explicit(&job->progress_done, bits, memory_order_relaxed);
  memcpy(&bits, &total, sizeof bits);
  atomic_store_explicit(&job->progress_total, bits, memory_order_relaxed);
  atomic_fetch_add_explicit(&job->progress_count, 1, memory_order_release);
  if (job->progressed == NULL) return;
  uint64_t now = uns_clock_ns(), due = atomic_load_explicit(&c->report_ns, memory_order_relaxed);
  if (now < due && done_so_far < total) return;
  if (atomic_compare_exchange_strong_explicit(&c->report_ns, &due, now + REPORT_NS, memory_order_relaxed,
                                              memory_order_relaxed))
    job->progressed(job);
}

__attribute__((format(printf, 3, 0))) static void api_log(unsync_task *t, int level, const char *format,
                                                          va_list arguments) {
  static const char *const names[] = {"debug", "info", "warn", "error"};
  const uns_native *native = uns_call_of(t)->native;
  if (level < UNSYNC_DEBUG) level = UNSYNC_DEBUG;
  if (level > UNSYNC_ERROR) level = UNSYNC_ERROR;
  if (level < native->plugin->log_level) return;
  uns_text line = {0};
  uns_text_add(&line, "%s.%s: %s: ", native->plugin->name, native->name, names[level - UNSYNC_DEBUG]);
  uns_text_add_list(&line, format, arguments);
  uns_text_add(&line, "\n");
  /* One write, so that lines do not mix; there is nobody to tell that a log line was lost. */
  if (line.bytes != NULL && write(STDERR_FILENO, line.bytes, line.size_bytes) < 0) line.lost = true;
  uns_free(line.bytes);
}

/* ---- The call --------------------------------------------------------------------------------------------------- */

static const unsync_api api = {
    .abi = UNSYNC_PLUGIN_ABI,
    .size_bytes = sizeof(unsync_api),
    .arg_count = uns_call_arg_count,
    .arg = uns_call_arg,
    .to_boolean = uns_call_to_boolean,
    .to_integer = uns_call_to_integer,
    .to_number = uns_call_to_number,
    .to_string = uns_call_to_string,
    .to_text = uns_call_to_text,
    .check_table = uns_call_check_table,
    .length = uns_call_length,
    .element = uns_call_element,
    .field = uns_call_field,
    .next = uns_call_next,
    .numbers = uns_call_numbers,
    .integers = uns_call_integers,
    .same = uns_call_same,
    .put_nil = api_put_nil,
    .put_boolean = api_put_boolean,
    .put_integer = api_put_integer,
    .put_number = api_put_number,
    .put_string = api_put_string,
    .put_value = api_put_value,
    .alloc_bytes = api_alloc_bytes,
    .put_bytes = api_put_bytes,
    .put_foreign = api_put_foreign,
    .begin_table = api_begin_table,
    .end_table = api_end_table,
    .pair = api_pair,
    .fail = uns_call_fail,
    .fail_errno = uns_call_fail_errno,
    .fail_arg = uns_call_fail_arg,
    .failed = uns_call_failed,
    .cancelled = api_cancelled,
    .deadline = api_deadline,
    .now = api_now,
    .left_ms = api_left_ms,
    .progress = api_progress,
    .log = api_log,
    .context = uns_call_context,
};

/* Ends the job with an error value: `outcome` is that of a failure or a cancellation. */
static void end_with_error(uns_job *job, uns_outcome outcome, const char *code, const char *message, const char *extra,
                           const char *value) {
  uns_packet_deinit(&job->result);
  if (uns_write_error(&job->result, code, message, extra, value) == UNS_OK) job->outcome = outcome;
  else uns_job_fail(job, "ENOMEM", "not enough memory");
}

static void end_stopped(uns_call *c) {
  uns_text message = {0};
  bool asked = atomic_load_explicit(&c->job->cancel, memory_order_relaxed) != 0;
  uns_text_add(&message, "%s.%s %s", c->native->plugin->name, c->native->name,
               asked ? "was cancelled" : "has passed its deadline");
  end_with_error(c->job, asked ? UNS_OUTCOME_CANCELLED : UNS_OUTCOME_FAILED, asked ? "cancelled" : "timeout",
                 message.bytes == NULL ? "not enough memory" : message.bytes, "stopped_by", "token");
  uns_free(message.bytes);
}

void uns_call_run(const uns_native *native, uns_job *job) {
  uns_call c = {.task = {&api}, .native = native, .job = job};
  atomic_init(&c.report_ns, 0);
  uns_packet_deinit(&job->result);
  int status = uns_reader_open(&c.arguments, &job->call);
  if (status == UNS_OK) status = uns_writer_init(&c.results, &job->result);
  if (status != UNS_OK) {
    if (status == UNS_ENOMEM) uns_job_fail(job, "ENOMEM", "not enough memory to run %s", job->function->name);
    else uns_job_fail(job, "corrupt", "the arguments of %s came damaged", job->function->name);
  } else {
    int code = native->run(&c.task);
    bool stopped = false;
    if (!c.failed && code == UNSYNC_CANCELLED) {
      stopped = api_cancelled(&c.task);
      if (!stopped) uns_call_fail_misuse(&c, "says that it was cancelled,", "but nobody did that");
    } else if (!c.failed && code != UNSYNC_OK) {
      uns_call_fail_text(&c, "failed", "native task '%s.%s' failed without saying why (%d)", native->plugin->name,
                         native->name, code);
    } else if (!c.failed) {
      done(&c, uns_writer_finish(&c.results));
    }
    if (stopped) end_stopped(&c);
    else if (!c.failed) job->outcome = UNS_OUTCOME_DONE;
    else if (c.code != NULL && c.message != NULL)
      end_with_error(job, UNS_OUTCOME_FAILED, c.code, c.message, NULL, NULL);
    else uns_job_fail(job, "ENOMEM", "not enough memory to say why %s failed", job->function->name);
  }
  uns_writer_deinit(&c.results);
  uns_reader_close(&c.arguments);
  for (size_t i = 0; i < c.block_count; i++) uns_shared_unref(c.blocks[i]);
  uns_free(c.blocks);
  uns_free(c.code);
  uns_free(c.message);
  uns_packet_deinit(&job->call); /* what was lent goes home as soon as it can */
}

/* The task that `function` names. NULL with a text, or without one where there was no memory. */
static const uns_native *find_task(uns_executors *executors, uns_function *function, char **error) {
  if (function->task != NULL) return function->task;
  uns_registry *registry = uns_registry_of(executors);
  if (registry == NULL) return NULL;
  if (function->plugin == NULL) return uns_registry_find(registry, function->native, error);
  /* The host knew the very file that it is from. Only one thread of a worker process ever has such a function. */
  function->task = uns_registry_resolve(registry, function->plugin, function->native, error);
  return function->task;
}

void uns_call_native(uns_executors *executors, uns_job *job) {
  char *error = NULL;
  const uns_native *native = find_task(executors, job->function, &error);
  if (native != NULL) uns_call_run(native, job);
  else if (error != NULL) end_with_error(job, UNS_OUTCOME_FAILED, "plugin", error, NULL, NULL);
  else uns_job_fail(job, "ENOMEM", "not enough memory to load %s", job->function->native);
  uns_free(error);
}
