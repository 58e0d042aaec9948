/*
 * mailbox: news on its way home, from any thread to the thread of one loop.
 *
 * Posting pushes onto a lock-free list; the owner takes the whole list at once, in order.
 *   - One wake-up may stand for many posts: drain until empty, never one per wake-up.
 *   - A post cannot fail: its node lives in what it carries, allocated before the work began.
 *   - The eventfd is written only where the owner said that it sleeps, so a busy owner costs no system call.
 *   - After `close` a post is delivered to nobody: `deliver(mail, NULL)` runs in the posting thread and frees.
 * Counted: whoever may post holds a reference.
 */
#ifndef UNS_MAILBOX_H
#define UNS_MAILBOX_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "core/alive.h"

typedef struct uns_mail {
  struct uns_mail *next;
  /* Runs on the owner's thread with the owner's runtime, or with NULL in any thread once the mailbox is closed. */
  void (*deliver)(struct uns_mail *mail, void *runtime);
} uns_mail;

typedef struct uns_mailbox {
  _Atomic(uns_mail *) head; /* newest first; release by posters, acquire by the owner */
  atomic_int asleep;        /* 1: the owner waits in the kernel, or is about to; pairs with `head` (seq_cst).
                               2: and does not count in `alive`; whoever changes that counts it in */
  atomic_uint count;
  uns_alive *alive; /* the owner counts in it; borrowed while he may sleep; NULL: in none */
  int fd; /* eventfd, non-blocking, close-on-exec; other processes may hold a copy and write to it */
} uns_mailbox;

/* One reference, owned by the caller; NULL with errno set. */
uns_mailbox *uns_mailbox_new(void);
uns_mailbox *uns_mailbox_ref(uns_mailbox *mailbox);
void uns_mailbox_unref(uns_mailbox *mailbox);

/* Any thread. */
void uns_mailbox_post(uns_mailbox *mailbox, uns_mail *mail);
/* Writes the eventfd, whether the owner sleeps or not. Any thread, async-signal-safe. */
void uns_mailbox_wake(uns_mailbox *mailbox);
/* The same for a mailbox of another process, of which `fd` is a copy of the eventfd. */
void uns_mailbox_wake_at(int fd);

/* Owner only. All that was posted, oldest first, linked by `next`; NULL if nothing. */
uns_mail *uns_mailbox_take(uns_mailbox *mailbox);
static inline bool uns_mailbox_has_mail(uns_mailbox *mailbox) {
  return atomic_load_explicit(&mailbox->head, memory_order_acquire) != NULL;
}
/* Before sleeping: true if the owner may sleep (nothing was posted); after waking up, `awake`. Owner only. */
bool uns_mailbox_fall_asleep(uns_mailbox *mailbox);
void uns_mailbox_awake(uns_mailbox *mailbox);
/* Between the two: the owner has nothing to hope for but mail, and does not count as alive until he is woken. */
void uns_mailbox_rest(uns_mailbox *mailbox);
/* Owner only: delivers what is there to `runtime`'s drain no more; later posts are delivered to NULL at once. */
void uns_mailbox_close(uns_mailbox *mailbox);

#endif
