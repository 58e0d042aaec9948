#include "exec/parent_channels.h"

#include <string.h>

#include "exec/parent_inside.h"

/* A channel of the host that is known here. */
typedef struct proxy {
  uint64_t id;
  uns_shared_channel *channel; /* the stand-in; not counted: it tells us when it goes */
  uint64_t held;               /* references that came and are not given back */
  uint64_t sent;               /* how often its number went to the host in a frame */
} proxy;

static uns_parent_channels *of(uns_channel_remote *remote) {
  return uns_container_of(remote, uns_parent_channels, remote);
}

/* ---- stand-ins ---- */

/* The lock held. */
static proxy *add_proxy(uns_parent_channels *channels, uint64_t id) {
  proxy *added = uns_calloc(1, sizeof *added);
  if (added == NULL) return NULL;
  added->id = id;
  if (uns_table_put(&channels->known, id, added)) return added;
  uns_free(added);
  return NULL;
}

int uns_parent_export_channel(void *owner, uns_shared_channel *channel, uint64_t *id) {
  uns_parent_channels *channels = uns_parent_channels_of(owner);
  if (channel->remote != &channels->remote) return UNS_ECORRUPT;
  *id = channel->remote_id;
  uv_mutex_lock(&channels->lock);
  proxy *known = uns_table_get(&channels->known, *id);
  known->sent++;
  uv_mutex_unlock(&channels->lock);
  return UNS_OK;
}

void uns_parent_unexport_channel(void *owner, uint64_t id) {
  uns_parent_channels *channels = uns_parent_channels_of(owner);
  uv_mutex_lock(&channels->lock);
  proxy *known = uns_table_get(&channels->known, id);
  known->sent--;
  uv_mutex_unlock(&channels->lock);
}

int uns_parent_import_channel(void *owner, uint64_t id, uns_shared_channel **channel) {
  uns_parent_channels *channels = uns_parent_channels_of(owner);
  uv_mutex_lock(&channels->lock);
  proxy *known = uns_table_get(&channels->known, id);
  if (known == NULL) known = add_proxy(channels, id);
  if (known != NULL && known->channel != NULL && uns_shared_try_ref(known->channel)) {
    *channel = known->channel;
  } else if (known != NULL) { /* the last stand-in, if there was one, is going; it will find itself replaced */
    uns_shared_channel *fresh = uns_shared_channel_stand_in(&channels->remote, id);
    if (fresh != NULL) *channel = known->channel = fresh;
    else if (known->channel == NULL) uns_free(uns_table_take(&channels->known, id));
    if (fresh == NULL) known = NULL;
  }
  if (known != NULL) known->held++;
  uv_mutex_unlock(&channels->lock);
  return known != NULL ? UNS_OK : UNS_ENOMEM;
}

/* The last reference to a stand-in is gone: the host may let go, too. */
static void drop(uns_channel_remote *remote, uns_shared_channel *channel) {
  uns_parent_channels *channels = of(remote);
  uns_message message = {.words = {.kind = UNS_FRAME_UNREF, .id = channel->remote_id}};
  uv_mutex_lock(&channels->lock);
  proxy *known = uns_table_get(&channels->known, channel->remote_id);
  bool ours = known != NULL && known->channel == channel;
  if (ours) {
    message.words.count = known->held;
    message.words.request = known->sent;
    uns_free(uns_table_take(&channels->known, known->id));
  }
  uv_mutex_unlock(&channels->lock);
  if (ours) uns_parent_send(channels->parent, &message, NULL);
}

