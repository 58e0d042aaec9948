#include "core/reader.h"

#include <assert.h>
#include <string.h>

#include "base/base.h"
#include "core/block.h"
#include "core/lent.h"
#include "core/tags.h"

/* ---- Going through it once -------------------------------------------------------------------------------------- */

/* Where values may stand, and so which tags make sense there. */
typedef enum { PLAIN, LIST, UPVALUES, PARTS } spot;

typedef struct scan {
  uns_reader *reader;
  const uint8_t *start, *at, *end;
  int depth; /* of the C stack. Objects that pack themselves, each nested as deep as may be, need half of the most */
} scan;

enum { DEPTH_MAX = 32 * UNS_INLINE_DEPTH };

static int note(size_t **list, size_t *count, size_t *room, size_t offset) {
  if (*count == *room) {
    size_t more = *room == 0 ? 16 : *room * 2;
    size_t *larger = uns_realloc(*list, more * sizeof **list);
    if (larger == NULL) return UNS_ENOMEM;
    *list = larger;
    *room = more;
  }
  (*list)[(*count)++] = offset;
  return UNS_OK;
}

static int note_later(uns_reader *reader, size_t tag) {
  if (reader->later_count == reader->later_room) {
    size_t room = reader->later_room == 0 ? 8 : reader->later_room * 2;
    uns_reader_later *larger = uns_realloc(reader->later, room * sizeof *larger);
    if (larger == NULL) return UNS_ENOMEM;
    reader->later = larger;
    reader->later_room = room;
  }
  reader->later[reader->later_count++] = (uns_reader_later){tag, 0};
  return UNS_OK;
}

/* The index of `offset` in an ascending list, or -1. */
static ptrdiff_t find(const size_t *list, size_t count, size_t offset) {
  size_t low = 0, high = count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (list[middle] < offset) low = middle + 1;
    else high = middle;
  }
  return low < count && list[low] == offset ? (ptrdiff_t)low : -1;
}

static size_t later_content(const uns_reader *reader, size_t tag) {
  size_t low = 0, high = reader->later_count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (reader->later[middle].tag < tag) low = middle + 1;
    else high = middle;
  }
  return low < reader->later_count && reader->later[low].tag == tag ? reader->later[low].content : 0;
}

static uint32_t read_u32(const uint8_t *at) {
  uint32_t value;
  memcpy(&value, at, sizeof value);
  return value;
}

static size_t run_width(uint8_t tag) {
  switch (tag) {
    case UNS_TAG_INTS8: return 1;
    case UNS_TAG_INTS16: return 2;
    case UNS_TAG_INTS32: return 4;
    default: return 8;
  }
}

static bool is_run(uint8_t tag) { return tag >= UNS_TAG_INTS8 && tag <= UNS_TAG_FLOATS; }

/* What stands before the content of a table, a function or an object. */
typedef struct head {
  uint32_t list, pairs; /* tables */
  uint32_t others;      /* upvalues, parts; 1 for a metatable */
  spot where;           /* the others stand */
  bool later;
  const uint8_t *content; /* behind the head; where it is not put off, the content */
} head;

/* Reads the head at `at`, which has one of those tags; false where it is cut short. */
static bool read_head(const uint8_t *at, const uint8_t *end, head *to) {
  uint8_t tag = *at++;
  uint64_t number;
  memset(to, 0, sizeof *to);
  if (tag < UNS_TAG_FUNCTION) {
    bool record = tag >= UNS_TAG_RECORD;
    size_t size = record ? 4 : 8;
    if ((size_t)(end - at) < size) return false;
    if (!record) to->list = read_u32(at);
    to->pairs = read_u32(at + size - 4);
    to->others = (tag & UNS_META_BIT) != 0;
    to->where = PLAIN;
    to->later = !record && (tag & UNS_LATER_BIT) != 0;
    to->content = at + size;
    return true;
  }
  to->later = (tag & UNS_PUT_OFF_BIT) != 0;
  if (tag < UNS_TAG_OBJECT) {
    if (!uns_read_varint(&at, end, &number) || at == end) return false;
    to->others = *at++;
    to->where = UPVALUES;
  } else {
    if (at == end || (size_t)(end - at) < (size_t)*at + 2) return false;
    at += *at + 1;
    to->others = *at++;
    to->where = PARTS;
    if (!uns_read_varint(&at, end, &number)) return false;
  }
  to->content = at;
  return true;
}

static int scan_value(scan *s, spot where);

