#include "core/writer.h"

#include <string.h>

#include "base/base.h"
#include "core/tags.h"

/*
 * A run of bytes that will lie together. The main one is the packet's own; one for each table that is nested too deep
 * is placed behind it at the end, in the order in which a reader will come to want them.
 */
struct uns_segment {
  uns_packet own;                /* bytes only */
  uns_packet *to;                /* where its bytes go: `own`, or the packet itself */
  size_t base;                   /* offset of its first byte in the packet */
  bool placed;                   /* `base` is known */
  const uns_reader *reader;      /* NULL, or: the content is copied when it is placed, */
  size_t table;                  /* from the table there */
  uns_segment *children, **last; /* owned */
  uns_segment *next;             /* its parent's next child; from placing on, the next in line */
};

struct uns_open_table {
  uns_segment *head_in, *into; /* where its tag is, where its content goes */
  size_t head_at;              /* offset of its tag in `head_in` */
  int depth;                   /* of its content in `into` */
  uint32_t list, pairs;
  uint64_t elements; /* values put without a key: `list`, and those that came behind a pair */
  enum { ELEMENT, KEY, VALUE } next;
  /* Numbers of a kind, one after the other, become a run: the last value put into the list, if it was one. */
  uint8_t last;   /* its tag: INT64 or FLOAT for a single one, INTS64 or FLOATS for a run; 0: something else */
  size_t last_at; /* offset of that tag in `into` */
  int64_t last_integer;
};

struct uns_fixup {
  uns_segment *in, *target;
  size_t at, target_at; /* offsets in those: of REF_BYTES to be written; of the tag meant */
};

struct uns_copied {
  uns_segment *in; /* NULL: not yet */
  size_t at;
};

enum {
  DEPTH_MAX = UNS_INLINE_DEPTH / 2, /* deeper content is put off; well before any reader has enough */
  REF_BYTES = 7                     /* a number of that many groups, whatever its value */
};

static int fail(uns_writer *writer, int status, const char *misuse) {
  if (writer->status == UNS_OK) {
    writer->status = status;
    writer->misuse = misuse;
  }
  return writer->status;
}

static int misused(uns_writer *writer, const char *how) { return fail(writer, UNS_ECORRUPT, how); }
static int no_memory(uns_writer *writer) { return fail(writer, UNS_ENOMEM, NULL); }

static uns_segment *segment_new(void) {
  uns_segment *segment = uns_calloc(1, sizeof *segment);
  if (segment == NULL) return NULL;
  segment->to = &segment->own;
  segment->last = &segment->children;
  return segment;
}

/* A new last child of `parent`; NULL without memory. */
static uns_segment *segment_add(uns_writer *writer, uns_segment *parent) {
  uns_segment *segment = segment_new();
  if (segment == NULL) {
    no_memory(writer);
    return NULL;
  }
  *parent->last = segment;
  parent->last = &segment->next;
  return segment;
}

int uns_writer_init(uns_writer *writer, uns_packet *packet) {
  memset(writer, 0, sizeof *writer);
  writer->packet = packet;
  writer->main = segment_new();
  if (writer->main == NULL) return no_memory(writer);
  writer->main->to = packet;
  writer->main->placed = true;
  return uns_packet_grow(packet, UNS_HEADER_BYTES) == NULL ? no_memory(writer) : UNS_OK;
}

void uns_writer_deinit(uns_writer *writer) {
  uns_segment *line = writer->main;
  while (line != NULL) { /* children are put into the line: depth is no matter */
    uns_segment *segment = line;
    *segment->last = segment->next;
    line = segment->last == &segment->children ? segment->next : segment->children;
    uns_packet_deinit(&segment->own);
    uns_free(segment);
  }
  uns_free(writer->open);
  uns_free(writer->fixups);
  uns_free(writer->copied);
  memset(writer, 0, sizeof *writer);
}

/* ---- Bytes ------------------------------------------------------------------------------------------------------ */