static uns_shared_channel *make(uns_channel_remote *remote, size_t capacity, bool closed) {
  uns_parent_channels *channels = of(remote);
  uint64_t id = uns_parent_number(channels->parent, true);
  uns_shared_channel *channel = uns_shared_channel_new(capacity);
  if (channel == NULL) return NULL;
  uns_message message = {.words = {.kind = UNS_FRAME_CHANNEL_MAKE, .id = id, .count = capacity, .first = closed}};
  uns_message answer;
  int status = uns_parent_ask(channels->parent, &message, NULL, &answer);
  bool made = status == UNS_OK && answer.words.first != 0;
  if (status == UNS_OK) uns_message_deinit(&answer);
  proxy *known = NULL;
  if (made) {
    uv_mutex_lock(&channels->lock);
    known = add_proxy(channels, id);
    if (known != NULL) {
      known->channel = channel;
      known->held = 1;
      channel->remote = remote;
      channel->remote_id = id;
    }
    uv_mutex_unlock(&channels->lock);
  }
  if (made && known == NULL) { /* it was for nothing */
    message = (uns_message){.words = {.kind = UNS_FRAME_UNREF, .id = id, .count = 1}};
    uns_parent_send(channels->parent, &message, NULL);
  }
  if (known != NULL) return channel;
  uns_shared_unref(channel);
  return NULL;
}

/* ---- questions ---- */

static uns_channel_result result_of(int status, uint32_t state) {
  if (status == UNS_OK) return state <= UNS_CHANNEL_NO_MEMORY ? (uns_channel_result)state : UNS_CHANNEL_CLOSED;
  return status == UNS_ECLOSED ? UNS_CHANNEL_CLOSED : UNS_CHANNEL_NO_MEMORY; /* closed: the program is ending */
}

static uns_channel_result ask(uns_shared_channel *channel, uns_channel_question question, uns_channel_item *item,
                              uns_message *answer) {
  uns_parent_channels *channels = of(channel->remote);
  uns_message message = {
      .words = {.kind = UNS_FRAME_CHANNEL_ASK, .id = channel->remote_id, .state = (uint32_t)question}};
  uns_packet packet;
  uns_packet_init(&packet);
  if (item != NULL && uns_channel_item_pack(item, &packet) != UNS_OK) return UNS_CHANNEL_NO_MEMORY;
  if (question == UNS_QUESTION_RECEIVE) message.words.sequence = uns_parent_number(channels->parent, false);
  int status = uns_parent_ask(channels->parent, &message, &packet, answer);
  uns_packet_deinit(&packet);
  if (status == UNS_OK) answer->words.sequence = message.words.sequence;
  return result_of(status, answer->words.state);
}

static uns_channel_result tell(uns_shared_channel *channel, uns_channel_question question, uns_channel_item *item) {
  uns_message answer = {.words = {.state = UNS_CHANNEL_CLOSED}};
  uns_channel_result result = ask(channel, question, item, &answer);
  uns_message_deinit(&answer);
  return result;
}

static uns_channel_result ask_to_send(uns_channel_remote *remote, uns_shared_channel *channel, uns_channel_item *item) {
  (void)remote;
  return tell(channel, UNS_QUESTION_SEND, item);
}

static uns_channel_result append(uns_channel_remote *remote, uns_shared_channel *channel, uns_channel_item *item) {
  (void)remote;
  return tell(channel, UNS_QUESTION_APPEND, item);
}

static uns_channel_result put_back(uns_channel_remote *remote, uns_shared_channel *channel, uns_channel_item *item) {
  (void)remote;
  return tell(channel, UNS_QUESTION_PUT_BACK, item);
}

static void close_there(uns_channel_remote *remote, uns_shared_channel *channel) {
  (void)remote;
  tell(channel, UNS_QUESTION_CLOSE, NULL);
}

static void acknowledge(uns_parent_channels *channels, uint64_t number) {
  uns_message message = {.words = {.kind = UNS_FRAME_CHANNEL_TOOK, .sequence = number}};
  uns_parent_send(channels->parent, &message, NULL);
}

static uns_channel_result ask_to_receive(uns_channel_remote *remote, uns_shared_channel *channel,
                                         uns_channel_item *item) {
  uns_message answer = {.words = {.state = UNS_CHANNEL_CLOSED}};
  uns_channel_result result = ask(channel, UNS_QUESTION_RECEIVE, NULL, &answer);
  if (result == UNS_CHANNEL_DONE) {
    item->kind = UNS_SENT_PACKET;
    item->as.packet = answer.packet;
    uns_packet_init(&answer.packet);
    acknowledge(of(remote), answer.words.sequence);
  }
  uns_message_deinit(&answer);
  return result;
}

