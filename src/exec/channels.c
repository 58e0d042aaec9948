/*
 * channels: what worker processes do with channels, which are the host's: send, receive, wait. The supervisor's thread.
 *
 *   - A wait of a child's is one here (core/channel.h), in line with those of all other states, told through the
 *     supervisor's mailbox, which passes it on.
 *   - An item that was given to a child is kept until the child has said that it has it. Should it die before that, or not
 *     want it any more, it goes back in front.
 * What the child makes of it: parent_channels.c.
 */
#include <string.h>

#include "exec/worker_process.h"

typedef struct child_wait {
  uns_link link; /* in service.waits, or service.given */
  uns_child *child;
  uns_channel_wait *wait; /* one reference, the owner's */
  uint64_t number;        /* the child's */
  uint64_t channel_id;    /* the same, of the channel; 0: nothing is lent for this one */
} child_wait;

/* Waits of which one is to be served. It lasts until the child leaves it: more of them may be on their way. */
typedef struct child_group {
  uns_link link;      /* in service.groups */
  uns_choice *choice; /* one reference */
  uint64_t number;
  bool told; /* one of them was */
} child_group;

static void no_memory(uns_child *child) { uns_child_condemn(child, "there was not enough memory to answer it"); }

static void answer(uns_child *child, uint64_t request, uint32_t state, bool first) {
  uns_message message = {.words = {.kind = UNS_FRAME_ANSWER, .id = request, .state = state, .first = first}};
  uns_service_must_send(child, &message, NULL);
}

/* ---- groups ---- */

static child_group *find_group(uns_service *service, uint64_t number) {
  for (uns_link *link = service->groups.prev; link != &service->groups; link = link->prev) {
    child_group *group = uns_container_of(link, child_group, link);
    if (group->number == number) return group;
  }
  return NULL;
}

/* The same, or a new one; NULL without memory. */
static child_group *group_of(uns_service *service, uint64_t number) {
  child_group *group = find_group(service, number);
  if (group != NULL) return group;
  group = uns_malloc(sizeof *group);
  if (group == NULL) return NULL;
  group->number = number;
  group->told = false;
  group->choice = uns_choice_new();
  if (group->choice == NULL) {
    uns_free(group);
    return NULL;
  }
  uns_list_push_back(&service->groups, &group->link);
  return group;
}

static void forget_group(child_group *group) {
  uns_list_remove(&group->link);
  uns_choice_unref(group->choice);
  uns_free(group);
}

static void mark_group(const child_wait *mine) {
  uns_link *groups = &mine->child->service.groups;
  for (uns_link *link = groups->prev; mine->wait->choice != NULL && link != groups; link = link->prev) {
    child_group *group = uns_container_of(link, child_group, link);
    if (group->choice == mine->wait->choice) group->told = true;
  }
}

/* ---- waits ---- */

static void forget(child_wait *mine) {
  uns_list_remove(&mine->link);
  mine->wait->owner = NULL;
  uns_free(mine);
}

/* From now on the child is to say what becomes of it. */
static void keep_given(child_wait *mine) {
  uns_link *given = &mine->child->service.given, *behind = given->prev;
  uns_list_remove(&mine->link);
  while (behind != given && uns_container_of(behind, child_wait, link)->wait->order > mine->wait->order)
    behind = behind->prev;
  uns_list_push_front(behind, &mine->link);
}

/* Sends `message` with the item that was given to the wait, which is kept. */
static void send_given(child_wait *mine, const uns_message *message) {
  uns_child *child = mine->child;
  uns_channel_item *item = &mine->wait->item;
  uns_packet packet;
  uns_packet_init(&packet);
  keep_given(mine);
  if (uns_channel_item_pack(item, &packet) != UNS_OK) {
    no_memory(child);
    return;
  }
  item->kind = UNS_SENT_PACKET;
  item->as.packet = packet;
  int status = uns_service_send(child, message, &item->as.packet);
  if (status == UNS_ENOMEM) no_memory(child);
  else if (status == UNS_ECORRUPT) uns_child_condemn(child, "it was given an item that cannot leave this process");
}