static int put_bytes(uns_writer *writer, uns_segment *in, const void *bytes, size_t size) {
  if (size == 0) return writer->status;
  uint8_t *room = uns_packet_grow(in->to, size);
  if (room == NULL) return no_memory(writer);
  memcpy(room, bytes, size);
  return writer->status;
}

static int put_tag(uns_writer *writer, uns_segment *in, uint8_t tag) { return put_bytes(writer, in, &tag, 1); }

/* A tag and the eight bytes that follow it. */
static int put_wide(uns_writer *writer, uns_segment *in, uint8_t tag, const void *bytes) {
  uint8_t whole[9] = {tag};
  memcpy(whole + 1, bytes, 8);
  return put_bytes(writer, in, whole, sizeof whole);
}

static int put_integer(uns_writer *writer, uns_segment *in, int64_t value) {
  uint8_t whole[5];
  if (value >= 0 && value < 128) return put_tag(writer, in, (uint8_t)(UNS_TAG_SMALL_BASE + value));
  if (value == (int8_t)value) {
    whole[0] = UNS_TAG_INT8;
    whole[1] = (uint8_t)value;
    return put_bytes(writer, in, whole, 2);
  }
  if (value == (int16_t)value) {
    int16_t small = (int16_t)value;
    whole[0] = UNS_TAG_INT16;
    memcpy(whole + 1, &small, 2);
    return put_bytes(writer, in, whole, 3);
  }
  if (value == (int32_t)value) {
    int32_t small = (int32_t)value;
    whole[0] = UNS_TAG_INT32;
    memcpy(whole + 1, &small, 4);
    return put_bytes(writer, in, whole, 5);
  }
  return put_wide(writer, in, UNS_TAG_INT64, &value);
}

static int put_string(uns_writer *writer, uns_segment *in, const char *bytes, size_t size) {
  uint8_t head[12];
  size_t head_size = 1;
  if (size < 32) {
    head[0] = (uint8_t)(UNS_TAG_STRING_BASE + size);
  } else if (size < 256) {
    head[0] = UNS_TAG_STRING;
    head[head_size++] = (uint8_t)size;
  } else {
    head[0] = UNS_TAG_BYTES;
    head_size += uns_write_varint(head + 1, size);
  }
  put_bytes(writer, in, head, head_size);
  return put_bytes(writer, in, bytes, size);
}

/* Takes over the reference. */
static int put_held(uns_writer *writer, uns_segment *in, uns_shared *owned) {
  int64_t index = writer->status == UNS_OK ? uns_packet_add_ref(writer->packet, owned) : -1;
  if (index < 0) {
    uns_shared_unref(owned);
    return no_memory(writer);
  }
  uint8_t whole[12] = {UNS_TAG_LENT};
  return put_bytes(writer, in, whole, 1 + uns_write_varint(whole + 1, (uint64_t)index));
}

static int put_table_head(uns_writer *writer, uns_segment *in, uint8_t bits, uint32_t list, uint32_t pairs) {
  uint8_t head[9] = {(uint8_t)(UNS_TAG_TABLE | bits)};
  memcpy(head + 1, &list, 4);
  memcpy(head + 5, &pairs, 4);
  return put_bytes(writer, in, head, sizeof head);
}

static void write_ref(uint8_t *to, uint64_t offset) {
  for (int i = 0; i < REF_BYTES; i++, offset >>= 7)
    to[i] = (uint8_t)((offset & 0x7f) | (i < REF_BYTES - 1 ? 0x80u : 0u));
}

