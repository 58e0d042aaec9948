/*
 * call: native tasks as a plugin sees them, over packets that the codec writes and reads.
 *
 * The cases are in spec/support/call_cases.lua; its function `call` runs a task of spec/support/plugins/echo.c here and
 * now. What Lua cannot say is below, with tasks of its own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <lauxlib.h>
#include <lualib.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "base/base.h"
#include "core/block.h"
#include "core/codec.h"
#include "core/error.h"
#include "core/lent.h"
#include "core/reader.h"
#include "core/tags.h"
#include "core/writer.h"
#include "exec/call.h"
#include "exec/executors.h"
#include "lua_cases.h"

#define CASES "spec/support/call_cases.lua"

static uns_registry *registry;
static uns_mailbox *mailbox; /* to which lent strings go home */
static uns_function *function;

static int set_up_all(void **state) {
  (void)state;
  const char *build = getenv("UNSYNC_BUILD");
  char directory[4096];
  snprintf(directory, sizeof directory, "%s/spec/plugins", build != NULL ? build : "build");
  registry = uns_registry_new(&(uns_registry_places){.variable = directory, .log = "info"});
  mailbox = uns_mailbox_new();
  function = uns_function_new(UNS_KIND_THREAD, "spec", "echo.spec");
  return registry == NULL || mailbox == NULL || function == NULL;
}

static int tear_down_all(void **state) {
  (void)state;
  uns_shared_unref(function);
  uns_mailbox_close(mailbox);
  uns_mailbox_unref(mailbox);
  uns_registry_free(registry);
  return 0;
}

/* ---- a Lua state, and a call from it ---- */

static void take_mail(lua_State *L) {
  for (uns_mail *mail = uns_mailbox_take(mailbox), *next; mail != NULL; mail = next) {
    next = mail->next;
    mail->deliver(mail, L); /* all that counts is that it is not NULL */
  }
}

static double last_done, last_total;
static int reports;

static void on_progress(uns_job *job) {
  uint64_t bits = atomic_load(&job->progress_done);
  memcpy(&last_done, &bits, sizeof bits);
  bits = atomic_load(&job->progress_total);
  memcpy(&last_total, &bits, sizeof bits);
  reports++;
}

/* Pushes what the job's future would give: the results, and returns their number, or an error, and returns -1. */
static int push_outcome(lua_State *L, uns_job *job) {
  if (job->outcome == UNS_OUTCOME_ERROR) {
    uns_error_push(L, job->error_code, "%s", job->error_text);
    return -1;
  }
  int top = lua_gettop(L);
  int count = uns_codec_decode(L, &job->result);
  if (count < 0) fail_msg("the result cannot be read: %s", luaL_tolstring(L, -1, NULL));
  if (job->outcome == UNS_OUTCOME_DONE) return count;
  assert_int_equal(count, 2);
  assert_true(lua_isnil(L, -1)); /* no traceback */
  lua_settop(L, top + 1);
  lua_pushstring(L, job->outcome == UNS_OUTCOME_CANCELLED ? "cancelled" : "failed");
  lua_setfield(L, -2, "outcome");
  return -1;
}

/* call({cancel =, deadline =, damage =}, "echo.task", ...) -> its results */
static int spec_call(lua_State *L) {
  static const uns_codec_names names = {"argument", 1, false};
  char *error = NULL;
  const uns_native *native = uns_registry_find(registry, luaL_checkstring(L, 2), &error);
  if (native == NULL) fail_msg("%s", error);
  uns_job *job = uns_job_new(mailbox, function);
  assert_non_null(job);
  if (uns_codec_encode(L, 3, lua_gettop(L) - 2, &names, &job->call) != UNS_OK) {
    uns_job_free(job);
    return lua_error(L);
  }
  lua_getfield(L, 1, "cancel");
  atomic_store(&job->cancel, lua_toboolean(L, -1));
  if (lua_getfield(L, 1, "deadline") == LUA_TNUMBER)
    job->deadline_ns = uns_clock_ns() + (uint64_t)(lua_tonumber(L, -1) * 1e9) + 1;
  last_done = last_total = reports = 0;
  job->progressed = on_progress;
  uns_call_run(native, job);
  assert_int_equal(job->call.size_bytes, 0); /* let go of */
  int count = push_outcome(L, job);
  uns_job_free(job);
  take_mail(L);
  return count < 0 ? lua_error(L) : count;
}

