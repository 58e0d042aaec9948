/* echo: gives back what it is given, in every way that there is; and tasks that show how a call goes. For specs. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <unsync_plugin.h>

/* all(...) -> ...: by unsync_put_value */
static int all(unsync_task *t) {
  int count = unsync_arg_count(t);
  for (int i = 1; i <= count; i++) unsync_put_value(t, unsync_arg(t, i));
  return UNSYNC_OK;
}

/* A value read and written piece by piece, as a plugin would. Tables deeper than `depth` become nil. */
static void copy(unsync_task *t, unsync_value value, int depth) {
  size_t size = 0;
  const char *bytes;
  switch (value.type) {
    case UNSYNC_BOOLEAN: unsync_put_boolean(t, unsync_boolean(t, value)); break;
    case UNSYNC_INTEGER: unsync_put_integer(t, unsync_integer(t, value)); break;
    case UNSYNC_NUMBER: unsync_put_number(t, unsync_number(t, value)); break;
    case UNSYNC_STRING:
      bytes = unsync_string(t, value, &size);
      if (bytes != NULL) unsync_put_string(t, bytes, size);
      break;
    case UNSYNC_TABLE:
      if (depth == 0) {
        unsync_put_nil(t);
        break;
      }
      unsync_begin_table(t);
      for (unsync_cursor at = unsync_each(value); unsync_next(t, &at);) {
        unsync_pair(t);
        copy(t, at.key, depth - 1);
        copy(t, at.value, depth - 1);
      }
      unsync_end_table(t);
      break;
    default: unsync_put_nil(t);
  }
}

static int walk(unsync_task *t) {
  int count = unsync_arg_count(t);
  for (int i = 1; i <= count && !unsync_failed(t); i++) copy(t, unsync_arg(t, i), 150);
  return UNSYNC_OK;
}

/* list(table) -> table: elements 1 to n by index, put as a list */
static int list(unsync_task *t) {
  unsync_value table = unsync_arg_table(t, 1);
  size_t length = unsync_length(t, table);
  unsync_begin_table(t);
  for (size_t i = 1; i <= length; i++) unsync_put_value(t, unsync_element(t, table, (int64_t)i));
  return unsync_end_table(t);
}

/* types(...) -> the kinds of its arguments */
static int types(unsync_task *t) {
  int count = unsync_arg_count(t);
  for (int i = 1; i <= count; i++) unsync_put_text(t, unsync_type_name(unsync_arg(t, i).type));
  return UNSYNC_OK;
}

/* typed(boolean, integer, number, string, text, table) -> the same, read by their type; table becomes its length */
static int typed(unsync_task *t) {
  size_t size = 0;
  int boolean = unsync_arg_boolean(t, 1);
  int64_t integer = unsync_arg_integer(t, 2);
  double number = unsync_arg_number(t, 3);
  const char *bytes = unsync_arg_string(t, 4, &size), *text = unsync_arg_text(t, 5);
  size_t length = unsync_length(t, unsync_arg_table(t, 6));
  if (unsync_failed(t)) return UNSYNC_FAILED;
  unsync_put_boolean(t, boolean);
  unsync_put_integer(t, integer);
  unsync_put_number(t, number);
  unsync_put_string(t, bytes, size);
  unsync_put_text(t, text);
  return unsync_put_integer(t, (int64_t)length);
}

static int optional(unsync_task *t) {
  unsync_put_boolean(t, unsync_opt_boolean(t, 1, 1));
  unsync_put_integer(t, unsync_opt_integer(t, 2, 42));
  unsync_put_number(t, unsync_opt_number(t, 3, 0.5));
  return unsync_put_text(t, unsync_opt_text(t, 4, "otherwise"));
}

/* sum({numbers}) -> number, and the sum of their whole parts as an integer if all are whole */
static int sum(unsync_task *t) {
  unsync_value table = unsync_arg_table(t, 1);
  size_t length = unsync_length(t, table);
  double total = 0, *numbers = (double *)(void *)unsync_alloc_bytes(t, (length + 1) * sizeof *numbers);
  if (numbers == NULL) return UNSYNC_FAILED;
  size_t count = unsync_numbers(t, table, numbers, length);
  for (size_t i = 0; i < count; i++) total += numbers[i];
  return unsync_put_number(t, total);
}

static int sum_integers(unsync_task *t) {
  unsync_value table = unsync_arg_table(t, 1);
  size_t length = unsync_length(t, table);
  uint64_t total = 0;
  int64_t *integers = (int64_t *)(void *)unsync_alloc_bytes(t, (length + 1) * sizeof *integers);
  if (integers == NULL) return UNSYNC_FAILED;
  size_t count = unsync_integers(t, table, integers, length);
  for (size_t i = 0; i < count; i++) total += (uint64_t)integers[i];
  return unsync_put_integer(t, (int64_t)total);
}

