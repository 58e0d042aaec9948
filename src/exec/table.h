/*
 * table: whole numbers other than 0 to pointers; open addressing. All zero is an empty one; `entries` is to be freed at last.
 */
#ifndef UNS_TABLE_H
#define UNS_TABLE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct uns_table {
  struct uns_table_entry {
    uint64_t id; /* 0: free */
    void *value;
  } * entries;
  uint32_t size, count;
} uns_table;

/* What `id` stands for, or NULL. */
void *uns_table_get(const uns_table *t, uint64_t id);
/* `id` is not in it. False without memory. */
bool uns_table_put(uns_table *t, uint64_t id, void *value);
/* The same as `get`, and it is there no more. */
void *uns_table_take(uns_table *t, uint64_t id);

#endif