/* A reference to the tag at `target_at` in `target`, which a reader must meet before this. */
static int put_ref(uns_writer *writer, uns_segment *in, uns_segment *target, size_t target_at) {
  uint8_t whole[1 + REF_BYTES] = {UNS_TAG_REF};
  if (target->placed) {
    write_ref(whole + 1, target->base + target_at);
    return put_bytes(writer, in, whole, sizeof whole);
  }
  if (writer->fixup_count == writer->fixup_room) {
    size_t room = writer->fixup_room == 0 ? 8 : writer->fixup_room * 2;
    uns_fixup *larger = uns_realloc(writer->fixups, room * sizeof *larger);
    if (larger == NULL) return no_memory(writer);
    writer->fixups = larger;
    writer->fixup_room = room;
  }
  writer->fixups[writer->fixup_count++] = (uns_fixup){in, target, in->to->size_bytes + 1, target_at};
  return put_bytes(writer, in, whole, sizeof whole);
}

/* ---- Values ----------------------------------------------------------------------------------------------------- */

static uns_open_table *top(uns_writer *writer) {
  return writer->open_count == 0 ? NULL : &writer->open[writer->open_count - 1];
}

/* Counts the value that is about to be put, and writes what must stand before it. NULL: it is not to be put. */
static uns_segment *begin_value(uns_writer *writer) {
  if (writer->status != UNS_OK) return NULL;
  uns_open_table *table = top(writer);
  if (table == NULL) {
    if (writer->count == INT32_MAX) {
      misused(writer, "too many results");
      return NULL;
    }
    writer->count++;
    return writer->main;
  }
  if (table->next == ELEMENT) {
    if (table->list == UINT32_MAX || table->pairs == UINT32_MAX) {
      misused(writer, "too many values in a table");
      return NULL;
    }
    table->elements++;
    if (table->pairs == 0) {
      table->list++;
    } else { /* the list's place is over: an element is a pair like any other */
      table->pairs++;
      put_integer(writer, table->into, (int64_t)table->elements);
    }
  } else {
    table->next = table->next == KEY ? VALUE : ELEMENT;
  }
  return writer->status == UNS_OK ? table->into : NULL;
}

/* What is put now is no number of a list. */
static void end_run(uns_writer *writer) {
  uns_open_table *table = top(writer);
  if (table != NULL) table->last = 0;
}

static bool is_key(uns_writer *writer) {
  uns_open_table *table = top(writer);
  return table != NULL && table->next == KEY;
}

int uns_writer_nil(uns_writer *writer) {
  if (is_key(writer)) return misused(writer, "nil as a key");
  uns_segment *in = begin_value(writer);
  end_run(writer);
  return in == NULL ? writer->status : put_tag(writer, in, UNS_TAG_NIL);
}

int uns_writer_boolean(uns_writer *writer, bool value) {
  uns_segment *in = begin_value(writer);
  end_run(writer);
  return in == NULL ? writer->status : put_tag(writer, in, value ? UNS_TAG_TRUE : UNS_TAG_FALSE);
}

/* Puts a number into the list of `table`, as part of a run where the one before it was of its kind. */
static int put_in_list(uns_writer *writer, uns_open_table *table, uint8_t single, const void *bytes, int64_t integer) {
  uint8_t run = single == UNS_TAG_FLOAT ? UNS_TAG_FLOATS : UNS_TAG_INTS64;
  uns_packet *to = table->into->to;
  uint32_t count = 0;
  if (table->last == run) {
    uint8_t *room = uns_packet_grow(to, 8);
    if (room == NULL) return no_memory(writer);
    memcpy(room, bytes, 8);
    memcpy(&count, to->bytes + table->last_at + 1, sizeof count);
    count++;
    memcpy(to->bytes + table->last_at + 1, &count, sizeof count);
    return writer->status;
  }
  if (table->last == single) { /* the second: both become a run */
    uint8_t head[13] = {run, 0, 0, 0, 0};
    count = 2;
    memcpy(head + 1, &count, sizeof count);
    if (single == UNS_TAG_FLOAT) memcpy(head + 5, to->bytes + table->last_at + 1, 8);
    else memcpy(head + 5, &table->last_integer, 8);
    to->size_bytes = table->last_at;
    table->last = run;
    put_bytes(writer, table->into, head, sizeof head);
    return put_bytes(writer, table->into, bytes, 8);
  }
  table->last = single;
  table->last_at = to->size_bytes;
  table->last_integer = integer;
  return single == UNS_TAG_FLOAT ? put_wide(writer, table->into, single, bytes)
                                 : put_integer(writer, table->into, integer);
}

