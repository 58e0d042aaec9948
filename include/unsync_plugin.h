/*
 * unsync_plugin.h: native tasks. This header is the whole manual; read it from top to bottom.
 *
 * A plugin is a shared object with tasks in it. A task is a C function that a script calls like any other function:
 * it runs on a thread or in a process of its own, and the script gets a future.
 *
 *     #include <unsync_plugin.h>
 *
 *     // sum.add(a, b) -> number
 *     static int add(unsync_task *t) {
 *       double a = unsync_arg_number(t, 1);
 *       double b = unsync_arg_number(t, 2);
 *       return unsync_put_number(t, a + b);
 *     }
 *
 *     static const unsync_task_def tasks[] = {
 *       {"add", add, "add(a, b) -> number: the sum of two numbers", 0},
 *     };
 *
 *     UNSYNC_PLUGIN("sum", "1.0", "Sums", tasks)
 *
 * Build it with any compiler for C99 or C++11 or later; there is nothing to link with:
 *
 *     cc -shared -fPIC -O2 -o plugins/sum.so sum.c
 *
 * and call it from a script beside the folder plugins/:
 *
 *     local unsync = require "unsync"
 *     local add = unsync.thread("sum.add")     -- or unsync.cpu("sum.add"): in a process
 *     print(add(1, 2):await())                 --> 3.0
 *
 * What always holds:
 *   - A task sees no lua_State, and no event loop. Its whole world is `t`.
 *   - It may block, and it may run for as long as it likes: it is in nobody's way.
 *   - The same function may run many times at once, on many threads. What it shares, it must lock.
 *   - It does not know whether it runs in a thread or in a process: the script chooses. A crash in a thread ends the
 *     whole program; a crash in a process fails that one call.
 *   - `t`, and all that was read through it, is valid until the task returns, on the thread on which it was called.
 *     unsync_cancelled, unsync_deadline, unsync_now, unsync_progress and unsync_log may also be called from threads
 *     that the task has started, as long as it waits for their end before it returns.
 *   - Once loaded, a plugin stays in the process until the process ends.
 *   - Seen from C++: no exception may leave a task.
 *
 * Contents: 1 results of a task · 2 arguments · 3 tables in arguments · 4 putting results · 5 failing
 * 6 cancellation, deadlines, progress, log, context · 7 the descriptor · 8 the table behind all this
 */