/* sum_deep(tables) -> number: of all that lies in the tables, which must be numbers */
static double add_up(unsync_task *t, unsync_value value) {
  double total = 0;
  if (value.type != UNSYNC_TABLE) return unsync_number(t, value);
  for (unsync_cursor at = unsync_each(value); unsync_next(t, &at);) total += add_up(t, at.value);
  return total;
}

static int sum_deep(unsync_task *t) { return unsync_put_number(t, add_up(t, unsync_arg(t, 1))); }

/* path(table) -> integer: a.b[2].c of it, to see how errors name the way */
static int path(unsync_task *t) {
  unsync_value b = unsync_field(t, unsync_field(t, unsync_arg(t, 1), "a"), "b");
  return unsync_put_integer(t, unsync_integer(t, unsync_field(t, unsync_element(t, b, 2), "c")));
}

/* bytes(size [, fill = "x"]) -> string, without a copy */
static int bytes(unsync_task *t) {
  int64_t size = unsync_arg_integer(t, 1);
  const char *fill = unsync_opt_text(t, 2, "x");
  if (unsync_failed(t)) return UNSYNC_FAILED;
  char *buffer = unsync_alloc_bytes(t, (size_t)size);
  if (buffer == NULL) return UNSYNC_FAILED;
  memset(buffer, fill[0], (size_t)size);
  return unsync_put_bytes(t, buffer, (size_t)size);
}

static int foreign(unsync_task *t) {
  int64_t size = unsync_arg_integer(t, 1);
  if (unsync_failed(t)) return UNSYNC_FAILED;
  char *buffer = malloc((size_t)size + 1);
  if (buffer == NULL) return unsync_fail_errno(t, ENOMEM, "foreign");
  memset(buffer, 'y', (size_t)size);
  return unsync_put_foreign(t, buffer, (size_t)size, free, buffer);
}

/* fail(code, message) */
static int fail(unsync_task *t) {
  const char *code = unsync_arg_text(t, 1), *message = unsync_arg_text(t, 2);
  if (unsync_failed(t)) return UNSYNC_FAILED;
  unsync_put_text(t, "thrown away");
  return unsync_fail(t, code, "%s", message);
}

static int fail_errno(unsync_task *t) {
  return unsync_fail_errno(t, (int)unsync_arg_integer(t, 1), unsync_opt_text(t, 2, "echo"));
}

static int fail_arg(unsync_task *t) { return unsync_fail_arg(t, 1, "out of range: %d", (int)unsync_arg_integer(t, 1)); }

/* Returns what it is told to, without having failed. */
static int returns(unsync_task *t) { return (int)unsync_arg_integer(t, 1); }

static int leave_open(unsync_task *t) {
  unsync_begin_table(t);
  return UNSYNC_OK;
}

static int end_twice(unsync_task *t) {
  unsync_begin_table(t);
  unsync_end_table(t);
  return unsync_end_table(t);
}

static int lone_key(unsync_task *t) {
  unsync_begin_table(t);
  unsync_key(t, "lonely");
  return unsync_end_table(t);
}

static int nil_key(unsync_task *t) {
  unsync_begin_table(t);
  unsync_pair(t);
  unsync_put_nil(t);
  unsync_put_integer(t, 1);
  return unsync_end_table(t);
}

static int key_outside(unsync_task *t) { return unsync_key(t, "where"); }

/* nested(depth) -> a table in a table in a table … */
static int nested(unsync_task *t) {
  int64_t depth = unsync_arg_integer(t, 1);
  for (int64_t i = 0; i < depth; i++) unsync_begin_table(t);
  for (int64_t i = 0; i < depth; i++) unsync_end_table(t);
  return UNSYNC_OK;
}

/* depth(table) -> how often [1] can be followed */
static int depth(unsync_task *t) {
  int64_t count = 0;
  for (unsync_value at = unsync_arg(t, 1); at.type == UNSYNC_TABLE; at = unsync_element(t, at, 1)) count++;
  return unsync_put_integer(t, count);
}

/* cycle(table) -> whether table[1] is the table itself */
static int cycle(unsync_task *t) {
  unsync_value table = unsync_arg_table(t, 1);
  return unsync_put_boolean(t, unsync_same(t, table, unsync_element(t, table, 1)));
}

