/*
 * reader: a packet's values read where they lie, without Lua: for native tasks, and whoever must look into a message.
 *
 * Opening it goes once through the whole packet, checks every tag, length and reference, and notes where to find what
 * is out of line. After that reading cannot fail.
 *   - Nothing is copied and nothing is changed: a reader is valid as long as its packet stays as it is. One thread.
 *   - What is found at one offset is one thing: tables are the same if their places are.
 * How values lie there: core/tags.h. Into Lua: core/codec.h.
 */
#ifndef UNS_READER_H
#define UNS_READER_H

#include "core/packet.h"

typedef enum {
  UNS_ITEM_NIL,
  UNS_ITEM_BOOLEAN, /* as.integer: 0 or 1 */
  UNS_ITEM_INTEGER,
  UNS_ITEM_NUMBER,
  UNS_ITEM_STRING,   /* as.place, for uns_reader_string */
  UNS_ITEM_TABLE,    /* as.place, for uns_walk and its like */
  UNS_ITEM_FUNCTION, /* can be told, not read */
  UNS_ITEM_OBJECT    /* the same: futures, what a module holds, … */
} uns_item_type;

typedef struct uns_item {
  uns_item_type type;
  union {
    int64_t integer;
    double number;
    size_t place;
  } as;
  size_t origin; /* offset of this occurrence, which may be a reference to the place */
} uns_item;

/* Something whose content, or end, is found elsewhere in the packet. */
typedef struct uns_reader_later {
  size_t tag, content;
} uns_reader_later;

typedef struct uns_reader {
  const uns_packet *packet;
  size_t end;     /* of the values */
  uint32_t count; /* values in the packet */
  size_t *values; /* their offsets; owned, as are the others; ascending, as are the others */
  size_t *strings, string_count, string_room; /* those with a number */
  size_t *shared, shared_count, shared_room;  /* tags that others refer to */
  uns_reader_later *later;
  size_t later_count, later_room;
} uns_reader;

/* UNS_OK, UNS_ENOMEM or UNS_ECORRUPT. To be closed in any case. An empty packet has no values. */
int uns_reader_open(uns_reader *reader, const uns_packet *packet);
void uns_reader_close(uns_reader *reader);

/* Value `index`, from 0, below `count`. */
uns_item uns_reader_value(const uns_reader *reader, uint32_t index);
/* The bytes of the string at `place`. `*ref`, where not NULL: the shared object that holds them, or NULL (borrowed). */
const char *uns_reader_string(const uns_reader *reader, size_t place, size_t *size_bytes, uns_shared **ref);
/* Where `place` is among the tags that others refer to; -1: nobody does. */
ptrdiff_t uns_reader_shared(const uns_reader *reader, size_t place);

/* The list in the table at `place`: its elements 1 to this many lie one behind the other. */
uint32_t uns_reader_length(const uns_reader *reader, size_t place);
/* How many pairs there are besides. */
uint32_t uns_reader_pairs(const uns_reader *reader, size_t place);

/* A walk through a table. All zero, but for `table`: at its start. */
typedef struct uns_walk {
  size_t table;           /* its place */
  size_t at;              /* offset of what comes next; 0: not started */
  uint32_t element, pair; /* how many of the list, of the pairs, are done */
  uint32_t run;           /* how many of the run at hand are left */
  uint8_t run_tag;
} uns_walk;

/* The next pair; false: no more. First the list's elements in order, with integers for keys, then the others. */
bool uns_walk_next(const uns_reader *reader, uns_walk *walk, uns_item *key, uns_item *value);
/* Moves on so that element `index` (from 1, and behind those that are done) comes next; with one more than the length,
   the first pair. Fast where the list is made of numbers. */
void uns_walk_to(const uns_reader *reader, uns_walk *walk, uint32_t index);

#endif
