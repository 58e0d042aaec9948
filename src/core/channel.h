/*
 * channel: a bounded queue between threads, and, through stand-ins, between processes: send, receive, close.
 *
 * What a channel of a state (loop/channel.h) becomes when it first crosses.
 *   - `lock` guards the items and both lines. Under it an item is given to the first in line, whatever state that is of:
 *     first come, first served. The news travels as a mail, posted when the lock is free again.
 *   - Senders wait only where it is full, receivers only where it is empty.
 *   - What a wait was given lies in the wait itself: whoever ends it finds it there, whether the mail has come or not, and
 *     takes it or puts it back in front. Putting back needs no memory.
 *   - In a worker process a channel stands for one of the host's, which decides: exec/channels.c.
 *   - A worker process may be lent the first items before it asks. They stay in the channel, and count in it, until the process
 *     has claimed them, or another receiver, whose turn they are as much, has recalled them: a race by CAS on a word that
 *     both share. Where a receiver stands in line, none is lent.
 * Values to items and back: loop/channel_shared.c.
 */
#ifndef UNS_CORE_CHANNEL_H
#define UNS_CORE_CHANNEL_H

#include <pthread.h>

#include "base/base.h"
#include "core/mailbox.h"
#include "core/packet.h"

/* One value. What is small needs no packet. */
typedef enum {
  UNS_SENT_NIL,
  UNS_SENT_FALSE,
  UNS_SENT_TRUE,
  UNS_SENT_INTEGER,
  UNS_SENT_NUMBER,
  UNS_SENT_BYTES, /* a string */
  UNS_SENT_PACKET /* of one value */
} uns_channel_item_kind;

enum { UNS_SENT_BYTES_MAX = sizeof(uns_packet) };

typedef struct uns_channel_item {
  uint8_t kind; /* uns_channel_item_kind */
  uint8_t size; /* of the bytes */
  union {
    int64_t integer;
    double number;
    char bytes[UNS_SENT_BYTES_MAX];
    uns_packet packet; /* owned */
  } as;
} uns_channel_item;

typedef enum {
  UNS_CHANNEL_DONE,
  UNS_CHANNEL_WAIT,   /* full, or empty: nothing was done */
  UNS_CHANNEL_CLOSED, /* for receivers: and empty */
  UNS_CHANNEL_NO_MEMORY
} uns_channel_result;

/* What a wait was told. */
typedef enum {
  UNS_WAIT_NOTHING,
  UNS_WAIT_GIVEN, /* the item, or room: what a sender had has gone */
  UNS_WAIT_CLOSED,
  UNS_WAIT_RETRY /* of a choice: something is ready that was not when it was looked at: look again */
} uns_wait_told;

/* What has become of an item that was lent. A claim is the loan's number times four, plus one of these. */
typedef enum { UNS_LOAN_NONE, UNS_LOAN_GIVEN, UNS_LOAN_TAKEN, UNS_LOAN_RECALLED } uns_loan_state;

/* At the lender's end. */
typedef struct uns_channel_loan {
  struct uns_channel_loan *next_gone;
  uns_link link;          /* in channel->loans; guarded by the channel's lock, as what has no comment */
  atomic_uint count;      /* the channel's reference and the lender's */
  atomic_int state;       /* uns_loan_state: for the lender to look at */
  uns_channel_item item;  /* a packet without references */
  uint64_t number;
  _Atomic uint64_t *claim;  /* borrowed; NULL: it is lent no more */
  _Atomic uint32_t *wanted; /* borrowed. 1: whoever claims something shall wake the lender; pairs with `claim` (seq_cst) */
} uns_channel_loan;

/* At the other end: an item that may be taken, if its claim succeeds. */
typedef struct uns_channel_ahead {
  uns_link link; /* in channel->ahead; guarded by the channel's lock */
  uns_channel_item item;
  uint64_t number;
  uint32_t slot; /* of the claim */
} uns_channel_ahead;

typedef struct uns_shared_channel uns_shared_channel;
typedef struct uns_channel_wait uns_channel_wait;
typedef struct uns_channel_remote uns_channel_remote;

/* How things stand. */
typedef struct uns_channel_state {
  size_t capacity, count, senders, receivers; /* of waits, those in line */
  bool closed;
} uns_channel_state;

