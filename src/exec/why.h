/*
 * why: what a call waits for that runs in a child, for whoever wants to see it. The child says it itself.
 *
 * Who asks waits for a little, and is no supervisor. His question goes to the supervisor, from there to the child, whose
 * listening thread passes it on to the state that the call runs in; that answers in its next turn, so one that computes
 * does not. Children are asked nothing else by it, and what they answer is believed only as far as it goes: the lines are
 * shown, the end must be something that the host knows.
 * States of one's own process: look.h. The supervisor's thread: serve.c; the child's: parent.c.
 */
#ifndef UNS_WHY_H
#define UNS_WHY_H

#include "base/text.h"
#include "exec/executors.h"
#include "exec/frame.h"
#include "exec/look.h"
#include "loop/party.h"

struct uns_child;
struct uns_parent;

/*
 * Asks the child that runs the call behind `link`, or has the task behind it, for the lines of what that waits for: they are
 * added to `text`, and `link` is where that ends, with a reference to its cell, if it has one. Waits until `end_ns`, on
 * uns_clock_ns, at most. Any thread but the supervisor's.
 */
uns_look uns_why_ask(uns_executors *executors, uns_chain_link *link, uns_text *text, uint64_t end_ns);

/* What a child has answered. False: it makes no sense. Supervisor. */
bool uns_why_answer(struct uns_child *child, const uns_message *message);
/* The child is gone: nobody waits for its answers any more. Supervisor. */
void uns_why_forget(struct uns_child *child);

/*
 * A child's side: passes question `id` on to the states that may know: the one of `job`, or that of `task`, which are only
 * compared. False: there are none, or there is no memory. The thread that listens to the host.
 */
bool uns_why_pass_on(struct uns_parent *parent, uns_parties *parties, uint64_t id, const uns_job *job,
                     const void *task);

#endif
