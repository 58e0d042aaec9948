#include "exec/look.h"

#include <stdio.h>
#include <string.h>

#include "exec/pool.h"
#include "exec/process.h"
#include "exec/question.h"
#include "exec/why.h"
#include "loop/deadlock.h"

static const uint64_t PATIENCE_NS = 100000000; /* for the answer of a state that may be busy */

/* ---- workers ---- */

typedef struct {
  uns_worker_info *list; /* owned */
  size_t count, room;
  bool lost;
} infos;

static void keep(void *context, const uns_worker_info *worker) {
  infos *all = context;
  if (all->count == all->room) {
    size_t room = all->room == 0 ? 16 : all->room * 2;
    uns_worker_info *list = uns_realloc(all->list, room * sizeof *list);
    if (list == NULL) {
      all->lost = true;
      return;
    }
    all->list = list;
    all->room = room;
  }
  all->list[all->count++] = *worker;
}

static void gather(uns_executors *executors, infos *all, uns_queue_depths *depths) {
  uv_mutex_lock(&executors->lock);
  uns_pool *pool = executors->pool;
  uns_process_pool *processes = executors->processes;
  uv_mutex_unlock(&executors->lock);
  *depths = (uns_queue_depths){0, 0};
  if (pool != NULL) depths->threads = uns_pool_look(pool, keep, all);
  if (processes != NULL) depths->processes = uns_process_pool_look(processes, keep, all);
}

bool uns_look_at_workers(uns_executors *executors, void (*visit)(void *, const uns_worker_info *), void *context,
                         uns_queue_depths *depths) {
  infos all = {.list = NULL};
  gather(executors, &all, depths);
  for (size_t i = 0; i < all.count; i++) visit(context, &all.list[i]);
  uns_free(all.list);
  return !all.lost;
}

void uns_look_for_call(uns_executors *executors, const uns_job *job, uns_worker_info *found) {
  uv_mutex_lock(&executors->lock);
  uns_pool *pool = executors->pool;
  uns_process_pool *processes = executors->processes;
  uv_mutex_unlock(&executors->lock);
  *found = (uns_worker_info){.state = "queued"};
  if (job->function->kind == UNS_KIND_CPU && processes != NULL) uns_process_pool_look_for(processes, job, found);
  if (job->function->kind == UNS_KIND_THREAD && pool != NULL) uns_pool_look_for(pool, job, found);
}

/* ---- other states ---- */

typedef struct question {
  uns_question base;
  const void *task; /* to be compared only; or NULL */
} question;

static void question_free(uns_question *base) { uns_free(uns_container_of(base, question, base)); }

/* The task that is asked for, where it is of this state. */
static uns_task *find_task(const uns_runtime *runtime, const uns_job *job, const void *task) {
  if (job != NULL) return runtime->job == job ? uns_chain_root(runtime) : NULL;
  for (uns_link *link = runtime->tasks.next; link != &runtime->tasks; link = link->next) {
    if (uns_container_of(link, uns_task, live_link) == task) return uns_container_of(link, uns_task, live_link);
  }
  return NULL;
}

/* Adds the chain from `task` on; where it ends. */
static uns_chain_link describe(uns_text *text, uns_task *task) {
  uns_chain_link end = {.kind = UNS_BEHIND_NOBODY};
  if (task->state != UNS_TASK_PARKED) {
    uns_chain_add_task(text, task);
    uns_text_add(text, " goes on");
    return end;
  }
  uns_chain_add_all(text, task);
  uns_chain_follow(task, false, &end);
  return end;
}

bool uns_look_describe(uns_runtime *runtime, const uns_job *job, const void *task, uns_text *text,
                       uns_chain_link *end) {
  uns_task *found = find_task(runtime, job, task);
  if (found != NULL) *end = describe(text, found);
  return found != NULL;
}