int uns_writer_integer(uns_writer *writer, int64_t value) {
  uns_open_table *table = top(writer);
  bool in_list = table != NULL && table->next == ELEMENT && table->pairs == 0;
  uns_segment *in = begin_value(writer);
  if (in == NULL) return writer->status;
  if (in_list) return put_in_list(writer, table, UNS_TAG_INT64, &value, value);
  return put_integer(writer, in, value);
}

int uns_writer_number(uns_writer *writer, double value) {
  if (is_key(writer) && value != value) return misused(writer, "NaN as a key");
  uns_open_table *table = top(writer);
  bool in_list = table != NULL && table->next == ELEMENT && table->pairs == 0;
  uns_segment *in = begin_value(writer);
  if (in == NULL) return writer->status;
  if (in_list) return put_in_list(writer, table, UNS_TAG_FLOAT, &value, 0);
  return put_wide(writer, in, UNS_TAG_FLOAT, &value);
}

int uns_writer_string(uns_writer *writer, const char *bytes, size_t size_bytes) {
  uns_segment *in = begin_value(writer);
  end_run(writer);
  return in == NULL ? writer->status : put_string(writer, in, bytes, size_bytes);
}

int uns_writer_held(uns_writer *writer, uns_shared *owned) {
  uns_segment *in = begin_value(writer);
  end_run(writer);
  if (in != NULL) return put_held(writer, in, owned);
  uns_shared_unref(owned);
  return writer->status;
}

/* ---- Tables ----------------------------------------------------------------------------------------------------- */

int uns_writer_begin_table(uns_writer *writer) {
  uns_open_table *outer = top(writer);
  int depth = outer == NULL ? 1 : outer->depth + 1;
  uns_segment *in = begin_value(writer);
  end_run(writer);
  if (in == NULL) return writer->status;
  if (writer->open_count == writer->open_room) {
    if (writer->open_room > UINT32_MAX / 4) return misused(writer, "tables nested too deep");
    uint32_t room = writer->open_room == 0 ? 8 : writer->open_room * 2;
    uns_open_table *larger = uns_realloc(writer->open, room * sizeof *larger);
    if (larger == NULL) return no_memory(writer);
    writer->open = larger;
    writer->open_room = room;
  }
  uns_open_table table = {.head_in = in, .into = in, .head_at = in->to->size_bytes, .depth = depth};
  if (depth > DEPTH_MAX) {
    table.into = segment_add(writer, in);
    table.depth = 0;
    if (table.into == NULL) return writer->status;
  }
  put_table_head(writer, in, table.into == in ? 0 : UNS_LATER_BIT, 0, 0);
  writer->open[writer->open_count++] = table;
  return writer->status;
}

int uns_writer_pair(uns_writer *writer) {
  if (writer->status != UNS_OK) return writer->status;
  uns_open_table *table = top(writer);
  if (table == NULL) return misused(writer, "a key outside of a table");
  if (table->next != ELEMENT) return misused(writer, "a key where a value was due");
  if (table->pairs == UINT32_MAX) return misused(writer, "too many values in a table");
  table->pairs++;
  table->next = KEY;
  table->last = 0;
  return UNS_OK;
}

int uns_writer_end_table(uns_writer *writer) {
  if (writer->status != UNS_OK) return writer->status;
  uns_open_table *table = top(writer);
  if (table == NULL) return misused(writer, "the end of a table that was not begun");
  if (table->next != ELEMENT) return misused(writer, "a key without a value at the end of a table");
  uint8_t *head = table->head_in->to->bytes + table->head_at;
  memcpy(head + 1, &table->list, 4);
  memcpy(head + 5, &table->pairs, 4);
  writer->open_count--;
  return UNS_OK;
}