static int scan_values(scan *s, uint64_t count, spot where) {
  while (count > 0) {
    if (where == LIST && s->at < s->end && is_run(*s->at)) {
      if (s->end - s->at < 5) return UNS_ECORRUPT;
      size_t width = run_width(*s->at);
      uint32_t size = read_u32(s->at + 1);
      s->at += 5;
      if (size == 0 || size > count || size > (size_t)(s->end - s->at) / width) return UNS_ECORRUPT;
      s->at += size * width;
      count -= size;
      continue;
    }
    int status = scan_value(s, where);
    if (status != UNS_OK) return status;
    count--;
  }
  return UNS_OK;
}

static int scan_content(scan *s, const head *of) {
  if (++s->depth > DEPTH_MAX) return UNS_ECORRUPT;
  int status = scan_values(s, of->list, LIST);
  if (status == UNS_OK) status = scan_values(s, (uint64_t)of->pairs * 2, PLAIN);
  if (status == UNS_OK) status = scan_values(s, of->others, of->where);
  s->depth--;
  return status;
}

/* What was put off from `first` on lies here, one behind the other, and may put off more. */
static int scan_later(scan *s, size_t first) {
  uns_reader *reader = s->reader;
  for (size_t i = first; i < reader->later_count; i++) {
    if (reader->later[i].content != 0) continue;
    head of;
    reader->later[i].content = (size_t)(s->at - s->start);
    if (!read_head(s->start + reader->later[i].tag, s->end, &of)) return UNS_ECORRUPT;
    int status = scan_content(s, &of);
    if (status != UNS_OK) return status;
  }
  return UNS_OK;
}

static bool advance(scan *s, uint64_t size) {
  if (size > (size_t)(s->end - s->at)) return false;
  s->at += size;
  return true;
}

static int scan_container(scan *s, size_t offset) {
  head of;
  if (!read_head(s->start + offset, s->end, &of)) return UNS_ECORRUPT;
  s->at = of.content;
  if (of.later) return note_later(s->reader, offset);
  return scan_content(s, &of);
}

static int scan_rebuilt(scan *s, size_t offset) {
  uns_reader *reader = s->reader;
  size_t entry = reader->later_count;
  uint64_t count;
  int status = note_later(reader, offset); /* its content there is its end, for whoever goes past it */
  if (status != UNS_OK) return status;
  reader->later[entry].content = offset;
  if (!uns_read_varint(&s->at, s->end, &count) || ++s->depth > DEPTH_MAX) return UNS_ECORRUPT;
  if (count > (size_t)(s->end - s->at)) return UNS_ECORRUPT;
  status = scan_values(s, count + 1, PLAIN);
  if (status == UNS_OK) status = scan_later(s, entry + 1);
  reader->later[entry].content = (size_t)(s->at - s->start);
  s->depth--;
  return status;
}

