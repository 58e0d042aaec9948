#include "exec/call.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "base/text.h"
#include "core/block.h"
#include "core/lent.h"
#include "core/writer.h"
#include "exec/executors.h"

/* What a plugin holds a pointer to. `job` apart, all of it belongs to the task's own thread. */
typedef struct call {
  unsync_task task; /* first */
  const uns_native *native;
  uns_job *job;
  uns_reader arguments;
  uns_writer results;
  bool failed;        /* the first failure, and from then on */
  char *code;         /* owned; NULL with `failed`: there was no memory even for the texts */
  char *message;      /* owned */
  uns_block **blocks; /* buffers that the task was given, one reference each; owned */
  size_t block_count, block_room;
  _Atomic uint64_t report_ns; /* when progress may be passed on again; also from the task's own threads */
  /* Where the last elements were found, so that asking for one after the other is no more than walking. */
  uns_walk walks[4];
  unsigned next_walk;
} call;

enum { REPORT_NS = 10000000 }; /* between two reports that are passed on */

/* How a value names what is not there: unsync_value.size, where its type is nil. */
enum { THERE, NO_FIELD, NO_ELEMENT };

_Static_assert((int)UNSYNC_NIL == UNS_ITEM_NIL && (int)UNSYNC_BOOLEAN == UNS_ITEM_BOOLEAN &&
                   (int)UNSYNC_INTEGER == UNS_ITEM_INTEGER && (int)UNSYNC_NUMBER == UNS_ITEM_NUMBER &&
                   (int)UNSYNC_STRING == UNS_ITEM_STRING && (int)UNSYNC_TABLE == UNS_ITEM_TABLE &&
                   (int)UNSYNC_FUNCTION == UNS_ITEM_FUNCTION && (int)UNSYNC_OBJECT == UNS_ITEM_OBJECT,
               "a plugin's types are the reader's");

static call *call_of(unsync_task *t) { return uns_container_of(t, call, task); }

/* Behind the arguments there may be one more value: the context. */
static bool has_context(const call *c) { return c->job->named_context && c->arguments.count > 0; }
static uint32_t argument_count(const call *c) { return c->arguments.count - has_context(c); }

/* ---- Failing ---------------------------------------------------------------------------------------------------- */

static char *copy(const char *string) {
  size_t size = strlen(string) + 1;
  char *bytes = uns_malloc(size);
  if (bytes != NULL) memcpy(bytes, string, size);
  return bytes;
}

/* Takes over `message`, whose loss is a failure too. */
static int fail_with(call *c, const char *code, uns_text message) {
  if (c->failed) {
    uns_free(message.bytes);
    return UNSYNC_FAILED;
  }
  c->failed = true;
  c->code = message.lost ? NULL : copy(code);
  c->message = message.bytes;
  return UNSYNC_FAILED;
}

static int fail_text(call *c, const char *code, const char *format, ...) __attribute__((format(printf, 3, 4)));
static int fail_text(call *c, const char *code, const char *format, ...) {
  uns_text message = {0};
  va_list arguments;
  if (c->failed) return UNSYNC_FAILED;
  va_start(arguments, format);
  uns_text_add_list(&message, format, arguments);
  va_end(arguments);
  return fail_with(c, code, message);
}

static int fail_memory(call *c) { return fail_text(c, "ENOMEM", "not enough memory"); }

__attribute__((format(printf, 3, 0))) static int api_fail(unsync_task *t, const char *code, const char *format,
                                                          va_list arguments) {
  uns_text message = {0};
  call *c = call_of(t);
  if (c->failed) return UNSYNC_FAILED;
  uns_text_add_list(&message, format, arguments);
  return fail_with(c, code != NULL ? code : "failed", message);
}

static int api_fail_errno(unsync_task *t, int number, const char *what) {
  char name[32], text[128];
  int code = uv_translate_sys_error(number);
  uv_err_name_r(code, name, sizeof name);
  uv_strerror_r(code, text, sizeof text);
  if (what == NULL) return fail_text(call_of(t), name, "%s", text);
  return fail_text(call_of(t), name, "%s: %s", what, text);
}

__attribute__((format(printf, 3, 0))) static int api_fail_arg(unsync_task *t, int index, const char *format,
                                                              va_list arguments) {
  uns_text message = {0};
  call *c = call_of(t);
  if (c->failed) return UNSYNC_FAILED;
  uns_text_add(&message, "bad argument #%d to '%s.%s' (", index, c->native->plugin->name, c->native->name);
  uns_text_add_list(&message, format, arguments);
  uns_text_add(&message, ")");
  return fail_with(c, "argument", message);
}

