#include "exec/question.h"

#include <string.h>

bool uns_question_init(uns_question *question, void (*deliver)(uns_mail *mail, void *receiver),
                       void (*free)(uns_question *question)) {
  memset(question, 0, sizeof *question);
  if (uv_mutex_init(&question->lock) != 0) return false;
  if (uv_cond_init(&question->answered) != 0) {
    uv_mutex_destroy(&question->lock);
    return false;
  }
  atomic_init(&question->count, 2);
  question->mail.deliver = deliver;
  question->free = free;
  return true;
}

void uns_question_drop(uns_question *question) {
  if (atomic_fetch_sub(&question->count, 1) > 1) return;
  uns_shared_unref(question->end.cell);
  uns_free(question->text.bytes);
  uv_cond_destroy(&question->answered);
  uv_mutex_destroy(&question->lock);
  question->free(question);
}

void uns_question_answer(uns_question *question, uns_look result) {
  uv_mutex_lock(&question->lock);
  question->result = result;
  question->is_answered = true;
  uv_cond_signal(&question->answered);
  uv_mutex_unlock(&question->lock);
  uns_question_drop(question);
}

uns_look uns_question_hear(uns_question *question, uint64_t end_ns, uns_chain_link *link, uns_text *text) {
  uint64_t now_ns;
  uv_mutex_lock(&question->lock);
  while (!question->is_answered && (now_ns = uns_clock_ns()) < end_ns)
    uv_cond_timedwait(&question->answered, &question->lock, end_ns - now_ns);
  uns_look result = question->is_answered ? question->result : UNS_LOOK_SILENT;
  uv_mutex_unlock(&question->lock);
  if (result == UNS_LOOK_KNOWS) {
    *link = question->end;
    if (link->cell != NULL) uns_shared_ref(link->cell);
    uns_text_add(text, "%s", question->text.bytes != NULL ? question->text.bytes : "?");
  }
  uns_question_drop(question);
  return result;
}

bool uns_question_is_idle(const uns_question *question) { return atomic_load(&question->count) == 1; }