static int scan_value(scan *s, spot where) {
  uns_reader *reader = s->reader;
  if (s->at >= s->end) return UNS_ECORRUPT;
  size_t offset = (size_t)(s->at - s->start);
  uint8_t tag = *s->at++;
  uint64_t number;
  if (tag >= UNS_TAG_SMALL_BASE) return UNS_OK;
  if (tag >= UNS_TAG_STRING_BASE) return advance(s, tag - UNS_TAG_STRING_BASE) ? UNS_OK : UNS_ECORRUPT;
  if (tag >= UNS_TAG_OLD_BASE) {
    return (size_t)(tag - UNS_TAG_OLD_BASE) < reader->string_count ? UNS_OK : UNS_ECORRUPT;
  }
  if (tag >= UNS_TAG_BYTES && tag <= (UNS_TAG_REBUILT | UNS_SHARED_BIT) && (tag & UNS_SHARED_BIT) != 0) {
    int status = note(&reader->shared, &reader->shared_count, &reader->shared_room, offset);
    if (status != UNS_OK) return status;
  }
  switch (tag) {
    case UNS_TAG_NIL:
    case UNS_TAG_FALSE:
    case UNS_TAG_TRUE:
    case UNS_TAG_GLOBALS: return UNS_OK;
    case UNS_TAG_INT8: return advance(s, 1) ? UNS_OK : UNS_ECORRUPT;
    case UNS_TAG_INT16: return advance(s, 2) ? UNS_OK : UNS_ECORRUPT;
    case UNS_TAG_INT32: return advance(s, 4) ? UNS_OK : UNS_ECORRUPT;
    case UNS_TAG_INT64:
    case UNS_TAG_FLOAT: return advance(s, 8) ? UNS_OK : UNS_ECORRUPT;
    case UNS_TAG_STRING_NEW: {
      int status = note(&reader->strings, &reader->string_count, &reader->string_room, offset);
      if (status != UNS_OK) return status;
    }
      __attribute__((fallthrough));
    case UNS_TAG_STRING: return s->at < s->end && advance(s, (uint64_t)*s->at + 1) ? UNS_OK : UNS_ECORRUPT;
    case UNS_TAG_STRING_OLD:
      return uns_read_varint(&s->at, s->end, &number) && number < reader->string_count ? UNS_OK : UNS_ECORRUPT;
    case UNS_TAG_BYTES:
    case UNS_TAG_BYTES | UNS_SHARED_BIT:
      return uns_read_varint(&s->at, s->end, &number) && advance(s, number) ? UNS_OK : UNS_ECORRUPT;
    case UNS_TAG_LENT:
    case UNS_TAG_LENT | UNS_SHARED_BIT: {
      if (!uns_read_varint(&s->at, s->end, &number) || number >= reader->packet->ref_count) return UNS_ECORRUPT;
      uns_shared_kind kind = reader->packet->refs[number]->class->kind;
      return kind == UNS_SHARED_LENT || kind == UNS_SHARED_BLOCK ? UNS_OK : UNS_ECORRUPT;
    }
    case UNS_TAG_REBUILT:
    case UNS_TAG_REBUILT | UNS_SHARED_BIT: return scan_rebuilt(s, offset);
    case UNS_TAG_REF:
      if (!uns_read_varint(&s->at, s->end, &number) || number >= offset) return UNS_ECORRUPT;
      return uns_reader_shared(reader, (size_t)number) >= 0 ? UNS_OK : UNS_ECORRUPT;
    case UNS_TAG_CELL:
      return where == UPVALUES && uns_read_varint(&s->at, s->end, &number) && advance(s, 1) ? UNS_OK : UNS_ECORRUPT;
    case UNS_TAG_NAMED: return uns_read_varint(&s->at, s->end, &number) ? UNS_OK : UNS_ECORRUPT;
    case UNS_TAG_OWN: return where == PARTS && uns_read_varint(&s->at, s->end, &number) ? UNS_OK : UNS_ECORRUPT;
    default: return tag >= UNS_TAG_TABLE && tag < UNS_TAG_REBUILT ? scan_container(s, offset) : UNS_ECORRUPT;
  }
}

int uns_reader_open(uns_reader *reader, const uns_packet *packet) {
  memset(reader, 0, sizeof *reader);
  reader->packet = packet;
  if (packet->size_bytes == 0) return UNS_OK;
  uint32_t count;
  if (!uns_read_header(packet->bytes, packet->size_bytes, &count, &reader->end)) return UNS_ECORRUPT;
  if (count > reader->end - UNS_HEADER_BYTES) return UNS_ECORRUPT; /* each is a byte at least */
  if (count == 0) return UNS_OK;
  reader->values = uns_malloc(count * sizeof *reader->values);
  if (reader->values == NULL) return UNS_ENOMEM;
  scan s = {reader, packet->bytes, packet->bytes + UNS_HEADER_BYTES, packet->bytes + reader->end, 0};
  for (uint32_t i = 0; i < count; i++) {
    reader->values[i] = (size_t)(s.at - s.start);
    int status = scan_value(&s, PLAIN);
    if (status != UNS_OK) return status;
  }
  reader->count = count;
  return scan_later(&s, 0);
}

void uns_reader_close(uns_reader *reader) {
  uns_free(reader->values);
  uns_free(reader->strings);
  uns_free(reader->shared);
  uns_free(reader->later);
  memset(reader, 0, sizeof *reader);
}

/* ---- Reading: all is checked from here on ----------------------------------------------------------------------- */

static uint64_t read_number(const uns_reader *reader, size_t offset) {
  const uint8_t *at = reader->packet->bytes + offset;
  uint64_t number = 0;
  uns_read_varint(&at, reader->packet->bytes + reader->end, &number);
  return number;
}

static void read_scalar(const uint8_t *at, uint8_t run_tag, uns_item *item) {
  int16_t i16;
  int32_t i32;
  item->type = UNS_ITEM_INTEGER;
  switch (run_tag) {
    case UNS_TAG_INTS8: item->as.integer = (at[0] ^ 0x80) - 0x80; break; /* its sign stretched */
    case UNS_TAG_INTS16:
      memcpy(&i16, at, sizeof i16);
      item->as.integer = i16;
      break;
    case UNS_TAG_INTS32:
      memcpy(&i32, at, sizeof i32);
      item->as.integer = i32;
      break;
    case UNS_TAG_INTS64: memcpy(&item->as.integer, at, sizeof item->as.integer); break;
    default: item->type = UNS_ITEM_NUMBER; memcpy(&item->as.number, at, sizeof item->as.number);
  }
}

