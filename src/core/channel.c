#include "core/channel.h"

#include "base/spin.h"

enum { SIZE_FIRST = 8 /* places of the smallest ring */ };

/* ---- the object ---- */

static void ahead_free(uns_channel_ahead *ahead) {
  uns_channel_item_deinit(&ahead->item);
  uns_free(ahead);
}

static void channel_free(uns_shared *object) {
  uns_shared_channel *channel = uns_container_of(object, uns_shared_channel, base);
  if (channel->remote != NULL) channel->remote->drop(channel->remote, channel);
  for (size_t i = 0; i < channel->count; i++) {
    uns_channel_item_deinit(&channel->items[(channel->first + i) & (channel->size - 1)]);
  }
  uns_link *link;
  while ((link = uns_list_pop_front(&channel->loans)) != NULL) /* no lender has them: it would have a reference to us */
    uns_channel_loan_unref(uns_container_of(link, uns_channel_loan, link));
  while ((link = uns_list_pop_front(&channel->ahead)) != NULL)
    ahead_free(uns_container_of(link, uns_channel_ahead, link));
  while ((link = uns_list_pop_front(&channel->returned)) != NULL) {
    uns_channel_wait_unref(uns_container_of(link, uns_channel_wait, link));
  }
  uns_free(channel->items);
  pthread_mutex_destroy(&channel->lock);
  uns_free(channel);
}

static const uns_shared_class channel_class = {UNS_SHARED_CHANNEL, "channel", channel_free};

uns_shared_channel *uns_shared_channel_new(size_t capacity) {
  uns_shared_channel *channel = uns_calloc(1, sizeof *channel);
  if (channel == NULL) return NULL;
  if (uns_spin_lock_init(&channel->lock) != 0) {
    uns_free(channel);
    return NULL;
  }
  uns_shared_init(&channel->base, &channel_class);
  channel->capacity = capacity;
  uns_list_init(&channel->returned);
  uns_list_init(&channel->loans);
  uns_list_init(&channel->ahead);
  uns_list_init(&channel->receivers);
  uns_list_init(&channel->senders);
  return channel;
}

uns_shared_channel *uns_shared_channel_stand_in(uns_channel_remote *remote, uint64_t id) {
  uns_shared_channel *channel = uns_shared_channel_new(0);
  if (channel == NULL) return NULL;
  channel->remote = remote;
  channel->remote_id = id;
  return channel;
}

static void lock(uns_shared_channel *channel) { pthread_mutex_lock(&channel->lock); }
static void unlock(uns_shared_channel *channel) { pthread_mutex_unlock(&channel->lock); }

/* ---- from here to "in line": the lock held ---- */

/* Those among the loans that were claimed, and not noticed yet, count as well. */
static size_t there(const uns_shared_channel *channel) {
  return channel->returned_count + channel->loan_count + channel->count;
}

static uns_channel_item *place(const uns_shared_channel *channel, size_t number) {
  return &channel->items[(channel->first + number) & (channel->size - 1)];
}

/* Room in the ring for one more. */
static bool grow(uns_shared_channel *channel) {
  if (channel->count < channel->size) return true;
  size_t size = channel->size == 0 ? SIZE_FIRST : 2 * channel->size;
  uns_channel_item *items = uns_malloc(size * sizeof *items);
  if (items == NULL) return false;
  for (size_t i = 0; i < channel->count; i++) items[i] = *place(channel, i);
  uns_free(channel->items);
  channel->items = items;
  channel->first = 0;
  channel->size = size;
  return true;
}

static bool put_last(uns_shared_channel *channel, uns_channel_item *item) {
  if (!grow(channel)) return false;
  uns_channel_item_move(place(channel, channel->count), item);
  channel->count++;
  return true;
}

/* What is to be done when the lock is free again. */
typedef struct posts {
  uns_mail *first, *last; /* to be posted; `last` is undefined where there is none */
  uns_channel_loan *gone; /* to be let go */
} posts;

