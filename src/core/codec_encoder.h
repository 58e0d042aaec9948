/*
 * codec_encoder: what the three rooms of the encoder share. Nobody else includes this.
 *
 * All of it runs in the frame of uns_codec_encoder, and raises what goes wrong. Indices are absolute.
 * Values and their order: codec_encode.c. Tables: codec_encode_table.c. Functions and objects: codec_encode_object.c.
 */
#ifndef UNS_CODEC_ENCODER_H
#define UNS_CODEC_ENCODER_H

#include <lua.h>
#include <string.h>

#include "core/codec_memo.h"
#include "core/codec_path.h"
#include "core/codec_state.h"
#include "core/packet.h"
#include "core/tags.h"

#define UNS_PACK_HOOK "__unsync_pack"

/* Content that was put off. Its object is in the queue at the same place, from 1. */
typedef struct uns_put_off {
  size_t at;          /* offset of its tag */
  uint32_t first_own; /* OBJECT: index of its first shared object */
  uint32_t level;     /* how many were put off one inside the other before it */
  uint64_t root;      /* number of the outermost of them, of all that were put off */
} uns_put_off;

typedef struct uns_encoder {
  lua_State *L;
  uns_codec *codec;
  uns_packet *packet;
  const uns_codec_names *names;
  int count;      /* of the values */
  uns_memo *memo; /* the codec's, or its own where that is in use */
  uns_memo own_memo;
  uns_place *place; /* innermost */
  int depth, rebuilding;
  int slots;          /* the stack index before those below */
  bool modules_known; /* the memo has package.loaded */
  const void *globals;
  const void *metatable; /* the last one met, and what is known of it */
  uint64_t metatable_word;
  uint32_t string_count, name_count, kept_count;
  uns_put_off *items; /* owned */
  size_t item_count, item_capacity;
  uint64_t put_off_count;
  const uns_put_off *item; /* whose content is being written, or NULL */
  uint64_t sought;         /* stop where this one is put off: its path is asked for */
  int code;                /* what uns_codec_encode returns for the error that is raised */
} uns_encoder;

/* Tables on the stack, made when needed: content put off, and what must live to the end. */
enum { UNS_SLOT_QUEUE = 1, UNS_SLOT_KEPT, UNS_SLOT_COUNT = UNS_SLOT_KEPT };

_Noreturn void uns_encoder_no_memory(uns_encoder *e);
/* Raises "unsendable: argument 2.conn.socket: " and the formatted reason, of the code "unsendable", with `path`. */
_Noreturn void uns_encoder_refuse(uns_encoder *e, const char *format, ...);
/* The same, because of the type of the value at `i`. */
_Noreturn void uns_encoder_refuse_type(uns_encoder *e, int i);
/* The content of what was written at `at` comes later. Its object is on top of the stack: popped. */
void uns_encoder_put_off(uns_encoder *e, size_t at, uint32_t first_own);
/* Keeps the value at `i` alive, and so its address its own, until the packet is done. */
void uns_encoder_keep(uns_encoder *e, int i);
/* Enters the names of a module and of a field (nil: the module itself), which lie on top of the stack (popped), into the
   table of names; the index. `address` stands for the two, as long as the packet is being written. */
uint32_t uns_encoder_add_name(uns_encoder *e, const void *address);
/* Takes over `owned`. */
uint32_t uns_encoder_add_ref(uns_encoder *e, uns_shared *owned);

void uns_put_value(uns_encoder *e, int i);
void uns_put_string(uns_encoder *e, int i, bool key);
/* A mention of an object that is known. */
void uns_put_again(uns_encoder *e, uint64_t word);
/* The content that was put off since the queue was `from` long, and what that puts off, until there is none. */
void uns_put_queue(uns_encoder *e, size_t from);

void uns_put_table(uns_encoder *e, int i);
/* Behind a table's tag at `at`: its content, and the counts before it. */
void uns_put_table_content(uns_encoder *e, int i, size_t at);

void uns_put_function(uns_encoder *e, int i);
void uns_put_userdata(uns_encoder *e, int i);
/* By name, or not at all. */
void uns_put_named(uns_encoder *e, int i);
/* A table or a userdata with UNS_PACK_HOOK, which is in the memo already. */
void uns_put_rebuilt(uns_encoder *e, int i);
/* The upvalues of the function at `i`, written at `at`. */
void uns_put_upvalues(uns_encoder *e, int i, size_t at, int count);
/* Light userdata is one of the object's shared objects, which are in the packet one behind the other. */
void uns_put_parts(uns_encoder *e, int first, int count, uint32_t first_own);

/* What is known of `object`; where nothing is, it is entered with `word`, and 0 returned. */
static inline uint64_t uns_encoder_recall(uns_encoder *e, const void *object, uint64_t word) {
  uint64_t known;
  if (!uns_memo_recall(e->memo, object, word, &known)) uns_encoder_no_memory(e);
  return known;
}

/* ---- bytes ---- */

/* Makes `size` bytes of room. */
void uns_encoder_grow(uns_encoder *e, size_t size);

/* Where the next `size` bytes go; what is written there is added with `wrote`. */
static inline uint8_t *room(uns_encoder *e, size_t size) {
  uns_packet *packet = e->packet;
  if (packet->capacity_bytes - packet->size_bytes < size) uns_encoder_grow(e, size);
  return packet->bytes + packet->size_bytes;
}
static inline void wrote(uns_encoder *e, size_t size) { e->packet->size_bytes += size; }
static inline size_t here(const uns_encoder *e) { return e->packet->size_bytes; }

static inline void put_byte(uns_encoder *e, unsigned byte) {
  *room(e, 1) = (uint8_t)byte;
  wrote(e, 1);
}

static inline void put_tagged(uns_encoder *e, unsigned tag, uint64_t number) {
  uint8_t *to = room(e, 11);
  to[0] = (uint8_t)tag;
  wrote(e, 1 + uns_write_varint(to + 1, number));
}

#endif