static void look(uns_channel_remote *remote, uns_shared_channel *channel, uns_channel_state *state) {
  (void)remote;
  uns_message answer = {.words = {.first = true}};
  ask(channel, UNS_QUESTION_LOOK, NULL, &answer);
  *state = (uns_channel_state){.capacity = answer.words.limit,
                               .count = (size_t)answer.words.count,
                               .senders = answer.words.slot,
                               .receivers = (size_t)answer.words.exit_code,
                               .closed = answer.words.first != 0};
  uns_message_deinit(&answer);
}

/* ---- waits ---- */

static uns_channel_result begin(uns_channel_remote *remote, uns_channel_wait *wait) {
  uns_parent_channels *channels = of(remote);
  uns_choice *choice = wait->choice;
  wait->number = uns_parent_number(channels->parent, false);
  if (choice != NULL && choice->group == 0) {
    choice->remote = remote;
    choice->group = wait->number;
  }
  uns_packet packet;
  uns_packet_init(&packet);
  if (wait->sends && uns_channel_item_pack(&wait->item, &packet) != UNS_OK) return UNS_CHANNEL_NO_MEMORY;
  uv_mutex_lock(&channels->lock);
  bool kept = uns_table_put(&channels->waits, wait->number, wait);
  uv_mutex_unlock(&channels->lock);
  uns_message message = {.words = {.kind = UNS_FRAME_CHANNEL_WAIT,
                                   .id = wait->channel->remote_id,
                                   .sequence = wait->number,
                                   .count = choice != NULL ? choice->group : 0,
                                   .first = wait->sends}};
  int status = kept ? uns_parent_send(channels->parent, &message, &packet) : UNS_ENOMEM;
  uns_packet_deinit(&packet);
  if (status == UNS_OK) return UNS_CHANNEL_WAIT;
  uv_mutex_lock(&channels->lock);
  if (kept) uns_table_take(&channels->waits, wait->number);
  uv_mutex_unlock(&channels->lock);
  return UNS_CHANNEL_NO_MEMORY;
}

static bool is_open(uns_parent_channels *channels, const uns_channel_wait *wait) {
  uv_mutex_lock(&channels->lock);
  bool open = uns_table_get(&channels->waits, wait->number) != NULL;
  uv_mutex_unlock(&channels->lock);
  return open;
}

/* One alone leaves by asking the host; a group has left already, or will have. */
static void end(uns_channel_remote *remote, uns_channel_wait *wait) {
  uns_parent_channels *channels = of(remote);
  if (wait->choice == NULL && is_open(channels, wait)) {
    uns_message message = {.words = {.kind = UNS_FRAME_CHANNEL_LEAVE, .sequence = wait->number}};
    uns_message answer;
    if (uns_parent_ask(channels->parent, &message, NULL, &answer) == UNS_OK) uns_message_deinit(&answer);
  }
  uv_mutex_lock(&channels->lock);
  uns_table_take(&channels->waits, wait->number); /* where it is not there any more, it was told something */
  uv_mutex_unlock(&channels->lock);
}

static void took(uns_channel_remote *remote, uns_channel_wait *wait) { acknowledge(of(remote), wait->number); }

static void give_back(uns_channel_remote *remote, uns_channel_wait *wait) {
  uns_message message = {.words = {.kind = UNS_FRAME_CHANNEL_GIVE_BACK, .sequence = wait->number}};
  uns_message answer;
  if (uns_parent_ask(of(remote)->parent, &message, NULL, &answer) == UNS_OK) uns_message_deinit(&answer);
}

static bool withdraw(uns_channel_remote *remote, uint64_t group) {
  uns_message message = {.words = {.kind = UNS_FRAME_CHANNEL_LEAVE, .count = group}};
  uns_message answer;
  if (uns_parent_ask(of(remote)->parent, &message, NULL, &answer) != UNS_OK)
    return true; /* nobody is there to tell it */
  uns_message_deinit(&answer);
  return answer.words.first != 0;
}

