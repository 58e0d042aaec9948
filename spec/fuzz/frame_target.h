/*
 * frame_target: any bytes as frames that another process has sent, and any words on the board of the memory shared
 * with it.
 *
 * An input whose first byte is below 128 is a stream of frames for one port: for each a byte of flags, two of its size,
 * its bytes. Where a flag says so, the head is made to fit, for else hardly any would get past the first look.
 * Another input is a list of what happens to a ring: what the other side writes on the board, and what we do.
 */
#ifndef FRAME_TARGET_H
#define FRAME_TARGET_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/lent.h"
#include "core/reader.h"
#include "exec/frame.h"
#include "exec/frame_format.h"
#include "exec/ring.h"

enum { FRAME_CELLS = 32, FRAME_FIX_SIZE = 1, FRAME_FIX_HEAD = 2, FRAME_OWN = 4 };

static void frame_die(const char *what) {
  fprintf(stderr, "frame target: %s\n", what);
  abort();
}

/* ---- frames ---- */

typedef struct frame_owner {
  uns_cell *cells[FRAME_CELLS]; /* one reference each */
} frame_owner;

static int frame_import_cell(void *owner, uint64_t id, bool by_task, uns_cell **cell) {
  uns_cell **place = ((frame_owner *)owner)->cells + id % FRAME_CELLS;
  if (id > UINT32_MAX) return UNS_ECORRUPT;
  if (*place == NULL) *place = uns_cell_new();
  if (*place == NULL) return UNS_ENOMEM;
  (*place)->by_task = by_task;
  *cell = uns_shared_ref(*place);
  return UNS_OK;
}

static void frame_import_outcome(void *owner, uns_cell *cell, uint64_t id, uns_cell_state state, uns_packet *outcome) {
  (void)owner;
  (void)id;
  uns_cell_settle(cell, state, outcome);
}

static int frame_import_channel(void *owner, uint64_t id, uns_shared_channel **channel) {
  (void)owner;
  if (id > UINT32_MAX) return UNS_ECORRUPT;
  *channel = uns_shared_channel_new((size_t)id);
  return *channel != NULL ? UNS_OK : UNS_ENOMEM;
}

/* The end of `*from`, as many bytes as all that is left there, in memory of just that size. */
static uint8_t *frame_exact(const uint8_t *from, size_t size) {
  uint8_t *copy = malloc(size > 0 ? size : 1);
  if (copy == NULL) frame_die("no memory");
  if (size > 0) memcpy(copy, from, size);
  return copy;
}

static void frame_fix(uint8_t *bytes, size_t size, unsigned flags) {
  frame_head head;
  if (size < sizeof head) return;
  memcpy(&head, bytes, sizeof head);
  if (flags & FRAME_FIX_SIZE) {
    head.magic = FRAME_MAGIC;
    head.size_bytes = size;
    head.words.kind = head.words.kind % UNS_FRAME_KINDS;
  }
  if (flags & FRAME_FIX_HEAD) {
    head.object_count %= 8;
    head.packet_count = 1 + head.packet_count % 4;
    head.ref_count %= 16;
    uint64_t all = sizeof head + head.object_count * sizeof(frame_object) + head.packet_count * sizeof(frame_packet) +
                   head.ref_count * sizeof(uint32_t);
    for (int i = 0; i < UNS_TEXTS; i++) all += head.text_bytes[i] %= 16;
    head.head_bytes = (uint32_t)all;
  }
  memcpy(bytes, &head, sizeof head);
}

/* Whoever gets a packet reads it. */
static void frame_touch(const uns_packet *packet) {
  unsigned sum = 0;
  for (size_t i = 0; i < packet->size_bytes; i++) sum += packet->bytes[i];
  for (uint32_t i = 0; i < packet->ref_count; i++) {
    if (packet->refs[i]->class->kind != UNS_SHARED_LENT) continue;
    const uns_lent *lent = uns_container_of(packet->refs[i], uns_lent, base);
    for (size_t k = 0; k < lent->size_bytes; k++) sum += (unsigned char)lent->bytes[k];
  }
  if (sum == UINT32_MAX) frame_die("impossible");
  uns_reader reader;
  uns_reader_open(&reader, packet);
  uns_reader_close(&reader);
}

static void frame_one(uns_port *port, uint8_t *bytes, size_t size, bool own) {
  uns_message message;
  if (size >= UNS_FRAME_HEAD) uns_frame_size(bytes);
  if (uns_frame_read(port, bytes, size, &message) != UNS_OK) return;
  for (int i = 0; i < UNS_TEXTS; i++) {
    if (message.texts[i] != NULL && strlen(message.texts[i]) > size) frame_die("a text without an end");
  }
  if (memchr(message.words.error_code, 0, sizeof message.words.error_code) == NULL) frame_die("a code without an end");
  if (own && uns_frame_own(&message.packet) == UNS_OK) memset(bytes, 0xee, size);
  frame_touch(&message.packet);
  if (message.words.kind == UNS_FRAME_CALL || message.words.kind == UNS_FRAME_RESULT) {
    uns_mailbox *home = uns_mailbox_new();
    uns_function *function = uns_function_of_message(&message, NULL);
    uns_job *job = home != NULL && function != NULL ? uns_job_new(home, function) : NULL;
    if (job == NULL) frame_die("no memory");
    uns_shared_unref(uns_function_of_message(&message, function));
    uns_message_end_job(&message, job);
    uns_job_free(job);
    uns_shared_unref(function);
    uns_mailbox_unref(home);
  }
  uns_message_deinit(&message);
}

