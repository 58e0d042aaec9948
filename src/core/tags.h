/*
 * tags: how values lie in a packet's bytes. The codec's two halves, and whoever reads a message without Lua, agree here.
 *
 * A packet is a header of UNS_HEADER_BYTES, the values, what was put off, and the table of names:
 *     u8 'U' · u8 UNS_TAGS_VERSION · u16 0 · u32 number of values · u64 offset of the table of names, 0: none
 * Numbers lie in the machine's own byte order, unaligned: all who read are of one build. `v` below is an unsigned number
 * of up to 64 bits in groups of 7, the lowest first, the top bit set on all but the last (uns_read_varint).
 *
 *   - A value is a tag and what follows it. Where values follow a table, a function or an object, they are its content.
 *   - Nested deeper than UNS_INLINE_DEPTH, the content is put off (the LATER bit): it comes behind the last value, in the
 *     order in which it was put off, and may put off again. So nobody recurses deeper than that, however deep the data.
 *   - What is met again is written as REF: the offset of its first tag, which then has the SHARED bit, so that only what
 *     is referred to must be remembered.
 *   - The table of names: v count, then for each v size, bytes of the module, v size, bytes of the field (size 0: the
 *     module itself). A module without a name: the registry, that is the metatables that luaL_newmetatable made.
 */
#ifndef UNS_TAGS_H
#define UNS_TAGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { UNS_HEADER_BYTES = 16, UNS_TAGS_VERSION = 1, UNS_INLINE_DEPTH = 64 };

enum {
  UNS_SHARED_BIT = 1, /* of BYTES, LENT, TABLE, RECORD, FUNCTION, OBJECT, REBUILT: somebody refers to it */
  UNS_META_BIT = 2,   /* of TABLE, RECORD: the last value of the content is the metatable */
  UNS_LATER_BIT = 4,  /* of TABLE: the content comes later */
  UNS_PUT_OFF_BIT = 2 /* the same of FUNCTION and OBJECT */
};

enum {
  UNS_TAG_NIL = 0x00,
  UNS_TAG_FALSE = 0x01,
  UNS_TAG_TRUE = 0x02,
  UNS_TAG_INT8 = 0x03,  /* i8 */
  UNS_TAG_INT16 = 0x04, /* i16 */
  UNS_TAG_INT32 = 0x05, /* i32 */
  UNS_TAG_INT64 = 0x06, /* i64 */
  UNS_TAG_FLOAT = 0x07, /* f64 */

  /* Strings of up to 255 bytes. A string that comes up often gets a number, counted from 0, the second time. */
  UNS_TAG_STRING = 0x08,     /* u8 size, bytes */
  UNS_TAG_STRING_NEW = 0x09, /* the same, and it is given the next number */
  UNS_TAG_STRING_OLD = 0x0a, /* v number */

  UNS_TAG_BYTES = 0x10, /* [SHARED] v size, bytes */
  UNS_TAG_LENT = 0x12,  /* [SHARED] v ref of an UNS_SHARED_LENT or UNS_SHARED_BLOCK: a string */

  /* u32 n, u32 m · n values for the keys 1 to n, m times a key and a value. Among the n values there may be runs. */
  UNS_TAG_TABLE = 0x20,  /* [SHARED] [META] [LATER] */
  UNS_TAG_RECORD = 0x28, /* [SHARED] [META] the same without n, which is 0 */

  /* v ref of the UNS_SHARED_CODE, u8 number of upvalues · as many values, or CELLs */
  UNS_TAG_FUNCTION = 0x2c, /* [SHARED] [PUT_OFF] */
  /* u8 size, bytes of the class's name, u8 number of parts, v ref + 1 of its first shared object or 0 · the parts */
  UNS_TAG_OBJECT = 0x30, /* [SHARED] [PUT_OFF] */
  /* v number n · a function, n values, then what these put off: the value is what the function returns for them */
  UNS_TAG_REBUILT = 0x34, /* [SHARED] */

  UNS_TAG_REF = 0x36,     /* v offset of the tag of what is meant */
  UNS_TAG_CELL = 0x37,    /* v offset of a function, u8 n: this upvalue is one with that function's n-th */
  UNS_TAG_GLOBALS = 0x38, /* the table of globals, whosever */
  UNS_TAG_NAMED = 0x39,   /* v index in the table of names */
  UNS_TAG_OWN = 0x3a,     /* v ref: a shared object among the parts of an object */

  /* Runs of numbers among a table's n values: u32 count, then as many of i8, i16, i32, i64, f64 */
  UNS_TAG_INTS8 = 0x3b,
  UNS_TAG_INTS16 = 0x3c,
  UNS_TAG_INTS32 = 0x3d,
  UNS_TAG_INTS64 = 0x3e,
  UNS_TAG_FLOATS = 0x3f,

  UNS_TAG_OLD_BASE = 0x40,    /* 0x40 + n: STRING_OLD of a number below 32 */
  UNS_TAG_STRING_BASE = 0x60, /* 0x60 + n: a string of n bytes, below 32, which follow */
  UNS_TAG_SMALL_BASE = 0x80   /* 0x80 + n: the integer n, below 128 */
};

static inline size_t uns_write_varint(uint8_t *to, uint64_t value) {
  size_t size = 0;
  while (value >= 0x80) {
    to[size++] = (uint8_t)(value | 0x80);
    value >>= 7;
  }
  to[size++] = (uint8_t)value;
  return size;
}

/* Moves `*at` behind the number; false where it is cut short or too long. */
static inline bool uns_read_varint(const uint8_t **at, const uint8_t *end, uint64_t *value) {
  const uint8_t *from = *at;
  *value = 0;
  for (unsigned shift = 0; shift < 64 && from < end; shift += 7) {
    uint8_t byte = *from++;
    *value |= (uint64_t)(byte & 0x7f) << shift;
    if (byte < 0x80) {
      *at = from;
      return true;
    }
  }
  return false;
}

static inline void uns_write_header(uint8_t *to, uint32_t count, uint64_t names_offset) {
  const uint8_t head[4] = {'U', UNS_TAGS_VERSION, 0, 0};
  memcpy(to, head, 4);
  memcpy(to + 4, &count, 4);
  memcpy(to + 8, &names_offset, 8);
}

/* False where it is none. `*end` is where the values and what they put off end. */
static inline bool uns_read_header(const uint8_t *bytes, size_t size_bytes, uint32_t *count, size_t *end) {
  uint64_t names_offset;
  if (size_bytes < UNS_HEADER_BYTES || bytes[0] != 'U' || bytes[1] != UNS_TAGS_VERSION) return false;
  if (bytes[2] != 0 || bytes[3] != 0) return false;
  memcpy(count, bytes + 4, 4);
  memcpy(&names_offset, bytes + 8, 8);
  if (names_offset != 0 && (names_offset < UNS_HEADER_BYTES || names_offset > size_bytes)) return false;
  *end = names_offset != 0 ? (size_t)names_offset : size_bytes;
  return true;
}

#endif