static int api_failed(unsync_task *t) { return call_of(t)->failed; }

/* ---- The way to a value, for error messages --------------------------------------------------------------------- */

/* A table that was met, and under which key of which other one. */
typedef struct step {
  size_t table, from; /* its place; index of the step before */
  uns_item key;
} step;

enum { WAY_SHOWN = 8 /* steps at the end of a long way that a message shows */ };

static void add_key(const call *c, uns_text *to, const uns_item *key) {
  if (key->type == UNS_ITEM_INTEGER) {
    uns_text_add(to, "[%lld]", (long long)key->as.integer);
  } else if (key->type == UNS_ITEM_NUMBER) {
    uns_text_add(to, "[%.14g]", key->as.number);
  } else if (key->type == UNS_ITEM_BOOLEAN) {
    uns_text_add(to, "[%s]", key->as.integer != 0 ? "true" : "false");
  } else if (key->type == UNS_ITEM_STRING) {
    size_t size;
    const char *bytes = uns_reader_string(&c->arguments, key->as.place, &size, NULL);
    uns_text_add(to, "%s%.*s", to->size_bytes == 0 ? "" : ".", size > 60 ? 60 : (int)size, bytes);
  } else {
    uns_text_add(to, "[%s]", unsync_type_name((int)key->type));
  }
}

/* Adds the keys that lead to `key` of the table of step `last`, the first first. */
static void add_keys(const call *c, uns_text *to, const step *steps, size_t last, const uns_item *key) {
  const uns_item *keys[WAY_SHOWN] = {key};
  size_t count = 1, at = last;
  for (; at != 0 && count < WAY_SHOWN; at = steps[at].from) keys[count++] = &steps[at].key;
  if (at != 0) uns_text_add(to, "...");
  while (count > 0) add_key(c, to, keys[--count]);
}

/*
 * Adds the shortest way to `sought` from `argument`: "rows[3].price". With `table` a table is sought, by its place,
 * else a value, by its origin. Looks through the whole argument: this is for a call that has failed. Nothing where it
 * is not in there, or is the argument itself.
 */
static void add_way(const call *c, int argument, bool table, size_t sought, uns_text *to) {
  const uns_reader *reader = &c->arguments;
  if (argument < 1 || (uint32_t)argument > reader->count) return;
  uns_item value = uns_reader_value(reader, (uint32_t)argument - 1), key;
  if (value.type != UNS_ITEM_TABLE || (table ? value.as.place : value.origin) == sought) return;
  size_t count = 1, room = 16;
  step *steps = uns_malloc(room * sizeof *steps);
  bool *seen = uns_calloc(reader->shared_count + 1, sizeof *seen);
  if (steps == NULL || seen == NULL) goto done;
  steps[0] = (step){.table = value.as.place};
  ptrdiff_t shared = uns_reader_shared(reader, value.as.place);
  if (shared >= 0) seen[shared] = true;
  for (size_t i = 0; i < count; i++) {
    uns_walk walk = {.table = steps[i].table};
    while (uns_walk_next(reader, &walk, &key, &value)) {
      if (table ? value.type == UNS_ITEM_TABLE && value.as.place == sought : value.origin == sought) {
        add_keys(c, to, steps, i, &key);
        goto done;
      }
      if (value.type != UNS_ITEM_TABLE) continue;
      shared = uns_reader_shared(reader, value.as.place);
      if (shared >= 0 && seen[shared]) continue;
      if (shared >= 0) seen[shared] = true;
      if (count == room) {
        step *longer = uns_realloc(steps, room * 2 * sizeof *steps);
        if (longer == NULL) goto done;
        steps = longer;
        room *= 2;
      }
      steps[count++] = (step){value.as.place, i, key};
    }
  }

done:
  uns_free(steps);
  uns_free(seen);
}

/* "integer" and "number" are one kind to whoever wrote the script. */
static const char *name_of(const call *c, const unsync_value *value) {
  if (value->type == UNSYNC_NIL && value->size == THERE && (uint32_t)value->argument > argument_count(c))
    return "no value";
  return value->type == UNSYNC_INTEGER ? "number" : unsync_type_name(value->type);
}

