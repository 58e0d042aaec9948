/*
 * parent_calls: what goes on in this worker process, as its host is concerned with it: calls that were made here and run
 * elsewhere, the one that runs here, that it waits, and that everybody here does.
 *
 *   - A call that was made here is in `calls` until its end has come, and comes back in any case.
 *   - The host may ask the one that runs to stop, by its number on the board, or to end a wait that can never end.
 * The way to the host: parent.c. The host's side: serve.c, and silence.c for the last.
 */
#include <pthread.h>
#include <signal.h>

#include "core/error.h"
#include "exec/interrupt.h"
#include "exec/parent_inside.h"
#include "exec/why.h"
#include "loop/task.h"

/* ---- calls ---- */

static void fail_call(uns_parent *parent, uns_job *job, int status) {
  uv_mutex_lock(&parent->lock);
  bool still = uns_table_take(&parent->calls, job->id) != NULL;
  uv_mutex_unlock(&parent->lock);
  if (!still) return;
  if (status == UNS_ECLOSED) uns_job_fail(job, "closed", "closed: the program is ending");
  else uns_job_fail_unsent(job, "the arguments", status);
  uns_job_post(job);
}

void uns_parent_submit(uns_parent *parent, uns_job *job) {
  uns_message message;
  uns_message_of_call(&message, job);
  uv_mutex_lock(&parent->lock);
  bool kept = uns_table_put(&parent->calls, job->id, job);
  uv_mutex_unlock(&parent->lock);
  if (!kept) {
    uns_job_fail_unsent(job, "the arguments", UNS_ENOMEM);
    uns_job_post(job);
    return;
  }
  /* The call's packet is the job's, which may be gone as soon as the host has the frame: it goes with us meanwhile. */
  uns_packet packet = job->call;
  uns_packet_init(&job->call);
  uns_function *function = uns_shared_ref(job->function); /* the message's texts */
  uns_search_path *search_path = job->search_path;
  job->search_path = NULL;
  int status = uns_parent_send(parent, &message, &packet);
  if (status != UNS_OK) fail_call(parent, job, status);
  uns_packet_deinit(&packet);
  uns_shared_unref(function);
  uns_shared_unref(search_path);
}

void uns_parent_cancel(uns_parent *parent, uns_job *job) {
  uns_message message = {.words = {.kind = UNS_FRAME_CANCEL, .id = job->id}};
  uns_parent_send(parent, &message, NULL);
}

void uns_parent_set_running(uns_parent *parent, uns_job *job, uint64_t sequence) {
  uv_mutex_lock(&parent->lock);
  parent->running = job;
  parent->runner = pthread_self();
  parent->running_sequence = sequence;
  uv_mutex_unlock(&parent->lock);
}

/* The call that runs is asked to stop: by its flag, and by a hook that its own thread arms. */
void uns_parent_on_cancel(uns_parent *parent, uint64_t sequence) {
  uv_mutex_lock(&parent->lock);
  if (parent->running != NULL && parent->running_sequence == sequence) {
    atomic_store(&parent->running->cancel, 1);
    if (parent->running->function->native == NULL)
      pthread_kill(parent->runner, UNS_INTERRUPT_SIGNAL); /* as in pool.c */
  }
  uv_mutex_unlock(&parent->lock);
}

void uns_parent_on_progress(uns_parent *parent, const struct uns_message_words *words) {
  uv_mutex_lock(&parent->lock); /* so that the call does not end meanwhile */
  uns_job *job = uns_table_get(&parent->calls, words->id);
  if (job != NULL) uns_job_note_progress(job, words->progress_done, words->progress_total);
  uv_mutex_unlock(&parent->lock);
}

int uns_parent_on_result(uns_parent *parent, uns_message *message) {
  uv_mutex_lock(&parent->lock);
  uns_job *job = uns_table_take(&parent->calls, message->words.id);
  uv_mutex_unlock(&parent->lock);
  if (job == NULL) return UNS_OK;
  if (uns_frame_own(&message->packet) != UNS_OK) {
    uns_job_fail(job, "ENOMEM", "not enough memory for what %s returned", job->function->name);
  } else {
    uns_message_end_job(message, job);
    const struct uns_message_words *words = &message->words;
    if (words->count > 0) uns_job_note_progress(job, words->progress_done, words->progress_total);
  }
  uns_job_post(job);
  return UNS_OK;
}

/* ---- waiting ---- */

void uns_parent_lend(uns_runtime *runtime, bool waiting) {
  uns_parent *parent = runtime->owner;
  uint32_t said = atomic_load_explicit(&parent->board->waiting, memory_order_relaxed);
  if ((said % 2 == 1) == waiting) return;
  uv_mutex_lock(&parent->lock);
  parent->waits = waiting ? runtime->mailbox : NULL;
  uv_mutex_unlock(&parent->lock);
  atomic_store(&parent->board->waiting, said + 1);
  uns_parent_wake_supervisor(parent);
}

typedef struct limit_notice {
  uns_mail mail;
  uint32_t waiting, limit;
} limit_notice;

