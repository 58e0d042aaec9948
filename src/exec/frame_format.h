/*
 * frame_format: how a frame lies in its bytes, for those who write and read it: frame.c, frame_read.c, port.c.
 *
 *     frame_head · frame_object for each object · frame_packet for each packet · u32 for each reference of each packet,
 *     the number of its object · the texts, each with its final zero · the packets' bytes · the objects' bytes
 *
 * The first packet is the message's own; the others are the outcomes of settled cells, in the order of these.
 */
#ifndef UNS_FRAME_FORMAT_H
#define UNS_FRAME_FORMAT_H

#include "exec/frame.h"

enum {
  FRAME_MAGIC = 0x46534e55, /* "UNSF" */
  FRAME_FEW = 16            /* objects up to which a list is searched from end to end */
};

enum { FLAG_FORGET = 1, FLAG_SAME_PATH = 2 };

typedef struct frame_head {
  uint32_t magic, head_bytes; /* up to where the packets' bytes begin */
  uint64_t size_bytes;
  struct uns_message_words words;
  uint32_t flags;
  uint32_t object_count, packet_count, ref_count;
  uint32_t text_bytes[UNS_TEXTS]; /* with the final zero; 0: none */
} frame_head;

enum { OBJECT_INLINE = 1, OBJECT_BY_TASK = 2, OBJECT_SETTLED = 4, OBJECT_LOOKED_AT = 8 };

typedef struct frame_object {
  uint8_t kind; /* uns_shared_kind */
  uint8_t flags;
  uint16_t unused;
  uint32_t packet; /* of a settled cell: the number of its outcome */
  uint32_t state;
  uint32_t unused_too;
  uint64_t name[2];    /* code: its hash. A cell or channel: its number; 0: a cell that has none */
  uint64_t size_bytes; /* of what lies at the end */
} frame_object;

typedef struct frame_packet {
  uint64_t size_bytes;
  uint32_t ref_count, unused;
} frame_packet;

_Static_assert(offsetof(frame_head, words) == UNS_FRAME_HEAD, "the size comes first");
_Static_assert(sizeof(frame_head) % 8 == 0, "no hole at the end");

/* ---- port.c: code that went over, by hash ---- */

void uns_codebook_clear(uns_codebook *book);
/* True: both ends forget all before the next frame, and begin anew. The writer says so in the frame. */
bool uns_codebook_full(const uns_codebook *book);
/* The entry of `hash`, or NULL. */
struct uns_codebook_entry *uns_codebook_find(const uns_codebook *book, const uint64_t hash[2]);
/* `hash` must not be in it. `code`, a reference or NULL, is taken over where it succeeds. */
int uns_codebook_add(uns_codebook *book, const uint64_t hash[2], uns_code *code, size_t size_bytes);
#endif