/* Ends a loan. True: the item is the channel's alone; else it was claimed. */
static bool end_loan(uns_channel_loan *loan) {
  if (loan->claim == NULL) return true;
  uint64_t given = loan->number * 4 + UNS_LOAN_GIVEN;
  bool ours = atomic_compare_exchange_strong(loan->claim, &given, loan->number * 4 + UNS_LOAN_RECALLED);
  loan->claim = NULL;
  atomic_store(&loan->state, ours ? UNS_LOAN_RECALLED : UNS_LOAN_TAKEN);
  return ours;
}

/* Takes it out of the channel. */
static void drop_loan(uns_shared_channel *channel, uns_channel_loan *loan, posts *to_post) {
  uns_list_remove(&loan->link);
  loan->next_gone = to_post->gone;
  to_post->gone = loan;
  channel->loan_count--;
}

/* The loan is over: what was claimed is taken out, the rest keeps its place. */
static void recall(uns_shared_channel *channel, uns_channel_loan *loan, posts *to_post) {
  if (loan->claim == NULL) return;
  if (end_loan(loan)) channel->unlent_count++;
  else drop_loan(channel, loan, to_post);
}

/* Takes out those that were claimed. `watch`: who claims another is to say so. */
static void settle(uns_shared_channel *channel, bool watch, posts *to_post) {
  for (uns_link *link = channel->loans.next, *next; link != &channel->loans; link = next) {
    uns_channel_loan *loan = uns_container_of(link, uns_channel_loan, link);
    next = link->next;
    if (loan->claim == NULL) continue;
    if (watch) atomic_store(loan->wanted, 1);
    if (atomic_load(loan->claim) == loan->number * 4 + UNS_LOAN_GIVEN) continue;
    recall(channel, loan, to_post);
  }
}

/* False: there is none. */
static bool take_first(uns_shared_channel *channel, uns_channel_item *item, posts *to_post) {
  if (channel->returned_count > 0) {
    uns_channel_wait *back = uns_container_of(uns_list_pop_front(&channel->returned), uns_channel_wait, link);
    channel->returned_count--;
    uns_channel_item_move(item, &back->item);
    uns_channel_wait_unref(back); /* without its channel: frees but itself */
    return true;
  }
  while (!uns_list_empty(&channel->loans)) {
    uns_channel_loan *loan = uns_container_of(channel->loans.next, uns_channel_loan, link);
    if (loan->claim == NULL) channel->unlent_count--;
    bool ours = end_loan(loan);
    if (ours) uns_channel_item_move(item, &loan->item);
    drop_loan(channel, loan, to_post);
    if (ours) return true;
  }
  if (channel->count == 0) return false;
  uns_channel_item_move(item, place(channel, 0));
  channel->first = (channel->first + 1) & (channel->size - 1);
  channel->count--;
  return true;
}

/* Those whose choice has fallen elsewhere are in nobody's way. `own`: a choice that is not served by itself, or NULL. */
static uns_channel_wait *first_in(uns_link *line, const uns_choice *own) {
  for (uns_link *link = line->next, *next; link != line; link = next) {
    uns_channel_wait *wait = uns_container_of(link, uns_channel_wait, link);
    next = link->next;
    if (wait->choice == NULL) return wait;
    if (wait->choice == own) continue;
    if (!atomic_load(&wait->choice->taken)) return wait;
    uns_list_remove(link);
  }
  return NULL;
}

/* The first that can be served, out of line: its choice has fallen on it. */
static uns_channel_wait *take_in(uns_link *line) {
  for (;;) {
    uns_channel_wait *wait = first_in(line, NULL);
    if (wait == NULL) return NULL;
    uns_list_remove(&wait->link);
    if (wait->choice == NULL || !atomic_exchange(&wait->choice->taken, true)) return wait;
  }
}

/* Tells one that is out of line. */
static void tell(uns_channel_wait *wait, uns_wait_told told, posts *to_post) {
  wait->told = (uint8_t)told;
  wait->order = ++wait->channel->given;
  atomic_fetch_add_explicit(&wait->count, 1, memory_order_relaxed);
  uns_mailbox_ref(wait->mailbox); /* its state may be gone by then */
  wait->mail.next = NULL;
  if (to_post->first == NULL) to_post->first = &wait->mail;
  else to_post->last->next = &wait->mail;
  to_post->last = &wait->mail;
}

