/*
 * call_arguments: a native task reads what it was given, straight from the packet of its call.
 *
 *   - What is of another type than asked for fails the call and names the place; what is not there is nil, and remembers
 *     where it was looked for, so that it can be named when it is used.
 *   - Nothing is copied but a text, which is given its final zero.
 */
#include <string.h>

#include "exec/call_task.h"

static void show(unsync_value *value, int argument, const uns_item *item) {
  memset(value, 0, sizeof *value);
  value->type = (int32_t)item->type;
  value->argument = argument;
  value->origin = item->origin;
  if (item->type == UNS_ITEM_NUMBER) value->as.number = item->as.number;
  else if (item->type <= UNS_ITEM_INTEGER) value->as.integer = item->as.integer;
  else value->as.place = item->as.place;
}

int uns_call_arg_count(unsync_task *t) { return (int)uns_call_argument_count(uns_call_of(t)); }

void uns_call_arg(unsync_task *t, int index, unsync_value *value) {
  const uns_reader *reader = &uns_call_of(t)->arguments;
  uns_item item = {.type = UNS_ITEM_NIL};
  if (index >= 1 && (uint32_t)index <= uns_call_argument_count(uns_call_of(t)))
    item = uns_reader_value(reader, (uint32_t)index - 1);
  show(value, index, &item);
}

int uns_call_to_boolean(unsync_task *t, const unsync_value *value) {
  if (value->type == UNSYNC_BOOLEAN) return value->as.integer != 0;
  uns_call_fail_value(uns_call_of(t), value, "boolean", NULL);
  return 0;
}

/* False where the double is not a whole number in range. */
static bool to_whole(double number, int64_t *integer) {
  if (!(number >= -9223372036854775808.0 && number < 9223372036854775808.0)) return false;
  *integer = (int64_t)number;
  return (double)*integer == number;
}

int64_t uns_call_to_integer(unsync_task *t, const unsync_value *value) {
  int64_t integer;
  if (value->type == UNSYNC_INTEGER) return value->as.integer;
  if (value->type == UNSYNC_NUMBER) {
    if (to_whole(value->as.number, &integer)) return integer;
    uns_call_fail_value(uns_call_of(t), value, NULL, "number has no integer representation");
  } else {
    uns_call_fail_value(uns_call_of(t), value, "integer", NULL);
  }
  return 0;
}

double uns_call_to_number(unsync_task *t, const unsync_value *value) {
  if (value->type == UNSYNC_NUMBER) return value->as.number;
  if (value->type == UNSYNC_INTEGER) return (double)value->as.integer;
  uns_call_fail_value(uns_call_of(t), value, "number", NULL);
  return 0;
}

const char *uns_call_to_string(unsync_task *t, const unsync_value *value, size_t *size) {
  size_t own;
  if (size == NULL) size = &own;
  if (value->type == UNSYNC_STRING)
    return uns_reader_string(&uns_call_of(t)->arguments, (size_t)value->as.place, size, NULL);
  *size = 0;
  uns_call_fail_value(uns_call_of(t), value, "string", NULL);
  return NULL;
}

const char *uns_call_to_text(unsync_task *t, const unsync_value *value) {
  size_t size;
  uns_call *c = uns_call_of(t);
  const char *bytes = uns_call_to_string(t, value, &size);
  if (bytes == NULL) return NULL;
  if (memchr(bytes, 0, size) != NULL) {
    uns_call_fail_value(c, value, NULL, "string contains zeros");
    return NULL;
  }
  uns_block *block = uns_call_block(c, size + 1);
  if (block == NULL) {
    uns_call_fail_memory(c);
    return NULL;
  }
  memcpy(block->bytes, bytes, size);
  block->bytes[size] = 0;
  return block->bytes;
}

int uns_call_check_table(unsync_task *t, const unsync_value *value) {
  return value->type == UNSYNC_TABLE ? UNSYNC_OK : uns_call_fail_value(uns_call_of(t), value, "table", NULL);
}