/* ---- loans: a child that receives is given some of what lies behind, to take without asking ---- */

static void free_place(uns_service *service, uns_service_loan *place) {
  uns_channel_loan_unref(place->loan);
  uns_shared_unref(place->channel);
  place->loan = NULL;
  place->channel = NULL;
  service->loan_count--;
}

/* Clears away those that are over. A child that takes all it has may have twice as many next time; one from which others
   recalled some, half as many. */
static void clear_loans(uns_service *service) {
  bool recalled = false;
  for (unsigned slot = 0; slot < UNS_LOANS && service->loan_count > 0; slot++) {
    uns_service_loan *place = &service->loans[slot];
    int state = place->loan != NULL ? atomic_load(&place->loan->state) : UNS_LOAN_NONE;
    recalled |= state == UNS_LOAN_RECALLED;
    if (state == UNS_LOAN_TAKEN || state == UNS_LOAN_RECALLED) free_place(service, place);
  }
  uint32_t window = recalled ? service->loan_window / 2 : service->loan_window * 2;
  service->loan_window = window < 2 ? 2 : window > UNS_LOANS ? UNS_LOANS : window;
}

static void recall(uns_service *service, uns_service_loan *place) {
  uns_shared_channel_recall(place->channel, place->loan);
  free_place(service, place);
}

/* Lends the child the first item. False: that is all for now. */
static bool lend(uns_child *child, uns_shared_channel *channel, uint64_t channel_id, unsigned slot) {
  uns_service *service = &child->service;
  uns_board *board = child->wire.board;
  uns_service_loan *place = &service->loans[slot];
  uns_packet packet;
  uns_packet_init(&packet);
  uint64_t number = ++service->last_loan;
  place->loan = uns_shared_channel_lend(channel, &board->loans[slot], number, &board->loans_wanted, &packet);
  if (place->loan == NULL) return false;
  place->channel = uns_shared_ref(channel);
  place->channel_id = channel_id;
  service->loan_count++;
  uns_message message = {
      .words = {.kind = UNS_FRAME_CHANNEL_AHEAD, .id = channel_id, .sequence = number, .slot = slot}};
  bool sent = uns_service_send(child, &message, &packet) == UNS_OK;
  uns_packet_deinit(&packet);
  if (!sent) recall(service, place);
  return sent;
}

static void lend_some(uns_child *child, uns_shared_channel *channel, uint64_t channel_id) {
  uns_service *service = &child->service;
  if (service->dead) return;
  uns_shared_channel_settle(channel); /* what it has taken of this one */
  clear_loans(service);
  for (unsigned slot = 0; slot < UNS_LOANS && service->loan_count < service->loan_window; slot++) {
    if (service->loans[slot].loan == NULL && !lend(child, channel, channel_id, slot)) return;
  }
}

void uns_channels_sweep(uns_child *child) {
  uns_service *service = &child->service;
  const uns_shared_channel *last = NULL;
  for (unsigned slot = 0, left = service->loan_count; slot < UNS_LOANS && left > 0; slot++) {
    const uns_service_loan *place = &service->loans[slot];
    if (place->loan == NULL) continue;
    left--;
    if (place->channel == last) continue;
    if (atomic_load(&child->wire.board->loans[slot]) == place->loan->number * 4 + UNS_LOAN_GIVEN) continue;
    last = place->channel;
    uns_shared_channel_settle(place->channel);
  }
}

bool uns_channels_settle(uns_child *child, const uns_message *message) {
  uns_channels_sweep(child);
  answer(child, message->words.request, 0, true);
  return true;
}

void uns_channels_dropped(uns_child *child, uint64_t id) {
  uns_service *service = &child->service;
  bool asked = false;
  for (unsigned slot = 0, left = service->loan_count; slot < UNS_LOANS && left > 0; slot++) {
    uns_service_loan *place = &service->loans[slot];
    if (place->loan == NULL) continue;
    left--;
    if (place->channel_id != id) continue;
    uns_shared_channel *still = asked ? NULL : uns_exports_channel(child, id);
    asked = true;
    uns_shared_unref(still);
    if (still != NULL) return;
    recall(service, place);
  }
}