#ifndef UNSYNC_PLUGIN_H
#define UNSYNC_PLUGIN_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define UNSYNC_EXTERN_C extern "C"
extern "C" {
#else
#define UNSYNC_EXTERN_C extern
#endif

#if defined(__GNUC__)
#define UNSYNC_FORMAT(format, first) __attribute__((__format__(__printf__, format, first)))
#define UNSYNC_PLUGIN_EXPORT __attribute__((__visibility__("default")))
#else
#define UNSYNC_FORMAT(format, first)
#define UNSYNC_PLUGIN_EXPORT
#endif

typedef struct unsync_task unsync_task;

/* ---- 1 The results of a task ------------------------------------------------------------------------------------ */

/*
 * A task returns one of these. Functions below that can fail return UNSYNC_OK or UNSYNC_FAILED too, so that a task may
 * end with `return unsync_put_string(…)`.
 *
 * A failure sticks: once anything has failed (an argument of the wrong type, no memory, unsync_fail), the call fails
 * with that first failure, whatever the task does and returns afterwards. So a task may read all its arguments and then
 * look once:
 *
 *     const char *text = unsync_arg_text(t, 1);
 *     int64_t level = unsync_opt_integer(t, 2, 6);
 *     if (unsync_failed(t)) return UNSYNC_FAILED;
 *
 * Until then what was read is harmless: 0, false, NULL, an empty table.
 */
enum {
  UNSYNC_OK = 0,
  UNSYNC_FAILED = -1,
  UNSYNC_CANCELLED = -2 /* stopped early because unsync_cancelled said so: the future is cancelled, not failed */
};

/* ---- 2 Arguments ------------------------------------------------------------------------------------------------ */

/* The kinds of values, as Lua has them. An integer is also read as a number, and a whole number as an integer. */
typedef enum {
  UNSYNC_NIL, /* also an argument, field or element that is not there */
  UNSYNC_BOOLEAN,
  UNSYNC_INTEGER, /* int64_t */
  UNSYNC_NUMBER,  /* double */
  UNSYNC_STRING,  /* any bytes */
  UNSYNC_TABLE,
  UNSYNC_FUNCTION, /* can be told, not read */
  UNSYNC_OBJECT    /* a future, a channel, a userdata: can be told, not read */
} unsync_type;

/* A value in the arguments, passed around by value. Look at `type`; read the rest through the functions. */
typedef struct unsync_value {
  int32_t type;     /* unsync_type */
  int32_t argument; /* the rest is the host's */
  union {
    int64_t integer;
    double number;
    uint64_t place;
  } as;
  uint64_t origin;
  const char *name; /* of a field that is not there: borrowed, for the error message */
  size_t size;
} unsync_value;

/* How many arguments there are, nils at the end included. */
static inline int unsync_arg_count(unsync_task *t);

/*
 * Argument `index`, counted from 1, as what it should be. If it is something else the call fails with
 * "bad argument #1 to 'sum.add' (number expected, got nil)".
 */
static inline int unsync_arg_boolean(unsync_task *t, int index); /* 0 or 1 */
static inline int64_t unsync_arg_integer(unsync_task *t, int index);
static inline double unsync_arg_number(unsync_task *t, int index);
/* The bytes and, where `size` is not NULL, their number. They are read where they lie, not copied, whatever their
   size; no zero byte follows them. NULL on failure only. */
static inline const char *unsync_arg_string(unsync_task *t, int index, size_t *size);
/* A copy with a zero byte behind it, for functions that want one: a path. Bytes with a zero among them fail. */
static inline const char *unsync_arg_text(unsync_task *t, int index);
static inline unsync_value unsync_arg_table(unsync_task *t, int index);

/* The same, where nil or nothing means `otherwise`. */
static inline int unsync_opt_boolean(unsync_task *t, int index, int otherwise);
static inline int64_t unsync_opt_integer(unsync_task *t, int index, int64_t otherwise);
static inline double unsync_opt_number(unsync_task *t, int index, double otherwise);
static inline const char *unsync_opt_text(unsync_task *t, int index, const char *otherwise);

/* Argument `index`, whatever it is; UNSYNC_NIL where there is none. Read it by the functions that follow. */
static inline unsync_value unsync_arg(unsync_task *t, int index);

/* A value as what it should be; the failure names the way to it: "bad argument #2 to 'sum.all' (number expected for
   'rows[3].price', got string)". */
static inline int unsync_boolean(unsync_task *t, unsync_value value);
static inline int64_t unsync_integer(unsync_task *t, unsync_value value);
static inline double unsync_number(unsync_task *t, unsync_value value);
static inline const char *unsync_string(unsync_task *t, unsync_value value, size_t *size);
static inline const char *unsync_text(unsync_task *t, unsync_value value);

/* "nil", "boolean", "integer", "number", "string", "table", "function", "userdata" */
static inline const char *unsync_type_name(int type);

/* ---- 3 Tables in arguments -------------------------------------------------------------------------------------- */

/*
 * A table is walked, or asked for what it holds. Nothing is copied; asking takes longer the more the table holds, so
 * walk large ones. nil counts as an empty table here, so that options may be left out; anything else fails.
 *
 *     unsync_value options = unsync_arg(t, 2);
 *     int64_t level = unsync_integer(t, unsync_field(t, options, "level"));
 *
 *     unsync_cursor at = unsync_each(options);
 *     while (unsync_next(t, &at)) {
 *       if (at.key.type == UNSYNC_STRING) … at.value …
 *     }
 *
 * Metatables play no part. Tables may hold themselves: whoever follows tables to any depth must end somewhere;
 * unsync_same tells whether two values are one table.
 */
typedef struct unsync_cursor {
  unsync_value key, value; /* the present pair */
  unsync_value table;      /* the rest is the host's */
  uint64_t inside[3];
} unsync_cursor;

/* The length of the list in the table: elements 1 to this are there; exact for a list without holes. */
static inline size_t unsync_length(unsync_task *t, unsync_value table);
/* Element `index`, from 1; UNSYNC_NIL where there is none. */
static inline unsync_value unsync_element(unsync_task *t, unsync_value table, int64_t index);
/* The value at a string key; UNSYNC_NIL where there is none. `name` must live as long as the value is used. */
static inline unsync_value unsync_field(unsync_task *t, unsync_value table, const char *name);

/* Walks all pairs: the list's in order, then the others in any order. */
static inline unsync_cursor unsync_each(unsync_value table);
static inline int unsync_next(unsync_task *t, unsync_cursor *cursor); /* 0: no more, or something failed */

/*
 * Copies elements 1 to at most `room` of a list of numbers; returns how many. Much faster than asking one by one.
 * Fails if one of them is not a number (for integers: not a whole one).
 */
static inline size_t unsync_numbers(unsync_task *t, unsync_value table, double *numbers, size_t room);
static inline size_t unsync_integers(unsync_task *t, unsync_value table, int64_t *integers, size_t room);

/* Whether two values are the same table. */
static inline int unsync_same(unsync_task *t, unsync_value one, unsync_value other);

/* ---- 4 Putting results ------------------------------------------------------------------------------------------ */

/* Each value put is one more result; inside a table it is the next element of the list. */
static inline int unsync_put_nil(unsync_task *t);
static inline int unsync_put_boolean(unsync_task *t, int value);
static inline int unsync_put_integer(unsync_task *t, int64_t value);
static inline int unsync_put_number(unsync_task *t, double value);
/* The bytes are copied. NULL, which getenv may return, fails. */
static inline int unsync_put_string(unsync_task *t, const char *bytes, size_t size);
static inline int unsync_put_text(unsync_task *t, const char *text);
/* An argument, or what is in one, as it is but for metatables: large strings are not copied, shared and cyclic tables
   stay what they are. Functions and objects fail. */
static inline int unsync_put_value(unsync_task *t, unsync_value value);

/*
 * Large results without a copy: take a buffer, fill it, put its first `size` bytes. The buffer belongs to the task
 * until it returns: put or not, it is never freed by hand. It is aligned for any type. NULL: no memory; the call fails.
 *
 *     char *pixels = unsync_alloc_bytes(t, width * height * 4);
 *     if (pixels == NULL) return UNSYNC_FAILED;
 *     size_t used = render(pixels, width, height);
 *     return unsync_put_bytes(t, pixels, used);
 *
 * After it was put the buffer must not be written any more.
 */
static inline char *unsync_alloc_bytes(unsync_task *t, size_t size);
static inline int unsync_put_bytes(unsync_task *t, char *buffer, size_t size);
/*
 * Memory that a library has allocated: `release(context)` is called once, on any thread, when nobody needs the bytes
 * any more; at once if putting them fails.
 */
static inline int unsync_put_foreign(unsync_task *t, const char *bytes, size_t size, void (*release)(void *context),
                                     void *context);

/*
 * Tables, to any depth. Values without a key make the list; unsync_key gives the next value its name.
 *
 *     unsync_begin_table(t);
 *     unsync_key(t, "path");  unsync_put_text(t, path);
 *     unsync_key(t, "sizes");
 *       unsync_begin_table(t);
 *       for (int i = 0; i < n; i++) unsync_put_integer(t, sizes[i]);
 *       unsync_end_table(t);
 *     return unsync_end_table(t);
 */
static inline int unsync_begin_table(unsync_task *t);
static inline int unsync_end_table(unsync_task *t);
static inline int unsync_key(unsync_task *t, const char *name);
static inline int unsync_key_integer(unsync_task *t, int64_t index);
/* Any other key: after this the next value put is a key, and the one behind it its value. nil and NaN are no keys. */
static inline int unsync_pair(unsync_task *t);

/* ---- 5 Failing -------------------------------------------------------------------------------------------------- */

/*
 * The call fails: awaiting its future raises an error with `code` ("ENOENT", "bad_image"; what a script tests) and
 * `message` (what a person reads; printf's format). Results put before are thrown away. Returns UNSYNC_FAILED:
 *
 *     if (file == NULL) return unsync_fail(t, "ENOENT", "%s: no such file", path);
 */
static inline int unsync_fail(unsync_task *t, const char *code, const char *format, ...) UNSYNC_FORMAT(3, 4);
/* The same for a value of errno, with its own name as the code: "what: No such file or directory". */
static inline int unsync_fail_errno(unsync_task *t, int number, const char *what);
/* Fails for argument `index`: "bad argument #1 to 'sum.add' (message)", code "argument". */
static inline int unsync_fail_arg(unsync_task *t, int index, const char *format, ...) UNSYNC_FORMAT(3, 4);
/* Whether something has failed. */
static inline int unsync_failed(unsync_task *t);

/* ---- 6 Cancellation, deadlines, progress, log, context ---------------------------------------------------------- */

/*
 * Whether the task should stop: it was cancelled, or its deadline has passed. A task that takes long asks now and then
 * (a few nanoseconds; some 30 where there is a deadline), gives back what it holds and returns UNSYNC_CANCELLED. One
 * that never asks is given up after a while: in a thread its result is thrown away when it comes, a process is killed.
 */
static inline int unsync_cancelled(unsync_task *t);
/* When it will be cancelled, in nanoseconds on the clock of unsync_now; 0: never. */
static inline uint64_t unsync_deadline(unsync_task *t);
/* Nanoseconds on a monotonic clock. */
static inline uint64_t unsync_now(unsync_task *t);
/* Milliseconds left until the deadline, for functions that take a timeout in them (poll): from 0; -1: no deadline. */
static inline int unsync_left_ms(unsync_task *t);

/* What the future's `progress` says: `done` of `total`, in any unit; `total` 0: not known. Call it as often as you
   like: it is passed on at most a hundred times a second. */
static inline void unsync_progress(unsync_task *t, double done, double total);

/* A line on stderr, in one piece, with the task's name before it. From `UNSYNC_WARN` on they are shown; the environment
   variable UNSYNC_LOG (debug, info, warn, error, off) moves that. */
enum { UNSYNC_DEBUG = 1, UNSYNC_INFO, UNSYNC_WARN, UNSYNC_ERROR };
static inline void unsync_log(unsync_task *t, int level, const char *format, ...) UNSYNC_FORMAT(3, 4);

/*
 * What the caller's context variable of that name is set to, to be read like an argument; UNSYNC_NIL where it is not set,
 * cannot cross, or has no name: a script names it by `unsync.var(default, "request_id")`. Defaults stay with the script.
 *
 *     const char *id = unsync_text(t, unsync_context(t, "request_id"));
 *
 * `name` must live as long as the value is used. Hosts older than this function do not have it: UNSYNC_HAS(t, context).
 */
static inline unsync_value unsync_context(unsync_task *t, const char *name);

/* ---- 7 The descriptor ------------------------------------------------------------------------------------------- */

/*
 * The version of all that is described here. A host loads plugins of its own version only. What is added later, at the
 * end of unsync_api and behind new flags, does not change it.
 */
enum { UNSYNC_PLUGIN_ABI = 1 };

typedef struct unsync_task_def {
  const char *name; /* letters, digits and _; unique in the plugin */
  int (*run)(unsync_task *t);
  const char *doc; /* a line: "add(a, b) -> number: the sum of two numbers"; may be NULL */
  uint32_t flags;  /* 0. A host refuses a plugin with a flag that it does not know */
} unsync_task_def;

/*
 * A call lasts as long as its function: there is no way to return first and complete it afterwards, from another thread
 * say. What waits for something slow waits in `run`, in the pool thread or the process that is there for that. Flag 1 and
 * the result -3 are kept free, so that this can change without a new ABI: today a plugin with that flag is refused.
 */

typedef struct unsync_plugin {
  uint32_t abi;        /* UNSYNC_PLUGIN_ABI; first in every version */
  uint32_t flags;      /* 0, as above */
  size_t size_bytes;   /* of this struct */
  const char *name;    /* letters, digits and _; also the name of the file: "sum" in sum.so */
  const char *version; /* of the plugin, as you like */
  const char *doc;     /* a line; may be NULL */
  const unsync_task_def *tasks;
  size_t task_count;
  size_t task_size_bytes; /* of one unsync_task_def */
  size_t api_size_bytes;  /* how much of unsync_api it relies on: a host that has less refuses it */
} unsync_plugin;

/* What a plugin relies on: all that its header has. One that asks UNSYNC_HAS before it uses what is new may define
   less, as offsetof(unsync_api, the first new member), before it includes this. */
#ifndef UNSYNC_PLUGIN_NEEDS
#define UNSYNC_PLUGIN_NEEDS sizeof(unsync_api)
#endif

/* Once in a plugin, outside any function. `tasks` is an array. */
#define UNSYNC_PLUGIN(name, version, doc, tasks)                                      \
  UNSYNC_EXTERN_C UNSYNC_PLUGIN_EXPORT const unsync_plugin unsync_plugin_descriptor;  \
  const unsync_plugin unsync_plugin_descriptor = {UNSYNC_PLUGIN_ABI,                  \
                                                  0,                                  \
                                                  sizeof(unsync_plugin),              \
                                                  name,                               \
                                                  version,                            \
                                                  doc,                                \
                                                  tasks,                              \
                                                  sizeof(tasks) / sizeof((tasks)[0]), \
                                                  sizeof((tasks)[0]),                 \
                                                  UNSYNC_PLUGIN_NEEDS};

/* ---- 8 The table behind all this -------------------------------------------------------------------------------- */

/*
 * A plugin needs no symbol of the host: every function above goes through this table, which the host hangs into the
 * task. What is new is added at its end only; UNSYNC_HAS tells whether the host at hand has a member.
 */
typedef struct unsync_api {
  uint32_t abi;
  size_t size_bytes;
  int (*arg_count)(unsync_task *t);
  void (*arg)(unsync_task *t, int index, unsync_value *value);
  int (*to_boolean)(unsync_task *t, const unsync_value *value);
  int64_t (*to_integer)(unsync_task *t, const unsync_value *value);
  double (*to_number)(unsync_task *t, const unsync_value *value);
  const char *(*to_string)(unsync_task *t, const unsync_value *value, size_t *size);
  const char *(*to_text)(unsync_task *t, const unsync_value *value);
  int (*check_table)(unsync_task *t, const unsync_value *value);
  size_t (*length)(unsync_task *t, const unsync_value *table);
  void (*element)(unsync_task *t, const unsync_value *table, int64_t index, unsync_value *value);
  void (*field)(unsync_task *t, const unsync_value *table, const char *name, unsync_value *value);
  int (*next)(unsync_task *t, unsync_cursor *cursor);
  size_t (*numbers)(unsync_task *t, const unsync_value *table, double *numbers, size_t room);
  size_t (*integers)(unsync_task *t, const unsync_value *table, int64_t *integers, size_t room);
  int (*same)(unsync_task *t, const unsync_value *one, const unsync_value *other);
  int (*put_nil)(unsync_task *t);
  int (*put_boolean)(unsync_task *t, int value);
  int (*put_integer)(unsync_task *t, int64_t value);
  int (*put_number)(unsync_task *t, double value);
  int (*put_string)(unsync_task *t, const char *bytes, size_t size);
  int (*put_value)(unsync_task *t, const unsync_value *value);
  char *(*alloc_bytes)(unsync_task *t, size_t size);
  int (*put_bytes)(unsync_task *t, char *buffer, size_t size);
  int (*put_foreign)(unsync_task *t, const void *bytes, size_t size, void (*release)(void *context), void *context);
  int (*begin_table)(unsync_task *t);
  int (*end_table)(unsync_task *t);
  int (*pair)(unsync_task *t);
  int (*fail)(unsync_task *t, const char *code, const char *format, va_list arguments);
  int (*fail_errno)(unsync_task *t, int number, const char *what);
  int (*fail_arg)(unsync_task *t, int index, const char *format, va_list arguments);
  int (*failed)(unsync_task *t);
  int (*cancelled)(unsync_task *t);
  uint64_t (*deadline)(unsync_task *t);
  uint64_t (*now)(unsync_task *t);
  int (*left_ms)(unsync_task *t);
  void (*progress)(unsync_task *t, double done, double total);
  void (*log)(unsync_task *t, int level, const char *format, va_list arguments);
  void (*context)(unsync_task *t, const char *name, unsync_value *value);
} unsync_api;

struct unsync_task {
  const unsync_api *api; /* behind it the host keeps what it needs */
};

#define UNSYNC_HAS(t, member) ((t)->api->size_bytes >= offsetof(unsync_api, member) + sizeof((t)->api->member))

static inline int unsync_arg_count(unsync_task *t) { return t->api->arg_count(t); }

static inline unsync_value unsync_arg(unsync_task *t, int index) {
  unsync_value value;
  t->api->arg(t, index, &value);
  return value;
}

static inline int unsync_boolean(unsync_task *t, unsync_value value) { return t->api->to_boolean(t, &value); }

static inline int64_t unsync_integer(unsync_task *t, unsync_value value) {
  return value.type == UNSYNC_INTEGER ? value.as.integer : t->api->to_integer(t, &value);
}

static inline double unsync_number(unsync_task *t, unsync_value value) {
  return value.type == UNSYNC_NUMBER ? value.as.number : t->api->to_number(t, &value);
}

static inline const char *unsync_string(unsync_task *t, unsync_value value, size_t *size) {
  return t->api->to_string(t, &value, size);
}

static inline const char *unsync_text(unsync_task *t, unsync_value value) { return t->api->to_text(t, &value); }

static inline int unsync_arg_boolean(unsync_task *t, int index) { return unsync_boolean(t, unsync_arg(t, index)); }
static inline int64_t unsync_arg_integer(unsync_task *t, int index) { return unsync_integer(t, unsync_arg(t, index)); }
static inline double unsync_arg_number(unsync_task *t, int index) { return unsync_number(t, unsync_arg(t, index)); }

static inline const char *unsync_arg_string(unsync_task *t, int index, size_t *size) {
  return unsync_string(t, unsync_arg(t, index), size);
}

static inline const char *unsync_arg_text(unsync_task *t, int index) { return unsync_text(t, unsync_arg(t, index)); }

static inline unsync_value unsync_arg_table(unsync_task *t, int index) {
  unsync_value value = unsync_arg(t, index);
  if (value.type != UNSYNC_TABLE) t->api->check_table(t, &value);
  return value;
}

static inline int unsync_opt_boolean(unsync_task *t, int index, int otherwise) {
  unsync_value value = unsync_arg(t, index);
  return value.type == UNSYNC_NIL ? otherwise : unsync_boolean(t, value);
}

static inline int64_t unsync_opt_integer(unsync_task *t, int index, int64_t otherwise) {
  unsync_value value = unsync_arg(t, index);
  return value.type == UNSYNC_NIL ? otherwise : unsync_integer(t, value);
}

static inline double unsync_opt_number(unsync_task *t, int index, double otherwise) {
  unsync_value value = unsync_arg(t, index);
  return value.type == UNSYNC_NIL ? otherwise : unsync_number(t, value);
}

static inline const char *unsync_opt_text(unsync_task *t, int index, const char *otherwise) {
  unsync_value value = unsync_arg(t, index);
  return value.type == UNSYNC_NIL ? otherwise : unsync_text(t, value);
}

static inline const char *unsync_type_name(int type) {
  static const char *const names[] = {"nil", "boolean", "integer", "number", "string", "table", "function", "userdata"};
  return type >= 0 && type <= UNSYNC_OBJECT ? names[type] : "?";
}

static inline size_t unsync_length(unsync_task *t, unsync_value table) { return t->api->length(t, &table); }

static inline unsync_value unsync_element(unsync_task *t, unsync_value table, int64_t index) {
  unsync_value value;
  t->api->element(t, &table, index, &value);
  return value;
}

static inline unsync_value unsync_field(unsync_task *t, unsync_value table, const char *name) {
  unsync_value value;
  t->api->field(t, &table, name, &value);
  return value;
}

static inline unsync_cursor unsync_each(unsync_value table) {
  unsync_cursor cursor;
  cursor.table = table;
  cursor.key.type = cursor.value.type = UNSYNC_NIL;
  cursor.inside[0] = cursor.inside[1] = cursor.inside[2] = 0;
  return cursor;
}

static inline int unsync_next(unsync_task *t, unsync_cursor *cursor) { return t->api->next(t, cursor); }

static inline size_t unsync_numbers(unsync_task *t, unsync_value table, double *numbers, size_t room) {
  return t->api->numbers(t, &table, numbers, room);
}

static inline size_t unsync_integers(unsync_task *t, unsync_value table, int64_t *integers, size_t room) {
  return t->api->integers(t, &table, integers, room);
}

static inline int unsync_same(unsync_task *t, unsync_value one, unsync_value other) {
  return t->api->same(t, &one, &other);
}

static inline int unsync_put_nil(unsync_task *t) { return t->api->put_nil(t); }
static inline int unsync_put_boolean(unsync_task *t, int value) { return t->api->put_boolean(t, value); }
static inline int unsync_put_integer(unsync_task *t, int64_t value) { return t->api->put_integer(t, value); }
static inline int unsync_put_number(unsync_task *t, double value) { return t->api->put_number(t, value); }

static inline int unsync_put_string(unsync_task *t, const char *bytes, size_t size) {
  return t->api->put_string(t, bytes, size);
}

static inline int unsync_put_text(unsync_task *t, const char *text) {
  size_t size = text == NULL ? 1 : 0; /* which the host refuses */
  while (text != NULL && text[size] != 0) size++;
  return t->api->put_string(t, text, size);
}

static inline int unsync_put_value(unsync_task *t, unsync_value value) { return t->api->put_value(t, &value); }
static inline char *unsync_alloc_bytes(unsync_task *t, size_t size) { return t->api->alloc_bytes(t, size); }

static inline int unsync_put_bytes(unsync_task *t, char *buffer, size_t size) {
  return t->api->put_bytes(t, buffer, size);
}

static inline int unsync_put_foreign(unsync_task *t, const char *bytes, size_t size, void (*release)(void *context),
                                     void *context) {
  return t->api->put_foreign(t, bytes, size, release, context);
}

static inline int unsync_begin_table(unsync_task *t) { return t->api->begin_table(t); }
static inline int unsync_end_table(unsync_task *t) { return t->api->end_table(t); }
static inline int unsync_pair(unsync_task *t) { return t->api->pair(t); }

static inline int unsync_key(unsync_task *t, const char *name) {
  t->api->pair(t);
  return unsync_put_text(t, name);
}

static inline int unsync_key_integer(unsync_task *t, int64_t index) {
  t->api->pair(t);
  return t->api->put_integer(t, index);
}

static inline int unsync_fail(unsync_task *t, const char *code, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  (t->api->fail)(t, code, format, arguments); /* in brackets: a test library may have a macro of that name */
  va_end(arguments);
  return UNSYNC_FAILED;
}

static inline int unsync_fail_errno(unsync_task *t, int number, const char *what) {
  return t->api->fail_errno(t, number, what);
}

static inline int unsync_fail_arg(unsync_task *t, int index, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  t->api->fail_arg(t, index, format, arguments);
  va_end(arguments);
  return UNSYNC_FAILED;
}

static inline int unsync_failed(unsync_task *t) { return t->api->failed(t); }
static inline int unsync_cancelled(unsync_task *t) { return t->api->cancelled(t); }
static inline uint64_t unsync_deadline(unsync_task *t) { return t->api->deadline(t); }
static inline uint64_t unsync_now(unsync_task *t) { return t->api->now(t); }

static inline int unsync_left_ms(unsync_task *t) { return t->api->left_ms(t); }
static inline void unsync_progress(unsync_task *t, double done, double total) { t->api->progress(t, done, total); }

static inline unsync_value unsync_context(unsync_task *t, const char *name) {
  unsync_value value;
  t->api->context(t, name, &value);
  return value;
}

static inline void unsync_log(unsync_task *t, int level, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  t->api->log(t, level, format, arguments);
  va_end(arguments);
}

#ifdef __cplusplus
}
#endif

#endif