/* ---- Tables in arguments ---------------------------------------------------------------------------------------- */

/* False where there is nothing to look into: nil, or a failure. */
static bool is_table(unsync_task *t, const unsync_value *value) {
  if (value->type == UNSYNC_TABLE) return true;
  if (value->type != UNSYNC_NIL) uns_call_fail_value(uns_call_of(t), value, "table", NULL);
  return false;
}

/* What is not in `table`. What is not in something that is not there is named by the first that is not. */
static void show_missing(unsync_value *value, const unsync_value *table, int how, const char *name, int64_t index) {
  unsync_value missing = *table;
  if (table->type == UNSYNC_TABLE) {
    missing.type = UNSYNC_NIL;
    missing.origin = table->as.place;
    missing.as.integer = index;
    missing.name = name;
    missing.size = (size_t)how;
  } else if (table->type != UNSYNC_NIL) {
    missing.type = UNSYNC_NIL; /* the call has failed */
  }
  *value = missing;
}

size_t uns_call_length(unsync_task *t, const unsync_value *table) {
  if (!is_table(t, table)) return 0;
  return uns_reader_length(&uns_call_of(t)->arguments, (size_t)table->as.place);
}

void uns_call_element(unsync_task *t, const unsync_value *table, int64_t index, unsync_value *value) {
  uns_call *c = uns_call_of(t);
  const uns_reader *reader = &c->arguments;
  uns_item key, item;
  unsync_value from = *table; /* may be `value` */
  if (!is_table(t, &from)) {
    show_missing(value, &from, UNS_CALL_NO_ELEMENT, NULL, index);
    return;
  }
  size_t place = (size_t)from.as.place;
  uint32_t length = uns_reader_length(reader, place);
  if (index >= 1 && index <= (int64_t)length) {
    uns_walk *walk = NULL;
    for (unsigned i = 0; i < sizeof c->walks / sizeof c->walks[0]; i++)
      if (c->walks[i].table == place) walk = &c->walks[i];
    if (walk == NULL) walk = &c->walks[c->next_walk++ % (sizeof c->walks / sizeof c->walks[0])];
    if (walk->table != place || walk->element >= (uint32_t)index) *walk = (uns_walk){.table = place};
    uns_walk_to(reader, walk, (uint32_t)index);
    uns_walk_next(reader, walk, &key, &item);
    show(value, from.argument, &item);
    return;
  }
  uns_walk walk = {.table = place};
  uns_walk_to(reader, &walk, length + 1);
  while (uns_walk_next(reader, &walk, &key, &item)) {
    if (key.type != UNS_ITEM_INTEGER || key.as.integer != index) continue;
    show(value, from.argument, &item);
    return;
  }
  show_missing(value, &from, UNS_CALL_NO_ELEMENT, NULL, index);
}

void uns_call_field(unsync_task *t, const unsync_value *table, const char *name, unsync_value *value) {
  const uns_reader *reader = &uns_call_of(t)->arguments;
  uns_item key, item;
  unsync_value from = *table;
  if (name == NULL) uns_call_fail_misuse(uns_call_of(t), "asked for a field", "without a name");
  if (name == NULL || !is_table(t, &from)) {
    show_missing(value, &from, UNS_CALL_NO_FIELD, name, 0);
    return;
  }
  size_t length = strlen(name);
  uns_walk walk = {.table = (size_t)from.as.place};
  uns_walk_to(reader, &walk, uns_reader_length(reader, walk.table) + 1);
  while (uns_walk_next(reader, &walk, &key, &item)) {
    size_t size;
    if (key.type != UNS_ITEM_STRING) continue;
    const char *bytes = uns_reader_string(reader, key.as.place, &size, NULL);
    if (size != length || memcmp(bytes, name, size) != 0) continue;
    show(value, from.argument, &item);
    return;
  }
  show_missing(value, &from, UNS_CALL_NO_FIELD, name, 0);
}