static int spec_progress(lua_State *L) {
  lua_pushnumber(L, last_done);
  lua_pushnumber(L, last_total);
  lua_pushinteger(L, reports);
  return 3;
}

static const luaL_Reg functions[] = {{"call", spec_call}, {"progress", spec_progress}, {NULL, NULL}};

static lua_State *state_new(void) {
  lua_State *L = luaL_newstate();
  assert_non_null(L);
  luaL_openlibs(L);
  uns_error_open(L);
  uns_codec_open(L);
  uns_codec_set_mailbox(L, mailbox);
  luaL_newlib(L, functions);
  lua_setglobal(L, "spec");
  lua_settop(L, 0);
  return L;
}

static void state_close(lua_State *L) {
  take_mail(L);
  assert_int_equal(uns_codec_lent(L), 0);
  lua_close(L);
}

static void runs_a_case(void **state) {
  lua_State *L = state_new();
  lua_cases_run_one(L, CASES, *state);
  state_close(L);
}

/* ---- tasks of our own ---- */

static uns_plugin plugin = {.name = "own", .version = "", .doc = "", .log_level = UNSYNC_WARN};

/* Runs `task` on what `arguments`, a Lua chunk, returns. The job is to be freed. */
static uns_job *run_own(lua_State *L, int (*task)(unsync_task *), const char *arguments) {
  static const uns_codec_names names = {"argument", 1, false};
  const uns_native native = {"task", "", task, 0, &plugin};
  uns_job *job = uns_job_new(mailbox, function);
  assert_non_null(job);
  lua_settop(L, 0);
  if (luaL_dostring(L, arguments)) fail_msg("%s", lua_tostring(L, -1));
  assert_int_equal(uns_codec_encode(L, 1, lua_gettop(L), &names, &job->call), UNS_OK);
  uns_call_run(&native, job);
  return job;
}

static const char *seen_bytes, *seen_again;
static size_t seen_size;

static int look_at_string(unsync_task *t) {
  seen_bytes = unsync_arg_string(t, 1, &seen_size);
  return unsync_put_value(t, unsync_arg(t, 1));
}

static void reads_large_strings_where_they_lie(void **state) {
  (void)state;
  lua_State *L = state_new();
  uns_job *job = run_own(L, look_at_string, "large = ('x'):rep(1000000) return large");
  lua_getglobal(L, "large");
  assert_ptr_equal(seen_bytes, lua_tostring(L, -1));
  assert_int_equal(seen_size, 1000000);
  assert_int_equal(job->outcome, UNS_OUTCOME_DONE);
  assert_true(job->result.size_bytes < 100); /* given back, it is still not copied */
  assert_int_equal(push_outcome(L, job), 1);
  assert_true(lua_rawequal(L, -1, -2));
  uns_job_free(job);
  state_close(L);
}

static int put_buffer(unsync_task *t) {
  char *buffer = unsync_alloc_bytes(t, 100000);
  assert_int_equal((uintptr_t)buffer % _Alignof(max_align_t), 0);
  memset(buffer, 'b', 100000);
  seen_bytes = buffer;
  unsync_put_bytes(t, buffer, 100000);
  unsync_put_bytes(t, buffer, 50000);
  unsync_put_bytes(t, buffer, 5);
  return unsync_put_bytes(t, buffer, 0);
}

static int put_buffer_wrong(unsync_task *t) {
  char *buffer = unsync_alloc_bytes(t, 10);
  return unsync_put_bytes(t, buffer, unsync_arg_boolean(t, 1) ? 11 : 10) || unsync_put_bytes(t, buffer + 1, 2);
}