/* The wait has ended with something other than nothing: the child is to know. */
static void pass_on(child_wait *mine, uns_wait_told told) {
  mark_group(mine);
  uns_message message = {.words = {.kind = UNS_FRAME_CHANNEL_TOLD, .sequence = mine->number, .state = told}};
  uns_child *child = mine->child;
  if (told == UNS_WAIT_GIVEN && !mine->wait->sends) {
    uns_shared_channel *channel = uns_shared_ref(mine->wait->channel);
    uint64_t channel_id = mine->channel_id;
    uns_service_cork(child);
    send_given(mine, &message);
    if (channel_id != 0) lend_some(child, channel, channel_id);
    uns_service_uncork(child);
    uns_shared_unref(channel);
    return;
  }
  uns_channel_wait *wait = mine->wait;
  forget(mine);
  uns_channel_wait_unref(wait);
  uns_service_must_send(child, &message, NULL);
}

static void on_told(uns_mail *mail, void *receiver) {
  uns_channel_wait *wait = uns_container_of(mail, uns_channel_wait, mail);
  child_wait *mine = wait->owner;
  if (receiver != NULL && mine != NULL && wait->told != UNS_WAIT_NOTHING) {
    wait->owner = NULL; /* no news any more */
    pass_on(mine, uns_channel_wait_end(wait));
  }
  uns_channel_wait_unref(wait);
}

static child_wait *new_wait(uns_child *child, uns_shared_channel *channel, uns_choice *choice, bool sends) {
  uns_mailbox *mailbox = uns_supervisor_mailbox(child->pool->supervisor);
  child_wait *mine = uns_malloc(sizeof *mine);
  if (mine == NULL) return NULL;
  mine->wait = uns_channel_wait_new(channel, mailbox, choice, sends, on_told);
  if (mine->wait == NULL) {
    uns_free(mine);
    return NULL;
  }
  mine->wait->owner = mine;
  mine->child = child;
  mine->number = mine->channel_id = 0;
  uns_list_init(&mine->link);
  return mine;
}

/* Moves the item of the message. UNS_ECORRUPT: there is none; UNS_ENOMEM: it is the message's still. */
static int take_item(uns_message *message, uns_channel_item *item) {
  if (message->packet.size_bytes == 0) return UNS_ECORRUPT;
  int status = uns_frame_own(&message->packet);
  if (status != UNS_OK) return status;
  item->kind = UNS_SENT_PACKET;
  uns_packet_init(&item->as.packet);
  uns_packet_move(&item->as.packet, &message->packet);
  return UNS_OK;
}

bool uns_channels_wait(uns_child *child, uns_message *message) {
  uns_service *service = &child->service;
  const struct uns_message_words *words = &message->words;
  bool sends = words->first != 0, chooses = words->count != 0;
  uns_shared_channel *channel = uns_exports_channel(child, words->id);
  if (channel == NULL) return false;
  const child_group *group = chooses ? group_of(service, words->count) : NULL;
  child_wait *mine = NULL;
  if (!chooses || group != NULL) mine = new_wait(child, channel, chooses ? group->choice : NULL, sends);
  uns_shared_unref(channel);
  if (mine == NULL) {
    no_memory(child);
    return true;
  }
  mine->number = words->sequence;
  mine->channel_id = words->id;
  uns_list_push_back(&service->waits, &mine->link);
  uns_channel_result result = UNS_CHANNEL_NO_MEMORY;
  int status = sends ? take_item(message, &mine->wait->item) : UNS_OK;
  if (status == UNS_OK) result = uns_channel_wait_begin(mine->wait);
  if (result == UNS_CHANNEL_DONE) {
    pass_on(mine, UNS_WAIT_GIVEN);
  } else if (result == UNS_CHANNEL_CLOSED) {
    pass_on(mine, UNS_WAIT_CLOSED);
  } else if (result == UNS_CHANNEL_NO_MEMORY) {
    uns_channel_wait *wait = mine->wait;
    forget(mine);
    uns_channel_wait_unref(wait);
    if (status != UNS_ECORRUPT) no_memory(child);
  }
  return status != UNS_ECORRUPT;
}

