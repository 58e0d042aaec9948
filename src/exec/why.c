#include "exec/why.h"

#include <limits.h>
#include <string.h>

#include "exec/parent_inside.h"
#include "exec/question.h"
#include "exec/silence.h"
#include "exec/worker_process.h"

/* ---- the host's side ---- */

typedef struct question {
  uns_question base;
  uns_link link;            /* in child->questions, until it is answered; the supervisor's */
  uint64_t id;              /* the same's */
  uns_executors *executors; /* borrowed: it outlives the supervisor */
  uns_cell *cell;           /* one reference, or NULL */
} question;

static question *question_of(uns_link *link) { return uns_container_of(link, question, link); }

static void question_free(uns_question *base) {
  question *asked = uns_container_of(base, question, base);
  uns_shared_unref(asked->cell);
  uns_free(asked);
}

static void on_question(uns_mail *mail, void *receiver);

/* NULL without memory. */
static question *question_new(uns_executors *executors, const uns_chain_link *link) {
  question *asked = uns_malloc(sizeof *asked);
  if (asked == NULL) return NULL;
  if (!uns_question_init(&asked->base, on_question, question_free)) {
    uns_free(asked);
    return NULL;
  }
  uns_list_init(&asked->link);
  asked->id = 0;
  asked->executors = executors;
  asked->base.job = link->kind == UNS_BEHIND_JOB ? link->job : NULL;
  asked->cell = link->kind == UNS_BEHIND_CELL ? uns_shared_ref(link->cell) : NULL;
  return asked;
}

/* The supervisor's last word on it. */
static void answer(question *asked, uns_look result) {
  uns_list_remove(&asked->link);
  uns_question_answer(&asked->base, result);
}

/* Whom to ask, and for what: the call with that number, or the cell. */
static uns_child *find_child(uns_process_pool *pool, const question *asked, struct uns_message_words *words) {
  uint32_t count = pool != NULL ? atomic_load_explicit(&pool->count, memory_order_relaxed) : 0;
  const uns_job *job = asked->cell != NULL ? asked->cell->job : asked->base.job;
  for (uint32_t i = 0; i < count; i++) {
    uns_child *child = pool->children[i];
    uv_mutex_lock(&child->lock);
    unsigned place = child->order[0];
    bool busy = child->state == UNS_CHILD_LIVE && child->in_flight > 0;
    bool runs = busy && job != NULL && child->jobs[place] == job;
    if (runs) words->sequence = child->sequences[place];
    uv_mutex_unlock(&child->lock);
    if (busy && job == NULL && asked->cell != NULL) {
      words->request = uns_exports_made_there(child, asked->cell);
      runs = words->request != 0;
    }
    if (runs) return child;
  }
  return NULL;
}

/* Those that nobody waits for any more: the child has computed for too long. */
static void sweep_questions(uns_child *child) {
  for (uns_link *link = child->questions.next, *next; link != &child->questions; link = next) {
    next = link->next;
    question *asked = question_of(link);
    if (!uns_question_is_idle(&asked->base)) continue;
    uns_list_remove(link);
    uns_question_drop(&asked->base);
  }
}

static void on_question(uns_mail *mail, void *receiver) {
  question *asked = uns_container_of(uns_container_of(mail, uns_question, mail), question, base);
  uns_message message = {.words = {.kind = UNS_FRAME_WHY}};
  uns_child *child = NULL;
  if (receiver != NULL) child = find_child(uns_silence_pool(asked->executors->silence), asked, &message.words);
  if (child == NULL) {
    answer(asked, UNS_LOOK_NOBODY);
    return;
  }
  sweep_questions(child);
  asked->id = message.words.id = ++child->last_question;
  uns_list_push_back(&child->questions, &asked->link);
  if (uns_service_send(child, &message, NULL) != UNS_OK) answer(asked, UNS_LOOK_SILENT);
}