static void on_question(uns_mail *mail, void *receiver) {
  uns_question *base = uns_container_of(mail, uns_question, mail);
  const question *asked = uns_container_of(base, question, base);
  bool knows = receiver != NULL && uns_look_describe(receiver, base->job, asked->task, &base->text, &base->end);
  if (base->end.cell != NULL) uns_shared_ref(base->end.cell);
  uns_question_answer(base, knows ? UNS_LOOK_KNOWS : UNS_LOOK_NOBODY);
}

/* NULL without memory. */
static uns_question *question_new(const uns_chain_link *link) {
  question *asked = uns_malloc(sizeof *asked);
  if (asked == NULL) return NULL;
  if (!uns_question_init(&asked->base, on_question, question_free)) {
    uns_free(asked);
    return NULL;
  }
  asked->base.job = link->kind == UNS_BEHIND_JOB ? link->job : link->cell->job;
  asked->task = link->kind == UNS_BEHIND_CELL ? link->cell->task : NULL;
  return &asked->base;
}

/* The mailbox of the `number`-th state that may know, with a reference, or NULL: there are no more. Not our own. */
static uns_mailbox *nth_mailbox(const uns_runtime *runtime, const uns_chain_link *link, size_t number) {
  const uns_job *job = link->kind == UNS_BEHIND_JOB ? link->job : link->cell->job;
  uns_parties *parties = runtime->party.parties;
  uns_mailbox *found = NULL;
  uv_mutex_lock(&parties->lock);
  for (uns_link *at = parties->list.next; at != &parties->list && found == NULL; at = at->next) {
    const uns_runtime *other = uns_container_of(at, uns_runtime, party.link);
    if (other == runtime || !atomic_load(&other->party.at_work)) continue;
    if (job != NULL && atomic_load(&other->party.call) != job) continue;
    if (number-- == 0) found = uns_mailbox_ref(other->mailbox);
  }
  uv_mutex_unlock(&parties->lock);
  return found;
}

/* Asks the states of this process. */
static uns_look ask_states(uns_runtime *runtime, uns_chain_link *link, uns_text *text, uint64_t end_ns) {
  uns_mailbox *mailbox;
  bool silent = false;
  for (size_t i = 0; (mailbox = nth_mailbox(runtime, link, i)) != NULL; i++) {
    uns_question *asked = question_new(link);
    if (asked != NULL) uns_mailbox_post(mailbox, &asked->mail);
    uns_mailbox_unref(mailbox);
    if (asked == NULL) break;
    uns_look result = uns_question_hear(asked, end_ns, link, text);
    if (result == UNS_LOOK_KNOWS) return result;
    silent |= result == UNS_LOOK_SILENT;
  }
  return silent ? UNS_LOOK_SILENT : UNS_LOOK_NOBODY;
}

uns_look uns_look_behind(uns_runtime *runtime, uns_chain_link *link, uns_text *text) {
  if (runtime->party.parties == NULL || (link->kind != UNS_BEHIND_JOB && link->kind != UNS_BEHIND_CELL))
    return UNS_LOOK_NOBODY;
  uns_cell *cell = link->cell;
  uns_task *own = link->kind == UNS_BEHIND_CELL && cell->task != NULL ? find_task(runtime, NULL, cell->task) : NULL;
  if (own != NULL) {
    *link = describe(text, own);
    if (link->cell != NULL) uns_shared_ref(link->cell);
    uns_shared_unref(cell);
    return UNS_LOOK_KNOWS;
  }
  uint64_t end_ns = uns_clock_ns() + PATIENCE_NS;
  uns_look result = UNS_LOOK_NOBODY;
  if (link->kind == UNS_BEHIND_JOB || cell->task != NULL || cell->job != NULL)
    result = ask_states(runtime, link, text, end_ns);
  if (result == UNS_LOOK_NOBODY) result = uns_why_ask(runtime->executors, link, text, end_ns);
  if (result == UNS_LOOK_KNOWS) uns_shared_unref(cell);
  return result;
}