/* Out of line. True: it was told nothing. */
static bool end_wait(child_wait *mine) {
  uns_channel_wait *wait = mine->wait;
  uns_wait_told told = uns_channel_wait_end(wait);
  if (told != UNS_WAIT_NOTHING) {
    wait->owner = NULL;
    pass_on(mine, told);
    return false;
  }
  forget(mine);
  uns_channel_wait_unref(wait);
  return true;
}

/* All of the group leave, or, where it is 0, the one wait. */
bool uns_channels_leave(uns_child *child, const uns_message *message) {
  uns_service *service = &child->service;
  const struct uns_message_words *words = &message->words;
  bool found = false, nothing = true;
  child_group *group = words->count != 0 ? find_group(service, words->count) : NULL;
  /* Whoever took the choice before us gives something to one of them, under the lock of its channel. */
  if (group != NULL) uns_choice_take(group->choice);
  for (uns_link *link = service->waits.next, *next; link != &service->waits; link = next) {
    child_wait *mine = uns_container_of(link, child_wait, link);
    next = link->next;
    if (group != NULL ? mine->wait->choice != group->choice : mine->number != words->sequence) continue;
    found = true;
    nothing &= end_wait(mine);
    if (group == NULL) break;
  }
  if (group != NULL) {
    nothing &= !group->told;
    forget_group(group);
  }
  if (words->request != 0) answer(child, words->request, 0, found && nothing);
  return true;
}

static child_wait *find_given(uns_service *service, uint64_t number) {
  for (uns_link *link = service->given.next; link != &service->given; link = link->next) {
    child_wait *mine = uns_container_of(link, child_wait, link);
    if (mine->number == number) return mine;
  }
  return NULL;
}

bool uns_channels_took(uns_child *child, const uns_message *message) {
  child_wait *mine = find_given(&child->service, message->words.sequence);
  if (mine == NULL) return false;
  uns_channel_wait *wait = mine->wait;
  forget(mine);
  uns_channel_wait_took(wait);
  return true;
}

static void put_back(child_wait *mine) {
  uns_channel_wait *wait = mine->wait;
  forget(mine);
  uns_channel_wait_put_back(wait);
}

bool uns_channels_give_back(uns_child *child, const uns_message *message) {
  child_wait *mine = find_given(&child->service, message->words.sequence);
  if (mine == NULL) return false;
  put_back(mine);
  answer(child, message->words.request, 0, true);
  return true;
}

/* ---- what needs no wait ---- */

bool uns_channels_make(uns_child *child, const uns_message *message) {
  if (message->words.count > (uint64_t)1 << 30) return false;
  uns_shared_channel *channel = uns_shared_channel_new((size_t)message->words.count);
  if (channel != NULL && message->words.first) uns_shared_channel_close(channel);
  int status = channel != NULL ? uns_exports_add_channel(child, message->words.id, channel) : UNS_ENOMEM;
  if (status != UNS_OK) uns_shared_unref(channel);
  if (status == UNS_ECORRUPT) return false;
  answer(child, message->words.request, 0, status == UNS_OK);
  return true;
}

/* What comes is given to a wait that has no line to stand in. */
static void receive(uns_child *child, uns_shared_channel *channel, const struct uns_message_words *words) {
  child_wait *mine = new_wait(child, channel, NULL, false);
  if (mine == NULL) {
    answer(child, words->request, UNS_CHANNEL_NO_MEMORY, false);
    return;
  }
  uns_channel_wait *wait = mine->wait;
  wait->owner = NULL;
  mine->number = words->sequence;
  uns_channel_result result = uns_channel_wait_begin(wait);
  uns_wait_told told = uns_channel_wait_end(
      wait); /* it may have been told in the meantime; then mail comes, for nobody */
  if (told == UNS_WAIT_GIVEN) result = UNS_CHANNEL_DONE;
  else if (told == UNS_WAIT_CLOSED) result = UNS_CHANNEL_CLOSED;
  uns_message message = {.words = {.kind = UNS_FRAME_ANSWER, .id = words->request, .state = result}};
  if (result == UNS_CHANNEL_DONE) {
    send_given(mine, &message);
    return;
  }
  uns_free(mine);
  uns_channel_wait_unref(wait);
  uns_service_must_send(child, &message, NULL);
}