void uns_call_context(unsync_task *t, const char *name, unsync_value *value) {
  const uns_call *c = uns_call_of(t);
  uns_item nothing = {.type = UNS_ITEM_NIL};
  show(value, (int)c->arguments.count, &nothing);
  if (!uns_call_has_context(c)) return;
  uns_item item = uns_reader_value(&c->arguments, c->arguments.count - 1);
  if (item.type != UNS_ITEM_TABLE) return;
  unsync_value table;
  show(&table, (int)c->arguments.count, &item);
  uns_call_field(t, &table, name, value);
}

int uns_call_next(unsync_task *t, unsync_cursor *cursor) {
  uns_call *c = uns_call_of(t);
  uns_item key, value;
  if (c->failed || !is_table(t, &cursor->table)) return 0;
  uns_walk walk = {.table = (size_t)cursor->table.as.place,
                   .at = (size_t)cursor->inside[0],
                   .element = (uint32_t)cursor->inside[1],
                   .pair = (uint32_t)(cursor->inside[1] >> 32),
                   .run = (uint32_t)cursor->inside[2],
                   .run_tag = (uint8_t)(cursor->inside[2] >> 32)};
  if (!uns_walk_next(&c->arguments, &walk, &key, &value)) return 0;
  cursor->inside[0] = walk.at;
  cursor->inside[1] = walk.element | (uint64_t)walk.pair << 32;
  cursor->inside[2] = walk.run | (uint64_t)walk.run_tag << 32;
  show(&cursor->key, cursor->table.argument, &key);
  show(&cursor->value, cursor->table.argument, &value);
  return 1;
}

/* The next of the first `room` elements; false: no more, or it is no number. */
static bool next_number(uns_call *c, const unsync_value *table, uns_walk *walk, size_t room, uns_item *item) {
  uns_item key;
  size_t length = uns_reader_length(&c->arguments, walk->table);
  if (walk->element >= length || walk->element >= room) return false;
  uns_walk_next(&c->arguments, walk, &key, item);
  if (item->type == UNS_ITEM_INTEGER || item->type == UNS_ITEM_NUMBER) return true;
  unsync_value value;
  show(&value, table->argument, item);
  if (item->type == UNS_ITEM_NIL) show_missing(&value, table, UNS_CALL_NO_ELEMENT, NULL, (int64_t)walk->element);
  uns_call_fail_value(c, &value, "number", NULL);
  return false;
}

size_t uns_call_numbers(unsync_task *t, const unsync_value *table, double *numbers, size_t room) {
  uns_call *c = uns_call_of(t);
  size_t count = 0;
  uns_item item;
  if (!is_table(t, table)) return 0;
  uns_walk walk = {.table = (size_t)table->as.place};
  while (next_number(c, table, &walk, room, &item))
    numbers[count++] = item.type == UNS_ITEM_NUMBER ? item.as.number : (double)item.as.integer;
  return count;
}

size_t uns_call_integers(unsync_task *t, const unsync_value *table, int64_t *integers, size_t room) {
  uns_call *c = uns_call_of(t);
  size_t count = 0;
  uns_item item;
  if (!is_table(t, table)) return 0;
  uns_walk walk = {.table = (size_t)table->as.place};
  while (next_number(c, table, &walk, room, &item)) {
    if (item.type == UNS_ITEM_NUMBER && !to_whole(item.as.number, &item.as.integer)) {
      unsync_value value;
      show(&value, table->argument, &item);
      uns_call_fail_value(c, &value, NULL, "number has no integer representation");
      return count;
    }
    integers[count++] = item.as.integer;
  }
  return count;
}

int uns_call_same(unsync_task *t, const unsync_value *one, const unsync_value *other) {
  (void)t;
  return one->type == UNSYNC_TABLE && other->type == UNSYNC_TABLE && one->as.place == other->as.place;
}
