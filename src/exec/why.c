#include "exec/why.h"

#include <limits.h>
#include <string.h>

#include "exec/parent_inside.h"
#include "exec/silence.h"
#include "exec/worker_process.h"

/* ---- the host's side ---- */

/* A question on its way, and its answer. Counted: whoever asked may be gone when it is answered. */
typedef struct question {
  uns_mail mail;
  uns_link link; /* in child->questions, until it is answered; the supervisor's */
  uint64_t id;   /* the same's */
  atomic_uint count;
  uns_executors *executors; /* borrowed: it outlives the supervisor */
  const uns_job *job;       /* to be compared only; or NULL */
  uns_cell *cell;           /* one reference, or NULL */
  uv_mutex_t lock;          /* guards what follows */
  uv_cond_t answered;
  bool is_answered;
  uns_look result;
  uns_text text;      /* owned */
  uns_chain_link end; /* with a reference to its cell */
} question;

static void drop(question *asked) {
  if (atomic_fetch_sub(&asked->count, 1) > 1) return;
  uns_shared_unref(asked->end.cell);
  uns_shared_unref(asked->cell);
  uns_free(asked->text.bytes);
  uv_cond_destroy(&asked->answered);
  uv_mutex_destroy(&asked->lock);
  uns_free(asked);
}

static question *question_new(uns_executors *executors, const uns_chain_link *link) {
  question *asked = uns_calloc(1, sizeof *asked);
  if (asked == NULL) return NULL;
  if (uv_mutex_init(&asked->lock) != 0) goto no_lock;
  if (uv_cond_init(&asked->answered) != 0) goto no_cond;
  atomic_init(&asked->count, 2);
  uns_list_init(&asked->link);
  asked->executors = executors;
  if (link->kind == UNS_BEHIND_JOB) asked->job = link->job;
  if (link->kind == UNS_BEHIND_CELL) asked->cell = uns_shared_ref(link->cell);
  return asked;
no_cond:
  uv_mutex_destroy(&asked->lock);
no_lock:
  uns_free(asked);
  return NULL;
}

/* The supervisor's last word on it. */
static void answer(question *asked, uns_look result) {
  uns_list_remove(&asked->link);
  uv_mutex_lock(&asked->lock);
  asked->result = result;
  asked->is_answered = true;
  uv_cond_signal(&asked->answered);
  uv_mutex_unlock(&asked->lock);
  drop(asked);
}

/* Whom to ask, and for what: the call with that number, or the cell. */
static uns_child *find_child(uns_process_pool *pool, const question *asked, struct uns_message_words *words) {
  uint32_t count = pool != NULL ? atomic_load_explicit(&pool->count, memory_order_relaxed) : 0;
  const uns_job *job = asked->cell != NULL ? asked->cell->job : asked->job;
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
    question *asked = uns_container_of(link, question, link);
    if (atomic_load(&asked->count) > 1) continue;
    uns_list_remove(link);
    drop(asked);
  }
}

static void on_question(uns_mail *mail, void *receiver) {
  question *asked = uns_container_of(mail, question, mail);
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
    question *asked = uns_container_of(link, question, link);
    if (asked->id != words->id) continue;
    if (words->first) {
      uv_mutex_lock(&asked->lock);
      uns_text_add(&asked->text, "%s", message->texts[0]);
      asked->end.kind = UNS_BEHIND_NOBODY;
      if (words->state == UNS_BEHIND_JOB) asked->end.job = (uns_job *)uns_service_nested(child, words->count);
      if (words->state == UNS_BEHIND_CELL) asked->end.cell = uns_exports_find(child, words->count);
      if (asked->end.job != NULL) asked->end.kind = UNS_BEHIND_JOB;
      if (asked->end.cell != NULL) asked->end.kind = UNS_BEHIND_CELL;
      uv_mutex_unlock(&asked->lock);
    }
    answer(asked, words->first ? UNS_LOOK_KNOWS : UNS_LOOK_NOBODY);
    return true;
  }
  return true; /* who asked waits no more */
}

void uns_why_forget(uns_child *child) {
  while (!uns_list_empty(&child->questions))
    answer(uns_container_of(child->questions.next, question, link), UNS_LOOK_NOBODY);
}

uns_look uns_why_ask(uns_executors *executors, uns_chain_link *link, uns_text *text, uint64_t end_ns) {
  uv_mutex_lock(&executors->lock);
  const uns_process_pool *pool = executors->processes;
  uns_supervisor *supervisor = executors->supervisor;
  uv_mutex_unlock(&executors->lock);
  if (pool == NULL || pool->parent != NULL || supervisor == NULL) return UNS_LOOK_NOBODY;
  question *asked = question_new(executors, link);
  if (asked == NULL) return UNS_LOOK_NOBODY;
  asked->mail.deliver = on_question;
  uns_mailbox_post(uns_supervisor_mailbox(supervisor), &asked->mail);
  uint64_t now_ns;
  uv_mutex_lock(&asked->lock);
  while (!asked->is_answered && (now_ns = uns_clock_ns()) < end_ns)
    uv_cond_timedwait(&asked->answered, &asked->lock, end_ns - now_ns);
  uns_look result = asked->is_answered ? asked->result : UNS_LOOK_SILENT;
  if (result == UNS_LOOK_KNOWS) {
    *link = asked->end;
    if (link->cell != NULL) uns_shared_ref(link->cell);
    uns_text_add(text, "%s", asked->text.bytes != NULL ? asked->text.bytes : "?");
  }
  uv_mutex_unlock(&asked->lock);
  drop(asked);
  return result;
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