/* Without the lock. */
static void post(const posts *to_post) {
  for (uns_mail *mail = to_post->first, *next; mail != NULL; mail = next) {
    next = mail->next;
    uns_mailbox *mailbox = uns_container_of(mail, uns_channel_wait, mail)->mailbox;
    uns_mailbox_post(mailbox, mail);
    uns_mailbox_unref(mailbox);
  }
  for (uns_channel_loan *loan = to_post->gone, *next; loan != NULL; loan = next) {
    next = loan->next_gone;
    uns_channel_loan_unref(loan);
  }
}

static uns_channel_result send(uns_shared_channel *channel, uns_channel_item *item, posts *to_post) {
  if (channel->closed) return UNS_CHANNEL_CLOSED;
  uns_channel_wait *receiver = take_in(&channel->receivers);
  if (receiver != NULL) {
    uns_channel_item_move(&receiver->item, item);
    tell(receiver, UNS_WAIT_GIVEN, to_post);
    return UNS_CHANNEL_DONE;
  }
  if (there(channel) >= channel->capacity) settle(channel, false, to_post);
  if (there(channel) >= channel->capacity) return UNS_CHANNEL_WAIT;
  return put_last(channel, item) ? UNS_CHANNEL_DONE : UNS_CHANNEL_NO_MEMORY;
}

/* There may be room: those first in line move up. */
static void move_up(uns_shared_channel *channel, posts *to_post) {
  while (there(channel) < channel->capacity && !uns_list_empty(&channel->senders) && grow(channel)) {
    uns_channel_wait *sender = take_in(&channel->senders);
    if (sender == NULL) return;
    put_last(channel, &sender->item);
    tell(sender, UNS_WAIT_GIVEN, to_post);
  }
}

/* Senders wait for room. Where items are lent, those who claim them are to say so; what they have claimed so far makes room. */
static void watch_loans(uns_shared_channel *channel, posts *to_post) {
  if (uns_list_empty(&channel->senders)) return;
  settle(channel, true, to_post);
  move_up(channel, to_post);
}

static uns_channel_result receive(uns_shared_channel *channel, uns_channel_item *item, posts *to_post) {
  if (take_first(channel, item, to_post)) {
    move_up(channel, to_post);
    return UNS_CHANNEL_DONE;
  }
  uns_channel_wait *sender = take_in(&channel->senders); /* from hand to hand */
  if (sender == NULL) return channel->closed ? UNS_CHANNEL_CLOSED : UNS_CHANNEL_WAIT;
  uns_channel_item_move(item, &sender->item);
  tell(sender, UNS_WAIT_GIVEN, to_post);
  return UNS_CHANNEL_DONE;
}

/* Is there something for a choice to look at? */
static bool ready(uns_shared_channel *channel, const uns_channel_wait *wait, posts *to_post) {
  if (channel->closed) return true;
  settle(channel, false, to_post);
  if (wait->sends) return there(channel) < channel->capacity || first_in(&channel->receivers, wait->choice) != NULL;
  return there(channel) > 0 || first_in(&channel->senders, wait->choice) != NULL;
}

/* ---- in line ---- */

/* `step`, send or receive, under the lock; who is to hear of it hears of it after that. */
static uns_channel_result locked(uns_shared_channel *channel, uns_channel_item *item,
                                 uns_channel_result (*step)(uns_shared_channel *, uns_channel_item *, posts *)) {
  posts to_post = {NULL, NULL, NULL};
  lock(channel);
  uns_channel_result result = step(channel, item, &to_post);
  unlock(channel);
  post(&to_post);
  return result;
}

uns_channel_result uns_shared_channel_send(uns_shared_channel *channel, uns_channel_item *item) {
  if (channel->remote != NULL) return channel->remote->send(channel->remote, channel, item);
  return locked(channel, item, send);
}

