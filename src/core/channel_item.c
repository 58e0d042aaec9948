/*
 * channel_item: what lies in a channel, as a value or as a packet; and the choices that waits at several channels share.
 * The channel itself: channel.c.
 */
#include "core/channel.h"
#include "core/writer.h"

/* ---- items ---- */

void uns_channel_item_deinit(uns_channel_item *item) {
  if (item->kind == UNS_SENT_PACKET) uns_packet_deinit(&item->as.packet);
  item->kind = UNS_SENT_NIL;
}

void uns_channel_item_move(uns_channel_item *to, uns_channel_item *from) {
  *to = *from;
  from->kind = UNS_SENT_NIL;
}

static int write_item(uns_writer *writer, const uns_channel_item *item) {
  switch (item->kind) {
    case UNS_SENT_FALSE: return uns_writer_boolean(writer, false);
    case UNS_SENT_TRUE: return uns_writer_boolean(writer, true);
    case UNS_SENT_INTEGER: return uns_writer_integer(writer, item->as.integer);
    case UNS_SENT_NUMBER: return uns_writer_number(writer, item->as.number);
    case UNS_SENT_BYTES: return uns_writer_string(writer, item->as.bytes, item->size);
    default: return uns_writer_nil(writer);
  }
}

int uns_channel_item_pack(uns_channel_item *item, uns_packet *packet) {
  if (item->kind == UNS_SENT_PACKET) {
    *packet = item->as.packet;
    item->kind = UNS_SENT_NIL;
    return UNS_OK;
  }
  uns_writer writer;
  int status = uns_writer_init(&writer, packet);
  if (status == UNS_OK) status = write_item(&writer, item);
  if (status == UNS_OK) status = uns_writer_finish(&writer);
  uns_writer_deinit(&writer);
  if (status != UNS_OK) uns_packet_deinit(packet);
  else item->kind = UNS_SENT_NIL;
  return status == UNS_OK ? UNS_OK : UNS_ENOMEM;
}

/* ---- choices ---- */

uns_choice *uns_choice_new(void) {
  uns_choice *choice = uns_malloc(sizeof *choice);
  if (choice == NULL) return NULL;
  atomic_init(&choice->count, 1);
  atomic_init(&choice->taken, false);
  choice->remote = NULL;
  choice->group = 0;
  choice->left = false;
  return choice;
}

uns_choice *uns_choice_ref(uns_choice *choice) {
  atomic_fetch_add_explicit(&choice->count, 1, memory_order_relaxed);
  return choice;
}

void uns_choice_unref(uns_choice *choice) {
  if (choice == NULL || atomic_fetch_sub_explicit(&choice->count, 1, memory_order_acq_rel) != 1) return;
  if (choice->group != 0 && !choice->left) choice->remote->forget(choice->remote, choice->group);
  uns_free(choice);
}

bool uns_choice_take(uns_choice *choice) {
  if (atomic_exchange(&choice->taken, true)) return false;
  if (choice->group == 0) return true;
  choice->left = true;
  return choice->remote->withdraw(choice->remote, choice->group);
}
