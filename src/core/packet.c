#include "core/packet.h"

#include <string.h>

#include "base/base.h"

void uns_packet_init(uns_packet *packet) { memset(packet, 0, sizeof *packet); }

static void drop_refs(uns_packet *packet) {
  for (uint32_t i = 0; i < packet->ref_count; i++) uns_shared_unref(packet->refs[i]);
  packet->ref_count = 0;
}

void uns_packet_clear(uns_packet *packet) {
  drop_refs(packet);
  packet->size_bytes = 0;
}

void uns_packet_deinit(uns_packet *packet) {
  drop_refs(packet);
  uns_free(packet->bytes);
  uns_free(packet->refs);
  uns_packet_init(packet);
}

void uns_packet_empty(uns_packet *packet) {
  enum { KEPT_BYTES = 1024, KEPT_REFS = 16 };
  if (packet->capacity_bytes > KEPT_BYTES || packet->ref_capacity > KEPT_REFS) uns_packet_deinit(packet);
  else uns_packet_clear(packet);
}

void uns_packet_move(uns_packet *to, uns_packet *from) {
  uns_packet_deinit(to);
  *to = *from;
  uns_packet_init(from);
}

int uns_packet_copy(uns_packet *to, const uns_packet *from) {
  uns_packet_init(to);
  uint8_t *bytes = uns_packet_grow(to, from->size_bytes);
  if (from->size_bytes > 0 && bytes == NULL) return UNS_ENOMEM;
  if (from->size_bytes > 0) memcpy(bytes, from->bytes, from->size_bytes);
  for (uint32_t i = 0; i < from->ref_count; i++) {
    uns_shared *ref = uns_shared_ref(from->refs[i]);
    if (uns_packet_add_ref(to, ref) < 0) {
      uns_shared_unref(ref);
      uns_packet_deinit(to);
      return UNS_ENOMEM;
    }
  }
  return UNS_OK;
}

uint8_t *uns_packet_grow(uns_packet *packet, size_t size_bytes) {
  if (size_bytes > packet->capacity_bytes - packet->size_bytes) {
    if (size_bytes > SIZE_MAX / 2 - packet->size_bytes) return NULL;
    size_t capacity = packet->capacity_bytes < 64 ? 64 : packet->capacity_bytes;
    while (capacity < packet->size_bytes + size_bytes) capacity *= 2;
    uint8_t *bytes = uns_realloc(packet->bytes, capacity);
    if (bytes == NULL) return NULL;
    packet->bytes = bytes;
    packet->capacity_bytes = capacity;
  }
  uint8_t *room = packet->bytes + packet->size_bytes;
  packet->size_bytes += size_bytes;
  return room;
}

int64_t uns_packet_add_ref(uns_packet *packet, uns_shared *owned) {
  if (packet->ref_count == packet->ref_capacity) {
    if (packet->ref_capacity > UINT32_MAX / 2) return -1;
    uint32_t capacity = packet->ref_capacity == 0 ? 4 : packet->ref_capacity * 2;
    uns_shared **refs = uns_realloc(packet->refs, capacity * sizeof *refs);
    if (refs == NULL) return -1;
    packet->refs = refs;
    packet->ref_capacity = capacity;
  }
  packet->refs[packet->ref_count] = owned;
  return packet->ref_count++;
}