/* Fails for `value`, which is not what it should be: `expected`, or with `why` something is wrong with it. */
static int fail_value(call *c, const unsync_value *value, const char *expected, const char *why) {
  if (c->failed) return UNSYNC_FAILED;
  uns_text way = {0}, message = {0};
  if (value->type == UNSYNC_NIL && value->size != THERE) {
    add_way(c, value->argument, true, value->origin, &way);
    if (value->size == NO_ELEMENT) uns_text_add(&way, "[%lld]", (long long)value->as.integer);
    else uns_text_add(&way, "%s%s", way.size_bytes == 0 ? "" : ".", value->name);
  } else {
    add_way(c, value->argument, false, (size_t)value->origin, &way);
  }
  bool context = has_context(c) && (uint32_t)value->argument == c->arguments.count;
  if (context) uns_text_add(&message, "bad context variable of '%s.%s' (", c->native->plugin->name, c->native->name);
  else
    uns_text_add(&message, "bad argument #%d to '%s.%s' (", (int)value->argument, c->native->plugin->name,
                 c->native->name);
  if (why != NULL) uns_text_add(&message, "%s", why);
  else uns_text_add(&message, "%s expected", expected);
  if (way.size_bytes > 0) uns_text_add(&message, "%s'%s'", why != NULL ? " at " : " for ", way.bytes);
  if (why == NULL) uns_text_add(&message, ", got %s", name_of(c, value));
  uns_text_add(&message, ")");
  uns_free(way.bytes);
  return fail_with(c, "argument", message);
}

/* ---- Arguments -------------------------------------------------------------------------------------------------- */

static void show(unsync_value *value, int argument, const uns_item *item) {
  memset(value, 0, sizeof *value);
  value->type = (int32_t)item->type;
  value->argument = argument;
  value->origin = item->origin;
  if (item->type == UNS_ITEM_NUMBER) value->as.number = item->as.number;
  else if (item->type <= UNS_ITEM_INTEGER) value->as.integer = item->as.integer;
  else value->as.place = item->as.place;
}

static int api_arg_count(unsync_task *t) { return (int)argument_count(call_of(t)); }

static void api_arg(unsync_task *t, int index, unsync_value *value) {
  const uns_reader *reader = &call_of(t)->arguments;
  uns_item item = {.type = UNS_ITEM_NIL};
  if (index >= 1 && (uint32_t)index <= argument_count(call_of(t))) item = uns_reader_value(reader, (uint32_t)index - 1);
  show(value, index, &item);
}

static int api_to_boolean(unsync_task *t, const unsync_value *value) {
  if (value->type == UNSYNC_BOOLEAN) return value->as.integer != 0;
  fail_value(call_of(t), value, "boolean", NULL);
  return 0;
}

/* False where the double is not a whole number in range. */
static bool to_whole(double number, int64_t *integer) {
  if (!(number >= -9223372036854775808.0 && number < 9223372036854775808.0)) return false;
  *integer = (int64_t)number;
  return (double)*integer == number;
}

static int64_t api_to_integer(unsync_task *t, const unsync_value *value) {
  int64_t integer;
  if (value->type == UNSYNC_INTEGER) return value->as.integer;
  if (value->type == UNSYNC_NUMBER) {
    if (to_whole(value->as.number, &integer)) return integer;
    fail_value(call_of(t), value, NULL, "number has no integer representation");
  } else {
    fail_value(call_of(t), value, "integer", NULL);
  }
  return 0;
}

static double api_to_number(unsync_task *t, const unsync_value *value) {
  if (value->type == UNSYNC_NUMBER) return value->as.number;
  if (value->type == UNSYNC_INTEGER) return (double)value->as.integer;
  fail_value(call_of(t), value, "number", NULL);
  return 0;
}

static const char *api_to_string(unsync_task *t, const unsync_value *value, size_t *size) {
  size_t own;
  if (size == NULL) size = &own;
  if (value->type == UNSYNC_STRING)
    return uns_reader_string(&call_of(t)->arguments, (size_t)value->as.place, size, NULL);
  *size = 0;
  fail_value(call_of(t), value, "string", NULL);
  return NULL;
}

/* A buffer that lives as long as the task. */
static uns_block *give_block(call *c, size_t size) {
  if (c->block_count == c->block_room) {
    size_t room = c->block_room == 0 ? 8 : c->block_room * 2;
    uns_block **larger = uns_realloc(c->blocks, room * sizeof *larger);
    if (larger == NULL) return NULL;
    c->blocks = larger;
    c->block_room = room;
  }
  uns_block *block = uns_block_new(size);
  if (block != NULL) c->blocks[c->block_count++] = block;
  return block;
}