static void puts_buffers_without_a_copy(void **state) {
  (void)state;
  lua_State *L = state_new();
  uns_job *job = run_own(L, put_buffer, "");
  assert_int_equal(job->outcome, UNS_OUTCOME_DONE);
  assert_int_equal(job->result.ref_count, 2);
  assert_ptr_equal(((uns_block *)job->result.refs[0])->bytes, seen_bytes);
  assert_ptr_equal(((uns_block *)job->result.refs[1])->bytes, seen_bytes);
  assert_int_equal(push_outcome(L, job), 4);
  for (int i = 0; i < 4; i++) {
    static const size_t sizes[] = {100000, 50000, 5, 0};
    assert_int_equal(lua_rawlen(L, i + 1), sizes[i]);
  }
  uns_job_free(job);
  job = run_own(L, put_buffer_wrong, "return true");
  assert_int_equal(push_outcome(L, job), -1);
  assert_non_null(strstr(luaL_tolstring(L, -1, NULL), "put more bytes than the buffer has"));
  uns_job_free(job);
  job = run_own(L, put_buffer_wrong, "return false");
  assert_int_equal(push_outcome(L, job), -1);
  assert_non_null(strstr(luaL_tolstring(L, -1, NULL), "not from unsync_alloc_bytes"));
  uns_job_free(job);
  state_close(L);
}

static int released;
static char foreign[100000];

static void release(void *context) {
  assert_ptr_equal(context, &released);
  released++;
}

static int put_foreign(unsync_task *t) {
  size_t size = (size_t)unsync_arg_integer(t, 1);
  if (unsync_arg_boolean(t, 2)) unsync_fail(t, "no", "failed before");
  unsync_put_foreign(t, foreign, size, release, &released);
  return unsync_put_foreign(t, foreign, 1, NULL, NULL);
}

static void gives_foreign_memory_back_once(void **state) {
  (void)state;
  lua_State *L = state_new();
  memset(foreign, 'f', sizeof foreign);
  static const struct {
    const char *arguments;
    int at_once;
  } ways[] = {{"return 100000, false", 0}, {"return 10, false", 1}, {"return 100000, true", 1}, {"return 10, true", 1}};
  for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
    released = 0;
    uns_job *job = run_own(L, put_foreign, ways[i].arguments);
    assert_int_equal(released, ways[i].at_once);
    assert_int_equal(push_outcome(L, job), i < 2 ? 2 : -1);
    uns_job_free(job);
    assert_int_equal(released, 1);
  }
  state_close(L);
}

/* What functions that have failed return. */
static int put_nothing(unsync_task *t) {
  char bytes[] = "x";
  unsync_value nothing;
  released = 0;
  switch (unsync_arg_integer(t, 1)) {
    case 1: return unsync_put_text(t, NULL);
    case 2: return unsync_put_string(t, bytes, (size_t)-1);
    case 3: return unsync_put_foreign(t, NULL, 100000, release, &released);
    case 4: return unsync_put_foreign(t, bytes, (size_t)-1, release, &released);
    case 5: return unsync_put_bytes(t, NULL, 1);
    case 6: return unsync_put_bytes(t, unsync_alloc_bytes(t, 0), (size_t)-1);
    case 7: nothing = unsync_field(t, unsync_arg(t, 2), NULL); return unsync_put_value(t, nothing);
    case 8: nothing = unsync_context(t, NULL); return unsync_put_value(t, nothing);
    case 9: unsync_begin_table(t); return unsync_key(t, NULL);
    default: return unsync_put_string(t, NULL, 0);
  }
}

static void refuses_what_is_nothing(void **state) {
  static const char *const errors[] = {"put NULL as a string",
                                       "put a negative number of bytes",
                                       "put NULL as a string",
                                       "put a negative number of bytes",
                                       "put a buffer that is not from unsync_alloc_bytes",
                                       "put more bytes than the buffer has",
                                       "asked for a field without a name",
                                       NULL,
                                       "put NULL as a string"};
  (void)state;
  lua_State *L = state_new();
  for (int i = 1; i <= 10; i++) {
    char arguments[40];
    snprintf(arguments, sizeof arguments, "return %d, {}", i);
    uns_job *job = run_own(L, put_nothing, arguments);
    const char *error = i <= 9 ? errors[i - 1] : NULL;
    assert_int_equal(push_outcome(L, job), error != NULL ? -1 : 1);
    if (error != NULL) assert_non_null(strstr(luaL_tolstring(L, -1, NULL), error));
    assert_int_equal(released, i == 3 || i == 4);
    uns_job_free(job);
  }
  state_close(L);
}