static void look(uns_child *child, uns_shared_channel *channel, uint64_t request) {
  uns_channel_state state;
  uns_shared_channel_look(channel, &state);
  uns_message message = {.words = {.kind = UNS_FRAME_ANSWER,
                                   .id = request,
                                   .count = state.count,
                                   .limit = (uint32_t)state.capacity,
                                   .slot = (uint32_t)state.senders,
                                   .exit_code = (int32_t)state.receivers,
                                   .first = state.closed}};
  uns_service_must_send(child, &message, NULL);
}

bool uns_channels_ask(uns_child *child, uns_message *message) {
  const struct uns_message_words *words = &message->words;
  uns_shared_channel *channel = uns_exports_channel(child, words->id);
  if (channel == NULL) return false;
  uns_channel_item item = {.kind = UNS_SENT_NIL};
  bool fine = true;
  int status;
  uns_channel_result result = UNS_CHANNEL_DONE;
  switch ((uns_channel_question)words->state) {
    case UNS_QUESTION_RECEIVE: receive(child, channel, words); break;
    case UNS_QUESTION_LOOK: look(child, channel, words->request); break;
    case UNS_QUESTION_CLOSE:
      uns_shared_channel_close(channel);
      answer(child, words->request, result, true);
      break;
    case UNS_QUESTION_SEND:
    case UNS_QUESTION_APPEND:
    case UNS_QUESTION_PUT_BACK:
      status = take_item(message, &item);
      fine = status != UNS_ECORRUPT;
      if (!fine) break;
      if (status != UNS_OK) result = UNS_CHANNEL_NO_MEMORY; /* which its asker raises */
      else if (words->state == UNS_QUESTION_SEND) result = uns_shared_channel_send(channel, &item);
      else if (words->state == UNS_QUESTION_APPEND) result = uns_shared_channel_append(channel, &item);
      else result = uns_shared_channel_put_back(channel, &item);
      answer(child, words->request, result, true);
      break;
    default: fine = false;
  }
  uns_channel_item_deinit(&item);
  uns_shared_unref(channel);
  return fine;
}

/* ---- the end ---- */

void uns_channels_clear(uns_child *child) {
  uns_service *service = &child->service;
  uns_link *link;
  for (unsigned slot = 0; slot < UNS_LOANS; slot++) {
    if (service->loans[slot].loan != NULL) recall(service, &service->loans[slot]);
  }
  service->loan_window = 0;
  while (!uns_list_empty(&service->waits)) {
    child_wait *mine = uns_container_of(service->waits.next, child_wait, link);
    uns_channel_wait *wait = mine->wait;
    if (wait->choice != NULL) uns_choice_take(wait->choice);
    wait->owner = NULL;
    if (uns_channel_wait_end(wait) == UNS_WAIT_GIVEN && !wait->sends) {
      keep_given(mine);
      continue;
    }
    forget(mine);
    uns_channel_wait_unref(wait);
  }
  while (!uns_list_empty(&service->groups)) forget_group(uns_container_of(service->groups.next, child_group, link));
  /* Those who wait are served in the order in which the child was; the rest goes back in front, the last one first. */
  for (uns_link *next = service->given.next; (link = next) != &service->given;) {
    child_wait *mine = uns_container_of(link, child_wait, link);
    next = link->next;
    mine->wait->owner = NULL;
    if (!uns_channel_wait_hand_on(mine->wait)) continue;
    uns_list_remove(&mine->link);
    uns_free(mine);
  }
  while ((link = service->given.prev) != &service->given) put_back(uns_container_of(link, child_wait, link));
}
