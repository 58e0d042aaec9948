#include "core/mailbox.h"

#include <errno.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/base.h"

enum { RESTING = 2 }; /* `asleep` */

static uns_mail closed_mark; /* `head` of a closed mailbox */

uns_mailbox *uns_mailbox_new(void) {
  uns_mailbox *mailbox = uns_malloc(sizeof *mailbox);
  if (mailbox == NULL) {
    errno = ENOMEM;
    return NULL;
  }
  mailbox->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (mailbox->fd < 0) {
    uns_free(mailbox);
    return NULL;
  }
  atomic_init(&mailbox->head, NULL);
  atomic_init(&mailbox->asleep, 0);
  atomic_init(&mailbox->count, 1);
  mailbox->alive = NULL;
  return mailbox;
}

uns_mailbox *uns_mailbox_ref(uns_mailbox *mailbox) {
  atomic_fetch_add_explicit(&mailbox->count, 1, memory_order_relaxed);
  return mailbox;
}

void uns_mailbox_unref(uns_mailbox *mailbox) {
  if (mailbox == NULL) return;
  if (atomic_fetch_sub_explicit(&mailbox->count, 1, memory_order_acq_rel) == 1) {
    close(mailbox->fd);
    uns_free(mailbox);
  }
}

void uns_mailbox_wake_at(int fd) {
  uint64_t one = 1;
  int saved = errno;
  while (write(fd, &one, sizeof one) < 0 && errno == EINTR) continue; /* EAGAIN: it is awake for sure */
  errno = saved;
}

void uns_mailbox_wake(uns_mailbox *mailbox) { uns_mailbox_wake_at(mailbox->fd); }

void uns_mailbox_post(uns_mailbox *mailbox, uns_mail *mail) {
  uns_mail *head = atomic_load_explicit(&mailbox->head, memory_order_relaxed);
  do {
    if (head == &closed_mark) {
      mail->deliver(mail, NULL);
      return;
    }
    mail->next = head;
    /* seq_cst: this store and the load of `asleep` below must not change places */
  } while (!atomic_compare_exchange_weak(&mailbox->head, &head, mail));
  if (!atomic_load(&mailbox->asleep)) return;
  int was = atomic_exchange(&mailbox->asleep, 0);
  if (was == RESTING) uns_alive_enter(mailbox->alive); /* before the poster himself may leave */
  if (was != 0) uns_mailbox_wake(mailbox);
}

static uns_mail *reversed(uns_mail *mail) {
  uns_mail *first = NULL;
  while (mail != NULL) {
    uns_mail *next = mail->next;
    mail->next = first;
    first = mail;
    mail = next;
  }
  return first;
}

uns_mail *uns_mailbox_take(uns_mailbox *mailbox) {
  if (!uns_mailbox_has_mail(mailbox)) return NULL;
  return reversed(atomic_exchange_explicit(&mailbox->head, NULL, memory_order_acquire));
}

bool uns_mailbox_fall_asleep(uns_mailbox *mailbox) {
  atomic_store(&mailbox->asleep, 1);
  if (atomic_load(&mailbox->head) == NULL) return true;
  atomic_store(&mailbox->asleep, 0);
  return false;
}

void uns_mailbox_awake(uns_mailbox *mailbox) {
  if (atomic_load_explicit(&mailbox->asleep, memory_order_relaxed) == 0) return;
  if (atomic_exchange(&mailbox->asleep, 0) == RESTING) uns_alive_enter(mailbox->alive);
}

void uns_mailbox_rest(uns_mailbox *mailbox) {
  int asleep = 1;
  if (atomic_compare_exchange_strong(&mailbox->asleep, &asleep, RESTING)) uns_alive_leave(mailbox->alive);
}

void uns_mailbox_close(uns_mailbox *mailbox) {
  uns_mail *mail = reversed(atomic_exchange(&mailbox->head, &closed_mark));
  while (mail != NULL) {
    uns_mail *next = mail->next;
    mail->deliver(mail, NULL);
    mail = next;
  }
}