uns_channel_result uns_shared_channel_receive(uns_shared_channel *channel, uns_channel_item *item) {
  if (channel->remote != NULL) return channel->remote->receive(channel->remote, channel, item);
  return locked(channel, item, receive);
}

bool uns_shared_channel_has_room(uns_shared_channel *channel) {
  if (channel->remote != NULL) return true;
  posts to_post = {NULL, NULL, NULL};
  lock(channel);
  settle(channel, false, &to_post);
  bool room = channel->closed || there(channel) < channel->capacity || first_in(&channel->receivers, NULL) != NULL;
  unlock(channel);
  post(&to_post);
  return room;
}

uns_channel_result uns_shared_channel_append(uns_shared_channel *channel, uns_channel_item *item) {
  if (channel->remote != NULL) return channel->remote->append(channel->remote, channel, item);
  lock(channel);
  bool fine = put_last(channel, item);
  unlock(channel);
  return fine ? UNS_CHANNEL_DONE : UNS_CHANNEL_NO_MEMORY;
}

/* What is put back comes before what is lent, also for whoever has that: it has to ask. */
static void recall_all(uns_shared_channel *channel, posts *to_post) {
  for (uns_link *link = channel->loans.next, *next; link != &channel->loans; link = next) {
    uns_channel_loan *loan = uns_container_of(link, uns_channel_loan, link);
    next = link->next;
    recall(channel, loan, to_post);
  }
}

/* Takes over the reference to `back`, which has the item. */
static void return_item(uns_shared_channel *channel, uns_channel_wait *back) {
  posts to_post = {NULL, NULL, NULL};
  lock(channel);
  uns_channel_wait *receiver = take_in(&channel->receivers);
  if (receiver != NULL) {
    uns_channel_item_move(&receiver->item, &back->item);
    tell(receiver, UNS_WAIT_GIVEN, &to_post);
  } else {
    back->channel = NULL;
    uns_list_push_front(&channel->returned, &back->link);
    channel->returned_count++;
    recall_all(channel, &to_post);
    move_up(channel, &to_post);
  }
  unlock(channel);
  post(&to_post);
  if (receiver != NULL) uns_channel_wait_unref(back);
  else uns_shared_unref(channel); /* that it had */
}

uns_channel_result uns_shared_channel_put_back(uns_shared_channel *channel, uns_channel_item *item) {
  if (channel->remote != NULL) return channel->remote->put_back(channel->remote, channel, item);
  uns_channel_wait *back = uns_channel_wait_new(channel, NULL, NULL, false, NULL);
  if (back == NULL) return UNS_CHANNEL_NO_MEMORY;
  uns_channel_item_move(&back->item, item);
  return_item(channel, back);
  return UNS_CHANNEL_DONE;
}

void uns_shared_channel_close(uns_shared_channel *channel) {
  if (channel->remote != NULL) {
    channel->remote->close(channel->remote, channel);
    return;
  }
  posts to_post = {NULL, NULL, NULL};
  uns_channel_wait *wait;
  lock(channel);
  channel->closed = true;
  while ((wait = take_in(&channel->senders)) != NULL) tell(wait, UNS_WAIT_CLOSED, &to_post);
  while ((wait = take_in(&channel->receivers)) != NULL) tell(wait, UNS_WAIT_CLOSED, &to_post);
  unlock(channel);
  post(&to_post);
}

static size_t length(const uns_link *line) {
  size_t count = 0;
  for (const uns_link *link = line->next; link != line; link = link->next) count++;
  return count;
}

void uns_shared_channel_look(uns_shared_channel *channel, uns_channel_state *state) {
  if (channel->remote != NULL) {
    channel->remote->look(channel->remote, channel, state);
    return;
  }
  posts to_post = {NULL, NULL, NULL};
  lock(channel);
  settle(channel, false, &to_post);
  *state = (uns_channel_state){.capacity = channel->capacity,
                               .count = there(channel),
                               .senders = length(&channel->senders),
                               .receivers = length(&channel->receivers),
                               .closed = channel->closed};
  unlock(channel);
  post(&to_post);
}