static int keep_text(unsync_task *t) {
  seen_bytes = unsync_arg_text(t, 1);
  seen_again = unsync_arg_text(t, 2);
  assert_int_equal(strlen(seen_bytes), 3);
  assert_int_equal(strlen(seen_again), 50000);
  return UNSYNC_OK;
}

static void ends_texts_with_a_zero(void **state) {
  (void)state;
  lua_State *L = state_new();
  uns_job *job = run_own(L, keep_text, "return 'abc', ('y'):rep(50000)");
  assert_int_equal(job->outcome, UNS_OUTCOME_DONE);
  uns_job_free(job);
  state_close(L);
}

static int fail_long(unsync_task *t) {
  static char text[5001];
  memset(text, 'm', 5000);
  unsync_fail(t, "a_rather_long_code_of_more_than_24_bytes", "%s", text);
  return unsync_fail(t, "second", "does not count");
}

static void cuts_no_text_short(void **state) {
  (void)state;
  lua_State *L = state_new();
  uns_job *job = run_own(L, fail_long, "");
  assert_int_equal(job->outcome, UNS_OUTCOME_FAILED);
  assert_int_equal(push_outcome(L, job), -1);
  assert_true(uns_error_is(L, -1, "a_rather_long_code_of_more_than_24_bytes"));
  lua_getfield(L, -1, "message");
  assert_int_equal(lua_rawlen(L, -1), 5000);
  uns_job_free(job);
  state_close(L);
}

static int never(unsync_task *t) {
  (void)t;
  fail_msg("must not run");
  return UNSYNC_OK;
}

static int to_be_read; /* values; tables may hold themselves in many ways */

/* Reads what there is; nothing of it may be out of bounds. */
static int64_t read_all(unsync_task *t, unsync_value value, int depth) {
  int64_t sum = 0;
  if (--to_be_read < 0) return 0;
  if (value.type == UNSYNC_STRING) {
    size_t size;
    const char *bytes = unsync_string(t, value, &size);
    for (size_t i = 0; i < size; i++) sum += bytes[i];
  }
  if (value.type == UNSYNC_TABLE && depth < 300) {
    int64_t integers[8];
    double numbers[8];
    for (unsync_cursor at = unsync_each(value); unsync_next(t, &at);)
      sum += read_all(t, at.key, depth + 1) + read_all(t, at.value, depth + 1);
    for (int64_t i = (int64_t)unsync_length(t, value) + 1; i >= 0 && i > (int64_t)unsync_length(t, value) - 3; i--)
      sum += unsync_element(t, value, i).type;
    sum += unsync_field(t, value, "name").type;
    if (depth == 0) sum += (int64_t)(unsync_numbers(t, value, numbers, 8) + unsync_integers(t, value, integers, 8));
  }
  return sum;
}

static int read_everything(unsync_task *t) {
  int64_t sum = 0;
  to_be_read = 3000;
  for (int i = 1; i <= unsync_arg_count(t); i++) sum += read_all(t, unsync_arg(t, i), 0);
  return unsync_put_integer(t, sum);
}

static int put_everything(unsync_task *t) {
  for (int i = 1; i <= unsync_arg_count(t); i++) unsync_put_value(t, unsync_arg(t, i));
  return UNSYNC_OK;
}

static const char everything[] =
    "local long = ('z'):rep(300) local t = {1, 2, 3, 4, 5, 6, 7, -1000, 70000, 1 << 40, 1.5, 2.5, 3.5, 4.5, 'a', nil, "
    "  long, name = 'n', [true] = false, [-0.5] = {}, [{}] = long, f = print, g = function() return t end} "
    "t.self = t t.list = {} for i = 1, 300 do t.list[i] = i * 1.25 end "
    "local deep = t for i = 1, 200 do deep.next = {deep, name = 'deep', other = 'other'} deep = deep.next end "
    "return t, nil, long, t.list, 'short', 1, -1.5, true, {t, t, long}";