/* mixed() -> one table with everything in it */
static int mixed(unsync_task *t) {
  unsync_begin_table(t);
  unsync_put_integer(t, 1);
  unsync_key(t, "name");
  unsync_put_text(t, "mixed");
  unsync_put_nil(t);
  unsync_put_number(t, 2.5);
  unsync_key_integer(t, -7);
  unsync_put_boolean(t, 1);
  unsync_pair(t);
  unsync_put_boolean(t, 0);
  unsync_put_text(t, "no");
  unsync_pair(t);
  unsync_begin_table(t);
  unsync_end_table(t);
  unsync_put_text(t, "a table is the key");
  unsync_key(t, "list");
  unsync_begin_table(t);
  for (int i = 1; i <= 3; i++) unsync_put_string(t, "\0abc", (size_t)i);
  unsync_end_table(t);
  return unsync_end_table(t);
}

static void nap(long ms) {
  struct timespec time = {ms / 1000, ms % 1000 * 1000000};
  nanosleep(&time, NULL);
}

/* work(steps [, ms = 1]) -> steps done: reports progress, looks at the token */
static int work(unsync_task *t) {
  int64_t steps = unsync_arg_integer(t, 1), ms = unsync_opt_integer(t, 2, 1), done = 0;
  if (unsync_failed(t)) return UNSYNC_FAILED;
  while (done < steps) {
    if (unsync_cancelled(t)) return UNSYNC_CANCELLED;
    if (ms > 0) nap((long)ms);
    unsync_progress(t, (double)++done, (double)steps);
  }
  return unsync_put_integer(t, done);
}

/* deaf(ms): sleeps without a look at the token */
static int deaf(unsync_task *t) {
  nap((long)unsync_arg_integer(t, 1));
  return unsync_put_text(t, "slept");
}

static int give_up(unsync_task *t) {
  (void)t;
  return UNSYNC_CANCELLED;
}

/* deadline() -> milliseconds left or -1, and whether deadline and clock agree */
static int deadline(unsync_task *t) {
  unsync_put_integer(t, unsync_left_ms(t));
  return unsync_put_boolean(t, unsync_deadline(t) == 0 || unsync_deadline(t) > unsync_now(t));
}

/* log(level, text) */
static int log_line(unsync_task *t) {
  int level = (int)unsync_arg_integer(t, 1);
  const char *text = unsync_arg_text(t, 2);
  if (text != NULL) unsync_log(t, level, "%s", text);
  return UNSYNC_OK;
}

static int pid(unsync_task *t) { return unsync_put_integer(t, getpid()); }

/* has() -> whether this host has what this header has */
static int has(unsync_task *t) { return unsync_put_boolean(t, UNSYNC_HAS(t, log)); }

/* context(name, ...) -> what the caller's variable is set to, how many arguments there are */
static int context(unsync_task *t) {
  const char *name = unsync_arg_text(t, 1);
  if (unsync_failed(t)) return UNSYNC_FAILED;
  unsync_put_value(t, unsync_context(t, name));
  return unsync_put_integer(t, unsync_arg_count(t));
}

/* context_number(name) -> number: fails where it is none */
static int context_number(unsync_task *t) {
  return unsync_put_number(t, unsync_number(t, unsync_context(t, unsync_arg_text(t, 1))));
}

static const unsync_task_def tasks[] = {
    {"context", context, NULL, 0},
    {"context_number", context_number, NULL, 0},
    {"all", all, "all(...) -> ...: what it is given", 0},
    {"walk", walk, "walk(...) -> ...: the same, copied piece by piece", 0},
    {"list", list, NULL, 0},
    {"types", types, NULL, 0},
    {"typed", typed, NULL, 0},
    {"optional", optional, NULL, 0},
    {"sum", sum, NULL, 0},
    {"sum_integers", sum_integers, NULL, 0},
    {"sum_deep", sum_deep, NULL, 0},
    {"path", path, NULL, 0},
    {"bytes", bytes, NULL, 0},
    {"foreign", foreign, NULL, 0},
    {"fail", fail, NULL, 0},
    {"fail_errno", fail_errno, NULL, 0},
    {"fail_arg", fail_arg, NULL, 0},
    {"returns", returns, NULL, 0},
    {"leave_open", leave_open, NULL, 0},
    {"end_twice", end_twice, NULL, 0},
    {"lone_key", lone_key, NULL, 0},
    {"nil_key", nil_key, NULL, 0},
    {"key_outside", key_outside, NULL, 0},
    {"nested", nested, NULL, 0},
    {"depth", depth, NULL, 0},
    {"cycle", cycle, NULL, 0},
    {"mixed", mixed, NULL, 0},
    {"work", work, NULL, 0},
    {"deaf", deaf, NULL, 0},
    {"give_up", give_up, NULL, 0},
    {"deadline", deadline, NULL, 0},
    {"log", log_line, NULL, 0},
    {"pid", pid, NULL, 0},
    {"has", has, NULL, 0},
};

UNSYNC_PLUGIN("echo", "1.0", "Gives back what it is given", tasks)