/* ---- waits ---- */

uns_channel_wait *uns_channel_wait_new(uns_shared_channel *channel, uns_mailbox *mailbox, uns_choice *choice,
                                       bool sends, void (*deliver)(uns_mail *mail, void *receiver)) {
  uns_channel_wait *wait = uns_malloc(sizeof *wait);
  if (wait == NULL) return NULL;
  wait->mail.next = NULL;
  wait->mail.deliver = deliver;
  uns_list_init(&wait->link);
  wait->channel = uns_shared_ref(channel);
  wait->mailbox = mailbox;
  wait->choice = choice != NULL ? uns_choice_ref(choice) : NULL;
  atomic_init(&wait->count, 1);
  wait->told = UNS_WAIT_NOTHING;
  wait->sends = sends;
  wait->order = wait->number = 0;
  wait->item.kind = UNS_SENT_NIL;
  wait->owner = NULL;
  return wait;
}

void uns_channel_wait_unref(uns_channel_wait *wait) {
  if (atomic_fetch_sub_explicit(&wait->count, 1, memory_order_acq_rel) != 1) return;
  uns_channel_item_deinit(&wait->item);
  uns_choice_unref(wait->choice);
  uns_shared_unref(wait->channel);
  uns_free(wait);
}

uns_channel_result uns_channel_wait_begin(uns_channel_wait *wait) {
  uns_shared_channel *channel = wait->channel;
  if (channel->remote != NULL) return channel->remote->begin(channel->remote, wait);
  posts to_post = {NULL, NULL, NULL};
  uns_channel_result result = UNS_CHANNEL_WAIT;
  lock(channel);
  if (wait->choice == NULL) {
    result = wait->sends ? send(channel, &wait->item, &to_post) : receive(channel, &wait->item, &to_post);
    if (result == UNS_CHANNEL_DONE) wait->order = ++channel->given;
  } else if (ready(channel, wait, &to_post)) {
    /* To serve it here would mean to take two choices at once, its own and another's: it looks once more instead. */
    if (!atomic_exchange(&wait->choice->taken, true)) tell(wait, UNS_WAIT_RETRY, &to_post);
  }
  if (result == UNS_CHANNEL_DONE) wait->told = UNS_WAIT_GIVEN;
  else if (result == UNS_CHANNEL_CLOSED) wait->told = UNS_WAIT_CLOSED;
  else if (result == UNS_CHANNEL_WAIT && wait->told == UNS_WAIT_NOTHING)
    uns_list_push_back(wait->sends ? &channel->senders : &channel->receivers, &wait->link);
  watch_loans(channel, &to_post);
  unlock(channel);
  post(&to_post);
  return result;
}

uns_wait_told uns_channel_wait_end(uns_channel_wait *wait) {
  uns_shared_channel *channel = wait->channel;
  if (channel->remote != NULL) channel->remote->end(channel->remote, wait);
  lock(channel);
  uns_list_remove(&wait->link);
  uns_wait_told told = (uns_wait_told)wait->told;
  unlock(channel);
  return told;
}

void uns_channel_wait_took(uns_channel_wait *wait) {
  uns_channel_remote *remote = wait->channel->remote;
  if (remote != NULL) remote->took(remote, wait);
  uns_channel_wait_unref(wait);
}

bool uns_channel_wait_hand_on(uns_channel_wait *wait) {
  uns_shared_channel *channel = wait->channel;
  posts to_post = {NULL, NULL, NULL};
  lock(channel);
  uns_channel_wait *receiver = take_in(&channel->receivers);
  if (receiver != NULL) {
    uns_channel_item_move(&receiver->item, &wait->item);
    tell(receiver, UNS_WAIT_GIVEN, &to_post);
  }
  unlock(channel);
  post(&to_post);
  if (receiver != NULL) uns_channel_wait_unref(wait);
  return receiver != NULL;
}