static void forget(uns_channel_remote *remote, uint64_t group) {
  uns_message message = {.words = {.kind = UNS_FRAME_CHANNEL_LEAVE, .count = group}};
  uns_parent_send(of(remote)->parent, &message, NULL);
}

void uns_parent_channels_told(uns_parent_channels *channels, uns_message *message) {
  uv_mutex_lock(&channels->lock);
  uns_channel_wait *wait = uns_table_take(&channels->waits, message->words.sequence);
  uns_mailbox *mailbox = NULL;
  if (wait != NULL) {
    if (!wait->sends && message->words.state == UNS_WAIT_GIVEN) {
      wait->item.kind = UNS_SENT_PACKET;
      wait->item.as.packet = message->packet;
      uns_packet_init(&message->packet);
    }
    wait->told = (uint8_t)message->words.state;
    if (wait->choice != NULL) atomic_store(&wait->choice->taken, true);
    atomic_fetch_add_explicit(&wait->count, 1, memory_order_relaxed);
    mailbox = uns_mailbox_ref(wait->mailbox);
  }
  uv_mutex_unlock(&channels->lock);
  if (wait == NULL) { /* nobody is there to have it */
    uns_message back = {.words = {.kind = UNS_FRAME_CHANNEL_GIVE_BACK, .sequence = message->words.sequence}};
    if (message->words.state == UNS_WAIT_GIVEN && message->packet.size_bytes > 0)
      uns_parent_send(channels->parent, &back, NULL);
    return;
  }
  uns_mailbox_post(mailbox, &wait->mail);
  uns_mailbox_unref(mailbox);
}

/* ---- what is lent ---- */

int uns_parent_channels_ahead(uns_parent_channels *channels, uns_message *message) {
  if (message->words.slot >= UNS_LOANS || message->packet.size_bytes == 0) return UNS_ECORRUPT;
  uns_channel_ahead *ahead = uns_malloc(sizeof *ahead);
  if (ahead == NULL) return UNS_OK; /* the host has it, too */
  uns_list_init(&ahead->link);
  ahead->slot = message->words.slot;
  ahead->number = message->words.sequence;
  ahead->item.kind = UNS_SENT_PACKET;
  ahead->item.as.packet = message->packet;
  uns_packet_init(&message->packet);
  uv_mutex_lock(&channels->lock);
  const proxy *known = uns_table_get(&channels->known, message->words.id);
  uns_shared_channel *channel = known != NULL ? known->channel : NULL;
  bool there = channel != NULL && uns_shared_try_ref(channel);
  uv_mutex_unlock(&channels->lock);
  if (there) {
    uns_shared_channel_keep_ahead(channel, ahead);
    uns_shared_unref(channel);
  } else { /* the host hears of that, and recalls it */
    uns_channel_item_deinit(&ahead->item);
    uns_free(ahead);
  }
  return UNS_OK;
}

static bool claim(uns_channel_remote *remote, uint32_t slot, uint64_t number) {
  return uns_parent_claim(of(remote)->parent, slot, number);
}

/* ---- beginning and end ---- */

int uns_parent_channels_init(uns_parent_channels *channels, uns_parent *parent) {
  channels->remote = (uns_channel_remote){.make = make,
                                          .send = ask_to_send,
                                          .receive = ask_to_receive,
                                          .append = append,
                                          .put_back = put_back,
                                          .close = close_there,
                                          .look = look,
                                          .begin = begin,
                                          .end = end,
                                          .took = took,
                                          .give_back = give_back,
                                          .withdraw = withdraw,
                                          .forget = forget,
                                          .claim = claim,
                                          .drop = drop};
  channels->parent = parent;
  return uv_mutex_init(&channels->lock);
}

void uns_parent_channels_deinit(uns_parent_channels *channels) {
  for (uint32_t i = 0; i < channels->known.size; i++) uns_free(channels->known.entries[i].value);
  uns_free(channels->known.entries);
  uns_free(channels->waits.entries);
  uv_mutex_destroy(&channels->lock);
}
