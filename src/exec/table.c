#include "exec/table.h"

#include "base/base.h"

static uint32_t table_start(const uns_table *t, uint64_t id) {
  return (uint32_t)((id * 0x9e3779b97f4a7c15u) >> 32) & (t->size - 1);
}

static struct uns_table_entry *table_find(const uns_table *t, uint64_t id) {
  uint32_t i = table_start(t, id);
  while (t->entries[i].id != 0 && t->entries[i].id != id) i = (i + 1) & (t->size - 1);
  return &t->entries[i];
}

void *uns_table_get(const uns_table *t, uint64_t id) { return t->size == 0 ? NULL : table_find(t, id)->value; }

bool uns_table_put(uns_table *t, uint64_t id, void *value) {
  if (t->count * 2 >= t->size) {
    uns_table larger = {.size = t->size == 0 ? 16 : t->size * 2, .count = t->count};
    larger.entries = uns_calloc(larger.size, sizeof *larger.entries);
    if (larger.entries == NULL) return false;
    for (uint32_t i = 0; i < t->size; i++) {
      if (t->entries[i].id != 0) *table_find(&larger, t->entries[i].id) = t->entries[i];
    }
    uns_free(t->entries);
    *t = larger;
  }
  *table_find(t, id) = (struct uns_table_entry){id, value};
  t->count++;
  return true;
}

void *uns_table_take(uns_table *t, uint64_t id) {
  if (t->size == 0) return NULL;
  struct uns_table_entry *hole = table_find(t, id);
  void *value = hole->value;
  if (hole->id == 0) return NULL;
  t->count--;
  *hole = (struct uns_table_entry){0, NULL};
  /* Those behind the hole that would not be found past it move up. */
  uint32_t mask = t->size - 1, free_at = (uint32_t)(hole - t->entries);
  for (uint32_t i = (free_at + 1) & mask; t->entries[i].id != 0; i = (i + 1) & mask) {
    uint32_t start = table_start(t, t->entries[i].id);
    if (((i - start) & mask) < ((i - free_at) & mask)) continue;
    t->entries[free_at] = t->entries[i];
    t->entries[i] = (struct uns_table_entry){0, NULL};
    free_at = i;
  }
  return value;
}