/* Several waits of which one shall be served: whoever serves one takes the choice first. Counted. */
typedef struct uns_choice {
  atomic_uint count;
  atomic_bool taken;
  uns_channel_remote *remote; /* borrowed; NULL: all of its waits are at channels of this process */
  uint64_t group;             /* their number there; 0: none is there yet */
  bool left;                  /* the host knows that it is over */
} uns_choice;

/* One reference; NULL without memory. Any thread, as the following. */
uns_choice *uns_choice_new(void);
uns_choice *uns_choice_ref(uns_choice *choice);
/* NULL is allowed. */
void uns_choice_unref(uns_choice *choice);
/* True for the one who may serve, or give up, the choice. Not under a channel's lock: it may have to ask the host. */
bool uns_choice_take(uns_choice *choice);

/* In line at a channel. Made, begun and ended by one thread, its owner's. */
struct uns_channel_wait {
  uns_mail mail;               /* first. Its `deliver` is the owner's, and ends with uns_channel_wait_unref */
  uns_link link;               /* in a line, or among what was put back; guarded by the channel's lock */
  uns_shared_channel *channel; /* one reference; NULL once put back */
  uns_mailbox *mailbox;        /* borrowed until it has ended */
  uns_choice *choice;          /* one reference, or NULL */
  atomic_uint count;           /* the owner's reference, and that of the mail on its way */
  uint8_t told;                /* uns_wait_told; guarded by the lock until the owner has heard */
  bool sends;
  uint64_t order;  /* counted up by the channel as it gives: in this order it goes back */
  uint64_t number; /* at a stand-in: its number in the host; 0: none yet */
  uns_channel_item item;
  void *owner; /* the owner's own */
};

/* The way to the channel in the host's process: exec/parent.c. All of it on any thread. */
struct uns_channel_remote {
  /* A new channel in the host, with a stand-in here: one reference, or NULL. */
  uns_shared_channel *(*make)(uns_channel_remote *remote, size_t capacity, bool closed);
  /* Asks, and waits for the answer: see the functions of the same names. */
  uns_channel_result (*send)(uns_channel_remote *remote, uns_shared_channel *channel, uns_channel_item *item);
  uns_channel_result (*receive)(uns_channel_remote *remote, uns_shared_channel *channel, uns_channel_item *item);
  uns_channel_result (*append)(uns_channel_remote *remote, uns_shared_channel *channel, uns_channel_item *item);
  uns_channel_result (*put_back)(uns_channel_remote *remote, uns_shared_channel *channel, uns_channel_item *item);
  void (*close)(uns_channel_remote *remote, uns_shared_channel *channel);
  void (*look)(uns_channel_remote *remote, uns_shared_channel *channel, uns_channel_state *state);
  /* Puts it in line there. */
  uns_channel_result (*begin)(uns_channel_remote *remote, uns_channel_wait *wait);
  /* Out of line. */
  void (*end)(uns_channel_remote *remote, uns_channel_wait *wait);
  /* The item that it was given has arrived for good. */
  void (*took)(uns_channel_remote *remote, uns_channel_wait *wait);
  /* It is to go back in front. */
  void (*give_back)(uns_channel_remote *remote, uns_channel_wait *wait);
  /* Takes all waits of the group out of line, unless one of them was told something: false. */
  bool (*withdraw)(uns_channel_remote *remote, uint64_t group);
  /* The group is over: it need not be remembered. */
  void (*forget)(uns_channel_remote *remote, uint64_t group);
  /* True: the item lent under that number is taken, for good. */
  bool (*claim)(uns_channel_remote *remote, uint32_t slot, uint64_t number);
  /* The last reference to the stand-in is gone. */
  void (*drop)(uns_channel_remote *remote, uns_shared_channel *channel);
};

struct uns_shared_channel {
  uns_shared base;
  pthread_mutex_t lock; /* spins a little before it sleeps: it is held for a few dozen instructions */
  size_t capacity;
  bool closed;
  uns_channel_item *items; /* a ring; owned */
  size_t first, count, size;
  uns_link returned; /* waits whose items were put back, the next to be received first; owned */
  size_t returned_count;
  uns_link loans; /* uns_channel_loan.link: behind what was put back, and before `items`; owned */
  size_t loan_count, unlent_count; /* how many; of these, how many are lent no more, and keep their place */
  uns_link receivers, senders; /* uns_channel_wait.link */
  uint64_t given;
  uns_channel_remote *remote; /* borrowed; NULL: this is the real one. Set before it is shared */
  uint64_t remote_id;
  uns_link ahead; /* a stand-in's: uns_channel_ahead.link; owned */
};