/* ---- Copies of what a reader shows ------------------------------------------------------------------------------ */

static int copy_value(uns_writer *writer, uns_segment *in, int depth, const uns_reader *reader, const uns_item *item);

static int copy_content(uns_writer *writer, uns_segment *in, int depth, const uns_reader *reader, size_t place) {
  uns_walk walk = {.table = place};
  uint32_t length = uns_reader_length(reader, place);
  uns_item key, value;
  while (writer->status == UNS_OK && uns_walk_next(reader, &walk, &key, &value)) {
    if (walk.element <= length && walk.pair == 0 && walk.run > 0) { /* the rest of a run, and the one at hand */
      uint8_t head[5] = {walk.run_tag};
      uint32_t count = walk.run + 1;
      memcpy(head + 1, &count, sizeof count);
      put_bytes(writer, in, head, sizeof head);
      uns_walk_to(reader, &walk, walk.element + walk.run + 1);
      put_bytes(writer, in, reader->packet->bytes + value.origin, walk.at - value.origin);
      continue;
    }
    if (walk.pair > 0) copy_value(writer, in, depth, reader, &key);
    copy_value(writer, in, depth, reader, &value);
  }
  return writer->status;
}

/* Recurses no deeper than DEPTH_MAX. */
static int copy_table(uns_writer *writer, uns_segment *in, int depth, const uns_reader *reader, size_t place) {
  ptrdiff_t index = uns_reader_shared(reader, place);
  if (index >= 0) {
    if (writer->copied == NULL) {
      writer->copied = uns_calloc(reader->shared_count, sizeof *writer->copied);
      if (writer->copied == NULL) return no_memory(writer);
    }
    struct uns_copied *copied = &writer->copied[index];
    /* What lies in a segment that has no place yet may come behind this. Then it is copied once more. */
    if (copied->in != NULL && (copied->in == in || copied->in->placed))
      return put_ref(writer, in, copied->in, copied->at);
    *copied = (struct uns_copied){in, in->to->size_bytes};
  }
  uns_walk walk = {.table = place};
  uint8_t bits = (uint8_t)((index >= 0 ? UNS_SHARED_BIT : 0) | (depth > DEPTH_MAX ? UNS_LATER_BIT : 0));
  put_table_head(writer, in, bits, uns_reader_length(reader, walk.table), uns_reader_pairs(reader, walk.table));
  if (depth <= DEPTH_MAX) return copy_content(writer, in, depth, reader, place);
  uns_segment *segment = segment_add(writer, in);
  if (segment != NULL) {
    segment->reader = reader;
    segment->table = place;
  }
  return writer->status;
}

static int copy_value(uns_writer *writer, uns_segment *in, int depth, const uns_reader *reader, const uns_item *item) {
  switch (item->type) {
    case UNS_ITEM_NIL: return put_tag(writer, in, UNS_TAG_NIL);
    case UNS_ITEM_BOOLEAN: return put_tag(writer, in, item->as.integer != 0 ? UNS_TAG_TRUE : UNS_TAG_FALSE);
    case UNS_ITEM_INTEGER: return put_integer(writer, in, item->as.integer);
    case UNS_ITEM_NUMBER: return put_wide(writer, in, UNS_TAG_FLOAT, &item->as.number);
    case UNS_ITEM_STRING: {
      uns_shared *held;
      size_t size;
      const char *bytes = uns_reader_string(reader, item->as.place, &size, &held);
      if (held != NULL) return put_held(writer, in, uns_shared_ref(held));
      return put_string(writer, in, bytes, size);
    }
    case UNS_ITEM_TABLE: return copy_table(writer, in, depth + 1, reader, item->as.place);
    case UNS_ITEM_FUNCTION: return misused(writer, "a function");
    default: return misused(writer, "an object (a future, a userdata)");
  }
}

