/*
 * message: what a frame says of a job, written from the job and read back into one.
 */
#include <string.h>

#include <lua.h>

#include "exec/frame.h"
#include "exec/registry.h"
#include "unsync.h"

/* Counted up with every change of what the frames or the board mean. */
#define PROTOCOL "5"
const char *uns_frame_build_id(void) { return "unsync " UNSYNC_VERSION ", " LUA_RELEASE ", protocol " PROTOCOL; }

static struct uns_message_words *begin(uns_message *message, uns_frame_kind kind, const uns_job *job) {
  memset(message, 0, sizeof *message);
  message->words.kind = kind;
  message->words.id = job->id;
  return &message->words;
}

void uns_message_of_call(uns_message *message, const uns_job *job) {
  const uns_function *function = job->function;
  struct uns_message_words *words = begin(message, UNS_FRAME_CALL, job);
  words->submitted_ns = job->submitted_ns;
  words->deadline_ns = job->deadline_ns;
  words->timeout_ns = function->timeout_ns;
  words->run_timeout_ns = function->run_timeout_ns;
  words->grace_ns = function->grace_ns;
  words->limit = function->limit;
  words->function_kind = function->kind;
  words->fresh = function->fresh;
  words->context = job->named_context;
  message->texts[UNS_TEXT_NAME] = function->name;
  message->texts[UNS_TEXT_NATIVE] = function->native;
  message->texts[UNS_TEXT_PLUGIN] = function->task != NULL ? function->task->plugin->path : function->plugin;
  message->search_path = job->search_path;
}

void uns_message_of_result(uns_message *message, const uns_job *job) {
  struct uns_message_words *words = begin(message, UNS_FRAME_RESULT, job);
  words->started_ns = job->started_ns;
  words->ended_ns = job->ended_ns;
  words->state = job->outcome;
  words->exit_code = job->exit_code;
  words->signal_number = job->signal_number;
  words->count = atomic_load_explicit(&job->progress_count, memory_order_acquire);
  words->progress_done = atomic_load_explicit(&job->progress_done, memory_order_relaxed);
  words->progress_total = atomic_load_explicit(&job->progress_total, memory_order_relaxed);
  if (job->outcome != UNS_OUTCOME_ERROR) return;
  memcpy(words->error_code, job->error_code, sizeof words->error_code);
  message->texts[0] = job->error_text;
}

int uns_message_end_job(uns_message *message, uns_job *job) {
  const struct uns_message_words *words = &message->words;
  if (words->state > UNS_OUTCOME_ERROR) return UNS_ECORRUPT;
  if (words->state == UNS_OUTCOME_ERROR) {
    uns_job_fail(job, words->error_code, "%s", message->texts[0] != NULL ? message->texts[0] : "");
  } else {
    uns_packet_move(&job->result, &message->packet);
    job->outcome = (uns_outcome)words->state;
  }
  job->exit_code = words->exit_code;
  job->signal_number = words->signal_number;
  return UNS_OK;
}

static bool same_text(const char *a, const char *b) { return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0); }

uns_function *uns_function_of_message(const uns_message *message, uns_function *last) {
  const struct uns_message_words *words = &message->words;
  const char *name = message->texts[UNS_TEXT_NAME] != NULL ? message->texts[UNS_TEXT_NAME] : "?";
  const char *native = message->texts[UNS_TEXT_NATIVE], *plugin = message->texts[UNS_TEXT_PLUGIN];
  if (last != NULL && strcmp(last->name, name) == 0 && same_text(last->native, native) &&
      same_text(last->plugin, plugin) && last->kind == words->function_kind && last->fresh == (words->fresh != 0) &&
      last->limit == words->limit && last->timeout_ns == words->timeout_ns &&
      last->run_timeout_ns == words->run_timeout_ns && last->grace_ns == words->grace_ns) {
    return uns_shared_ref(last);
  }
  uns_function *function = uns_function_new((uns_kind)words->function_kind, name, native);
  if (function == NULL) return NULL;
  function->fresh = words->fresh != 0;
  function->limit = words->limit;
  function->timeout_ns = words->timeout_ns;
  function->run_timeout_ns = words->run_timeout_ns;
  function->grace_ns = words->grace_ns;
  if (plugin != NULL) {
    function->plugin = uns_copy_text(plugin);
    if (function->plugin == NULL) {
      uns_shared_unref(function);
      return NULL;
    }
  }
  return function;
}
