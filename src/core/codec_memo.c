#include "core/codec_memo.h"

#include <string.h>

#include "base/base.h"

enum { LEAST = 64, KEPT = 4096, NAMES_KEPT_BYTES = 4096, EXPECTED_MOST = 1 << 22 };

static bool resize(uns_memo *memo, size_t capacity) {
  uns_memo larger = *memo;
  larger.mask = capacity - 1;
  larger.entries = uns_calloc(larger.mask + 1, sizeof *larger.entries);
  if (larger.entries == NULL) return false;
  for (size_t i = 0; i <= memo->mask; i++) {
    const struct uns_memo_entry *entry = &memo->entries[i];
    if (entry->word >> 52 == memo->epoch) *uns_memo_place(&larger, entry->key) = *entry;
  }
  uns_free(memo->entries);
  *memo = larger;
  return true;
}

bool uns_memo_grow(uns_memo *memo) { return resize(memo, 2 * (memo->mask + 1)); }

void uns_memo_expect(uns_memo *memo, size_t count) {
  if (count > EXPECTED_MOST) count = EXPECTED_MOST;
  size_t capacity = memo->mask + 1;
  while (capacity / 2 <= memo->used + count) capacity *= 2;
  if (capacity > memo->mask + 1) resize(memo, capacity);
}

bool uns_memo_begin(uns_memo *memo) {
  if (memo->entries == NULL) {
    memo->entries = uns_calloc(LEAST, sizeof *memo->entries);
    if (memo->entries == NULL) return false;
    memo->mask = LEAST - 1;
  }
  if (memo->strings == NULL) {
    memo->strings = uns_calloc(UNS_MEMO_STRINGS, sizeof *memo->strings);
    if (memo->strings == NULL) return false;
  }
  if (++memo->epoch == UNS_MEMO_EPOCHS) {
    memset(memo->entries, 0, (memo->mask + 1) * sizeof *memo->entries);
    memset(memo->strings, 0, UNS_MEMO_STRINGS * sizeof *memo->strings);
    memo->epoch = 1;
  }
  memo->used = 0;
  memo->names_bytes = 0;
  return true;
}

void uns_memo_end(uns_memo *memo) {
  if (memo->mask >= KEPT) {
    uns_free(memo->entries);
    memo->entries = NULL;
    memo->mask = 0;
  }
  if (memo->names_capacity > NAMES_KEPT_BYTES) {
    uns_free(memo->names);
    memo->names = NULL;
    memo->names_capacity = 0;
  }
}

void uns_memo_deinit(uns_memo *memo) {
  uns_free(memo->entries);
  uns_free(memo->strings);
  uns_free(memo->names);
  memset(memo, 0, sizeof *memo);
}