int uns_writer_item(uns_writer *writer, const uns_reader *reader, const uns_item *item) {
  if (writer->reader == NULL) writer->reader = reader;
  if (item->type == UNS_ITEM_NIL) return uns_writer_nil(writer);
  if (item->type == UNS_ITEM_INTEGER) return uns_writer_integer(writer, item->as.integer);
  if (item->type == UNS_ITEM_NUMBER) return uns_writer_number(writer, item->as.number);
  int depth = writer->open_count == 0 ? 0 : writer->open[writer->open_count - 1].depth;
  uns_segment *in = begin_value(writer);
  end_run(writer);
  return in == NULL ? writer->status : copy_value(writer, in, depth, reader, item);
}

/* ---- The end ---------------------------------------------------------------------------------------------------- */

/* Puts the segments behind the main one, in the order in which a reader meets their tables. */
static int place_segments(uns_writer *writer) {
  uns_segment *main = writer->main;
  uns_segment *line = main->children;
  while (line != NULL && writer->status == UNS_OK) {
    uns_segment *segment = line;
    segment->base = main->to->size_bytes;
    segment->placed = true;
    if (segment->reader != NULL) { copy_content(writer, segment, 0, segment->reader, segment->table); }
    put_bytes(writer, main, segment->own.bytes, segment->own.size_bytes);
    /* Its children go to the end of the line, which is the list of the main segment's children. */
    if (segment->children != NULL) {
      *main->last = segment->children;
      main->last = segment->last;
      segment->children = NULL;
      segment->last = &segment->children;
    }
    line = segment->next;
  }
  return writer->status;
}

int uns_writer_finish(uns_writer *writer) {
  if (writer->status != UNS_OK) return writer->status;
  if (writer->open_count > 0) return misused(writer, "a table that was not ended");
  if (place_segments(writer) != UNS_OK) return writer->status;
  for (size_t i = 0; i < writer->fixup_count; i++) {
    const uns_fixup *fixup = &writer->fixups[i];
    write_ref(writer->packet->bytes + fixup->in->base + fixup->at, fixup->target->base + fixup->target_at);
  }
  uns_write_header(writer->packet->bytes, writer->count, 0);
  return UNS_OK;
}

/* ---- Errors ----------------------------------------------------------------------------------------------------- */

int uns_write_error(uns_packet *packet, const char *code, const char *message, const char *extra, const char *value) {
  static const char class[] = "unsync.Error"; /* the metatable's name in the registry: core/error.c */
  uns_writer writer;
  uns_writer_init(&writer, packet);
  if (writer.status == UNS_OK) {
    uns_segment *in = writer.main;
    uint32_t pairs = extra == NULL ? 2 : 3;
    uint8_t head[5] = {UNS_TAG_RECORD | UNS_META_BIT};
    memcpy(head + 1, &pairs, sizeof pairs);
    put_bytes(&writer, in, head, sizeof head);
    put_string(&writer, in, "code", 4);
    put_string(&writer, in, code, strlen(code));
    put_string(&writer, in, "message", 7);
    put_string(&writer, in, message, strlen(message));
    if (extra != NULL) {
      put_string(&writer, in, extra, strlen(extra));
      put_string(&writer, in, value, strlen(value));
    }
    const uint8_t rest[] = {UNS_TAG_NAMED, 0, UNS_TAG_NIL}; /* the metatable; the traceback */
    put_bytes(&writer, in, rest, sizeof rest);
    size_t names = packet->size_bytes;
    const uint8_t name[] = {1, 0, sizeof class - 1};
    put_bytes(&writer, in, name, sizeof name);
    put_bytes(&writer, in, class, sizeof class - 1);
    if (writer.status == UNS_OK) uns_write_header(packet->bytes, 2, names);
  }
  int status = writer.status;
  uns_writer_deinit(&writer);
  if (status != UNS_OK) uns_packet_deinit(packet);
  return status;
}
