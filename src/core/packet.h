/*
 * packet: Lua values as flat bytes, plus counted references to what cannot be bytes inside one process.
 *
 * A value is one tag byte and what follows it: core/tags.h has the table of them. References are
 * named in the bytes by their index in `refs`.
 *   - A packet belongs to one thread at a time; handing it over hands over its bytes and references.
 *   - The reading side trusts nothing: every length, index and tag is checked.
 *   - An empty one stands for values that there was no memory to write.
 * Lua to packet and back: core/codec.h. Packets across processes: exec/frame.h.
 */
#ifndef UNS_PACKET_H
#define UNS_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/shared.h"

typedef struct uns_packet {
  uint8_t *bytes; /* owned */
  size_t size_bytes, capacity_bytes;
  uns_shared **refs; /* owned array, one reference each */
  uint32_t ref_count, ref_capacity;
} uns_packet;

/* Empty, without memory of its own. */
void uns_packet_init(uns_packet *packet);
/* Gives back bytes and references; the packet is empty again and may be used again. */
void uns_packet_deinit(uns_packet *packet);
/* Keeps the memory, gives back the references. */
void uns_packet_clear(uns_packet *packet);
/* Gives back the references, and keeps as much memory as most packets need. */
void uns_packet_empty(uns_packet *packet);
/* Moves all of `from` into `to` (which is deinit'ed first); `from` is empty afterwards. */
void uns_packet_move(uns_packet *to, uns_packet *from);
/* Deep copy of bytes, references counted. 0, or UNS_ENOMEM with `to` empty. */
int uns_packet_copy(uns_packet *to, const uns_packet *from);

/* Room for `size_bytes` more; NULL without memory (the packet stays as it was). `size_bytes` is added at once. */
uint8_t *uns_packet_grow(uns_packet *packet, size_t size_bytes);
/* Adds a reference, taking over the caller's; its index, or -1 without memory (the caller keeps it). */
int64_t uns_packet_add_ref(uns_packet *packet, uns_shared *owned);

enum { UNS_OK = 0, UNS_ENOMEM = -1, UNS_ECORRUPT = -2, UNS_ECLOSED = -3, UNS_ESYSTEM = -4, UNS_EUNSENDABLE = -5 };

#endif