/* The value whose tag is at `offset`. */
static uns_item item_at(const uns_reader *reader, size_t offset) {
  uns_item item = {.type = UNS_ITEM_NIL, .origin = offset};
  const uint8_t *at = reader->packet->bytes + offset;
  if (*at == UNS_TAG_REF) {
    offset = (size_t)read_number(reader, offset + 1);
    at = reader->packet->bytes + offset;
  }
  item.as.place = offset;
  uint8_t tag = *at++;
  if (tag >= UNS_TAG_SMALL_BASE) {
    item.type = UNS_ITEM_INTEGER;
    item.as.integer = tag - UNS_TAG_SMALL_BASE;
  } else if (tag >= UNS_TAG_STRING_BASE) {
    item.type = UNS_ITEM_STRING;
  } else if (tag >= UNS_TAG_OLD_BASE || tag == UNS_TAG_STRING_OLD) {
    item.type = UNS_ITEM_STRING;
    item.as.place = reader->strings[tag == UNS_TAG_STRING_OLD ? read_number(reader, offset + 1)
                                                              : (uint64_t)(tag - UNS_TAG_OLD_BASE)];
  } else if (tag == UNS_TAG_FALSE || tag == UNS_TAG_TRUE) {
    item.type = UNS_ITEM_BOOLEAN;
    item.as.integer = tag == UNS_TAG_TRUE;
  } else if (tag >= UNS_TAG_INT8 && tag <= UNS_TAG_FLOAT) {
    read_scalar(at, (uint8_t)(tag - UNS_TAG_INT8 + UNS_TAG_INTS8), &item);
  } else if (tag == UNS_TAG_STRING || tag == UNS_TAG_STRING_NEW || (tag >= UNS_TAG_BYTES && tag < UNS_TAG_TABLE)) {
    item.type = UNS_ITEM_STRING;
  } else if (tag >= UNS_TAG_TABLE && tag < UNS_TAG_FUNCTION) {
    item.type = UNS_ITEM_TABLE;
  } else if (tag >= UNS_TAG_FUNCTION && tag < UNS_TAG_OBJECT) {
    item.type = UNS_ITEM_FUNCTION;
  } else if (tag != UNS_TAG_NIL) {
    item.type = UNS_ITEM_OBJECT;
  }
  return item;
}

/* The head at `offset`, which was read before. */
static head head_at(const uns_reader *reader, size_t offset) {
  head of;
  bool whole = read_head(reader->packet->bytes + offset, reader->packet->bytes + reader->end, &of);
  assert(whole);
  (void)whole;
  return of;
}

/* Where the value that begins at `offset`, with all that lies in it, ends. */
static size_t skip(const uns_reader *reader, size_t offset) {
  const uint8_t *start = reader->packet->bytes, *at = start + offset, *end = start + reader->end;
  uint64_t left = 1, number;
  while (left > 0) {
    uint8_t tag = *at++;
    left--;
    if (tag >= UNS_TAG_STRING_BASE && tag < UNS_TAG_SMALL_BASE) {
      at += tag - UNS_TAG_STRING_BASE;
    } else if (tag < UNS_TAG_OLD_BASE) {
      switch (tag) {
        case UNS_TAG_INT8: at += 1; break;
        case UNS_TAG_INT16: at += 2; break;
        case UNS_TAG_INT32: at += 4; break;
        case UNS_TAG_INT64:
        case UNS_TAG_FLOAT: at += 8; break;
        case UNS_TAG_STRING:
        case UNS_TAG_STRING_NEW: at += *at + 1; break;
        case UNS_TAG_BYTES:
        case UNS_TAG_BYTES | UNS_SHARED_BIT:
          uns_read_varint(&at, end, &number);
          at += number;
          break;
        case UNS_TAG_STRING_OLD:
        case UNS_TAG_LENT:
        case UNS_TAG_LENT | UNS_SHARED_BIT:
        case UNS_TAG_REF:
        case UNS_TAG_NAMED:
        case UNS_TAG_OWN: uns_read_varint(&at, end, &number); break;
        case UNS_TAG_CELL:
          uns_read_varint(&at, end, &number);
          at++;
          break;
        case UNS_TAG_REBUILT:
        case UNS_TAG_REBUILT | UNS_SHARED_BIT: at = start + later_content(reader, (size_t)(at - 1 - start)); break;
        case UNS_TAG_INTS8:
        case UNS_TAG_INTS16:
        case UNS_TAG_INTS32:
        case UNS_TAG_INTS64:
        case UNS_TAG_FLOATS:
          number = read_u32(at);
          at += 4 + number * run_width(tag);
          left -= number - 1; /* one was taken off already */
          break;
        default:
          if (tag >= UNS_TAG_TABLE && tag < UNS_TAG_REBUILT) {
            head of = head_at(reader, (size_t)(at - 1 - start));
            at = of.content;
            if (!of.later) left += of.list + (uint64_t)of.pairs * 2 + of.others;
          }
      }
    }
  }
  return (size_t)(at - start);
}