bool uns_why_answer(uns_child *child, const uns_message *message) {
  const struct uns_message_words *words = &message->words;
  if (words->first && (message->texts[0] == NULL || words->state > UNS_BEHIND_CELL)) return false;
  if (words->id == 0 || words->id > child->last_question) return false;
  for (uns_link *link = child->questions.next; link != &child->questions; link = link->next) {
    question *asked = question_of(link);
    if (asked->id != words->id) continue;
    if (words->first) {
      uns_chain_link *end = &asked->base.end;
      uns_text_add(&asked->base.text, "%s", message->texts[0]);
      end->kind = UNS_BEHIND_NOBODY;
      if (words->state == UNS_BEHIND_JOB) end->job = (uns_job *)uns_service_nested(child, words->count);
      if (words->state == UNS_BEHIND_CELL) end->cell = uns_exports_find(child, words->count);
      if (end->job != NULL) end->kind = UNS_BEHIND_JOB;
      if (end->cell != NULL) end->kind = UNS_BEHIND_CELL;
    }
    answer(asked, words->first ? UNS_LOOK_KNOWS : UNS_LOOK_NOBODY);
    return true;
  }
  return true; /* who asked waits no more */
}

void uns_why_forget(uns_child *child) {
  while (!uns_list_empty(&child->questions)) answer(question_of(child->questions.next), UNS_LOOK_NOBODY);
}

uns_look uns_why_ask(uns_executors *executors, uns_chain_link *link, uns_text *text, uint64_t end_ns) {
  uv_mutex_lock(&executors->lock);
  const uns_process_pool *pool = executors->processes;
  uns_supervisor *supervisor = executors->supervisor;
  uv_mutex_unlock(&executors->lock);
  if (pool == NULL || pool->parent != NULL || supervisor == NULL) return UNS_LOOK_NOBODY;
  question *asked = question_new(executors, link);
  if (asked == NULL) return UNS_LOOK_NOBODY;
  uns_mailbox_post(uns_supervisor_mailbox(supervisor), &asked->base.mail);
  return uns_question_hear(&asked->base, end_ns, link, text);
}

/* ---- the child's side ---- */

/* The question on its way to one state. */
typedef struct {
  uns_mail mail;
  uns_parent *parent; /* borrowed: it outlives the states */
  uint64_t id;
  const uns_job *job;
  const void *task;
} errand;

/* On the state's own thread. Without a word where it is the task of another: that says it. */
static void on_errand(uns_mail *mail, void *receiver) {
  errand *sent = uns_container_of(mail, errand, mail);
  uns_chain_link end;
  uns_text text = {0};
  bool knows = receiver != NULL && uns_look_describe(receiver, sent->job, sent->task, &text, &end);
  if (knows || sent->job != NULL) {
    uns_message message = {.words = {.kind = UNS_FRAME_BECAUSE, .id = sent->id, .first = knows}};
    if (knows) {
      message.texts[0] = text.bytes != NULL ? text.bytes : "?";
      message.words.state = end.kind;
      if (end.kind == UNS_BEHIND_JOB) message.words.count = end.job->id;
      if (end.kind == UNS_BEHIND_CELL) message.words.count = end.cell->remote_id;
    }
    uns_parent_send(sent->parent, &message, NULL); /* if not, the host hears nothing, and goes on */
  }
  uns_free(text.bytes);
  uns_free(sent);
}

bool uns_why_pass_on(uns_parent *parent, uns_parties *parties, uint64_t id, const uns_job *job, const void *task) {
  bool any = false;
  uv_mutex_lock(&parties->lock);
  for (uns_link *at = parties->list.next; at != &parties->list; at = at->next) {
    uns_runtime *runtime = uns_container_of(at, uns_runtime, party.link);
    if (!atomic_load(&runtime->party.at_work) || (job != NULL && atomic_load(&runtime->party.call) != job)) continue;
    errand *sent = uns_malloc(sizeof *sent);
    if (sent == NULL) break;
    *sent = (errand){.mail.deliver = on_errand, .parent = parent, .id = id, .job = job, .task = task};
    uns_mailbox_post(runtime->mailbox, &sent->mail);
    any = true;
  }
  uv_mutex_unlock(&parties->lock);
  return any;
}