/* Too many wait: the wait fails, if it still is the same. */
static void on_limit_mail(uns_mail *mail, void *receiver) {
  limit_notice *notice = uns_container_of(mail, limit_notice, mail);
  uns_runtime *runtime = receiver;
  if (runtime != NULL) {
    const uns_parent *parent = runtime->owner;
    uint32_t said = atomic_load_explicit(&parent->board->waiting, memory_order_relaxed);
    if (said == notice->waiting || said == notice->waiting + 1) { /* this mail itself has woken it up */
      uns_task_limit_youngest(runtime, "limit: %d calls wait in worker processes already", (int)notice->limit);
    }
  }
  uns_free(notice);
}

int uns_parent_on_limit(uns_parent *parent, const struct uns_message_words *words) {
  limit_notice *notice = uns_malloc(sizeof *notice);
  if (notice == NULL) return UNS_ENOMEM;
  notice->mail.deliver = on_limit_mail;
  notice->waiting = (uint32_t)words->count;
  notice->limit = words->limit;
  uv_mutex_lock(&parent->lock);
  uns_mailbox *waits = parent->waits;
  if (waits != NULL) uns_mailbox_post(waits, &notice->mail);
  uv_mutex_unlock(&parent->lock);
  if (waits == NULL) uns_free(notice); /* it waits no more */
  return UNS_OK;
}

/* ---- silence ---- */

void uns_parent_tell_silence(uns_alive *alive) {
  const uns_parent *parent = atomic_load(&alive->owner);
  if (parent == NULL) return;
  atomic_fetch_add(&parent->board->silences, 1);
  uns_parent_wake_supervisor(parent);
}

void uns_parent_set_parties(uns_parent *parent, uns_parties *parties) {
  uv_mutex_lock(&parent->look_lock);
  parent->parties = parties;
  uv_mutex_unlock(&parent->look_lock);
}

/* Nothing of ours is being handled meanwhile, for that is this thread's, too. */
int uns_parent_on_ask(uns_parent *parent, uint64_t round) {
  uns_message message = {.words = {.kind = UNS_FRAME_QUIET, .id = round}};
  uns_packet packet;
  uns_packet_init(&packet);
  uns_quiet_cell *cells = uns_malloc(UNS_QUIET_EDGES_MAX * sizeof *cells);
  message.words.count = cells == NULL;
  uv_mutex_lock(&parent->look_lock);
  if (cells != NULL && parent->parties != NULL && uns_parties_freeze(parent->parties)) {
    uv_mutex_lock(&parent->lock);
    bool stopping = parent->running != NULL && atomic_load(&parent->running->cancel) != 0;
    uns_runtime *main = parent->running != NULL ? parent->running->runtime : NULL;
    uv_mutex_unlock(&parent->lock);
    uint32_t count = uns_parent_find_cells(parent, cells);
    if (!stopping && uns_quiet_describe(parent->parties, main, cells, count, &packet) == UNS_OK)
      message.words.first = 1;
    else message.words.count = !stopping;
    uns_parties_thaw(parent->parties);
    for (uint32_t i = 0; i < count; i++) uns_shared_unref(cells[i].cell);
  }
  uv_mutex_unlock(&parent->look_lock);
  uns_free(cells);
  int status = uns_parent_send(parent, &message, &packet);
  uns_packet_deinit(&packet);
  return status == UNS_ENOMEM ? UNS_ENOMEM : UNS_OK;
}

/* The state is known by a number that the host has from us. */
int uns_parent_on_deadlock(uns_parent *parent, const uns_message *message) {
  const struct uns_message_words *words = &message->words;
  int status = UNS_OK;
  uv_mutex_lock(&parent->look_lock);
  uns_parties *parties = parent->parties;
  if (parties != NULL) {
    uv_mutex_lock(&parties->lock);
    for (uns_link *link = parties->list.next; link != &parties->list; link = link->next) {
      uns_runtime *runtime = uns_container_of(link, uns_runtime, party.link);
      if ((uintptr_t)runtime == words->request)
        status = uns_deadlock_tell(runtime, words->id, (uint32_t)words->count, words->first != 0, message->texts[0]);
    }
    uv_mutex_unlock(&parties->lock);
  }
  uv_mutex_unlock(&parent->look_lock);
  return status;
}

/* Somebody wants to see what waits here, and for what. */
int uns_parent_on_why(uns_parent *parent, const struct uns_message_words *words) {
  const uns_job *job = NULL;
  const void *task = NULL;
  uv_mutex_lock(&parent->look_lock);
  uv_mutex_lock(&parent->lock);
  if (words->request != 0) {
    task = uns_parent_task_behind(parent, words->request);
  } else if (parent->running_sequence == words->sequence) {
    job = parent->running;
  }
  uv_mutex_unlock(&parent->lock);
  bool asked = (job != NULL || task != NULL) && parent->parties != NULL &&
               uns_why_pass_on(parent, parent->parties, words->id, job, task);
  uv_mutex_unlock(&parent->look_lock);
  if (asked) return UNS_OK;
  uns_message message = {.words = {.kind = UNS_FRAME_BECAUSE, .id = words->id}};
  return uns_parent_send(parent, &message, NULL) == UNS_ENOMEM ? UNS_ENOMEM : UNS_OK;
}

/* ---- the end ---- */

void uns_parent_calls_deinit(uns_parent *parent) {
  for (uint32_t i = 0; i < parent->calls.size; i++) {
    uns_job *job = parent->calls.entries[i].value;
    if (job == NULL) continue;
    uns_job_fail(job, "closed", "closed: the program is ending");
    uns_job_post(job);
  }
  uns_free(parent->calls.entries);
}
