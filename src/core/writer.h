/*
 * writer: values written into a packet one by one, without Lua: the results of native tasks.
 *
 *   - A table's values come as they are put: its list first is best, but any order will do.
 *   - What is nested deep is collected on the side and goes behind the rest, so depth has no limit.
 *   - After a failure nothing is written any more; the packet is good for nothing but to be deinit'ed. One thread.
 * How values lie there: core/tags.h. From Lua: core/codec.h.
 */
#ifndef UNS_WRITER_H
#define UNS_WRITER_H

#include "core/reader.h"

typedef struct uns_segment uns_segment;
typedef struct uns_open_table uns_open_table;
typedef struct uns_fixup uns_fixup;

typedef struct uns_writer {
  uns_packet *packet;   /* borrowed */
  uns_segment *main;    /* owned, with all that hang on it */
  uns_open_table *open; /* those begun and not ended, outermost first; owned */
  uint32_t open_count, open_room;
  uns_fixup *fixups; /* references to what has no offset yet; owned */
  size_t fixup_count, fixup_room;
  const uns_reader *reader;  /* whose tables were put; borrowed */
  struct uns_copied *copied; /* where they are now, by their index in reader->shared; owned */
  uint32_t count;            /* values put at top level */
  int status;                /* UNS_OK, UNS_ENOMEM, or UNS_ECORRUPT: misuse */
  const char *misuse;        /* what was wrong then; static */
} uns_writer;

/* `packet` must be empty. UNS_OK or UNS_ENOMEM. To be deinit'ed in any case. */
int uns_writer_init(uns_writer *writer, uns_packet *packet);
void uns_writer_deinit(uns_writer *writer);

/* Each puts one value: the next result, element, key or value of a pair. All return writer->status. */
int uns_writer_nil(uns_writer *writer);
int uns_writer_boolean(uns_writer *writer, bool value);
int uns_writer_integer(uns_writer *writer, int64_t value);
int uns_writer_number(uns_writer *writer, double value);
int uns_writer_string(uns_writer *writer, const char *bytes, size_t size_bytes);
/* A string that an uns_block or uns_lent holds. Takes over the caller's reference, whatever becomes of it. */
int uns_writer_held(uns_writer *writer, uns_shared *owned);
/* What `reader` shows, always the same one, open until the writer is deinit'ed; tables with all that is in them, but
   without their metatables, and shared ones once. Functions and objects are misuse. */
int uns_writer_item(uns_writer *writer, const uns_reader *reader, const uns_item *item);

int uns_writer_begin_table(uns_writer *writer);
int uns_writer_end_table(uns_writer *writer);
/* In a table: of the next two values, the first is a key and the second what is under it. */
int uns_writer_pair(uns_writer *writer);

/* Completes the packet. Misuse where a table is still open. */
int uns_writer_finish(uns_writer *writer);

/*
 * An error of the runtime and no traceback, as a failed call's packet holds them. `extra`, one more field of it, may
 * be NULL. UNS_OK, or UNS_ENOMEM with `packet`, which must be empty, empty again.
 */
int uns_write_error(uns_packet *packet, const char *code, const char *message, const char *extra, const char *value);

#endif