/* Bytes that are wrong in any way give an error or some other values, never a crash. */
static void survives_damaged_packets(void **state) {
  (void)state;
  static const uns_codec_names names = {"argument", 1, false};
  static const uns_native readers[] = {{"read", "", read_everything, 0, &plugin},
                                       {"put", "", put_everything, 0, &plugin}};
  static const uns_native nobody = {"never", "", never, 0, &plugin};
  lua_State *L = state_new();
  uns_packet whole;
  uns_packet_init(&whole);
  if (luaL_dostring(L, everything)) fail_msg("%s", lua_tostring(L, -1));
  assert_int_equal(uns_codec_encode(L, 1, lua_gettop(L), &names, &whole), UNS_OK);
  unsigned seed = 12345, refused = 0, rounds = 4000;
  for (unsigned round = 0; round < rounds; round++) {
    uns_job *job = uns_job_new(mailbox, function);
    assert_int_equal(uns_packet_copy(&job->call, &whole), UNS_OK);
    unsigned changes = round == 0 ? 0 : 1 + round % 3;
    for (unsigned i = 0; i < changes; i++) {
      seed = seed * 1664525u + 1013904223u;
      size_t at = (seed >> 8) % (i % 2 == 0 ? whole.size_bytes : 400);
      seed = seed * 1664525u + 1013904223u;
      uint8_t *byte = &job->call.bytes[at];
      *byte = (uint8_t)(round % 5 == 0 ? *byte ^ 1u << (seed >> 29) : seed >> 24);
    }
    uns_call_run(&readers[round % 2], job);
    refused += job->outcome == UNS_OUTCOME_ERROR;
    if (round == 0) assert_int_equal(job->outcome, UNS_OUTCOME_DONE);
    uns_job_free(job);
  }
  assert_true(refused > rounds / 4 && refused < rounds);
  for (size_t size = 1; size < whole.size_bytes; size += 1 + size / 50) { /* cut short, in memory of that size */
    uns_job *job = uns_job_new(mailbox, function);
    assert_int_equal(uns_packet_copy(&job->call, &whole), UNS_OK);
    uint8_t *bytes = uns_malloc(size);
    memcpy(bytes, job->call.bytes, size);
    uns_free(job->call.bytes);
    job->call.bytes = bytes;
    job->call.size_bytes = job->call.capacity_bytes = size;
    if (size >= UNS_HEADER_BYTES) memset(bytes + 8, 0, 8); /* no table of names */
    uns_call_run(&nobody, job);
    assert_int_equal(job->outcome, UNS_OUTCOME_ERROR);
    assert_string_equal(job->error_code, "corrupt");
    uns_job_free(job);
  }
  uns_packet_deinit(&whole);
  state_close(L);
}

static int use_everything(unsync_task *t) {
  unsync_arg_text(t, 5);
  if (unsync_alloc_bytes(t, 10000) == NULL) return UNSYNC_FAILED;
  unsync_put_foreign(t, foreign, sizeof foreign, release, &released);
  for (int i = 0; i < 100; i++) unsync_begin_table(t);
  unsync_put_value(t, unsync_arg(t, 9));
  for (int i = 0; i < 100; i++) unsync_end_table(t);
  unsync_value list = unsync_field(t, unsync_arg(t, 1), "list");
  if (!unsync_failed(t)) unsync_text(t, unsync_element(t, list, 17));
  return UNSYNC_OK;
}

static int forget_functions(lua_State *L) { /* `everything` without what cannot be put */
  lua_pushnil(L);
  lua_setfield(L, 1, "f");
  lua_pushnil(L);
  lua_setfield(L, 1, "g");
  return 0;
}

/* Every allocation may fail: the outcome is an error, nothing leaks, and what was given away is given back. */
static void survives_failing_allocations(void **state) {
  (void)state;
  static const uns_codec_names names = {"argument", 1, false};
  static const uns_native native = {"task", "", use_everything, 0, &plugin};
  lua_State *L = state_new();
  uns_packet whole;
  uns_packet_init(&whole);
  if (luaL_dostring(L, everything)) fail_msg("%s", lua_tostring(L, -1));
  forget_functions(L);
  assert_int_equal(uns_codec_encode(L, 1, lua_gettop(L), &names, &whole), UNS_OK);
  bool reached_the_end = false;
  for (long n = 1; n < 5000 && !reached_the_end; n++) {
    uns_job *job = uns_job_new(mailbox, function);
    assert_int_equal(uns_packet_copy(&job->call, &whole), UNS_OK);
    released = 0;
    uns_alloc_fail_after(n);
    uns_call_run(&native, job);
    uns_alloc_fail_after(0);
    assert_true(job->outcome != UNS_OUTCOME_DONE);
    lua_settop(L, 0);
    assert_int_equal(push_outcome(L, job), -1);
    lua_getfield(L, 1, "code");
    if (strcmp(lua_tostring(L, -1), "ENOMEM") != 0) {
      static const char message[] = "bad argument #1 to 'own.task' (string expected for 'list[17]', got number)";
      assert_string_equal(lua_tostring(L, -1), "argument");
      /* The way there is what a message can do without. */
      reached_the_end = strcmp(luaL_tolstring(L, 1, NULL), message) == 0;
      if (!reached_the_end)
        assert_string_equal(lua_tostring(L, -1), "bad argument #1 to 'own.task' (string expected, got number)");
    }
    uns_job_free(job);
    assert_true(released <= 1);
  }
  assert_true(reached_the_end);
  uns_packet_deinit(&whole);
  state_close(L);
}

