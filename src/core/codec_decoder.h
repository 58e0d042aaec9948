/*
 * codec_decoder: what the rooms of the decoder share. Nobody else includes this.
 *
 * All of it runs in the frame of uns_codec_decoder, and raises what goes wrong. What is pushed finds room on the stack
 * that its caller has made.
 * Values and their order, tables: codec_decode.c. Functions and objects: codec_decode_object.c. What is called by its
 * name: codec_decode_names.c.
 */
#ifndef UNS_CODEC_DECODER_H
#define UNS_CODEC_DECODER_H

#include "core/codec_state.h"
#include "core/packet.h"
#include "core/tags.h"

enum { UNS_REBUILT_DEPTH = 16 }; /* of objects that a function of theirs rebuilds, one in the other */

/* Stack slots at the bottom of the frame; nil until needed. */
enum { UNS_SLOT_SELF = 1, UNS_SLOT_REMEMBERED, UNS_SLOT_STRINGS, UNS_SLOT_PUT_OFF, UNS_SLOT_NAMED };

/* Content that was put off. Its object is in the queue at the same place, from 1. */
typedef struct uns_later {
  uint8_t tag;
  uint32_t items, pairs; /* of a table; of a function or an object, `items` is the number of upvalues or parts */
  const uns_codec_class *class;
} uns_later;

/* What is called so, in the packet's bytes. */
typedef struct uns_name {
  const char *module, *field;
  size_t module_size, field_size;
  bool met; /* before: from the second time on it is kept in UNS_SLOT_NAMED */
} uns_name;

typedef struct uns_decoder {
  lua_State *L;
  uns_codec *codec;
  const uns_packet *packet;
  const uint8_t *at, *end;
  uint32_t count; /* of the values */
  int depth, rebuilding;
  uint64_t claims; /* how many fields there may be altogether, by the size of the packet */
  lua_Integer string_count;
  uns_later *items; /* owned */
  size_t item_count, item_capacity;
  uns_name *names; /* NULL: not read yet; owned, where it is not `few_names` */
  size_t name_count;
  int code;              /* what uns_codec_decode returns for the error that is raised */
  uns_name few_names[4]; /* last, as it is not zeroed */
} uns_decoder;

/* Raises that the message is damaged, in that way, where it is being read. */
_Noreturn void uns_decoder_corrupt(uns_decoder *d, const char *what);
_Noreturn void uns_decoder_no_memory(uns_decoder *d);

/* ---- bytes ---- */

static inline size_t left(const uns_decoder *d) { return (size_t)(d->end - d->at); }

/* Moves behind `size` bytes that must be there, and returns where they begin. */
static inline const uint8_t *take(uns_decoder *d, size_t size) {
  if (size > left(d)) uns_decoder_corrupt(d, "cut short");
  const uint8_t *from = d->at;
  d->at += size;
  return from;
}

static inline uint64_t take_varint(uns_decoder *d) {
  uint64_t value;
  if (!uns_read_varint(&d->at, d->end, &value)) uns_decoder_corrupt(d, "bad number");
  return value;
}

static inline uns_shared *take_ref(uns_decoder *d) {
  uint64_t ref = take_varint(d);
  if (ref >= d->packet->ref_count) uns_decoder_corrupt(d, "bad reference");
  return d->packet->refs[ref];
}

/* ---- codec_decode.c ---- */

/* Pushes the table in `slot`, made at its first use. */
void uns_decoder_push_slot(uns_decoder *d, int slot);
/* The value on top of the stack was written at `from`, with the SHARED bit. */
void uns_decoder_remember(uns_decoder *d, const uint8_t *from);
/* Pushes it again. */
void uns_decoder_push_remembered(uns_decoder *d);
/* The content of the object on top of the stack comes later. */
void uns_decoder_put_off(uns_decoder *d, uns_later later);
/* Reads what follows `tag` and pushes one value. */
void uns_push_tagged(uns_decoder *d, unsigned tag);

/* ---- codec_decode_object.c ---- */

void uns_push_function(uns_decoder *d, unsigned tag);
/* The values of the upvalues of the function on top of the stack. */
void uns_fill_function(uns_decoder *d, int count);
void uns_push_object(uns_decoder *d, unsigned tag);
/* Pushes `count` parts and lets the object below them take them. */
void uns_fill_object(uns_decoder *d, const uns_codec_class *class, int count);

/* ---- codec_decode_names.c ---- */

/* Pushes what a module holds, by the name whose number follows. */
void uns_push_named(uns_decoder *d);

#endif