/* One reference; NULL without memory. */
uns_shared_channel *uns_shared_channel_new(size_t capacity);
/* One that stands for number `id` of `remote`. */
uns_shared_channel *uns_shared_channel_stand_in(uns_channel_remote *remote, uint64_t id);

/* These never wait for room or items. DONE: the item is the channel's, or was moved out of it. */
uns_channel_result uns_shared_channel_send(uns_shared_channel *channel, uns_channel_item *item);
uns_channel_result uns_shared_channel_receive(uns_shared_channel *channel, uns_channel_item *item);
/* False: a send would have to wait. A hint: worth a look before a large item is made. True for one of the host's. */
bool uns_shared_channel_has_room(uns_shared_channel *channel);
/* Puts it behind all others, or in front, even where it is full or closed. DONE or NO_MEMORY. */
uns_channel_result uns_shared_channel_append(uns_shared_channel *channel, uns_channel_item *item);
uns_channel_result uns_shared_channel_put_back(uns_shared_channel *channel, uns_channel_item *item);
/* Those who wait are told. What is in it can still be received. */
void uns_shared_channel_close(uns_shared_channel *channel);
void uns_shared_channel_look(uns_shared_channel *channel, uns_channel_state *state);

/*
 * Lends the first item that is not lent yet, if it is small, and nothing is in front of those that are. `claim` gets the
 * number, `packet` (empty) a copy of the item to be sent. Returns the lender's reference, or NULL.
 */
uns_channel_loan *uns_shared_channel_lend(uns_shared_channel *channel, _Atomic uint64_t *claim, uint64_t number,
                                          _Atomic uint32_t *wanted, uns_packet *packet);
/* The loan is over, if it is not already: what was not taken is like any other item. The claim's memory is not looked at
   any more. */
void uns_shared_channel_recall(uns_shared_channel *channel, uns_channel_loan *loan);
/* Some were claimed: those who wait for room are told. */
void uns_shared_channel_settle(uns_shared_channel *channel);
/* Drops a reference. */
void uns_channel_loan_unref(uns_channel_loan *loan);
/* A stand-in's: keeps an item that may be taken; takes over `ahead`, from uns_malloc. */
void uns_shared_channel_keep_ahead(uns_shared_channel *channel, uns_channel_ahead *ahead);
/* Takes the first of those that it can have. It asks nobody. */
bool uns_shared_channel_take_ahead(uns_shared_channel *channel, uns_channel_item *item);

/* A wait at `channel` (a reference is taken); NULL without memory. `choice` may be NULL (a reference is taken). */
uns_channel_wait *uns_channel_wait_new(uns_shared_channel *channel, uns_mailbox *mailbox, uns_choice *choice,
                                       bool sends, void (*deliver)(uns_mail *mail, void *receiver));
/*
 * Puts it in line, a sender with its item. WAIT: the mail will come, unless it is ended before. DONE, CLOSED: it was told
 * so on the spot, and no mail will come (that is never said of a choice, which gets mail in any case).
 */
uns_channel_result uns_channel_wait_begin(uns_channel_wait *wait);
/* Leaves the line, if it stands in it. Returns what it was told; the item is in the wait. */
uns_wait_told uns_channel_wait_end(uns_channel_wait *wait);
/* After GIVEN: the item was taken out of it for good; or is to go back in front. Both take over the owner's reference. */
void uns_channel_wait_took(uns_channel_wait *wait);
/* Before several go back, the oldest first: gives what it was given to somebody who waits, if there is one: true, and the
   owner's reference is gone. Of a channel of this process. */
bool uns_channel_wait_hand_on(uns_channel_wait *wait);
void uns_channel_wait_put_back(uns_channel_wait *wait);
/* Drops the owner's reference, or the mail's. */
void uns_channel_wait_unref(uns_channel_wait *wait);

void uns_channel_item_deinit(uns_channel_item *item);
/* `from` is nil afterwards. */
void uns_channel_item_move(uns_channel_item *to, uns_channel_item *from);
/* The item as a packet of one value, moved into `packet`, which must be empty: UNS_OK, or UNS_ENOMEM and it is where it was. */
int uns_channel_item_pack(uns_channel_item *item, uns_packet *packet);

#endif