uns_item uns_reader_value(const uns_reader *reader, uint32_t index) { return item_at(reader, reader->values[index]); }

ptrdiff_t uns_reader_shared(const uns_reader *reader, size_t place) {
  return find(reader->shared, reader->shared_count, place);
}

const char *uns_reader_string(const uns_reader *reader, size_t place, size_t *size_bytes, uns_shared **ref) {
  const uint8_t *at = reader->packet->bytes + place, *end = reader->packet->bytes + reader->end;
  uint8_t tag = *at++;
  uint64_t number = 0;
  if (ref != NULL) *ref = NULL;
  if (tag >= UNS_TAG_STRING_BASE) {
    number = tag - UNS_TAG_STRING_BASE;
  } else if (tag == UNS_TAG_STRING || tag == UNS_TAG_STRING_NEW) {
    number = *at++;
  } else {
    uns_read_varint(&at, end, &number);
    if (tag >= UNS_TAG_LENT) {
      uns_shared *object = reader->packet->refs[number];
      if (ref != NULL) *ref = object;
      if (object->class->kind == UNS_SHARED_BLOCK) {
        const uns_block *block = (const uns_block *)object;
        *size_bytes = block->size_bytes;
        return block->bytes;
      }
      const uns_lent *lent = (const uns_lent *)object;
      *size_bytes = lent->size_bytes;
      return lent->bytes;
    }
  }
  *size_bytes = (size_t)number;
  return (const char *)at;
}

/* ---- Tables ----------------------------------------------------------------------------------------------------- */

uint32_t uns_reader_length(const uns_reader *reader, size_t place) { return head_at(reader, place).list; }

uint32_t uns_reader_pairs(const uns_reader *reader, size_t place) { return head_at(reader, place).pairs; }

static head walk_head(const uns_reader *reader, uns_walk *walk) {
  head of = head_at(reader, walk->table);
  if (walk->at == 0) {
    walk->at = of.later ? later_content(reader, walk->table) : (size_t)(of.content - reader->packet->bytes);
  }
  return of;
}

/* Where a run comes next, its numbers do. */
static void enter_run(uns_walk *walk, const uint8_t *bytes) {
  if (walk->run != 0 || !is_run(bytes[walk->at])) return;
  walk->run_tag = bytes[walk->at];
  walk->run = read_u32(bytes + walk->at + 1);
  walk->at += 5;
}

bool uns_walk_next(const uns_reader *reader, uns_walk *walk, uns_item *key, uns_item *value) {
  head of = walk_head(reader, walk);
  const uint8_t *bytes = reader->packet->bytes;
  if (walk->element < of.list) {
    key->type = UNS_ITEM_INTEGER;
    key->as.integer = (int64_t)++walk->element;
    key->origin = walk->at;
    enter_run(walk, bytes);
    if (walk->run > 0) {
      read_scalar(bytes + walk->at, walk->run_tag, value);
      value->origin = walk->at;
      walk->at += run_width(walk->run_tag);
      walk->run--;
    } else {
      *value = item_at(reader, walk->at);
      walk->at = skip(reader, walk->at);
    }
    return true;
  }
  if (walk->pair < of.pairs) {
    walk->pair++;
    *key = item_at(reader, walk->at);
    walk->at = skip(reader, walk->at);
    *value = item_at(reader, walk->at);
    walk->at = skip(reader, walk->at);
    return true;
  }
  return false;
}

void uns_walk_to(const uns_reader *reader, uns_walk *walk, uint32_t index) {
  head of = walk_head(reader, walk);
  const uint8_t *bytes = reader->packet->bytes;
  while (walk->element < index - 1 && walk->element < of.list) {
    enter_run(walk, bytes);
    if (walk->run > 0) {
      uint32_t step = index - 1 - walk->element;
      if (step > walk->run) step = walk->run;
      walk->at += step * run_width(walk->run_tag);
      walk->run -= step;
      walk->element += step;
    } else {
      walk->at = skip(reader, walk->at);
      walk->element++;
    }
  }
}