static uns_job *cancelled_job;

/* Once the task's own threads are at work. */
static void cancel_soon(void *argument) {
  (void)argument;
  while (atomic_load(&cancelled_job->progress_count) == 0) sched_yield();
  atomic_store(&cancelled_job->cancel, 1);
}

static void *watch(void *t) {
  while (!unsync_cancelled(t)) unsync_progress(t, 1, 2);
  unsync_log(t, UNSYNC_DEBUG, "not shown");
  return NULL;
}

static int wait_with_threads(unsync_task *t) {
  pthread_t threads[3];
  for (int i = 0; i < 3; i++) assert_int_equal(pthread_create(&threads[i], NULL, watch, t), 0);
  for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
  return UNSYNC_CANCELLED;
}

static void may_be_watched_from_threads_of_the_task(void **state) {
  (void)state;
  static const uns_native native = {"task", "", wait_with_threads, 0, &plugin};
  lua_State *L = state_new();
  uv_thread_t thread;
  cancelled_job = uns_job_new(mailbox, function);
  assert_int_equal(uv_thread_create(&thread, cancel_soon, NULL), 0);
  uns_call_run(&native, cancelled_job);
  uv_thread_join(&thread);
  assert_int_equal(cancelled_job->outcome, UNS_OUTCOME_CANCELLED);
  assert_int_equal(push_outcome(L, cancelled_job), -1);
  assert_true(uns_error_is(L, -1, "cancelled"));
  assert_true(atomic_load(&cancelled_job->progress_count) > 0);
  uns_job_free(cancelled_job);
  state_close(L);
}

/* What a job of a worker process, or of a state that only has the name, comes with. */
static void is_found_by_its_name(void **state) {
  (void)state;
  uns_executors *executors = NULL; /* the task is at hand: nothing is asked for */
  char *error = NULL;
  lua_State *L = state_new();
  uns_function *pid = uns_function_new(UNS_KIND_THREAD, "pid", "echo.pid");
  pid->task = uns_registry_find(registry, "echo.pid", &error);
  uns_job *job = uns_job_new(mailbox, pid);
  uns_call_native(executors, job);
  assert_int_equal(push_outcome(L, job), 1);
  assert_int_equal(lua_tointeger(L, -1), getpid());
  uns_job_free(job);
  uns_shared_unref(pid);
  state_close(L);
}

/* ---- all of them ---- */

int main(void) {
  static const struct CMUnitTest in_c[] = {
      cmocka_unit_test(reads_large_strings_where_they_lie),
      cmocka_unit_test(puts_buffers_without_a_copy),
      cmocka_unit_test(gives_foreign_memory_back_once),
      cmocka_unit_test(refuses_what_is_nothing),
      cmocka_unit_test(ends_texts_with_a_zero),
      cmocka_unit_test(cuts_no_text_short),
      cmocka_unit_test(survives_damaged_packets),
      cmocka_unit_test(survives_failing_allocations),
      cmocka_unit_test(may_be_watched_from_threads_of_the_task),
      cmocka_unit_test(is_found_by_its_name),
  };
  lua_State *L = luaL_newstate();
  luaL_openlibs(L);
  int failed = lua_cases_run("call", L, CASES, runs_a_case, in_c, sizeof in_c / sizeof in_c[0], set_up_all,
                             tear_down_all);
  lua_close(L);
  return failed;
}