void uns_channel_wait_put_back(uns_channel_wait *wait) {
  uns_channel_remote *remote = wait->channel->remote;
  if (remote == NULL) {
    return_item(wait->channel, wait);
    return;
  }
  remote->give_back(remote, wait);
  uns_channel_wait_unref(wait);
}

/* ---- loans ---- */

enum { LOAN_BYTES_MAX = 4096 }; /* those that were claimed lie here until somebody looks */

void uns_channel_loan_unref(uns_channel_loan *loan) {
  if (atomic_fetch_sub_explicit(&loan->count, 1, memory_order_acq_rel) != 1) return;
  uns_channel_item_deinit(&loan->item);
  uns_free(loan);
}

/* Makes the first item a packet, if it is small. */
static bool pack_first(uns_shared_channel *channel) {
  uns_channel_item *first = place(channel, 0);
  if (first->kind != UNS_SENT_PACKET) {
    uns_packet packet;
    uns_packet_init(&packet);
    if (uns_channel_item_pack(first, &packet) != UNS_OK) return false;
    first->kind = UNS_SENT_PACKET;
    first->as.packet = packet;
  }
  return first->as.packet.ref_count == 0 && first->as.packet.size_bytes <= LOAN_BYTES_MAX;
}

uns_channel_loan *uns_shared_channel_lend(uns_shared_channel *channel, _Atomic uint64_t *claim, uint64_t number,
                                          _Atomic uint32_t *wanted, uns_packet *packet) {
  uns_channel_loan *loan = uns_malloc(sizeof *loan);
  if (loan == NULL) return NULL;
  atomic_init(&loan->count, 2);
  atomic_init(&loan->state, UNS_LOAN_GIVEN);
  loan->item.kind = UNS_SENT_NIL;
  loan->number = number;
  loan->claim = claim;
  loan->wanted = wanted;
  uns_list_init(&loan->link);
  posts to_post = {NULL, NULL, NULL};
  lock(channel);
  bool first = channel->returned_count == 0 && channel->unlent_count == 0;
  bool lent = first && channel->count > 0 && pack_first(channel) &&
              uns_packet_copy(packet, &place(channel, 0)->as.packet) == UNS_OK;
  if (lent) {
    uns_channel_item_move(&loan->item, place(channel, 0));
    channel->first = (channel->first + 1) & (channel->size - 1);
    channel->count--;
    atomic_store(claim, number * 4 + UNS_LOAN_GIVEN);
    uns_list_push_back(&channel->loans, &loan->link);
    channel->loan_count++;
    watch_loans(channel, &to_post);
  }
  unlock(channel);
  post(&to_post);
  if (lent) return loan;
  uns_free(loan);
  return NULL;
}

void uns_shared_channel_recall(uns_shared_channel *channel, uns_channel_loan *loan) {
  posts to_post = {NULL, NULL, NULL};
  lock(channel);
  recall(channel, loan, &to_post);
  move_up(channel, &to_post);
  unlock(channel);
  post(&to_post);
}

void uns_shared_channel_settle(uns_shared_channel *channel) {
  posts to_post = {NULL, NULL, NULL};
  lock(channel);
  settle(channel, false, &to_post);
  move_up(channel, &to_post);
  watch_loans(channel, &to_post);
  unlock(channel);
  post(&to_post);
}

void uns_shared_channel_keep_ahead(uns_shared_channel *channel, uns_channel_ahead *ahead) {
  lock(channel);
  uns_list_push_back(&channel->ahead, &ahead->link);
  unlock(channel);
}

bool uns_shared_channel_take_ahead(uns_shared_channel *channel, uns_channel_item *item) {
  for (;;) {
    lock(channel);
    uns_link *link = uns_list_pop_front(&channel->ahead);
    unlock(channel);
    if (link == NULL) return false;
    uns_channel_ahead *ahead = uns_container_of(link, uns_channel_ahead, link);
    bool ours = channel->remote->claim(channel->remote, ahead->slot, ahead->number);
    if (ours) uns_channel_item_move(item, &ahead->item);
    ahead_free(ahead);
    if (ours) return true;
  }
}