static void frame_stream(const uint8_t *data, size_t size) {
  static const uns_port_ops ops = {
      .import_cell = frame_import_cell, .import_outcome = frame_import_outcome, .import_channel = frame_import_channel};
  frame_owner owner = {{NULL}};
  uns_port port;
  uns_port_init(&port, &ops, &owner);
  while (size >= 3) {
    unsigned flags = data[0];
    size_t asked = (size_t)(data[1] | data[2] << 8), now = asked < size - 3 ? asked : size - 3;
    uint8_t *bytes = frame_exact(data + 3, now);
    frame_fix(bytes, now, flags);
    frame_one(&port, bytes, now, (flags & FRAME_OWN) != 0);
    free(bytes);
    data += 3 + now;
    size -= 3 + now;
  }
  uns_port_deinit(&port);
  for (int i = 0; i < FRAME_CELLS; i++) {
    if (owner.cells[i] == NULL) continue;
    uns_packet outcome = owner.cells[i]->outcome; /* cells may hold themselves */
    uns_packet_init(&owner.cells[i]->outcome);
    uns_packet_deinit(&outcome);
    uns_shared_unref(owner.cells[i]);
  }
}

/* ---- the ring ---- */

/* The mad one's words: small, near the ends, near what was there. */
static uint64_t frame_word(uint8_t kind, uint8_t value, uint64_t near) {
  switch (kind % 5) {
    case 0: return value;
    case 1: return near + value;
    case 2: return near - value;
    case 3: return (uint64_t)value << 56 | value;
    default: return near + ((uint64_t)value << 15);
  }
}

static void frame_ring(const uint8_t *data, size_t size) {
  static uns_wire wire;
  if (wire.base == NULL) {
    int fd = uns_wire_create();
    if (fd < 0 || uns_wire_map(&wire, fd) != 0) frame_die("no memory");
    close(fd);
  }
  uns_ring *rings[] = {&wire.to_child, &wire.to_host};
  memset(wire.board, 0, sizeof *wire.board);
  wire.to_child.position = wire.to_child.origin = wire.to_host.position = wire.to_host.origin = 0;
  const uint8_t *bytes;
  for (; size >= 4; data += 4, size -= 4) {
    uns_ring *ring = rings[data[0] & 1];
    uns_ring_words *words = ring->words;
    uint64_t word = frame_word(data[2], data[3], ring->position);
    switch (data[1] % 8) {
      case 0: atomic_store(&words->tail, word); break;
      case 1: atomic_store(&words->head, word); break;
      case 2: atomic_store(&words->origin, word); break;
      case 3: atomic_store(&words->writer_waits, data[3]); break;
      case 4: { /* what we read lies in the mapping, from its first byte to its last */
        int64_t there = uns_ring_peek(ring, &bytes);
        if (there == UNS_RING_BAD || there == 0) break;
        if (bytes < ring->data || there > UNS_RING_BYTES || bytes + there > ring->data + 2 * (size_t)UNS_RING_BYTES) {
          frame_die("outside of the ring");
        }
        volatile uint8_t touched = bytes[0];
        touched = bytes[there - 1];
        (void)touched;
        if (there >= UNS_FRAME_HEAD) uns_frame_size(bytes);
        uns_ring_consume(ring, (size_t)there < data[3] ? (size_t)there : data[3]);
        break;
      }
      case 5: {
        int64_t room = uns_ring_room(ring);
        if (room == UNS_RING_BAD || room == 0) break;
        uint8_t *place = uns_ring_place(ring);
        if (room > UNS_RING_BYTES || place < ring->data || place + room > ring->data + 2 * (size_t)UNS_RING_BYTES) {
          frame_die("outside of the ring");
        }
        place[0] = place[room - 1] = data[3];
        uns_ring_publish(ring, (size_t)room < data[3] ? (size_t)room : data[3]);
        break;
      }
      case 6: uns_ring_ask_for_room(ring, uns_ring_room(ring)); break;
      default: uns_ring_has_news(ring);
    }
  }
}

static inline int frame_target(const uint8_t *data, size_t size) {
  if (size < 1) return 0;
  if (data[0] < 128) frame_stream(data + 1, size - 1);
  else frame_ring(data + 1, size - 1);
  return 0;
}

#endif
