/*
 * call_error: a native task's call fails: with a code and a text, or for a value that is not what it should be.
 *
 *   - The first failure counts; its texts may have any length. Where there is no memory for them, that is told instead.
 *   - The way to a value ("rows[3].price") is looked for when it is asked for, which is after a failure: calls that
 *     succeed pay nothing for it.
 */
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "exec/call_task.h"

/* Takes over `message`, whose loss is a failure too. */
static int fail_with(uns_call *c, const char *code, uns_text message) {
  if (c->failed) {
    uns_free(message.bytes);
    return UNSYNC_FAILED;
  }
  c->failed = true;
  c->code = message.lost ? NULL : uns_copy_text(code);
  c->message = message.bytes;
  return UNSYNC_FAILED;
}

int uns_call_fail_text(uns_call *c, const char *code, const char *format, ...) {
  uns_text message = {0};
  va_list arguments;
  if (c->failed) return UNSYNC_FAILED;
  va_start(arguments, format);
  uns_text_add_list(&message, format, arguments);
  va_end(arguments);
  return fail_with(c, code, message);
}

int uns_call_fail_misuse(uns_call *c, const char *did, const char *what) {
  return uns_call_fail_text(c, "misuse", "native task '%s.%s' %s %s", c->native->plugin->name, c->native->name, did,
                            what);
}

int uns_call_fail_memory(uns_call *c) { return uns_call_fail_text(c, "ENOMEM", "not enough memory"); }

int uns_call_fail(unsync_task *t, const char *code, const char *format, va_list arguments) {
  uns_text message = {0};
  uns_call *c = uns_call_of(t);
  if (c->failed) return UNSYNC_FAILED;
  uns_text_add_list(&message, format, arguments);
  return fail_with(c, code != NULL ? code : "failed", message);
}

int uns_call_fail_errno(unsync_task *t, int number, const char *what) {
  char name[32], text[128];
  int code = uv_translate_sys_error(number);
  uv_err_name_r(code, name, sizeof name);
  uv_strerror_r(code, text, sizeof text);
  if (what == NULL) return uns_call_fail_text(uns_call_of(t), name, "%s", text);
  return uns_call_fail_text(uns_call_of(t), name, "%s: %s", what, text);
}

int uns_call_fail_arg(unsync_task *t, int index, const char *format, va_list arguments) {
  uns_text message = {0};
  uns_call *c = uns_call_of(t);
  if (c->failed) return UNSYNC_FAILED;
  uns_text_add(&message, "bad argument #%d to '%s.%s' (", index, c->native->plugin->name, c->native->name);
  uns_text_add_list(&message, format, arguments);
  uns_text_add(&message, ")");
  return fail_with(c, "argument", message);
}

int uns_call_failed(unsync_task *t) { return uns_call_of(t)->failed; }

/* ---- The way to a value, for error messages --------------------------------------------------------------------- */

/* A table that was met, and under which key of which other one. */
typedef struct step {
  size_t table, from; /* its place; index of the step before */
  uns_item key;
} step;

enum { WAY_SHOWN = 8 /* steps at the end of a long way that a message shows */ };

static void add_key(const uns_call *c, uns_text *to, const uns_item *key) {
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
static void add_keys(const uns_call *c, uns_text *to, const step *steps, size_t last, const uns_item *key) {
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
static void add_way(const uns_call *c, int argument, bool table, size_t sought, uns_text *to) {
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
static const char *name_of(const uns_call *c, const unsync_value *value) {
  if (value->type == UNSYNC_NIL && value->size == UNS_CALL_THERE &&
      (uint32_t)value->argument > uns_call_argument_count(c))
    return "no value";
  return value->type == UNSYNC_INTEGER ? "number" : unsync_type_name(value->type);
}

int uns_call_fail_value(uns_call *c, const unsync_value *value, const char *expected, const char *why) {
  if (c->failed) return UNSYNC_FAILED;
  uns_text way = {0}, message = {0};
  if (value->type == UNSYNC_NIL && value->size != UNS_CALL_THERE) {
    add_way(c, value->argument, true, value->origin, &way);
    if (value->size == UNS_CALL_NO_ELEMENT) uns_text_add(&way, "[%lld]", (long long)value->as.integer);
    else uns_text_add(&way, "%s%s", way.size_bytes == 0 ? "" : ".", value->name);
  } else {
    add_way(c, value->argument, false, (size_t)value->origin, &way);
  }
  bool context = uns_call_has_context(c) && (uint32_t)value->argument == c->arguments.count;
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
