/*
 * codec_memo: where each object of a packet was written, by its address.
 *
 * Kept from packet to packet, and emptied by beginning a new epoch. One encoder at a time.
 *   - An address is only good as long as its object lives: what is temporary, the encoder keeps alive.
 *   - Strings that Lua interns have a small cache of their own, which forgets.
 */
#ifndef UNS_CODEC_MEMO_H
#define UNS_CODEC_MEMO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct uns_memo {
  struct uns_memo_entry {
    uintptr_t key;
    uint64_t word;
  } * entries; /* open addressing; an entry of another epoch is a free one */
  size_t mask, used;
  unsigned epoch; /* 1 to UNS_MEMO_EPOCHS - 1 */
  struct uns_memo_string {
    const char *bytes;
    uint16_t epoch;
    bool key;       /* of a table, as field names are: stays, where the two collide */
    int32_t number; /* -1: was seen once */
  } * strings;
  uint8_t *names; /* the table of names, as it is built */
  size_t names_bytes, names_capacity;
} uns_memo;

/* What a packet is known to hold: epoch, kind, a small number, an offset or index. */
typedef enum {
  UNS_MEMO_WRITTEN,    /* at the offset; with a number, that upvalue of the function there */
  UNS_MEMO_NAMED,      /* the index of its name */
  UNS_MEMO_MODULE,     /* crosses by a name, which is not written yet */
  UNS_MEMO_REBUILDING, /* its parts are being written */
  UNS_MEMO_CODE,       /* the index of its reference */
  UNS_MEMO_META_VALUE, /* of a metatable, under its address + 1: it crosses by value */
  UNS_MEMO_META_NAMED, /* by name */
  UNS_MEMO_META_PACKS  /* objects with it pack themselves */
} uns_memo_kind;

static inline uint64_t uns_memo_word(uns_memo_kind kind, unsigned number, uint64_t offset) {
  return (uint64_t)kind << 48 | (uint64_t)number << 40 | offset;
}
static inline uns_memo_kind uns_word_kind(uint64_t word) { return (uns_memo_kind)(word >> 48 & 0xf); }
static inline unsigned uns_word_number(uint64_t word) { return word >> 40 & 0xff; }
static inline uint64_t uns_word_offset(uint64_t word) { return word & (((uint64_t)1 << 40) - 1); }

enum { UNS_MEMO_EPOCHS = 4096, UNS_MEMO_STRINGS = 512 };

/* Forgets everything. False without memory. */
bool uns_memo_begin(uns_memo *memo);
/* Gives back what is too large for the next, probably small packet: it would find nothing of it in the cache. */
void uns_memo_end(uns_memo *memo);
void uns_memo_deinit(uns_memo *memo);
/* Room for one more entry. False without memory. */
bool uns_memo_grow(uns_memo *memo);
/* Room for `count` more, if there is memory: saves growing step by step. */
void uns_memo_expect(uns_memo *memo, size_t count);

static inline size_t uns_memo_first(const uns_memo *memo, uintptr_t key) {
  return (size_t)((uint64_t)key * UINT64_C(0x9e3779b97f4a7c15) >> 20) & memo->mask;
}

static inline struct uns_memo_entry *uns_memo_place(const uns_memo *memo, uintptr_t key) {
  size_t i = uns_memo_first(memo, key);
  while (memo->entries[i].word >> 52 == memo->epoch && memo->entries[i].key != key) i = (i + 1) & memo->mask;
  return &memo->entries[i];
}

/* `key` will be asked for soon, and so will what lies there. */
static inline void uns_memo_fetch(const uns_memo *memo, const void *key) {
  __builtin_prefetch(key);
  __builtin_prefetch(&memo->entries[uns_memo_first(memo, (uintptr_t)key)]);
}

/* What is known of `key`: never 0. Where nothing is, it is entered with `word`, and `*known` set to 0. False without memory. */
static inline bool uns_memo_recall(uns_memo *memo, const void *key, uint64_t word, uint64_t *known) {
  struct uns_memo_entry *entry = uns_memo_place(memo, (uintptr_t)key);
  if (entry->word >> 52 == memo->epoch) {
    *known = entry->word;
    return true;
  }
  if (memo->used >= memo->mask / 2) {
    if (!uns_memo_grow(memo)) return false;
    entry = uns_memo_place(memo, (uintptr_t)key);
  }
  entry->key = (uintptr_t)key;
  entry->word = (uint64_t)memo->epoch << 52 | word;
  memo->used++;
  *known = 0;
  return true;
}

/* Says something else of what is known. */
static inline void uns_memo_revise(uns_memo *memo, const void *key, uint64_t word) {
  uns_memo_place(memo, (uintptr_t)key)->word = (uint64_t)memo->epoch << 52 | word;
}

#endif