static const char *api_to_text(unsync_task *t, const unsync_value *value) {
  size_t size;
  call *c = call_of(t);
  const char *bytes = api_to_string(t, value, &size);
  if (bytes == NULL) return NULL;
  if (memchr(bytes, 0, size) != NULL) {
    fail_value(c, value, NULL, "string contains zeros");
    return NULL;
  }
  uns_block *block = give_block(c, size + 1);
  if (block == NULL) {
    fail_memory(c);
    return NULL;
  }
  memcpy(block->bytes, bytes, size);
  block->bytes[size] = 0;
  return block->bytes;
}

static int api_check_table(unsync_task *t, const unsync_value *value) {
  return value->type == UNSYNC_TABLE ? UNSYNC_OK : fail_value(call_of(t), value, "table", NULL);
}

/* ---- Tables in arguments ---------------------------------------------------------------------------------------- */

/* False where there is nothing to look into: nil, or a failure. */
static bool is_table(unsync_task *t, const unsync_value *value) {
  if (value->type == UNSYNC_TABLE) return true;
  if (value->type != UNSYNC_NIL) fail_value(call_of(t), value, "table", NULL);
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

static size_t api_length(unsync_task *t, const unsync_value *table) {
  if (!is_table(t, table)) return 0;
  return uns_reader_length(&call_of(t)->arguments, (size_t)table->as.place);
}

static void api_element(unsync_task *t, const unsync_value *table, int64_t index, unsync_value *value) {
  call *c = call_of(t);
  const uns_reader *reader = &c->arguments;
  uns_item key, item;
  unsync_value from = *table; /* may be `value` */
  if (!is_table(t, &from)) {
    show_missing(value, &from, NO_ELEMENT, NULL, index);
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
  show_missing(value, &from, NO_ELEMENT, NULL, index);
}

static void api_field(unsync_task *t, const unsync_value *table, const char *name, unsync_value *value) {
  const uns_reader *reader = &call_of(t)->arguments;
  uns_item key, item;
  unsync_value from = *table;
  if (!is_table(t, &from)) {
    show_missing(value, &from, NO_FIELD, name, 0);
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
  show_missing(value, &from, NO_FIELD, name, 0);
}

static void api_context(unsync_task *t, const char *name, unsync_value *value) {
  const call *c = call_of(t);
  uns_item nothing = {.type = UNS_ITEM_NIL};
  show(value, (int)c->arguments.count, &nothing);
  if (!has_context(c)) return;
  uns_item item = uns_reader_value(&c->arguments, c->arguments.count - 1);
  if (item.type != UNS_ITEM_TABLE) return;
  unsync_value table;
  show(&table, (int)c->arguments.count, &item);
  api_field(t, &table, name, value);
}

static int api_next(unsync_task *t, unsync_cursor *cursor) {
  call *c = call_of(t);
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
static bool next_number(call *c, const unsync_value *table, uns_walk *walk, size_t room, uns_item *item) {
  uns_item key;
  size_t length = uns_reader_length(&c->arguments, walk->table);
  if (walk->element >= length || walk->element >= room) return false;
  uns_walk_next(&c->arguments, walk, &key, item);
  if (item->type == UNS_ITEM_INTEGER || item->type == UNS_ITEM_NUMBER) return true;
  unsync_value value;
  show(&value, table->argument, item);
  if (item->type == UNS_ITEM_NIL) show_missing(&value, table, NO_ELEMENT, NULL, (int64_t)walk->element);
  fail_value(c, &value, "number", NULL);
  return false;
}

static size_t api_numbers(unsync_task *t, const unsync_value *table, double *numbers, size_t room) {
  call *c = call_of(t);
  size_t count = 0;
  uns_item item;
  if (!is_table(t, table)) return 0;
  uns_walk walk = {.table = (size_t)table->as.place};
  while (next_number(c, table, &walk, room, &item))
    numbers[count++] = item.type == UNS_ITEM_NUMBER ? item.as.number : (double)item.as.integer;
  return count;
}

static size_t api_integers(unsync_task *t, const unsync_value *table, int64_t *integers, size_t room) {
  call *c = call_of(t);
  size_t count = 0;
  uns_item item;
  if (!is_table(t, table)) return 0;
  uns_walk walk = {.table = (size_t)table->as.place};
  while (next_number(c, table, &walk, room, &item)) {
    if (item.type == UNS_ITEM_NUMBER && !to_whole(item.as.number, &item.as.integer)) {
      unsync_value value;
      show(&value, table->argument, &item);
      fail_value(c, &value, NULL, "number has no integer representation");
      return count;
    }
    integers[count++] = item.as.integer;
  }
  return count;
}

static int api_same(unsync_task *t, const unsync_value *one, const unsync_value *other) {
  (void)t;
  return one->type == UNSYNC_TABLE && other->type == UNSYNC_TABLE && one->as.place == other->as.place;
}

/* ---- Results ---------------------------------------------------------------------------------------------------- */

/* After something was put: the writer's failure is the call's. */
static int done(call *c, int status) {
  if (c->failed) return UNSYNC_FAILED;
  if (status == UNS_OK) return UNSYNC_OK;
  if (status == UNS_ENOMEM) return fail_memory(c);
  return fail_text(c, "misuse", "native task '%s.%s' put %s", c->native->plugin->name, c->native->name,
                   c->results.misuse);
}

static int api_put_nil(unsync_task *t) { return done(call_of(t), uns_writer_nil(&call_of(t)->results)); }

static int api_put_boolean(unsync_task *t, int value) {
  return done(call_of(t), uns_writer_boolean(&call_of(t)->results, value != 0));
}

static int api_put_integer(unsync_task *t, int64_t value) {
  return done(call_of(t), uns_writer_integer(&call_of(t)->results, value));
}

static int api_put_number(unsync_task *t, double value) {
  return done(call_of(t), uns_writer_number(&call_of(t)->results, value));
}

static int api_put_string(unsync_task *t, const char *bytes, size_t size) {
  return done(call_of(t), uns_writer_string(&call_of(t)->results, bytes, size));
}

static int api_put_value(unsync_task *t, const unsync_value *value) {
  uns_item item = {.type = (uns_item_type)value->type, .origin = (size_t)value->origin};
  if (value->type == UNSYNC_NUMBER) item.as.number = value->as.number;
  else if (value->type <= UNSYNC_INTEGER) item.as.integer = value->as.integer;
  else item.as.place = (size_t)value->as.place;
  return done(call_of(t), uns_writer_item(&call_of(t)->results, &call_of(t)->arguments, &item));
}

static char *api_alloc_bytes(unsync_task *t, size_t size) {
  uns_block *block = give_block(call_of(t), size);
  if (block != NULL) return block->bytes;
  fail_text(call_of(t), "ENOMEM", "not enough memory for %zu bytes", size);
  return NULL;
}

static void release_block(void *block) { uns_shared_unref(block); }

static int api_put_bytes(unsync_task *t, char *buffer, size_t size) {
  call *c = call_of(t);
  uns_block *block = NULL;
  if (c->failed) return UNSYNC_FAILED;
  for (size_t i = 0; i < c->block_count && block == NULL; i++)
    if (c->blocks[i]->bytes == buffer) block = c->blocks[i];
  if (block == NULL || size > block->size_bytes) {
    return fail_text(c, "misuse", "native task '%s.%s' put %s", c->native->plugin->name, c->native->name,
                     block == NULL ? "a buffer that is not from unsync_alloc_bytes" : "more bytes than the buffer has");
  }
  if (size < UNS_LENT_MIN) return api_put_string(t, buffer, size);
  uns_shared_ref(block);
  if (size < block->size_bytes) { /* a part of it: what it is put as, the buffer keeps its size */
    uns_block *part = uns_block_wrap(buffer, size, release_block, block);
    if (part == NULL) uns_shared_unref(block);
    block = part;
  }
  return block == NULL ? fail_memory(c) : done(c, uns_writer_held(&c->results, &block->base));
}

static int api_put_foreign(unsync_task *t, const void *bytes, size_t size, void (*release)(void *context),
                           void *context) {
  call *c = call_of(t);
  int status = UNSYNC_FAILED;
  if (!c->failed && size >= UNS_LENT_MIN) {
    uns_block *block = uns_block_wrap((char *)(uintptr_t)bytes, size, release, context);
    if (block != NULL) return done(c, uns_writer_held(&c->results, &block->base));
    fail_memory(c);
  } else if (!c->failed) {
    status = api_put_string(t, bytes, size);
  }
  if (release != NULL) release(context);
  return status;
}

static int api_begin_table(unsync_task *t) { return done(call_of(t), uns_writer_begin_table(&call_of(t)->results)); }

static int api_end_table(unsync_task *t) { return done(call_of(t), uns_writer_end_table(&call_of(t)->results)); }
static int api_pair(unsync_task *t) { return done(call_of(t), uns_writer_pair(&call_of(t)->results)); }

/* ---- Cancellation, progress, log: also from the task's own threads ---------------------------------------------- */

static bool is_past(const uns_job *job) { return job->deadline_ns != 0 && uns_clock_ns() >= job->deadline_ns; }

static int api_cancelled(unsync_task *t) {
  const uns_job *job = call_of(t)->job;
  return atomic_load_explicit(&job->cancel, memory_order_relaxed) != 0 || is_past(job);
}

static uint64_t api_deadline(unsync_task *t) { return call_of(t)->job->deadline_ns; }

static uint64_t api_now(unsync_task *t) {
  (void)t;
  return uns_clock_ns();
}

static int api_left_ms(unsync_task *t) {
  uint64_t deadline = call_of(t)->job->deadline_ns, now = uns_clock_ns();
  if (deadline == 0) return -1;
  if (deadline <= now) return 0;
  uint64_t left = (deadline - now + 999999) / 1000000; /* never too early */
  return left > INT32_MAX ? INT32_MAX : (int)left;
}

static void api_progress(unsync_task *t, double done_so_far, double total) {
  call *c = call_of(t);
  uns_job *job = c->job;
  uint64_t bits;
  memcpy(&bits, &done_so_far, sizeof bits);
  atomic_store_explicit(&job->progress_done, bits, memory_order_relaxed);
  memcpy(&bits, &total, sizeof bits);
  atomic_store_explicit(&job->progress_total, bits, memory_order_relaxed);
  atomic_fetch_add_explicit(&job->progress_count, 1, memory_order_release);
  if (job->progressed == NULL) return;
  uint64_t now = uns_clock_ns(), due = atomic_load_explicit(&c->report_ns, memory_order_relaxed);
  if (now < due && done_so_far < total) return;
  if (atomic_compare_exchange_strong_explicit(&c->report_ns, &due, now + REPORT_NS, memory_order_relaxed,
                                              memory_order_relaxed))
    job->progressed(job);
}

__attribute__((format(printf, 3, 0))) static void api_log(unsync_task *t, int level, const char *format,
                                                          va_list arguments) {
  static const char *const names[] = {"debug", "info", "warn", "error"};
  const uns_native *native = call_of(t)->native;
  if (level < UNSYNC_DEBUG) level = UNSYNC_DEBUG;
  if (level > UNSYNC_ERROR) level = UNSYNC_ERROR;
  if (level < native->plugin->log_level) return;
  uns_text line = {0};
  uns_text_add(&line, "%s.%s: %s: ", native->plugin->name, native->name, names[level - UNSYNC_DEBUG]);
  uns_text_add_list(&line, format, arguments);
  uns_text_add(&line, "\n");
  /* One write, so that lines do not mix; there is nobody to tell that a log line was lost. */
  if (line.bytes != NULL && write(STDERR_FILENO, line.bytes, line.size_bytes) < 0) line.lost = true;
  uns_free(line.bytes);
}

/* ---- The call --------------------------------------------------------------------------------------------------- */

static const unsync_api api = {
    .abi = UNSYNC_PLUGIN_ABI,
    .size_bytes = sizeof(unsync_api),
    .arg_count = api_arg_count,
    .arg = api_arg,
    .to_boolean = api_to_boolean,
    .to_integer = api_to_integer,
    .to_number = api_to_number,
    .to_string = api_to_string,
    .to_text = api_to_text,
    .check_table = api_check_table,
    .length = api_length,
    .element = api_element,
    .field = api_field,
    .next = api_next,
    .numbers = api_numbers,
    .integers = api_integers,
    .same = api_same,
    .put_nil = api_put_nil,
    .put_boolean = api_put_boolean,
    .put_integer = api_put_integer,
    .put_number = api_put_number,
    .put_string = api_put_string,
    .put_value = api_put_value,
    .alloc_bytes = api_alloc_bytes,
    .put_bytes = api_put_bytes,
    .put_foreign = api_put_foreign,
    .begin_table = api_begin_table,
    .end_table = api_end_table,
    .pair = api_pair,
    .fail = api_fail,
    .fail_errno = api_fail_errno,
    .fail_arg = api_fail_arg,
    .failed = api_failed,
    .cancelled = api_cancelled,
    .deadline = api_deadline,
    .now = api_now,
    .left_ms = api_left_ms,
    .progress = api_progress,
    .log = api_log,
    .context = api_context,
};

/* Ends the job with an error value: `outcome` is that of a failure or a cancellation. */
static void end_with_error(uns_job *job, uns_outcome outcome, const char *code, const char *message, const char *extra,
                           const char *value) {
  uns_packet_deinit(&job->result);
  if (uns_write_error(&job->result, code, message, extra, value) == UNS_OK) job->outcome = outcome;
  else uns_job_fail(job, "ENOMEM", "not enough memory");
}

static void end_stopped(call *c) {
  uns_text message = {0};
  bool asked = atomic_load_explicit(&c->job->cancel, memory_order_relaxed) != 0;
  uns_text_add(&message, "%s.%s %s", c->native->plugin->name, c->native->name,
               asked ? "was cancelled" : "has passed its deadline");
  end_with_error(c->job, asked ? UNS_OUTCOME_CANCELLED : UNS_OUTCOME_FAILED, asked ? "cancelled" : "timeout",
                 message.bytes == NULL ? "not enough memory" : message.bytes, "stopped_by", "token");
  uns_free(message.bytes);
}

void uns_call_run(const uns_native *native, uns_job *job) {
  call c = {.task = {&api}, .native = native, .job = job};
  atomic_init(&c.report_ns, 0);
  uns_packet_deinit(&job->result);
  int status = uns_reader_open(&c.arguments, &job->call);
  if (status == UNS_OK) status = uns_writer_init(&c.results, &job->result);
  if (status != UNS_OK) {
    if (status == UNS_ENOMEM) uns_job_fail(job, "ENOMEM", "not enough memory to run %s", job->function->name);
    else uns_job_fail(job, "corrupt", "the arguments of %s came damaged", job->function->name);
  } else {
    int code = native->run(&c.task);
    bool stopped = false;
    if (!c.failed && code == UNSYNC_CANCELLED) {
      stopped = api_cancelled(&c.task);
      if (!stopped)
        fail_text(&c, "misuse", "native task '%s.%s' says that it was cancelled, but nobody did that",
                  native->plugin->name, native->name);
    } else if (!c.failed && code != UNSYNC_OK) {
      fail_text(&c, "failed", "native task '%s.%s' failed without saying why (%d)", native->plugin->name, native->name,
                code);
    } else if (!c.failed) {
      done(&c, uns_writer_finish(&c.results));
    }
    if (stopped) end_stopped(&c);
    else if (!c.failed) job->outcome = UNS_OUTCOME_DONE;
    else if (c.code != NULL && c.message != NULL)
      end_with_error(job, UNS_OUTCOME_FAILED, c.code, c.message, NULL, NULL);
    else uns_job_fail(job, "ENOMEM", "not enough memory to say why %s failed", job->function->name);
  }
  uns_writer_deinit(&c.results);
  uns_reader_close(&c.arguments);
  for (size_t i = 0; i < c.block_count; i++) uns_shared_unref(c.blocks[i]);
  uns_free(c.blocks);
  uns_free(c.code);
  uns_free(c.message);
  uns_packet_deinit(&job->call); /* what was lent goes home as soon as it can */
}

/* The task that `function` names. NULL with a text, or without one where there was no memory. */
static const uns_native *find_task(uns_executors *executors, uns_function *function, char **error) {
  if (function->task != NULL) return function->task;
  uns_registry *registry = uns_registry_of(executors);
  if (registry == NULL) return NULL;
  if (function->plugin == NULL) return uns_registry_find(registry, function->native, error);
  /* The host knew the very file that it is from. Only one thread of a worker process ever has such a function. */
  function->task = uns_registry_resolve(registry, function->plugin, function->native, error);
  return function->task;
}

void uns_call_native(uns_executors *executors, uns_job *job) {
  char *error = NULL;
  const uns_native *native = find_task(executors, job->function, &error);
  if (native != NULL) uns_call_run(native, job);
  else if (error != NULL) end_with_error(job, UNS_OUTCOME_FAILED, "plugin", error, NULL, NULL);
  else uns_job_fail(job, "ENOMEM", "not enough memory to load %s", job->function->native);
  uns_free(error);
}
