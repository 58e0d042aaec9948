/*
 * question: what one state wants to know of another's waits, and waits a little to hear.
 *
 *   - Counted, one for each side: whoever asked may be gone when the answer comes.
 *   - Until it is answered, all but the lock and what it guards is the other side's; from then on it is the asker's.
 * Asked of states of this process: look.c. Of those in a child: why.c.
 */
#ifndef UNS_QUESTION_H
#define UNS_QUESTION_H

#include "base/text.h"
#include "core/mailbox.h"
#include "exec/look.h"
#include "loop/chain.h"

typedef struct uns_question {
  uns_mail mail; /* on its way there */
  atomic_uint count;
  void (*free)(struct uns_question *question); /* with what else it has; called when both have let go */
  const uns_job *job;                          /* to be compared only; or NULL */
  uns_text text;                               /* owned */
  uns_chain_link end;                          /* to be compared only, but for a cell, of which it has a reference */
  uv_mutex_t lock;                             /* guards what follows */
  uv_cond_t answered;
  bool is_answered;
  uns_look result;
} uns_question;

/* Zeroes it, with a reference for each side. False: it could not be made, and nothing is to be freed. */
bool uns_question_init(uns_question *question, void (*deliver)(uns_mail *mail, void *receiver),
                       void (*free)(uns_question *question));
/* The other side's last word: its reference is gone. */
void uns_question_answer(uns_question *question, uns_look result);
/* Waits for the answer until `end_ns`, on uns_clock_ns; the asker's reference is gone. Where it is known, adds the text to
   `text`, and sets `link`, with a reference to its cell. */
uns_look uns_question_hear(uns_question *question, uint64_t end_ns, uns_chain_link *link, uns_text *text);
/* True: nobody waits for the answer any more. */
bool uns_question_is_idle(const uns_question *question);
/* Lets go without a word. */
void uns_question_drop(uns_question *question);

#endif
